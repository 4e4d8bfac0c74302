"""Segmentations between the scene and files: layers, names, colours and own geometry are kept.

A segmentation has its own grid, independent of any volume, and its segments may overlap: they then lie in several
layers, and a .seg.nrrd file keeps the layers. Where a reader needs one label map, the segment listed later wins.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from MedGenLib.errors import BoundaryError
from MedGenLib.geometry import (
    Grid,
    Placement,
    covering_grid,
    ijk_to_ras,
    is_right_angled,
    placement_of,
    resample,
    to_vtk,
)
from MedGenLib.scratch import copy_into

LABELMAP = "Binary labelmap"


def check(node: Any, name: str) -> None:
    """BoundaryError when a segmentation or label map has nothing painted in it."""
    if node.IsA("vtkMRMLVolumeNode"):
        image = node.GetImageData()
        if image is None or image.GetPointData().GetScalars() is None:
            raise BoundaryError(f"Label map “{name}” has no image data; load it again or choose another.")
        values = vtk_to_numpy(image.GetPointData().GetScalars())
        if not (values > 0).any():
            raise BoundaryError(f"Label map “{name}” is empty; paint at least one label.")
        if not np.array_equal(values, np.rint(values)):
            raise BoundaryError(f"Label map “{name}” holds fractions, not labels; threshold it first.")
        return
    if node.GetSegmentation().GetNumberOfSegments() == 0:
        raise BoundaryError(f"Segmentation “{name}” has no segments; draw one in the Segment Editor.")


def in_world(
    node: Any,
    name: str,
    placement: Placement,
    scratch: Any,
    reference: Any,
    segments: list[str] | None,
    log: Callable[[str], None],
) -> Any:
    """A vtkMRMLSegmentationNode in the scratch scene with the node's binary labelmaps in world coordinates.

    Args:
        node: a segmentation or label map node.
        name: how messages call it.
        placement: its coordinates -> world.
        scratch: the scene the copy goes into.
        reference: volume node whose grid surfaces are turned into voxels on, when the segmentation has none stored.
        segments: ids of the segments to keep; all when None.
        log: takes one sentence a call.
    Raises:
        BoundaryError: an unknown segment, or nothing painted.
    """
    if node.IsA("vtkMRMLVolumeNode"):
        copy = _from_label_map_node(node, scratch)
    else:
        copy = copy_into(scratch, node)
        _keep_only(copy.GetSegmentation(), segments, name)
        _have_labelmaps(copy, name, placement, reference, log)
    if not _painted(copy.GetSegmentation()):
        raise BoundaryError(f"Segmentation “{name}” is empty; draw on at least one slice in the Segment Editor.")
    _carry(copy, name, placement, log)
    return copy


def is_straight(node: Any) -> bool:
    """Whether all labelmaps of a segmentation node lie on right-angled grids."""
    return all(is_right_angled(ijk_to_ras(layer)) for layer in _layers(node.GetSegmentation()))


def geometry_text(matrix: np.ndarray, extent: tuple[int, ...]) -> str:
    """The text in which Slicer stores a grid as a segmentation's reference geometry."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*extent)
    image.SetImageToWorldMatrix(to_vtk(matrix))
    return slicer.vtkSegmentationConverter.SerializeImageGeometry(image)


def from_labels(image: vtk.vtkImageData, matrix: np.ndarray, colours: Any = None) -> Any:
    """A new segmentation node, in no scene, with one segment for each positive label.

    Args:
        image: integer labels; its extent counts, its spacing and origin do not.
        matrix: 4x4 index -> RAS mm.
        colours: a vtkMRMLColorNode that names and colours the labels, or None.
    """
    labels = slicer.vtkOrientedImageData()
    labels.ShallowCopy(_as_integers(image))
    labels.SetImageToWorldMatrix(to_vtk(matrix))
    node = slicer.vtkMRMLSegmentationNode()
    segmentation = node.GetSegmentation()
    segmentation.SetSourceRepresentationName(LABELMAP)
    for value in np.unique(vtk_to_numpy(labels.GetPointData().GetScalars())):
        if value <= 0:
            continue
        segment = slicer.vtkSegment()
        segment.SetName(f"label_{value}")
        segment.SetLabelValue(int(value))
        if colours is not None and 0 <= value < colours.GetNumberOfColors():
            rgba = [0.0] * 4
            if colours.GetColor(int(value), rgba):
                segment.SetColor(rgba[:3])
            segment.SetName(colours.GetColorName(int(value)) or segment.GetName())
        else:
            segment.SetColor(_label_colour(int(value)))
        segment.AddRepresentation(LABELMAP, labels)
        segmentation.AddSegment(segment, f"Segment_{value}")
    segmentation.SetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
        geometry_text(matrix, image.GetExtent()),
    )
    return node


