"""Two results, or a result and a reference, compared: the numbers that fit, a difference map, a table. No Qt.

    case = compare.read(result, reference)   # from the scene, on the main thread
    found = compare.measure(case)            # numpy alone: any thread
    nodes = compare.publish(case, found)     # into the scene again

Where the two lie on different grids, the second is brought onto the first's by its place in the world.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from MedGenLib import halos, looks, measures
from MedGenLib.errors import BoundaryError
from MedGenLib.geometry import Grid, ijk_to_ras, is_right_angled, placement_of, resample, to_vtk
from MedGenLib.i18n import _
from MedGenLib.load import place_beside
from MedGenLib.scratch import all_or_nothing, scratch_scene
from MedGenLib.segmentations import LABELMAP, MaskOptions, in_world, layers_of

KINDS = {
    "Image": ("vtkMRMLScalarVolumeNode",),
    "Mask": ("vtkMRMLSegmentationNode",),
    "Points": ("vtkMRMLMarkupsFiducialNode",),
}
_DIFFERENCE_TAG = "MedGenDifference"
_MOST_VOXELS = 2**29


@dataclass
class Case:
    """Two nodes as arrays on one grid.

    Attributes:
        kind: Image, Mask or Points.
        names: of the two nodes.
        grid: the first's, in the world (not for points).
        images: (k, j, i) of the first and the second, and where both have a value.
        masks: for each, segment name -> (k, j, i) bool.
        points: for each, label -> (3,) RAS mm or None where it was not found.
        unit: of the images' values, where it is known.
        notes: sentences on what was done on the way.
    """

    kind: str
    ids: tuple[str, str]
    names: tuple[str, str]
    grid: Grid | None = None
    images: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    masks: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = field(default_factory=lambda: ({}, {}))
    points: tuple[dict[str, Any], dict[str, Any]] = field(default_factory=lambda: ({}, {}))
    unit: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Found:
    """The numbers. `rows` belong to `columns`: texts and floats, NaN where there is none. `headline`: for a person."""

    headline: str
    columns: list[str]
    rows: list[list[Any]]


def kind_of(node: Any) -> str | None:
    """What a node can be compared as, or None."""
    if node is None:
        return None
    return next((kind for kind, classes in KINDS.items() if node.GetClassName() in classes), None)


def why_not(first: Any, second: Any) -> str:
    """Why two nodes cannot be compared; empty when they can."""
    if first is None or second is None:
        return _("Choose what to compare.")
    if first is second:
        return _("Choose two different nodes.")
    if kind_of(first) != kind_of(second):
        return _("Choose two volumes, two segmentations or two point lists.")
    return ""


def read(first: Any, second: Any) -> Case:
    """Both nodes as arrays on the first's grid.

    Raises:
        BoundaryError: the two are not of one kind, are empty, or the first is bent by its transform.
    """
    words = why_not(first, second)
    if words:
        raise BoundaryError(words)
    case = Case(str(kind_of(first)), (first.GetID(), second.GetID()), (first.GetName(), second.GetName()))
    if case.kind == "Points":
        case.points = (_points(first), _points(second))
    elif case.kind == "Image":
        _read_images(case, first, second)
    else:
        _read_masks(case, first, second)
    return case


def measure(case: Case) -> Found:
    """The numbers that fit the kind; reads nothing from the scene."""
    return {"Image": _measure_images, "Mask": _measure_masks, "Points": _measure_points}[case.kind](case)


def publish(case: Case, found: Found) -> dict[str, Any]:
    """New nodes in the scene: "table", and "difference" (a volume, a segmentation; nothing for points)."""
    scene = slicer.mrmlScene
    first = scene.GetNodeByID(case.ids[0])
    with all_or_nothing(scene):
        nodes = {"table": _table(case, found)}
        if case.kind == "Image":
            nodes["difference"] = _difference_volume(case)
        elif case.kind == "Mask":
            nodes["difference"] = _difference_segmentation(case)
        for node in nodes.values():
            place_beside(node, first)
    return nodes


# --- reading


def _read_images(case: Case, first: Any, second: Any) -> None:
    for node in (first, second):
        if node.GetImageData() is None or node.GetImageData().GetPointData().GetScalars() is None:
            raise BoundaryError(_("Volume “{name}” has no image data; load it again.").format(name=node.GetName()))
    placement = placement_of(first)
    if placement.matrix is None or not is_right_angled(placement.matrix @ ijk_to_ras(first)):
        raise BoundaryError(
            _("“{name}” is bent by its transform; harden it, or compare the other way round.").format(
                name=first.GetName()
            )
        )
    case.grid = Grid(placement.matrix @ ijk_to_ras(first), first.GetImageData().GetDimensions())
    one = slicer.util.arrayFromVolume(first)
    there = placement_of(second)
    same = second.GetImageData().GetDimensions() == case.grid.size and there.matrix is not None
    if same and np.allclose(there.matrix @ ijk_to_ras(second), case.grid.matrix, rtol=0, atol=1e-4):
        other = slicer.util.arrayFromVolume(second)
        case.images = (one, other, np.ones(one.shape, bool))
    else:
        other, where = _resampled(second, there, case.grid)
        if not where.any():
            raise BoundaryError(
                _("“{first}” and “{second}” do not overlap; choose two of one patient.").format(
                    first=case.names[0], second=case.names[1]
                )
            )
        case.images = (one, other, where)
        words = _("“{second}” was resampled to the grid of “{first}”; {share:.0%} of it is covered.")
        case.notes.append(words.format(second=case.names[1], first=case.names[0], share=float(where.mean())))
    case.unit = "HU" if looks.is_hu(first) or looks.is_hu(second) else ""


def _resampled(node: Any, placement: Any, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """A volume's values on a grid, and where it has any: (k, j, i) float32 and bool."""
    cast = vtk.vtkImageCast()
    cast.SetInputData(node.GetImageData())
    cast.SetOutputScalarTypeToFloat()
    cast.Update()
    image = resample(cast.GetOutput(), ijk_to_ras(node), placement, grid, nearest=False, background=float("nan"))
    values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(grid.size[::-1])
    where = np.isfinite(values)
    return np.where(where, values, np.float32(0)), where


