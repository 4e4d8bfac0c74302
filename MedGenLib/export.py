"""Nodes out of the scene: one file a node, in world coordinates, written by Slicer's own storage nodes.

What every reader of these files may rely on:

- Positions are world positions: parent transforms are in the file, whatever their kind. Rigid, scaling and mirroring
  transforms go into the voxel axes and change no voxel. Sheared and non-linear ones are applied to a copy, which is
  resampled onto a right-angled grid, and the log says so.
- A volume that has not changed since it was read, has no parent transform and lies in a file that says the same is
  not written again: its own file is named.
- An 8-bit grey or colour frame that has no place in a patient (pixels of 1 mm from the origin, as Slicer loads
  pictures) becomes a PNG, first row on top. Every other image becomes a NRRD, so that no geometry is lost.
- The scene is not touched, and files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from MedGenLib import frames, markups, segmentations, tables
from MedGenLib.errors import BoundaryError
from MedGenLib.geometry import Placement, covering_grid, ijk_to_ras, is_right_angled, placement_of, resample, to_vtk
from MedGenLib.i18n import _
from MedGenLib.scratch import file_stem, publish, scratch_scene, share_voxels, staged, write

Log = Callable[[str], None]

NODE_CLASSES = {
    "Image": ("vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode"),
    "Mask": ("vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode"),
    "Points": ("vtkMRMLMarkupsFiducialNode",),
    "Line": ("vtkMRMLMarkupsLineNode",),
    "Curve": ("vtkMRMLMarkupsCurveNode", "vtkMRMLMarkupsClosedCurveNode"),
    "Plane": ("vtkMRMLMarkupsPlaneNode",),
    "Box": ("vtkMRMLMarkupsROINode",),
    "Sphere": ("vtkMRMLMarkupsROINode", "vtkMRMLMarkupsLineNode"),
    "Matrix": ("vtkMRMLTableNode",),
    "Table": ("vtkMRMLTableNode",),
}
_NEEDED = {
    "Image": _("a scalar or colour volume"),
    "Mask": _("a segmentation or a label map"),
    "Points": _("a point list"),
    "Line": _("a line"),
    "Curve": _("an open or closed curve"),
    "Plane": _("a plane"),
    "Box": _("a ROI"),
    "Sphere": _("a ROI or a line"),
    "Matrix": _("a table"),
    "Table": _("a table"),
}


def export_node(
    node: Any,
    folder: Path,
    role: str,
    kind: str,
    *,
    reference: Any = None,
    segments: list[str] | None = None,
    may_be_empty: bool = False,
    log: Log,
) -> Path:
    """Write one node as the file of a role, in world coordinates.

    Args:
        node: a node of one of the `NODE_CLASSES` of the kind.
        folder: where the file goes; made when absent.
        role: the role's name; the file is called after it, and numbered when that name is taken.
        kind: Image, Mask, Points, Line, Curve, Plane, Box, Sphere, Matrix or Table.
        reference: a volume node whose grid a segmentation made of surfaces is given, when it has none of its own.
        segments: ids of the segments to write, in the order of the segmentation; all when None. Masks only.
        may_be_empty: let a mask without a painted voxel pass, on its stored grid or the reference's, and a list without
            points.
        log: takes one sentence a call on what was changed on the way.
    Returns:
        The file written, or the node's own file where that says the same (never to be changed by the caller).
    Raises:
        BoundaryError: a sentence naming the node and the remedy; neither scene nor folder has changed.
    """
    check_class(node, kind)
    folder = Path(folder)
    own = own_file(node) if kind in ("Image", "Mask") and segments is None else None
    if own is not None:
        check_content(node, kind)
        return own
    with staged(folder, node.GetName()) as staging, scratch_scene() as scratch:
        options = segmentations.MaskOptions(reference, segments, may_be_empty)
        path = write_placed(
            node,
            kind,
            staging / file_stem(role),
            placement_of(node),
            scratch,
            name=node.GetName(),
            log=log,
            masks=options,
        )
        return publish(path, folder)


def write_placed(
    node: Any,
    kind: str,
    stem: Path,
    placement: Placement,
    scratch: Any,
    *,
    name: str,
    masks: segmentations.MaskOptions,
    log: Log,
) -> Path:
    """Write a node's content, carried into the world by `placement`, to `stem` plus the ending of its kind.

    `name` is what messages call the node: its own, or that of the proxy when it is a frame of a sequence.
    """
    check_content(node, kind, name, masks.may_be_empty)
    if kind == "Image":
        return _write_image(node, name, stem, placement, scratch, log)
    if kind == "Mask":
        copy = segmentations.in_world(node, name, placement, scratch, masks, log)
        path = stem.with_name(stem.name + ".seg.nrrd")
        write(copy, slicer.vtkMRMLSegmentationStorageNode(), path, name)
        return path
    if kind in ("Matrix", "Table"):
        path = stem.with_name(stem.name + ".csv")
        tables.write_csv(node, path, name)
        return path
    path = stem.with_name(stem.name + ".mrk.json")
    copy = markups.in_world(node, name, kind, placement, scratch, log)
    write(copy, markups.storage_for(copy), path, name)
    if kind == "Box":
        markups.keep_name(path, name)
    return path


def check_class(node: Any, kind: str) -> None:
    """BoundaryError unless a node is of a class that can serve a kind."""
    if kind not in NODE_CLASSES:
        raise BoundaryError(
            _("A {kind} cannot be taken from a node; give it as a file on the command line.").format(kind=kind.lower())
        )
    if node is None:
        raise BoundaryError(_("No node is chosen; choose {needed}.").format(needed=_NEEDED[kind]))
    # A label map is a scalar volume to Slicer, and so are diffusion volumes: only the classes themselves will do.
    if node.GetClassName() not in NODE_CLASSES[kind]:
        raise BoundaryError(
            _("“{name}” is {found}; choose {needed} instead.").format(
                name=node.GetName(), found=_described(node), needed=_NEEDED[kind]
            )
        )


def check_content(node: Any, kind: str, name: str | None = None, may_be_empty: bool = False) -> None:
    """BoundaryError when a node has nothing in it that could be written. may_be_empty: a list of points may be so."""
    name = name or node.GetName()
    if kind == "Image":
        _check_image(node, name)
    elif kind == "Mask":
        segmentations.check(node, name)
    elif kind in ("Matrix", "Table"):
        tables.check(node, name)
    else:
        markups.check(node, kind, name, may_be_empty)


def _described(node: Any) -> str:
    tag = node.GetNodeTagName()
    known = {"LabelMapVolume": _("a label map"), "Segmentation": _("a segmentation"), "Volume": _("a scalar volume")}
    return known.get(tag) or _("of type {type}").format(type=tag)


# --- images -------------------------------------------------------------------------------------------------------


def _check_image(node: Any, name: str) -> None:
    image = node.GetImageData()
    if image is None or min(image.GetDimensions()) < 1 or image.GetPointData().GetScalars() is None:
        raise BoundaryError(
            _("Volume “{name}” has no image data; load it again or choose another volume.").format(name=name)
        )
    if abs(np.linalg.det(ijk_to_ras(node)[:3, :3])) < 1e-12:
        raise BoundaryError(
            _("Volume “{name}” has a voxel size of zero; correct its spacing in the Volumes module.").format(name=name)
        )
    components = image.GetNumberOfScalarComponents()
    colour = components in (3, 4) and image.GetScalarType() in (vtk.VTK_UNSIGNED_CHAR, vtk.VTK_UNSIGNED_SHORT)
    if components != 1 and not colour:
        raise BoundaryError(
            _(
                "Volume “{name}” has {components} values a voxel and is not a colour picture; choose a "
                "scalar volume, or one component of it."
            ).format(name=name, components=components)
        )


def _write_image(node: Any, name: str, stem: Path, placement: Placement, scratch: Any, log: Log) -> Path:
    matrix = ijk_to_ras(node)
    in_world = None if placement.matrix is None else placement.matrix @ matrix
    if in_world is not None and is_right_angled(in_world):
        copy = share_voxels(scratch, node, to_vtk(in_world))
    else:
        grid = covering_grid(matrix, node.GetImageData().GetExtent(), placement, name)
        outside = _background(node)
        image = resample(node.GetImageData(), matrix, placement, grid, nearest=False, background=outside)
        copy = share_voxels(scratch, node, to_vtk(grid.matrix))
        copy.SetAndObserveImageData(image)
        why = _("a non-linear transform") if placement.matrix is None else _("sheared axes")
        log(
            _("“{name}” has {why}: a copy was resampled to {size} voxels in world space.").format(
                name=name, why=why, size=" x ".join(map(str, grid.size))
            )
        )
    if frames.is_plain_picture(copy):
        path = stem.with_name(stem.name + ".png")
        frames.write_png(copy.GetImageData(), path, name)
        return path
    _make_writable(copy)
    path = stem.with_name(stem.name + ".nrrd")
    write(copy, slicer.vtkMRMLVolumeArchetypeStorageNode(), path, name)
    return path


def _make_writable(copy: Any) -> None:
    """Give voxels of a type that Slicer's writers refuse one that they take and that holds the same numbers."""
    scalar_type = copy.GetImageData().GetScalarType()
    cast = vtk.vtkImageCast()
    if scalar_type in (vtk.VTK_SIGNED_CHAR, vtk.VTK_CHAR):
        cast.SetOutputScalarTypeToShort()
    elif scalar_type in (vtk.VTK_LONG, vtk.VTK_UNSIGNED_LONG, vtk.VTK_LONG_LONG, vtk.VTK_UNSIGNED_LONG_LONG):
        cast.SetOutputScalarTypeToDouble()
    else:
        return
    cast.SetInputData(copy.GetImageData())
    cast.Update()
    copy.SetAndObserveImageData(cast.GetOutput())


