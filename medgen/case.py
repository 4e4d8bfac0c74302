"""What goes into an operation and comes out of it. All positions are RAS millimetres (pixels for plain pictures).

Images carry their affine beside the tensor rather than as a MONAI MetaTensor: importing MONAI costs 4-5 s in every
run, and an affine that only changes where a line of code changes it is easier to check. `Image.as_metatensor()`
gives the MONAI form to whoever needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgen.errors import UserError

Affine = NDArray[np.float64]


@dataclass
class Image:
    """An image. data: (C, i, j[, k]) tensor in the file's own axis order; affine: 4x4 voxel index -> RAS mm."""

    data: Tensor
    affine: Affine
    name: str = ""
    units: str | None = None
    colour: bool = False  # channels are red, green, blue

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the spatial axes."""
        return tuple(self.data.shape[1:])

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel size along each spatial axis, mm."""
        return np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0)

    def as_metatensor(self) -> Any:
        """The same as a monai.data.MetaTensor (imports monai)."""
        from monai.data import MetaTensor

        return MetaTensor(self.data, affine=torch.as_tensor(self.affine))


@dataclass
class Segment:
    """One structure of a mask: its label value, name, colour (red, green, blue in 0..1) and terminology entry."""

    value: int
    name: str
    colour: tuple[float, float, float] = (0.9, 0.7, 0.2)
    terminology: str | None = None


@dataclass
class Mask:
    """Integer labels (i, j[, k]), 0 = background, on a grid given by a 4x4 affine to RAS mm.

    `annotated` (same shape, bool) says which voxels somebody has looked at; None means all of them.
    """

    data: Tensor
    affine: Affine
    segments: list[Segment] = field(default_factory=list)
    name: str = ""
    annotated: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the spatial axes."""
        return tuple(self.data.shape)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel size along each spatial axis, mm."""
        return np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0)


def unite_segments(masks: list[Mask]) -> list[Segment]:
    """The segments of several masks, each name once, with values that differ: as the first mask that has them numbers
    them where that is free. Label maps without names (every segment is `label_VALUE`) are united by value."""
    united: list[Segment] = []
    for mask in masks:
        for segment in mask.segments:
            if any(_same_segment(segment, other) for other in united):
                continue
            taken = {other.value for other in united}
            united.append(replace(segment, value=segment.value if segment.value not in taken else max(taken) + 1))
    return united


def renumber(mask: Mask, segments: list[Segment]) -> tuple[Mask, list[str]]:
    """The mask with the values that `segments` gives to its names, and the names that `segments` does not know (their
    voxels become background). A segment without a name of its own is matched by its value."""
    if not mask.segments or not segments:  # made in memory, without a word on what its values mean
        return mask, []
    data = torch.zeros_like(mask.data)
    unknown: list[str] = []
    for segment in mask.segments:
        match = next((other for other in segments if _same_segment(segment, other)), None)
        if match is None:
            unknown.append(segment.name)
        else:
            data[mask.data == segment.value] = match.value
    return replace(mask, data=data, segments=segments), unknown


def _same_segment(one: Segment, other: Segment) -> bool:
    """By name; by value where either has no name of its own."""
    nameless = any(segment.name == f"label_{segment.value}" for segment in (one, other))
    return one.value == other.value if nameless else one.name == other.name


@dataclass
class Points:
    """N positions (N, 3) RAS mm; a point that was not found has a NaN position. confidence: (N,) in 0..1 or None."""

    positions: NDArray[np.float64]
    names: list[str]
    confidence: NDArray[np.float64] | None = None
    name: str = ""

    @property
    def found(self) -> NDArray[np.bool_]:
        """(N,) whether each point has a position."""
        return np.asarray(np.isfinite(self.positions).all(axis=1))


@dataclass
class Line(Points):
    """Two points."""


@dataclass
class Curve(Points):
    """Points in order along an open or closed curve."""

    closed: bool = False


@dataclass
class Plane:
    """A plane: origin (3,) and axes (3, 3) whose columns are two in-plane directions and the normal, RAS mm."""

    origin: NDArray[np.float64]
    axes: NDArray[np.float64]
    name: str = ""


@dataclass
class Box:
    """A box: centre (3,), axes (3, 3) as columns, size (3,), RAS mm; class and confidence where there are any."""

    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    size: NDArray[np.float64]
    name: str = ""
    confidence: float | None = None


@dataclass
class Sphere:
    """A sphere: centre (3,) and radius, RAS mm."""

    centre: NDArray[np.float64]
    radius: float
    name: str = ""


@dataclass
class Matrix:
    """A square array (n, n) with a name for each row."""

    values: NDArray[np.float64]
    regions: list[str]
    name: str = ""


@dataclass
class Class:
    """A category."""

    label: str


@dataclass
class Table:
    """Named columns of equal length."""

    columns: dict[str, list[Any]]
    name: str = ""


@dataclass
class Plot:
    """One figure: x against one or more named series."""

    x: list[float]
    series: dict[str, list[float]]
    x_label: str = ""
    y_label: str = ""
    name: str = ""


@dataclass
class Latent:
    """Named tensors from which a method can make an image again."""

    tensors: dict[str, Tensor]
    name: str = ""


@dataclass
class Cohort:
    """Cases that leave as files and a cohort.csv; each row's reserved columns (subject, split, …) stand beside it."""

    cases: list[Case]
    columns: list[dict[str, str]] = field(default_factory=list)
    name: str = ""


T = TypeVar("T")


@dataclass
class Case:
    """What an operation takes or gives: values (or lists of values) by role name, and the row it came from."""

    values: dict[str, Any] = field(default_factory=dict)
    row: dict[str, str] = field(default_factory=dict)
    label: str = ""  # how messages call this case
    files: dict[str, list[str]] = field(default_factory=dict)  # where its values were read from
    facts: dict[str, Any] = field(default_factory=dict)  # what a method says of its result, for its provenance

    def __getitem__(self, role: str) -> Any:
        return self.values[role]

    def __contains__(self, role: str) -> bool:
        return self.values.get(role) is not None

    def get(self, role: str, kind: type[T]) -> T:
        """The value of a role; UserError when it is missing or of another kind."""
        value = self.values.get(role)
        if not isinstance(value, kind):
            raise UserError(
                f"Role “{role}” of {self.label or 'the case'} is missing; give it a {kind.__name__.lower()}."
            )
        return value

    def many(self, role: str) -> list[Any]:
        """The values of a role that takes many, or none."""
        value = self.values.get(role)
        return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]

    def voxels(self) -> int:
        """Voxels of the largest image or mask in the case."""
        sizes = [int(np.prod(v.shape)) for r in self.values for v in self.many(r) if isinstance(v, (Image, Mask))]
        return max(sizes, default=0)
