"""Sutures in the scene: frames and lists of points in two pools train a model that marks another frame; a frame with no
sutures has an empty list both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer.util
from boundary_tools import TOLERANCE

from medgen import phantoms
from MedGenLib.load import load_result
from MedGenLib.logic import MedGenLogic

TINY = {"updates": 3, "translator_updates": 2, "rows": 64, "columns": 96, "validate_every": 100}


@pytest.mark.slow
@pytest.mark.parametrize(("slug", "settings"), [
    ("suture-heatmap", {**TINY, "translator_crop": 32}),
    ("suture-cross-domain", {key: value for key, value in TINY.items() if key != "translator_updates"}),
])  # fmt: skip
def test_frames_of_two_pools_train_a_model_that_marks_a_frame_of_the_scene(
    slug: str, settings: dict[str, Any], scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDGEN_CATALOG", raising=False)
    folder = phantoms.write(phantoms.PHANTOMS["annulus"], 6, 0, tmp_path / "frames", size=(96, 54)).parent
    cases: list[dict[str, Any]] = []
    for number, image in enumerate(sorted(folder.glob("*_image.png"))):
        points = load_result(Path(str(image).replace("_image.png", "_points.mrk.json")), "Points", f"points {number}")
        pool = ("theatre", "simulator")[number % 2]
        cases.append({"image": load_result(image, "Image", f"frame {number}"), "points": points, "pool": pool})
    cases[2]["points"].RemoveAllControlPoints()  # of the theatre: somebody has looked, and there is none
    logic = MedGenLogic()
    model = logic.process(slug, "train", settings=settings, tier="smoke", cases=cases, name="sutures", wait=True)
    assert Path(model["model"]).is_dir()
    rule = {"least_score": 0.0} if slug == "suture-heatmap" else {"floor": 0.0, "fewest": 3}
    found = logic.process(slug, "apply", {"image": cases[0]["image"]}, rule, model="sutures", wait=True)["points"]
    assert found.GetClassName() == "vtkMRMLMarkupsFiducialNode"
    bounds = [0.0] * 6
    cases[0]["image"].GetRASBounds(bounds)
    for number in range(found.GetNumberOfControlPoints()):
        place = np.array(found.GetNthControlPointPositionWorld(number))
        assert (place[:2] >= np.array(bounds)[[0, 2]] - TOLERANCE).all()
        assert (place[:2] <= np.array(bounds)[[1, 3]] + TOLERANCE).all()
        assert found.GetNthControlPointLabel(number) == f"suture {number + 1}"
        assert "confidence" in found.GetNthControlPointDescription(number)
    empty = logic.process(slug, "apply", {"image": cases[0]["image"]}, {"least_score": 1.0} | (
        {} if slug == "suture-heatmap" else {"fewest": 0}), model="sutures", wait=True)["points"]  # fmt: skip
    assert empty.GetNumberOfControlPoints() == 0
    assert slicer.util.getNode(empty.GetID()) is empty
