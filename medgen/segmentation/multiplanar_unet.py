"""Multi-planar U-Net: from a few annotated slices to a whole segmented volume.

Laprade, Perslev, Sporring: How Few Annotations are Needed for Segmentation Using a Multi-planar U-Net? (2021), on the
multi-planar U-Net of Perslev et al. (MICCAI 2019) and the 3D U-Net of Cicek et al. (MICCAI 2016).

What is implemented of the paper (section 2): n_a annotation planes are cut by n_t random training planes, which
therefore carry labels along lines only; images are sampled trilinearly, labels to the nearest; a 2D U-Net is trained
with a cross-entropy masked to annotated pixels (n_t = 0: on the annotation planes themselves); augmentation by flips,
rotation, scaling, brightness, contrast, gamma and noise; Adam, 22 400 updates of 4 planes; the best model on held-out
annotation planes, half as many as train. Prediction: K orientations, each covering every voxel once with parallel
planes; mean of the K probability volumes; threshold. The 3D U-Net baseline learns from patches of 64^3.

Where the published code (perslev/MultiPlanarUNet) differs we follow the paper: batch normalisation after every
convolution (31 044 289 parameters at base width 64), plain mean instead of a learned fusion, Adam 1e-5 with epsilon
1e-7, batches of 4, no elastic deformation. The code has no sparse annotation. The paper gives neither the strengths
of its augmentations nor the size of a plane nor the scaling of intensities: ours stand in the config and in
`planes.normalise`.

Beyond the paper, for learning from one volume and segmenting that same volume (`auto` settings):

- position channels: three inputs say where in the volume a pixel lies, in [-1, 1]; a further one shows the image
  scaled to the intensities of what is drawn;
- interpolation: the signed distance s (mm) of contours interpolated between annotated planes, and the distance to the
  nearest of them, are further inputs, and the network's logit is added to a s / (2 voxels): it learns where the
  interpolation is wrong. While training, groups of planes are hidden from the interpolation in turn and the loss
  counts their pixels, so that the network never learns to copy an answer it is shown. The prediction is
  logit(mean P_k) + w s / (2 voxels), with a weight w chosen on annotated planes held out from all training;
- far background: voxels farther outside the interpolated contours than the mean gap between planes count, little, as
  background, because nobody draws slices where there is nothing to see;
- the held-out planes are trained on too, in a second stage, once w is chosen.

Several processes (docs/several-gpus.md) share the planes of an update out, and the loss counts every annotated pixel as
in one process; but batch normalisation sees each process's own planes, so that the model comes out slightly otherwise
than from one process with the whole batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Case, Image, Mask, Plane, Segment, renumber, unite_segments
from medgen.cohort import Collection
from medgen.contours import (
    UNANNOTATED,
    AnnotatedPlane,
    annotated_voxels,
    infer_annotated_slices,
    labels_from_distances,
    looks_sparse,
    random_planes,
    without_islands,
)
from medgen.errors import UserError
from medgen.geometry import plane_in_grid
from medgen.io import MAX_LABEL, MAX_SEGMENTS
from medgen.jobs import Run
from medgen.method import Config, Estimate, Kind, Method, Operation, Pool, Role, lowers_memory, paper
from medgen.metrics.overlap import dice, mean_dice
from medgen.nn.unet import UNet, parameter_count
from medgen.pace import seconds_an_update
from medgen.planes import (
    Helpers,
    PlaneSampler,
    PlaneVolume,
    Predictor,
    focus_range,
    fuse,
    logits_of,
    orientation_matrices,
    output_channels,
    samples_a_batch,
    stacked,
)
from medgen.training import EMA, Best, Randomness, Training

Choice = Literal["auto", "on", "off"]
Share = Annotated[float, Field(ge=0, le=1)]
_WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)  # tried for the interpolation, per 2 voxels of signed distance


class TrainConfig(Config):
    """How to train. Defaults are the paper's."""

    network: Literal["multi-planar", "3d-unet"] = Field(
        "multi-planar", description="2D network on planes, or the 3D U-Net baseline"
    )
    annotation: Literal["auto", "slices", "whole"] = Field(
        "auto", description="Without planes: are masks drawn on slices or whole? auto looks at them"
    )
    annotation_planes: int = Field(
        0, ge=0, le=512, description="n_a: random planes kept of whole masks, to study sparse annotation; 0: all"
    )
    training_planes: int = Field(
        512, ge=0, le=100_000, description="n_t: random planes that cut the annotated ones; 0: those themselves",
        json_schema_extra=paper(512),
    )  # fmt: skip
    updates: int = Field(22400, ge=1, le=1_000_000, description="Gradient updates", json_schema_extra=paper(22400))
    batch_size: int = Field(
        4,
        ge=1,
        le=256,
        description="Planes an update (3D patches: one in four of them)",
        json_schema_extra={**paper(4), **lowers_memory()},
    )
    base_width: int = Field(
        64,
        ge=4,
        le=128,
        description="Channels of the network's first level",
        json_schema_extra={**paper(64), **lowers_memory()},
    )
    window: int = Field(
        256, ge=16, le=1024, multiple_of=16, description="Side of a training plane",
        json_schema_extra={"unit": "px", **lowers_memory()},
    )  # fmt: skip
    # Below 24, three poolings leave less than a kernel of 3: torch 2.13's bf16 gradients are wrong there on a CPU.
    patch: int = Field(
        64,
        ge=24,
        le=256,
        multiple_of=8,
        description="Side of a 3D U-Net's patch",
        json_schema_extra=paper(64, "voxel"),
    )
    max_voxels: int = Field(
        64_000_000,
        ge=10_000,
        le=10**10,
        description="Most voxels of the isotropic grid that is worked on",
        json_schema_extra=lowers_memory(),
    )
    learning_rate: float = Field(1e-5, gt=0, le=0.1, description="Adam's step size", json_schema_extra=paper(1e-5))
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="Step size over the training", json_schema_extra=paper("constant")
    )
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of the running mean of the weights; 0: no mean")
    validation_share: float = Field(
        1 / 3, ge=0, le=0.5, description="Share of the annotated planes held out", json_schema_extra=paper(1 / 3)
    )
    validate_every: int = Field(400, ge=1, le=1_000_000, description="Updates between looks at the held-out planes")
    refit: float = Field(
        0.0, ge=0, lt=1, description="Share of the updates, at the end, that learn from the held-out planes too"
    )
    annotated_share: float = Field(
        0.0, ge=0, le=1, description="Share of a batch that shows annotated planes", json_schema_extra=paper(0.0)
    )
    axis_share: float = Field(
        0.0, ge=0, le=1, description="Share of training planes that lie across an axis", json_schema_extra=paper(0.0)
    )
    foreground_share: float = Field(0.0, ge=0, le=1, description="Share of planes placed on a drawn structure")
    far_background: float = Field(
        0.0, ge=0, le=1, description="Weight of background far from everything drawn; one volume only"
    )
    flips: bool = Field(True, description="Mirror planes at random", json_schema_extra=paper(True))
    rotation: float = Field(
        180.0, ge=0, le=180, description="Largest turn of a plane in itself", json_schema_extra={"unit": "degree"}
    )
    scaling: float = Field(0.1, ge=0, le=0.5, description="Largest change of the logarithm of the pixel size")
    brightness: float = Field(0.1, ge=0, le=1, description="Largest shift of intensities scaled to [-1, 1]")
    contrast: float = Field(0.1, ge=0, le=1, description="Largest relative change of contrast")
    gamma: float = Field(0.2, ge=0, le=1, description="Largest change of the logarithm of gamma")
    noise: float = Field(0.05, ge=0, le=1, description="Largest standard deviation of noise on scaled intensities")
    position_channels: Choice = Field("auto", description="Tell where a pixel lies; auto: with one drawn volume")
    interpolation: Choice = Field(
        "auto", description="Start from interpolated contours; auto: with one volume drawn on 3 slices or more"
    )
    prior: float = Field(1.0, ge=0, le=4, description="a: what 2 voxels of the interpolation's distance add to a logit")


