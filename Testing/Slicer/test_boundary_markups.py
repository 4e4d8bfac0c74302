"""Points, lines, curves, planes and boxes across the boundary, the file side read as plain JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from boundary_tools import LINEAR_PARENTS, TOLERANCE, bend, parent, rotation, scene_state, shear, translation

from medgen import markups as backend_markups
from medgen.method import Kind, Role
from MedGenLib.errors import BoundaryError
from MedGenLib.export import export_node
from MedGenLib.load import load_result, load_results

FLIP = np.array([-1.0, -1.0, 1.0])
PLACES = np.array([[10.0, 20.0, 30.0], [-5.0, 2.0, 8.0], [40.0, -7.0, 1.5]])
SPOTS = [*LINEAR_PARENTS, "sheared"]


def above(name: str) -> np.ndarray:
    """The parent matrix of a name; "none" is no parent."""
    return shear(0.5) if name == "sheared" else LINEAR_PARENTS.get(name, np.eye(4))


def place(node: Any, name: str) -> Any:
    if name != "none":
        parent(node, above(name))
    return node


def markup(path: Path) -> dict[str, Any]:
    """The one markup of a file."""
    (item,) = json.loads(path.read_text("utf-8"))["markups"]
    return item


def ras(item: dict[str, Any], numbers: list[float]) -> np.ndarray:
    """A position or the columns of a row-major matrix of the file, as RAS."""
    flip = FLIP if item["coordinateSystem"] == "LPS" else np.ones(3)
    array = np.array(numbers, float)
    return array * flip if array.size == 3 else flip[:, None] * array.reshape(3, 3)


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def points(class_name: str = "vtkMRMLMarkupsFiducialNode", places: np.ndarray = PLACES, name: str = "Marks") -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass(class_name, name)
    for number, position in enumerate(places):
        node.AddControlPoint(position.tolist(), f"p{number}")
        node.SetNthControlPointDescription(number, f"text {number}")
    return node


@pytest.mark.parametrize("spot", ["none", *SPOTS])
def test_points_come_out_at_world_positions_with_their_names(scene: Any, tmp_path: Path, spot: str) -> None:
    node = place(points(), spot)
    before = scene_state(scene)
    path = export_node(node, tmp_path, "marks", "Points", log=pytest.fail)
    assert scene_state(scene) == before
    item = markup(path)
    assert path.name == "marks.mrk.json" and item["type"] == "Fiducial"
    assert [p["label"] for p in item["controlPoints"]] == ["p0", "p1", "p2"]
    assert [p["description"] for p in item["controlPoints"]] == ["text 0", "text 1", "text 2"]
    found = np.array([ras(item, p["position"]) for p in item["controlPoints"]])
    np.testing.assert_allclose(found, moved(above(spot), PLACES), atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["spline", "grid"])
def test_points_under_a_warp_come_out_where_slicer_shows_them(scene: Any, tmp_path: Path, kind: str) -> None:
    node = points()
    warp = bend(node, PLACES.mean(axis=0), 40.0, kind)
    before = scene_state(scene)
    item = markup(export_node(node, tmp_path, "marks", "Points", log=pytest.fail))
    assert scene_state(scene) == before
    found = np.array([ras(item, p["position"]) for p in item["controlPoints"]])
    np.testing.assert_allclose(found, [warp(p) for p in PLACES], atol=TOLERANCE)
    assert np.linalg.norm(found - PLACES, axis=1).max() > 1


def test_points_that_are_not_placed_stay_so_both_ways(scene: Any, tmp_path: Path) -> None:
    node = place(points(), "rotated")
    node.UnsetNthControlPointPosition(1)
    path = export_node(node, tmp_path, "marks", "Points", log=pytest.fail)
    item = markup(path)
    assert [p["positionStatus"] for p in item["controlPoints"]] == ["defined", "undefined", "defined"]
    assert item["controlPoints"][1]["position"] == ""
    back = load_result(path, "Points", "back")
    assert back.GetNumberOfControlPoints() == 3 and back.GetNumberOfDefinedControlPoints() == 2
    assert back.GetNthControlPointPositionStatus(1) == slicer.vtkMRMLMarkupsNode.PositionUndefined
    assert back.GetNthControlPointLabel(1) == "p1"
    expected = moved(above("rotated"), PLACES)
    np.testing.assert_allclose(back.GetNthControlPointPositionWorld(2), expected[2], atol=TOLERANCE)


@pytest.mark.parametrize("system", ["LPS", "RAS"])
def test_both_coordinate_systems_come_in_right(scene: Any, tmp_path: Path, system: str) -> None:
    flip = FLIP if system == "LPS" else np.ones(3)
    control = [
        {"label": f"p{n}", "description": "found", "position": (p * flip).tolist(), "positionStatus": "defined"}
        for n, p in enumerate(PLACES)
    ]
    control.append({"label": "lost", "position": "", "positionStatus": "undefined"})
    form = {"markups": [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": control}]}
    (tmp_path / "out.mrk.json").write_text(json.dumps(form))
    node = load_result(tmp_path / "out.mrk.json", "Points", "result", provenance={"method": "m"})
    found = [node.GetNthControlPointPositionWorld(n) for n in range(3)]
    np.testing.assert_allclose(found, PLACES, atol=TOLERANCE)
    assert node.GetNthControlPointDescription(0) == "found"
    assert node.GetNumberOfControlPoints() == 4 and node.GetNumberOfDefinedControlPoints() == 3
    assert node.GetParentTransformNode() is None and node.GetStorageNode() is None
    assert node.GetAttribute("MedGen.method") == "m" and node.GetDisplayNode() is not None


@pytest.mark.parametrize("system", [0, 1])
def test_a_node_that_stores_in_either_system_comes_out_right(scene: Any, tmp_path: Path, system: int) -> None:
    node = points()
    storage = scene.AddNewNodeByClass("vtkMRMLMarkupsJsonStorageNode")
    storage.SetCoordinateSystem(system)
    storage.SetFileName(str(tmp_path / "own.mrk.json"))
    node.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.WriteData(node)
    item = markup(export_node(node, tmp_path / "run", "marks", "Points", log=pytest.fail))
    found = np.array([ras(item, p["position"]) for p in item["controlPoints"]])
    np.testing.assert_allclose(found, PLACES, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("class_name", "kind", "type_name"),
    [
        ("vtkMRMLMarkupsLineNode", "Line", "Line"),
        ("vtkMRMLMarkupsCurveNode", "Curve", "Curve"),
        ("vtkMRMLMarkupsClosedCurveNode", "Curve", "ClosedCurve"),
    ],
)
def test_lines_and_curves_go_out_and_back(
    scene: Any, tmp_path: Path, class_name: str, kind: str, type_name: str
) -> None:
    places = PLACES[:2] if kind == "Line" else PLACES
    node = place(points(class_name, places), "mirrored_rotated_moved")
    path = export_node(node, tmp_path, "path", kind, log=pytest.fail)
    assert markup(path)["type"] == type_name
    back = load_result(path, kind, "back")
    assert back.GetClassName() == class_name
    found = [back.GetNthControlPointPositionWorld(n) for n in range(len(places))]
    np.testing.assert_allclose(found, moved(above("mirrored_rotated_moved"), places), atol=TOLERANCE)


def roi(matrix: np.ndarray, size: list[float]) -> Any:
    """A ROI whose centre and axes are the columns of `matrix`."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    node.SetCenter([0.0, 0.0, 0.0])
    node.SetSize(size)
    node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return node


