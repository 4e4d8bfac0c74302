"""Few-shot DAG: landmarks of radiographs learnt from a handful of marked ones and many that nobody marked.

Zhou, Lai, Li, Wang, Zheng, Wang, Lin, Lu, Huang, Han, Xie, Xiao, Chang-Fu, Harrison, Miao: Scalable Semi-supervised
Landmark Localization for X-ray Images Using Few-Shot Deep Adaptive Graph (2021).

What is implemented of the paper:

- the deep adaptive graph (section 2.1): a CNN's feature map is sampled (bilinear) at the vertices of a graph that
  starts as the mean shape; a global GCN moves all of them by one affine map, local GCNs then displace each one;
- its losses: equation 1 with its margin, and equation 2;
- few-shot DAG (section 2.2): the network trained on the marked images becomes student and teacher; both see the same
  image, the student's with Gaussian noise; what the teacher finds supervises the student through equations 1 and 2, and
  the Jensen-Shannon divergence of both feature maps' channel softmax (equation 3) keeps them alike; one batch of marked
  images for R of unmarked ones; the teacher follows by equation 4;
- table 1's measures: mean and standard deviation of the distances, and the share above 5 % of the image's width.
  js_weight 0 is “few-shot DAG” without JS; a table without unmarked images gives the supervised DAG.

No code was published. Where the paper is silent, ours:

- the CNN is HRNet, its four branches joined and brought to `features` channels, batch-normalised and not rectified;
  the graph's own open questions are answered in `medgen.nn.dag`. Only the last local GCN's vertices enter equation 2;
- equation 1's expectation, and so its margin, is taken image by image. Lengths are shares of the longer side of the
  image, which is brought to a square of `size` pixels;
- m, w1, w2, alpha, the noise, Adam and its steps, and the random turns, sizes, shifts and contrasts of both stages. No
  weight is warmed up: both networks start pre-trained, and their batch normalisation keeps that training's statistics;
- the teacher is what is kept. Where there is a validation split, of each stage the network with its least mean error,
  the second's start among them.

A point's confidence is ours too: 1 - spread / (5 % of the width), not below 0, where spread is how far (root mean
square) the point, carried back, lies from itself when the image is slightly turned, scaled and shifted.

Several processes: batch normalisation sees each process's own images; all else is as with the whole batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Case, Image, Points
from medgen.cohort import Collection
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.method import Config, Estimate, Kind, Method, Operation, Pool, Role, lowers_memory, paper, unit
from medgen.metrics import points as point_measures
from medgen.nn.dag import DAG, Evolution
from medgen.nn.hrnet import HRNet, joined
from medgen.pace import seconds_an_update
from medgen.radiographs import Change, Pools, changed, frame, gather, random_change
from medgen.training import EMA, Best, Randomness, Training, drawn, look_due, placed

FAILURE = 0.05  # of the image's width: a point farther off has failed (section 3)


class TrainConfig(Config):
    """How to train. Defaults are the paper's where it gives them."""

    size: int = Field(
        512, ge=32, le=2048, multiple_of=32, description="Side of the square that an image is brought to",
        json_schema_extra={**unit("px"), **lowers_memory()},
    )  # fmt: skip
    backbone: Literal["hrnet", "hrnet-small"] = Field("hrnet", description="The CNN: HRNet, or its small form")
    width: int = Field(18, ge=2, le=64, description="Channels of HRNet's finest branch")
    features: int = Field(128, ge=4, le=512, description="Channels of the feature map that the graph looks at")
    graph_width: int = Field(128, ge=4, le=512, description="Channels of the graph convolutions")
    iterations: int = Field(3, ge=1, le=10, description="Local GCNs in a row")
    margin: float = Field(
        0.02, ge=0, le=0.5, description="m of equation 1: global error that is put up with",
        json_schema_extra=unit("side"),
    )  # fmt: skip
    local_weight: float = Field(1.0, ge=0, le=100, description="w1: weight of the local loss")
    js_weight: float = Field(
        30.0, ge=0, le=1000, description="w2: weight of the JS divergence; 0: few-shot DAG without"
    )
    smoothing: float = Field(0.99, ge=0, lt=1, description="alpha: how slowly the teacher follows (equation 4)")
    noise: float = Field(
        0.02, ge=0, le=2, description="Gaussian noise on the student's images",
        json_schema_extra=unit("standard deviation"),
    )  # fmt: skip
    ratio: int = Field(
        100, ge=1, le=10_000, description="R: batches of unmarked images for one of marked",
        json_schema_extra=paper(100),
    )  # fmt: skip
    batch_size: int = Field(8, ge=1, le=256, description="Images an update", json_schema_extra=lowers_memory())
    pretrain_updates: int = Field(10_000, ge=1, le=1_000_000, description="Updates on the marked images alone")
    updates: int = Field(50_000, ge=0, le=1_000_000, description="Updates of the student; 0: the supervised DAG")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size on the marked images alone")
    student_rate: float = Field(3e-4, gt=0, le=1, description="Adam's step size for the student")
    rotation: float = Field(15.0, ge=0, le=180, description="Largest random turn", json_schema_extra=unit("degree"))
    scale: float = Field(0.15, ge=0, le=0.9, description="Largest random change of size, as a share")
    translation: float = Field(0.06, ge=0, le=0.5, description="Largest random shift", json_schema_extra=unit("side"))
    contrast: float = Field(0.3, ge=0, le=0.9, description="Largest random change of contrast and brightness")
    validate_every: int = Field(500, ge=1, le=100_000, description="Updates between looks at the validation images")


