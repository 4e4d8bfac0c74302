"""Frequency supervision against its base network, and what the paper sets beside it, on heads of other patients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgen import phantoms, prepare
from medgen.case import Case, Image
from medgen.cohort import read_collection
from medgen.jobs import Run
from medgen.nn.instance_unet import he_initialise
from medgen.synthesis.frequency_mr_to_ct import (
    ApplyConfig,
    FrequencyMRToCT,
    PlainSynthesis,
    TrainConfig,
    fit_pairs,
    synthesise,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "base": {"supervision": "plain", "adversarial": False},
    "base + boundary refinement": {"supervision": "plain", "adversarial": False},
    "3D GAN": {"supervision": "plain", "adversarial": True},
    "frequency": {"supervision": "frequency", "adversarial": False},
    "frequency + adversarial": {"supervision": "frequency", "adversarial": True},
}


class BoundaryRefinement(nn.Module):
    """The base network's CT plus a residual, conv 3^3 - ReLU - conv 3^3 of it (Peng et al. 2017, figure 2c)."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.plain = PlainSynthesis(config.base, config.width)
        self.residual = nn.Sequential(
            nn.Conv3d(1, config.width, 3, padding=1), nn.ReLU(), nn.Conv3d(config.width, 1, 3, padding=1)
        )
        he_initialise(self.residual)

    def forward(self, mr: Tensor) -> Tensor:
        ct = self.plain(mr)
        return ct + self.residual(ct).float()


class Lookup:
    """The mean CT value of each MR intensity (100 bins of percentiles) in the training pairs: no context at all."""

    def __init__(self, cases: list[Case]) -> None:
        mr = np.concatenate([self._ranks(case).ravel() for case in cases])
        ct = np.concatenate([case.get("ct", Image).data.numpy().ravel() for case in cases])
        bins = np.minimum((mr * 100).astype(int), 99)
        self.means = np.bincount(bins, ct, 100) / np.maximum(np.bincount(bins, minlength=100), 1)

    @staticmethod
    def _ranks(case: Case) -> np.ndarray:
        """Intensities from 0 to 1 by their place among the percentiles of the volume."""
        values = case.get("mr", Image).data.float().numpy()
        return np.interp(values, np.percentile(values, np.linspace(0, 100, 101)), np.linspace(0, 1, 101))

    def __call__(self, case: Case) -> Image:
        bins = np.minimum((self._ranks(case) * 100).astype(int), 99)
        mr = case.get("mr", Image)
        return Image(torch.from_numpy(self.means[bins].astype(np.float32)), mr.affine, mr.name, "HU")


def run_seed(seed: int, registration: Any, folder: Path, done: set[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Every arm, trained on the same heads in the same order of crops, measured on heads it has not seen."""
    settings, method = registration.settings, FrequencyMRToCT()
    train = method.operation("train")
    data = folder / f"heads-{seed}"
    if not data.exists():
        phantoms.write(phantoms.PHANTOMS["head-mr-ct"], settings["learnt"] + settings["measured"], seed, data)
    collection = read_collection(data / "cohort.csv", train)
    cases = [prepare.load_row(row, train.pools[0].roles, print) for row in collection.rows()]
    learnt, unseen = cases[: settings["learnt"]], cases[settings["learnt"] :]
    for arm in registration.arms:
        if arm.name in done:
            continue
        if arm.role == "trivial":
            lookup = Lookup(learnt)
            made = [lookup(case) for case in unseen]
        else:
            config = train.configure("demo", {**settings["train"], **SETTINGS[arm.name], "updates": arm.updates})
            assert isinstance(config, TrainConfig)
            network = None
            if "boundary" in arm.name:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    network = BoundaryRefinement(config)
            fit = fit_pairs(learnt, config, Run(data / "run", seed=seed), network=network)
            fit.network.load_state_dict(fit.weights())
            apply = ApplyConfig(**settings["apply"])
            run = Run(data / "run", seed=seed)
            made = [synthesise(fit.network, case.get("mr", Image), config, apply, run, fit.air) for case in unseen]
        rows = [method.measure(Case({"ct": ct}), case) for ct, case in zip(made, unseen, strict=True)]
        yield arm.name, {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
