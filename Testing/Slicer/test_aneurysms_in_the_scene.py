"""Aneurysms from the scene and back: lines of neck and dome in, points and spheres out, none where none is found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from panel_tools import ROOT

from MedGenLib.errors import BoundaryError
from MedGenLib.logic import MedGenLogic

SLUG = "aneurysm-detection"
TINY = {"voxel": 1.0, "patch": 16, "width": 2, "duplicates": 3, "vessel_patches": 3, "tissue_patches": 3}
TINY |= {"apart": 6.0, "updates": 2, "batch_size": 2, "distortion": 1.0}
MIDDLE = np.array([10.0, -5.0, 20.0])  # RAS mm


@pytest.fixture
def logic(scene: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MedGenLogic:
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.fspath(ROOT))
    return MedGenLogic()


def angiogram(name: str) -> Any:
    """A bright ball about MIDDLE in noise, 24 x 26 x 28 voxels of 1 mm, axes along L, P, S."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = MIDDLE - affine[:3, :3] @ np.array([12.0, 13.0, 14.0])
    k, j, i = np.mgrid[:28, :26, :24]
    ball = (k - 14) ** 2 + (j - 13) ** 2 + (i - 12) ** 2 < 9
    array = (ball * 300 + np.random.default_rng(0).normal(100, 8, ball.shape)).astype(np.int16)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=affine, name=name)


def a_line(name: str, *ends: np.ndarray) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", name)
    for end in ends:
        node.AddControlPoint(end)
    return node


def test_lines_are_learnt_from_and_candidates_come_back_as_points_and_spheres(logic: MedGenLogic) -> None:
    volume, healthy = angiogram("TOF"), angiogram("Healthy")
    lines = [
        a_line("First", MIDDLE - (3, 0, 0), MIDDLE + (3, 0, 0)),
        a_line("Second", MIDDLE - (0, 0, 8), MIDDLE - (0, 0, 5)),
    ]
    cases = [{"image": volume, "aneurysms": lines}, {"image": healthy}]
    said: list[str] = []
    model = logic.process(
        SLUG,
        "train",
        settings=TINY,
        cases=cases,
        name="sacs",
        in_process=True,
        device="cpu",
        on_event=lambda event: said.append(str(event.get("message", ""))),
    )["model"]
    assert any("Patches: 6 of aneurysms" in text for text in said)
    assert any("1 of 2 volumes have no marked aneurysm" in text for text in said)
    settings = {"threshold": 1e-9, "margin": 4, "window": 24}  # all there is, as one candidate
    found = logic.process(SLUG, "apply", {"image": volume}, settings, model=model, in_process=True)
    points, sphere = found["points"], found["aneurysms"]
    assert points.IsA("vtkMRMLMarkupsFiducialNode") and points.GetNumberOfControlPoints() == 1
    middle = MIDDLE - (-0.5, -0.5, 0.5)  # of all voxels
    np.testing.assert_allclose(points.GetNthControlPointPositionWorld(0), middle, atol=0.01)
    assert points.GetNthControlPointLabel(0) == "aneurysm 1" and "confidence" in points.GetNthControlPointDescription(0)
    sphere = sphere[0] if isinstance(sphere, list) else sphere
    assert sphere.IsA("vtkMRMLMarkupsROINode")
    np.testing.assert_allclose(sphere.GetCenterWorld(), middle, atol=0.01)
    radius = np.cbrt(24 * 26 * 28 * 3 / (4 * np.pi))
    np.testing.assert_allclose(sphere.GetSize(), [2 * radius] * 3, rtol=1e-4)

    nothing = logic.process(SLUG, "apply", {"image": volume}, {**settings, "threshold": 0.999}, model=model, wait=True)
    assert nothing["points"].GetNumberOfControlPoints() == 0 and not nothing["aneurysms"]


def test_a_line_of_one_point_is_refused_before_anything_is_learnt(logic: MedGenLogic) -> None:
    cases = [{"image": angiogram("TOF"), "aneurysms": [a_line("Half", MIDDLE)]}]
    with pytest.raises(BoundaryError, match="“Half” has 1 of at least 2 points"):
        logic.process(SLUG, "train", settings=TINY, cases=cases, name="sacs", in_process=True)
