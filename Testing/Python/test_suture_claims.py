"""The claims about sutures: the baseline is the published network, and every arm runs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_tools import ROOT

sys.path.insert(0, str(ROOT / "Testing" / "Claims"))

import claims

from medgen.nn.unet import parameter_count

SLUGS = ["suture-heatmap", "suture-cross-domain"]


@pytest.fixture(scope="module")
def heatmap_arms() -> Any:
    return claims.arms_of(claims.read("suture-heatmap"))


def test_the_baseline_has_the_parameters_of_the_published_code(heatmap_arms: Any) -> None:
    assert parameter_count(heatmap_arms.BaselineUNet()) == 1_082_033


def test_the_baselines_soft_argmax_gives_the_softmax_mean_of_every_window(heatmap_arms: Any) -> None:
    maps = torch.rand(1, 1, 7, 9)
    found = heatmap_arms.soft_values(maps)[0, 0]
    padded = np.pad(maps[0, 0].numpy(), 1)
    for row, column in ((0, 0), (3, 4), (6, 8)):
        window = padded[row : row + 3, column : column + 3]
        weights = np.exp(window) / np.exp(window).sum()
        assert float(found[row, column]) == pytest.approx(float((weights * window).sum()), rel=1e-5)


def test_the_baselines_smoothing_keeps_the_sum_and_spreads_a_point(heatmap_arms: Any) -> None:
    maps = torch.zeros(1, 1, 7, 7)
    maps[0, 0, 3, 3] = 1
    found = heatmap_arms.smoothed(maps)[0, 0]
    assert float(found.sum()) == pytest.approx(1)
    assert float(found[3, 4] / found[3, 3]) == pytest.approx(np.exp(-0.5), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("slug", SLUGS)
def test_every_arm_runs_and_gives_every_measure(slug: str, tmp_path: Path) -> None:
    registration = claims.read(slug)
    tiny = {"updates": 2, "validate_every": 10, "rows": 64, "columns": 96, "batch_size": 2}
    if slug == "suture-heatmap":
        tiny |= {"translator_updates": 2, "translator_crop": 32}
    settings = {"tier": "smoke", "size": [96, 54], "theatre": 4, "simulator": 4, "tested": 2, "train": tiny}
    found = dict(claims.arms_of(registration).run_seed(5, replace(registration, settings=settings), tmp_path, set()))
    assert list(found) == [arm.name for arm in registration.arms]
    assert all(set(measures) == set(registration.measures) for measures in found.values())
    assert all(0 <= value <= 100 for measures in found.values() for value in measures.values())
