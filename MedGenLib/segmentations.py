"""Segmentations between the scene and files: layers, names, colours and own geometry are kept.

A segmentation has its own grid, independent of any volume, and its segments may overlap: they then lie in several
layers, and a .seg.nrrd file keeps the layers. Where a reader needs one label map, the segment listed later wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from MedGenLib.errors import BoundaryError
from MedGenLib.geometry import (
    Placement,
    covering_grid,
    ijk_to_ras,
    is_right_angled,
    placement_of,
    resample,
    to_vtk,
)
from MedGenLib.i18n import _
from MedGenLib.scratch import copy_into

LABELMAP = "Binary labelmap"


def check(node: Any, name: str) -> None:
    """BoundaryError when a segmentation or label map has nothing painted in it."""
    if node.IsA("vtkMRMLVolumeNode"):
        image = node.GetImageData()
        if image is None or image.GetPointData().GetScalars() is None:
            raise BoundaryError(
                _("Label map “{name}” has no image data; load it again or choose another.").format(name=name)
            )
        values = vtk_to_numpy(image.GetPointData().GetScalars())
        if not np.array_equal(values, np.rint(values)):
            raise BoundaryError(
                _("Label map “{name}” holds fractions, not labels; threshold it first.").format(name=name)
            )
        return
    if node.GetSegmentation().GetNumberOfSegments() == 0:
        raise BoundaryError(
            _("Segmentation “{name}” has no segments; draw one in the Segment Editor.").format(name=name)
        )


@dataclass(frozen=True)
class MaskOptions:
    """How a segmentation is written.

    Attributes:
        reference: volume node whose grid surfaces are turned into voxels on, when the segmentation has none stored.
        segments: ids of the segments to keep; all when None.
        may_be_empty: write a mask without a voxel, on the stored or the reference's grid, instead of refusing it.
    """

    reference: Any
    segments: list[str] | None
    may_be_empty: bool


def in_world(
    node: Any, name: str, placement: Placement, scratch: Any, options: MaskOptions, log: Callable[[str], None]
) -> Any:
    """A vtkMRMLSegmentationNode in the scratch scene with the node's binary labelmaps in world coordinates.

    Args:
        node: a segmentation or label map node.
        name: how messages call it.
        placement: its coordinates -> world.
        scratch: the scene the copy goes into.
        options: which segments, and what when there are no voxels.
        log: takes one sentence a call.
    Raises:
        BoundaryError: an unknown segment, or nothing painted.
    """
    if node.IsA("vtkMRMLVolumeNode"):
        copy = _from_label_map_node(node, name, scratch)
    else:
        copy = copy_into(scratch, node)
        _keep_only(copy.GetSegmentation(), options.segments, name)
        _have_labelmaps(copy, name, placement, options, log)
        if not painted(copy.GetSegmentation()):
            _blank(copy, name, placement, options)
    _carry(copy, name, placement, log)
    return copy


def is_plain(node: Any) -> bool:
    """Whether a segmentation node has something painted, all on one right-angled lattice: its file then says the same.

    Slicer saves a segmentation that refers to another lattice resampled to that one, and still calls it unmodified.
    """
    segmentation = node.GetSegmentation()
    stored = _stored_grid(segmentation)
    grids = [*layers_of(segmentation), *([stored] if stored is not None else [])]
    matrices = [ijk_to_ras(grid) for grid in grids]
    one = all(is_right_angled(matrix) and _on_lattice(matrix, matrices[0]) for matrix in matrices)
    return one and painted(segmentation)


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
            segment.SetColor(label_colour(int(value)))
        segment.AddRepresentation(LABELMAP, labels)
        segmentation.AddSegment(segment, f"Segment_{value}")
    segmentation.SetConversionParameter(_grid_parameter(), geometry_text(matrix, image.GetExtent()))
    return node


def read(path: Path, scratch: Any) -> Any:
    """A new segmentation node, in no scene, from a .seg.nrrd file or an image of labels.

    Raises:
        BoundaryError: the file cannot be read as labels.
    """
    refused = BoundaryError(_("{path} cannot be read as a segmentation; run the method again.").format(path=path))
    if path.name.lower().endswith(".seg.nrrd"):
        node = slicer.vtkMRMLSegmentationNode()
        scratch.AddNode(node)
        storage = slicer.vtkMRMLSegmentationStorageNode()
        scratch.AddNode(storage)
        storage.SetFileName(str(path))
        if not path.is_file() or not storage.ReadData(node):
            raise refused
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
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)


def _from_label_map_node(node: Any, name: str, scratch: Any) -> Any:
    display = node.GetDisplayNode()
    colours = display.GetColorNode() if display is not None else None
    result = from_labels(node.GetImageData(), ijk_to_ras(node), colours)
    if result.GetSegmentation().GetNumberOfSegments() == 0:
        raise BoundaryError(_("Label map “{name}” is empty; paint at least one label.").format(name=name))
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


def label_colour(value: int) -> tuple[float, float, float]:
    """A colour for a label without one: hues in golden steps, the same for the same label every time."""
    import colorsys

    return colorsys.hsv_to_rgb((value * 0.61803398875) % 1.0, 0.65, 0.95)


def _keep_only(segmentation: Any, segments: list[str] | None, name: str) -> None:
    if segments is None:
        return
    unknown = [segment for segment in segments if segmentation.GetSegment(segment) is None]
    if unknown or not segments:
        known = ", ".join(segmentation.GetSegment(i).GetName() for i in segmentation.GetSegmentIDs())
        missing = _("no segment “{id}”").format(id=unknown[0]) if unknown else _("no chosen segment")
        raise BoundaryError(
            _("Segmentation “{name}” has {missing}; choose among {known}.").format(
                name=name, missing=missing, known=known
            )
        )
    for segment in list(segmentation.GetSegmentIDs()):
        if segment not in segments:
            segmentation.RemoveSegment(segment)


def _have_labelmaps(
    copy: Any, name: str, placement: Placement, options: MaskOptions, log: Callable[[str], None]
) -> None:
    """Turn surfaces into voxels where there are no voxels."""
    segmentation = copy.GetSegmentation()
    if not segmentation.ContainsRepresentation(LABELMAP):
        if not segmentation.GetConversionParameter(_grid_parameter()) and options.reference is not None:
            _take_grid_of(segmentation, options.reference, placement)
        if segmentation.CreateRepresentation(LABELMAP):
            log(_("“{name}” holds surfaces only: a copy was turned into voxels.").format(name=name))
        elif not options.may_be_empty:
            raise _empty(name)
    if segmentation.GetSourceRepresentationName() != LABELMAP:
        segmentation.SetSourceRepresentationName(LABELMAP)


def _empty(name: str) -> BoundaryError:
    return BoundaryError(
        _("Segmentation “{name}” is empty; draw on at least one slice in the Segment Editor.").format(name=name)
    )


def _blank(copy: Any, name: str, placement: Placement, options: MaskOptions) -> None:
    """Give all segments one labelmap of zeros on the stored grid, or on the reference's."""
    segmentation = copy.GetSegmentation()
    if _stored_grid(segmentation) is None and options.reference is not None:
        _take_grid_of(segmentation, options.reference, placement)
    grid = _stored_grid(segmentation)
    if grid is None or not options.may_be_empty:
        raise _empty(name)
    grid.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    grid.GetPointData().GetScalars().Fill(0)
    for value, identity in enumerate(segmentation.GetSegmentIDs(), start=1):
        segment = segmentation.GetSegment(identity)
        segment.SetLabelValue(value)
        segment.AddRepresentation(LABELMAP, grid)


