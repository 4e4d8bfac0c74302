"""Comparing two results: the measures against medgen's own and other libraries', grids, difference maps, the panel."""

from __future__ import annotations

import os
import time
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
from panel_tools import ROOT, home, stub_catalog, until  # noqa: F401
from results_tools import image, room  # noqa: F401
from scipy import ndimage

from medgen.case import Points
from medgen.metrics import images, overlap, points
from MedGenLib import compare, looks, measures
from MedGenLib.errors import BoundaryError
from MedGenLib.selftest import SHAPE, add_volume, ball
from MedGenLib.takeback import history


def pair(seed: int = 0, shape: tuple[int, ...] = (20, 23, 26)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    one = ndimage.gaussian_filter(rng.normal(0, 400, shape), 1).astype(np.float32)
    return one, (one + rng.normal(5, 20, shape)).astype(np.float32)


def test_image_measures_are_those_of_medgen() -> None:
    one, other = pair()
    where, data_range = np.ones(one.shape, bool), float(other.max() - other.min())
    assert measures.mae(one, other, where) == pytest.approx(images.mae(one, other), rel=1e-6)
    assert measures.psnr(one, other, where, data_range) == pytest.approx(images.psnr(one, other, data_range), rel=1e-6)
    assert measures.ssim(one, other, where, data_range) == pytest.approx(images.ssim(one, other, data_range), abs=1e-6)
    where[:, :, 20:] = False
    assert measures.mae(one, other, where) == pytest.approx(images.mae(one, other, where), rel=1e-6)
    inside = images.ssim(one[:, :, :20], other[:, :, :20], data_range)
    assert measures.ssim(one, other, where, data_range) == pytest.approx(inside, abs=1e-6)
    assert np.isnan(measures.ssim(one[:3], other[:3], where[:3], data_range))


def test_mask_measures_are_those_of_medgen_and_of_distance_transforms() -> None:
    one = ball()
    other = np.roll(one, (1, 2), (0, 2)) & (np.random.default_rng(0).random(one.shape) > 0.02)
    spacing = (2.0, 1.5, 3.0)
    assert measures.dice(one, other) == pytest.approx(overlap.dice(torch.tensor(one), torch.tensor(other)))
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (one, other)]
    directed = [
        np.percentile(ndimage.distance_transform_edt(~end, sampling=spacing[::-1])[start], 95)
        for start, end in (surfaces, surfaces[::-1])
    ]
    assert measures.hausdorff95(one, other, spacing) == pytest.approx(max(directed), abs=1e-4)
    assert np.isnan(measures.hausdorff95(one, np.zeros_like(one), spacing))
    assert measures.dice(np.zeros_like(one), np.zeros_like(one)) == 1


def test_a_second_volume_on_another_grid_is_taken_by_its_place_in_the_world(scene: Any) -> None:
    slicer_standin.start()
    first = add_volume("First")
    matrix = np.diag([-1.0, -1.0, 1.5, 1.0])
    matrix[:3, 3] = 30, 25, -36
    fine = ndimage.zoom(slicer.util.arrayFromVolume(first), 2, order=0)[:, :, :40]
    second = slicer.util.addVolumeFromArray(fine, ijkToRAS=matrix, name="Second")
    turn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    for node in (first, second):
        node.SetAndObserveTransformNodeID(turn.GetID())
    transform = np.eye(4)
    transform[:3, :3] = [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]
    transform[:3, 3] = 3, -7, 11
    slicer.util.updateTransformMatrixFromArray(turn, transform)
    case = compare.read(first, second)
    assert case.images is not None and case.grid is not None
    one, other, where = case.images
    assert where[:, :, :19].all() and not where[:, :, 21:].any()
    assert np.abs(one - other)[:, :, 1:19].mean() < 12  # half a fine voxel apart
    assert "resampled to the grid of “First”" in case.notes[0]
    nodes = compare.publish(case, compare.measure(case))
    corner = np.array(nodes["difference"].GetOrigin())
    assert np.allclose(corner, transform[:3, :3] @ [30, 25, -36] + transform[:3, 3], atol=1e-4)
    far = add_volume("Far")
    far.SetOrigin(1000, 0, 0)
    with pytest.raises(BoundaryError, match="do not overlap"):
        compare.read(first, far)


