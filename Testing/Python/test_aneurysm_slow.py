"""Aneurysm detection at full size: how long a whole angiogram takes, how much memory, and what skipping loses.

`.ci/slow` runs them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from backend_tools import ROOT
from method_tools import a_run
from test_aneurysm_detection import APPLY, METHOD, TRAIN

from medgen import bundle, phantoms, prepare
from medgen.case import Case
from medgen.cohort import read_pool
from medgen.landmarks.aneurysm_detection import ApplyConfig, TrainConfig, build_network
from medgen.phantoms import mr_angiogram

pytestmark = pytest.mark.slow


def whole_head(path: Path) -> None:
    """512 x 512 x 254 voxels of 0.47 x 0.47 x 0.4 mm, as the paper's: a coarse phantom, with air around a head."""
    made = mr_angiogram.make(3, size=(168, 168, 72), spacing=1.44)["image"]
    reference = sitk.Image([512, 512, 254], sitk.sitkInt16)
    reference.SetSpacing([0.47, 0.47, 0.4])
    reference.SetOrigin([-120.0, -121.0, -51.0])
    image = sitk.GetArrayFromImage(sitk.Resample(made, reference, sitk.Transform(), sitk.sitkLinear, 100.0))
    y, x = (np.arange(512) * 0.47 - 120 for _ in range(2))
    head = (x[None, :] / 75) ** 2 + (y[:, None] / 95) ** 2 < 1
    image = np.where(head, image, 12) + np.random.default_rng(0).integers(0, 12, image.shape, dtype=np.int16)
    result = sitk.GetImageFromArray(image.astype(np.int16))
    result.CopyInformation(reference)
    sitk.WriteImage(result, str(path))


@pytest.mark.parametrize("tier", ["demo"])
def test_an_angiogram_of_the_papers_size_takes_ten_minutes_and_three_gigabytes(
    tier: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On 2 cores. What the weights are does not change how long it takes: they are not trained, and find nothing."""
    whole_head(tmp_path / "mra.nii.gz")
    config = TRAIN.configure(tier, {})
    assert isinstance(config, TrainConfig)
    weights = build_network(config, share=1e-5).state_dict()
    weights["head.weight"].zero_()
    bundle.save(
        bundle.Model(METHOD.slug, {"unet": weights}, config.model_dump(), {"dimmest": 99.0}), tmp_path / "model"
    )
    command = [sys.executable, "-m", "medgen", "apply", str(tmp_path / "model"), "-o", str(tmp_path / "out")]
    command += ["-i", f"image={tmp_path / 'mra.nii.gz'}", "--tier", tier, "--device", "cpu", "--progress", "json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    seconds, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    said = " ".join(event["message"] for event in events if event["event"] == "log")
    with capsys.disabled():
        print(f"\n512 x 512 x 254 voxels at the {tier} tier: {seconds:.0f} s, {peak:.2f} GB. {said}")
    assert seconds <= 600 and peak <= 3 and "Windows skipped as too dark" in said


def test_a_demo_training_finds_aneurysms_and_skipping_loses_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = phantoms.write(phantoms.PHANTOMS["mr-angiogram"], 28, 7, tmp_path / "patients")
    roles = TRAIN.pools[0].roles
    cases = [prepare.load_row(row, roles, lambda text: None) for row in read_pool(table, TRAIN.pools[0])]
    config = TRAIN.configure("demo", {})
    assert isinstance(config, TrainConfig)
    model = METHOD.fit(cases[:20], [False] * 20, config, a_run(tmp_path / "run"))
    found: dict[float, list[dict[str, float]]] = {}
    for skip in (0.0, 95.0):
        apply = APPLY.configure("demo", {"skip": skip})
        assert isinstance(apply, ApplyConfig)
        results = [
            METHOD.apply(Case({"image": case["image"]}), apply, a_run(tmp_path / "run"), model) for case in cases[20:]
        ]
        found[skip] = [METHOD.measure(result, case) for result, case in zip(results, cases[20:], strict=True)]
    means = {
        skip: {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} for skip, rows in found.items()
    }
    with capsys.disabled():
        print(f"\ndemo tier, 8 patients not seen: {means}")
    assert means[0.0]["sensitivity"] >= 0.6 and means[0.0]["false positives"] <= 4
    assert means[95.0]["sensitivity"] == means[0.0]["sensitivity"]