def _grid_parameter() -> str:
    return slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()


def _stored_grid(segmentation: Any) -> Any:
    """The reference geometry of a segmentation as a vtkOrientedImageData without voxels, or None."""
    text = segmentation.GetConversionParameter(_grid_parameter())
    grid = slicer.vtkOrientedImageData()
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, grid, False):
        return None
    return grid if grid.GetNumberOfPoints() > 0 else None


def _take_grid_of(segmentation: Any, reference: Any, placement: Placement) -> None:
    """Give a segmentation, in its own coordinates, the grid on which a volume lies in the world."""
    where = placement_of(reference)
    if where.matrix is None or placement.matrix is None or reference.GetImageData() is None:
        return
    matrix = np.linalg.inv(placement.matrix) @ where.matrix @ ijk_to_ras(reference)
    if is_right_angled(matrix):
        text = geometry_text(matrix, reference.GetImageData().GetExtent())
        segmentation.SetConversionParameter(_grid_parameter(), text)


def layers_of(segmentation: Any) -> list[Any]:
    """The distinct labelmaps (vtkOrientedImageData) with voxels; segments that do not overlap share one."""
    found = [segmentation.GetLayerDataObject(n, LABELMAP) for n in range(segmentation.GetNumberOfLayers(LABELMAP))]
    return [layer for layer in found if layer is not None and layer.GetPointData().GetScalars() is not None]


