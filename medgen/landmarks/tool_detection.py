"""Surgical tools are boxed in video frames, learnt from few frames with boxes and many without.

Jiang, Xia, Wang, Jia: Semi-supervised Surgical Tool Detection Based on Highly Confident Pseudo Labeling and Strong
Augmentation Driven Consistency (2021).

What is implemented of the paper (section 2.2):

- a) a teacher, Faster R-CNN with a ResNet, learns from the labelled frames (equation 1) under weak augmentation
  (resizing, horizontal flips);
- b) it predicts boxes in the unlabelled frames; non-maximum suppression leaves one a tool, and those whose confidence
  is below tau become no pseudo labels: omega of equation 2 is 0 for a frame in which none is left;
- c) a student learns from both (equation 3): labelled frames under weak, unlabelled ones under strong augmentation
  (table 2: colour, then the frame or the content of one box moved, then cutout: `medgen.augmentation`);
- the rungs of table 5: supervised (`unlabelled_weight` 0), SSL (tau 0.5, weak augmentation), + HC (tau 0.9), + SA.
- mAP 50:95 and 50, as the COCO challenge counts them.

No code was published; where the paper is silent we follow STAC (Sohn et al., 2020), on which it stands: a feature
pyramid; the student starts where the teacher started and not from it; an update sees as many unlabelled frames as
labelled ones and takes the mean over all; lambda_u weighs both stages' losses; SGD whose step falls to 0.3 of itself
after 3/8 and 3/4 of the updates; regions that overlap a tool by less than half are background. Ours: without a file of
ImageNet weights (none can be had here) the network learns from scratch, normalised in groups; the best of the looks at
validation frames is kept, where there are any; lambda of equations 1 and 2 is 1. Equation 1 is written of anchors
alone: as in Faster R-CNN both stages have such a loss. Equation 2's omega has the index of an anchor: it can be that of
a frame only, since an anchor without a pseudo label is background and counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from medgen import prepare
from medgen.augmentation import strongly
from medgen.bundle import Model
from medgen.case import Case, Image
from medgen.cohort import Collection
from medgen.frames import (
    ClassNames,
    Frame,
    Sample,
    batch_of,
    boxes_found,
    detector_model,
    drawn_detector,
    frames_of,
    imagenet_field,
    look,
    measured,
    precision_on,
    stretch_field,
    weakly,
)
from medgen.jobs import Run
from medgen.method import Config, Estimate, Kind, Method, Operation, Pool, Role, lowers_memory, paper, unit
from medgen.nn.detector import Detections, Detector, Shape, seconds_a_frame, stretched
from medgen.training import Best, Randomness, Training, look_due, placed, set_rate

_LEAST = 0.05  # score of the weakest detections that mAP counts


class TrainConfig(Config):
    """How to train. Defaults are the paper's, or STAC's where it is silent."""

    unlabelled_weight: float = Field(
        2.0, ge=0, le=100, description="lambda_u: weight of the unlabelled frames; 0: the teacher alone, supervised",
        json_schema_extra=paper(2.0),
    )  # fmt: skip
    confidence: float = Field(
        0.9, ge=0, le=1, description="tau: least confidence of a pseudo label (0.5: the paper's plain SSL)",
        json_schema_extra=paper(0.9),
    )  # fmt: skip
    strong_augmentation: bool = Field(
        True, description="Show unlabelled frames strongly changed, not just resized and flipped",
        json_schema_extra=paper(True),
    )  # fmt: skip
    box_weight: float = Field(1.0, gt=0, le=100, description="lambda: weight of the losses on boxes")
    updates: int = Field(20_000, ge=1, le=1_000_000, description="Gradient updates of the teacher, and of the student")
    batch_size: int = Field(
        8, ge=1, le=256, description="Labelled frames an update; the student sees as many unlabelled ones beside them",
        json_schema_extra=lowers_memory(),
    )  # fmt: skip
    short_edge: int = Field(
        600, ge=32, le=4096, description="Frames are scaled to this short edge",
        json_schema_extra={**unit("px"), **lowers_memory()},
    )  # fmt: skip
    long_edge: int = Field(
        1000, ge=32, le=8192, description="Or to this long edge, where it would be more", json_schema_extra=unit("px")
    )
    smallest_scale: float = Field(
        0.625, ge=0.1, le=1, description="In training, the short edge is drawn from this share of itself upwards"
    )
    backbone: Literal["resnet-18", "resnet-50"] = Field(
        "resnet-50", description="Residual network that sees the frames", json_schema_extra=paper("resnet-50")
    )
    width: int = Field(
        64, ge=8, le=128, multiple_of=8, description="Channels of the backbone's first stage",
        json_schema_extra={**paper(64), **lowers_memory()},
    )  # fmt: skip
    pyramid: int = Field(256, ge=8, le=512, description="Channels of the feature pyramid")
    head: int = Field(1024, ge=16, le=4096, description="Units of each fully connected layer of the second stage")
    smallest_anchor: float = Field(
        32.0, ge=4, le=256, description="Side of the finest level's anchors; each level's are twice as large",
        json_schema_extra=unit("px"),
    )  # fmt: skip
    anchor_stretch: int = stretch_field()
    regions: int = Field(1000, ge=10, le=5000, description="Proposals of a frame that the second stage looks at")
    anchor_samples: int = Field(256, ge=8, le=4096, description="Anchors of a frame that its loss is taken of")
    region_samples: int = Field(256, ge=8, le=4096, description="Regions of a frame that its loss is taken of")
    imagenet_weights: str = imagenet_field()
    optimiser: Literal["sgd", "adam"] = Field("sgd", description="SGD with momentum 0.9, or AdamW")
    learning_rate: float = Field(0.01, gt=0, le=1, description="Step size once warm")
    warm_up: int = Field(1000, ge=0, le=100_000, description="Updates over which the step size grows from 0")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Weight decay")
    validate_every: int = Field(1000, ge=1, le=1_000_000, description="Updates between looks at the validation frames")


class ApplyConfig(Config):
    """How to find tools."""

    confidence: float = Field(0.5, ge=0, le=1, description="Least confidence of a box (0.05 where mAP is measured)")
    overlap: float = Field(0.5, ge=0, le=1, description="Of two boxes of a class that overlap by more, one is dropped")
    regions: int = Field(300, ge=1, le=5000, description="Proposals that the second stage looks at")
    most: int = Field(100, ge=1, le=1000, description="Most boxes in a frame")


def strongly_changed(frame: Frame, size: tuple[int, int], flip: bool, seed: int) -> Sample:
    """Table 2 on the weakly augmented frame."""
    weak = weakly(frame, size, flip, seed)
    pixels, boxes, kept = strongly(weak.pixels, weak.boxes, np.random.default_rng(seed))
    return Sample(pixels, boxes, weak.classes[kept], seed)


# --- networks


def make_detector(config: TrainConfig, classes: int, seed: int | None = None) -> Detector:
    """The detector of a training; with a seed its weights are drawn by it, without they are to be loaded."""
    shape = Shape(
        classes, config.backbone, config.width, config.pyramid, config.head, bool(config.imagenet_weights),
        config.smallest_anchor, stretched(config.anchor_stretch), config.regions, config.anchor_samples,
        config.region_samples,
    )  # fmt: skip
    return drawn_detector(lambda: Detector(shape), config.imagenet_weights, seed)


def make_optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW."""
    learnt = [one for one in network.parameters() if one.requires_grad]
    if config.optimiser == "adam":
        return torch.optim.AdamW(learnt, config.learning_rate, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(learnt, config.learning_rate, momentum=0.9, weight_decay=config.weight_decay)


def learning_rate_at(update: int, config: TrainConfig) -> float:
    """Linear warm-up, then 1, 0.3 and 0.09 of the step size, from 3/8 and 3/4 of the updates on."""
    warm = min(1.0, (update + 1) / (config.warm_up + 1))
    falls = (8 * update >= 3 * config.updates) + (4 * update >= 3 * config.updates)
    return float(config.learning_rate * warm * 0.3**falls)


class PseudoLabels:
    """What the teacher found in each unlabelled frame: boxes (N, 4), classes (N,); part of a checkpoint."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(self, frame: int, detections: Detections) -> None:
        """Note what was found in a frame."""
        self.found[str(frame)] = (detections.boxes.cpu().float(), detections.classes.cpu())

    def labelled(self, frames: list[Frame]) -> list[Frame]:
        """The frames in which something was found, with it as their labels."""
        pairs = [(frame, self.found[str(number)]) for number, frame in enumerate(frames)]
        return [Frame(frame.pixels, *labels, labelled=False) for frame, labels in pairs if len(labels[0])]

    def state_dict(self) -> dict[str, Any]:
        """What was found so far."""
        return {"found": self.found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.found = state["found"]


# --- training


class Fit:
    """Teacher, pseudo labels and student as parts and stages of the training engine."""

    def __init__(self, frames: list[Frame], classes: int, config: TrainConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.labelled = [one for one in frames if one.labelled and one.split != "validation"]
        self.validation = [one for one in frames if one.labelled and one.split == "validation"]
        self.unlabelled = [one for one in frames if not one.labelled and one.split != "validation"]
        self.networks = {name: make_detector(config, classes, run.seed) for name in ("teacher", "student")}
        for network in self.networks.values():
            placed(network, run)
        self.optimisers = {name: make_optimiser(network, config) for name, network in self.networks.items()}
        self.best = {name: Best() for name in self.networks}
        self.pseudo, self.random = PseudoLabels(), Randomness(run.seed)
        parts: dict[str, Any] = {**self.networks, "random": self.random, "pseudo": self.pseudo}
        parts |= {f"{name} optimiser": optimiser for name, optimiser in self.optimisers.items()}
        self.training = Training(run, parts | {f"{name} best": best for name, best in self.best.items()})

    def fit_teacher(self) -> None:
        """Step a."""
        for update in self.training.stage("teacher", self.config.updates):
            self._update("teacher", update, self._draw(self.labelled, weakly, self._size()), [])

    def label(self) -> None:
        """Step b."""
        network = self.networks["teacher"]
        network.load_state_dict(self.weights("teacher"))
        for number in self.training.stage("pseudo labels", len(self.unlabelled)):
            frame, tau = self.unlabelled[number], self.config.confidence
            self.pseudo.keep(number, self.training.alone(partial(self._found, network, frame, tau)))

    def fit_student(self) -> None:
        """Step c."""
        frames = self.pseudo.labelled(self.unlabelled)
        boxes = sum(len(frame.boxes) for frame in frames)
        self.run.log(f"Pseudo labels: {boxes} boxes in {len(frames)} of {len(self.unlabelled)} unlabelled frames.")
        if not frames:
            self.run.log("The student has nothing to learn from but the labelled frames; lower “confidence”.")
        change = strongly_changed if self.config.strong_augmentation else weakly
        for update in self.training.stage("student", self.config.updates):
            size = self._size()
            known = self._draw(self.labelled, weakly, size)
            self._update("student", update, known, self._draw(frames, change, size) if frames else [])

    def weights(self, name: str) -> dict[str, Tensor]:
        """Of the best look at the validation frames; without any, as they are."""
        return self.best[name].kept(self.networks[name])

    def _size(self) -> tuple[int, int]:
        """Short and long edge that the next update's frames are fitted to."""
        share = self.random.numpy.uniform(self.config.smallest_scale, 1.0)
        return round(self.config.short_edge * share), round(self.config.long_edge * share)

    def _draw(self, frames: list[Frame], change: Callable[..., Sample], size: tuple[int, int]) -> list[Sample]:
        """This process's samples of the next update."""

        def draw(count: int) -> list[Callable[[], Sample]]:
            chosen = self.random.numpy.integers(len(frames), size=count)
            flips, seeds = self.random.numpy.uniform(size=count), self.random.numpy.integers(2**31, size=count)
            return [
                partial(change, frames[number], size, bool(flip < 0.5), int(seed))
                for number, flip, seed in zip(chosen, flips, seeds, strict=True)
            ]

        return self.training.batch(self.config.batch_size, draw)

    def _update(self, name: str, update: int, known: list[Sample], guessed: list[Sample]) -> None:
        """One update by equation 1, or equation 3 where there are frames with pseudo labels."""
        samples = [*known, *guessed]
        network, optimiser = self.networks[name], self.optimisers[name]
        set_rate(optimiser, learning_rate_at(update, self.config))
        shown, targets = batch_of(samples, self.run)
        weights = [1.0] * len(known) + [self.config.unlabelled_weight] * len(guessed)
        with self.training.autocast():
            losses = network.train()(shown, targets, [sample.seed for sample in samples], weights)
        value = self.training.step(losses.total(self.config.box_weight), optimiser)
        self.run.metric(f"{name} loss", value, update)
        if self.validation and look_due(update, self.config.validate_every, self.config.updates):
            see = partial(self._found, network, least=_LEAST)
            measure = partial(precision_on, self.validation, see)
            self.training.look(f"{name} mAP 50:95", measure, update + 1, network, self.best[name])

    def _found(self, network: Detector, frame: Frame, least: float) -> Detections:
        """What the network sees in a frame, in the frame's own pixels."""
        return look(network, frame.pixels, self.config.short_edge, self.config.long_edge, self.run, least=least)


# --- the method

_IMAGE = Role("image", Kind.IMAGE, "Frame of a video, a picture", dims="2D", reference=True)
_BOXES = Role("boxes", Kind.BOX, "A ROI around each tool, named as its kind", dims="2D", many=True, may_be_empty=True)
_FOUND = Role("boxes", Kind.BOX, "A ROI around each tool found, with its kind", dims="2D", many=True, may_be_empty=True)

_SMALL = {
    "backbone": "resnet-18", "pyramid": 32, "head": 128, "smallest_anchor": 16, "regions": 60, "anchor_samples": 64,
    "region_samples": 32, "optimiser": "adam", "learning_rate": 2e-3, "anchor_stretch": 2, "smallest_scale": 0.8,
}  # fmt: skip
_SMOKE = {"width": 8, "short_edge": 72, "long_edge": 128, "updates": 20, "batch_size": 2, "warm_up": 5,
          "validate_every": 20}  # fmt: skip
_DEMO = {"width": 16, "short_edge": 108, "long_edge": 192, "updates": 1000, "batch_size": 4, "warm_up": 50,
         "validate_every": 250}  # fmt: skip


class ToolDetection(Method):
    """Teacher, confident pseudo labels, student; see the module's docstring."""

    slug = "tool-detection"
    title = "Box surgical tools in video frames"
    sentence = "Finds surgical tools in frames, learnt from a few frames with boxes and many without."
    citation = (
        "Jiang, Xia, Wang, Jia. Semi-supervised Surgical Tool Detection Based on Highly Confident Pseudo Labeling and "
        "Strong Augmentation Driven Consistency. Deep Generative Models, and Data Augmentation, Labelling, and "
        "Imperfections (MICCAI workshops), 2021"
    )
    url = "https://doi.org/10.1007/978-3-030-88210-5_14"
    module = "MedGenLandmarks"
    group = "Boxes"
    needs = "Frames in which every tool is boxed, and others of the same kind of surgery, which need no boxes."
    limits = "A tool that no labelled frame shows is not found; frames must look like those that were learnt from."
    phantoms = ("cataract-frame",)
    demo_cases = 160
    operations = Operation.train_and_apply(
        (Pool("frames", (_IMAGE, _BOXES), "Frames, some of them with boxes", needs=("labelled",)),),
        (_IMAGE,),
        (_FOUND,),
        train=(
            "Learn from frames with boxes, then from the others too.",
            TrainConfig,
            {"smoke": {**_SMALL, **_SMOKE}, "demo": {**_SMALL, **_DEMO}, "paper": {}},
        ),
        apply=("Find the tools in a frame.", ApplyConfig, {"smoke": {"regions": 100}, "demo": {}, "paper": {}}),
    )

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None = None) -> Case:
        """The rows of the pool -> a model; rows of the test split are left out."""
        cases = prepare.load_rows(collection.rows(), (_IMAGE, _BOXES), run)
        frames, classes = frames_of(cases, config.short_edge, config.long_edge, run)
        return Case({"model": self.fit(frames, classes, config, run)})

    def fit(self, frames: list[Frame], classes: list[str], config: TrainConfig, run: Run) -> Model:
        """Train on frames in memory: all three steps, or the first alone where no frame is to be learnt from unseen."""
        began = time.monotonic()
        fit = Fit(frames, len(classes), config, run)
        fit.fit_teacher()
        alone = not config.unlabelled_weight or not fit.unlabelled
        if alone:
            run.log("There are no unlabelled frames to learn from: the model is the teacher.")
        else:
            fit.label()
            fit.fit_student()
        name = "teacher" if alone else "student"
        measured = {
            f"mAP 50:95 of the {one} on validation frames": round(fit.best[one].value, 4)
            for one in ("teacher", name)
            if fit.validation
        }
        facts = {
            "classes": ", ".join(classes),
            "labelled frames": len(fit.labelled),
            "frames with pseudo labels": 0 if alone else len(fit.pseudo.labelled(fit.unlabelled)),
            **measured,
            "seconds": round(time.monotonic() - began, 1),
        }
        return detector_model(self.slug, fit.weights(name), config, classes, facts)

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model | None = None) -> Case:
        """A frame -> its tools, best first; none where there is none."""
        assert model is not None
        trained, classes = model.trained(TrainConfig), model.noted(ClassNames).classes
        network = model.network("detector", lambda: make_detector(trained, len(classes)))
        edges, options = (trained.short_edge, trained.long_edge), config.model_dump(exclude={"confidence"})
        image, least = case.get("image", Image), config.confidence
        return Case({"boxes": boxes_found(network, classes, image, edges, run, least=least, **options)})

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        """As `medgen.frames.measured`."""
        return measured(result, reference)

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Measured on this device: an update, or a look, of the real network on one frame."""
        if isinstance(config, ApplyConfig):
            trained = TrainConfig.model_validate({}) if model is None else model.trained(TrainConfig)
            largest = max((math.prod(case.get("image", Image).shape) for case in cases), default=1)
            memory = 2**29 + 40 * largest + 50 * trained.width * trained.short_edge * trained.long_edge
            seconds = seconds_a_frame(self._to_time(trained), (trained.short_edge, trained.long_edge), run) / 3
            return Estimate(3 + seconds * len(cases), memory, 2**14 * len(cases))
        assert isinstance(config, TrainConfig)
        frames, _ = frames_of(cases, config.short_edge, config.long_edge, run)
        both = bool(config.unlabelled_weight) and not all(frame.labelled for frame in frames)
        # The student looks at twice as many frames an update as the teacher.
        network = self._to_time(config)
        seconds = seconds_a_frame(network, (config.short_edge, config.long_edge), run)
        seconds *= config.batch_size * config.updates * (3 if both else 1)
        seen = (2 if both else 1) * config.batch_size * config.short_edge * config.long_edge
        memory = 2**29 + sum(frame.pixels.numel() for frame in frames) + seen * config.width * 6
        weights = sum(one.numel() for one in network.parameters())
        return Estimate(5 + seconds, memory, 4 * weights * (1 + 8))  # the model, and both networks' checkpoints

    def _to_time(self, config: TrainConfig) -> Detector:
        return make_detector(config.model_copy(update={"imagenet_weights": ""}), 2)
