"""Points, lines, curves, planes and boxes between markups nodes and .mrk.json files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from MedGenLib.errors import BoundaryError
from MedGenLib.geometry import Placement, from_vtk, is_right_angled
from MedGenLib.i18n import _
from MedGenLib.scratch import copy_into

MARKUP_CLASSES = {
    "Fiducial": "vtkMRMLMarkupsFiducialNode",
    "Line": "vtkMRMLMarkupsLineNode",
    "Angle": "vtkMRMLMarkupsAngleNode",
    "Curve": "vtkMRMLMarkupsCurveNode",
    "ClosedCurve": "vtkMRMLMarkupsClosedCurveNode",
    "Plane": "vtkMRMLMarkupsPlaneNode",
    "ROI": "vtkMRMLMarkupsROINode",
}
_SHORTEST = 1e-3  # mm: of a line that stands for a sphere
_FEWEST_POINTS = {"Points": 1, "Line": 2, "Curve": 2}


def check(node: Any, kind: str, name: str, may_be_empty: bool = False) -> None:
    """BoundaryError when a markup is not placed so far that it says something. A line may stand for a sphere.
    may_be_empty: a list of points may have none."""
    if kind == "Sphere" and node.IsA("vtkMRMLMarkupsLineNode"):
        check(node, "Line", name)
        ends = [np.array(node.GetNthControlPointPosition(number)) for number in range(2)]
        if np.linalg.norm(ends[1] - ends[0]) < _SHORTEST:
            raise BoundaryError(
                _("Line “{name}” has no length; move its two points apart or choose another.").format(name=name)
            )
        return
    if kind in ("Box", "Sphere"):
        if node.GetNumberOfDefinedControlPoints() < 1 or min(node.GetSize()) <= 0:
            raise BoundaryError(
                _("ROI “{name}” has no size; place it in the views or choose another.").format(name=name)
            )
        return
    if kind == "Plane":
        if not node.GetIsPlaneValid():
            raise BoundaryError(
                _("Plane “{name}” is not placed; place it in the views or choose another.").format(name=name)
            )
        return
    placed = node.GetNumberOfControlPoints() if kind == "Points" else node.GetNumberOfDefinedControlPoints()
    if placed < _FEWEST_POINTS[kind] and not (kind == "Points" and may_be_empty):
        raise BoundaryError(
            _("“{name}” has {placed} of at least {fewest} points; place the missing ones.").format(
                name=name, placed=placed, fewest=_FEWEST_POINTS[kind]
            )
        )


def in_world(node: Any, name: str, kind: str, placement: Placement, scratch: Any, log: Callable[[str], None]) -> Any:
    """A copy of a markup in the scratch scene, in world coordinates: points not placed stay so, boxes turn with it."""
    copy = copy_into(scratch, node)
    if not placement.is_identity:
        copy.ApplyTransform(placement.to_world)
        shaped = kind in ("Box", "Sphere", "Plane") and not node.IsA("vtkMRMLMarkupsLineNode")
        if shaped and not _stays_right_angled(node, placement):
            log(
                _("“{name}” is bent by its transform: the {kind} that Slicer shows in its place was taken.").format(
                    name=name, kind=kind.lower()
                )
            )
    return copy


def storage_for(node: Any) -> Any:
    """A new storage node for .mrk.json files (a node in a scratch scene does not know its own)."""
    if node.IsA("vtkMRMLMarkupsROINode"):
        return slicer.vtkMRMLMarkupsROIJsonStorageNode()
    if node.IsA("vtkMRMLMarkupsPlaneNode"):
        return slicer.vtkMRMLMarkupsPlaneJsonStorageNode()
    return slicer.vtkMRMLMarkupsJsonStorageNode()


def keep_name(path: Path, name: str) -> None:
    """Write what a node is called into its file, where Slicer's storage leaves it out: a ROI is named as its class."""
    content = json.loads(path.read_text("utf-8"))
    for item in content["markups"]:
        item["name"] = name
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _stays_right_angled(node: Any, placement: Placement) -> bool:
    if placement.matrix is None:
        return False
    own = vtk.vtkMatrix4x4()
    if node.IsA("vtkMRMLMarkupsROINode"):
        own.DeepCopy(node.GetObjectToNodeMatrix())
    else:
        node.GetObjectToNodeMatrix(own)
    return is_right_angled(placement.matrix @ from_vtk(own))


def read(path: Path, scratch: Any, may_be_empty: bool = False) -> list[Any]:
    """One node, in no scene, for each markup of a file, in order, named as in the file.

    Raises:
        BoundaryError: the file is not a markups file, holds a markup that Slicer does not know, or holds none, unless
            it `may_be_empty`.
    """
    refused = BoundaryError(_("{path} is not a readable Slicer markups file; run the method again.").format(path=path))
    try:
        items = json.loads(path.read_text("utf-8"))["markups"]
        classes = [MARKUP_CLASSES[item["type"]] for item in items]
    except (OSError, ValueError, KeyError, TypeError):
        raise refused from None
    if not classes and not may_be_empty:
        raise refused
    nodes = []
    with tempfile.TemporaryDirectory() as folder:
        for item, class_name in zip(items, classes, strict=True):
            # Slicer's storage reads the first markup of a file, so each gets a file of its own.
            part = Path(folder) / "part.mrk.json"
            part.write_text(json.dumps({"markups": [_understood(item)]}), encoding="utf-8")
            node = getattr(slicer, class_name)()
            scratch.AddNode(node)
            storage = storage_for(node)
            scratch.AddNode(storage)
            storage.SetFileName(str(part))
            if not storage.ReadData(node):
                raise refused
            node.SetName(str(item.get("name") or ""))
            scratch.RemoveNode(node)
            nodes.append(node)
    return nodes


def _understood(item: dict[str, Any]) -> dict[str, Any]:
    """A markup with the matrices from which alone Slicer takes a plane's axes; it passes over "orientation"."""
    if item["type"] != "Plane" or "baseToNode" in item or not {"center", "orientation"} <= item.keys():
        return item
    axes, centre = item["orientation"], item["center"]
    rows = [[*axes[3 * row : 3 * row + 3], centre[row]] for row in range(3)]
    left = -1.0 if item.get("coordinateSystem", "LPS") in ("LPS", "0") else 1.0
    return {
        **item,
        "objectToBase": [left, 0, 0, 0, 0, left, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1],
        "baseToNode": [*rows[0], *rows[1], *rows[2], 0, 0, 0, 1],
    }