def painted(segmentation: Any) -> bool:
    """Whether any segment of a vtkSegmentation has a voxel."""
    for identity in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(identity)
        layer = segment.GetRepresentation(LABELMAP)
        scalars = layer.GetPointData().GetScalars() if layer is not None else None
        if scalars is not None and (vtk_to_numpy(scalars) == segment.GetLabelValue()).any():
            return True
    return False


def _carry(copy: Any, name: str, placement: Placement, log: Callable[[str], None]) -> None:
    """Carry all layers of a scratch segmentation into the world, on one lattice that is also its reference geometry.

    Slicer's writer resamples all layers to the reference geometry, wherever that comes from: left as it was, a
    segmentation drawn on one volume's grid and then referred to another volume would leave with other voxels.
    """
    segmentation = copy.GetSegmentation()
    layers = layers_of(segmentation)
    matrices = [ijk_to_ras(layer) for layer in layers]
    finest = min(matrices, key=lambda matrix: abs(np.linalg.det(matrix[:3, :3])))
    extent = _common_extent(layers, matrices, finest, _stored_grid(segmentation))
    one_lattice = all(_on_lattice(matrix, finest) for matrix in matrices)
    if one_lattice and placement.matrix is not None and is_right_angled(placement.matrix @ finest):
        for layer, matrix in zip(layers, matrices, strict=True):
            layer.SetImageToWorldMatrix(to_vtk(placement.matrix @ matrix))
        segmentation.SetConversionParameter(_grid_parameter(), geometry_text(placement.matrix @ finest, extent))
        return
    grid = covering_grid(finest, extent, placement, name)
    for layer, matrix in zip(layers, matrices, strict=True):
        layer.DeepCopy(resample(layer, matrix, placement, grid, nearest=True))
        layer.SetImageToWorldMatrix(to_vtk(grid.matrix))
    whole = (0, grid.size[0] - 1, 0, grid.size[1] - 1, 0, grid.size[2] - 1)
    segmentation.SetConversionParameter(_grid_parameter(), geometry_text(grid.matrix, whole))
    if placement.matrix is None:
        why = _("a non-linear transform")
    else:
        why = _("sheared axes") if one_lattice else _("segments on different grids")
    log(
        _("“{name}” has {why}: a copy was resampled to {size} voxels in world space.").format(
            name=name, why=why, size=" x ".join(map(str, grid.size))
        )
    )


def _on_lattice(matrix: np.ndarray, lattice: np.ndarray) -> bool:
    """Whether the voxels of a grid are voxels of another, but for where counting starts (both 4x4 index -> RAS)."""
    step = np.linalg.inv(lattice) @ matrix
    shift = step[:3, 3] - np.rint(step[:3, 3])
    return bool(np.abs(step[:3, :3] - np.eye(3)).max() < 1e-5 and np.abs(shift).max() < 1e-3)


def _common_extent(layers: list[Any], matrices: list[np.ndarray], lattice: np.ndarray, stored: Any) -> tuple[int, ...]:
    """First and last index along i, j and k, on `lattice`, of all layers, and of the reference geometry if it fits."""
    extents = [(layer.GetExtent(), matrix) for layer, matrix in zip(layers, matrices, strict=True)]
    if stored is not None and _on_lattice(ijk_to_ras(stored), lattice):
        extents.append((stored.GetExtent(), ijk_to_ras(stored)))
    corners = []
    for extent, matrix in extents:
        own = np.array([[extent[i], extent[2 + j], extent[4 + k]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        step = np.linalg.inv(lattice) @ matrix
        corners.append(own @ step[:3, :3].T + step[:3, 3])
    every = np.vstack(corners)
    low, high = np.floor(every.min(axis=0) + 1e-3).astype(int), np.ceil(every.max(axis=0) - 1e-3).astype(int)
    return tuple(int(value) for pair in zip(low, high, strict=True) for value in pair)