def _read_masks(case: Case, first: Any, second: Any) -> None:
    with scratch_scene() as scratch:
        options = MaskOptions(_volume_of(first) or _volume_of(second), None, True)
        copies = [
            in_world(node, node.GetName(), placement_of(node), scratch, options, case.notes.append)
            for node in (first, second)
        ]
        case.grid = _common_grid([copy.GetSegmentation() for copy in copies])
        masks = []
        for copy in copies:
            found: dict[str, np.ndarray] = {}
            segmentation = copy.GetSegmentation()
            for layer in layers_of(segmentation):
                labels = _on_grid(layer, case.grid)
                for identity in segmentation.GetSegmentIDs():
                    segment = segmentation.GetSegment(identity)
                    if segment.GetRepresentation(LABELMAP) is layer:
                        found[segment.GetName()] = labels == segment.GetLabelValue()
            masks.append(found)
        case.masks = (masks[0], masks[1])
        lattices = [ijk_to_ras(layers_of(copy.GetSegmentation())[0]) for copy in copies]
        step = np.linalg.inv(lattices[0]) @ lattices[1]
        apart = np.abs(step[:3, :3] - np.eye(3)).max() > 1e-4 or np.abs(step[:3, 3] - np.rint(step[:3, 3])).max() > 1e-2
    if apart:
        words = _("“{second}” was resampled to the grid of “{first}”.")
        case.notes.append(words.format(second=case.names[1], first=case.names[0]))


def _volume_of(segmentation: Any) -> Any:
    return segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())