def read(path: Path, scratch: Any) -> Any:
    """A new segmentation node, in no scene, from a .seg.nrrd file or an image of labels.

    Raises:
        BoundaryError: the file cannot be read as labels.
    """
    refused = BoundaryError(f"{path} cannot be read as a segmentation; run the method again.")
    if path.name.lower().endswith(".seg.nrrd"):
        node = slicer.vtkMRMLSegmentationNode()
        scratch.AddNode(node)
        storage = slicer.vtkMRMLSegmentationStorageNode()
        scratch.AddNode(storage)
        storage.SetFileName(str(path))
        if not path.is_file() or not storage.ReadData(node):
            raise refused
        node.SetAndObserveStorageNodeID(None)
        scratch.RemoveNode(node)
        return node
    volume = slicer.vtkMRMLLabelMapVolumeNode()
    scratch.AddNode(volume)
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    scratch.AddNode(storage)
    storage.SetFileName(str(path))
    if not path.is_file() or not storage.ReadData(volume) or volume.GetImageData() is None:
        raise refused
    return from_labels(volume.GetImageData(), ijk_to_ras(volume))


def refer_to(node: Any, reference: Any) -> None:
    """Make a volume the one on whose grid the segments of a segmentation in world coordinates are edited from now on.

    Nothing is done where that grid, carried into the world, is not straight: the segmentation then keeps its own.
    """
    placement = placement_of(reference)
    if placement.matrix is None or reference.GetImageData() is None:
        return
    world = placement.matrix @ ijk_to_ras(reference)
    if not is_right_angled(world):
        return
    if placement.is_identity:
        node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
        return
    # Slicer takes a reference volume's grid before its parent transform, which would be another place than the world's.
    node.GetSegmentation().SetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
        geometry_text(world, reference.GetImageData().GetExtent()),
    )


def _from_label_map_node(node: Any, scratch: Any) -> Any:
    display = node.GetDisplayNode()
    colours = display.GetColorNode() if display is not None else None
    result = from_labels(node.GetImageData(), ijk_to_ras(node), colours)
    result.SetName(node.GetName())
    scratch.AddNode(result)
    return result


def _as_integers(image: vtk.vtkImageData) -> vtk.vtkImageData:
    if image.GetScalarType() not in (vtk.VTK_FLOAT, vtk.VTK_DOUBLE):
        return image
    cast = vtk.vtkImageCast()
    cast.SetInputData(image)
    cast.SetOutputScalarTypeToInt()
    cast.Update()
    return cast.GetOutput()


def _label_colour(value: int) -> tuple[float, float, float]:
    """A colour for a label without one: hues in golden steps, the same for the same label every time."""
    import colorsys

    return colorsys.hsv_to_rgb((value * 0.61803398875) % 1.0, 0.65, 0.95)


def _keep_only(segmentation: Any, segments: list[str] | None, name: str) -> None:
    if segments is None:
        return
    unknown = [segment for segment in segments if segmentation.GetSegment(segment) is None]
    if unknown or not segments:
        known = ", ".join(segmentation.GetSegment(i).GetName() for i in segmentation.GetSegmentIDs())
        missing = f"no segment “{unknown[0]}”" if unknown else "no chosen segment"
        raise BoundaryError(f"Segmentation “{name}” has {missing}; choose among {known}.")
    for segment in list(segmentation.GetSegmentIDs()):
        if segment not in segments:
            segmentation.RemoveSegment(segment)


def _have_labelmaps(copy: Any, name: str, placement: Placement, reference: Any, log: Callable[[str], None]) -> None:
    """Turn surfaces into voxels where there are no voxels; add an empty labelmap to segments that have nothing."""
    segmentation = copy.GetSegmentation()
    if not segmentation.ContainsRepresentation(LABELMAP):
        parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
        if not segmentation.GetConversionParameter(parameter) and reference is not None:
            _take_grid_of(segmentation, reference, placement, parameter)
        if not segmentation.CreateRepresentation(LABELMAP):
            raise BoundaryError(f"Segmentation “{name}” is empty; draw on at least one slice in the Segment Editor.")
        log(f"“{name}” holds surfaces only: a copy was turned into voxels.")
    if segmentation.GetSourceRepresentationName() != LABELMAP:
        segmentation.SetSourceRepresentationName(LABELMAP)


