"""Figures of several panels are taken apart: a box around each, and each as a picture of its own.

Yao, Qu, Liu, Deng, Tian, Xu, Jha, Bao, Zhao, Fogo, Landman, Chang, Yang, Huo: Compound Figure Separation of Biomedical
Images with Side Loss (2021).

What is implemented of the paper:

- an anchor-based one-stage detector with three layers (section 3.1) and its four losses (section 3.3): boxes, objects,
  classes, and the side loss of equations 1 and 2, which penalises boxes that reach beyond the true ones; their weights
  lambda_1 to lambda_4;
- the simulator of compound figures (section 3.2, `medgen.simulatedfigures`): single images, whose proportions stay,
  side by side in rows of random heights or columns of random widths; intra-class augmentation, in which all images are
  of one class; figures of one image (shares of section 4: 2000 and 2947 of 9947);
- learning from simulated figures alone or from boxes drawn by hand (table 1); mAP 50:95.

The paper takes YOLOv5, whose code is published under the GPL and not copied: its losses and its rule of assignment are
written from their description (`medgen.nn.one_stage`), and in place of its CSP backbone, its path aggregation and its
mosaics stands a ResNet with a feature pyramid, which learns from scratch unless it is given ImageNet weights. The side
loss is in cells of each layer, a mean over the boxes found there, and the sum is multiplied by the batch size, as in
the authors' code, whose lambda_4 is lambda_1 / 20: we take the paper's lambda_1 / 30. Of boxes that overlap, the best
one stays whatever its class, because panels do not overlap.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Box, Case, Class, Image
from medgen.cohort import Collection
from medgen.errors import UserError
from medgen.frames import (
    ClassNames,
    Frame,
    Sample,
    batch_of,
    boxes_found,
    boxes_from,
    boxes_in,
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
from medgen.method import Config, Estimate, Kind, Method, Operation, Pool, Role, lowers_memory, paper
from medgen.nn.detector import Detections, Shape, Targets, stretched
from medgen.nn.one_stage import Losses, OneStage, losses_of
from medgen.pace import seconds_an_update
from medgen.simulatedfigures import FigureConfig, simulated, singles_of
from medgen.training import Best, Randomness, Training, look_due, placed, set_rate

_LEAST = 0.05  # score of the weakest boxes that mAP counts


class TrainConfig(FigureConfig):
    """How to train. Defaults are the paper's where it gives them."""

    learn_from: Literal["simulated", "boxes"] = Field(
        "simulated", description="Figures simulated from single images or boxed panels, or the boxes drawn in figures",
        json_schema_extra=paper("simulated"),
    )  # fmt: skip
    side_weight: float = Field(
        1 / 30, ge=0, le=10, description="lambda_4 / lambda_1: weight of the side loss beside that on boxes; 0: none",
        json_schema_extra=paper(1 / 30),
    )  # fmt: skip
    box_weight: float = Field(0.5, gt=0, le=100, description="“box” of lambda_1", json_schema_extra=paper(0.5))
    object_weight: float = Field(1.0, gt=0, le=100, description="“obj” of lambda_2", json_schema_extra=paper(1.0))
    class_weight: float = Field(
        0.5,
        gt=0,
        le=1000,
        description="“cls” of lambda_3, which is a class's 80th of it",
        json_schema_extra=paper(0.5),
    )
    updates: int = Field(
        7800, ge=1, le=1_000_000, description="Gradient updates (50 epochs of 9947 figures)",
        json_schema_extra=paper(7800),
    )  # fmt: skip
    batch_size: int = Field(
        64, ge=1, le=256, description="Figures an update", json_schema_extra={**paper(64), **lowers_memory()}
    )
    smallest_scale: float = Field(
        0.5, ge=0.1, le=1, description="In training, the long edge is drawn from this share of itself upwards"
    )
    backbone: Literal["resnet-18", "resnet-50"] = Field("resnet-50", description="Residual network that sees figures")
    width: int = Field(
        64, ge=8, le=128, multiple_of=8, description="Channels of the backbone's first stage",
        json_schema_extra=lowers_memory(),
    )  # fmt: skip
    pyramid: int = Field(256, ge=8, le=512, description="Channels of the feature pyramid")
    smallest_anchor: float = Field(
        64.0, ge=4, le=1024, description="Side of the finest layer's anchors; each layer's are twice as large",
        json_schema_extra={"unit": "px"},
    )  # fmt: skip
    anchor_stretch: int = stretch_field()
    imagenet_weights: str = imagenet_field()
    optimiser: Literal["sgd", "adam"] = Field("sgd", description="SGD, or AdamW", json_schema_extra=paper("sgd"))
    learning_rate: float = Field(0.01, gt=0, le=1, description="Step size once warm", json_schema_extra=paper(0.01))
    momentum: float = Field(0.937, ge=0, lt=1, description="Momentum of SGD", json_schema_extra=paper(0.937))
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Weight decay", json_schema_extra=paper(5e-4))
    warm_up: int = Field(500, ge=0, le=100_000, description="Updates over which the step size grows from 0")
    validate_every: int = Field(500, ge=1, le=1_000_000, description="Updates between looks at the validation figures")


