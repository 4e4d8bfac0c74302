"""Volumes seen through planes: training planes from sparse annotations, and stacks of planes that cover a volume.

A `PlaneVolume` is a volume on an isotropic working grid, with what is annotated in it; a `PlaneSampler` draws training
planes (or 3D patches) from such volumes; a `Predictor` covers one with stacks of parallel planes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medgen.contours import UNANNOTATED, AnnotatedPlane, ContourInterpolation, annotate, mean_gap
from medgen.geometry import PlaneFrame, WorkingGrid, plane_frame, random_directions, sample_linear, sample_nearest
from medgen.jobs import Run
from medgen.tiles import tiled

Autocast = Callable[[], AbstractContextManager[Any]]
Sample = tuple[Tensor, Tensor, Tensor]  # inputs (channels, ...), classes (...) and weights (...) of the pixels

_SHOWN_WEIGHT = 0.1  # of a pixel whose own plane the interpolation shows: its answer is given away
_FAR = -2  # owner of a voxel that is background only because it is far from everything drawn


def normalise(image: Tensor) -> Tensor:
    """(C, i, j, k) -> the same with each channel's 0.5th and 99.5th percentiles at -1 and 1, clipped at +-1.5."""
    channels = []
    for channel in image:
        low, high = np.percentile(channel.cpu().numpy(), (0.5, 99.5))
        channels.append(((channel - low) / max(float(high - low), 1e-6) * 2 - 1).clamp(-1.5, 1.5))
    return torch.stack(channels)


@dataclass
class Helpers:
    """What a network is told beyond the image.

    position: where each pixel lies; interpolation: signed distance of interpolated contours and distance to the
    nearest annotated plane; focus: a second image scaled to the (low, high) intensities of the structures.
    """

    position: bool = False
    interpolation: bool = False
    focus: tuple[float, float] | None = None

    def channels(self, image_channels: int, structures: int) -> int:
        """Input channels of the network."""
        images = image_channels * (1 if self.focus is None else 2)
        return images + 3 * self.position + (structures + 1) * self.interpolation


