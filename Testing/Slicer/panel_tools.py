"""What the tests of Logic and panel share: the stub method's catalog, a volume drawn on a few slices, a home."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util

HERE = Path(__file__).resolve().parent
SLUG = "stub-threshold"
SLICES = (8, 12, 16)  # k of the drawn slices
SHAPE = (24, 28, 32)  # k, j, i


@pytest.fixture(scope="session")
def stub_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub method's catalog.json."""
    from medgen import catalog

    path = tmp_path_factory.mktemp("catalog") / "stubs.json"
    path.write_text(catalog.build(["panel_stubs.threshold"]), encoding="utf-8")
    return path


@pytest.fixture
def home(stub_catalog: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stub method stands in the catalog; models live in a folder of the test's own."""
    monkeypatch.setenv("MEDGEN_CATALOG", str(stub_catalog))
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{HERE.parents[1]}")
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def ball() -> np.ndarray:
    """Where the structure is: (k, j, i) bool."""
    k, j, i = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return np.asarray(((k - 12) / 9) ** 2 + ((j - 14) / 9) ** 2 + ((i - 16) / 10) ** 2 < 1)


def add_volume(name: str = "CT") -> Any:
    """A bright ball in the dark, 2 x 2 x 3 mm, axes along L, P, S as most CT."""
    rng = np.random.default_rng(0)
    array = (ball() * 300 + rng.normal(0, 20, SHAPE)).astype(np.int16)
    matrix = np.diag([-2.0, -2.0, 3.0, 1.0])
    matrix[:3, 3] = 30, 25, -36
    volume = slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name=name)
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    return volume


def add_drawing(volume: Any, slices: tuple[int, ...] = SLICES, name: str = "Drawn") -> Any:
    """A segmentation of the ball, drawn on some slices only."""
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = segmentation.GetSegmentation().AddEmptySegment("ball", "ball", [0.9, 0.5, 0.3])
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[list(slices)] = ball()[list(slices)]
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, segmentation, segment, volume)
    return segmentation


def labels_of(segmentation: Any, volume: Any) -> np.ndarray:
    """(k, j, i) labels of a segmentation's first segment on a volume's grid."""
    first = segmentation.GetSegmentation().GetNthSegmentID(0)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, first, volume)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Dice's coefficient of two masks."""
    found, truth = found > 0, truth > 0
    return float(2 * (found & truth).sum() / max(1, found.sum() + truth.sum()))


def node_count() -> int:
    """Nodes in the scene."""
    return int(slicer.mrmlScene.GetNumberOfNodes())