def box_corners(centre: np.ndarray, axes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(8, 3) corners, sorted: a box is the same whatever the sign and order of its axes."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    found = centre + (signs * size / 2) @ axes.T
    return found[np.lexsort(np.round(found, 3).T)]


TILTED = translation(10, 20, 30) @ rotation(15, -25, 40)
SIZE = [20.0, 30.0, 8.0]


@pytest.mark.parametrize("spot", ["none", *LINEAR_PARENTS])
@pytest.mark.parametrize("kind", ["Box", "Sphere"])
def test_rotated_boxes_go_out_and_back(scene: Any, tmp_path: Path, spot: str, kind: str) -> None:
    node = place(roi(TILTED, SIZE), spot)
    before = scene_state(scene)
    path = export_node(node, tmp_path, "box", kind, log=pytest.fail)
    assert scene_state(scene) == before
    item = markup(path)
    found = box_corners(ras(item, item["center"]), ras(item, item["orientation"]), np.array(item["size"]))
    expected = moved(above(spot), box_corners(TILTED[:3, 3], TILTED[:3, :3], np.array(SIZE)))
    expected = expected[np.lexsort(np.round(expected, 3).T)]
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    back = load_result(path, kind, "back")
    matrix = slicer.util.arrayFromVTKMatrix(back.GetObjectToWorldMatrix())
    again = box_corners(matrix[:3, 3], matrix[:3, :3], np.array(back.GetSize()))
    np.testing.assert_allclose(again, expected, atol=TOLERANCE)


def test_a_boxs_name_goes_along_because_it_is_its_class(scene: Any, tmp_path: Path) -> None:
    node = roi(TILTED, SIZE)
    node.SetName("Messer – groß")
    path = export_node(node, tmp_path, "boxes", "Box", log=pytest.fail)
    (box,) = backend_markups.read(path, Role("boxes", Kind.BOX, ""))
    assert box.name == "Messer – groß"
    assert load_results(path, "Box", "other")[0].GetName() == "Messer – groß_1"  # a unique name beside the node's own
    saved = tmp_path / "forceps.mrk.json"  # as Slicer saves it: the file's name alone says what it is
    saved.write_text(json.dumps({"markups": [{k: v for k, v in markup(path).items() if k != "name"}]}), "utf-8")
    (box,) = backend_markups.read(saved, Role("boxes", Kind.BOX, ""))
    assert box.name == "forceps"


def test_a_box_that_its_transform_bends_is_reported(scene: Any, tmp_path: Path) -> None:
    for above_it in (shear(0.4), np.diag([2.0, 1.0, 1.0, 1.0])):
        node = roi(TILTED, SIZE)
        parent(node, above_it)
        logged: list[str] = []
        path = export_node(node, tmp_path, "box", "Box", log=logged.append)
        assert len(logged) == 1 and "Box" in logged[0]
        np.testing.assert_allclose(
            ras(markup(path), markup(path)["center"]), moved(above_it, TILTED[:3, 3][None])[0], atol=TOLERANCE
        )


@pytest.mark.parametrize("spot", ["none", *LINEAR_PARENTS])
def test_planes_go_out_and_back(scene: Any, tmp_path: Path, spot: str) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode", "Slice")
    node.SetOrigin(TILTED[:3, 3])
    node.SetAxes(*(TILTED[:3, n].tolist() for n in range(3)))
    node.SetSize(50, 60)
    place(node, spot)
    before = scene_state(scene)
    path = export_node(node, tmp_path, "plane", "Plane", log=pytest.fail)
    assert scene_state(scene) == before
    item = markup(path)
    assert item["type"] == "Plane"
    origin, axes = ras(item, item["center"]), ras(item, item["orientation"])
    world = above(spot) @ TILTED
    np.testing.assert_allclose(origin, world[:3, 3], atol=TOLERANCE)
    lengths = np.linalg.norm(world[:3, :3], axis=0)
    for n in (0, 1):
        np.testing.assert_allclose(axes[:, n], world[:3, n] / lengths[n], atol=1e-6)
    np.testing.assert_allclose(np.abs(axes[:, 2] @ world[:3, 2] / lengths[2]), 1.0, atol=1e-6)
    back = load_result(path, "Plane", "back")
    np.testing.assert_allclose(back.GetOriginWorld(), world[:3, 3], atol=TOLERANCE)
    x, y, z = [0.0] * 3, [0.0] * 3, [0.0] * 3
    back.GetAxesWorld(x, y, z)
    np.testing.assert_allclose(np.array([x, y, z]).T, axes, atol=1e-6)


@pytest.mark.parametrize("system", ["LPS", "RAS"])
def test_plane_that_is_given_by_centre_and_axes_only_comes_in_tilted(scene: Any, tmp_path: Path, system: str) -> None:
    flip = FLIP if system == "LPS" else np.ones(3)
    item = {
        "type": "Plane",
        "coordinateSystem": system,
        "planeType": "pointNormal",
        "center": (TILTED[:3, 3] * flip).tolist(),
        "orientation": (flip[:, None] * TILTED[:3, :3]).ravel().tolist(),
        "controlPoints": [{"position": (TILTED[:3, 3] * flip).tolist(), "positionStatus": "defined"}],
    }
    (tmp_path / "plane.mrk.json").write_text(json.dumps({"markups": [item]}))
    node = load_result(tmp_path / "plane.mrk.json", "Plane", "plane")
    x, y, z = [0.0] * 3, [0.0] * 3, [0.0] * 3
    node.GetAxesWorld(x, y, z)
    np.testing.assert_allclose(np.array([x, y, z]).T, TILTED[:3, :3], atol=1e-6)
    np.testing.assert_allclose(node.GetOriginWorld(), TILTED[:3, 3], atol=TOLERANCE)


def test_several_markups_of_a_file_become_several_nodes(scene: Any, tmp_path: Path) -> None:
    items = []
    for name in ("first", "second"):
        path = export_node(roi(translation(len(items) * 50, 0, 0), SIZE), tmp_path, name, "Box", log=pytest.fail)
        items.append({**markup(path), "name": name})
    (tmp_path / "both.mrk.json").write_text(json.dumps({"markups": items}))
    nodes = load_results(tmp_path / "both.mrk.json", "Box", "boxes")
    assert [node.GetName() for node in nodes] == ["first", "second"]
    assert [node.GetCenterWorld()[0] for node in nodes] == pytest.approx([0, 50])
    before = scene_state(scene)
    with pytest.raises(BoundaryError, match="2 markups"):
        load_result(tmp_path / "both.mrk.json", "Box", "one")
    assert scene_state(scene) == before


def test_unfinished_markups_are_refused_by_name(scene: Any, tmp_path: Path) -> None:
    for class_name, kind in (
        ("vtkMRMLMarkupsFiducialNode", "Points"),
        ("vtkMRMLMarkupsLineNode", "Line"),
        ("vtkMRMLMarkupsCurveNode", "Curve"),
        ("vtkMRMLMarkupsPlaneNode", "Plane"),
        ("vtkMRMLMarkupsROINode", "Box"),
        ("vtkMRMLMarkupsROINode", "Sphere"),
    ):
        node = scene.AddNewNodeByClass(class_name, "Unfinished")
        with pytest.raises(BoundaryError, match="Unfinished"):
            export_node(node, tmp_path / "run", "role", kind, log=pytest.fail)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"markups": []}', '{"markups": [{"type": "Hologram"}]}'])
