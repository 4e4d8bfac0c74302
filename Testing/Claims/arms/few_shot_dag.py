"""Few-shot DAG beside the supervised DAG, a heatmap network and other ways to learn from unmarked images, on hands.

Per seed: a few marked hands, many unmarked ones, some that validate, and others to find the landmarks in. All arms see
the same images, framed and changed at random alike, by the same number of updates; those that learn from unmarked
images start from one and the same pre-trained DAG.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen import phantoms, prepare
from medgen.case import Case, Image, Points
from medgen.cohort import read_pool
from medgen.jobs import Run
from medgen.landmarks.few_shot_dag import (
    FAILURE,
    FeatureMap,
    FewShotDAG,
    Fit,
    TrainConfig,
    build,
    dag_loss,
    vertices_in,
)
from medgen.method import Pool
from medgen.metrics.points import distances
from medgen.nn.heatmaps import argmax, gaussians
from medgen.phantoms.cohort import write_cohort
from medgen.radiographs import Pools, changed, frame, gather, random_change

SIGMA = 1.5  # of a heatmap's Gaussian, in its own pixels


# --- the paper's other ways to learn from unmarked images


class PseudoLabel(Fit):
    """The pre-trained DAG stays the teacher; the student is kept."""

    def __init__(self, pools: Pools, config: TrainConfig, run: Run) -> None:
        super().__init__(pools, config, run)
        self.teacher.update = lambda network: None  # type: ignore[method-assign]

    @property
    def graduate(self) -> nn.Module:
        return self.student


class PiModel(Fit):
    """No teacher: what the student itself finds without the noise is what it should find with it."""

    def _teach(self, step: int) -> float:
        marked = step % (self.config.ratio + 1) == 0
        pool = (self.pools.marked, self.pools.points) if marked else (self.pools.unmarked,)
        images, points, noise = self._batch(*pool)
        self.student.eval()
        with self.training.autocast():
            found = self.student(images + noise)
            target = points if marked else self.student(images).local.detach()
        return self.training.step(dag_loss(found, target, self.config), self.student_adam)

    @property
    def graduate(self) -> nn.Module:
        return self.student


class TemporalEnsemble(Fit):
    """Each unmarked image has a target, the running mean of what was found in it after each epoch (Laine and Aila)."""

    memory = 0.6

    def __init__(self, pools: Pools, config: TrainConfig, run: Run) -> None:
        super().__init__(pools, config, run)
        self.targets = torch.zeros(len(pools.unmarked), *pools.points.shape[1:])
        self.unmarked_batches = self.epochs = 0

    def _teach(self, step: int) -> float:
        if step % (self.config.ratio + 1) == 0:
            images, points, noise = self._batch(self.pools.marked, self.pools.points)
        else:
            if self.unmarked_batches % max(1, len(self.pools.unmarked) // self.config.batch_size) == 0:
                found = vertices_in(self.student, self.pools.unmarked, self.config.batch_size, self.run)
                self.targets = self.memory * self.targets + (1 - self.memory) * found
                self.epochs += 1
            self.unmarked_batches += 1
            corrected = self.targets / (1 - self.memory**self.epochs)  # a mean that started from 0 is too small
            images, points, noise = self._batch(self.pools.unmarked, corrected)
        self.student.eval()
        with self.training.autocast():
            found = self.student(images + noise)
        return self.training.step(dag_loss(found, points, self.config), self.student_adam)

    @property
    def graduate(self) -> nn.Module:
        return self.student


WAYS: dict[str, tuple[type[Fit], dict[str, Any]]] = {
    "few-shot DAG": (Fit, {"js_weight": 0.0}),
    "few-shot DAG + JS": (Fit, {}),
    "pseudo-label": (PseudoLabel, {"js_weight": 0.0}),
    "Pi-model": (PiModel, {"js_weight": 0.0}),
    "temporal ensemble": (TemporalEnsemble, {"js_weight": 0.0}),
}


# --- the heatmap baseline


class SpatialConfigurationNet(nn.Module):
    """Heatmaps as a product of what a landmark looks like and where the others say it is (Payer et al. 2019).

    The appearance comes from the same CNN as the DAG's features; the configuration from three wide convolutions of it
    at a quarter of its size. (B, 1, size, size) -> (B, N, size / 4, size / 4).
    """

    def __init__(self, config: TrainConfig, points: int) -> None:
        super().__init__()
        self.cnn = FeatureMap(config)
        self.appearance = nn.Conv2d(config.features, points, 1)
        layers: list[nn.Module] = []
        for inputs, outputs in ((points, config.features), (config.features, config.features)):
            layers += [nn.Conv2d(inputs, outputs, 7, padding=3), nn.LeakyReLU(0.1)]
        self.configuration = nn.Sequential(*layers, nn.Conv2d(config.features, points, 7, padding=3), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        local = self.appearance(F.relu(self.cnn(images)))
        coarse = self.configuration(F.avg_pool2d(local, 4))
        return local * F.interpolate(coarse, size=local.shape[-2:], mode="bilinear", align_corners=False)


def heatmap_network(pools: Pools, config: TrainConfig, updates: int, run: Run) -> nn.Module:
    """Trained on the marked images with the mean squared error to Gaussians, with the weights that validated best."""
    torch.manual_seed(run.seed)
    network = SpatialConfigurationNet(config, len(pools.names)).to(run.device)
    adam, random = torch.optim.Adam(network.parameters(), lr=config.learning_rate), np.random.default_rng(run.seed)
    limits, side = (config.rotation, config.scale, config.translation, config.contrast), config.size // 4
    least, best = np.inf, network.state_dict()
    for step in range(updates):
        batch = [
            changed(pools.marked[index], pools.points[index], random_change(*limits, random))
            for index in random.integers(len(pools.marked), size=config.batch_size)
        ]
        images, places = (torch.stack(part).to(run.device) for part in zip(*batch, strict=True))
        network.train()
        with run.autocast():
            maps = network(images)
        loss = F.mse_loss(10 * maps.float(), 10 * gaussians(places * side - 0.5, (side, side), SIGMA))
        loss.backward()
        adam.step()
        adam.zero_grad()
        if (step + 1) % config.validate_every == 0 or step + 1 == updates:
            error = float((heatmap_places(network, pools.shown, run) - pools.shown_points).norm(dim=-1).mean())
            if error < least:
                least, best = error, {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(best)
    return network


@torch.no_grad()
def heatmap_places(network: nn.Module, images: Tensor, run: Run) -> Tensor:
    """(n, N, 2): the peaks of the heatmaps, on the CPU."""
    network.eval()
    maps = torch.cat([network(part.to(run.device).float()).cpu() for part in images.split(16)])
    return (argmax(maps)[0] + 0.5) / maps.shape[-1]


# --- the arms


def run_seed(seed: int, registration: Any, folder: Path, done: set[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Every arm on the hands of a seed."""
    settings, train = registration.settings, FewShotDAG().operation("train")
    learnt, tested = _hands(folder / f"hands-{seed}", seed, settings)
    config = train.configure(settings["tier"], {**settings["train"]})
    assert isinstance(config, TrainConfig)
    pools = gather(learnt, config.size)
    for arm in registration.arms:
        if arm.name in done:
            continue
        if arm.role == "trivial":
            mean = _mean_shape(learnt)
            rows = [_errors(Points(mean, pools.names), case) for case in tested]
            yield arm.name, _means(rows)
            continue
        images = torch.stack([frame(case.get("image", Image), config.size).data for case in tested])
        if arm.name == "heatmap":
            run = Run(folder / f"run-{seed}" / arm.name, seed=seed)
            places = heatmap_places(heatmap_network(pools, config, arm.updates, run), images, run)
        else:
            run, way, changes = _prepared(arm.name, arm.updates, pools, config, folder / f"run-{seed}", seed)
            chosen = train.configure(settings["tier"], {**settings["train"], **changes})
            weights = way(pools, chosen, run).fit()  # type: ignore[arg-type]
            network = build(config, weights["mean_shape"].cpu()).to(run.device)
            network.load_state_dict(weights)
            places = vertices_in(network, images, config.batch_size, run)
        rows = []
        for case, place in zip(tested, places, strict=True):
            positions = frame(case.get("image", Image), config.size).positions(place)
            rows.append(_errors(Points(positions, pools.names), case))
        yield arm.name, _means(rows)


