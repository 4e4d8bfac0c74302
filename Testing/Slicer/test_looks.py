"""Results can be read as soon as they are there: windows, colours, confidence, boxes, charts; and through the panel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import slicer
import slicer.util
import slicer_standin
import torch
import views
from panel_tools import ROOT, home, stub_catalog  # noqa: F401
from results_tools import image, room  # noqa: F401

from medgen import io, markups
from medgen.case import Box, Mask, Plot, Points, Segment
from medgen.method import Kind
from MedGenLib import halos, looks, merge, provenance, results
from MedGenLib.load import load_result, load_results, provenance_of
from MedGenLib.selftest import add_volume
from MedGenLib.takeback import history

SLUG = "some-method"
LIVER = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^123037004^Anatomical Structure"
    "~SCT^10200004^Liver~^^~Anatomic codes - DICOM master list~^^~^^"
)


@pytest.fixture
def volume(scene: Any) -> Any:
    slicer_standin.start()
    return add_volume()


def role(kind: str, **more: Any) -> dict[str, Any]:
    return {"name": "it", "kind": kind, "modality": None, "units": None, **more}


def points_file(folder: Path) -> Path:
    places = np.array([[0.0, 0, 0], [np.nan] * 3, [10, 5, -6], [-8, 2, 9]])
    points = Points(places, ["nasion", "inion", "vertex", "basion"], np.array([0.9, np.nan, 0.2, 0.55]))
    markups.write(points, Kind.POINTS, folder / "points.mrk.json")
    return folder / "points.mrk.json"


def test_a_synthetic_ct_has_a_window_of_hounsfield_units_and_says_that_it_has_them(volume: Any, tmp_path: Path) -> None:
    looks.dress(volume, role("Image", modality="CT"), None, SLUG)
    display = volume.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == looks.HU_WINDOWS[0] and looks.is_hu(volume)
    assert display.GetNumberOfWindowLevelPresets() == len(looks.HU_WINDOWS)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), {})
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), {})
    assert looks.is_hu(slicer.util.getNode("CT"))


def test_an_image_of_the_references_kind_has_its_window_another_one_of_its_own(volume: Any) -> None:
    volume.GetDisplayNode().SetAutoWindowLevel(0)
    volume.GetDisplayNode().SetWindowLevel(123, 45)
    alike, other = add_volume("Alike"), add_volume("Other")
    array = slicer.util.arrayFromVolume(other).astype(np.float32) / 1000
    array[0, 0, 0] = 5000  # one hot voxel says nothing of the rest
    slicer.util.updateVolumeFromArray(other, array)
    for node in (alike, other):
        looks.dress(node, role("Image", modality="MR"), volume, SLUG)
    assert (alike.GetDisplayNode().GetWindow(), alike.GetDisplayNode().GetLevel()) == (123, 45)
    assert other.GetDisplayNode().GetWindow() < 1 and not looks.is_hu(other)


def test_terminology_and_colours_survive_from_the_method_to_another_segmentation(volume: Any, tmp_path: Path) -> None:
    labels = torch.zeros(32, 28, 24, dtype=torch.int16)
    labels[2:8], labels[10:15], labels[20:25] = 1, 2, 3
    segments = [Segment(1, "liver", (0.86, 0.5, 0.3), LIVER), Segment(2, "a"), Segment(3, "b")]
    mask = Mask(labels, np.diag([-2.0, -2.0, 3.0, 1.0]), segments)
    io.write_mask(mask, tmp_path / "mask.seg.nrrd")
    node = load_result(tmp_path / "mask.seg.nrrd", "Mask", "mask", reference=volume)
    looks.dress(node, role("Mask"), volume, SLUG)
    found = [node.GetSegmentation().GetSegment(one) for one in node.GetSegmentation().GetSegmentIDs()]
    assert np.allclose(found[0].GetColor(), (0.86, 0.5, 0.3), atol=1e-3)
    entry = slicer.vtkSegment.GetTerminologyEntryTagName()
    assert provenance.raw_tag(found[0], entry) == LIVER
    apart = [np.array(one.GetColor()) for one in found]
    assert min(np.linalg.norm(apart[a] - apart[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 0.2
    target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Target")
    added = merge.merge(node, target).added
    liver = target.GetSegmentation().GetSegment(added[0])
    assert provenance.raw_tag(liver, entry) == LIVER and np.allclose(liver.GetColor(), (0.86, 0.5, 0.3), atol=1e-3)


def test_points_are_free_and_those_not_found_stay_without_a_place(volume: Any, tmp_path: Path) -> None:
    node = load_result(points_file(tmp_path), "Points", "points", reference=volume)
    made = looks.dress(node, role("Points"), volume, SLUG)
    assert not node.GetLocked() and not any(node.GetNthControlPointLocked(number) for number in range(4))
    assert node.GetNthControlPointPositionStatus(1) == node.PositionUndefined
    assert node.GetNthControlPointDescription(2) == "confidence 0.2"
    assert halos.least_certain(node) == [2, 3, 0] and halos.missing(node) == ["inion"]
    model = halos.of(node)
    assert model is made[0] and node.GetNumberOfControlPoints() == 4
    sizes = [ball_around(model, node.GetNthControlPointPositionWorld(number)) for number in (2, 3, 0)]
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_points_without_confidence_have_no_halo(volume: Any, tmp_path: Path) -> None:
    markups.write(Points(np.zeros((1, 3)), ["a"]), Kind.POINTS, tmp_path / "a.mrk.json")
    node = load_result(tmp_path / "a.mrk.json", "Points", "points")
    assert looks.dress(node, role("Points"), volume, SLUG) == [] and halos.of(node) is None


def test_boxes_are_rois_that_say_their_class_and_confidence(volume: Any, tmp_path: Path) -> None:
    size = np.array([10.0, 20, 30])
    boxes = [Box(np.zeros(3), np.eye(3), size, "nodule", 0.8), Box(np.ones(3), np.eye(3), size, "vessel")]
    markups.write(boxes, Kind.BOX, tmp_path / "boxes.mrk.json")
    nodes = load_results(tmp_path / "boxes.mrk.json", "Box", "CT boxes", reference=volume)
    for node in nodes:
        looks.dress(node, role("Box"), volume, SLUG)
    assert [node.GetClassName() for node in nodes] == ["vtkMRMLMarkupsROINode"] * 2
    assert [node.GetDescription() for node in nodes] == ["nodule, confidence 0.80", "vessel"]
    assert provenance_of(nodes[0])["class"] == "nodule" and provenance_of(nodes[0])["confidence"] == "0.8"
    assert np.allclose(nodes[0].GetSize(), size)


def test_a_plot_is_a_chart_of_every_column(volume: Any, tmp_path: Path) -> None:
    io.write(
        Plot([0.0, 1, 2], {"loss": [3.0, 2, 1], "dice": [0.1, 0.5, 0.7]}, x_label="step"), Kind.PLOT, tmp_path / "p.csv"
    )
    node = load_result(tmp_path / "p.csv", "Plot", "curve", reference=volume)
    looks.dress(node, role("Plot"), volume, SLUG)
    chart = looks.chart_of(node)
    series = [chart.GetNthPlotSeriesNode(number) for number in range(chart.GetNumberOfPlotSeriesNodes())]
    assert [(one.GetXColumnName(), one.GetYColumnName()) for one in series] == [("step", "loss"), ("step", "dice")]
    assert all(one.GetTableNode() is node for one in series) and chart.GetXAxisTitle() == "step"
    results.show_one(node)
    selection = slicer.app.applicationLogic().GetSelectionNode()
    assert selection.GetActivePlotChartID() == chart.GetID()
    slicer.mrmlScene.RemoveNode(chart)
    results.show_one(node)
    assert selection.GetActiveTableID() == node.GetID()


@pytest.fixture
def landmarks(image: Any, home: Path, said: list[str], tmp_path: Path) -> Iterator[Any]:  # noqa: F811
    """MedGen Landmarks with points in the scene as a run gives them."""
    outer = slicer_standin.load_module(ROOT / "MedGenLandmarks" / "MedGenLandmarks.py").widgetRepresentation()
    outer.resize(470, 900)
    outer.show()
    record = {"method": "stub-example", "operation": "apply", "run": "2026-1", "seed": 0, "inputs": []}
    node = load_result(points_file(tmp_path), "Points", "CT landmarks", reference=image, provenance=record)
    looks.dress(node, role("Points"), image, SLUG)
    yield outer.self()
    outer.self().cleanup()
    outer.close()
    outer.deleteLater()
    slicer.app.processEvents()


def test_slices_go_from_the_least_certain_point_to_the_next(
    landmarks: Any,
    layout: views.LayoutManager,
    pictures: Path,
) -> None:
    landmarks.panel.refresh()
    results = room(landmarks.panel, "ResultsRoom")
    assert results.jump.visible and results.doubt_text.text == "Not found: inion."
    offsets, texts = [], []
    for _press in range(4):
        results.jump.click()
        offsets.append(round(layout.sliceWidget("Red").mrmlSliceNode().GetSliceOffset()))
        texts.append(results.doubt_text.text)
        if not _press:
            layout.picture(landmarks.parent, pictures / "least_certain.png")
    assert offsets == [-6, 9, 0, -6]
    assert texts[0].startswith("vertex, confidence 0.20 (1 of 3). Not found: inion.")


def test_a_halo_follows_its_point_and_goes_with_it(landmarks: Any) -> None:
    landmarks.panel.refresh()
    points = slicer.util.getNode("CT landmarks")
    model = halos.of(points)
    points.SetNthControlPointPosition(0, 40, 40, 40)
    assert ball_around(model, (40, 40, 40)) > 0
    before = model.GetPolyData().GetNumberOfPoints()
    points.RemoveNthControlPoint(0)
    assert 0 < model.GetPolyData().GetNumberOfPoints() < before
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Deleted by hand")
    copy.AddControlPoint(0, 0, 0)
    copy.SetNthControlPointDescription(0, "confidence 0.5")
    other = halos.add(copy, 1.0)
    slicer.mrmlScene.RemoveNode(copy)
    assert all(node.GetScene() is None for node in other)
    everything = [points, model, model.GetDisplayNode(), points.GetDisplayNode()]
    history.remember("Apply", [node.GetID() for node in everything])
    room(landmarks.panel, "ResultsRoom").take_back.enabled = True
    room(landmarks.panel, "ResultsRoom").take_back.click()
    assert all(node.GetScene() is None for node in everything)


def ball_around(model: Any, place: Any) -> float:
    """The radius of the halo around a position; 0 where there is none."""
    from vtk.util.numpy_support import vtk_to_numpy

    distance = np.linalg.norm(vtk_to_numpy(model.GetPolyData().GetPoints().GetData()) - np.array(place), axis=1)
    surface = np.isclose(distance, distance.min(), rtol=1e-3)
    return float(distance.min()) if surface.sum() > 100 else 0.0
