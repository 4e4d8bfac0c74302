"""Which slices count as annotated: one Markups plane node a slice. An empty slice may mean background or untouched, so
it has to be said. No Qt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from MedGenLib.i18n import _

OURS = "MedGen.AnnotatedSlice"
_SAME_DIRECTION = 1 - 1e-6  # cosine of 0.08 degrees
_SAME_OFFSET = 0.25  # mm, where no volume says how thin a slice is


def slice_nodes() -> list[Any]:
    """The slice views' nodes, Red, Yellow, Green first."""
    count = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSliceNode")
    nodes = [slicer.mrmlScene.GetNthNodeByClass(index, "vtkMRMLSliceNode") for index in range(count)]
    order = ("Red", "Yellow", "Green")
    rank = {name: index for index, name in enumerate(order)}
    return sorted(nodes, key=lambda node: rank.get(node.GetLayoutName(), len(order)))


def frame_of_slice(slice_node: Any) -> np.ndarray:
    """4x4: two in-plane directions, the normal and the origin of a slice view, RAS mm.

    Right-handed, as Markups wants it. An axial view (left, anterior, superior) is not: its first direction is turned.
    """
    matrix = slice_node.GetSliceToRAS()
    frame = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    return right_handed(frame)


def right_handed(frame: np.ndarray) -> np.ndarray:
    """A frame with unit axes that keeps its normal and second direction."""
    result = frame.copy()
    result[:3, :3] /= np.linalg.norm(result[:3, :3], axis=0)
    if np.linalg.det(result[:3, :3]) < 0:
        result[:3, 0] *= -1
    return result


def frame_of_plane(plane: Any) -> np.ndarray:
    """The same of a plane node, in the world."""
    axes = [[0.0] * 3 for _axis in range(3)]
    plane.GetAxesWorld(*axes)
    frame = np.eye(4)
    frame[:3, :3] = np.array(axes).T
    frame[:3, 3] = plane.GetOriginWorld()
    return frame


def half_a_voxel(volume: Any) -> float:
    """How near two planes of a volume are one, mm: half of its smallest spacing; a default without a volume."""
    return _SAME_OFFSET if volume is None else min(volume.GetSpacing()) / 2


def same_plane(one: np.ndarray, other: np.ndarray, tolerance: float = _SAME_OFFSET) -> bool:
    """Whether two frames lie in one plane, up to `tolerance` mm."""
    normal = one[:3, 2]
    return (
        abs(float(normal @ other[:3, 2])) > _SAME_DIRECTION
        and abs(float(normal @ (other[:3, 3] - one[:3, 3]))) < tolerance
    )


def mark(slice_node: Any, known: list[Any], tolerance: float = _SAME_OFFSET) -> Any:
    """The plane node of what a slice view shows: a new one, or the one among `known` that says so already."""
    frame = frame_of_slice(slice_node)
    for plane in known:
        if same_plane(frame, frame_of_plane(plane), tolerance):
            return plane
    size = max(slice_node.GetFieldOfView()[:2])
    return add_plane(frame, describe(frame), size)


def add_plane(frame: np.ndarray, name: str, size: float = 0.0) -> Any:
    """A plane node at a frame; hidden, as it would cover what is drawn."""
    plane = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode", name)
    plane.SetOriginWorld(frame[:3, 3])
    plane.SetAxesWorld(frame[:3, 0], frame[:3, 1], frame[:3, 2])
    if size > 0:
        plane.SetSizeWorld(size, size)
    hide(plane)
    return plane


def hide(plane: Any) -> None:
    """Keep a plane node from covering the drawing, and from being dragged by accident."""
    plane.CreateDefaultDisplayNodes()
    plane.SetLocked(True)
    plane.GetDisplayNode().SetVisibility(False)
    plane.SetAttribute(OURS, "yes")


def forget(plane: Any) -> None:
    """Delete a plane node that was made here; one that somebody placed stays."""
    if plane.GetAttribute(OURS) and plane.GetScene() is not None:
        plane.GetScene().RemoveNode(plane)


def describe(frame: np.ndarray) -> str:
    """A name that a person recognises: "Axial S 12.0 mm", or "Oblique (S 12.0 mm)"."""
    normal, origin = frame[:3, 2], frame[:3, 3]
    axis = int(np.argmax(np.abs(normal)))
    position = float(origin[axis]) if abs(normal[axis]) < 0.999 else float(normal @ origin * np.sign(normal[axis]))
    letters = (("R", "L"), ("A", "P"), ("S", "I"))[axis]
    where = f"{letters[0] if position >= 0 else letters[1]} {abs(position):.1f} mm"
    if abs(normal[axis]) < 0.999:
        return _("Oblique ({where})").format(where=where)
    return f"{(_('Sagittal'), _('Coronal'), _('Axial'))[axis]} {where}"


def jump_to(frame: np.ndarray) -> Any:
    """Show a frame in the slice view that lies most nearly in its direction; that view's node, None without views."""
    views = slice_nodes()
    if not views:
        return None
    view = max(views, key=lambda node: abs(float(frame_of_slice(node)[:3, 2] @ frame[:3, 2])))
    origin = frame[:3, 3]
    if abs(float(frame_of_slice(view)[:3, 2] @ frame[:3, 2])) < _SAME_DIRECTION:
        view.SetSliceToRASByNTP(*frame[:3, 2], *frame[:3, 0], *origin, 0)
    view.JumpSliceByOffsetting(*origin)
    return view


def frames_from_markups(content: dict[str, Any]) -> list[np.ndarray]:
    """Frames of the planes in the content of a .mrk.json, as an estimate suggests them."""
    frames = []
    for item in content["markups"]:
        flip = np.diag([-1.0, -1.0, 1.0]) if item.get("coordinateSystem", "LPS") == "LPS" else np.eye(3)
        frame = np.eye(4)
        frame[:3, :3] = flip @ np.array(item["orientation"], float).reshape(3, 3)
        frame[:3, 3] = flip @ np.array(item["center"], float)
        frames.append(right_handed(frame))
    return frames
