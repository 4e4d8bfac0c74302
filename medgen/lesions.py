"""Volumes in which lesions are marked as spheres: samples of them anywhere, places that keep their distance, windows
on a working grid, and the connected components of a map of probabilities as candidates. All positions are RAS mm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medgen.case import Affine, Image, Points, Sphere
from medgen.errors import UserError
from medgen.geometry import WorkingGrid, sample_linear
from medgen.jobs import Run
from medgen.metrics.froc import Froc, adam_counts, froc_at, inside_spheres
from medgen.patches import Vector, antialiased, grid_affine, working_grid
from medgen.tiles import Index, tiled
from medgen.training import placed

_COUNTED = 2_000_000  # voxels at most that percentiles are taken over
_AT_ONCE = 2**17  # voxels of windows looked at together: small windows alone are slower, on a CPU too


@dataclass
class MarkedVolume:
    """A volume to take samples of. data: (i, j, k) float16 in [0, 1] on its own grid; lesions: spheres, RAS mm."""

    data: Tensor
    affine: Affine
    lesions: list[Sphere] = field(default_factory=list)

    @classmethod
    def of(cls, image: Image, lesions: list[Sphere], voxel: float) -> MarkedVolume:
        """Its intensities scaled by their lowest and highest, and smoothed for a coarser `voxel` (mm)."""
        values = image.data[0].float()
        low, high = values.min(), values.max()
        scaled = antialiased((values - low) / (high - low).clamp(min=1e-12), image.spacing, voxel)
        return cls(scaled.half(), image.affine, lesions)

    def look(self, places: Vector) -> Tensor:
        """Intensities (…) float32 at places (…, 3) RAS mm, linear between voxels; 0 outside the volume."""
        index = torch.from_numpy((places - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T)
        shape = torch.tensor(self.data.shape)
        lowest, highest = torch.aminmax(index.reshape(-1, 3), dim=0)
        first = lowest.floor().long().clamp(min=0).minimum(shape - 1)
        last = (highest.ceil().long() + 1).maximum(first + 1).minimum(shape)
        near = self.data[tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))].float()
        return sample_linear(near[None], index - first, 0.0)[0]

    def inside(self, places: Vector) -> Tensor:
        """(…) bool: which places (…, 3) RAS mm lie in a lesion."""
        found = np.zeros(places.shape[:-1], dtype=bool)
        for sphere in self.lesions:
            offsets = places - sphere.centre
            found |= np.einsum("...a,...a->...", offsets, offsets) <= sphere.radius**2
        return torch.from_numpy(found)

    def percentiles(self, *shares: float) -> list[float]:
        """Intensities below which so many per cent of the voxels lie."""
        return [float(value) for value in np.percentile(self._some(), shares)]

    def brightness(self, sphere: Sphere) -> float:
        """Per cent of the volume that is no brighter than the brightest voxel of a sphere."""
        steps = np.linspace(-sphere.radius, sphere.radius, 9)
        offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
        within = offsets[np.square(offsets).sum(axis=1) <= sphere.radius**2 + 1e-9]
        return float(100 * np.mean(self._some() <= float(self.look(within + sphere.centre).max())))

    def _some(self) -> NDArray[np.float32]:
        """Every n-th voxel."""
        return self.data.flatten()[:: max(1, self.data.numel() // _COUNTED)].float().numpy()


def check_marked(image: Image, lesions: Sequence[Sphere], noun: str) -> None:
    """UserError for an image of several channels, and for a lesion, called `noun`, whose centre lies outside it."""
    name = image.name or "the image"
    if image.data.shape[0] != 1:
        raise UserError(
            f"“{name}” has {image.data.shape[0]} channels, but {noun}s are sought in one; choose or extract one."
        )
    for sphere in lesions:
        index = np.linalg.solve(image.affine, np.append(sphere.centre, 1.0))[:3]
        if ((index < -0.5) | (index > np.array(image.shape) - 0.5)).any():
            whose = f"The {noun} “{sphere.name}”" if sphere.name else f"One {noun}"
            raise UserError(f"{whose} lies outside “{name}”; mark it in that image, or remove its line.")


def spaced(places: Vector, count: int, apart: float, taken: Sequence[Vector]) -> list[Vector]:
    """The first `count` of places (n, 3), or as many as there are, each `apart` or more from all `taken` ones and from
    those before it."""
    left = places
    for place in taken:
        left = left[np.square(left - place).sum(axis=1) >= apart**2]
    found: list[Vector] = []
    while len(found) < count and len(left):
        found.append(left[0].copy())  # a view would keep all of `left`
        left = left[1:][np.square(left[1:] - left[0]).sum(axis=1) >= apart**2]
    return found


@dataclass
class Windows:
    """A volume read window by window on its working grid, with `margin` voxels more on each side.

    core: what the windows give, voxels along each axis. The grid ends with whole ones, so that none overlap.
    """

    source: MarkedVolume
    grid: WorkingGrid
    core: int
    margin: int

    @property
    def shape(self) -> Index:
        """Voxels of the working grid, and those beyond it that fill the last windows."""
        i, j, k = (math.ceil(size / self.core) * self.core for size in self.grid.shape)
        return i, j, k

    def __call__(self, start: Index, window: Index) -> Tensor:
        """(1, window + twice the margin along each axis) from voxel `start` less the margin on."""
        axes = [
            np.arange(first - self.margin, first + size + self.margin)
            for first, size in zip(start, window, strict=True)
        ]
        index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        affine = grid_affine(self.grid, self.source.affine)
        return self.source.look(index @ affine[:3, :3].T + affine[:3, 3])[None]


def window_side(side: int, margin: int) -> int:
    """The side of windows, voxels; UserError, in the words of the settings “window” and “margin”, where two margins
    leave nothing of it."""
    if side <= 2 * margin:
        raise UserError(
            f"Setting “margin” = {margin} leaves nothing of a window of {side} voxels; lower it or raise “window”."
        )
    return side


def windows_over(grid: WorkingGrid, core: int) -> int:
    """How many windows look at a working grid."""
    return math.prod(math.ceil(size / core) for size in grid.shape)


def look_through(
    network: nn.Module, source: MarkedVolume, grid: WorkingGrid, side: int, margin: int, skip: float, run: Run
) -> tuple[Tensor, int, int]:
    """Probabilities (i, j, k) of a working grid, how many windows were skipped, and how many there are.

    Windows of `side` voxels overlap by 2 `margin`, and each gives its middle alone. One whose middle is all darker than
    percentile `skip` of the volume is not looked at and has probability 0; with 0 none is.
    network: (N, 1, side, side, side) -> logits of that shape.
    """
    placed(network, run, torch.channels_last_3d).eval()
    core = side - 2 * margin
    inner = (..., *(slice(margin, margin + core),) * 3)
    level = source.percentiles(skip)[0] if skip else -1.0
    skipped = 0

    def middle(windows: Tensor) -> Tensor:
        with run.autocast():
            logits = network(windows.contiguous(memory_format=torch.channels_last_3d)).float()
        return torch.sigmoid(logits)[inner]

    def dark(window: Tensor) -> bool:
        nonlocal skipped
        is_dark = bool(window[inner].max() < level)
        skipped += is_dark
        return is_dark

    found = tiled(
        middle,
        Windows(source, grid, core, margin),
        window=(core, core, core),
        overlap=0.0,
        skip=dark,
        batch=max(1, _AT_ONCE // side**3),
        device=run.device,
        progress=lambda done, total: run.progress(done, total, "apply"),
    )
    i, j, k = grid.shape
    return found[0, :i, :j, :k], skipped, windows_over(grid, core)


def components(found: Tensor, affine: Affine, threshold: float, name: str) -> tuple[Points, list[Sphere]]:
    """Connected components of the voxels at or above a threshold, surest first: centres of gravity with the highest
    probability as confidence, and spheres of their volumes, called `name` 1, 2, …"""
    from scipy import ndimage

    above = (found >= threshold).numpy()
    labels, count = ndimage.label(above, np.ones((3, 3, 3)))
    index = np.argwhere(above)
    of = labels[above] - 1
    sizes = np.bincount(of, minlength=count)
    middles = [np.bincount(of, index[:, axis], count) / np.maximum(sizes, 1) for axis in range(3)]
    centres = np.stack(middles, axis=1) @ affine[:3, :3].T + affine[:3, 3]
    surest = np.zeros(count)
    np.maximum.at(surest, of, found[torch.from_numpy(above)].double().numpy())
    radii = np.cbrt(sizes * abs(np.linalg.det(affine[:3, :3])) * 3 / (4 * np.pi))
    order = np.argsort(-surest, kind="stable")
    names = [f"{name} {number + 1}" for number in range(count)]
    spheres = [Sphere(centres[n], float(radii[n]), name) for n, name in zip(order, names, strict=True)]
    return Points(centres[order], names, surest[order], f"{name}s"), spheres


def free_response(maps: Iterable[tuple[Tensor, Affine, Sequence[Sphere]]], thresholds: Sequence[float]) -> Froc:
    """The FROC curve of maps of probabilities, each with its affine and the lesions that are there: the candidates are
    the connected components at each threshold, from the strictest on."""
    counts = [
        [adam_counts(inside_spheres(components(found, affine, one, "")[0].positions, lesions)) for one in thresholds]
        for found, affine, lesions in maps
    ]
    return froc_at(thresholds, list(zip(*counts, strict=True)))


def curve_over(
    network: nn.Module,
    volumes: Sequence[MarkedVolume],
    voxel: float,
    side: int,
    margin: int,
    thresholds: Sequence[float],
    run: Run,
) -> Froc:
    """The FROC curve of a network over whole volumes, looked through in windows at `voxel` mm, none of them skipped."""
    maps = []
    for volume in volumes:
        grid = working_grid(Image(volume.data[None], volume.affine), voxel)
        found, _, _ = look_through(network, volume, grid, side, margin, 0.0, run)
        maps.append((found, grid_affine(grid, volume.affine), volume.lesions))
    return free_response(maps, thresholds)