class ApplyConfig(Config):
    """How to find panels."""

    confidence: float = Field(0.25, ge=0, le=1, description="Least confidence of a box (0.05 where mAP is measured)")
    overlap: float = Field(0.45, ge=0, le=1, description="Of two boxes that overlap by more, one is dropped")
    most: int = Field(100, ge=1, le=1000, description="Most panels of a figure")


class CutConfig(Config):
    """How to cut panels out."""

    inset: float = Field(
        0.0, ge=0, le=100, description="What is left out along each edge of a box", json_schema_extra={"unit": "px"}
    )


# --- network and losses


def side_loss(found: Tensor, true: Tensor) -> Tensor:
    """Equations 1 and 2: boxes (K, 4) -> (K,), by how much each reaches beyond the true one, all sides together."""
    beyond = torch.cat((true[:, :2] - found[:, :2], found[:, 2:] - true[:, 2:]), dim=1)
    return F.relu(beyond).sum(dim=1)


def total_loss(losses: Losses, config: TrainConfig, classes: int, batch: int) -> tuple[Tensor, Tensor]:
    """L_total of section 3.3, times the batch's size, and the side loss in it; with three layers, their share of three
    is 1."""
    pairs = zip(losses.found, losses.true, strict=True)
    side = torch.stack([losses.box * 0, *(side_loss(found, true).mean() for found, true in pairs)]).sum()
    total = (
        config.box_weight * (losses.box + config.side_weight * side)
        + config.object_weight * (config.size / 640) ** 2 * losses.objects
        + config.class_weight * classes / 80 * losses.classes
    )
    return batch * total, side.detach()


def make_network(config: TrainConfig, classes: int, seed: int | None = None) -> OneStage:
    """The detector of a training; with a seed its weights are drawn by it, without they are to be loaded."""
    shape = Shape(
        classes, config.backbone, config.width, config.pyramid, frozen=bool(config.imagenet_weights),
        smallest=config.smallest_anchor, ratios=stretched(config.anchor_stretch),
    )  # fmt: skip
    return drawn_detector(lambda: OneStage(shape), config.imagenet_weights, seed)


# --- training


class Fit:
    """The detector as parts and a stage of the training engine."""

    def __init__(self, frames: list[Frame], classes: int, config: TrainConfig, run: Run) -> None:
        self.config, self.run = config, run
        self.figures = [one for one in frames if one.labelled and one.split != "validation"]
        self.validation = [one for one in frames if one.labelled and one.split == "validation"]
        self.singles = singles_of(self.figures) if config.learn_from == "simulated" else []
        if config.learn_from == "simulated" and not self.singles:
            raise UserError(
                "No box of the training pictures is 2 pixels wide and high at the working size; raise “size”, or set "
                "“learn_from” to boxes."
            )
        self.network = placed(make_network(config, classes, run.seed), run)
        learnt = [one for one in self.network.parameters() if one.requires_grad]
        rate, decay = config.learning_rate, config.weight_decay
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.AdamW(learnt, rate, weight_decay=decay, fused=True)
            if config.optimiser == "adam"
            else torch.optim.SGD(learnt, rate, momentum=config.momentum, weight_decay=decay, nesterov=True)
        )
        self.best, self.random = Best(), Randomness(run.seed)
        parts: dict[str, Any] = {"detector": self.network, "optimiser": self.optimiser, "random": self.random}
        self.training = Training(run, {**parts, "best": self.best})

    def fit(self) -> dict[str, Tensor]:
        """The weights of the best look at the validation figures; without any, the last."""
        config = self.config
        for update in self.training.stage("fit", config.updates):
            set_rate(self.optimiser, _rate_at(update, config))
            images, targets = batch_of(self._samples(), self.run)
            with self.training.autocast():
                found = self.network.train()(images)
            losses = losses_of(self.network, found, targets)
            total, side = total_loss(losses, config, self.network.classes, len(targets))
            self.run.metric("loss", self.training.step(total, self.optimiser), update)
            self.run.metric("side loss", float(side), update)
            if self.validation and look_due(update, config.validate_every, config.updates):
                measure = partial(precision_on, self.validation, self.see)
                self.training.look("mAP 50:95", measure, update + 1, self.network, self.best)
        return self.best.kept(self.network)

    def see(self, frame: Frame) -> Detections:
        """What the network finds in a figure, weak boxes too."""
        return look(self.network, frame.pixels, self.config.size, self.config.size, self.run, least=_LEAST)

    def _samples(self) -> list[Sample]:
        """This process's figures of the next update, resized and, half of them, mirrored."""
        edge = round(self.config.size * self.random.numpy.uniform(self.config.smallest_scale, 1.0))

        def draw(count: int) -> list[Callable[[], Sample]]:
            seeds = self.random.numpy.integers(2**31, size=count)
            return [partial(self._sample, int(seed), (edge, edge)) for seed in seeds]

        return self.training.batch(self.config.batch_size, draw)

    def _sample(self, seed: int, size: tuple[int, int]) -> Sample:
        rng = np.random.default_rng(seed)
        if self.singles:
            figure = simulated(self.singles, self.config, rng)
        else:
            figure = self.figures[int(rng.integers(len(self.figures)))]
        return weakly(figure, size, bool(rng.uniform() < 0.5), seed)