def test_unreadable_markups_leave_the_scene_as_it_was(scene: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "out.mrk.json").write_text(content)
    before = scene_state(scene)
    with pytest.raises(BoundaryError, match="out.mrk.json"):
        load_result(tmp_path / "out.mrk.json", "Points", "result")
    assert scene_state(scene) == before


def table(columns: dict[str, list[Any]]) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "Numbers")
    for name, cells in columns.items():
        column = vtk.vtkStringArray() if isinstance(cells[0], str) else vtk.vtkDoubleArray()
        column.SetName(name)
        for cell in cells:
            column.InsertNextValue(cell)
        node.AddColumn(column)
    return node


@pytest.mark.parametrize("kind", ["Table", "Matrix"])
def test_tables_go_out_and_back_with_every_digit(scene: Any, tmp_path: Path, kind: str) -> None:
    names, numbers = ["a, b", 'say "c"', "ø"], [1 / 3, -2.5e-17, 12345678.875]
    path = export_node(table({"region": names, "value": numbers}), tmp_path, "t", kind, log=pytest.fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv"]
    back = load_result(path, kind, "back")
    content = back.GetTable()
    assert [content.GetColumnName(n) for n in range(2)] == ["region", "value"]
    assert [content.GetColumn(0).GetValue(n) for n in range(3)] == names
    assert [content.GetColumn(1).GetValue(n) for n in range(3)] == numbers
    with pytest.raises(BoundaryError, match="Numbers.*empty"):
        export_node(scene.AddNewNodeByClass("vtkMRMLTableNode", "Numbers"), tmp_path, "t", kind, log=pytest.fail)


def a_line(scene: Any, ends: list[tuple[float, float, float]]) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "Sac")
    for end in ends:
        node.AddControlPoint(*end)
    return node


