"""Results that can be read as soon as they are there: windows, colours, names, charts. No Qt.

What a method declared (a terminology entry, a colour, a unit) is kept. The rest is chosen so that it is stable: the
same result looks the same every time.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from MedGenLib import halos, merge
from MedGenLib.i18n import _
from MedGenLib.load import place_beside, stamp
from MedGenLib.segmentations import label_colour
from MedGenLib.sequences import browser_of

# Width and centre in HU. The first is shown; the others are offered in the Volumes module.
HU_WINDOWS = ((400, 40), (2000, 400), (80, 40), (1500, -600))  # soft tissue, bone, brain, lung
HU = ("[hnsf'U]", "UCUM", "Hounsfield unit")
_PERCENTILES = (0.5, 99.5)
_LOOKED_AT = 2_000_000  # voxels from which percentiles are taken


def dress(node: Any, role: dict[str, Any], reference: Any, slug: str) -> list[Any]:
    """Make a result in the scene readable; nodes that were added for that.

    Args:
        node: the result's node.
        role: the declaration of the output.
        reference: the node beside which the result stands, or None.
        slug: the method.
    """
    try:
        return _dress(node, role, reference, slug)
    except Exception:  # a display that fails must not cost the result
        logging.exception("MedGen: the display of %s could not be set up", node.GetName())
        return []


def _dress(node: Any, role: dict[str, Any], reference: Any, slug: str) -> list[Any]:
    if node.IsA("vtkMRMLScalarVolumeNode") and not node.IsA("vtkMRMLVectorVolumeNode"):
        _window(node, role, reference)
    elif node.IsA("vtkMRMLSegmentationNode"):
        _tell_apart(node)
        if browser_of(node) is None:
            merge.mark(node, slug)
    elif node.IsA("vtkMRMLMarkupsROINode"):
        _name_box(node)
    elif node.IsA("vtkMRMLMarkupsFiducialNode"):
        node.SetLocked(False)
        return halos.add(node, halos.voxel_of(reference), played=browser_of(node) is not None)
    elif node.IsA("vtkMRMLTableNode") and role["kind"] == "Plot":
        return _plot(node, reference)
    return []


# --- volumes


def is_hu(node: Any) -> bool:
    """Whether a volume says that its values are Hounsfield units: by its unit, or as DICOM's CT."""
    unit = node.GetVoxelValueUnits() if node.IsA("vtkMRMLScalarVolumeNode") else None
    if unit is not None and unit.GetCodeValue() == HU[0]:
        return True
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    return bool(item) and hierarchy.GetItemAttribute(item, "DICOM.Modality") == "CT"


def _window(node: Any, role: dict[str, Any], reference: Any) -> None:
    display = node.GetDisplayNode()
    if display is None or node.GetImageData() is None:
        return
    if role.get("units") == "HU" or str(role.get("modality") or "").upper() == "CT":
        unit = slicer.vtkCodedEntry()
        unit.SetValueSchemeMeaning(*HU)
        node.SetVoxelValueUnits(unit)
        for width, centre in HU_WINDOWS:
            display.AddWindowLevelPreset(width, centre)
        window, level = HU_WINDOWS[0]
    else:
        window, level = _window_of(node, reference)
    display.SetAutoWindowLevel(0)
    display.SetWindowLevel(window, level)


def _window_of(node: Any, reference: Any) -> tuple[float, float]:
    """The reference's window where the result has values like its, else one over all but the outermost values."""
    low, high = _spread(node)
    if reference is not None and reference.IsA("vtkMRMLScalarVolumeNode") and reference.GetDisplayNode() is not None:
        other_low, other_high = _spread(reference)
        width = max(high - low, other_high - other_low)
        if max(abs(low - other_low), abs(high - other_high)) <= width / 10:
            shown = reference.GetDisplayNode()
            return shown.GetWindow(), shown.GetLevel()
    return max(high - low, 1e-6), (high + low) / 2


def _spread(node: Any) -> tuple[float, float]:
    scalars = node.GetImageData().GetPointData().GetScalars() if node.GetImageData() is not None else None
    if scalars is None:
        return 0.0, 0.0
    values = vtk_to_numpy(scalars).reshape(-1)
    values = values[:: max(1, values.size // _LOOKED_AT)]
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = np.percentile(values, _PERCENTILES) if values.size else (0.0, 0.0)
    if low == high and values.size:
        low, high = values.min(), values.max()
    return float(low), float(high)


# --- segments, boxes, plots


def _tell_apart(node: Any) -> None:
    """Segments that were given one colour (the default) get hues of their own, by label: stable, and far apart."""
    segmentation = node.GetSegmentation()
    known: set[tuple[float, ...]] = set()
    for identity in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(identity)
        colour = tuple(round(part, 3) for part in segment.GetColor())
        if colour in known:
            colour = label_colour(segment.GetLabelValue())
            segment.SetColor(*colour)
        known.add(colour)


def describe_box(node: Any) -> None:
    """Let a ROI say of what class it is and how sure the method was: its point's label and description are not seen."""
    if node.GetNumberOfControlPoints() == 0:
        return
    kind = node.GetNthControlPointLabel(0)
    confidence = halos.confidence_of(node, 0)
    stamp(node, {"class": kind} if confidence is None else {"class": kind, "confidence": confidence})
    sure = "" if confidence is None else _(", confidence {value:.2f}").format(value=confidence)
    node.SetDescription(f"{kind}{sure}")


def _name_box(node: Any) -> None:
    display, played = node.GetDisplayNode(), browser_of(node) is not None
    if not played:  # else each frame's own node says what it is
        describe_box(node)
    if display is not None:
        # In a frame without the box a handle would stay, at the origin; and what is dragged goes with the frame.
        display.SetHandlesInteractive(not played and display.GetHandlesInteractive())
        display.SetPropertiesLabelVisibility(True)
        display.SetFillVisibility(False)
    node.SetLocked(False)


def _plot(table: Any, reference: Any) -> list[Any]:
    """A chart of a table's columns over its first one."""
    scene = table.GetScene()
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", scene.GenerateUniqueName(table.GetName()))
    first = table.GetColumnName(0)
    made = [chart]
    for number in range(1, table.GetNumberOfColumns()):
        series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", table.GetColumnName(number))
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetPlotType(series.PlotTypeScatter)
        series.SetMarkerStyle(series.MarkerStyleNone)
        series.SetXColumnName(first)
        series.SetYColumnName(table.GetColumnName(number))
        series.SetUniqueColor()
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
        made.append(series)
    chart.SetTitle(table.GetName())
    chart.SetXAxisTitle(first)
    if table.GetNumberOfColumns() == 2:
        chart.SetYAxisTitle(table.GetColumnName(1))
    place_beside(chart, reference)
    return made


def chart_of(table: Any) -> Any:
    """The chart of a table, or None."""
    scene = table.GetScene()
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode")):
        chart = scene.GetNthNodeByClass(number, "vtkMRMLPlotChartNode")
        for index in range(chart.GetNumberOfPlotSeriesNodes()):
            if chart.GetNthPlotSeriesNode(index).GetTableNode() is table:
                return chart
    return None
