"""One-shot landmarks: points marked in one volume are found in any other of the same anatomy.

Wang, Vandersteen, Raffaelli, Guevara, Patou, Delingette: One-Shot Learning for Landmarks Detection (2021).

What is implemented of the paper:

- offline training (section 2.2, algorithm 1): a shallow 2D U-Net (section 3.2) learns to segment a structure in slices
  of the reference under random rotations and translations, with binary cross-entropy and Adam at a decreasing step
  size; it stops when the loss on the three orthogonal sets of slices of a validation volume rises;
- localisation (section 2.3, algorithm 2): the network's probabilities over the slices along three axes are multiplied
  (equation 1), their barycentre (equation 2) becomes the centre of the next crop, until it moves less than epsilon;
- orientation (section 2.3): the axes of inertia of the joint probability are laid on those of the reference's mask;
- registration (section 2.4): multi-resolution rigid, then diffeomorphic demons, of the reference's patch onto the
  target's; the landmarks are carried through both;
- the naive registration of table 1, from where the volumes lie or from their centres of intensity (`start`).

Where the paper is silent or wrong:

- algorithm 2 is printed as `while |C_old - C| < epsilon`; it must go on while the centre still moves that far;
- axes of inertia leave four proper rotations (each axis may point either way), and more where two moments are nearly
  equal. All are tried: a short rigid registration on the coarse patch from each, a long one from where the three most
  alike ended, and the highest normalised correlation wins. Mirrored poses are never tried, so left and right can be
  confused by a half turn only;
- algorithm 1 slices along one axis; so that small rotations too show the network all the views it meets online, a third
  of the slices lies across each axis, in the cyclic order of equation 1;
- the first pass of algorithm 2 looks at the whole target (a cropped one would miss a structure that lies beyond the
  crop). Where its barycentre, pulled by false positives, has no more than half of the joint probability around it, the
  crop starts at the window that holds most of it;
- how many convolutions the half-size level has (we take four, as the level above has), how the network upsamples
  (nearest), how its weights start (He et al., 2015; the last bias at the log-odds of a pixel to lie in the structure,
  without which small structures are learnt late), Delta T, Delta R, K, the batch and the decrease of the step size are
  ours, as is the scaling of intensities (`patches.Intensity`). Histograms are matched before the demons, whose sum of
  squared differences takes them to be equal. Slices that reach beyond the volume see its darkest value;
- a step size of 0.1 without normalisation layers ends in dead units (see the settings' help): smoke and demo use less.

A structure whose joint probability sums to much less than in the reference, or whose surroundings do not resemble the
reference's after registration, is not found: its points have no position, as those that come to lie outside the target.
A point's confidence is the normalised correlation, not below 0, of reference and registered target in the ball of 6
voxels around it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from medgen import prepare, registration
from medgen.bundle import Model
from medgen.case import Affine, Case, Image, Mask, Points, Segment
from medgen.cohort import Collection
from medgen.errors import UserError
from medgen.geometry import resample, sample_linear
from medgen.jobs import Run
from medgen.marked import (
    Example,
    Finite,
    Reference,
    ReferenceSettings,
    check,
    check_image,
    choose_voxel,
    make_reference,
)
from medgen.method import Config, Estimate, Kind, Method, Operation, Pool, Role, lowers_memory, paper, unit
from medgen.metrics import points as point_measures
from medgen.pace import seconds_an_update
from medgen.patches import Intensity, Vector, Volume, barycentre, fullest_window, second_moments, working_grid
from medgen.training import EMA, Best, Patience, Randomness, Training

_JOINT = 0.5**3  # joint probability of a voxel that all three views are even about
_BALL = 6  # voxels: radius of the ball in which a point's confidence is measured


class TrainConfig(Config):
    """How to train. Defaults are the paper's where it gives them."""

    patch: int = Field(
        100, ge=24, le=400, multiple_of=2, description="Side of a slice and of the registered patch",
        json_schema_extra={**paper(100, "px"), **lowers_memory()},
    )  # fmt: skip
    voxel: float = Field(
        0.0, ge=0, le=20, description="Voxel worked at; 0: the finest whose patch holds structure and landmarks",
        json_schema_extra=unit("mm"),
    )  # fmt: skip
    width: int = Field(
        64, ge=2, le=128, description="Channels of the network's full-size level", json_schema_extra=paper(64)
    )
    rotation: float = Field(
        180.0, ge=0, le=180, description="Delta R: largest turn about each axis", json_schema_extra=unit("degree")
    )
    translation: float = Field(
        10.0, ge=0, le=400, description="Delta T: largest shift along each axis", json_schema_extra=unit("px")
    )
    slices: int = Field(99, ge=3, le=999, multiple_of=3, description="K: slices of each transformed volume")
    near_share: float = Field(
        0.0, ge=0, le=1, description="Share of them placed to cross the structure", json_schema_extra=paper(0.0)
    )
    batch_size: int = Field(9, ge=1, le=999, description="Slices an update", json_schema_extra=lowers_memory())
    transforms: int = Field(1000, ge=1, le=100_000, description="Most random transforms, if the loss keeps falling")
    learning_rate: float = Field(
        0.1, gt=0, le=1, description="Adam's first step size; 0.1 kills the units of most trainings, 0.001 does not",
        json_schema_extra=paper(0.1),
    )  # fmt: skip
    halved_after: int = Field(
        100, ge=1, le=100_000, description="Transforms after which the step size is half the first"
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the running mean of the weights; 0: no mean",
        json_schema_extra=paper(0.0),
    )
    validate_every: int = Field(
        1, ge=1, le=10_000, description="Transforms between looks at the validation volume", json_schema_extra=paper(1)
    )
    validation_stride: int = Field(
        1, ge=1, le=50, description="Look at every n-th validation slice", json_schema_extra=paper(1)
    )
    patience: int = Field(
        0,
        ge=0,
        le=1000,
        description="Looks in a row without a lower loss that are put up with",
        json_schema_extra=paper(0),
    )
    intensity: Literal["volume", "reference"] = Field(
        "volume", description="Scale each volume by its own intensities, or all by the reference's (CT in HU)"
    )
    contrast: float = Field(
        0.0, ge=0, le=1, description="Largest random change of contrast and brightness", json_schema_extra=paper(0.0)
    )
    vicinity: float = Field(
        10.0, ge=0, le=500, description="How far from the structure a landmark may lie", json_schema_extra=unit("mm")
    )