def _prepared(
    arm: str, updates: int, pools: Pools, config: TrainConfig, folder: Path, seed: int
) -> tuple[Run, type[Fit], dict[str, Any]]:
    """How to train an arm; those that learn from unmarked images resume a copy of the seed's pre-training."""
    if arm == "DAG":
        return Run(folder / "dag", seed=seed), Fit, {"pretrain_updates": updates, "updates": 0}
    way, changes = WAYS[arm]
    pretrained, own = folder / "pretrained", folder / arm.replace(" ", "-")
    if not (pretrained / "checkpoint.pt").exists():
        first = FewShotDAG().operation("train").configure(None, {**config.model_dump(), "updates": 0})
        Fit(pools, first, Run(pretrained, seed=seed)).fit()  # type: ignore[arg-type]
    shutil.copytree(pretrained, own, dirs_exist_ok=True)
    left = updates - config.pretrain_updates
    return Run(own, seed=seed, resume=True), way, {**changes, "updates": left}


def _hands(folder: Path, seed: int, settings: dict[str, Any]) -> tuple[list[Case], list[Case]]:
    """Cases to learn from (marked, unmarked, validation), and cases to be measured on."""
    counts = [settings[name] for name in ("marked", "unmarked", "validation", "tested")]
    pool = Pool("hands", FewShotDAG().operation("train").pools[0].roles)
    if not folder.exists():  # written without the phantom's rule of few labels: who is marked is decided below
        hands = phantoms.PHANTOMS["hand-xray"]
        options = {"size": tuple(settings["size"])}
        write_cohort(hands.name, hands.roles, hands.make, sum(counts), seed, folder, options)
    cases = [prepare.load_row(row, pool.roles, lambda text: None) for row in read_pool(folder / "cohort.csv", pool)]
    marked, unmarked, validation, _ = np.cumsum(counts)
    for number, case in enumerate(cases[:validation]):
        case.row = {"labelled": "no" if marked <= number < unmarked else "yes"}
        case.row["split"] = "validation" if number >= unmarked else "train"
    return cases[:validation], cases[validation:]


def _mean_shape(cases: list[Case]) -> np.ndarray:
    marked = [case for case in cases if case.row["labelled"] == "yes" and case.row["split"] == "train"]
    return np.mean([case.get("landmarks", Points).positions for case in marked], axis=0)


def _errors(found: Points, case: Case) -> np.ndarray:
    """(2, points): how far each lies off in mm, and whether that is more than 5 % of the image's width."""
    apart, _ = distances(found, case.get("landmarks", Points))
    image = case.get("image", Image)
    return np.stack([apart, apart > FAILURE * image.shape[0] * float(image.spacing[0])])


def _means(rows: list[np.ndarray]) -> dict[str, float]:
    apart, failed = np.stack(rows).transpose(1, 0, 2)
    return {"mm": float(apart.mean()), "std": float(apart.std()), "failed": float(failed.mean())}