def test_a_line_goes_out_as_the_sphere_of_which_it_is_the_diameter(scene: Any, tmp_path: Path) -> None:
    node = a_line(scene, [(1, 2, 3), (1, 2, 9)])
    parent(node, np.diag([1.0, 1.0, 2.0, 1.0]))
    path = export_node(node, tmp_path, "aneurysms", "Sphere", log=pytest.fail)
    (sphere,) = backend_markups.read(path, Role("aneurysms", Kind.SPHERE, "", many=True))
    np.testing.assert_allclose(sphere.centre, (1, 2, 12), atol=TOLERANCE)
    assert sphere.radius == pytest.approx(6)


def test_a_line_of_no_length_is_refused_by_name_where_it_stands_for_a_sphere(scene: Any, tmp_path: Path) -> None:
    node = a_line(scene, [(1, 2, 3), (1, 2, 3)])
    with pytest.raises(BoundaryError, match="Line “Sac” has no length"):
        export_node(node, tmp_path / "run", "aneurysms", "Sphere", log=pytest.fail)
    with pytest.raises(BoundaryError, match="“Sac” has 1 of at least 2 points"):
        export_node(a_line(scene, [(1, 2, 3)]), tmp_path / "run", "aneurysms", "Sphere", log=pytest.fail)
    assert not (tmp_path / "run").exists()