class Settings(Config):
    """What a model keeps beside its config: the voxel (mm) it works at, the reference's median and spread of
    intensities, and the volume (mm^3) that the network sees of the structure in the reference."""

    reference: ReferenceSettings
    voxel: float = Field(ge=0.01, le=20)
    intensity: tuple[Finite, Annotated[float, Field(gt=0, le=1e9)]]
    mass: float = Field(gt=0, le=1e12)


class ApplyConfig(Config):
    """How to find the landmarks."""

    start: Literal["structure", "rigid", "centre-of-mass"] = Field(
        "structure", description="Find the structure first; or register only, as the volumes lie or their centres",
        json_schema_extra=paper("structure"),
    )  # fmt: skip
    epsilon: float = Field(
        1.0, gt=0, le=100, description="The search ends when the centre moves less", json_schema_extra=paper(1.0, "mm")
    )
    max_iterations: int = Field(10, ge=1, le=100, description="Most crops that are looked at")
    search_stride: int = Field(
        1, ge=1, le=10, description="Look at every n-th slice of the whole volume at first", json_schema_extra=paper(1)
    )
    rigid_iterations: int = Field(60, ge=1, le=1000, description="Most steps of the rigid registration at a level")
    demons_iterations: int = Field(
        10,
        ge=0,
        le=500,
        description="Demons' steps at full resolution, twice and four times as many below; 0: rigid only",
    )
    smoothing: float = Field(
        1.5,
        gt=0,
        le=10,
        description="Standard deviation that smooths the demons' field",
        json_schema_extra=unit("voxel"),
    )
    least_mass: float = Field(
        0.2, ge=0, le=1, description="Share of the reference's joint probability that the structure must reach"
    )
    least_similarity: float = Field(
        0.5, ge=-1, le=1, description="Correlation with the reference that the structure's surroundings must reach"
    )


# --- network


