"""Trainings that take minutes: the flagship on real volumes, and a resumed training at the demo tier's size.

`.ci/slow` runs them; MEDGEN_RESULTS names a folder that keeps their tables and pictures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from backend_tools import ROOT, medgen

from medgen import bundle, phantoms
from medgen.errors import CANCELLED
from medgen.jobs import Job

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", ["lung", "aorta", "cord", "oblique"])
def test_a_few_drawn_slices_of_a_real_volume_give_the_whole_in_ten_minutes(
    case: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(os.environ.get("MEDGEN_RESULTS", tmp_path)) / case
    command = [sys.executable, "Testing/Claims/flagship.py", str(out), "--data", str(data), "--cases", case]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        print("\n" + done.stdout)
    row = json.loads((out / "results.json").read_text())["rows"][0]
    better = max(row["threshold"], row["interpolation"])
    assert row["ours"] > (better if case in ("aorta", "oblique") else better - 0.01)
    seconds = row["train_seconds"] + row["apply_seconds"]
    assert seconds <= 600
    assert 0.4 < row["estimated_seconds"] / seconds < 2.5


def test_a_training_stopped_half_way_resumes_to_the_same_model_at_the_demo_size(tmp_path: Path) -> None:
    cohort = phantoms.write(phantoms.PHANTOMS["abdomen-ct-drawn"], 1, 0, tmp_path / "patient")
    options = ["--set", "updates=40", "--device", "cpu"]
    train = ["train", "multiplanar-unet", str(cohort)]
    assert medgen(*train, "-o", tmp_path / "whole", *options, timeout=900).returncode == 0
    job = Job([*train, "-o", str(tmp_path / "cut"), *options], tmp_path / "run")
    job.start()
    while not any(event.get("stage") == "refit" for event in job.events()):
        assert job.running, job.message
        time.sleep(0.05)
    job.cancel(grace=120)
    assert job.wait(200) == CANCELLED
    assert medgen(*train, "-o", tmp_path / "cut", "--resume", *options, timeout=900).returncode == 0
    whole, resumed = (bundle.load(tmp_path / name) for name in ("whole", "cut"))
    for key, tensor in whole.networks["unet"].items():
        torch.testing.assert_close(resumed.networks["unet"][key], tensor, rtol=1e-5, atol=1e-6)
    assert resumed.settings["weight"] == whole.settings["weight"]