def _common_grid(segmentations: list[Any]) -> Grid:
    """The first segmentation's lattice, as far as either has voxels, and one voxel around."""
    lattice = ijk_to_ras(layers_of(segmentations[0])[0])
    corners = []
    for segmentation in segmentations:
        for layer in layers_of(segmentation):
            labels = vtk_to_numpy(layer.GetPointData().GetScalars()).reshape(layer.GetDimensions()[::-1])
            if not labels.any():
                continue
            box = measures.box_of(labels > 0)[::-1]
            start = np.array(layer.GetExtent()[::2])
            ends = np.array([[side.start - 0.5, side.stop - 0.5] for side in box]) + start[:, None]
            step = np.linalg.inv(lattice) @ ijk_to_ras(layer)
            eight = np.array([[ends[0, i], ends[1, j], ends[2, k]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
            corners.append(eight @ step[:3, :3].T + step[:3, 3])
    every = np.vstack(corners) if corners else np.zeros((1, 3))
    low, high = np.floor(every.min(axis=0)).astype(int), np.ceil(every.max(axis=0)).astype(int)
    size = high - low + 1
    if np.prod(size.astype(float)) > _MOST_VOXELS:
        raise BoundaryError(_("The two segmentations lie too far apart to be compared; choose two of one patient."))
    matrix = lattice.copy()
    matrix[:3, 3] += matrix[:3, :3] @ low
    return Grid(matrix, (int(size[0]), int(size[1]), int(size[2])))


def _on_grid(layer: Any, grid: Grid) -> np.ndarray:
    """A labelmap in the world on a grid: (k, j, i)."""
    world = placement_of(slicer.vtkMRMLLinearTransformNode())
    image = resample(layer, ijk_to_ras(layer), world, grid, nearest=True)
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(grid.size[::-1])


def _points(node: Any) -> dict[str, Any]:
    there = set(halos.placed(node))
    found: dict[str, Any] = {}
    for number in range(node.GetNumberOfControlPoints()):
        place = np.array(node.GetNthControlPointPositionWorld(number)) if number in there else None
        found.setdefault(node.GetNthControlPointLabel(number), place)
    return found


# --- measuring


def _measure_images(case: Case) -> Found:
    assert case.images is not None
    one, other, where = case.images
    values = other[where]
    data_range = float(values.max()) - float(values.min())
    error = measures.mae(one, other, where)
    rows: list[list[Any]] = [
        [_("Mean absolute error"), error, case.unit],
        [_("Mean difference"), float(np.subtract(one[where], values, dtype=np.float64).mean()), case.unit],
    ]
    headline = _("Mean absolute error {value:.4g} {unit}").format(value=error, unit=case.unit).strip()
    if data_range > 0:
        ratio = measures.psnr(one, other, where, data_range)
        likeness = measures.ssim(one, other, where, data_range)
        rows += [[_("PSNR"), ratio, "dB"], [_("SSIM"), likeness, ""]]
        headline += _(", PSNR {value:.1f} dB").format(value=ratio)
        headline += "" if np.isnan(likeness) else _(", SSIM {value:.3f}").format(value=likeness)
    rows.append([_("Range of “{name}”").format(name=case.names[1]), data_range, case.unit])
    return Found(headline + ".", [_("Measure"), _("Value"), _("Unit")], rows)


def _measure_masks(case: Case) -> Found:
    assert case.grid is not None
    spacing = np.linalg.norm(case.grid.matrix[:3, :3], axis=0)
    millilitres = float(np.prod(spacing)) / 1000
    rows: list[list[Any]] = []
    first, second = case.masks
    for name in dict.fromkeys([*first, *second]):
        counts = [np.count_nonzero(masks[name]) if name in masks else np.nan for masks in case.masks]
        if name in first and name in second:
            overlap = measures.dice(first[name], second[name])
            distance = measures.hausdorff95(first[name], second[name], tuple(spacing))
        else:
            overlap = distance = np.nan
        rows.append([name, overlap, distance, *(millilitres * float(count) for count in counts)])
    matched = [row for row in rows if not np.isnan(row[1])]
    headline = _("No segment has the same name in both.")
    if matched:
        words = _("Mean Dice {dice:.3f} over {count} segments") if len(matched) > 1 else _("Dice {dice:.3f}")
        headline = words.format(dice=np.mean([row[1] for row in matched]), count=len(matched))
        far = max((row[2] for row in matched if not np.isnan(row[2])), default=None)
        words = _(", largest HD95 {mm:.1f} mm") if len(matched) > 1 else _(", HD95 {mm:.1f} mm")
        headline += "." if far is None else words.format(mm=far) + "."
    for own, others, name in ((first, second, case.names[0]), (second, first, case.names[1])):
        alone = [f"“{segment}”" for segment in own if segment not in others]
        headline += _(" Only in “{name}”: {segments}.").format(name=name, segments=", ".join(alone)) if alone else ""
    return Found(headline, [_("Segment"), "Dice", _("HD95 mm"), _("First ml"), _("Second ml")], rows)


def _measure_points(case: Case) -> Found:
    first, second = case.points
    rows: list[list[Any]] = []
    for name in dict.fromkeys([*first, *second]):
        pair = first.get(name), second.get(name)
        there = pair[0] is not None and pair[1] is not None
        rows.append([name, float(np.linalg.norm(pair[0] - pair[1])) if there else np.nan])
    distances = np.array([row[1] for row in rows])
    known = distances[~np.isnan(distances)]
    headline = _("No point is placed in both under the same name.")
    if known.size:
        words = _("Mean distance {mean:.2f} mm, largest {most:.2f} mm (“{name}”) over {count} points.")
        worst = rows[int(np.nanargmax(distances))][0]
        headline = words.format(mean=known.mean(), most=known.max(), name=worst, count=known.size)
    gone = [name for name, distance in rows if np.isnan(distance)]
    if gone:
        words = _(" Not placed in both: {count} ({names}).")
        headline += words.format(count=len(gone), names=", ".join(gone))
    return Found(headline, [_("Point"), _("Distance mm")], rows)


# --- into the scene


def _table(case: Case, found: Found) -> Any:
    name = _("{first} compared with {second}").format(first=case.names[0], second=case.names[1])
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName(name))
    for number, title in enumerate(found.columns):
        cells = [row[number] for row in found.rows]
        column = vtk.vtkStringArray() if cells and isinstance(cells[0], str) else vtk.vtkDoubleArray()
        column.SetName(title)
        for cell in cells:
            column.InsertNextValue(cell)
        node.AddColumn(column)
    node.SetDescription(" ".join([found.headline, *case.notes]))
    return node


def _difference_volume(case: Case) -> Any:
    """First minus second, 0 where only the first has a value; blue is less, red is more, by the same colour scale."""
    assert case.images is not None and case.grid is not None
    one, other, where = case.images
    values = np.subtract(one, other, dtype=np.float32)
    values[~where] = 0
    name = slicer.mrmlScene.GenerateUniqueName(
        _("{first} minus {second}").format(first=case.names[0], second=case.names[1])
    )
    node = slicer.util.addVolumeFromArray(values, name=name)
    node.SetIJKToRASMatrix(to_vtk(case.grid.matrix))
    node.CreateDefaultDisplayNodes()
    sample = np.abs(values[where])[:: max(1, values.size // 2_000_000)]
    most = float(np.percentile(sample, 99.5)) or float(sample.max()) or 1.0
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(_diverging().GetID())
    display.SetAutoWindowLevel(0)
    display.SetWindowLevelMinMax(-most, most)
    return node


def _diverging() -> Any:
    """Blue over white to red, made once a scene."""
    node = slicer.mrmlScene.GetSingletonNode(_DIFFERENCE_TAG, "vtkMRMLColorTableNode")
    if node is not None:
        return node
    node = slicer.vtkMRMLColorTableNode()
    node.SetTypeToUser()
    node.SetName(_("MedGen difference"))
    node.SetSingletonTag(_DIFFERENCE_TAG)
    node.SetNumberOfColors(256)
    ends, middle = np.array([[0.13, 0.30, 0.75], [0.75, 0.12, 0.15]]), np.array([0.97, 0.97, 0.97])
    for index in range(256):
        share = index / 127.5 - 1
        colour = middle + abs(share) * (ends[int(share > 0)] - middle)
        node.SetColor(index, f"{share:+.2f}", *colour, 1.0)
    return slicer.mrmlScene.AddNode(node)


def _difference_segmentation(case: Case) -> Any:
    """Three segments: in both, only in the first, only in the second; a voxel that the two give different names is in
    both of the latter."""
    assert case.grid is not None
    first, second = case.masks
    shape = case.grid.size[::-1]
    nothing = np.zeros(shape, bool)
    both, only_first, only_second = nothing.copy(), nothing.copy(), nothing.copy()
    for name in dict.fromkeys([*first, *second]):
        one, other = first.get(name, nothing), second.get(name, nothing)
        both |= one & other
        only_first |= one & ~other
        only_second |= other & ~one
    name = _("{first} and {second}").format(first=case.names[0], second=case.names[1])
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name))
    node.CreateDefaultDisplayNodes()
    parts = (
        (_("In both"), both, (0.55, 0.75, 0.55)),
        (_("Only in {name}").format(name=case.names[0]), only_first, (0.75, 0.12, 0.15)),
        (_("Only in {name}").format(name=case.names[1]), only_second, (0.13, 0.30, 0.75)),
    )
    for title, mask, colour in parts:
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(case.grid.size)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        vtk_to_numpy(image.GetPointData().GetScalars())[:] = mask.reshape(-1)
        image.SetImageToWorldMatrix(to_vtk(case.grid.matrix))
        segment = slicer.vtkSegment()
        segment.SetName(title)
        segment.SetColor(*colour)
        segment.AddRepresentation(LABELMAP, image)
        node.GetSegmentation().AddSegment(segment)
    node.SetDisplayVisibility(False)  # it would cover what it was made of
    return node