@dataclass
class PlaneVolume:
    """A volume on its isotropic working grid.

    image: (C, i, j, k) scaled intensities; labels: (i, j, k) int16, `UNANNOTATED` where unknown; owner: (i, j, k)
    int16 number of the annotated plane a voxel belongs to, -1 off the planes or when all of the volume is annotated.
    distances: signed distances in mm (structures, i, j, k) of an interpolation, one for each entry of `hidden`, the
    set of planes it was not shown.
    """

    image: Tensor
    grid: WorkingGrid
    planes: list[AnnotatedPlane] = field(default_factory=list)
    labels: Tensor | None = None
    owner: Tensor | None = None
    drawings: list[NDArray[np.int64]] = field(default_factory=list)
    hidden: list[frozenset[int]] = field(default_factory=lambda: [frozenset()])
    distances: list[Tensor] = field(default_factory=list)

    @classmethod
    def prepare(
        cls,
        image: Tensor,
        spacing: NDArray[np.float64],
        labels: Tensor | None,
        planes: list[AnnotatedPlane],
        max_voxels: int,
    ) -> PlaneVolume:
        """From an image (C, i, j, k) and, to learn from, labels (i, j, k) on some planes (with none: everywhere)."""
        grid = WorkingGrid.over(tuple(image.shape[1:]), spacing, max_voxels)
        volume = cls(normalise(grid.from_source(image)), grid, planes)
        if labels is not None and planes:
            volume.labels, volume.owner, volume.drawings = annotate(labels, planes, grid)
        elif labels is not None:
            volume.labels = grid.from_source(labels[None].to(torch.int16), "nearest")[0]
            volume.owner = torch.full(grid.shape, -1, dtype=torch.int16)
        return volume

    def index(self, points: NDArray[np.float64]) -> Tensor:
        """Grid mm -> continuous voxel index on the working grid, float32."""
        return torch.from_numpy(((points - self.grid.offset) / self.grid.spacing).astype(np.float32))

    def interpolate(self, structures: list[int], hidden: list[frozenset[int]]) -> None:
        """Fill `distances` with one interpolation for each set of planes that is hidden from it."""
        interpolation = self._interpolation(structures)
        shown = [[n for n in range(len(self.planes)) if n not in planes] for planes in hidden]
        self.hidden, self.distances = hidden, interpolation.volumes(shown)

    def _interpolation(self, structures: list[int]) -> ContourInterpolation:
        reach = 1.25 * mean_gap(self.planes, self.grid.spacing)
        return ContourInterpolation(self.planes, self.drawings, structures, self.grid, reach)

    def far_from_drawn(self, structures: list[int], hidden: frozenset[int]) -> Tensor:
        """(i, j, k) bool: unannotated voxels farther outside the interpolation of the planes not hidden than planes
        are apart."""
        assert self.labels is not None
        distances = self._interpolation(structures).volumes([[n for n in range(len(self.planes)) if n not in hidden]])
        reach = mean_gap(self.planes, self.grid.spacing)
        return (distances[0].amax(dim=0) < -reach) & (self.labels == UNANNOTATED)

    def inputs(self, index: Tensor, helpers: Helpers, variant: int) -> Tensor:
        """The network's input (channels, ...) at continuous indices (..., 3): image, focus, position, distances of
        the structures in tens of voxels, distance to the nearest plane shown in twenties."""
        image = sample_linear(self.image, index, fill=-1.0)
        channels = [image]
        if helpers.focus is not None:
            low, high = helpers.focus
            channels.append(((image - low) / (high - low) * 2 - 1).clamp(-2, 2))
        last = torch.tensor(self.grid.shape, dtype=torch.float32) - 1
        if helpers.position:
            channels.append((2 * index / last.clamp(min=1) - 1).movedim(-1, 0))
        if helpers.interpolation:
            inside = torch.minimum(index.clamp(min=0), last)
            distances = sample_linear(self.distances[variant], inside) / (10 * self.grid.spacing)
            channels.append(distances.clamp(-2, 2))
            channels.append((self._nearest_plane(index, variant) / 20).clamp(max=2)[None])
        return torch.cat(channels)

    def _nearest_plane(self, index: Tensor, variant: int) -> Tensor:
        """Distance in voxels of (..., 3) indices from the nearest plane shown to an interpolation."""
        shown = [plane.frame for number, plane in enumerate(self.planes) if number not in self.hidden[variant]]
        normals = torch.tensor(np.stack([frame.normal for frame in shown]), dtype=torch.float32)
        offsets = [float(frame.normal @ (frame.origin - self.grid.offset)) / self.grid.spacing for frame in shown]
        return (index @ normals.T - torch.tensor(offsets)).abs().amin(dim=-1)


def focus_range(volume: PlaneVolume) -> tuple[float, float]:
    """Scaled intensities of the drawn structures, 5th to 95th percentile, widened to three times that range."""
    assert volume.labels is not None
    inside = volume.image[0][volume.labels > 0].numpy()
    low, high = np.percentile(inside, (5, 95))
    reach = max(float(high - low), 0.02)
    return float(low) - reach, float(high) + reach


# --- training planes


