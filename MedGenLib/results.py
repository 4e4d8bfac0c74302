"""Results in the views. No Qt of its own."""

from __future__ import annotations

from typing import Any

import slicer
import slicer.util

from MedGenLib import halos, looks
from MedGenLib.i18n import _


def nodes_of(results: dict[str, Any]) -> list[Any]:
    """The nodes among a run's results."""
    values = [item for value in results.values() for item in (value if isinstance(value, list) else [value])]
    return [value for value in values if hasattr(value, "GetID")]


def end_of(title: str, names: list[str], results: dict[str, Any]) -> str:
    """How a run is said to have ended well: what it gave, or that there was nothing to find."""
    if names:
        return _("{title}: done, see {names}.").format(title=title, names=", ".join(names))
    empty = any(value == [] for value in results.values())
    return (_("{title}: done, nothing was found.") if empty else _("{title}: done.")).format(title=title)


def show(results: dict[str, Any], background: Any) -> None:
    """Put the results in the slice views: images as background, everything else over the volume it belongs to."""
    images = [node for node in nodes_of(results) if node.IsA("vtkMRMLScalarVolumeNode")]
    shown = images[0] if images else background
    if shown is None or not shown.IsA("vtkMRMLVolumeNode") or slicer.app.layoutManager() is None:
        return
    slicer.util.setSliceViewerLayers(background=shown, fit=True)


def show_one(node: Any, segment: str = "") -> None:
    """Bring one result into the views: volumes as background, tables and charts in their views, the rest by moving the
    slices to it."""
    if node.IsA("vtkMRMLTableNode"):
        _show_table(node)
    elif node.IsA("vtkMRMLVolumeNode"):
        if slicer.app.layoutManager() is not None:
            slicer.util.setSliceViewerLayers(background=node, fit=True)
    elif node.IsA("vtkMRMLDisplayableNode"):
        node.SetDisplayVisibility(True)
        place = _place_of(node, segment)
        if place is not None:
            jump_to(place)


def show_where_empty(volume: Any) -> None:
    """Put a volume into the slice views that show none, as after one was removed."""
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        known = composite.GetBackgroundVolumeID()
        if not known or slicer.mrmlScene.GetNodeByID(known) is None:
            composite.SetBackgroundVolumeID(volume.GetID())


def jump_to(place: Any) -> None:
    """Move all slice views to a position, RAS mm, and centre it."""
    slicer.modules.markups.logic().JumpSlicesToLocation(*place, True)


def _place_of(node: Any, segment: str) -> Any:
    if segment:
        return node.GetSegmentCenterRAS(segment)
    if node.IsA("vtkMRMLMarkupsFiducialNode"):
        placed = halos.placed(node)
        return node.GetNthControlPointPositionWorld(placed[0]) if placed else None
    if node.IsA("vtkMRMLMarkupsNode") and node.GetNumberOfControlPoints() == 0:
        return None  # its bounds would be those of the origin
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return [(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)] if bounds[0] <= bounds[1] else None


def _show_table(node: Any) -> None:
    manager = slicer.app.layoutManager()
    chart = looks.chart_of(node)
    selection = slicer.app.applicationLogic().GetSelectionNode()
    if chart is not None:
        selection.SetActivePlotChartID(chart.GetID())
        slicer.app.applicationLogic().PropagatePlotChartSelection()
    else:
        selection.SetActiveTableID(node.GetID())
        slicer.app.applicationLogic().PropagateTableSelection()
    if manager is not None:
        layouts = slicer.vtkMRMLLayoutNode
        wanted = layouts.SlicerLayoutFourUpTableView if chart is None else layouts.SlicerLayoutFourUpPlotView
        manager.setLayout(wanted)
