"""Where nodes lie in the world, and resampling of what a straight, right-angled grid cannot express.

Matrices are 4x4 numpy arrays of float64 that act on column vectors; positions are RAS millimetres.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk

from MedGenLib.errors import BoundaryError
from MedGenLib.i18n import _

# Cosine between two voxel axes up to which they count as right-angled: DICOM orientations of four or five decimals
# stay below it, and are not worth interpolating a patient's voxels for. The file keeps such axes as they are.
RIGHT_ANGLE_COSINE = 1e-4

# A warped volume may not grow beyond this many times its own number of voxels.
LARGEST_GROWTH = 8


def to_vtk(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    """A vtkMatrix4x4 with the elements of a 4x4 array."""
    result = vtk.vtkMatrix4x4()
    result.DeepCopy(np.asarray(matrix, dtype=np.float64).ravel())
    return result


def from_vtk(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """A 4x4 float64 array with the elements of a vtkMatrix4x4."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def ijk_to_ras(volume: Any) -> np.ndarray:
    """4x4 voxel index -> RAS mm of a volume node (or vtkOrientedImageData), before its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    if hasattr(volume, "GetIJKToRASMatrix"):
        volume.GetIJKToRASMatrix(matrix)
    else:
        volume.GetImageToWorldMatrix(matrix)
    return from_vtk(matrix)


def is_right_angled(matrix: np.ndarray) -> bool:
    """Whether the three axes of a 4x4 voxel-to-RAS matrix are perpendicular to `RIGHT_ANGLE_COSINE` (mirrored is)."""
    axes = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    cosines = axes.T @ axes - np.eye(3)
    return bool(np.abs(cosines).max() <= RIGHT_ANGLE_COSINE)


@dataclass
class Placement:
    """How a node's own RAS coordinates go into the world.

    Attributes:
        to_world: the transform from the node's coordinates into the world.
        matrix: the same as a 4x4 array, or None where it is not linear.
    """

    to_world: vtk.vtkGeneralTransform
    matrix: np.ndarray | None

    @property
    def is_identity(self) -> bool:
        """Whether the node's coordinates are world coordinates."""
        return self.matrix is not None and bool(np.array_equal(self.matrix, np.eye(4)))


def placement_of(node: Any, substitute: Any = lambda transform_node: transform_node) -> Placement:
    """The placement of a transformable node under its chain of parent transforms.

    Args:
        node: a node; one that is not transformable (a table) lies in the world.
        substitute: gives for each transform node of the chain the one to use instead (another frame of a sequence).
    """
    to_world = vtk.vtkGeneralTransform()
    to_world.PostMultiply()
    matrix: np.ndarray | None = np.eye(4)
    parent = node.GetParentTransformNode() if node.IsA("vtkMRMLTransformableNode") else None
    while parent is not None:
        used = substitute(parent)
        if used.IsLinear():
            step = vtk.vtkMatrix4x4()
            used.GetMatrixTransformToParent(step)
            to_world.Concatenate(step)
            matrix = None if matrix is None else from_vtk(step) @ matrix
        else:
            to_world.Concatenate(used.GetTransformToParent())
            matrix = None
        parent = parent.GetParentTransformNode()
    to_world.Update()
    return Placement(to_world, matrix)


@dataclass
class Grid:
    """A right-angled grid of voxels: `size` voxels whose index goes to world RAS mm by the 4x4 `matrix`."""

    matrix: np.ndarray
    size: tuple[int, int, int]