def test_the_difference_is_signed_and_white_where_there_is_none(scene: Any) -> None:
    slicer_standin.start()
    first, second = add_volume("First"), add_volume("Second")
    array = slicer.util.arrayFromVolume(first)
    array[5] += 40
    array[9] -= 40
    case = compare.read(first, second)
    found = compare.measure(case)
    difference = compare.publish(case, found)["difference"]
    values = slicer.util.arrayFromVolume(difference)
    assert (values[5] == 40).all() and (values[9] == -40).all() and (values[0] == 0).all()
    display = difference.GetDisplayNode()
    assert display.GetLevel() == 0 and display.GetWindow() == 80
    colours = display.GetColorNode()
    shades = []
    for index in (0, 127, 255):
        shade = [0.0] * 4
        colours.GetColor(index, shade)
        shades.append(shade)
    assert shades[0][2] > 2 * shades[0][0] and min(shades[1][:3]) > 0.9 and shades[2][0] > 2 * shades[2][2]
    assert found.rows[0][1] == pytest.approx(80 / SHAPE[0]) and found.headline.startswith("Mean absolute error")


def test_segments_are_matched_by_name_and_what_is_in_one_alone_is_said(scene: Any) -> None:
    slicer_standin.start()
    volume = add_volume()
    first, second = (segmentation(name, volume) for name in ("First", "Second"))
    paint(first, volume, {"ball": ball(), "alone": np.roll(ball(), 2, 2)})
    paint(second, volume, {"other": np.roll(ball(), 1, 1), "ball": np.roll(ball(), 3, 2)})
    case = compare.read(first, second)
    found = compare.measure(case)
    rows = {row[0]: row[1:] for row in found.rows}
    moved = np.roll(ball(), 3, 2)
    assert rows["ball"][0] == pytest.approx(measures.dice(ball(), moved))
    assert rows["ball"][1] == pytest.approx(6.0, abs=0.5)  # three voxels of 2 mm
    assert rows["ball"][2] == pytest.approx(ball().sum() * 12 / 1000)
    assert np.isnan(rows["alone"][0]) and np.isnan(rows["other"][2])
    assert "Only in “First”: “alone”." in found.headline and "Only in “Second”: “other”." in found.headline
    difference = compare.publish(case, found)["difference"]
    both, only_first, only_second = (
        slicer.util.arrayFromSegmentBinaryLabelmap(difference, one, volume) > 0
        for one in difference.GetSegmentation().GetSegmentIDs()
    )
    assert np.array_equal(both, ball() & moved)
    assert np.array_equal(only_first, (ball() & ~moved) | np.roll(ball(), 2, 2))
    assert np.array_equal(only_second, (moved & ~ball()) | np.roll(ball(), 1, 1))


def test_masks_on_other_grids_meet_in_the_world(scene: Any) -> None:
    slicer_standin.start()
    volume = add_volume()
    first, second = segmentation("First", volume), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Fine")
    paint(first, volume, {"ball": ball()})
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix[:3, 3] = 30.5, 25.5, -37
    fine = slicer.util.addVolumeFromArray(ndimage.zoom(ball().astype(np.uint8), (3, 2, 2), order=0), ijkToRAS=matrix)
    paint(second, fine, {"ball": slicer.util.arrayFromVolume(fine)})
    found = compare.measure(compare.read(first, second))
    assert found.rows[0][1] > 0.99 and found.rows[0][2] < 1
    assert compare.read(first, second).notes == ["“Fine” was resampled to the grid of “First”."]


def test_point_distances_are_those_of_medgen(scene: Any) -> None:
    slicer_standin.start()
    positions = {"nasion": (1, 2, 3), "inion": (4, 5, 6), "vertex": (7, 8, 9)}
    first = markups("First", positions)
    second = markups("Second", {"inion": (4, 5, 8), "nasion": (1, 6, 3), "basion": (0, 0, 0), "vertex": None})
    found = compare.measure(compare.read(first, second))
    assert {name: distance for name, distance in found.rows if not np.isnan(distance)} == {"nasion": 4, "inion": 2}
    assert "Mean distance 3.00 mm, largest 4.00 mm (“nasion”) over 2 points." in found.headline
    assert "Not placed in both: 2 (vertex, basion)." in found.headline
    reference = Points(np.array([[4.0, 5, 8], [1, 6, 3]]), ["inion", "nasion"])
    mine = Points(np.array([positions[name] for name in positions], float), list(positions))
    assert sorted(points.distances(mine, reference)[0]) == [2, 4]


def test_two_large_volumes_are_compared_in_a_few_seconds(scene: Any) -> None:
    slicer_standin.start()
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 1000, (128, 256, 256), dtype=np.int16)
    case = compare.Case("Image", ("", ""), ("a", "b"), images=(array, array + np.int16(3), np.ones(array.shape, bool)))
    began = time.process_time()
    found = compare.measure(case)
    assert found.rows[0][1] == 3
    assert time.process_time() - began < 12


