"""Few-shot DAG in the scene: radiographs and fiducial lists go in as cases, and a list of points comes out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import slicer
import slicer_standin

from medgen import io
from medgen.phantoms import PHANTOMS, hand_xray, write
from MedGenLib import logic as medgen_logic
from MedGenLib import sampledata
from MedGenLib.errors import RunError
from MedGenLib.load import load_result, provenance_of

MARKED, UNMARKED = 3, 2
TINY = {
    **{"size": 64, "width": 2, "features": 8, "graph_width": 16, "batch_size": 2},
    **{"pretrain_updates": 3, "updates": 3, "validate_every": 3},
}


@pytest.fixture(scope="module")
def hands(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Rows of a cohort of hands; the last is for the test, with its landmarks."""
    folder = tmp_path_factory.mktemp("hands")
    table = write(PHANTOMS["hand-xray"], 8, 3, folder / "cohort", size=(48, 60))
    rows = sorted(io.read_rows(table), key=lambda row: not row["landmarks"])
    return [{key: str(table.parent / row[key]) if row[key] else "" for key in ("image", "landmarks")} for row in rows]


def nodes_of(row: dict[str, str], name: str) -> dict[str, Any]:
    """A radiograph as Slicer has a PNG, with the file's size of pixels (slicer-core reads no PNG), and its points."""
    picture = sitk.ReadImage(row["image"])
    image = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{name} X-ray")
    slicer.util.updateVolumeFromArray(image, sitk.GetArrayFromImage(picture)[None])
    image.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.diag([-1.0, -1.0, 1.0, 1.0])))
    image.SetSpacing(*picture.GetSpacing(), 1.0)
    found = {"image": image}
    if row["landmarks"]:
        found["landmarks"] = load_result(Path(row["landmarks"]), "Points", f"{name} points")
    return found


@pytest.fixture
def logic(scene: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> medgen_logic.MedGenLogic:
    monkeypatch.delenv("MEDGEN_CATALOG", raising=False)
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    slicer_standin.start()
    return medgen_logic.MedGenLogic()


def test_marked_and_unmarked_nodes_train_and_points_come_out_with_names_and_confidence(
    logic: medgen_logic.MedGenLogic, hands: list[dict[str, str]]
) -> None:
    chosen = [*hands[:MARKED], *hands[-UNMARKED:]]
    cases: list[dict[str, Any]] = [nodes_of(row, f"Hand {number}") for number, row in enumerate(chosen)]
    cases[2]["split"] = "validation"
    how: dict[str, Any] = {"tier": "smoke", "in_process": True}
    model = logic.process("few-shot-dag", "train", cases=cases, settings=TINY, name="hands", **how)["model"]
    card = (model / "docs" / "README.md").read_text()
    assert "Marked images: 2" in card and "Unmarked images: 2" in card and "Contains no images" in card
    image = nodes_of(hands[MARKED], "New")["image"]
    found = logic.process("few-shot-dag", "apply", {"image": image}, model="hands", **how)["landmarks"]
    assert found.GetClassName() == "vtkMRMLMarkupsFiducialNode" and found.GetName() == "New X-ray landmarks"
    count = found.GetNumberOfControlPoints()
    assert [found.GetNthControlPointLabel(number) for number in range(count)] == list(hand_xray.LANDMARKS)
    assert all("confidence" in found.GetNthControlPointDescription(number).lower() for number in range(count))
    assert provenance_of(found)["method"] == "few-shot-dag"
    bounds = [0.0] * 6
    image.GetRASBounds(bounds)
    places = np.array([found.GetNthControlPointPositionWorld(number) for number in range(count)])
    assert (places[:, :2] >= np.array(bounds[:4:2]) - 1e-3).all() and (places[:, :2] <= bounds[1:4:2]).all()

    strict = {"views": 2, "least_confidence": 1.0}
    lost = logic.process("few-shot-dag", "apply", {"image": image}, model="hands", settings=strict, **how)["landmarks"]
    assert lost.GetNumberOfControlPoints() == count
    assert lost.GetNumberOfDefinedControlPoints() == 0


def test_a_case_that_lacks_a_point_is_named_in_one_sentence(
    logic: medgen_logic.MedGenLogic, hands: list[dict[str, str]]
) -> None:
    cases = [nodes_of(row, f"Hand {number}") for number, row in enumerate(hands[:2])]
    cases[1]["landmarks"].RemoveNthControlPoint(4)
    with pytest.raises(RunError, match="no placed landmark “middle knuckle”, which others have") as caught:
        logic.process("few-shot-dag", "train", cases=cases, tier="smoke", settings=TINY, in_process=True)
    assert "\n" not in str(caught.value)


def test_the_method_chosen_at_first_is_the_one_that_sample_data_is_for() -> None:
    def entry(slug: str, *phantoms: str, module: str = "MedGenLandmarks") -> dict[str, Any]:
        return {"slug": slug, "module": module, "phantoms": list(phantoms)}

    entries = [entry("a", "hand-xray"), entry("b", "inner-ear"), entry("c", "inner-ear")]
    assert sampledata.shown_by(entries)["slug"] == "b"
    assert sampledata.shown_by(entries[:1])["slug"] == "a"
    assert sampledata.shown_by([entry("d"), entry("e", "inner-ear", module="MedGenSynthesis")])["slug"] == "d"
    assert sampledata.shown_by([]) == {}