def _take_grid_of(segmentation: Any, reference: Any, placement: Placement, parameter: str) -> None:
    """Give a segmentation, in its own coordinates, the grid on which a volume lies in the world."""
    where = placement_of(reference)
    if where.matrix is None or placement.matrix is None or reference.GetImageData() is None:
        return
    matrix = np.linalg.inv(placement.matrix) @ where.matrix @ ijk_to_ras(reference)
    if is_right_angled(matrix):
        segmentation.SetConversionParameter(parameter, geometry_text(matrix, reference.GetImageData().GetExtent()))


def _layers(segmentation: Any) -> list[Any]:
    """The distinct labelmaps (vtkOrientedImageData), each shared by the segments that do not overlap."""
    return [segmentation.GetLayerDataObject(n, LABELMAP) for n in range(segmentation.GetNumberOfLayers(LABELMAP))]


def _painted(segmentation: Any) -> bool:
    for layer in _layers(segmentation):
        scalars = layer.GetPointData().GetScalars() if layer is not None else None
        if scalars is not None and scalars.GetNumberOfTuples() and vtk_to_numpy(scalars).any():
            return True
    return False


def _carry(copy: Any, name: str, placement: Placement, log: Callable[[str], None]) -> None:
    """Carry all layers of a scratch segmentation, and its reference geometry, into the world."""
    segmentation = copy.GetSegmentation()
    layers = [layer for layer in _layers(segmentation) if layer.GetPointData().GetScalars() is not None]
    matrices = [ijk_to_ras(layer) for layer in layers]
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    stored = slicer.vtkOrientedImageData()
    text = segmentation.GetConversionParameter(parameter)
    has_reference = bool(text) and slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, stored, False)
    straight = placement.matrix is not None and all(is_right_angled(placement.matrix @ matrix) for matrix in matrices)
    if straight:
        for layer, matrix in zip(layers, matrices, strict=True):
            layer.SetImageToWorldMatrix(to_vtk(placement.matrix @ matrix))
        if has_reference:
            carried = placement.matrix @ ijk_to_ras(stored)
            segmentation.SetConversionParameter(parameter, geometry_text(carried, stored.GetExtent()))
        return
    grid = _common_grid(layers, matrices, stored if has_reference else None, placement, name)
    for layer, matrix in zip(layers, matrices, strict=True):
        image = resample(layer, matrix, placement, grid, nearest=True)
        layer.DeepCopy(image)
        layer.SetImageToWorldMatrix(to_vtk(grid.matrix))
    extent = (0, grid.size[0] - 1, 0, grid.size[1] - 1, 0, grid.size[2] - 1)
    segmentation.SetConversionParameter(parameter, geometry_text(grid.matrix, extent))
    why = "a non-linear transform" if placement.matrix is None else "sheared axes"
    log(f"“{name}” has {why}: a copy was resampled to {' x '.join(map(str, grid.size))} voxels in world space.")


def _common_grid(layers: list[Any], matrices: list[np.ndarray], stored: Any, placement: Placement, name: str) -> Grid:
    """One grid for all layers: the covering grid of their common extent (they share one lattice in Slicer)."""
    matrix = matrices[0]
    bounds = []
    for layer, own in [
        *zip(layers, matrices, strict=True),
        *([(stored, ijk_to_ras(stored))] if stored is not None else []),
    ]:
        extent = np.array(layer.GetExtent(), float)
        corners = np.array([[extent[i], extent[2 + j], extent[4 + k]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        to_first = np.linalg.inv(matrix) @ own
        bounds.append(corners @ to_first[:3, :3].T + to_first[:3, 3])
    every = np.vstack(bounds)
    low, high = np.floor(every.min(axis=0) + 1e-6).astype(int), np.ceil(every.max(axis=0) - 1e-6).astype(int)
    extent = (low[0], high[0], low[1], high[1], low[2], high[2])
    return covering_grid(matrix, tuple(int(value) for value in extent), placement, name)