def _background(node: Any) -> float:
    """What lies outside a volume: the value that Slicer's own resampling takes, from the volume's corners."""
    if node.GetImageData().GetNumberOfScalarComponents() > 1:
        return 0.0
    return float(node.GetImageBackgroundScalarComponentAsDouble(0))


def own_file(node: Any) -> Path | None:
    """The file a volume or segmentation was read from, when reading it elsewhere gives the node as it is now.

    Not so for a node with a parent transform, changed voxels, geometry or segments, a reader told to change the
    geometry, a file of more than three axes, or one of several files (a DICOM series).
    """
    storage = node.GetStorageNode()
    if storage is None or node.GetParentTransformNode() is not None or node.GetModifiedSinceRead():
        return None
    if storage.GetNumberOfFileNames() > 1 or not storage.GetFileName():
        return None
    path = Path(storage.GetFullNameFromFileName())
    lower = path.name.lower()
    if node.IsA("vtkMRMLSegmentationNode"):
        return path if lower.endswith(".seg.nrrd") and path.is_file() and segmentations.is_plain(node) else None
    if node.GetClassName() != "vtkMRMLScalarVolumeNode" or lower.endswith(".seg.nrrd"):
        return None
    if not is_right_angled(ijk_to_ras(node)) or _geometry_overridden(storage):
        return None
    return path if path.is_file() and _axes_of(path) == 3 else None


