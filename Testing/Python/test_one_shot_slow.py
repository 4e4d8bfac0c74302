"""Landmarks from one example at full size: real MR in ten poses beside plain registration, and how long it takes.

`.ci/slow` runs them; MEDGEN_RESULTS names a folder that keeps the tables and the picture.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_tools import ROOT
from method_tools import a_run
from test_one_shot_landmarks import METHOD, scene, train_config

from medgen import phantoms, prepare
from medgen.case import Case, Image, Mask, Points
from medgen.cohort import read_pool
from medgen.jobs import Run
from medgen.landmarks.one_shot_landmarks import ApplyConfig, ShallowUNet

pytestmark = pytest.mark.slow


def test_afids_of_a_posed_template_lie_within_three_voxels(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(os.environ.get("MEDGEN_RESULTS", tmp_path)) / "afids"
    command = [sys.executable, "Testing/Claims/afids.py", str(out), "--data", str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        print("\n" + done.stdout)
    arms = json.loads((out / "summary.json").read_text())["arms"]
    assert arms["structure"]["poses"] == 10 and arms["structure"]["points"] == 320
    assert arms["structure"]["median voxels"] <= 3
    assert arms["structure"]["poses failed"] <= 1 and arms["structure"]["poses swapped"] <= 1
    for plain in ("rigid", "centre-of-mass"):
        assert arms["structure"]["median voxels"] < arms[plain]["median voxels"]
        assert arms["structure"]["poses failed"] < arms[plain]["poses failed"]


def test_the_online_stage_takes_15_seconds_at_the_demo_width(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target of 128^3 voxels at the model's voxel, on 2 cores; the paper's width beside it. Weights do not change how
    long a crop takes: what the network sees is put in its last bias, so that the wide one need not be trained."""
    big = scene((20, 30, 10), (5, -4, 6), (128, 128, 128), seed=1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seconds = {}
        config = train_config(patch=100, width=16, voxel=1.0, transforms=60, slices=24, batch_size=8)
        reference, validation = scene(shape=(104, 104, 104)), scene((20, -30, 10), shape=(104, 104, 104), seed=1)
        model = METHOD.fit(reference, validation, config, a_run(tmp_path))
        wide = replace(
            model,
            config={**model.config, "width": 64},
            networks={**model.networks, "unet": _widened(model.networks["unet"], 64)},
        )
        apply = METHOD.operation("apply").configure("demo", {})
        assert isinstance(apply, ApplyConfig)
        for width, chosen in ((16, model), (64, wide)):
            run = a_run(tmp_path)
            run.precision = "bf16" if torch.cpu._is_amx_tile_supported() else "32"
            began = time.monotonic()
            result = METHOD.apply(Case({"image": big["image"]}), apply, run, chosen)
            seconds[width] = time.monotonic() - began
            apart = np.linalg.norm(result["landmarks"].positions - big["landmarks"].positions, axis=1)
            assert np.median(apart) < 2
    finally:
        torch.set_num_threads(threads)
    with capsys.disabled():
        print(
            f"\nonline stage of a 128^3 target on 2 cores: {seconds[16]:.1f} s at width 16, {seconds[64]:.1f} s at 64"
        )
    assert seconds[16] <= 15


def _widened(weights: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """The weights of a wider network that computes the same: the new channels are 0."""
    wide = {key: torch.zeros_like(value) for key, value in ShallowUNet(width).state_dict().items()}
    narrow = next(iter(weights.values())).shape[0]
    for key, value in weights.items():
        if value.ndim == 4 and value.shape[1] == 3 * narrow:  # channels of the full size, then those of the half
            wide[key][: value.shape[0], :narrow] = value[:, :narrow]
            wide[key][: value.shape[0], width : width + 2 * narrow] = value[:, narrow:]
        else:
            wide[key][tuple(slice(size) for size in value.shape)] = value
    return wide


def _ears(folder: Path, seed: int, **options: Any) -> list[Case]:
    """Three synthetic patients, as files hold them."""
    phantoms.write(phantoms.PHANTOMS["inner-ear"], 3, seed, folder, **options)
    pool = METHOD.operation("train").pools[0]
    return [prepare.load_row(row, pool.roles, lambda text: None) for row in read_pool(folder / "cohort.csv", pool)]


def test_inner_ears_in_any_pose_have_their_landmarks_found(tmp_path: Path) -> None:
    """One ear to learn from, one to stop at, and another patient's, turned by up to 180 degrees."""
    cases = _ears(tmp_path / "ears", 5, size=(96, 96, 96), spacing=0.5, turn=180.0, shift=4.0)
    assert all(isinstance(c["image"], Image) and isinstance(c["mask"], Mask) for c in cases)
    config = METHOD.operation("train").configure("demo", {})
    model = METHOD.fit(cases[0], cases[1], config, a_run(tmp_path / "run"))  # type: ignore[arg-type]
    apply = METHOD.operation("apply").configure("demo", {})
    result = METHOD.apply(Case({"image": cases[2]["image"]}), apply, a_run(tmp_path / "run"), model)  # type: ignore[arg-type]
    truth = cases[2].get("landmarks", Points)
    apart = np.linalg.norm(result["landmarks"].positions - truth.positions, axis=1)
    assert np.median(apart) <= 3 * 0.5


@pytest.mark.parametrize("seed", [0, 4, 5, 42])
def test_a_smoke_training_finds_the_landmarks_of_an_inner_ear(seed: int, tmp_path: Path) -> None:
    """Other patients and weights than those of the module's self-test, at its tier and its bound."""
    cases = _ears(tmp_path / "ears", seed)
    run = Run(tmp_path / "run", device="cpu", seed=seed)
    model = METHOD.fit(cases[0], cases[1], METHOD.operation("train").configure("smoke", {}), run)  # type: ignore[arg-type]
    apply = METHOD.operation("apply").configure("smoke", {})
    result = METHOD.apply(Case({"image": cases[2]["image"]}), apply, run, model)  # type: ignore[arg-type]
    assert METHOD.measure(result, cases[2])["median mm"] <= 1.0