class SegmentSettings(Config):
    """A structure as the model keeps it (`medgen.case.Segment`)."""

    value: int = Field(ge=1, le=MAX_LABEL)
    name: str = Field(max_length=1000)
    colour: tuple[Share, Share, Share]
    terminology: str | None = Field(None, max_length=10_000)


class Settings(Config):
    """What a model keeps beside its config: the structures' label values and descriptions, how many channels images
    have, what the network is told beyond them, and the interpolation's weight with what it was chosen by."""

    structures: tuple[int, ...] = Field(min_length=1, max_length=MAX_SEGMENTS)
    segments: tuple[SegmentSettings, ...]
    image_channels: int = Field(ge=1, le=1024)
    helpers: Helpers
    weight: float = Field(ge=0, le=1000)
    held_out: dict[str, float]

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if list(self.structures) != [segment.value for segment in self.segments]:
            raise ValueError("structures and segments do not agree")
        return self


class ApplyConfig(Config):
    """How to predict."""

    orientations: int = Field(
        3, ge=1, le=32, description="K: directions the volume is predicted from", json_schema_extra=paper(3)
    )
    directions: Literal["axes", "random"] = Field(
        "axes", description="Volume axes first, then random ones; or all random", json_schema_extra=paper("random")
    )
    threshold: float = Field(
        0.5, gt=0, lt=1, description="Probability from which a voxel is inside", json_schema_extra=paper(0.5)
    )
    islands: Literal["drop", "keep"] = Field("drop", description="Pieces that no drawn slice touches")
    keep_drawn: bool = Field(True, description="Give drawn slices back as they were drawn")


