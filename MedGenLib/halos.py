"""How sure a method was of each point, seen: a see-through ball around it, the larger the less sure. No Qt.

Slicer draws all points of a markups node in one size, and a second node for the doubtful ones would tear the list
apart. So the size stands in a model that belongs to the points, follows them when they are moved and goes with them;
the points themselves, their labels and their number are untouched. Points that were not found have no place, and no
ball.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk

from MedGenLib import scratch
from MedGenLib.geometry import ijk_to_ras
from MedGenLib.i18n import _

ROLE = "MedGen.halos"  # the reference from the points to their model
OWNER = "MedGen.points"  # and back
SIZE = "MedGen.voxel"  # mm
_PREFIX = "confidence "
_COLOUR = (1.0, 0.65, 0.1)
_RADII = 0.75, 3.0  # in voxels, of full confidence and of none


def voxel_of(volume: Any) -> float:
    """The mean voxel size of a volume node, mm; 1 without one."""
    if volume is None or not volume.IsA("vtkMRMLVolumeNode") or volume.GetImageData() is None:
        return 1.0
    return float(np.linalg.norm(ijk_to_ras(volume)[:3, :3], axis=0).mean())


def confidence_of(node: Any, number: int) -> float | None:
    """The confidence, 0..1, in a point's description, or None."""
    text = node.GetNthControlPointDescription(number)
    try:
        return float(text.removeprefix(_PREFIX)) if text.startswith(_PREFIX) else None
    except ValueError:
        return None


def least_certain(node: Any) -> list[int]:
    """Numbers of the placed points with a confidence, the least certain first."""
    found = [(confidence_of(node, number), number) for number in placed(node)]
    return [number for _confidence, number in sorted(pair for pair in found if pair[0] is not None)]


def placed(node: Any) -> list[int]:
    """Numbers of the points that have a position."""
    count = node.GetNumberOfControlPoints()
    return [number for number in range(count) if node.GetNthControlPointPositionStatus(number) == node.PositionDefined]


def missing(node: Any) -> list[str]:
    """Labels of the points that were not found."""
    there = set(placed(node))
    return [node.GetNthControlPointLabel(n) for n in range(node.GetNumberOfControlPoints()) if n not in there]


def add(points: Any, voxel: float, played: bool = False) -> list[Any]:
    """Give points in a scene their halos; the model and its display, or nothing where no point has a confidence.
    played: through the node of a sequence, another frame of which may have points with one."""
    if not least_certain(points) and not played:
        return []
    scene = points.GetScene()
    model = scene.AddNewNodeByClass("vtkMRMLModelNode", _("{name} confidence").format(name=points.GetName()))
    model.SetAttribute(SIZE, f"{max(voxel, 0.1):.6g}")  # not on the points: another frame brings its own attributes
    model.SetSelectable(False)
    model.CreateDefaultDisplayNodes()
    display = model.GetDisplayNode()
    display.SetColor(*_COLOUR)
    display.SetOpacity(0.35)
    display.SetVisibility2D(True)
    display.SetSliceIntersectionThickness(2)
    points.SetNodeReferenceID(ROLE, model.GetID())
    model.SetNodeReferenceID(OWNER, points.GetID())
    update(points)
    return [model, display]


def of(points: Any) -> Any:
    """The model of points' halos, or None."""
    return points.GetNodeReference(ROLE)


def update(points: Any) -> None:
    """Let the halos follow their points."""
    model = of(points)
    if model is None:
        return
    voxel = float(model.GetAttribute(SIZE) or 1.0)
    balls = vtk.vtkAppendPolyData()
    for number in least_certain(points):
        sure = min(1.0, max(0.0, confidence_of(points, number) or 0.0))
        ball = vtk.vtkSphereSource()
        ball.SetCenter(points.GetNthControlPointPositionWorld(number))
        ball.SetRadius(voxel * (_RADII[0] + (_RADII[1] - _RADII[0]) * (1 - sure)))
        ball.SetThetaResolution(24)
        ball.SetPhiResolution(16)
        balls.AddInputConnection(ball.GetOutputPort())
    if balls.GetNumberOfInputConnections(0) == 0:
        model.SetAndObservePolyData(vtk.vtkPolyData())
        return
    balls.Update()
    model.SetAndObservePolyData(balls.GetOutput())


def forget_orphans(scene: Any) -> None:
    """Remove the halos of points that somebody has deleted."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLModelNode")
    for model in [scene.GetNthNodeByClass(number, "vtkMRMLModelNode") for number in range(count)]:
        if model.GetNodeReferenceID(OWNER) and model.GetNodeReference(OWNER) is None:
            display = model.GetDisplayNode()
            scratch.remove(scene, model)
            if display is not None:
                scratch.remove(scene, display)