class SamplingSettings(Protocol):
    """What a `PlaneSampler` reads of a method's config; see `multiplanar_unet.TrainConfig`."""

    @property
    def network(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def patch(self) -> int: ...
    @property
    def training_planes(self) -> int: ...
    @property
    def annotated_share(self) -> float: ...
    @property
    def axis_share(self) -> float: ...
    @property
    def foreground_share(self) -> float: ...
    @property
    def far_background(self) -> float: ...
    @property
    def flips(self) -> bool: ...
    @property
    def rotation(self) -> float: ...
    @property
    def scaling(self) -> float: ...
    @property
    def brightness(self) -> float: ...
    @property
    def contrast(self) -> float: ...
    @property
    def gamma(self) -> float: ...
    @property
    def noise(self) -> float: ...


def samples_a_batch(settings: SamplingSettings) -> int:
    """Planes of an update; of 3D patches a quarter as many (paper: 1 against 4, as many pixels in sight)."""
    return settings.batch_size if settings.network == "multi-planar" else max(1, settings.batch_size // 4)


class PlaneSampler:
    """Draws training planes (or 3D patches) with their labels and weights from annotated volumes.

    The n_t training planes are fixed by `seed`; which of them is shown, and its augmentation, are drawn from the
    generator given to `batch`. n_t = 0: the annotated planes themselves.

    Args:
        structures: label values; the k-th is class k + 1.
        excluded: (volume, plane) pairs whose pixels never count.
        far: for each volume the voxels taken as background for being far from what is drawn, or None.
    """

    def __init__(
        self,
        volumes: list[PlaneVolume],
        structures: list[int],
        helpers: Helpers,
        settings: SamplingSettings,
        excluded: set[tuple[int, int]],
        far: list[Tensor | None],
        seed: int,
    ) -> None:
        self.volumes, self.helpers, self.settings = volumes, helpers, settings
        self._lookup = torch.zeros(max(structures) + 2, dtype=torch.int64)  # label value -> class; -1 stays -1
        self._lookup[-1] = UNANNOTATED
        for number, value in enumerate(structures):
            self._lookup[value] = number + 1
        self._targets = [
            self._target(volume, {plane for other, plane in excluded if other == number}, far[number])
            for number, volume in enumerate(volumes)
        ]
        self._anchors = [self._annotated(target) for target in self._targets]
        self._usable = [number for number, (everywhere, _) in enumerate(self._anchors) if len(everywhere)]
        self._cut = [
            (number, plane)
            for number in self._usable
            for plane in range(len(volumes[number].planes))
            if (number, plane) not in excluded
        ]
        generator = np.random.default_rng(seed)
        self._planes = [self._training_plane(generator) for _ in range(settings.training_planes)]

    @staticmethod
    def _target(volume: PlaneVolume, excluded: set[int], far: Tensor | None) -> Tensor:
        """(2, i, j, k) labels and owners with the excluded planes unannotated and far voxels background."""
        assert volume.labels is not None and volume.owner is not None
        labels, owner = volume.labels.clone(), volume.owner.clone()
        for plane in excluded:
            labels[volume.owner == plane] = UNANNOTATED
        if far is not None:
            taken = far & (labels == UNANNOTATED) & (owner < 0)
            labels[taken], owner[taken] = 0, _FAR
        return torch.stack((labels, owner))

    @staticmethod
    def _annotated(target: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N, 3) indices of the annotated voxels, and of those inside a structure."""
        counts = (target[0] != UNANNOTATED) & (target[1] != _FAR)
        return torch.nonzero(counts).numpy(), torch.nonzero(counts & (target[0] > 0)).numpy()

    def _anchor(self, generator: np.random.Generator, number: int) -> NDArray[np.float64]:
        """Grid mm of a random annotated voxel, inside a structure with the chance that the settings give."""
        everywhere, inside = self._anchors[number]
        wanted = generator.random() < self.settings.foreground_share
        chosen = inside if len(inside) and wanted else everywhere
        grid = self.volumes[number].grid
        return np.asarray(chosen[generator.integers(len(chosen))] * grid.spacing + grid.offset)

    def _training_plane(self, generator: np.random.Generator) -> tuple[int, PlaneFrame]:
        """A volume and a random plane through one of its annotated voxels: it cuts that voxel's annotated plane."""
        number = self._usable[int(generator.integers(len(self._usable)))]
        origin = self._anchor(generator, number)
        normal = random_directions(1, generator)[0]
        if generator.random() < self.settings.axis_share:
            normal = np.eye(3)[int(generator.integers(3))]
        return number, plane_frame(origin, normal)

    def _choose(self, generator: np.random.Generator) -> tuple[int, PlaneFrame]:
        """A volume and the plane of one training sample, its origin near where the window is centred."""
        annotated = self._cut and (not self._planes or generator.random() < self.settings.annotated_share)
        if not annotated:
            if not self._planes:
                return self._training_plane(generator)
            return self._planes[int(generator.integers(len(self._planes)))]
        number, plane = self._cut[int(generator.integers(len(self._cut)))]
        frame = self.volumes[number].planes[plane].frame
        anchor = self._anchor(generator, number)
        return number, plane_frame(anchor - frame.distance(anchor) * frame.normal, frame.normal)

    def _points(self, frame: PlaneFrame, pixel: float, generator: np.random.Generator) -> NDArray[np.float64]:
        """Positions (rows, columns, 3) of a window on the plane, or (i, j, k, 3) of a patch: moved, turned, scaled."""
        settings = self.settings
        flat = settings.network == "multi-planar"
        side = settings.window if flat else settings.patch
        angle = np.deg2rad(generator.uniform(-settings.rotation, settings.rotation))
        pixel = pixel * float(np.exp(generator.uniform(-settings.scaling, settings.scaling)))
        mirrored = np.where(generator.random(2) < 0.5 * settings.flips, -1.0, 1.0)
        shift = generator.uniform(-0.35, 0.35, size=2) * side * pixel
        u = mirrored[0] * (np.cos(angle) * frame.u + np.sin(angle) * frame.v)
        v = mirrored[1] * (np.cos(angle) * frame.v - np.sin(angle) * frame.u)
        origin = frame.origin + shift[0] * frame.u + shift[1] * frame.v
        points = PlaneFrame(origin, u, v, frame.normal).points((side, side), pixel)
        if flat:
            return points
        depth = (np.arange(side) - (side - 1) / 2 + generator.uniform(-0.35, 0.35) * side) * pixel
        return points[:, :, None, :] + depth[:, None] * frame.normal

    def batch(self, generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (N, channels, ...), classes (N, ...) int64 with `UNANNOTATED`, and weights (N, ...) of the pixels."""
        return stacked([make() for make in self.draw(samples_a_batch(self.settings), generator)])

    def draw(self, count: int, generator: np.random.Generator) -> list[Callable[[], Sample]]:
        """All random numbers of so many samples; a function for each that makes it: what takes the time."""
        return [self._draw(generator) for _ in range(count)]

    def _draw(self, generator: np.random.Generator) -> Callable[[], Sample]:
        number, frame = self._choose(generator)
        volume = self.volumes[number]
        points = self._points(frame, volume.grid.spacing, generator)
        variant = int(generator.integers(len(volume.hidden)))
        images = volume.image.shape[0] * (1 if self.helpers.focus is None else 2)
        change = self._augmentation((images, *points.shape[:-1]), generator)

        def make() -> Sample:
            index = volume.index(points)
            inputs = volume.inputs(index, self.helpers, variant)
            inputs[:images] = change(inputs[:images])
            labels, owner = sample_nearest(self._targets[number], index, fill=UNANNOTATED).long()
            weights = torch.ones(labels.shape)
            if volume.distances:
                hidden = torch.tensor(sorted(volume.hidden[variant]), dtype=torch.int64)
                weights = torch.where(torch.isin(owner, hidden), 1.0, _SHOWN_WEIGHT)
            weights[owner == _FAR] = self.settings.far_background
            weights[labels == UNANNOTATED] = 0.0
            return inputs, self._lookup[labels], weights

        return make

    def _augmentation(self, shape: tuple[int, ...], generator: np.random.Generator) -> Callable[[Tensor], Tensor]:
        """Random brightness, contrast, gamma and noise for scaled intensities of a shape."""
        settings = self.settings
        brightness = generator.uniform(-settings.brightness, settings.brightness)
        contrast = 1 + generator.uniform(-settings.contrast, settings.contrast)
        gamma = float(np.exp(generator.uniform(-settings.gamma, settings.gamma)))
        deviation = generator.uniform(0, settings.noise)
        noise = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

        def change(image: Tensor) -> Tensor:
            unit = ((image + 2) / 4).clamp(0, 1) ** gamma
            return (unit * 4 - 2) * contrast + brightness + deviation * noise

        return change


def stacked(samples: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    """Samples' inputs, classes and weights as batches."""
    inputs, classes, weights = zip(*samples, strict=True)
    return torch.stack(inputs), torch.stack(classes), torch.stack(weights)


# --- prediction planes


def orientation_matrices(count: int, directions: str, seed: int) -> list[NDArray[np.float64]]:
    """K (3, 3) matrices whose columns are rows, columns and normal of prediction planes.

    directions "axes": across the third, second, first volume axis, then random ones; "random": all random.
    """
    frames = [plane_frame(np.zeros(3), np.eye(3)[axis]) for axis in (2, 1, 0)] if directions == "axes" else []
    generator = np.random.default_rng(seed)
    while len(frames) < count:
        frames.append(plane_frame(np.zeros(3), random_directions(1, generator)[0]))
    return [np.stack((frame.u, frame.v, frame.normal), axis=1) for frame in frames[:count]]


def oriented_grid(
    shape: tuple[int, int, int], matrix: NDArray[np.float64], multiple: int
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """A stack of parallel planes, one voxel apart, that holds every voxel of a volume of that shape.

    Returns its (depth, rows, columns), rows and columns multiples of `multiple`, and the continuous index of its
    centre in the volume. Planes across an axis have their pixels on voxels.
    """
    extent = np.abs(matrix.T) @ (np.asarray(shape) - 1)
    needed = np.ceil(extent - 1e-6).astype(int) + 1
    padded = -(-needed // multiple) * multiple
    centre = (np.asarray(shape) - 1) / 2
    uneven = (padded[:2] - needed[:2]) % 2 / 2
    return (int(needed[2]), int(padded[0]), int(padded[1])), centre + matrix[:, :2] @ uneven


def output_channels(structures: list[int]) -> int:
    """One for one structure (logistic, as in the paper), else one each and the background (softmax)."""
    return 1 if len(structures) == 1 else len(structures) + 1


def logits_of(network: nn.Module, inputs: Tensor, prior: float, structures: int) -> Tensor:
    """The network's logits plus `prior` for every two voxels of the interpolation's signed distance.

    The distances are the channels before the last of the inputs, in tens of voxels (`PlaneVolume.inputs`).
    """
    logits = network(inputs).float()
    if prior == 0:
        return logits
    distances = prior * 5 * inputs[:, -1 - structures : -1]
    background = logits.shape[1] - structures
    return torch.cat((logits[:, :background], logits[:, background:] + distances), dim=1)


class Predictor:
    """A network with what it needs to predict a volume: its helpers, the prior, the structures, and for a 3D network
    the side of its patches (0: a 2D network, which sees planes)."""

    def __init__(
        self, network: nn.Module, helpers: Helpers, prior: float, structures: list[int], patch: int = 0
    ) -> None:
        self.network, self.helpers, self.structures, self.patch = network, helpers, structures, patch
        self.prior = prior if helpers.interpolation else 0.0

    @torch.inference_mode()
    def mean(
        self, volume: PlaneVolume, variant: int, matrices: list[NDArray[np.float64]], run: Run, autocast: Autocast
    ) -> Tensor:
        """Mean probabilities (outputs, *grid.shape) over K orientations (`orientation_matrices`); a 3D network's
        over patches that overlap by half."""
        self.network.eval()
        if self.patch:
            return self._patches(volume, variant, run, autocast)
        total = torch.zeros((output_channels(self.structures), *volume.grid.shape))
        for number, matrix in enumerate(matrices):
            run.check_cancelled()
            run.progress(number, len(matrices), "predict")
            total += self._orientation(volume, variant, matrix, run, autocast)
        run.progress(len(matrices), len(matrices), "predict")
        return total / len(matrices)

    def _probabilities(self, inputs: Tensor, run: Run, autocast: Autocast) -> Tensor:
        layout = torch.channels_last if inputs.ndim == 4 else torch.channels_last_3d
        with autocast():
            logits = logits_of(
                self.network, inputs.to(run.device).contiguous(memory_format=layout), self.prior, len(self.structures)
            )
        return (logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)).cpu()

    def _orientation(
        self, volume: PlaneVolume, variant: int, matrix: NDArray[np.float64], run: Run, autocast: Autocast
    ) -> Tensor:
        """Probabilities from one stack of parallel planes, turned back to the working grid."""
        shape, centre = oriented_grid(volume.grid.shape, matrix, 16)
        axes, middle = torch.from_numpy(matrix.astype(np.float32)), torch.from_numpy(centre.astype(np.float32))
        rows, columns = (torch.arange(size) - (size - 1) / 2 for size in shape[1:])
        flat = middle + rows[:, None, None] * axes[:, 0] + columns[None, :, None] * axes[:, 1]
        predicted = torch.empty((output_channels(self.structures), *shape))
        planes = max(1, 300_000 // (shape[1] * shape[2]))
        for start in range(0, shape[0], planes):
            run.check_cancelled()
            depths = torch.arange(start, min(start + planes, shape[0])) - (shape[0] - 1) / 2
            index = flat + depths[:, None, None, None] * axes[:, 2]
            inputs = volume.inputs(index, self.helpers, variant).movedim(1, 0)
            predicted[:, start : start + planes] = self._probabilities(inputs, run, autocast).movedim(1, 0)
        result = torch.empty((predicted.shape[0], *volume.grid.shape))
        half = (torch.tensor(shape, dtype=torch.float32) - 1) / 2
        across = [torch.arange(size, dtype=torch.float32) for size in volume.grid.shape]
        for start in range(0, volume.grid.shape[0], 16):
            voxels = torch.stack(torch.meshgrid(across[0][start : start + 16], *across[1:], indexing="ij"), dim=-1)
            local = (voxels - middle) @ axes
            index = torch.stack((local[..., 2], local[..., 0], local[..., 1]), dim=-1) + half
            result[:, start : start + 16] = sample_linear(predicted, torch.minimum(index.clamp(min=0), 2 * half))
        return result

    def _patches(self, volume: PlaneVolume, variant: int, run: Run, autocast: Autocast) -> Tensor:
        """Probabilities of a 3D network: patches that overlap by half, averaged."""
        return tiled(
            lambda inputs: self._probabilities(inputs, run, autocast),
            _PatchReader(volume, self.helpers, variant),
            window=(self.patch, self.patch, self.patch),
            overlap=0.5,
            channels=output_channels(self.structures),
            progress=lambda done, total: run.progress(done, total, "predict"),
        )


@dataclass
class _PatchReader:
    """The inputs of a 3D network, made patch by patch (`tiles.Reader`)."""

    volume: PlaneVolume
    helpers: Helpers
    variant: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.volume.grid.shape

    def __call__(self, start: tuple[int, int, int], window: tuple[int, int, int]) -> Tensor:
        across = [first + torch.arange(side, dtype=torch.float32) for first, side in zip(start, window, strict=True)]
        return self.volume.inputs(
            torch.stack(torch.meshgrid(*across, indexing="ij"), dim=-1), self.helpers, self.variant
        )


def fuse(mean: Tensor, distances: Tensor | None, weight: float, voxel: float) -> Tensor:
    """Mean probabilities (1 or structures + 1, ...) -> logits against background (structures, ...), plus `weight` for
    every two voxels of the interpolation's signed distance in mm."""
    if mean.shape[0] == 1:
        logits = torch.logit(mean.clamp(1e-4, 1 - 1e-4))
    else:
        clamped = mean.clamp(min=1e-4)
        logits = clamped[1:].log() - clamped[:1].log()
    if distances is not None and weight > 0:
        logits = logits + weight * (distances / (2 * voxel)).clamp(-8, 8)
    return logits
