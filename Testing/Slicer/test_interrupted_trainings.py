"""Trainings that were interrupted: kept until a person goes on with them or discards them after a question."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import slicer
from panel_tools import SLUG, home, stub_catalog, until  # noqa: F401
from test_panel import case, mark, widget  # noqa: F401

from medgen.cli import CHECKPOINT
from MedGenLib.errors import RunError
from MedGenLib.selftest import add_drawing


def leave_interrupted(home: Path, name: str, age: float = 0.0) -> Path:  # noqa: F811
    """What an interrupted training of this name leaves, its checkpoint some seconds old; its table of cases."""
    table = home / "runs" / name / "inputs" / "cohort.csv"
    table.parent.mkdir(parents=True)
    table.write_text("image,mask\n")
    folder = home / "models" / f"{name}.training"
    folder.mkdir(parents=True)
    job = {"method": SLUG, "operation": "train", "cohort": str(table), "config": {}, "seed": 0}
    (folder / "job.json").write_text(json.dumps(job))
    checkpoint = folder / CHECKPOINT
    checkpoint.write_text("")
    stamp = checkpoint.stat().st_mtime - age
    os.utime(checkpoint, (stamp, stamp))
    return table


def test_training_again_under_its_name_leaves_an_interrupted_training_as_it_is(
    widget: Any,  # noqa: F811
    case: dict[str, Any],  # noqa: F811
    home: Path,  # noqa: F811
    said: list[str],
) -> None:
    panel = widget.panel
    table = leave_interrupted(home, "watched")
    widget.enter()
    mark(panel, case["image"], (12,))
    panel.train.name.text = "watched"
    until(lambda: panel.train.train.enabled)
    panel.train.train.click()
    words = "A training “watched” was interrupted; press Resume or Discard, or choose another name."
    assert said == [words] and panel.run.status.text == words
    empty = {**case, "mask": add_drawing(case["image"], slices=(), name="Empty")}
    with pytest.raises(RunError, match="was interrupted"):  # before an export that would fail
        widget.logic.process(SLUG, "train", empty, name="watched")
    assert table.is_file() and widget.logic.interrupted(SLUG) == ["watched"]


def test_the_training_that_went_on_last_is_offered_and_discarded_only_after_a_question(
    widget: Any,  # noqa: F811
    home: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel = widget.panel
    for name, age in (("old", 60.0), ("latest", 0.0), ("older", 120.0)):
        leave_interrupted(home, name, age)
    widget.enter()
    assert widget.logic.interrupted(SLUG) == ["older", "old", "latest"]
    assert panel.train.interrupted.visible and "“latest”" in panel.train.interrupted_text.text
    asked: list[str] = []
    answers = iter([False, True])
    monkeypatch.setattr(
        slicer.util, "confirmYesNoDisplay", lambda text, **options: (asked.append(text), next(answers))[1]
    )
    panel.train.discard.click()
    assert "latest" in widget.logic.interrupted(SLUG) and "“latest”" in asked[0]
    panel.train.discard.click()
    assert widget.logic.interrupted(SLUG) == ["older", "old"] and not (home / "runs" / "latest").exists()
    assert "“old”" in panel.train.interrupted_text.text
