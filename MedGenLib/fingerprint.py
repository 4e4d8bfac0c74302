"""What a node holds, as a short text that differs when somebody has changed it and survives saving and loading.

Names, colours, displays and the order of segments do not count. Where a node lies in the world does: a parent
transform changes what a method would be given. No Qt.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
from vtk.util.numpy_support import vtk_to_numpy

from MedGenLib.geometry import from_vtk, ijk_to_ras, placement_of
from MedGenLib.segmentations import LABELMAP

# Positions are rounded to steps of this many mm, as files and transforms change their last digits. An odd number:
# voxel sizes and origins are sums of simple fractions and would else lie just where rounding turns over.
_STEP = 3.1415926e-5


def of(node: Any) -> str:
    """The fingerprint of a volume, segmentation, markup, table or sequence; of anything else, of nothing."""
    digest = hashlib.blake2b(digest_size=16)
    if node.IsA("vtkMRMLSequenceNode"):
        for number in range(node.GetNumberOfDataNodes()):
            digest.update(f"{node.GetNthIndexValue(number)}={of(node.GetNthDataNode(number))};".encode())
        return digest.hexdigest()
    if node.IsA("vtkMRMLVolumeNode"):
        _add_image(digest, node.GetImageData(), ijk_to_ras(node))
    elif node.IsA("vtkMRMLSegmentationNode"):
        for text in sorted(of_segments(node).values()):
            digest.update(text.encode())
    elif node.IsA("vtkMRMLMarkupsNode"):
        _add_markup(digest, node)
    elif node.IsA("vtkMRMLTableNode"):
        _add_table(digest, node)
    _add_placement(digest, node)
    return digest.hexdigest()


def of_segments(node: Any) -> dict[str, str]:
    """The fingerprint of each segment of a segmentation node by its id: its voxels and where they lie."""
    segmentation = node.GetSegmentation()
    layers: dict[int, list[str]] = {}
    found: dict[str, str] = {}
    for identity in segmentation.GetSegmentIDs():
        if segmentation.GetSegment(identity).GetRepresentation(LABELMAP) is not None:
            layers.setdefault(segmentation.GetLayerIndex(identity, LABELMAP), []).append(identity)
        else:
            found[identity] = _of_surface(segmentation, identity)
    for identities in layers.values():
        image = segmentation.GetSegment(identities[0]).GetRepresentation(LABELMAP)
        places = _places(image)
        for identity in identities:
            value = segmentation.GetSegment(identity).GetLabelValue()
            found[identity] = _of_voxels(places.get(value), image)
    return found


def _places(image: Any) -> dict[int, np.ndarray]:
    """For each label of a labelmap the flat numbers of its voxels, in order."""
    scalars = image.GetPointData().GetScalars()
    if scalars is None:
        return {}
    values = vtk_to_numpy(scalars)
    flat = np.flatnonzero(values)
    if not len(flat):
        return {}
    labels = values[flat]
    order = np.argsort(labels, kind="stable")  # a radix sort for the types that labels have
    flat, labels = flat[order], labels[order]
    ends = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    return dict(zip(labels[[0, *ends]].tolist(), np.split(flat, ends), strict=True))


def _of_voxels(flat: np.ndarray | None, image: Any) -> str:
    """Of voxels counted from the first one's own corner: how a labelmap is cropped changes nothing."""
    digest = hashlib.blake2b(digest_size=16)
    if flat is not None and len(flat):
        extent = image.GetExtent()
        columns, rows, _slices = image.GetDimensions()
        index = np.stack([flat % columns, flat // columns % rows, flat // (columns * rows)])
        first = index.min(axis=1)
        matrix = ijk_to_ras(image)
        digest.update(np.ascontiguousarray(index - first[:, None], dtype=np.int32))
        _add_numbers(digest, matrix[:3, :3])
        _add_numbers(digest, matrix[:3, :3] @ (first + np.array(extent[::2])) + matrix[:3, 3])
    return digest.hexdigest()


def _of_surface(segmentation: Any, identity: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    surface = segmentation.GetSegment(identity).GetRepresentation(segmentation.GetSourceRepresentationName())
    if surface is not None and surface.IsA("vtkPolyData") and surface.GetNumberOfPoints():
        _add_numbers(digest, vtk_to_numpy(surface.GetPoints().GetData()))
    return digest.hexdigest()


def _add_image(digest: Any, image: Any, matrix: np.ndarray) -> None:
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None:
        return
    values = np.ascontiguousarray(vtk_to_numpy(scalars))
    digest.update(f"{values.dtype.kind}{values.dtype.itemsize} {image.GetDimensions()} {values.shape[1:]}".encode())
    digest.update(values.reshape(-1).view(np.uint8))
    _add_numbers(digest, matrix)


def _add_markup(digest: Any, node: Any) -> None:
    for number in range(node.GetNumberOfControlPoints()):
        status = node.GetNthControlPointPositionStatus(number)
        digest.update(f"{node.GetNthControlPointLabel(number)} {status};".encode())
        if status == node.PositionDefined:
            _add_numbers(digest, np.array(node.GetNthControlPointPosition(number)))
    if node.IsA("vtkMRMLMarkupsROINode"):
        _add_numbers(digest, np.array(node.GetSize()))
        _add_numbers(digest, from_vtk(node.GetObjectToNodeMatrix())[:3])


def _add_table(digest: Any, node: Any) -> None:
    table = node.GetTable()
    for index in range(table.GetNumberOfColumns()):
        column = table.GetColumn(index)
        digest.update(f"{column.GetName()};".encode())
        for row in range(table.GetNumberOfRows()):
            digest.update(f"{_cell(column.GetVariantValue(row).ToString())};".encode())


def _cell(text: str) -> str:
    """A cell; of a number no more digits than Slicer's own file of a table keeps."""
    try:
        return f"{float(text):.5g}"
    except ValueError:
        return text


def _add_placement(digest: Any, node: Any) -> None:
    placement = placement_of(node)
    if placement.is_identity:
        return
    if placement.matrix is not None:
        _add_numbers(digest, placement.matrix)
        return
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    samples = itertools.product(*(np.linspace(bounds[2 * axis], bounds[2 * axis + 1], 3) for axis in range(3)))
    _add_numbers(digest, np.array([placement.to_world.TransformPoint(point) for point in samples]))


def _add_numbers(digest: Any, values: np.ndarray) -> None:
    digest.update(np.rint(np.asarray(values, dtype=np.float64) / _STEP).astype(np.int64).tobytes())