# --- network and loss


def build_network(config: TrainConfig, channels: int, outputs: int) -> UNet:
    """The network of a config: (N, channels, ...) -> logits (N, outputs, ...)."""
    if config.network == "3d-unet":
        return UNet.cicek(channels, outputs, config.base_width)
    return UNet(2, channels, outputs, config.base_width)


def patch_of(config: TrainConfig) -> int:
    """Side of the 3D network's patches, a multiple of 8; 0 for the 2D network."""
    return config.patch // 8 * 8 if config.network == "3d-unet" else 0


def masked_cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy over annotated pixels; logistic for one output channel, softmax for several.

    logits (N, 1 or structures + 1, ...), classes (N, ...) with 0 = background and `UNANNOTATED`, weights (N, ...).
    Unannotated pixels have no part in the value or the gradient, whatever their weight.
    """
    known = classes != UNANNOTATED
    if logits.shape[1] == 1:
        loss = F.binary_cross_entropy_with_logits(logits[:, 0], (classes > 0).to(logits.dtype), reduction="none")
    else:
        loss = F.cross_entropy(logits, classes.clamp(min=0), reduction="none")
    weights = weights * known
    return torch.where(known, loss * weights, 0.0).sum() / weights.sum().clamp(min=1e-6)


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Adam's step size at an update: constant, or a short rise and a half cosine to 1 % of it."""
    if config.schedule == "constant":
        return config.learning_rate
    rise = min(1.0, (step + 1) / max(1, config.updates // 20))
    return config.learning_rate * rise * (0.505 + 0.495 * float(np.cos(np.pi * step / config.updates)))


# --- training


def hold_out(planes: int, share: float) -> list[int]:
    """The numbers of the planes held out for validation: spread evenly, the outermost only if need be."""
    count = min(round(planes * share), planes - 2)
    return sorted({round((number + 0.5) * planes / count - 0.5) for number in range(count)}) if count > 0 else []


def hidden_groups(planes: int, always: frozenset[int]) -> list[frozenset[int]]:
    """Sets of planes to hide from the interpolation in turn: each plane alone (from 9 on, groups), then every other.

    `always` is hidden in all of them; at least one plane is always shown.
    """
    use = [number for number in range(planes) if number not in always]
    groups = [use[start::8] for start in range(min(8, len(use)))]
    if len(use) >= 4:
        groups += [use[0::2], use[1::2]]
    return [frozenset(group) | always for group in groups if len(group) < len(use)]


class Chosen:
    """What training settles on the way: the interpolation's weight, and how the held-out planes came out."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.held_out: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        """Weight and measures."""
        return {"weight": self.weight, "held_out": dict(self.held_out)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.weight, self.held_out = state["weight"], dict(state["held_out"])


class Fit:
    """One training: network, optimiser, random state and choices as parts of the engine, and its two stages."""

    def __init__(
        self,
        volumes: list[PlaneVolume],
        held_out: set[tuple[int, int]],
        structures: list[int],
        helpers: Helpers,
        config: TrainConfig,
        run: Run,
        cases: Sequence[Case] = (),
    ) -> None:
        """cases: what the volumes were made of, for previews."""
        self.volumes, self.held_out, self.structures, self.cases = volumes, held_out, structures, cases
        self.helpers, self.config, self.run = helpers, config, run
        channels = helpers.channels(volumes[0].image.shape[0], len(structures))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            network = build_network(config, channels, output_channels(structures))
        layout = torch.channels_last if config.network == "multi-planar" else torch.channels_last_3d
        self.network = network.to(run.device).to(memory_format=layout)  # type: ignore[call-overload]
        self.adam = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, eps=1e-7)
        self.random, self.best, self.chosen = Randomness(run.seed), Best(), Chosen()
        self.average = EMA(self.network, config.ema) if config.ema else None
        parts: dict[str, Any] = {"unet": self.network, "adam": self.adam, "random": self.random}
        parts |= {"best": self.best, "chosen": self.chosen}
        if self.average:
            parts["average"] = self.average
        self.training = Training(run, parts)
        self.prior = config.prior if helpers.interpolation else 0.0

    @property
    def result(self) -> nn.Module:
        """The network as it stands: the mean of its weights where one is made."""
        return self.average.network if self.average else self.network

    def weights(self) -> dict[str, Tensor]:
        """What to keep: the best network by the held-out planes, or the last one where it was refitted to all."""
        if self.best.weights and not self.config.refit:
            return self.best.weights
        return self.result.state_dict()

    def fit(self) -> None:
        """Stage 1 learns from the planes that are not held out, which choose model and weight; stage 2 from all."""
        config = self.config
        second = round(config.updates * config.refit) if self.held_out else 0
        first = config.updates - second
        sampler: PlaneSampler | None = None
        for step in self.training.stage("fit", first):
            sampler = sampler or self._sampler(self.held_out)
            self._update(step, sampler)
            last = step + 1 == first
            if self.held_out and (last or (not second and (step + 1) % config.validate_every == 0)):
                self._validate(step + 1)
            self._show(step + 1)
        sampler = None
        for step in self.training.stage("refit", second):
            sampler = sampler or self._sampler(set())
            self._update(first + step, sampler)
            self._show(first + step + 1)

    def _sampler(self, excluded: set[tuple[int, int]]) -> PlaneSampler:
        far: list[Tensor | None] = []
        for number, volume in enumerate(self.volumes):
            always = frozenset(plane for other, plane in excluded if other == number)
            wanted = self.helpers.position and self.config.far_background > 0 and len(volume.planes) > len(always)
            far.append(volume.far_from_drawn(self.structures, always) if wanted else None)
            if self.helpers.interpolation:
                volume.interpolate(self.structures, hidden_groups(len(volume.planes), always))
        seed = self.run.seed + (1 if excluded else 2)
        return PlaneSampler(self.volumes, self.structures, self.helpers, self.config, excluded, far, seed)

    def _update(self, step: int, sampler: PlaneSampler) -> None:
        """One gradient update."""
        self.network.train()
        samples = self.training.batch(
            samples_a_batch(self.config), lambda count: sampler.draw(count, self.random.numpy)
        )
        inputs, classes, weights = (part.to(self.run.device) for part in stacked(samples))
        layout = torch.channels_last if inputs.ndim == 4 else torch.channels_last_3d
        for group in self.adam.param_groups:
            group["lr"] = learning_rate_at(step, self.config)
        with self.training.autocast():
            logits = logits_of(self.network, inputs.contiguous(memory_format=layout), self.prior, len(self.structures))
        value, weight = masked_cross_entropy(logits, classes, weights), float(weights.sum())
        loss = self.training.step(value, self.adam, weight=weight)
        if self.average:
            self.average.decay = min(self.config.ema, (1 + step) / (10 + step))
            self.average.update(self.network)
        if step % 10 == 0:
            self.run.metric("loss", loss, step)

    def _validate(self, step: int) -> None:
        """Dice on the held-out planes: keeps the best network, and chooses the interpolation's weight."""
        weights = _WEIGHTS if self.helpers.interpolation else (0.0,)
        mean = self.training.alone(lambda: self._mean_scores(weights))
        chosen = int(np.argmax(mean))
        self.run.metric("held_out_dice", mean[chosen], step)
        if self.best.offer(mean[chosen], step, self.result):
            self.chosen.weight = weights[chosen]
            self.chosen.held_out = {f"weight {w:g}": round(m, 4) for w, m in zip(weights, mean, strict=True)}

    def _mean_scores(self, weights: tuple[float, ...]) -> list[float]:
        """Held-out Dice, the mean over volumes, for each weight of the interpolation."""
        scores = []
        for number, volume in enumerate(self.volumes):
            planes = sorted(plane for other, plane in self.held_out if other == number)
            if planes:
                scores.append(self._scores(volume, planes, weights))
        return [float(value) for value in np.mean(scores, axis=0)]

    def _show(self, step: int) -> None:
        """A preview of the first volume with held-out planes, now and then: validation alone is too seldom to watch."""
        if not self.cases:
            return
        number = min((number for number, _plane in self.held_out), default=0)
        case, measure = self.cases[number], {"held-out Dice": self.best.value} if self.best.weights else {}
        self.run.preview("mask", lambda: self._segmented(number), step, files=case.files, measure=measure)

    def _segmented(self, number: int) -> Mask:
        """A whole volume by the network as it stands, on the working grid."""
        volume, mask = self.volumes[number], self.cases[number].get("mask", Mask)
        predictor = Predictor(self.result, self.helpers, self.prior, self.structures, patch_of(self.config))
        matrices = orientation_matrices(3, "axes" if self.helpers.position else "random", self.run.seed)
        mean = predictor.mean(volume, 0, matrices, self.run, self.training.autocast)
        distances = volume.distances[0] if volume.distances else None
        logits = fuse(mean, distances, self.chosen.weight, volume.grid.spacing)
        labels = labels_from_distances(logits, self.structures)
        return Mask(labels, volume.grid.affine(mask.affine), mask.segments, "preview")

    def _scores(self, volume: PlaneVolume, planes: list[int], weights: tuple[float, ...]) -> list[float]:
        """Held-out Dice of one volume for each weight of the interpolation.

        The interpolation is shown every plane but the one looked at: hiding all held-out planes at once would leave it
        wider gaps than it has in use, and make it look worse than it is.
        """
        before = volume.hidden, volume.distances
        turns = [[plane] for plane in planes] if self.helpers.interpolation else [planes]
        if self.helpers.interpolation:
            volume.interpolate(self.structures, [frozenset(turn) for turn in turns])
        predictor = Predictor(self.result, self.helpers, self.prior, self.structures, patch_of(self.config))
        matrices = orientation_matrices(3, "axes" if self.helpers.position else "random", self.run.seed)
        found: list[list[Tensor]] = [[] for _ in weights]
        truth: list[Tensor] = []
        assert volume.labels is not None and volume.owner is not None
        for variant, turn in enumerate(turns):
            mean = predictor.mean(volume, variant, matrices, self.run, self.training.autocast)
            distances = volume.distances[variant] if volume.distances else None
            where = torch.isin(volume.owner, torch.tensor(turn, dtype=torch.int16))
            truth.append(volume.labels[where])
            for weight, pieces in zip(weights, found, strict=True):
                logits = fuse(mean, distances, weight, volume.grid.spacing)
                pieces.append(labels_from_distances(logits[:, where], self.structures))
        volume.hidden, volume.distances = before
        reference = torch.cat(truth)
        return [mean_dice(torch.cat(pieces), reference, self.structures) for pieces in found]


# --- what is annotated, and which helpers are on


def annotated_planes(case: Case, mask: Mask, annotation: str, log: Callable[[str], None]) -> list[AnnotatedPlane]:
    """The planes of a case in grid mm: its Plane markups, else the slices found from what is drawn (said in the log),
    else none, which means that the whole mask counts."""
    markups = [value for value in case.many("planes") if isinstance(value, Plane)]
    if annotation == "whole":
        return []
    if markups:
        found = [plane_in_grid(plane.origin, plane.axes[:, 2], mask.affine) for plane in markups]
        return [AnnotatedPlane(*(tuple(part.tolist()) for part in pair)) for pair in found]
    labels = mask.data.cpu().numpy()
    if annotation == "auto" and not looks_sparse(labels):
        return []
    slices = infer_annotated_slices(labels)
    counts = [(sum(axis == other for other, _ in slices), name) for axis, name in enumerate(_VIEWS)]
    log("Annotated slices, found from what is drawn: " + ", ".join(f"{n} {name}" for n, name in counts if n) + ".")
    return [AnnotatedPlane.slice_of(axis, index, mask.spacing) for axis, index in slices]


_VIEWS = ("sagittal", "coronal", "axial")  # the view across each canonical axis


def choose_helpers(volumes: list[PlaneVolume], config: TrainConfig) -> Helpers:
    """What `auto` means here: helpers are on for one sparsely annotated volume, the interpolation from 3 planes on."""
    alone = len(volumes) == 1 and bool(volumes[0].planes) and config.annotation_planes == 0
    position = alone if config.position_channels == "auto" else config.position_channels == "on"
    enough = alone and len(volumes[0].planes) >= 3
    interpolation = enough if config.interpolation == "auto" else config.interpolation == "on"
    if interpolation and any(len(volume.planes) < 3 for volume in volumes):
        raise UserError("Interpolation needs 3 annotated slices in every volume; draw more or set interpolation=off.")
    return Helpers(position, interpolation, focus_range(volumes[0]) if alone and position else None)


def choose_held_out(
    volumes: list[PlaneVolume], validation: list[bool], subjects: list[str], config: TrainConfig
) -> set[tuple[int, int]]:
    """(volume, plane) pairs held out; a volume annotated as a whole has one plane, -1.

    All planes of validation volumes where there are any; else a share of every volume's planes; else, when masks are
    whole, a share of the subjects.
    """
    everything = [range(len(volume.planes)) if volume.planes else (-1,) for volume in volumes]
    if not any(validation):
        names = sorted(set(subjects))
        chosen = {names[number] for number in hold_out(len(names), config.validation_share)}
        pairs = {(n, p) for n, v in enumerate(volumes) for p in hold_out(len(v.planes), config.validation_share)}
        if pairs or len(names) == 1:
            return pairs
        validation = [subject in chosen for subject in subjects]
    if all(validation):
        raise UserError("Every case of the cohort is for validation; give some the split “train”.")
    return {(number, plane) for number, planes in enumerate(everything) if validation[number] for plane in planes}


# --- the method

_IMAGE = Role("image", Kind.IMAGE, "The volume", reference=True)
_PLANES = Role(
    "planes", Kind.PLANE, "The annotated slices; left out, they are found from the mask", many=True, optional=True
)
_LEARNT = Role("mask", Kind.MASK, "The structures, drawn on some slices or whole", may_be_empty=True)
_DRAWN = Role(
    "mask", Kind.MASK, "The drawn slices, where the model was trained on them", optional=True, may_be_empty=True
)
_SEGMENTED = Role("mask", Kind.MASK, "The structures in the whole volume")

_QUICK: dict[str, Any] = {
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "ema": 0.98,
    "training_planes": 4096,
    "annotated_share": 0.4,
    "axis_share": 0.6,
    "foreground_share": 0.7,
    "far_background": 0.05,
    "refit": 0.5,
    "flips": False,
    "rotation": 15.0,
}
_SMOKE = {"base_width": 8, "updates": 24, "batch_size": 4, "window": 48, "patch": 24, "max_voxels": 200_000}
_DEMO = {"base_width": 16, "updates": 600, "batch_size": 12, "window": 96, "patch": 48, "max_voxels": 6_000_000}


class MultiplanarUNet(Method):
    """See the module's docstring."""

    slug = "multiplanar-unet"
    title = "Segment a volume from a few drawn slices"
    sentence = "Draw a structure on a few slices of a volume, and get it segmented in the whole volume."
    citation = (
        "Laprade, Perslev, Sporring. How Few Annotations are Needed for Segmentation Using a Multi-planar U-Net? "
        "Deep Generative Models, and Data Augmentation, Labelling, and Imperfections (MICCAI workshops), 2021"
    )
    url = "https://doi.org/10.1007/978-3-030-88210-5_20"
    module = "MedGenSegmentation"
    group = "Segment"
    needs = "One volume with structures drawn on 4 to 8 slices, or several volumes with masks."
    limits = "Beyond the outermost drawn slices little says where a structure ends: draw near its ends too."
    phantoms = ("abdomen-ct-drawn", "abdomen-ct", "mitochondria")
    operations = (
        Operation(
            "train",
            "Train",
            "Learn from the drawn slices of one volume, or from a cohort.",
            TrainConfig,
            scope="collection",
            pools=(Pool("cases", (_IMAGE, _LEARNT, _PLANES)),),
            outputs=(Role("model", Kind.MODEL, "The trained model"),),
            tiers={"smoke": {**_QUICK, **_SMOKE}, "demo": {**_QUICK, **_DEMO}, "paper": {}},
        ),
        Operation(
            "apply",
            "Apply",
            "Segment a volume with a trained model.",
            ApplyConfig,
            inputs=(_IMAGE, _DRAWN, _PLANES),
            outputs=(_SEGMENTED,),
            needs_model=True,
            tiers={"smoke": {"orientations": 1}, "demo": {}, "paper": {"directions": "random", "islands": "keep"}},
        ),
    )

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None = None) -> Case:
        """A cohort's rows (those of the test split left out) -> a model. One drawn row is the one-volume use."""
        began = time.monotonic()
        rows = [row for row in collection.rows() if row.split != "test" and row.labelled]
        cases = [prepare.load_row(row, (_IMAGE, _LEARNT, _PLANES), run.log) for row in rows]
        masks = [case.get("mask", Mask) for case in cases]
        segments = _drawn_segments(masks)
        structures = [segment.value for segment in segments]
        for case, mask in zip(cases, masks, strict=True):
            case.values["mask"], _ = renumber(mask, segments)
        volumes = [self._volume(case, config, run, number) for number, case in enumerate(cases)]
        helpers = choose_helpers(volumes, config)
        validation, subjects = [row.split == "validation" for row in rows], [row.subject for row in rows]
        held_out = choose_held_out(volumes, validation, subjects, config)
        fit = Fit(volumes, held_out, structures, helpers, config, run, cases)
        fit.fit()
        settings = {
            "structures": structures,
            "segments": [asdict(segment) for segment in segments],
            "image_channels": volumes[0].image.shape[0],
            "helpers": asdict(helpers),
            "weight": fit.chosen.weight,
            "held_out": fit.chosen.held_out,
        }
        facts = {
            "cases": len(rows),
            "annotated slices": sum(len(volume.planes) for volume in volumes),
            "Dice on held-out slices": max(fit.chosen.held_out.values(), default="not measured"),
            "starts from interpolated contours": "yes" if helpers.interpolation else "no",
            "seconds": round(time.monotonic() - began, 1),
        }
        networks = {"unet": fit.weights()}
        return Case({"model": Model(self.slug, networks, config.model_dump(mode="json"), settings, facts)})

    def _volume(self, case: Case, config: TrainConfig, run: Run, number: int) -> PlaneVolume:
        image, mask = case.get("image", Image), case.get("mask", Mask)
        planes = annotated_planes(case, mask, config.annotation, run.log)
        if config.annotation_planes and not planes:
            generator = np.random.default_rng([run.seed, number])
            planes = random_planes(mask.shape, mask.spacing, config.annotation_planes, generator)
        volume = PlaneVolume.prepare(image.data.float(), image.spacing, mask.data, planes, config.max_voxels)
        _check_annotation(volume, mask, run.log)
        return volume

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model | None = None) -> Case:
        """A volume -> its mask on the volume's grid."""
        assert model is not None
        image = case.get("image", Image)
        known, trained = model.noted(Settings), model.trained(TrainConfig)
        structures, helpers = list(known.structures), known.helpers
        segments = _segments_of(model)
        drawn, planes = _drawn(case, model, run.log)
        labels = drawn.data.to(torch.int16) if drawn is not None and planes else None
        volume = PlaneVolume.prepare(image.data.float(), image.spacing, labels, planes, trained.max_voxels)
        if helpers.interpolation:
            volume.interpolate(structures, [frozenset()])
        logits = self._predict(volume, trained, config, run, model)
        cut = float(np.log(config.threshold / (1 - config.threshold)))
        result = labels_from_distances(logits - cut, structures)
        if labels is not None:
            on_planes = annotated_voxels(tuple(labels.shape), image.spacing, planes)
            kept = torch.where(torch.from_numpy(on_planes), labels, result)
            if config.islands == "drop":
                kept = without_islands(kept, labels, on_planes, structures)
            result = kept if config.keep_drawn else torch.where(torch.from_numpy(on_planes), result, kept)
        return Case({"mask": Mask(result, image.affine, segments, name=image.name)})

    def _predict(
        self, volume: PlaneVolume, trained: TrainConfig, config: ApplyConfig, run: Run, model: Model
    ) -> Tensor:
        """Logits (structures, i, j, k) on the volume's own grid."""
        known = model.noted(Settings)
        structures, helpers = list(known.structures), known.helpers
        channels = helpers.channels(volume.image.shape[0], len(structures))
        network = model.network("unet", lambda: build_network(trained, channels, output_channels(structures)))
        network.to(run.device)
        predictor = Predictor(network, helpers, trained.prior, structures, patch_of(trained))
        matrices = orientation_matrices(config.orientations, config.directions, run.seed)
        mean = predictor.mean(volume, 0, matrices, run, run.autocast)
        distances = volume.distances[0] if volume.distances else None
        return volume.grid.to_source(fuse(mean, distances, known.weight, volume.grid.spacing))

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        """The paper's measures, off what was annotated where that is known: Dice, sensitivity and specificity of every
        structure, and their means over structures under the plain names."""
        segmented = result.get("mask", Mask)
        found, (mask, _) = segmented.data, renumber(reference.get("mask", Mask), segmented.segments)
        counts = torch.ones(mask.shape, dtype=torch.bool) if mask.annotated is None else ~mask.annotated
        names = {segment.value: segment.name for segment in segmented.segments}
        values = sorted({int(value) for value in torch.unique(mask.data) if value > 0}) or sorted(names) or [1]
        rows = []
        for value in values:
            ours, theirs = (found == value)[counts], (mask.data == value)[counts]
            hit, miss = int((ours & theirs).sum()), int((~ours & ~theirs).sum())
            rows.append((dice(ours, theirs), hit / max(1, int(theirs.sum())), miss / max(1, int((~theirs).sum()))))
        measures = dict(zip(("dice", "sensitivity", "specificity"), np.mean(rows, axis=0).tolist(), strict=True))
        if len(values) > 1:
            for value, row in zip(values, rows, strict=True):
                measures[f"dice {names.get(value, value)}"] = row[0]
        return measures

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Measured on this device: small updates of the real network, scaled to the run. For training it holds the
        time until the whole volume is segmented, and suggests the annotated slices where none are given."""
        voxels = max((case.voxels() for case in cases), default=1)
        if isinstance(config, ApplyConfig):
            if model is not None:
                for case in cases:
                    _drawn(case, model, run.log)
            return Estimate(5 + 3e-6 * voxels * config.orientations, 2**29 + 100 * voxels, 2 * voxels)
        assert isinstance(config, TrainConfig)
        cases = [case for case in cases if case.row.get("split") != "test" and case.row.get("labelled") != "no"]
        _drawn_segments([case.get("mask", Mask) for case in cases])
        dims = 2 if config.network == "multi-planar" else 3
        pixels = samples_a_batch(config) * (config.window**2 if dims == 2 else config.patch**3)
        network = build_network(config, 7, 1)
        tried = (4, 7, 64, 64) if dims == 2 else (1, 7, 24, 24, 24)
        update = pixels * seconds_an_update(network, tried, run) / (tried[0] * int(np.prod(tried[2:])))
        grid = min(2 * voxels, config.max_voxels)
        seconds = 8 + config.updates * update + len(cases) * grid * 2e-5
        memory = 2**29 + 20 * parameter_count(network) + 100 * pixels * config.base_width + 100 * grid * len(cases)
        suggested = self._suggest(cases, config) if len(cases) == 1 else {}
        return Estimate(seconds, memory, 20 * parameter_count(network), suggested=suggested)

    def _suggest(self, cases: list[Case], config: TrainConfig) -> dict[str, Any]:
        """The annotated slices found in a drawing that came without planes, as Plane markups in RAS mm."""
        mask = cases[0].get("mask", Mask)
        if cases[0].many("planes") or not bool((mask.data > 0).any()):
            return {}
        found: list[Plane] = []
        for plane in annotated_planes(cases[0], mask, config.annotation, lambda message: None):
            rotation = mask.affine[:3, :3] / mask.spacing
            origin = rotation @ np.asarray(plane.origin) + mask.affine[:3, 3]
            axes = rotation @ np.stack((plane.frame.u, plane.frame.v, plane.frame.normal), axis=1)
            found.append(Plane(origin, axes, f"annotated slice {len(found) + 1}"))
        return {"planes": found} if found else {}


def _drawn_segments(masks: list[Mask]) -> list[Segment]:
    """The segments that are drawn anywhere, one value each over all masks; UserError when there are none."""
    united = unite_segments(masks)
    drawn = {int(value) for mask in masks for value in torch.unique(renumber(mask, united)[0].data) if value > 0}
    if not drawn:
        raise UserError("Nothing is drawn in any mask of the cohort; draw the structure on a few slices first.")
    return [segment for segment in united if segment.value in drawn]


def _segments_of(model: Model) -> list[Segment]:
    """The structures a model knows."""
    return [Segment(one.value, one.name, one.colour, one.terminology) for one in model.noted(Settings).segments]


def _drawn(case: Case, model: Model, log: Callable[[str], None]) -> tuple[Mask | None, list[AnnotatedPlane]]:
    """What is drawn on a volume that a model is applied to, in the model's values, and on which planes.

    Raises UserError where the image or the drawing does not fit the model.
    """
    image, known = case.get("image", Image), model.noted(Settings)
    if image.data.shape[0] != known.image_channels:
        raise UserError(
            f"“{image.name or 'image'}” has {image.data.shape[0]} channels, but the model was trained on "
            f"{known.image_channels}; choose an image like those it was trained on."
        )
    starts_from_drawing = known.helpers.interpolation
    if "mask" not in case:
        if starts_from_drawing:
            raise UserError("This model starts from the slices drawn on its volume; give them as role “mask”.")
        return None, []
    drawn, unknown = renumber(case.get("mask", Mask), _segments_of(model))
    if unknown:
        log(f"The model does not know {', '.join(f'“{name}”' for name in unknown)}; what is drawn of it is left out.")
    planes = annotated_planes(case, drawn, "slices", log)
    if not planes and starts_from_drawing:
        raise UserError("Role “mask” is empty, but this model starts from the drawn slices; give what was drawn.")
    return drawn, planes


def _check_annotation(volume: PlaneVolume, mask: Mask, log: Callable[[str], None]) -> None:
    """Every annotated plane cuts the volume, and what is drawn lies on one of them (partly: the log says so)."""
    assert volume.labels is not None and volume.owner is not None
    for number in range(len(volume.planes)):
        if not bool((volume.owner == number).any()):
            raise UserError(f"Annotated plane {number + 1} does not cut “{mask.name or 'the volume'}”; remove it.")
    if bool((mask.data > 0).any()) and not bool((volume.labels > 0).any()):
        raise UserError(
            f"What is drawn in “{mask.name or 'the mask'}” lies on none of the annotated slices; mark those it is on."
        )
    if volume.planes:
        on = torch.from_numpy(annotated_voxels(mask.shape, mask.spacing, volume.planes))
        off = int(((mask.data > 0) & ~on).sum())
        if off:
            log(f"{off} drawn voxels lie off the annotated slices and are not learnt from.")
