"""Few-shot DAG at more length: every arm of its claim, small; the phantom's radiographs from files to points."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from backend_tools import ROOT

from medgen import cli, io
from medgen.phantoms import hand_xray

sys.path.insert(0, str(ROOT / "Testing" / "Claims"))

import claims

pytestmark = pytest.mark.slow


def test_every_arm_of_the_claim_runs(tmp_path: Path) -> None:
    registration = claims.read("few-shot-dag")
    tiny = {"size": 32, "width": 2, "features": 8, "graph_width": 8, "batch_size": 2, "validate_every": 2}
    counts = {"size": [48, 60], "marked": 3, "unmarked": 4, "validation": 2, "tested": 3}
    settings = {**registration.settings, **counts, "train": {**tiny, "pretrain_updates": 3}}
    arms = tuple(replace(arm, updates=arm.updates and 6) for arm in registration.arms)
    small = replace(registration, settings=settings, arms=arms)
    found = dict(claims.arms_of(small).run_seed(1, small, tmp_path, set()))
    assert list(found) == [arm.name for arm in arms]
    for measures in found.values():
        assert np.isfinite(list(measures.values())).all() and 0 <= measures["failed"] <= 1


def test_from_files_to_points_of_a_batch_of_radiographs(tmp_path: Path) -> None:
    """A batch at the smoke tier: a reference of fewer points is measured on those, and a bad file stops nobody."""

    def medgen(*words: object) -> int:
        return cli.main([str(word) for word in words])

    hands = tmp_path / "hands"
    assert medgen("phantom", "few-shot-dag", "-n", 24, "-o", hands) == 0
    assert medgen("train", "few-shot-dag", hands / "cohort.csv", "-o", tmp_path / "model", "--tier", "smoke") == 0
    rows = [row for row in io.read_rows(hands / "cohort.csv") if row["split"] == "test"]
    fewer = json.loads((hands / rows[0]["landmarks"]).read_text())
    del fewer["markups"][0]["controlPoints"][5:]
    (hands / rows[0]["landmarks"]).write_text(json.dumps(fewer))
    (hands / rows[1]["image"]).write_bytes(b"not a picture")
    io.write_rows(rows, hands / "new.csv")
    options = ("-o", tmp_path / "found", "--tier", "smoke", "--workers", 1)
    assert medgen("batch", tmp_path / "model", hands / "new.csv", *options) == 5  # some cases failed
    failed = io.read_rows(tmp_path / "found" / "failures.csv")
    assert len(failed) == 1 and "choose another image" in failed[0]["reason"]
    results = io.read_rows(tmp_path / "found" / "results.csv")
    assert len(results) == len(rows) - 1
    assert np.mean([float(row["mean mm"]) for row in results]) < 20  # of 240; a guess at random would be 90 off
    assert [name for name in results[0] if name.startswith("mm ") and results[0][name]] == [
        f"mm {name}" for name in hand_xray.LANDMARKS[:5]
    ]
