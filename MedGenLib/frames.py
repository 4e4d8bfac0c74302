"""Plain pictures: 8-bit frames between volume nodes and PNG, first row on top.

VTK counts rows from the bottom of a picture, Slicer's volumes (like ITK's) from the top: row j = 0 of a node is the
top row of the file, and Slicer's axial view shows it on top, because a picture's rows run from anterior to posterior.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from MedGenLib.errors import BoundaryError
from MedGenLib.geometry import ijk_to_ras, is_right_angled, placement_of, to_vtk
from MedGenLib.i18n import _

# Where Slicer and ITK put a picture that says nothing of its place: pixel (i, j) at i mm left, j mm posterior.
PICTURE_MATRIX = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_plain_picture(node: Any) -> bool:
    """Whether a volume node is an 8-bit grey or colour frame that lies where pictures lie."""
    image = node.GetImageData()
    return (
        image.GetScalarType() == vtk.VTK_UNSIGNED_CHAR
        and image.GetNumberOfScalarComponents() in (1, 3, 4)
        and image.GetDimensions()[2] == 1
        and np.allclose(ijk_to_ras(node), PICTURE_MATRIX, rtol=0, atol=1e-6)
    )


def write_png(image: vtk.vtkImageData, path: Path, owner: str) -> None:
    """Write a frame (i, j, 1) of 1, 3 or 4 8-bit values a pixel; row j = 0 becomes the top row."""
    flip = vtk.vtkImageFlip()
    flip.SetFilteredAxis(1)
    flip.SetInputData(image)
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputConnection(flip.GetOutputPort())
    writer.Write()
    if writer.GetErrorCode() or not path.is_file():
        raise BoundaryError(
            _("“{owner}” could not be written to {folder}; check the free space there.").format(
                owner=owner, folder=path.parent.parent
            )
        )


def read_png(path: Path, reference: Any = None) -> Any:
    """A new volume node, in no scene, with the picture of a PNG file.

    Args:
        path: grey, grey with opacity (dropped), RGB or RGBA PNG.
        reference: a volume node; a picture of the size of its only slice is put where that slice lies in the world.
    Returns:
        A vtkMRMLScalarVolumeNode (grey) or vtkMRMLVectorVolumeNode (colour); top row at j = 0.
    Raises:
        BoundaryError: the file is not a readable PNG.
    """
    reader = vtk.vtkPNGReader()
    if not _is_whole_png(path) or not reader.CanReadFile(str(path)):
        raise BoundaryError(_("{path} is not a readable PNG picture; run the method again.").format(path=path))
    reader.SetFileName(str(path))
    reader.Update()
    picture = reader.GetOutput()
    scalars = picture.GetPointData().GetScalars()
    if reader.GetErrorCode() or scalars is None:
        raise BoundaryError(_("{path} is not a readable PNG picture; run the method again.").format(path=path))
    width, height = picture.GetDimensions()[:2]
    values = vtk_to_numpy(scalars).reshape(height, width, -1)[::-1]
    values = values[..., :1] if values.shape[-1] == 2 else values
    image = vtk.vtkImageData()
    image.SetDimensions(width, height, 1)
    flat = np.ascontiguousarray(values).reshape(height * width, -1)
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True, array_type=scalars.GetDataType()))
    node = slicer.vtkMRMLScalarVolumeNode() if values.shape[-1] == 1 else slicer.vtkMRMLVectorVolumeNode()
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(to_vtk(_picture_place(reference, (width, height, 1))))
    return node


def _is_whole_png(path: Path) -> bool:
    """Whether a file has all chunks of a PNG, each with its right checksum: VTK's reader crashes on truncated ones."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    names, at = [], 8
    while data[:8] == b"\x89PNG\r\n\x1a\n" and at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        if int.from_bytes(data[at + 8 + length : at + 12 + length], "big") != zlib.crc32(body):
            return False
        names.append(body[:4])
        at += 12 + length
    return names[:1] == [b"IHDR"] and b"IDAT" in names and names[-1] == b"IEND"


def _picture_place(reference: Any, size: tuple[int, int, int]) -> np.ndarray:
    """4x4 index -> world of a frame: the reference slice's where it has the same size, else where pictures lie."""
    if reference is None or not reference.IsA("vtkMRMLVolumeNode") or reference.GetImageData() is None:
        return PICTURE_MATRIX
    if tuple(reference.GetImageData().GetDimensions()) != size:
        return PICTURE_MATRIX
    placement = placement_of(reference)
    if placement.matrix is None:
        return PICTURE_MATRIX
    world = placement.matrix @ ijk_to_ras(reference)
    return world if is_right_angled(world) else PICTURE_MATRIX
