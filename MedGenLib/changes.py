"""Whether nodes are still what they were: for answers that are kept. No Qt."""

from __future__ import annotations

from typing import Any


def state(inputs: dict[str, Any]) -> dict[str, Any]:
    """Nodes by id and when they last changed, so that a question can be compared with the one before."""

    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(item) for item in value]
        return [value.GetID(), changed(value)] if hasattr(value, "GetID") else str(value)

    return {role: one(value) for role, value in inputs.items()}


def changed(node: Any) -> int:
    """When a node, what it holds or where it is placed last changed."""
    holders = [node]
    if node.IsA("vtkMRMLVolumeNode") and node.GetImageData() is not None:
        holders.append(node.GetImageData())
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        segments = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
        source = segmentation.GetSourceRepresentationName()
        holders += [segmentation, *segments, *(one.GetRepresentation(source) for one in segments)]
    transform = node.GetParentTransformNode() if node.IsA("vtkMRMLTransformableNode") else None
    moved = 0 if transform is None else int(transform.GetTransformToWorldMTime())
    return max([moved, *(int(one.GetMTime()) for one in holders if one is not None)])
