"""Results in the views and in the segmentation that a person chose. No Qt of its own."""

from __future__ import annotations

from typing import Any

import slicer
import slicer.util

from MedGenLib.errors import RunError
from MedGenLib.i18n import _


def nodes_of(results: dict[str, Any]) -> list[Any]:
    """The nodes among a run's results."""
    values = [item for value in results.values() for item in (value if isinstance(value, list) else [value])]
    return [value for value in values if hasattr(value, "GetID")]


def show(results: dict[str, Any], background: Any) -> None:
    """Put the results in the slice views: images as background, everything else over the volume it belongs to."""
    images = [node for node in nodes_of(results) if node.IsA("vtkMRMLScalarVolumeNode")]
    shown = images[0] if images else background
    if shown is None or not shown.IsA("vtkMRMLVolumeNode") or slicer.app.layoutManager() is None:
        return
    slicer.util.setSliceViewerLayers(background=shown, fit=True)


def add_segments(source: Any, target: Any) -> list[str]:
    """Move the segments of a result into a segmentation that is there already, as new segments; their ids.

    Raises:
        RunError: the target has a parent transform, so that its segments lie elsewhere than they are drawn.
    """
    if target.GetParentTransformNode() is not None:
        raise RunError(
            _("Segmentation “{name}” has a parent transform; harden it, or let the result be created new.").format(
                name=target.GetName()
            )
        )
    segmentation, wanted = source.GetSegmentation(), target.GetSegmentation()
    added = []
    for old in list(segmentation.GetSegmentIDs()):
        name = _free_segment_name(wanted, segmentation.GetSegment(old).GetName())
        copy = slicer.vtkSegmentation()
        copy.SetSourceRepresentationName(segmentation.GetSourceRepresentationName())
        copy.CopySegmentFromSegmentation(segmentation, old)
        segment = copy.GetSegment(old)
        segment.SetName(name)
        new = wanted.GenerateUniqueSegmentID(name)
        if not wanted.AddSegment(segment, new):
            raise RunError(_("Segmentation “{name}” cannot take more segments.").format(name=target.GetName()))
        added.append(new)
    slicer.mrmlScene.RemoveNode(source)
    return added


def _free_segment_name(segmentation: Any, name: str) -> str:
    """A name that no segment of a segmentation has yet."""
    known = {segmentation.GetSegment(one).GetName() for one in segmentation.GetSegmentIDs()}
    free, number = name, 1
    while free in known:
        number += 1
        free = f"{name} {number}"
    return free
