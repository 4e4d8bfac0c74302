"""Aneurysm detection: candidate aneurysms in a time-of-flight MR angiogram, learnt from two clicks each.

Assis, Liao, Pierre, Anxionnat, Kerrien: An Efficient Data Strategy for the Detection of Brain Aneurysms from MRA with
Deep Learning (2021).

What is implemented of the paper:

- annotation (section 2.1): an aneurysm is the sphere between two points, the middle of its neck and its dome;
- network and training (2.2): Ellis's 3D U-Net with batch normalisation, volumes scaled to [0, 1], binary cross-entropy,
  Adam with a constant step size, batches of 10, 100 epochs;
- patches (2.3): 48^3 voxels of 0.4 mm; 50 duplicates of each aneurysm's patch, each distorted by its own 3 x 3 x 3
  lattice and cubic splines; negative patches on the 100 brightest voxels and on 100 random ones between the 20th and
  the 80th percentile, 20 mm from each other and from aneurysms; random turns and shifts;
- prediction (2.2): patches that overlap by 8 voxels, of which the central 32^3 are put side by side;
- measures (2.4): Dice and Cohen's kappa over the voxels of the validation patches, the confusion matrix of the patches,
  the ADAM challenge's sensitivity and false positives a case (`medgen.metrics.froc`, with the FROC curve);
- the ablations of table 1 are settings: `loss` (Model1: focal), `duplicates` (Model2: 5), `distortion` (Model3: 0),
  `vessel_patches` and `tissue_patches` (Model4: 50 and 50).

The paper's own code was never published. Where the text is silent:

- knots move by U(-4, 4) mm along each axis; the spline is the natural one; turns are Euler angles of U(-180, 180)
  degrees, shifts U(-10, 10) mm along each axis, drawn anew for each patch of each epoch, while a duplicate keeps its
  lattice. A voxel is labelled by where it lies after all this, in or out of a sphere, not by an interpolated mask;
- the brightest voxels are sought among the brightest 5 % of a volume (the paper says that vessels take up 3 to 5 %);
  where fewer than 100 patches fit, there are fewer, and the log says how many;
- the focal loss has Lin's gamma of 2 and alpha of 0.25. The last bias starts at the log-odds of a voxel to lie in an
  aneurysm (Lin et al.), without which the first epochs learn that alone;
- connected components (26 neighbours) are sought on the working grid, not after resampling to the image's own: their
  middles and sizes in mm are the same to a fraction of a voxel. A finding's confidence is its highest probability, its
  radius that of the sphere of its volume.

Beyond the paper, for speed: windows whose brightest voxel is below a percentile of the volume may be skipped (`skip`).
The model keeps the percentile that the dimmest aneurysm of its training reaches, and a run that skips above it says so.
Windows may be larger than the patches, but a network of small patches knows their borders: it then finds more falsely.

Several processes (docs/several-gpus.md) share the patches of an update out; batch normalisation sees each
process's own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Case, Image, Points
from medgen.cohort import Collection
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.lesionpatches import Patch, PatchConfig, choose_patches, paper_setting, places_in
from medgen.lesions import MarkedVolume, check_marked, components, curve_over, look_through, window_side, windows_over
from medgen.method import Config, Estimate, Kind, Method, Operation, Pool, Role, lowers_memory, memory_window
from medgen.metrics import froc
from medgen.metrics.overlap import Confusion
from medgen.nn.unet import UNet
from medgen.pace import seconds_an_update
from medgen.patches import Vector, grid_affine, working_grid
from medgen.training import Randomness, Training, drawn, placed, set_rate

_THRESHOLDS = (0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of the validation's FROC
_GAMMA, _ALPHA = 2.0, 0.25  # of the focal loss


class TrainConfig(PatchConfig):
    """How to train. Defaults are the paper's."""

    width: int = paper_setting(
        32, "Channels that the network's first convolution gives out", ge=2, le=64, **lowers_memory()
    )
    loss: Literal["cross-entropy", "focal"] = paper_setting(
        "cross-entropy", "Binary cross-entropy, or the focal loss of Lin et al."
    )
    epochs: int = paper_setting(100, "How often every patch is seen", ge=1, le=100_000)
    updates: int = Field(0, ge=0, le=10_000_000, description="Gradient updates; 0: as many as the epochs take")
    batch_size: int = paper_setting(10, "Patches an update", ge=1, le=1000, **lowers_memory())
    learning_rate: float = paper_setting(1e-4, "Adam's step size", gt=0, le=0.1)
    schedule: Literal["constant", "cosine"] = paper_setting("constant", "Step size over the training")
    validate_every: int = Field(500, ge=1, le=1_000_000, description="Updates between looks at the validation patches")


