"""Tools in frames and panels of figures in Slicer: pictures and ROI nodes in, ROI nodes with class and confidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from boundary_tools import picture, roi

from medgen import bundle
from medgen.landmarks import compound_figures, tool_detection
from MedGenLib.errors import MedGenLibError
from MedGenLib.load import provenance_of
from MedGenLib.logic import MedGenLogic

CLASSES = ["electron microscopy", "forceps"]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("MEDGEN_CATALOG", raising=False)
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def model(slug: str, folder: Path) -> Path:
    """An untrained detector as a bundle, whose weak boxes are anywhere."""
    module: Any = tool_detection if slug == "tool-detection" else compound_figures
    method = module.ToolDetection() if slug == "tool-detection" else module.CompoundFigures()
    config = method.operation("train").configure("smoke", {"width": 8})
    build = module.make_detector if slug == "tool-detection" else module.make_network
    weights = {"detector": build(config, len(CLASSES), 0).state_dict()}
    bundle.save(bundle.Model(slug, weights, config.model_dump(mode="json"), {"classes": CLASSES}), folder)
    return folder


@pytest.mark.parametrize("slug", ["tool-detection", "compound-figures"])
def test_boxes_come_out_as_rois_with_class_and_confidence_on_the_picture(
    scene: Any, home: Path, tmp_path: Path, slug: str
) -> None:
    made = model(slug, tmp_path / "model")
    options: dict[str, Any] = {"model": made, "settings": {"confidence": 0.0, "most": 3}, "in_process": True}
    nodes = MedGenLogic().process(slug, "apply", {"image": picture()}, **options)["boxes"]
    assert 0 < len(nodes) <= 3
    for node in nodes:
        assert node.GetClassName() == "vtkMRMLMarkupsROINode"
        assert node.GetName().split("_")[0] in CLASSES and provenance_of(node)["method"] == slug
        assert 0 <= float(node.GetNthControlPointDescription(0).split()[-1].rstrip("%")) <= 100
        bounds = np.zeros(6)
        node.GetRASBounds(bounds)
        assert bounds[0] >= -79.5 - 1e-3 and bounds[1] <= 0.5 + 1e-3
        assert bounds[2] >= -59.5 - 1e-3 and bounds[3] <= 0.5 + 1e-3
    options["settings"] = {"confidence": 1.0}
    assert MedGenLogic().process(slug, "apply", {"image": picture("Nothing")}, **options)["boxes"] == []


def test_panels_are_cut_out_at_rois_as_pictures(scene: Any, home: Path) -> None:
    figure, rois = picture(), [roi("left", (0, 0, 30, 60)), roi("right", (40, 10, 80, 50))]
    panels = MedGenLogic().process("compound-figures", "cut-out", {"image": figure, "boxes": rois}, in_process=True)[
        "panels"
    ]
    whole = slicer.util.arrayFromVolume(figure)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(panels[0])[0], whole[0, :, :30])
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(panels[1])[0], whole[0, 10:50, 40:])
    inputs = {"image": figure, "boxes": [roi("away", (500, 0, 530, 60))]}
    before = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(MedGenLibError, match="“away”.*lies outside its image"):
        MedGenLogic().process("compound-figures", "cut-out", inputs, in_process=True)
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_rois_are_learnt_from_under_the_names_they_have_in_the_scene(scene: Any, home: Path) -> None:
    rois = [roi("knife", (5, 5, 40, 40)), roi("knife_1", (10, 20, 60, 55)), roi("hook", (30, 9, 70, 50))]
    settings = {"updates": 2, "size": 64, "width": 8}
    inputs = {"image": picture(), "boxes": rois}
    made = MedGenLogic().process(
        "compound-figures", "train", inputs, tier="smoke", settings=settings, name="m", in_process=True
    )["model"]
    assert bundle.load(made).settings["classes"] == ["hook", "knife"]