class ShallowUNet(nn.Module):
    """The 2D U-Net of section 3.2: 4 convolutions, half size with twice the channels, upsampling, concatenation, 5
    convolutions. (N, 1, rows, columns), both even -> logits of the same shape. 850 049 parameters at width 64.

    share: of pixels that lie in the structure, where the last bias starts.
    """

    def __init__(self, width: int, share: float = 0.5) -> None:
        super().__init__()
        self.full_size = _convolutions(1, width, 4)
        self.half_size = _convolutions(width, 2 * width, 4)
        last = nn.Conv2d(width, 1, 3, padding=1)
        assert last.bias is not None
        self.merged = nn.Sequential(_convolutions(3 * width, width, 4), last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.constant_(last.bias, math.log(share / (1 - share)))

    def forward(self, slices: Tensor) -> Tensor:
        """Logits."""
        full = self.full_size(slices)
        half = self.half_size(F.max_pool2d(full, 2))
        return self.merged(torch.cat((full, F.interpolate(half, scale_factor=2, mode="nearest")), dim=1))


def _convolutions(inputs: int, outputs: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(count):
        layers += [nn.Conv2d(inputs if number == 0 else outputs, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


# --- training (algorithm 1)


def random_pose(config: TrainConfig, generator: np.random.Generator) -> tuple[NDArray[np.float64], Vector]:
    """R (3, 3), from three angles U(-1, 1) Delta R about x, y, z, and T (3,) = U(-1, 1)^3 Delta T in pixels."""
    from scipy.spatial.transform import Rotation

    angles = generator.uniform(-1, 1, 3) * config.rotation
    shift = generator.uniform(-1, 1, 3) * config.translation
    return np.asarray(Rotation.from_euler("xyz", angles, degrees=True).as_matrix()), shift


def slice_points(patch: int, count: int, reach: float, share: float, generator: np.random.Generator) -> Vector:
    """(count, patch, patch, 3) places in pixels from the centre: a third of the slices across each axis.

    Rows and columns follow the cyclic order of equation 1. Slices lie at random in equal parts of the patch, a share of
    them in equal parts of what is no farther than `reach` pixels from its centre.
    """
    line = np.arange(patch) - (patch - 1) / 2
    rows, columns = np.meshgrid(line, line, indexing="ij")
    each = count // 3
    result = np.empty((count, patch, patch, 3))
    for axis in range(3):
        near = round(each * share)
        offsets = [
            ((np.arange(size) + generator.uniform(0, 1, size)) / max(1, size) - 0.5) * width
            for size, width in ((each - near, patch), (near, min(2 * reach, patch)))
        ]
        for number, offset in enumerate(np.concatenate(offsets)):
            plane = result[axis * each + number]
            plane[..., axis], plane[..., (axis + 1) % 3], plane[..., (axis + 2) % 3] = offset, rows, columns
    return result


def random_slices(example: Example, config: TrainConfig, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """K slices (K, 1, patch, patch) of the example under one random transform, and of its mask as 0 and 1."""
    rotation, shift = random_pose(config, generator)
    places = slice_points(config.patch, config.slices, example.reach, config.near_share, generator) @ rotation.T + shift
    centre = np.linalg.solve(example.volume.affine, np.append(example.centre, 1.0))[:3]
    index = torch.from_numpy((places + centre).astype(np.float32))
    order = torch.from_numpy(generator.permutation(config.slices))
    slices = sample_linear(example.volume.data[None], index, example.volume.fill)[0][:, None]
    masks = sample_linear(example.mask[None], index, 0.0)[0][:, None] >= 0.5
    if config.contrast:
        gain, bias = generator.uniform(-1, 1, 2) * config.contrast
        slices = slices * (1 + gain) + bias
    return slices[order], masks[order].float()


def slices_along(volume: Tensor, axis: int, stride: int = 1) -> Tensor:
    """(slices, 1, rows, columns) of a volume (i, j, k) across an axis, in the cyclic order of equation 1."""
    turned = volume.permute(axis, (axis + 1) % 3, (axis + 2) % 3)
    return turned[::stride][:, None]


def learning_rate_at(transform: int, config: TrainConfig) -> float:
    """Adam's step size: lr / (1 + transforms / halved_after)."""
    return config.learning_rate / (1 + transform / config.halved_after)


class Fit:
    """Algorithm 1 with its network, optimiser and random state as parts of the training engine."""

    def __init__(self, reference: Example, validation: Example, config: TrainConfig, run: Run) -> None:
        self.reference, self.config, self.run = reference, config, run
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            network = ShallowUNet(config.width, float(reference.mask.sum()) / config.patch**3)
        self.network = network.to(run.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.adam = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.random, self.best, self.patience = Randomness(run.seed), Best(), Patience(config.patience)
        self.average = EMA(self.network, config.ema)
        parts = {"unet": self.network, "adam": self.adam, "random": self.random, "average": self.average}
        self.training = Training(run, {**parts, "best": self.best, "patience": self.patience})
        self.at_once = config.batch_size * self.training.processes  # slices an update
        self.updates = math.ceil(config.slices / self.at_once)  # of each transform
        crop = validation.volume.crop(validation.centre, config.patch)
        mask = Volume(validation.mask, validation.volume.affine, 0.0).crop(validation.centre, config.patch)
        stride = config.validation_stride
        self.shown = torch.cat([slices_along(crop.data, axis, stride) for axis in range(3)])
        self.drawn = torch.cat([slices_along(mask.data, axis, stride) for axis in range(3)]) >= 0.5
        self.crop, self.files = crop, validation.files

    def fit(self) -> None:
        """Train until the validation loss rises."""
        for transform in self.training.stage("train", self.config.transforms):
            if self.patience.over:  # the steps that are left stay undone; a resumed run comes through here too
                continue
            slices, masks = random_slices(self.reference, self.config, self.random.numpy)
            for group in self.adam.param_groups:
                group["lr"] = learning_rate_at(transform, self.config)
            # A ninth of the training so far: a mean over more would still hold the weights that it started from.
            self.average.decay = min(self.config.ema, (1 + transform * self.updates) / (10 + transform * self.updates))
            losses = [
                self._update(slices[start : start + self.at_once], masks[start : start + self.at_once])
                for start in range(0, len(slices), self.at_once)
            ]
            self.run.metric("loss", float(np.mean(losses)), transform)
            if (transform + 1) % self.config.validate_every == 0 or transform + 1 == self.config.transforms:
                self._validate(transform + 1)

    def _on_device(self, slices: Tensor) -> Tensor:
        return slices.to(self.run.device).contiguous(memory_format=torch.channels_last)

    def _update(self, slices: Tensor, masks: Tensor) -> float:
        """One gradient update on this process's part of the slices; the loss on all of them."""
        part, weight = self.training.part(len(slices))
        self.network.train()
        slices, masks = self._on_device(slices[part]), self._on_device(masks[part])
        with self.training.autocast():
            logits = self.network(slices)
        loss = F.binary_cross_entropy_with_logits(logits.float(), masks)
        value = self.training.step(loss, self.adam, weight=weight)
        self.average.update(self.network)
        return value

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """BCE over the three orthogonal sets of slices of the validation volume, by the mean of the weights."""
        total, size = 0.0, self.config.batch_size
        for start in range(0, len(self.shown), size):
            slices, masks = self.shown[start : start + size], self.drawn[start : start + size].float()
            with self.training.autocast():
                logits = self.average.network(self._on_device(slices))
            total += float(F.binary_cross_entropy_with_logits(logits.float(), self._on_device(masks), reduction="sum"))
        return total / self.drawn.numel()

    def _validate(self, transform: int) -> None:
        """Look at the validation volume, note whether its loss still falls, and keep the best network."""
        loss = self.training.alone(self._validation_loss)
        self.run.metric("validation_loss", loss, transform)
        self.patience.note(self.best.offer(-loss, transform, self.average.network))
        self.run.preview("structure", self._seen, transform, files=self.files, measure={"validation loss": loss})

    def _seen(self) -> Mask:
        """Where the mean of the weights sees the structure in the validation volume."""
        joint = joint_probability(self.average.network, self.crop.data, self.run, self.config.validation_stride)
        return Mask((joint > _JOINT).to(torch.int16), self.crop.affine, [Segment(1, "structure")], "preview")


# --- localisation (equation 1, algorithm 2)


@torch.no_grad()
def joint_probability(network: nn.Module, volume: Tensor, run: Run, stride: int = 1) -> Tensor:
    """Equation 1: (i, j, k) product of the network's probabilities over the slices along the three axes.

    With a stride, every n-th slice is looked at and the probabilities between are interpolated.
    """
    network.eval()
    shape = tuple(volume.shape)
    joint = torch.ones(shape)
    for axis in range(3):
        slices = slices_along(volume, axis, stride)
        rows, columns = slices.shape[2:]
        at_once = max(1, 1_000_000 // (rows * columns))
        found = torch.empty((len(slices), rows, columns))
        for start in range(0, len(slices), at_once):
            run.check_cancelled()
            part = F.pad(slices[start : start + at_once], (0, columns % 2, 0, rows % 2), mode="replicate")
            with run.autocast():
                logits = network(part.to(run.device).contiguous(memory_format=torch.channels_last))
            found[start : start + at_once] = logits.float().sigmoid()[:, 0, :rows, :columns].cpu()
        if stride > 1:
            found = _between(found, shape[axis], stride)
        joint *= found.permute(*np.argsort((axis, (axis + 1) % 3, (axis + 2) % 3)).tolist())
    return joint


def _between(found: Tensor, count: int, stride: int) -> Tensor:
    """Every n-th slice -> all of them, linearly in between; behind the last it stays."""
    place = torch.arange(count) / stride
    low = place.floor().long()
    high = (low + 1).clamp(max=len(found) - 1)
    share = (place - low)[:, None, None]
    return found[low] * (1 - share) + found[high] * share


@dataclass
class Found:
    """Where the structure is: its centre (RAS mm), the joint probability in the last crop, the centres on the way."""

    centre: Vector
    crop: Volume
    joint: Tensor
    path: list[Vector]

    @property
    def mass(self) -> float:
        """Volume of the structure by the joint probability, mm^3."""
        return float(self.joint.sum()) * self.crop.voxel**3


def localise(network: nn.Module, target: Volume, patch: int, config: ApplyConfig, run: Run) -> Found:
    """Algorithm 2, first over the whole target, then over crops until the centre moves less than epsilon."""
    run.progress(0, config.max_iterations, "localise")
    joint = joint_probability(network, target.data, run, config.search_stride)
    path = [_first_centre(joint, target.affine, patch)]
    for iteration in range(config.max_iterations):
        run.progress(iteration, config.max_iterations, "localise")
        crop = target.crop(path[-1], patch)
        joint = joint_probability(network, crop.data, run)
        path.append(barycentre(joint, crop.affine))
        if np.linalg.norm(path[-1] - path[-2]) < config.epsilon:
            break
    run.progress(config.max_iterations, config.max_iterations, "localise")
    return Found(path[-1], crop, joint, path)


def _first_centre(joint: Tensor, affine: Affine, patch: int) -> Vector:
    """The barycentre of the whole volume; where no more than half of the joint probability lies within a patch around
    it, the middle of the window of that size that holds most."""
    centre = barycentre(joint, affine)
    probability = Volume(joint, affine, 0.0)
    if float(probability.crop(centre, patch).data.sum()) > 0.5 * float(joint.sum()):
        return centre
    window = probability.crop(fullest_window(joint, affine, patch), patch)
    return barycentre(window.data, window.affine)


# --- alignment and registration


def align_to_structure(reference: Reference, found: Found, target: Volume, config: ApplyConfig) -> registration.Rigid:
    """The rigid start from centre and axes of inertia: of the candidates, what is most alike on the coarse patch."""
    ours = second_moments(reference.mask, reference.patch.affine)
    theirs = second_moments(found.joint.where(found.joint >= _JOINT / 10, 0.0), found.crop.affine)
    factor = max(1, reference.patch.data.shape[0] // 24)
    fixed, moving = reference.patch.shrunk(factor), _around(target, found.centre, reference).shrunk(factor)
    starts = [
        registration.about(turn, reference.centre, found.centre) for turn in registration.orientations(ours, theirs)
    ]
    return registration.register_from(starts, fixed, moving, config.rigid_iterations)


def align_whole(reference: Reference, target: Volume, config: ApplyConfig) -> registration.Rigid:
    """The rigid start of plain registration: the whole volumes, coarse, from where they lie or their centres."""
    start = np.eye(4)
    if config.start == "centre-of-mass":
        start[:3, 3] = target.centre_of_intensity() - reference.intensity_centre
    factor = max(1, round(reference.overview.voxel / target.voxel))
    return registration.register_rigid(
        reference.overview, target.shrunk(factor), start, iterations=config.rigid_iterations
    )


def _around(target: Volume, centre: Vector, reference: Reference) -> Volume:
    """The cube that holds the patch however it is turned, and a margin for the registration."""
    return target.crop(centre, math.ceil(1.75 * reference.patch.data.shape[0]) + 10)


@dataclass
class Registered:
    """The reference's patch laid on the target: the map, and how alike the two are in the structure and the 6 voxels
    around it, and around each landmark."""

    warp: registration.Warp
    similarity: float
    confidence: Vector


def register(reference: Reference, target: Volume, start: Affine, config: ApplyConfig) -> Registered:
    """Multi-resolution rigid registration of the patches, then diffeomorphic demons on matched histograms."""
    fixed = reference.patch
    moving = _around(target, start[:3, :3] @ reference.centre + start[:3, 3], reference)
    rigid = registration.register_rigid(fixed, moving, start, iterations=config.rigid_iterations)
    aligned = replace(fixed, data=registration.resampled(moving, fixed, rigid.matrix), fill=target.fill)
    displacement = registration.no_displacement(fixed)
    both = registration.seen(fixed, moving, rigid.matrix)
    if config.demons_iterations and rigid.similarity > 0:
        matched = registration.match_histogram(aligned, fixed)
        matched = matched.where(torch.from_numpy(both), fixed.data)  # nothing pulls where either is unknown
        displacement = registration.register_demons(
            fixed, replace(aligned, data=matched), iterations=config.demons_iterations, smoothing=config.smoothing
        )
    still, warped = fixed.data.numpy(), registration.apply_displacement(aligned, displacement).numpy()
    near = both & (ndimage.distance_transform_edt(reference.mask.numpy() < 0.5) <= _BALL)
    likeness = registration.correlation(still[near], warped[near]) if near.any() else 0.0
    homogeneous = np.pad(reference.landmarks.positions, ((0, 0), (0, 1)), constant_values=1.0)
    indices = np.rint(np.linalg.solve(fixed.affine, homogeneous.T)[:3].T).astype(int)
    confidence = [max(0.0, registration.correlation_around(index, _BALL, still, warped)) for index in indices]
    return Registered(registration.Warp(rigid.matrix, displacement), likeness, np.array(confidence))


# --- the method

_IMAGE = Role("image", Kind.IMAGE, "The volume", reference=True)
_MASK = Role("mask", Kind.MASK, "A structure with visible borders that the landmarks lie in or next to")
_LANDMARKS = Role("landmarks", Kind.POINTS, "The landmarks in the reference")
_TARGET = Role("image", Kind.IMAGE, "The volume to find the landmarks in", reference=True)
_FOUND = Role("landmarks", Kind.POINTS, "The landmarks; those that were not found are not placed")
_STRUCTURE = Role("structure", Kind.MASK, "Where the network saw the structure", optional=True, may_be_empty=True)

_QUICK: dict[str, Any] = {
    "learning_rate": 2e-3,
    "slices": 24,
    "near_share": 0.75,
    "batch_size": 8,
    "ema": 0.98,
    "validate_every": 10,
    "patience": 4,
}
_SMOKE = {"patch": 48, "width": 8, "transforms": 60, "learning_rate": 4e-3, "validation_stride": 4}
_DEMO = {"patch": 64, "width": 16, "transforms": 400, "validation_stride": 4}


class OneShotLandmarks(Method):
    """See the module's docstring."""

    slug = "one-shot-landmarks"
    title = "Find landmarks from one example"
    sentence = "Mark points and a structure in one volume, and get the same points in other volumes."
    citation = (
        "Wang, Vandersteen, Raffaelli, Guevara, Patou, Delingette. One-Shot Learning for Landmarks Detection. Deep "
        "Generative Models, and Data Augmentation, Labelling, and Imperfections (MICCAI workshops), 2021"
    )
    url = "https://doi.org/10.1007/978-3-030-88210-5_15"
    module = "MedGenLandmarks"
    group = "Points"
    needs = "One volume with landmarks and a drawn structure, and a second volume with the structure drawn."
    limits = "The structure must look alike in all volumes and have no axis of symmetry, or landmarks may be turned."
    phantoms = ("inner-ear",)
    demo_cases = 3
    carries_patient_data = True
    operations = (
        Operation(
            "train",
            "Train",
            "Learn to see the structure from one reference.",
            TrainConfig,
            scope="collection",
            pools=(
                Pool("reference", (_IMAGE, _MASK, _LANDMARKS), "The volume with the landmarks", one_case=True),
                Pool("validation", (_IMAGE, _MASK), "Another volume, which says when to stop", one_case=True),
            ),
            outputs=(Role("model", Kind.MODEL, "The trained model, with the reference in it"),),
            tiers={"smoke": {**_QUICK, **_SMOKE}, "demo": {**_QUICK, **_DEMO}, "paper": {}},
        ),
        Operation(
            "apply",
            "Apply",
            "Find the landmarks in a volume.",
            ApplyConfig,
            inputs=(_TARGET,),
            outputs=(_FOUND, _STRUCTURE),
            needs_model=True,
            tiers={
                "smoke": {"search_stride": 2, "rigid_iterations": 30, "demons_iterations": 5},
                "demo": {"search_stride": 2},
                "paper": {},
            },
        ),
    )

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None = None) -> Case:
        """The one row of each pool -> a model with the reference in it."""
        cases = []
        for name, roles in (("reference", (_IMAGE, _MASK, _LANDMARKS)), ("validation", (_IMAGE, _MASK))):
            cases.append(prepare.load_row(collection.rows(name)[0], roles, run.log))
        return Case({"model": self.fit(cases[0], cases[1], config, run)})

    def fit(self, reference: Case, validation: Case, config: TrainConfig, run: Run) -> Model:
        """Train on cases in memory: `image`, `mask` and `landmarks` of the reference, `image` and `mask` to validate.

        Masks lie on their image's grid. Raises UserError for what `check` finds.
        """
        began = time.monotonic()
        reference = check(reference, validation, config.vicinity, run.log)
        voxel = config.voxel or choose_voxel(reference, config.patch)
        intensity = Intensity.of(reference.get("image", Image).data)
        shared = intensity if config.intensity == "reference" else None
        example = Example.of(reference, voxel, intensity)
        kept = make_reference(example, reference.get("landmarks", Points), config.patch)
        fit = Fit(example, Example.of(validation, voxel, shared), config, run)
        fit.fit()
        settings = {
            "reference": kept.settings(),
            "voxel": voxel,
            "intensity": [intensity.median, intensity.spread],
            "mass": _mass_in(kept, fit),
        }
        facts = {
            "landmarks": ", ".join(kept.landmarks.names),
            "voxel (mm)": round(voxel, 4),
            "structure (ml)": round(float(kept.mask.sum()) * voxel**3 / 1000, 3),
            "validation loss": round(-fit.best.value, 5),
            "random transforms": fit.best.step,
            "seconds": round(time.monotonic() - began, 1),
        }
        networks = {"unet": fit.best.weights, "reference": kept.tensors()}
        return Model(self.slug, networks, config.model_dump(mode="json"), settings, facts, patient_data=True)

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model | None = None) -> Case:
        """A volume -> its landmarks, and where the network saw the structure."""
        assert model is not None
        image, trained, known = case.get("image", Image), model.trained(TrainConfig), model.noted(Settings)
        check_image(image)
        reference = Reference.of(model.name, model.networks.get("reference", {}), known.reference)
        shared = Intensity(*known.intensity) if trained.intensity == "reference" else None
        target = Volume.of(image, known.voxel, shared)
        result = Case({"landmarks": _nowhere(reference.landmarks)})
        if config.start == "structure":
            network = model.network("unet", lambda: ShallowUNet(trained.width))
            network.to(run.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            found = localise(network, target, trained.patch, config, run)
            result.values["structure"] = _structure(found, image)
            share = found.mass / known.mass
            run.log(f"Crops looked at: {len(found.path) - 1}; the structure shows as {share:.0%} of the reference's.")
            if share < config.least_mass:
                run.log(f"The structure was not found in “{image.name or 'the image'}”.")
                return result
            start = align_to_structure(reference, found, target, config)
        else:
            start = align_whole(reference, target, config)
        registered = register(reference, target, start.matrix, config)
        run.log(f"Registered patch and reference correlate by {registered.similarity:.2f}.")
        if registered.similarity < config.least_similarity:
            run.log(f"“{image.name or 'the image'}” does not resemble the reference there; nothing was found.")
            return result
        result.values["landmarks"] = _placed(reference.landmarks, registered, image)
        return result

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        """Distances in mm (table 1) and, where the image is given, in its voxels: mean, median, and each landmark's;
        how many were not found; and how many pairs of mirrored names were swapped."""
        image = reference.get("image", Image) if "image" in reference else None
        try:
            return point_measures.measures(
                result.get("landmarks", Points),
                reference.get("landmarks", Points),
                None if image is None else image.affine,
            )
        except ValueError as error:
            raise UserError(f"Found and reference landmarks cannot be compared: {error}; name them alike.") from None

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Measured on this device: an update of the real network, scaled to the most transforms a training may take."""
        if isinstance(config, ApplyConfig):
            return self._estimate_apply(cases, config, run, model)
        assert isinstance(config, TrainConfig)
        reference = check(cases[0], cases[1], config.vicinity, run.log)
        voxel = config.voxel or choose_voxel(reference, config.patch)
        grids = [float(np.prod(np.asarray(case["image"].shape) * case["image"].spacing / voxel)) for case in cases]
        for case in cases:
            working_grid(case.get("image", Image), voxel)
        side = min(config.patch, 64)
        update = seconds_an_update(ShallowUNet(config.width), (4, 1, side, side), run) / (4 * side**2)
        looked = 3 * math.ceil(config.patch / config.validation_stride) / config.validate_every / 3
        pixels = (config.slices + looked) * config.patch**2
        seconds = 6 + config.transforms * pixels * (update + 1e-7) + 1e-6 * sum(grids)
        memory = 2**29 + 40 * int(sum(grids)) + 60 * config.batch_size * config.patch**2 * config.width
        note = "Training stops as soon as the validation volume says so; the time given is the most it takes."
        return Estimate(seconds, memory, 8 * config.patch**3, notes=(note,))

    def _estimate_apply(self, cases: list[Case], config: ApplyConfig, run: Run, model: Model | None) -> Estimate:
        for case in cases:
            check_image(case.get("image", Image))
        if model is None:
            return Estimate(20.0 * len(cases), 2**30, 2**20)
        trained, voxel = model.trained(TrainConfig), model.noted(Settings).voxel
        volumes = [case.get("image", Image) for case in cases]
        grids = [math.prod(working_grid(image, voxel).shape) for image in volumes]
        pixel = seconds_an_update(ShallowUNet(trained.width), (4, 1, 64, 64), run) / (4 * 64**2) / 3
        looked = sum(3 * voxels / config.search_stride + 4 * 3 * trained.patch**3 for voxels in grids)
        seconds = 4 + looked * pixel * (config.start == "structure") + len(cases) * 6e-6 * trained.patch**3
        return Estimate(seconds, 2**29 + 40 * max(grids, default=1), 2**20)


def _mass_in(reference: Reference, fit: Fit) -> float:
    """mm^3: the joint probability in the reference's own patch; UserError where the network learnt to see nothing."""
    fit.network.load_state_dict(fit.best.weights)
    mass = float(joint_probability(fit.network, reference.patch.data, fit.run).sum()) * reference.patch.voxel**3
    drawn = float(reference.mask.sum()) * reference.patch.voxel**3
    if mass < 0.02 * drawn:
        raise UserError(
            "The network did not learn to see the structure, not even in the reference; lower “learning_rate” (0.001), "
            "or raise “patience” or “transforms”."
        )
    return mass


def _nowhere(landmarks: Points) -> Points:
    count = len(landmarks.names)
    return Points(np.full((count, 3), np.nan), list(landmarks.names), np.zeros(count), "landmarks")


def _placed(landmarks: Points, registered: Registered, image: Image) -> Points:
    """The landmarks where the registration carries them; those beyond the image's voxels are not found."""
    positions = registered.warp.carry(landmarks.positions)
    index = (positions - image.affine[:3, 3]) @ np.linalg.inv(image.affine[:3, :3]).T
    inside = ((index >= -0.5) & (index <= np.array(image.shape) - 0.5)).all(axis=1)
    positions[~inside] = np.nan
    confidence = np.where(inside, registered.confidence, 0.0)
    return Points(positions, list(landmarks.names), confidence, "landmarks")


def _structure(found: Found, image: Image) -> Mask:
    """Voxels of the image where the three views together see the structure rather than not."""
    size = (image.shape[0], image.shape[1], image.shape[2])
    joint = resample(found.joint[None], found.crop.affine, size, image.affine)[0]
    return Mask((joint > _JOINT).to(torch.int16), image.affine, [Segment(1, "structure")], "structure")
