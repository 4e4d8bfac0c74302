"""Annotations that cannot be learnt from, on the command line: one sentence, exit code 2, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medgen import io, phantoms
from medgen.cli import main


def unmarked(folder: Path) -> None:
    """Nobody has looked at any row."""
    for table in folder.glob("*.csv"):
        io.write_rows([{**row, "labelled": "no"} for row in io.read_rows(table)], table)


def without_points(folder: Path) -> None:
    """Every list of points is empty."""
    for file in folder.glob("*points.mrk.json"):
        changed(file, lambda markups: markups[0].update(controlPoints=[]))


def one_point_fewer(folder: Path) -> None:
    """One image lacks a landmark that the others have."""
    changed(sorted(folder.glob("*landmarks.mrk.json"))[0], lambda markups: markups[0]["controlPoints"].pop())


def a_box_outside(folder: Path) -> None:
    """The first box that is learnt from lies far from its image."""
    rows = io.read_rows(folder / "cohort.csv")
    row = next(row for row in rows if row["boxes"] and row["split"] == "train")
    changed(folder / row["boxes"], lambda markups: markups[0].update(center=[9000.0, 0.0, 0.0]))


def changed(file: Path, how: Callable[[list[dict[str, object]]], object]) -> None:
    content = json.loads(file.read_text("utf-8"))
    how(content["markups"])
    file.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize(
    ("slug", "phantom", "size", "spoil", "words"),
    [
        ("few-shot-dag", "hand-xray", (48, 60), unmarked, "No image that is trained on has landmarks"),
        ("few-shot-dag", "hand-xray", (48, 60), one_point_fewer, "mark the same points in all"),
        ("suture-heatmap", "annulus", (64, 36), without_points, "has a point to learn from"),
        ("suture-cross-domain", "annulus", (64, 36), without_points, "has a point to learn from"),
        ("suture-cross-domain", "annulus", (64, 36), unmarked, "has a point to learn from"),
        ("tool-detection", "cataract-frame", (96, 54), unmarked, "No labelled training frame has a box"),
        ("tool-detection", "cataract-frame", (96, 54), a_box_outside, "lies outside its image"),
        ("compound-figures", "compound-figure", (128, 96), a_box_outside, "lies outside its image"),
    ],
)
def test_a_training_ends_with_a_sentence_and_code_2(
    slug: str,
    phantom: str,
    size: tuple[int, int],
    spoil: Callable[[Path], None],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "patients"
    table = phantoms.write(phantoms.PHANTOMS[phantom], 10, 1, folder, size=size)
    spoil(folder)
    table = folder / "collection.json" if (folder / "collection.json").exists() else table
    command = ["train", slug, str(table), "-o", str(tmp_path / "model"), "--tier", "smoke", "--progress", "none"]
    assert main(command) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and len(said.splitlines()) == 1 and said.endswith("."), said
    assert not (tmp_path / "model").exists()
