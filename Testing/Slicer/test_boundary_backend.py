"""Both sides of the boundary together: nodes -> files -> what the backend reads and writes -> nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from boundary_tools import (
    LINEAR_PARENTS,
    OBLIQUE,
    TOLERANCE,
    noise,
    parent,
    rotation,
    translation,
    volume,
    world_matrix,
)

from MedGenLib.export import export_node
from MedGenLib.load import load_result, load_results

pytest.importorskip("torch", reason="the backend needs torch")

from medgen import io
from medgen.case import Box, Curve, Line, Mask, Plane, Points, Segment, Sphere, Table
from medgen.method import Kind, Role

ABOVE = LINEAR_PARENTS["mirrored_rotated_moved"]


def role(kind: Kind) -> Role:
    return Role("role", kind, "")


def through_the_backend(path: Path, kind: Kind, ending: str | None = None) -> Path:
    """Read a file as the backend does, and write it again as the backend does."""
    (value,) = io.read(path, role(kind))
    target = path.parent / ("again" + (ending or io.ENDINGS[kind]))
    io.write(value, kind, target)
    return target


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_volume_returns_to_its_place_in_the_world(scene: Any, tmp_path: Path, ending: str) -> None:
    array = noise((4, 5, 6))
    node = volume(array)
    parent(node, ABOVE)
    path = export_node(node, tmp_path, "image", "Image", log=pytest.fail)
    (value,) = io.read(path, role(Kind.IMAGE))
    np.testing.assert_allclose(value.affine, world_matrix(node), atol=1e-6)
    np.testing.assert_array_equal(value.data[0].numpy().T, array)
    back = load_result(through_the_backend(path, Kind.IMAGE, ending), "Image", "back", reference=node)
    to_input = np.linalg.inv(world_matrix(node)) @ world_matrix(back)
    found = slicer.util.arrayFromVolume(back)
    for k, j, i in np.ndindex(found.shape):
        index = (to_input @ [i, j, k, 1])[:3]
        assert np.abs(index - np.rint(index)).max() < TOLERANCE
        x, y, z = np.rint(index).astype(int)
        assert found[k, j, i] == array[z, y, x]


def test_overlapping_segments_become_labels_by_the_stated_rule_and_return(scene: Any, tmp_path: Path) -> None:
    from test_boundary_segmentations import BOXES, COLOURS, assert_same_places, places_in_node, positions, segmentation

    node = segmentation(["liver", "tumour", "nothing yet"])
    parent(node, ABOVE)
    path = export_node(node, tmp_path, "mask", "Mask", log=pytest.fail)
    logged: list[str] = []
    (value,) = io.read(path, role(Kind.MASK), logged.append)
    liver, tumour = BOXES["liver"].astype(bool), BOXES["tumour"].astype(bool)
    assert [segment.name for segment in value.segments] == ["liver", "tumour", "nothing yet"]
    np.testing.assert_allclose(value.segments[1].colour, COLOURS["tumour"], atol=1e-3)
    assert int((value.data == 2).sum()) == tumour.sum()
    assert int((value.data == 1).sum()) == (liver & ~tumour).sum()
    assert len(logged) == 1 and str((liver & tumour).sum()) in logged[0]
    back = load_result(through_the_backend(path, Kind.MASK), "Mask", "back", reference=node)
    content = back.GetSegmentation()
    assert [content.GetSegment(i).GetName() for i in content.GetSegmentIDs()] == ["liver", "tumour", "nothing yet"]
    np.testing.assert_allclose(content.GetNthSegment(1).GetColor(), COLOURS["tumour"], atol=1e-3)
    found = places_in_node(back, content.GetNthSegmentID(1))
    assert_same_places(found, positions(BOXES["tumour"], ABOVE @ OBLIQUE))


def test_terminology_of_a_segment_passes_the_backend(scene: Any, tmp_path: Path) -> None:
    from test_boundary_segmentations import segmentation

    entry = "Segmentation category and type~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~list~^^~^^"
    node = segmentation(["liver", "vessel"])
    node.GetSegmentation().GetSegment("liver").SetTag("TerminologyEntry", entry)
    path = export_node(node, tmp_path, "mask", "Mask", log=pytest.fail)
    (value,) = io.read(path, role(Kind.MASK))
    assert value.segments[0].terminology == entry
    back = load_result(through_the_backend(path, Kind.MASK), "Mask", "back").GetSegmentation()
    found = vtk.reference("")
    assert back.GetNthSegment(0).GetTag("TerminologyEntry", found) and str(found) == entry


def test_what_the_backend_marks_comes_in_as_markups(scene: Any, tmp_path: Path) -> None:
    places = np.array([[10.0, -20.0, 30.0], [1.0, 2.0, 3.0], [np.nan] * 3])
    axes = rotation(10, 20, 30)[:3, :3]
    values: dict[Kind, Any] = {
        Kind.POINTS: Points(places, ["a", "b", "lost"], np.array([0.9, 0.5, np.nan])),
        Kind.LINE: Line(places[:2], ["", ""]),
        Kind.CURVE: Curve(places[:2], ["", ""], closed=True),
        Kind.PLANE: [Plane(places[0], axes, "first"), Plane(places[1], axes, "second")],
        Kind.BOX: Box(places[0], axes, np.array([4.0, 5.0, 6.0]), "tumour", 0.75),
        Kind.SPHERE: Sphere(places[0], 7.5, "aneurysm"),
    }
    found = {}
    for kind, value in values.items():
        io.write(value, kind, tmp_path / f"{kind.name}.mrk.json")
        found[kind] = load_results(tmp_path / f"{kind.name}.mrk.json", kind.value, kind.name)
    (marks,) = found[Kind.POINTS]
    assert (marks.GetNumberOfControlPoints(), marks.GetNumberOfDefinedControlPoints()) == (3, 2)
    np.testing.assert_allclose(marks.GetNthControlPointPositionWorld(0), places[0], atol=TOLERANCE)
    assert marks.GetNthControlPointLabel(2) == "lost" and "0.9" in marks.GetNthControlPointDescription(0)
    assert found[Kind.CURVE][0].GetClassName() == "vtkMRMLMarkupsClosedCurveNode"
    assert [node.GetName() for node in found[Kind.PLANE]] == ["first", "second"]
    np.testing.assert_allclose(found[Kind.PLANE][1].GetOriginWorld(), places[1], atol=TOLERANCE)
    np.testing.assert_allclose(found[Kind.PLANE][1].GetNormalWorld(), axes[:, 2], atol=1e-6)
    (box,) = found[Kind.BOX]
    assert box.GetName() == "tumour"
    matrix = slicer.util.arrayFromVTKMatrix(box.GetObjectToWorldMatrix())
    np.testing.assert_allclose(matrix[:3, :3], axes, atol=1e-6)
    np.testing.assert_allclose(matrix[:3, 3], places[0], atol=TOLERANCE)
    np.testing.assert_allclose(box.GetSize(), [4, 5, 6], atol=1e-6)
    np.testing.assert_allclose(found[Kind.SPHERE][0].GetSize(), [15, 15, 15], atol=1e-6)


def test_boxes_and_planes_of_nodes_are_the_same_to_the_backend(scene: Any, tmp_path: Path) -> None:
    from test_boundary_markups import SIZE, TILTED, box_corners, roi

    node = roi(TILTED, SIZE)
    parent(node, ABOVE)
    (box,) = io.read(export_node(node, tmp_path, "box", "Box", log=pytest.fail), role(Kind.BOX))
    expected = box_corners(TILTED[:3, 3], TILTED[:3, :3], np.array(SIZE)) @ ABOVE[:3, :3].T + ABOVE[:3, 3]
    expected = expected[np.lexsort(np.round(expected, 3).T)]
    np.testing.assert_allclose(box_corners(box.centre, box.axes, box.size), expected, atol=TOLERANCE)
    plane = scene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode", "Slice")
    plane.SetOrigin([1.0, 2.0, 3.0])
    plane.SetNormal([0.0, 0.6, 0.8])
    parent(plane, translation(5, 0, 0) @ rotation(z=90))
    (value,) = io.read(export_node(plane, tmp_path, "plane", "Plane", log=pytest.fail), role(Kind.PLANE))
    np.testing.assert_allclose(value.origin, [3, 1, 3], atol=TOLERANCE)
    np.testing.assert_allclose(value.axes[:, 2], [-0.6, 0, 0.8], atol=1e-6)


def test_points_not_placed_are_not_found_to_the_backend(scene: Any, tmp_path: Path) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Marks")
    node.AddControlPoint([1.0, 2.0, 3.0], "a")
    node.AddControlPoint([0.0, 0.0, 0.0], "lost")
    node.UnsetNthControlPointPosition(1)
    (value,) = io.read(export_node(node, tmp_path, "p", "Points", log=pytest.fail), role(Kind.POINTS))
    assert value.names == ["a", "lost"] and value.found.tolist() == [True, False]


def test_mask_and_table_of_the_backend_keep_names(scene: Any, tmp_path: Path) -> None:
    import torch

    data = torch.zeros(6, 5, 4, dtype=torch.int16)
    data[1:3, 1:4, 1:3] = 4
    mask = Mask(data, OBLIQUE, [Segment(4, "Leber – links", (0.25, 0.5, 0.75))])
    io.write(mask, Kind.MASK, tmp_path / "mask.seg.nrrd")
    (segment,) = [
        node.GetSegmentation().GetNthSegment(0) for node in load_results(tmp_path / "mask.seg.nrrd", "Mask", "result")
    ]
    assert segment.GetName() == "Leber – links"
    np.testing.assert_allclose(segment.GetColor(), (0.25, 0.5, 0.75), atol=1e-6)
    io.write(Table({"name": ["a", "b"], "dice": [0.5, 1 / 3]}), Kind.TABLE, tmp_path / "t.csv")
    table = load_result(tmp_path / "t.csv", "Table", "scores").GetTable()
    assert table.GetColumnByName("dice").GetValue(1) == 1 / 3


@pytest.mark.parametrize("channels", [1, 3])
def test_picture_passes_the_backend_the_right_way_up(scene: Any, tmp_path: Path, channels: int) -> None:
    from test_boundary_frames import asymmetric, frame

    array = asymmetric(channels)
    path = export_node(frame(array), tmp_path, "image", "Image", log=pytest.fail)
    (value,) = io.read(path, Role("image", Kind.IMAGE, "", dims="2D"))
    np.testing.assert_array_equal(value.data.numpy().transpose(2, 1, 0), array)  # (C, i, j) against rows, columns
    for ending in (".png", ".nii.gz"):
        io.write(value, Kind.IMAGE, tmp_path / f"again{ending}")
        back = load_result(tmp_path / f"again{ending}", "Image", "back")
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(back).reshape(array.shape), array)
        np.testing.assert_allclose(world_matrix(back), np.diag([-1.0, -1.0, 1.0, 1.0]), atol=1e-6)


def test_every_result_has_a_display_of_its_own(scene: Any, tmp_path: Path) -> None:
    from test_boundary_segmentations import segmentation

    image, mask = volume(noise((4, 5, 6))), segmentation(["liver"])
    marks = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Marks")
    marks.AddControlPoint([1.0, 2.0, 3.0])
    nodes = {"Image": image, "Mask": mask, "Points": marks}
    for node in nodes.values():
        node.CreateDefaultDisplayNodes()
    displays = [node.GetDisplayNodeID() for node in nodes.values()]
    for kind, node in nodes.items():
        back = load_result(export_node(node, tmp_path, kind, kind, log=pytest.fail), kind, "back", reference=image)
        assert back.GetNumberOfDisplayNodes() == 1
        displays.append(back.GetDisplayNodeID())
    assert len(set(displays)) == 6 and None not in displays