def _rate_at(update: int, config: TrainConfig) -> float:
    """Linear warm-up, and a linear fall to a fifth at the end."""
    warm = min(1.0, (update + 1) / (config.warm_up + 1))
    return config.learning_rate * warm * (1 - 0.8 * update / config.updates)


class _Timed(nn.Module):
    """A detector whose forward pass is its loss on figures of one panel."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config.model_copy(update={"imagenet_weights": ""})
        self.network = make_network(self.config, 4)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, rows, columns) -> the loss."""
        size = (images.shape[2], images.shape[3])
        panel = images.new_tensor([[0.0, 0.0, size[1], size[0]]])
        target = Targets(panel, torch.zeros(1, dtype=torch.long, device=images.device), size)
        losses = losses_of(self.network, self.network(images), [target] * len(images))
        return total_loss(losses, self.config, 4, len(images))[0]


# --- the method

_IMAGE = Role("image", Kind.IMAGE, "Figure, or a single image", dims="2D", reference=True)
_BOXES = Role(
    "boxes", Kind.BOX, "A ROI around each panel, named as its class; of a single image, one around all of it",
    dims="2D", many=True, optional=True, may_be_empty=True,
)  # fmt: skip
_KIND = Role("kind", Kind.CLASS, "Class of a single image, in place of a ROI around it", optional=True)
_FOUND = Role("boxes", Kind.BOX, "A ROI around each panel, with its class", dims="2D", many=True, may_be_empty=True)
_PANELS = Role("panels", Kind.IMAGE, "Each panel as a picture of its own", dims="2D", many=True, may_be_empty=True)

_SMALL = {
    "backbone": "resnet-18", "pyramid": 32, "optimiser": "adam", "learning_rate": 2e-3, "box_weight": 4.0,
    "object_weight": 20.0, "class_weight": 60.0,
}  # fmt: skip
_SMOKE = {"width": 8, "size": 128, "smallest_anchor": 20, "updates": 20, "batch_size": 2, "warm_up": 5,
          "validate_every": 20}  # fmt: skip
_DEMO = {"width": 16, "size": 224, "smallest_anchor": 28, "updates": 1500, "batch_size": 4, "warm_up": 50,
         "smallest_scale": 0.7, "validate_every": 300}  # fmt: skip