def test_compare_by_clicks_side_by_side_and_back(
    image: Any,  # noqa: F811
    layout: views.LayoutManager,
    home: Path,  # noqa: F811
    said: list[str],
    pictures: Path,
) -> None:
    outer = slicer_standin.load_module(ROOT / "MedGenSegmentation" / "MedGenSegmentation.py").widgetRepresentation()
    outer.resize(470, 900)
    outer.show()
    panel = outer.self().panel
    one = room(panel, "CompareRoom")
    one.button.collapsed = False
    second = segmentation("Reference", image)
    paint(second, image, {"ball": np.roll(ball(), 3, 2), "other": np.roll(ball(), 5, 0)})
    first = segmentation("Result", image)
    paint(first, image, {"ball": ball()})
    one.first.setCurrentNode(first)
    one.second.setCurrentNode(image)
    assert not one.compare.enabled and "two segmentations" in one.compare.toolTip
    one.second.setCurrentNode(second)
    assert one.compare.enabled
    one.compare.click()
    assert one.busy and not one.compare.enabled
    until(lambda: not one.busy)
    assert "HD95" in one.numbers.text and "Only in “Reference”" in one.numbers.text
    assert one.nodes["table"].GetNumberOfRows() == 2 and one.nodes["difference"].GetScene() is not None
    assert not one.nodes["difference"].GetDisplayVisibility() and first.GetDisplayVisibility()
    one.map.click()
    assert one.nodes["difference"].GetDisplayVisibility()
    assert not first.GetDisplayVisibility() and not second.GetDisplayVisibility()
    layout.picture(outer, pictures / "compare.png")
    one.map.click()
    assert first.GetDisplayVisibility() and not one.nodes["difference"].GetDisplayVisibility()

    red, yellow = (layout.sliceWidget(name) for name in ("Red", "Yellow"))
    orientation, before = yellow.node.GetOrientation(), layout.layout
    one.side.click()
    assert layout.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView
    logic = red.sliceLogic()
    logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.SliceToRASFlag)
    red.node.SetSliceOffset(-6.0)
    logic.EndSliceNodeInteraction()
    assert yellow.node.GetSliceOffset() == -6.0 and yellow.node.GetOrientation() == "Axial"
    assert first.GetDisplayNode().IsDisplayableInView(red.node.GetID())
    assert not first.GetDisplayNode().IsDisplayableInView(yellow.node.GetID())
    assert second.GetDisplayNode().IsDisplayableInView(yellow.node.GetID())
    layout.picture(outer, pictures / "side_by_side.png")
    one.side.click()
    assert layout.layout == before and yellow.node.GetOrientation() == orientation
    assert first.GetDisplayNode().GetNumberOfViewNodeIDs() == 0 and not one.views.shown
    assert not red.sliceLogic().GetSliceCompositeNode().GetLinkedControl()

    room(panel, "ResultsRoom").take_back.click()
    assert all(node.GetScene() is None for node in one.nodes.values()) and first.GetScene() is not None
    assert said == [] and history.last is None
    outer.self().cleanup()
    outer.close()


def test_volumes_side_by_side_and_their_difference(
    image: Any,  # noqa: F811
    layout: views.LayoutManager,
    home: Path,  # noqa: F811
    pictures: Path,
) -> None:
    outer = slicer_standin.load_module(ROOT / "MedGenSynthesis" / "MedGenSynthesis.py").widgetRepresentation()
    outer.resize(470, 900)
    outer.show()
    one = next(found for found in outer.self().panel.rooms if type(found).__name__ == "CompareRoom")
    one.button.collapsed = False
    other = add_volume("Synthetic")
    slicer.util.updateVolumeFromArray(other, np.roll(slicer.util.arrayFromVolume(other), 1, 2))
    looks.dress(other, {"kind": "Image", "units": "HU"}, image, "some-method")
    one.first.setCurrentNode(other)
    one.second.setCurrentNode(image)
    one.compare.click()
    until(lambda: not one.busy)
    assert "HU, PSNR" in one.numbers.text and "SSIM" in one.numbers.text
    one.map.click()
    composite = layout.sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == one.nodes["difference"].GetID()
    layout.picture(outer, pictures / "compare_volumes.png")
    one.map.click()
    assert composite.GetBackgroundVolumeID() == image.GetID()
    outer.self().cleanup()
    outer.close()


def segmentation(name: str, volume: Any) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node


def paint(node: Any, volume: Any, segments: dict[str, np.ndarray]) -> None:
    for name, mask in segments.items():
        node.GetSegmentation().AddEmptySegment(name, name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, name, volume)


def markups(name: str, positions: dict[str, Any]) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for label, position in positions.items():
        index = node.AddControlPoint(*(position or (0, 0, 0)))
        node.SetNthControlPointLabel(index, label)
        if position is None:
            node.UnsetNthControlPointPosition(index)
    return node