class ApplyConfig(Config):
    """How to look for aneurysms."""

    threshold: float = Field(
        0.5, gt=0, lt=1, description="Probability from which a voxel belongs to a candidate; lower finds more"
    )
    window: int = Field(
        0,
        ge=0,
        le=256,
        multiple_of=8,
        description="Side of what is looked at at once; 0: a training patch",
        json_schema_extra={"unit": "voxel", **memory_window(24, 8, "patch")},
    )
    margin: int = paper_setting(8, "Border of each window that does not count", "voxel", ge=0, le=64)
    skip: float = paper_setting(
        0.0, "Windows all darker than this percentile of the volume are skipped; 0: none", ge=0, le=100
    )


class Settings(Config):
    """What a model keeps beside its config: the percentile of its volume that the dimmest aneurysm reaches."""

    dimmest: float = Field(ge=0, le=100)


# --- network and losses


def build_network(config: TrainConfig, share: float = 0.5) -> UNet:
    """(N, 1, i, j, k), sides multiples of 8 -> logits. share: of voxels in aneurysms, where the last bias starts."""
    network = UNet.ellis(first_width=config.width)
    assert network.head.bias is not None
    nn.init.constant_(network.head.bias, math.log(share / (1 - share)))
    return network


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Lin et al. (2017): mean of -alpha_t (1 - p_t)^2 log p_t, alpha 0.25 for aneurysms and 0.75 for the rest."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    right = torch.exp(-entropy)
    weight = _ALPHA * target + (1 - _ALPHA) * (1 - target)
    return (weight * (1 - right) ** _GAMMA * entropy).mean()


# --- training