def covering_grid(matrix: np.ndarray, extent: tuple[int, ...], placement: Placement, name: str) -> Grid:
    """The right-angled grid that covers a warped or sheared one: axes nearest to the warped axes, spacing kept.

    Args:
        matrix: 4x4 voxel index -> the node's RAS of the grid to cover.
        extent: its first and last index along i, j and k (6 numbers).
        placement: how the node's RAS goes into the world.
        name: how messages call the node.
    Raises:
        BoundaryError: the warped volume would be `LARGEST_GROWTH` times as large as the original.
    """
    low, high = np.array(extent[::2], float), np.array(extent[1::2], float)
    samples = [
        np.linspace(a - 0.5, b + 0.5, 2 if placement.matrix is not None else 13) for a, b in zip(low, high, strict=True)
    ]
    inside = np.array(list(itertools.product(*samples)))
    world = _through(placement, _apply(matrix, inside))

    centre = (low + high) / 2
    steps = np.vstack([centre, centre + np.eye(3) * 0.5, centre - np.eye(3) * 0.5])
    moved = _through(placement, _apply(matrix, steps))
    axes = (moved[1:4] - moved[4:7]).T
    spacing = np.linalg.norm(axes, axis=0)
    left, _stretch, right = np.linalg.svd(axes / spacing)
    frame = np.eye(4)
    frame[:3, :3] = (left @ right) * spacing
    frame[:3, 3] = moved[0]

    index = _apply(np.linalg.inv(frame), world)
    first = np.ceil(index.min(axis=0) - 0.5 + 1e-6)
    last = np.maximum(first, np.floor(index.max(axis=0) + 0.5 - 1e-6))
    size = (last - first + 1).astype(int)
    if np.prod(size.astype(float)) > LARGEST_GROWTH * np.prod(high - low + 1) + 1e6:
        raise BoundaryError(
            _(
                "The transform above “{name}” stretches it to {size} voxels; harden a milder transform "
                "or crop the volume first."
            ).format(name=name, size=" x ".join(map(str, size)))
        )
    frame[:3, 3] = _apply(frame, first[None])[0]
    return Grid(frame, (int(size[0]), int(size[1]), int(size[2])))


def resample(
    image: vtk.vtkImageData,
    matrix: np.ndarray,
    placement: Placement,
    grid: Grid,
    *,
    nearest: bool,
    background: float = 0.0,
) -> vtk.vtkImageData:
    """The voxels of `image`, carried into the world by `placement`, on `grid`.

    Args:
        image: voxels; spacing and origin are ignored, its extent is not.
        matrix: 4x4 index -> the node's RAS of `image`.
        placement: the node's RAS -> world.
        grid: where the result lies in the world.
        nearest: nearest neighbour (labels) instead of linear interpolation.
        background: value outside `image`.
    Returns:
        vtkImageData of extent 0 .. size-1, spacing 1, origin 0, of the scalar type of `image`.
    """
    plain = vtk.vtkImageData()
    plain.ShallowCopy(image)
    plain.SetOrigin(0.0, 0.0, 0.0)
    plain.SetSpacing(1.0, 1.0, 1.0)
    plain.SetDirectionMatrix(1, 0, 0, 0, 1, 0, 0, 0, 1)
    back = vtk.vtkGeneralTransform()
    back.PostMultiply()
    back.Concatenate(to_vtk(grid.matrix))
    if placement.matrix is not None:
        back.Concatenate(to_vtk(np.linalg.inv(placement.matrix)))
    else:
        back.Concatenate(placement.to_world.GetInverse())
    back.Concatenate(to_vtk(np.linalg.inv(matrix)))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(plain)
    reslice.SetResliceTransform(back)
    reslice.SetOutputOrigin(0.0, 0.0, 0.0)
    reslice.SetOutputSpacing(1.0, 1.0, 1.0)
    reslice.SetOutputExtent(0, grid.size[0] - 1, 0, grid.size[1] - 1, 0, grid.size[2] - 1)
    reslice.SetBackgroundColor(background, background, background, background)
    reslice.SetInterpolationMode(vtk.VTK_RESLICE_NEAREST if nearest else vtk.VTK_RESLICE_LINEAR)
    reslice.Update()
    result = vtk.vtkImageData()
    result.DeepCopy(reslice.GetOutput())
    return result


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 3) points through a 4x4 matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _through(placement: Placement, points: np.ndarray) -> np.ndarray:
    """(N, 3) points through a placement."""
    if placement.matrix is not None:
        return _apply(placement.matrix, points)
    return np.array([placement.to_world.TransformPoint(point) for point in points])