class Settings(Config):
    """What a model keeps beside its config: what its landmarks are called."""

    names: tuple[str, ...] = Field(min_length=1, max_length=100_000)

    @field_validator("names")
    @classmethod
    def _differ(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice")
        return names


class ApplyConfig(Config):
    """How to find the landmarks."""

    views: int = Field(
        8, ge=0, le=100, description="Slightly moved images that a point's confidence is taken from; 0: no confidence"
    )
    least_confidence: float = Field(
        0.0, ge=0, le=1, description="Points below it are not placed", json_schema_extra=paper(0.0)
    )


# --- networks (section 2.1)


class FeatureMap(nn.Module):
    """The CNN: (B, 1, size, size) -> (B, features, size / 4, size / 4)."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        make = HRNet.small if config.backbone == "hrnet-small" else HRNet
        self.hrnet = make(config.width, inputs=1)
        self.last = nn.Sequential(
            nn.Conv2d(15 * config.width, config.features, 1, bias=False), nn.BatchNorm2d(config.features)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.last(joined(self.hrnet(images)))


def build(config: TrainConfig, mean_shape: Tensor) -> DAG:
    """The untrained network; mean_shape: (N, 2)."""
    return DAG(FeatureMap(config), config.features, mean_shape, config.graph_width, config.iterations)


# --- losses


def global_loss(placed: Tensor, truth: Tensor, margin: float) -> Tensor:
    """Equation 1 of vertices (B, N, 2): [mean |v_global - v_gt| - m]+ of each image, their mean."""
    return F.relu((placed - truth).abs().mean(dim=(1, 2)) - margin).mean()


def local_loss(local: Tensor, truth: Tensor) -> Tensor:
    """Equation 2: mean |v_local - v_gt|."""
    return (local - truth).abs().mean()


def js_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Equation 3 of feature maps (B, C, h, w): their softmax along C, each one's divergence from the mean of both.

    The sum is divided by 2 |Omega|, Omega the batch, space and channels, so that it lies between 0 and ln(2) / C.
    """
    one, other = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    mean = torch.logaddexp(one, other) - np.log(2.0)
    total = (one.exp() * (one - mean)).sum() + (other.exp() * (other - mean)).sum()
    return total / (2 * student.numel())


def dag_loss(found: Evolution, truth: Tensor, config: TrainConfig) -> Tensor:
    """L_global + w1 L_local against vertices (B, N, 2)."""
    return global_loss(found.placed, truth, config.margin) + config.local_weight * local_loss(found.local, truth)


# --- training


class Fit:
    """Both stages, with student, teacher, optimisers and random state as parts of the training engine."""

    def __init__(self, pools: Pools, config: TrainConfig, run: Run) -> None:
        self.pools, self.config, self.run = pools, config, run
        self.student = placed(drawn(run.seed, lambda: build(config, pools.points.mean(dim=0))), run)
        self.teacher = EMA(self.student, config.smoothing)
        self.adam = torch.optim.Adam(self.student.parameters(), lr=config.learning_rate, fused=True)
        self.student_adam = torch.optim.Adam(self.student.parameters(), lr=config.student_rate, fused=True)
        self.random, self.first, self.best = Randomness(run.seed), Best(), Best()
        parts: dict[str, Any] = {"student": self.student, "teacher": self.teacher, "random": self.random}
        parts |= {"adam": self.adam, "student-adam": self.student_adam, "first": self.first, "best": self.best}
        self.training = Training(run, parts)

    def fit(self) -> dict[str, Tensor]:
        """Train on the marked images, then with the unmarked ones where there are any; the weights to keep."""
        for step in self.training.stage("pretrain", self.config.pretrain_updates):
            images, points, _ = self._batch(self.pools.marked, self.pools.points)
            self.student.train()
            with self.training.autocast():
                found = self.student(images)
            loss = dag_loss(found, points, self.config)
            self.run.metric("loss", self.training.step(loss, self.adam), step)
            self._validate(self.student, self.first, step, self.config.pretrain_updates)
        if len(self.pools.unmarked) == 0 or self.config.updates == 0:
            return self.first.kept(self.student)
        for step in self.training.stage("few-shot", self.config.updates):
            if step == 0:
                pretrained = self.first.kept(self.student)
                self.student.load_state_dict(pretrained)
                self.teacher.load_state_dict(pretrained)
                self.best.load_state_dict(self.first.state_dict())
            self.run.metric("student loss", self._teach(step), step)
            self._validate(self.graduate, self.best, step, self.config.updates)
        return self.best.kept(self.graduate)

    @property
    def graduate(self) -> nn.Module:
        """Which network the second stage validates and keeps."""
        return self.teacher.network

    def _teach(self, step: int) -> float:
        """One update of the student, and of the teacher after it; the first of every R + 1 batches is marked."""
        marked = step % (self.config.ratio + 1) == 0
        pool = (self.pools.marked, self.pools.points) if marked else (self.pools.unmarked,)
        images, points, noise = self._batch(*pool)
        self.student.eval()  # with statistics of its own, of noisy batches, the teacher would drift away from the marks
        with self.training.autocast():
            found = self.student(images + noise)
            with torch.no_grad():
                taught = None if marked else self.teacher.network(images)
        loss = dag_loss(found, points if taught is None else taught.local, self.config)
        if taught is not None and self.config.js_weight:
            loss = loss + self.config.js_weight * js_divergence(found.features, taught.features)
        value = self.training.step(loss, self.student_adam)
        self.teacher.update(self.student)
        return value

    def _batch(self, images: Tensor, points: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of a pool, each image changed at random and its points with it; and the noise for the student."""
        config, numbers = self.config, self.random.numpy

        def sample(index: int, change: Change, seed: int) -> tuple[Tensor, Tensor, Tensor]:
            image, places = changed(images[index], torch.empty(0, 2) if points is None else points[index], change)
            noise = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
            return image, places, config.noise * torch.from_numpy(noise)

        def draw(count: int) -> list[Callable[[], tuple[Tensor, Tensor, Tensor]]]:
            limits = config.rotation, config.scale, config.translation, config.contrast
            chosen = numbers.integers(len(images), size=count)
            return [
                partial(sample, int(index), random_change(*limits, numbers), int(numbers.integers(2**63)))
                for index in chosen
            ]

        drawn = zip(*self.training.batch(config.batch_size, draw), strict=True)
        image, places, noise = (torch.stack(part).to(self.run.device) for part in drawn)
        return image.contiguous(memory_format=torch.channels_last), places, noise

    def _validate(self, network: nn.Module, best: Best, step: int, last: int) -> None:
        """Mean distance in the validation images; the best network of the stage is kept."""
        if len(self.pools.shown) == 0 or not look_due(step, self.config.validate_every, last):
            return
        error = self.training.alone(lambda: self._error(network))
        self.run.metric("validation_error", error, step)
        best.offer(-error, step + 1, network)

    def _error(self, network: nn.Module) -> float:
        found = vertices_in(network, self.pools.shown, self.config.batch_size, self.run)
        return float((found - self.pools.shown_points).norm(dim=-1).mean())


@torch.no_grad()
def vertices_in(network: nn.Module, images: Tensor, batch: int, run: Run) -> Tensor:
    """Last vertices (n, N, 2) in framed images (n, 1, size, size), on the CPU."""
    network.eval()
    found = []
    for start in range(0, len(images), batch):
        with run.autocast():
            evolution = network(images[start : start + batch].to(run.device).float())
        found.append(evolution.local.float().cpu())
    return torch.cat(found)


# --- the method

_IMAGE = Role("image", Kind.IMAGE, "A radiograph", dims="2D", reference=True)
_LANDMARKS = Role("landmarks", Kind.POINTS, "Its landmarks, named alike in all; none where it is not labelled")
_FOUND = Role("landmarks", Kind.POINTS, "The landmarks; those that were not found are not placed")

_QUICK: dict[str, Any] = {"backbone": "hrnet-small", "ratio": 4, "validate_every": 50}
_SMOKE = {"size": 64, "width": 4, "features": 16, "graph_width": 32, "batch_size": 4, "learning_rate": 3e-3}
_DEMO = {"size": 96, "width": 8, "features": 32, "graph_width": 64}
_TIERS: dict[str, dict[str, Any]] = {
    "smoke": {**_QUICK, **_SMOKE, "pretrain_updates": 100, "updates": 40},
    "demo": {**_QUICK, **_DEMO, "pretrain_updates": 1200, "updates": 800},
    "paper": {},
}


class FewShotDAG(Method):
    """See the module's docstring."""

    slug = "few-shot-dag"
    title = "Find landmarks in radiographs from a few marked ones"
    sentence = "Mark a handful of radiographs, add many unmarked ones, and get the same points in new ones."
    citation = (
        "Zhou, Lai, Li, Wang, Zheng, Wang, Lin, Lu, Huang, Han, Xie, Xiao, Chang-Fu, Harrison, Miao. Scalable "
        "Semi-supervised Landmark Localization for X-ray Images Using Few-Shot Deep Adaptive Graph. Deep Generative "
        "Models, and Data Augmentation, Labelling, and Imperfections (MICCAI workshops), 2021"
    )
    url = "https://doi.org/10.1007/978-3-030-88210-5_13"
    module = "MedGenLandmarks"
    group = "Points"
    needs = "Five or more radiographs with the same landmarks, and as many unmarked ones of the same view as there are."
    limits = (
        "Every image is taken to show every landmark; mirrored or differently windowed views must be learnt from too."
    )
    phantoms = ("hand-xray",)
    demo_cases = 60
    operations = Operation.train_and_apply(
        (Pool("radiographs", (_IMAGE, _LANDMARKS), "Marked ones and others", needs=("labelled",)),),
        (_IMAGE,),
        (_FOUND,),
        train=("Learn from marked and unmarked radiographs.", TrainConfig, _TIERS),
        apply=("Find the landmarks in a radiograph.", ApplyConfig, {"smoke": {"views": 4}, "demo": {}, "paper": {}}),
    )

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None = None) -> Case:
        """A cohort's rows but those of the test split -> a model; of those not labelled the image counts."""
        cases = prepare.load_rows(collection.rows(), (_IMAGE, _LANDMARKS), run)
        return Case({"model": self.fit(cases, config, run)})

    def fit(self, cases: list[Case], config: TrainConfig, run: Run) -> Model:
        """Train on cases in memory: `image` and, where marked, `landmarks`; row["split"] as in a table."""
        began = time.monotonic()
        pools = gather(cases, config.size)
        if len(pools.unmarked) == 0 and config.updates:
            run.log("There is no unmarked image: the network is trained on the marked ones alone.")
        if len(pools.marked) < 5:
            few = "the paper's network did not converge with one, and with five it erred twice as much as with ten"
            run.log(f"Images that are marked: {len(pools.marked)}; {few}.")
        fit = Fit(pools, config, run)
        weights = fit.fit()
        best = fit.best if fit.best.weights else fit.first
        facts = {
            "landmarks": ", ".join(pools.names),
            "marked images": len(pools.marked),
            "unmarked images": len(pools.unmarked),
            "validation error (% of the side)": round(-100 * best.value, 3) if best.weights else "not measured",
            "seconds": round(time.monotonic() - began, 1),
        }
        settings = {"names": pools.names}
        return Model(self.slug, {"dag": weights}, config.model_dump(mode="json"), settings, facts)

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model | None = None) -> Case:
        """A radiograph -> its landmarks with, unless there are no views, a confidence each."""
        assert model is not None
        image, trained, names = case.get("image", Image), model.trained(TrainConfig), list(model.noted(Settings).names)
        if config.least_confidence and not config.views:
            raise UserError("“least_confidence” is set, but “views” is 0 and gives no confidence; raise “views”.")
        framed = frame(image, trained.size)
        network = model.network("dag", lambda: build(trained, torch.zeros(len(names), 2))).to(run.device)
        random = np.random.default_rng(0)
        changes = [Change(), *(random_change(4.0, 0.04, 0.015, 0.1, random) for _ in range(config.views))]
        none = torch.empty(0, 2)
        views = torch.stack([changed(framed.data, none, change)[0] for change in changes])
        found = vertices_in(network, views, trained.batch_size, run)
        positions = framed.positions(found[0])
        confidence = None
        if config.views:
            back = torch.stack([change.undone(one) for change, one in zip(changes, found, strict=True)])
            spread = framed.millimetres(back[1:] - back[0]).square().sum(-1).mean(0) ** 0.5
            confidence = np.clip(1 - spread.numpy() / (FAILURE * framed.width), 0, 1)
        lost = ~framed.inside(found[0])
        if confidence is not None:
            lost |= confidence < config.least_confidence
            confidence[lost] = 0.0
        positions[lost] = np.nan
        if lost.any():
            run.log(f"Not found in “{image.name or 'the image'}”: {', '.join(np.array(names)[lost])}.")
        return Case({"landmarks": Points(positions, names, confidence, "landmarks")})

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        """Distances in mm, as `medgen.metrics.points.measures` has them, and table 1's: standard deviation, and the
        share of points not found or farther off than 5 % of the image's width (where the image is given)."""
        found, meant = result.get("landmarks", Points), reference.get("landmarks", Points)
        image = reference.get("image", Image) if "image" in reference else None
        try:
            measures = point_measures.measures(found, meant, None if image is None else image.affine)
            apart, _ = point_measures.distances(found, meant)
        except ValueError as error:
            raise UserError(f"Found and reference landmarks cannot be compared: {error}; name them alike.") from None
        if np.isfinite(apart).any():
            measures["std mm"] = float(np.nanstd(apart))
        if image is not None and len(apart):
            limit = FAILURE * image.shape[0] * float(image.spacing[0])
            measures["failure rate"] = float((~(apart <= limit)).mean())
        return measures

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Measured on this device: an update of the real CNN on small images, scaled to what the run will do."""
        if isinstance(config, ApplyConfig):
            if model is None:
                return Estimate(3 + 2.0 * len(cases), 2**29, 2**14 * len(cases))
            trained = model.trained(TrainConfig)
            seconds = 3 + len(cases) * (0.05 + _seconds_an_update(trained, 1 + config.views, run) / 3)
            return Estimate(seconds, 2**29 + trained.batch_size * _image_bytes(trained) // 3, 2**14 * len(cases))
        assert isinstance(config, TrainConfig)
        learnt = [case for case in cases if case.row.get("split") != "test"]
        pools = gather(learnt, 32)
        update = _seconds_an_update(config, config.batch_size, run)
        taught = config.updates if len(pools.unmarked) else 0
        looks = (config.pretrain_updates + taught) / config.validate_every * len(pools.shown) / config.batch_size
        seconds = 5 + 1.2 * update * (config.pretrain_updates + 1.35 * taught + looks / 3)
        memory = 2**29 + config.batch_size * _image_bytes(config) + 2 * config.size**2 * len(learnt)
        return Estimate(seconds, memory, 2**27)


def _seconds_an_update(config: TrainConfig, images: int, run: Run) -> float:
    """Of so many images: what one small image takes, most of it the same whatever is looked at, and what more add."""
    network = FeatureMap(config)
    one, four = (seconds_an_update(network, (count, 1, 64, 64), run) for count in (1, 4))
    return one + max(0.0, four - one) / 3 * max(0.0, images * (config.size / 64) ** 2 - 1)


def _image_bytes(config: TrainConfig) -> int:
    """About what one image of a batch takes in a training: the maps of a quarter's size weigh most."""
    maps = 700 if config.backbone == "hrnet" else 160
    return config.size**2 // 16 * 4 * maps * max(config.width, 4) // 4