class CompoundFigures(Method):
    """Simulated figures, a one-stage detector with side loss; see the module's docstring."""

    slug = "compound-figures"
    title = "Take figures of several panels apart"
    sentence = "Finds the panels of a compound figure and their classes, learnt from single images, and cuts them out."
    citation = (
        "Yao, Qu, Liu, Deng, Tian, Xu, Jha, Bao, Zhao, Fogo, Landman, Chang, Yang, Huo. Compound Figure Separation of "
        "Biomedical Images with Side Loss. Deep Generative Models, and Data Augmentation, Labelling, and Imperfections "
        "(MICCAI workshops), 2021"
    )
    url = "https://doi.org/10.1007/978-3-030-88210-5_16"
    module = "MedGenLandmarks"
    group = "Boxes"
    needs = "Single images of each class (or figures with a ROI around each panel)."
    limits = "Panels of classes that were not learnt are missed or misnamed; insets within panels are not parted."
    phantoms = ("compound-figure",)
    demo_cases = 40
    operations = (
        *Operation.train_and_apply(
            (Pool("pictures", (_IMAGE, _BOXES, _KIND), "Single images, or figures with a ROI around each panel"),),
            (_IMAGE,),
            (_FOUND,),
            train=(
                "Learn from figures simulated of single images, or from boxes.",
                TrainConfig,
                {"smoke": {**_SMALL, **_SMOKE}, "demo": {**_SMALL, **_DEMO}, "paper": {}},
            ),
            apply=("Find the panels of a figure.", ApplyConfig, {}),
        ),
        Operation(
            "cut-out",
            "Cut out",
            "Save what lies in each ROI as a picture of its own.",
            CutConfig,
            inputs=(_IMAGE, replace(_BOXES, help="ROIs: found, corrected, or drawn by hand", optional=False)),
            outputs=(_PANELS,),
        ),
    )

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None = None) -> Case:
        """The rows of the pool -> a model; rows of the test split are left out."""
        rows = [row for row in collection.rows() if row.labelled]
        cases = [boxed(case) for case in prepare.load_rows(rows, (_IMAGE, _BOXES, _KIND), run)]
        frames, classes = frames_of(cases, config.size, config.size, run)
        return Case({"model": self.fit(frames, classes, config, run)})

    def fit(self, frames: list[Frame], classes: list[str], config: TrainConfig, run: Run) -> Model:
        """Train on pictures in memory."""
        began = time.monotonic()
        fit = Fit(frames, len(classes), config, run)
        weights = fit.fit()
        facts = {
            "classes": ", ".join(classes),
            "pictures": len(fit.figures),
            "single images or panels": sum(len(one.boxes) for one in fit.figures),
            **({"mAP 50:95 on validation figures": round(fit.best.value, 4)} if fit.validation else {}),
            "seconds": round(time.monotonic() - began, 1),
        }
        return detector_model(self.slug, weights, config, classes, facts)

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model | None = None) -> Case:
        """A figure -> its panels, best first; none where there is none."""
        assert model is not None
        trained, classes = model.trained(TrainConfig), model.noted(ClassNames).classes
        network = model.network("detector", lambda: make_network(trained, len(classes)))
        options = {"least": config.confidence, "overlap": config.overlap, "most": config.most}
        size = (trained.size, trained.size)
        return Case({"boxes": boxes_found(network, classes, case.get("image", Image), size, run, **options)})

    def cut_out(self, case: Case, config: CutConfig, run: Run, model: Model | None = None) -> Case:
        """A figure and ROIs -> what lies in each, whole pixels, where it lies in the figure, named as its ROI."""
        image, rois = case.get("image", Image), case.many("boxes")
        panels = []
        for roi, place in zip(rois, boxes_in(image, rois, case.label), strict=True):
            x1, y1, x2, y2 = (round(value) for value in place + config.inset * np.array([1, 1, -1, -1]))
            if x2 <= x1 or y2 <= y1:
                raise UserError(f"Box “{roi.name}” holds no whole pixel; enlarge it, or lower “inset”.")
            affine = image.affine.copy()
            affine[:3, 3] += affine[:3, :2] @ (x1, y1)
            panels.append(replace(image, data=image.data[:, x1:x2, y1:y2].clone(), affine=affine, name=roi.name))
        return Case({"panels": panels})

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        """As `medgen.frames.measured`."""
        return measured(result, reference) if "boxes" in result else {}

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Measured on this device: an update of the real network on small figures."""
        if isinstance(config, CutConfig):
            for case in cases:
                boxes_in(case.get("image", Image), case.many("boxes"), case.label)
            return super().estimate(operation, cases, config, run, model)
        trained = config if isinstance(config, TrainConfig) else TrainConfig.model_validate({})
        trained = trained if model is None else model.trained(TrainConfig)
        edge = min(trained.size, 256) // 32 * 32
        seconds = seconds_an_update(_Timed(trained), (2, 3, edge, edge), run, updates=2) / 2
        seconds *= (trained.size / edge) ** 2
        seen = 16 * trained.width * trained.size**2
        if isinstance(config, ApplyConfig):
            largest = max((math.prod(case.get("image", Image).shape) for case in cases), default=1)
            return Estimate(3 + seconds / 3 * len(cases), 2**29 + 40 * largest + seen, 2**14 * len(cases))
        drawn = [boxed(case) for case in cases if case.row.get("labelled") != "no"]
        frames, _ = frames_of(drawn, trained.size, trained.size, run)
        memory = 2**29 + sum(frame.pixels.numel() for frame in frames) + trained.batch_size * seen
        weights = sum(one.numel() for one in _Timed(trained).parameters())
        return Estimate(5 + seconds * trained.batch_size * trained.updates, memory, 4 * weights * 5)


def boxed(case: Case) -> Case:
    """A case with a box around all of the picture where its class is given in place of boxes."""
    if "boxes" in case:
        return case
    if "kind" not in case:
        raise UserError(f"{case.label or 'A picture'} has neither boxes nor a class; fill in “boxes” or “kind”.")
    image = case.get("image", Image)
    around: list[Box] = boxes_from(np.array([[0.0, 0.0, *image.shape]]), [case.get("kind", Class).label], [1.0], image)
    return replace(case, values={**case.values, "boxes": around})