def test_an_empty_file_of_spheres_gives_no_node_where_that_is_a_result(scene: Any, tmp_path: Path) -> None:
    backend_markups.write([], Kind.SPHERE, tmp_path / "aneurysms.mrk.json")
    before = scene_state(scene)
    assert load_results(tmp_path / "aneurysms.mrk.json", "Sphere", "found", may_be_empty=True) == []
    with pytest.raises(BoundaryError, match="not a readable"):
        load_results(tmp_path / "aneurysms.mrk.json", "Sphere", "found")
    assert scene_state(scene) == before


def test_a_list_without_points_goes_out_and_comes_back_where_it_may_be_empty(scene: Any, tmp_path: Path) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Sutures")
    with pytest.raises(BoundaryError, match="“Sutures” has 0 of at least 1 points; place the missing ones"):
        export_node(node, tmp_path, "points", "Points", log=pytest.fail)
    path = export_node(node, tmp_path, "points", "Points", may_be_empty=True, log=pytest.fail)
    role = Role("points", Kind.POINTS, "", may_be_empty=True)
    (points,) = backend_markups.read(path, role)
    assert points.positions.shape == (0, 3)
    backend_markups.write([points], Kind.POINTS, tmp_path / "found.mrk.json")
    (back,) = load_results(tmp_path / "found.mrk.json", "Points", "found")
    assert back.GetNumberOfControlPoints() == 0 and back.GetClassName() == "vtkMRMLMarkupsFiducialNode"
