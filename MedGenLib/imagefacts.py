"""What can be known of an image node in a moment: its grid in the world, and values from a sample. No Qt."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import slicer.util

from MedGenLib.changes import changed
from MedGenLib.geometry import ijk_to_ras, is_right_angled, placement_of

_SAMPLES = 200_000  # voxels that speak for all
_ALL_UP_TO = 2**25  # voxels of a floating-point image that are all looked at for values that are no numbers
_kept: dict[str, tuple[int, ImageFacts]] = {}
_KEPT = 32


@dataclass(frozen=True)
class ImageFacts:
    """An image node as it stands.

    shape: voxels along i, j, k. order: which of i, j, k runs along the patient's right-left, back-front and down-up.
    spacing, extent: voxel size and field of view along those, mm, in the world. straight: the axes are at right angles
    and no transform bends them. usable: the axes span a volume. oblique: degrees between them and the patient's.
    low, high, middle: of the sample's finite values, with percentiles 1 and 99 as p1 and p99. finite: no value that is
    no number was met.
    """

    shape: tuple[int, int, int]
    channels: int
    order: tuple[int, int, int]
    spacing: tuple[float, float, float]
    extent: tuple[float, float, float]
    straight: bool
    usable: bool
    oblique: float
    low: float
    high: float
    p1: float
    middle: float
    p99: float
    finite: bool
    bytes: int

    @property
    def flat(self) -> bool:
        """Whether it is a single slice."""
        return self.shape[2] == 1


def facts_of(node: Any) -> ImageFacts | None:
    """The facts of a volume node, kept until it changes; None when it holds no voxels."""
    image = node.GetImageData()
    if image is None or min(image.GetDimensions()) < 1 or image.GetPointData().GetScalars() is None:
        return None
    key, when = f"{id(node.GetScene())} {node.GetID()}", changed(node)
    if key not in _kept or _kept[key][0] != when:
        if len(_kept) >= _KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = when, _look(node, image)
    return _kept[key][1]


def _look(node: Any, image: Any) -> ImageFacts:
    placement = placement_of(node)
    matrix = ijk_to_ras(node) if placement.matrix is None else placement.matrix @ ijk_to_ras(node)
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    usable = bool(np.isfinite(matrix).all() and lengths.min() > 0)
    usable = usable and abs(np.linalg.det(matrix[:3, :3] / lengths)) > 1e-3
    cosines = np.abs(matrix[:3, :3] / lengths) if usable else np.eye(3)
    order = max(itertools.permutations(range(3)), key=lambda axes: sum(cosines[row, axes[row]] for row in range(3)))
    nearest = min(cosines[row, order[row]] for row in range(3))
    shape = np.array(image.GetDimensions())
    array = slicer.util.arrayFromVolume(node)
    values, finite = _sample(array)
    p1, middle, p99 = (float(value) for value in np.percentile(values, (1, 50, 99))) if values.size else (0.0,) * 3
    return ImageFacts(
        shape=tuple(int(size) for size in shape),
        channels=int(image.GetNumberOfScalarComponents()),
        order=order,
        spacing=tuple(float(lengths[axis]) for axis in order),
        extent=tuple(float(lengths[axis] * shape[axis]) for axis in order),
        straight=placement.matrix is not None and usable and is_right_angled(matrix),
        usable=usable,
        oblique=float(np.degrees(np.arccos(min(1.0, nearest)))),
        low=float(values.min()) if values.size else 0.0,
        high=float(values.max()) if values.size else 0.0,
        p1=p1,
        middle=middle,
        p99=p99,
        finite=finite,
        bytes=int(array.nbytes),
    )


def _sample(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """Finite values from all over an image, and whether no other value was met."""
    flat = array.reshape(-1)
    sample = flat[:: _stride(flat.size)]
    if array.dtype.kind != "f":
        return sample, True
    seen = flat if flat.size <= _ALL_UP_TO else sample
    return sample[np.isfinite(sample)], bool(np.isfinite(seen).all())


def _stride(size: int) -> int:
    """A prime step, so that a sample does not walk along one column of the voxels."""
    step = max(1, size // _SAMPLES)
    while step > 2 and any(step % divisor == 0 for divisor in range(2, int(step**0.5) + 1)):
        step += 1
    return step


def exact_range(node: Any) -> tuple[float, float]:
    """Least and largest finite value of all voxels; takes longer than a moment for a large image."""
    array = slicer.util.arrayFromVolume(node)
    if array.dtype.kind == "f":
        array = array[np.isfinite(array)]
    return (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)


def modality_of(node: Any) -> str:
    """The DICOM modality a node came with (CT, MR, …), as Slicer keeps it beside it; empty when it says none."""
    said = node.GetAttribute("DICOM.Modality")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None and not said else 0
    return str(said or (hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else "") or "")
