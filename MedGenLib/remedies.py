"""What mends an input: always a new node beside the old one, which stays as it is. No Qt."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk

from MedGenLib.export import export_node
from MedGenLib.geometry import Grid, Placement, ijk_to_ras, resample, to_vtk
from MedGenLib.i18n import _
from MedGenLib.imagefacts import exact_range, facts_of
from MedGenLib.load import load_results, place_beside
from MedGenLib.scratch import all_or_nothing

MARGIN = 10.0  # mm around what is kept of a cropped volume
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
_LOOKED_AT = 2_000_000  # voxels that tell where the foreground is
_AIR = -500.0  # HU, halfway between air and water


def resampled(volume: Any, spacing: tuple[float, float, float]) -> Any:
    """A copy with voxels of `spacing` mm along the patient's right-left, back-front and down-up axes (or those nearest
    to them), over the same field of view; linear, smoothed before where voxels become larger."""
    facts = facts_of(volume)
    assert facts is not None
    factor = np.ones(3)
    for row, axis in enumerate(facts.order):
        factor[axis] = spacing[row] / facts.spacing[row]
    size = np.maximum(1, np.rint(np.array(facts.shape) / factor)).astype(int)
    factor = np.array(facts.shape) / size  # the field of view stays: sizes are whole numbers
    image = volume.GetImageData()
    if (factor > 1.2).any():
        smooth = vtk.vtkImageGaussianSmooth()
        smooth.SetInputData(image)
        smooth.SetStandardDeviations(*(0.4 * f if f > 1.2 else 0.0 for f in factor))
        smooth.Update()
        image = smooth.GetOutput()
    step = np.diag([*factor, 1.0])
    step[:3, 3] = (factor - 1) / 2  # index of the first new voxel's centre
    own = ijk_to_ras(volume)
    grid = Grid(own @ step, tuple(int(n) for n in size))
    nowhere = Placement(vtk.vtkGeneralTransform(), np.eye(4))
    made = resample(image, own, nowhere, grid, nearest=False, background=facts.low)
    return _new(volume, made, grid.matrix, _("resampled"))


def cropped(volume: Any) -> Any | None:
    """A copy of what is not background, with a margin; None when that is (nearly) the whole volume."""
    box = foreground(volume)
    if box is None:
        return None
    low, high = box
    array = slicer.util.arrayFromVolume(volume)
    part = array[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
    step = np.eye(4)
    step[:3, 3] = low
    return _new(volume, _image(np.ascontiguousarray(part)), ijk_to_ras(volume) @ step, _("cropped"))


def foreground(volume: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """First and last + 1 voxel (i, j, k) of what is brighter than background, with a margin; None when there is next to
    nothing to cut off. CT by its values: what is denser than halfway between air and water."""
    facts = facts_of(volume)
    if facts is None or facts.flat or not facts.usable:
        return None
    threshold = _AIR if facts.low < -400 else facts.p1 + 0.1 * (facts.p99 - facts.p1)
    array = slicer.util.arrayFromVolume(volume)
    step = max(1, round((np.prod(facts.shape) / _LOOKED_AT) ** (1 / 3)))
    array = array[::step, ::step, ::step]
    inside = (array if array.ndim == 3 else array.max(axis=3)) > threshold
    low, high = [0, 0, 0], list(facts.shape)
    spacing = np.linalg.norm(ijk_to_ras(volume)[:3, :3], axis=0)
    for axis in range(3):
        share = inside.mean(axis=tuple(other for other in range(3) if other != 2 - axis))
        found = np.nonzero(share > 0.001)[0]  # a thousandth of a slice: not single bright voxels
        if not found.size:
            return None
        margin = int(np.ceil(MARGIN / spacing[axis])) + step - 1
        first, end = int(found[0]) * step, (int(found[-1]) + 1) * step
        low[axis], high[axis] = max(0, first - margin), min(facts.shape[axis], end + margin)
    kept = np.prod([b - a for a, b in zip(low, high, strict=True)]) / np.prod(facts.shape)
    return (tuple(low), tuple(high)) if kept < 0.9 else None


def finite(volume: Any) -> Any:
    """A copy whose values that are no numbers (NaN, infinite) are its least finite value."""
    array = slicer.util.arrayFromVolume(volume)
    least = exact_range(volume)[0]
    return _new(volume, _image(np.where(np.isfinite(array), array, least).astype(array.dtype)), None, _("finite"))


def grey(volume: Any) -> Any:
    """One value a voxel: the luminance of colours, else the mean of the channels; a scalar volume."""
    array = slicer.util.arrayFromVolume(volume).astype(np.float32)
    mixed = array[..., :3] @ np.array(_LUMINANCE, np.float32) if array.shape[-1] in (3, 4) else array.mean(axis=-1)
    return _new(volume, _image(np.rint(mixed).astype(np.int16)), None, _("grey"))


def shifted(volume: Any, offset: float) -> Any:
    """A copy with `offset` added to every value."""
    array = slicer.util.arrayFromVolume(volume)
    form = array.dtype if array.dtype.kind == "f" else np.int16
    return _new(volume, _image((array.astype(np.float32) + offset).astype(form)), None, _("in HU"))


def hardened(volume: Any) -> Any:
    """A copy in world coordinates on a straight grid, as a run would be given it, without a parent transform."""
    with tempfile.TemporaryDirectory(prefix="medgen-", ignore_cleanup_errors=True) as folder:
        path = export_node(volume, Path(folder), "image", "Image", log=_quiet)
        return load_results(path, "Image", _("{name} hardened").format(name=volume.GetName()), reference=volume)[0]


def _quiet(words: str) -> None:
    """What an export says on the way is on the button already."""


def _new(volume: Any, image: Any, matrix: np.ndarray | None, word: str) -> Any:
    """A new scalar volume with `image`, placed, shown and transformed as `volume` is."""
    scene = slicer.mrmlScene
    with all_or_nothing(scene):
        node = scene.AddNewNodeByClass(
            "vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(f"{volume.GetName()} {word}")
        )
        node.SetAndObserveImageData(image)
        node.SetIJKToRASMatrix(to_vtk(ijk_to_ras(volume) if matrix is None else matrix))
        if volume.GetParentTransformNode() is not None:
            node.SetAndObserveTransformNodeID(volume.GetParentTransformNode().GetID())
        if (modality := volume.GetAttribute("DICOM.Modality")) is not None:
            node.SetAttribute("DICOM.Modality", modality)
        node.CreateDefaultDisplayNodes()
        _show_alike(node, volume)
        place_beside(node, volume)
    return node


def _show_alike(node: Any, volume: Any) -> None:
    """The same window and colours, where the old volume has them."""
    old, new = volume.GetDisplayNode(), node.GetDisplayNode()
    if new is None:
        return
    new.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    if old is None or not old.IsA("vtkMRMLScalarVolumeDisplayNode") or volume.IsA("vtkMRMLVectorVolumeNode"):
        new.SetAutoWindowLevel(1)
        return
    if old.GetColorNodeID():
        new.SetAndObserveColorNodeID(old.GetColorNodeID())
    new.SetAutoWindowLevel(old.GetAutoWindowLevel())
    if not old.GetAutoWindowLevel():
        new.SetWindowLevel(old.GetWindow(), old.GetLevel())


def _image(array: np.ndarray) -> Any:
    """vtkImageData of an array (k, j, i), its voxels copied."""
    from vtk.util.numpy_support import numpy_to_vtk

    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
    return image