def _geometry_overridden(storage: Any) -> bool:
    """Whether Slicer was told on loading to centre the volume or to ignore its orientation."""
    centred = getattr(storage, "GetCenterImage", lambda: 0)()
    oriented = getattr(storage, "GetUseOrientationFromFile", lambda: 1)()
    return bool(centred) or not oriented


def _axes_of(path: Path) -> int | None:
    """Axes of more than one sample (three at least) by the header of a NRRD, NIfTI or MetaImage file, else None."""
    lower = path.name.lower()
    with contextlib.suppress(OSError, ValueError, struct.error, EOFError):
        if lower.endswith((".nii", ".nii.gz")):
            opener: Any = gzip.open if lower.endswith(".gz") else open
            with opener(path, "rb") as file:
                header = file.read(348)
            order = "<" if struct.unpack_from("<i", header)[0] == 348 else ">"
            if not _nifti_is_right_angled(header, order):
                return None
            sizes = struct.unpack_from(f"{order}8h", header, 40)
            return 3 + sum(size > 1 for size in sizes[4 : sizes[0] + 1])
        if lower.endswith((".nrrd", ".mha")):
            for line in _header_lines(path):
                key, _mark, value = line.partition(":" if lower.endswith(".nrrd") else "=")
                if key.strip() in ("dimension", "NDims"):
                    return int(value)
    return None


def _nifti_is_right_angled(header: bytes, order: str) -> bool:
    """False for sheared axes, which Slicer may have straightened and other readers refuse."""
    if struct.unpack_from(f"{order}h", header, 254)[0] <= 0:
        return True
    matrix = np.eye(4)
    matrix[:3] = np.array(struct.unpack_from(f"{order}12f", header, 280)).reshape(3, 4)
    return is_right_angled(matrix)


def _header_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for line in file.read(4096).split(b"\n"):
            if not line.strip() or line.startswith(b"ElementDataFile"):
                return
            yield line.decode("latin-1")