class Fit:
    """One training: network, optimiser and random state as parts of the engine. validation: looked at, not learnt."""

    def __init__(
        self, volumes: Sequence[MarkedVolume], validation: Sequence[MarkedVolume], config: TrainConfig, run: Run
    ) -> None:
        self.volumes, self.validation, self.config, self.run = volumes, validation, config, run
        self.patches = self._chosen(volumes, config, 0)
        spheres = [sphere for volume in volumes for sphere in volume.lesions]
        filled = config.duplicates * sum(4 / 3 * math.pi * sphere.radius**3 for sphere in spheres)
        share = filled / (len(self.patches) * (config.patch * config.voxel) ** 3)
        network = drawn(run.seed, lambda: build_network(config, min(max(share, 1e-5), 0.5)))
        self.network = placed(network, run, torch.channels_last_3d)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.random = Randomness(run.seed)
        self.training = Training(run, {"unet": self.network, "adam": self.adam, "random": self.random})
        self.updates = config.updates or math.ceil(config.epochs * len(self.patches) / config.batch_size)
        self.criterion = focal_loss if config.loss == "focal" else F.binary_cross_entropy_with_logits
        self.voxelwise, self.patchwise = Confusion(), Confusion()

    def _chosen(self, volumes: Sequence[MarkedVolume], config: TrainConfig, stream: int) -> list[Patch]:
        generators = [np.random.default_rng([self.run.seed, stream, number]) for number in range(len(volumes))]
        return [
            patch
            for number, volume in enumerate(volumes)
            for patch in choose_patches(volume, number, config, generators[number])
        ]

    def fit(self) -> None:
        """Learn; look at the validation patches now and then and at the end."""
        plain = self.config.model_copy(update={"duplicates": 1, "distortion": 0.0})
        shown = self._chosen(self.validation, plain, 1)
        for step in self.training.stage("train", self.updates):
            loss = self._update(step)
            if step % 10 == 0:
                self.run.metric("loss", loss, step)
            if shown and (step + 1) % self.config.validate_every == 0 and step + 1 < self.updates:
                self._look(shown, step + 1)
        if shown:  # a resumed run that was already done comes through here too
            self._look(shown, self.updates)

    def _update(self, step: int) -> float:
        """One gradient update; its loss."""
        self.network.train()
        if self.config.schedule == "cosine":
            share = 0.505 + 0.495 * math.cos(math.pi * step / self.updates)
            set_rate(self.adam, self.config.learning_rate * share)
        samples = self.training.batch(self.config.batch_size, lambda count: self._draw(step, count))
        images, labels = (self._on_device(torch.stack(part)) for part in zip(*samples, strict=True))
        with self.training.autocast():
            loss = self.criterion(self.network(images).float(), labels)
        return self.training.step(loss, self.adam)

    def _draw(self, step: int, count: int) -> list[Callable[[], tuple[Tensor, Tensor]]]:
        """Samples of an update: the next patches of this epoch's order, each turned and shifted at random."""
        from scipy.spatial.transform import Rotation

        samples: list[Callable[[], tuple[Tensor, Tensor]]] = []
        for place in range(step * count, (step + 1) * count):
            epoch, number = divmod(place, len(self.patches))
            patch = self.patches[self._order(epoch)[number]]
            angles = self.random.numpy.uniform(-1, 1, 3) * self.config.rotation
            turn = np.asarray(Rotation.from_euler("xyz", angles, degrees=True).as_matrix())
            shift = self.random.numpy.uniform(-1, 1, 3) * self.config.shift
            samples.append(partial(self._sample, self.volumes, patch, turn, shift))
        return samples

    @lru_cache(maxsize=2)  # noqa: B019 - as long-lived as the training
    def _order(self, epoch: int) -> list[int]:
        """The order in which an epoch sees the patches; the same for a resumed run."""
        return np.random.default_rng([self.run.seed, 2, epoch]).permutation(len(self.patches)).tolist()

    def _sample(
        self, volumes: Sequence[MarkedVolume], patch: Patch, turn: Vector | None = None, shift: Vector | None = None
    ) -> tuple[Tensor, Tensor]:
        """(1, side, side, side) intensities, and 1 in aneurysms."""
        places = places_in(patch, self.config, turn, shift)
        volume = volumes[patch.volume]
        return volume.look(places)[None], volume.inside(places)[None].float()

    def _on_device(self, patches: Tensor) -> Tensor:
        return patches.to(self.run.device).contiguous(memory_format=torch.channels_last_3d)

    def _look(self, shown: list[Patch], step: int) -> None:
        """Dice and kappa of the voxels, and the confusion matrix of the patches (table 1)."""
        counts = self.training.alone(lambda: self._counts(shown))
        self.voxelwise, self.patchwise = Confusion(*counts[:4]), Confusion(*counts[4:])
        self.run.metric("validation_kappa", self.voxelwise.kappa, step)
        self.run.metric("validation_dice", self.voxelwise.dice, step)

    def free_response(self) -> str:
        """Over the whole validation volumes (section 3.2): what the curve's point next to the corner gives."""
        return self.training.alone(self._free_response)

    def _free_response(self) -> str:
        side, voxel = self.config.patch, self.config.voxel
        curve = curve_over(self.network, self.validation, voxel, side, side // 6, _THRESHOLDS, self.run)
        best = curve.nearest_corner()
        sensitivity, fp, threshold = curve.sensitivity[best], curve.fp[best], curve.thresholds[best]
        return (
            f"sensitivity {sensitivity:.2f} at {fp:.2f} false positives a case with “threshold” {threshold:g}, next to "
            f"the corner; area to 2 a case {curve.area(2.0):.2f}"
        )

    def _counts(self, shown: list[Patch]) -> list[int]:
        self.network.eval()
        voxels, patches = Confusion(), Confusion()
        for start in range(0, len(shown), self.config.batch_size):
            pairs = [self._sample(self.validation, patch) for patch in shown[start : start + self.config.batch_size]]
            images, labels = (torch.stack(part) for part in zip(*pairs, strict=True))
            with torch.inference_mode(), self.training.autocast():
                found = self.network(self._on_device(images)).cpu() > 0
            voxels += Confusion.of(found, labels > 0)
            patches += Confusion.of(found.flatten(1).any(dim=1), (labels > 0).flatten(1).any(dim=1))
        return [*astuple(voxels), *astuple(patches)]


# --- the method

_IMAGE = Role("image", Kind.IMAGE, "The angiogram, time-of-flight MR", modality="MR", reference=True)
_MARKED = Role(
    "aneurysms",
    Kind.SPHERE,
    "The aneurysms, each a line from the middle of its neck to its dome; none: a volume free of them",
    many=True,
    optional=True,
    may_be_empty=True,
)
_POINTS = Role("points", Kind.POINTS, "The middles of the candidates, surest first", may_be_empty=True)
_FOUND = Role("aneurysms", Kind.SPHERE, "The candidates as spheres", many=True, may_be_empty=True)

# Patches of the paper's proportions, on a coarser grid: 16 mm wide, knots and shifts scaled with them.
_QUICK: dict[str, Any] = {"voxel": 1.0, "patch": 16, "batch_size": 8, "distortion": 3.3, "shift": 4.0, "apart": 10.0}
_QUICK |= {"learning_rate": 5e-3, "schedule": "cosine"}
_SMOKE = {"width": 4, "updates": 150, "vessel_patches": 30, "tissue_patches": 20}
_DEMO = {"width": 4, "updates": 4400, "validate_every": 1100}


class AneurysmDetection(Method):
    """See the module's docstring."""

    slug = "aneurysm-detection"
    title = "Find aneurysms in MR angiograms"
    sentence = "Mark aneurysms with two clicks each in some angiograms, and get candidates in others."
    citation = (
        "Assis, Liao, Pierre, Anxionnat, Kerrien. An Efficient Data Strategy for the Detection of Brain Aneurysms from "
        "MRA with Deep Learning. Deep Generative Models, and Data Augmentation, Labelling, and Imperfections (MICCAI "
        "workshops), 2021"
    )
    url = "https://doi.org/10.1007/978-3-030-88210-5_22"
    module = "MedGenLandmarks"
    group = "Points"
    needs = "A few dozen time-of-flight MR angiograms with every aneurysm marked by a line from its neck to its dome."
    limits = "Aneurysms under 2 mm are often missed, and small arteries that leave large ones are taken for aneurysms."
    phantoms = ("mr-angiogram",)
    demo_cases = 20
    operations = Operation.train_and_apply(
        (Pool("cases", (_IMAGE, _MARKED)),),
        (_IMAGE,),
        (_POINTS, _FOUND),
        train=(
            "Learn from angiograms with marked aneurysms.",
            TrainConfig,
            {"smoke": {**_QUICK, **_SMOKE}, "demo": {**_QUICK, **_DEMO}, "paper": {}},
        ),
        apply=(
            "Find candidate aneurysms in an angiogram.",
            ApplyConfig,
            {
                "smoke": {"margin": 2},
                "demo": {"margin": 2, "skip": 95.0},
                "paper": {},
            },
        ),
    )

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None = None) -> Case:
        """A cohort's rows (those of the test split left out) -> a model; rows for validation are measured only."""
        cases = prepare.load_rows([row for row in collection.rows() if row.labelled], (_IMAGE, _MARKED), run)
        return Case({"model": self.fit(cases, held_out(cases), config, run)})

    def fit(self, cases: Sequence[Case], validation: Sequence[bool], config: TrainConfig, run: Run) -> Model:
        """Train on cases in memory (`image`, `aneurysms`); `validation` says which are measured, not learnt from.

        Raises UserError where there is nothing to learn from or an aneurysm lies outside its image.
        """
        began = time.monotonic()
        check(cases, validation)
        volumes = [volume_of(case, config.voxel) for case in cases]
        learnt, held = ([v for v, h in zip(volumes, validation, strict=True) if h is held] for held in (False, True))
        fit = Fit(learnt, held, config, run)
        marked = config.duplicates * sum(len(volume.lesions) for volume in learnt)
        if free := sum(not volume.lesions for volume in learnt):
            run.log(f"{free} of {len(learnt)} volumes have no marked aneurysm and count as free of them.")
        run.log(f"Patches: {marked} of aneurysms, {len(fit.patches) - marked} of vessels and tissue.")
        fit.fit()
        dimmest = min(volume.brightness(sphere) for volume in learnt for sphere in volume.lesions)
        counts = astuple(fit.patchwise)
        facts = {
            "cases": len(learnt),
            "aneurysms": marked // config.duplicates,
            "patches": len(fit.patches),
            "validation kappa": round(fit.voxelwise.kappa, 4) if held else "not measured",
            "validation Dice": round(fit.voxelwise.dice, 4) if held else "not measured",
            "validation patches TP, FP, FN, TN": ", ".join(map(str, counts)) if held else "not measured",
            "validation FROC": fit.free_response() if any(volume.lesions for volume in held) else "not measured",
            "dimmest aneurysm's percentile": round(dimmest, 2),
            "seconds": round(time.monotonic() - began, 1),
        }
        networks, settings = {"unet": fit.network.state_dict()}, Settings(dimmest=dimmest).model_dump()
        return Model(self.slug, networks, config.model_dump(mode="json"), settings, facts)

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model | None = None) -> Case:
        """An angiogram -> candidates as points and as spheres; none is a valid result."""
        assert model is not None
        trained, dimmest = model.trained(TrainConfig), model.noted(Settings).dimmest
        image, side = case.get("image", Image), window_side(config.window or trained.patch, config.margin)
        check_marked(image, [], "aneurysm")
        network = model.network("unet", lambda: build_network(trained))
        grid = working_grid(image, trained.voxel)
        angiogram = MarkedVolume.of(image, [], trained.voxel)
        found, skipped, windows = look_through(network, angiogram, grid, side, config.margin, config.skip, run)
        points, spheres = components(found, grid_affine(grid, image.affine), config.threshold, "aneurysm")
        run.log(f"Candidates: {len(spheres)}. Windows skipped as too dark: {skipped} of {windows}.")
        if config.skip > dimmest:
            run.log(
                f"An aneurysm of the training is dimmer than “skip” ({config.skip:g}): one like it may lie in a window "
                f"that was skipped; lower it to {math.floor(dimmest)} to look there."
            )
        facts = {"candidates": len(spheres), "windows": windows, "windows skipped as too dark": skipped}
        return Case({"points": points, "aneurysms": spheres}, facts=facts)

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        """The ADAM challenge's counts of one case, and its sensitivity where it has aneurysms."""
        if "aneurysms" not in reference:
            raise UserError("There are no reference aneurysms to compare with; give lines or ROIs as “aneurysms”.")
        centres = result.get("points", Points).positions
        counts = froc.adam_counts(froc.inside_spheres(centres, reference.many("aneurysms")))
        found = {"false positives": float(counts.fp), "missed": float(counts.fn)}
        return found if math.isnan(counts.sensitivity) else {"sensitivity": counts.sensitivity, **found}

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Measured on this device: an update of the real network, scaled to the voxels that will be looked at."""
        if isinstance(config, ApplyConfig):
            return _estimate_apply(cases, config, run, model)
        assert isinstance(config, TrainConfig)
        cases = [case for case in cases if case.row.get("labelled") != "no"]
        check(cases, held_out(cases))
        marked = sum(len(case.many("aneurysms")) for case in cases)
        each = config.vessel_patches + config.tissue_patches
        patches = config.duplicates * marked + each * len(cases)
        updates = config.updates or math.ceil(config.epochs * patches / config.batch_size)
        looks = 1 + updates // config.validate_every
        held = [case for case, out in zip(cases, held_out(cases), strict=True) if out]
        voxels = (updates * config.batch_size + looks * len(held) * each / 3) * config.patch**3
        wholes = [math.prod(working_grid(case.get("image", Image), config.voxel).shape) for case in held]
        voxels += 1.1 * sum(wholes)  # a third of an update's work, in windows of (6 / 4)^3 times their middles
        seconds = 3 + voxels * (_seconds_a_voxel(config, run) + 2e-7) + 3e-7 * sum(case.voxels() for case in cases)
        memory = 2**29 + 2 * sum(case.voxels() for case in cases) + 12 * max(case.voxels() for case in cases)
        memory += 120 * config.batch_size * config.patch**3 * config.width
        return Estimate(seconds, memory, 2**20 + 160_000 * config.width**2)


def _estimate_apply(cases: list[Case], config: ApplyConfig, run: Run, model: Model | None) -> Estimate:
    images = [case.get("image", Image) for case in cases]
    for image in images:
        check_marked(image, [], "aneurysm")
    if model is None:
        return Estimate(60.0 * len(cases), 2**31, 2**16)
    trained = model.trained(TrainConfig)
    side = window_side(config.window or trained.patch, config.margin)
    grids = [working_grid(image, trained.voxel) for image in images]
    looked = sum(windows_over(grid, side - 2 * config.margin) for grid in grids) * side**3
    largest = max((math.prod(grid.shape) for grid in grids), default=1)
    memory = 2**29 + 9 * largest + 14 * max((case.voxels() for case in cases), default=1)
    notes = ("Dark windows are skipped, so that it may take less.",) if config.skip else ()
    seconds = 3 + looked * (_seconds_a_voxel(trained, run) / 3 + 1e-7)
    return Estimate(seconds, memory + 120 * max(2**17, side**3) * trained.width, 2**16 * len(cases), notes=notes)


def _seconds_a_voxel(config: TrainConfig, run: Run) -> float:
    """Of an update."""
    side = min(config.patch, 32)
    return seconds_an_update(build_network(config), (2, 1, side, side, side), run, 2) / (2 * side**3)


def held_out(cases: Sequence[Case]) -> list[bool]:
    """Which cases are for validation."""
    return [case.row.get("split") == "validation" for case in cases]


def check(cases: Sequence[Case], validation: Sequence[bool]) -> None:
    """UserError for whatever a training would refuse."""
    learnt = [case for case, held in zip(cases, validation, strict=True) if not held]
    if not learnt:
        raise UserError("Every case of the cohort is for validation or test; give some the split “train”.")
    for case in cases:
        check_marked(case.get("image", Image), case.many("aneurysms"), "aneurysm")
    if not any(case.many("aneurysms") for case in learnt):
        raise UserError(
            "No aneurysm is marked in any case to learn from; mark each with a line from its neck to its dome."
        )


def volume_of(case: Case, voxel: float) -> MarkedVolume:
    """The angiogram of a case with its aneurysms, for samples at `voxel` mm."""
    return MarkedVolume.of(case.get("image", Image), case.many("aneurysms"), voxel)
