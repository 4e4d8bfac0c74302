"""Training from one example: nodes of the scene fill several pools of one case each; Logic and panel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import qt
import slicer
from panel_tools import ROOT, home, stub_catalog, until  # noqa: F401
from window_tools import four_views, opened

from MedGenLib.errors import RunError
from MedGenLib.load import provenance_of
from MedGenLib.logic import MedGenLogic
from MedGenLib.selftest import add_drawing, add_volume

SLUG = "stub-example"
MODULE = ROOT / "MedGenLandmarks" / "MedGenLandmarks.py"
CENTRE = (-2.0, -3.0, 0.0)  # RAS mm of the ball's middle


@pytest.fixture
def nodes(scene: Any, home: Path) -> dict[str, Any]:  # noqa: F811
    """What the two pools take; the validation case is drawn on fewer slices, so that its mask is smaller."""
    reference, validation = add_volume("Reference"), add_volume("Validation")
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Marked")
    points.AddControlPoint(CENTRE, "middle")
    return {
        "reference.image": reference,
        "reference.mask": add_drawing(reference, name="Reference structure"),
        "reference.landmarks": points,
        "validation.image": validation,
        "validation.mask": add_drawing(validation, (10, 12), name="Validation structure"),
    }


def test_nodes_fill_each_pool_and_a_point_comes_out_where_it_belongs(nodes: dict[str, Any]) -> None:
    logic = MedGenLogic()
    model = logic.process(SLUG, "train", nodes, name="one", wait=True)["model"]
    record = json.loads((model / "medgen.json").read_text())
    assert record["facts"]["reference"] > 2 * record["facts"]["validation"] > 0  # neither mask took the other's place
    assert record["patient_data"] is True
    target = add_volume("Target")
    found = logic.process(SLUG, "apply", {"image": target}, model="one", wait=True)["landmarks"]
    assert found.IsA("vtkMRMLMarkupsFiducialNode") and found.GetNthControlPointLabel(0) == "middle"
    assert np.linalg.norm(np.array(found.GetNthControlPointPositionWorld(0)) - CENTRE) < 2.0
    assert provenance_of(found)["method"] == SLUG


def test_a_role_of_a_pool_that_is_missing_is_named(nodes: dict[str, Any]) -> None:
    del nodes["validation.mask"]
    with pytest.raises(RunError, match=r"Nothing is chosen for “validation\.mask”"):
        MedGenLogic().process(SLUG, "train", nodes, wait=True)
    with pytest.raises(RunError, match=r"no role “mask” here.*reference\.mask"):
        MedGenLogic().process(SLUG, "train", {"mask": nodes["reference.mask"]}, wait=True)


@pytest.fixture
def panel(nodes: dict[str, Any]) -> Iterator[Any]:
    """The panel of MedGen Landmarks with the stub chosen."""
    with four_views(), opened(MODULE) as widget:
        widget.panel.method.combo.currentIndex = widget.panel.method.slugs.index(SLUG)
        widget.enter()
        yield widget.panel


def test_by_clicks_from_an_example_to_a_point_with_its_privacy_said(
    panel: Any, nodes: dict[str, Any], tmp_path: Path
) -> None:
    pictures = Path(os.environ.get("MEDGEN_PICTURES") or tmp_path / "pictures")
    assert "treat them as patient data" in panel.method.card.text
    labels = [str(label.text) for label in panel.selectors.widget.findChildren(qt.QLabel)]
    assert "Reference: image" in labels and "Validation: mask" in labels
    assert list(panel.selectors.selectors) == [*nodes, "image"]
    # Two volumes could be meant for each image: none is taken; the one point list is.
    assert panel.parameters().nodes("reference.image") == []
    assert panel.parameters().nodes("reference.landmarks") == [nodes["reference.landmarks"]]
    assert not panel.train.train.enabled
    for role, node in nodes.items():
        panel.selectors.selectors[role].setCurrentNode(node)
    until(lambda: panel.estimator.done)
    assert "treat it as patient data" in panel.train.estimate.text
    assert panel.train.train.enabled
    panel.train.train.click()
    until(lambda: not panel.poller.busy)
    assert "Contains patient data" in panel.apply.card.text
    panel.selectors.selectors["image"].setCurrentNode(nodes["validation.image"])
    assert panel.apply.apply.enabled, panel.apply.apply.toolTip
    panel.apply.apply.click()
    until(lambda: not panel.poller.busy)
    slicer.app.layout_manager.picture(panel.body, pictures / "one_case_done.png")
    points = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    assert len(points) == 2
    assert np.linalg.norm(np.array(points[1].GetNthControlPointPositionWorld(0)) - CENTRE) < 2.0
