"""Radiographs brought to squares of one size, their landmarks with them, and both changed at random.

In a square, a place is a share of its two sides (u, v), 0 at the outer edge of the first pixel and 1 at that of the
last, along the file's own two axes. An image keeps its proportions (in mm); what it leaves of the square is as its
darkest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medgen.case import Affine, Case, Image, Points
from medgen.errors import UserError

Values = NDArray[np.float64]


@dataclass
class Framed:
    """An image in its square: data (1, size, size), half precision, mean 0 and deviation 1 before it was filled up.

    scale: (2,) sides that a pixel of the image is long; shape and affine are the image's.
    """

    data: Tensor
    scale: Values
    shape: tuple[int, ...]
    affine: Affine

    @property
    def width(self) -> float:
        """Of the image, along its first axis, mm."""
        return float(self.shape[0] * np.linalg.norm(self.affine[:3, 0]))

    def positions(self, places: Tensor) -> Values:
        """(n, 2) places -> (n, 3) RAS mm."""
        index = places.double().numpy() / self.scale - 0.5
        return np.asarray(index @ self.affine[:3, :2].T + self.affine[:3, 3])

    def places(self, positions: Values) -> Tensor:
        """(n, 3) RAS mm -> (n, 2) places; how far they lie before or behind the image does not count."""
        index = (positions - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T
        return torch.from_numpy((index[:, :2] + 0.5) * self.scale).float()

    def millimetres(self, differences: Tensor) -> Tensor:
        """(..., 2) differences of places in mm along the two axes."""
        return differences.double() * torch.from_numpy(np.linalg.norm(self.affine[:3, :2], axis=0) / self.scale)

    def inside(self, places: Tensor) -> NDArray[np.bool_]:
        """(n,) whether places (n, 2) lie within the image."""
        ends = torch.from_numpy(np.array(self.shape) * self.scale)
        return ((places >= 0) & (places <= ends)).all(dim=-1).numpy()


def frame(image: Image, size: int) -> Framed:
    """An image (C, i, j) in a square of size pixels: channels averaged, longer side (mm) filled, smoothed where it
    shrinks, cut at 0.5 and 99.5 percent."""
    grey = image.data.float().mean(dim=0)
    low, high = np.percentile(grey.numpy(), (0.5, 99.5))
    if high > low:
        grey = grey.clamp(float(low), float(high))
    grey = (grey - grey.mean()) / grey.std().clamp_min(1e-12)
    sides = np.array(image.shape) * image.spacing
    shape = np.maximum(1, np.rint(size * sides / sides.max())).astype(int)
    fitted = F.interpolate(grey[None, None], tuple(shape.tolist()), mode="bilinear", antialias=True)[0]
    padding = (0, size - int(shape[1]), 0, size - int(shape[0]))
    data = F.pad(fitted, padding, value=float(grey.min()))
    return Framed(data.half(), shape / np.array(image.shape) / size, image.shape, image.affine)


def in_order(case: Case, names: list[str], framed: Framed) -> Tensor:
    """(N, 2) places of a case's landmarks in the order of `names`.

    Raises UserError, naming the landmark, where one is missing, not placed, there twice, or outside the image.
    """
    points, image = case.get("landmarks", Points), case.get("image", Image)
    whose = f"“{points.name or 'landmarks'}” ({case.label or image.name or 'a case'})"
    if twice := next((name for name in points.names if points.names.count(name) > 1), None):
        raise UserError(f"{whose} has several landmarks called “{twice}”; give each a name of its own.")
    placed = {name: row for row, name in enumerate(points.names) if points.found[row]}
    if missing := [name for name in names if name not in placed]:
        raise UserError(
            f"{whose} has no placed landmark “{missing[0]}”, which others have; place it, or leave the case unlabelled."
        )
    if extra := [name for name in points.names if name not in names]:
        raise UserError(f"{whose} has a landmark “{extra[0]}”, which others have not; mark the same points in all.")
    places = framed.places(points.positions[[placed[name] for name in names]])
    outside = np.flatnonzero(~framed.inside(places))
    if len(outside):
        raise UserError(
            f"Landmark “{names[outside[0]]}” of {whose} lies outside the image “{image.name}”; place it in that image."
        )
    return places


@dataclass
class Pools:
    """What is learnt from: framed images (n, 1, size, size) and, of those that are marked, places (n, N, 2)."""

    names: list[str]
    marked: Tensor
    points: Tensor
    unmarked: Tensor
    shown: Tensor  # to validate with
    shown_points: Tensor


def gather(cases: list[Case], size: int) -> Pools:
    """Cases (`image` and, where marked, `landmarks`) framed to the size, sorted into marked, unmarked and those that
    validate: the marked ones whose row says so. A row that is not labelled is not marked, whatever it has.

    Landmarks stand in the order of the first marked case. Raises UserError where there is no marked case to train on,
    and what `in_order` raises.
    """
    marked = [case for case in cases if _is_marked(case)]
    learnt = [case for case in marked if case.row.get("split") != "validation"]
    if not learnt:
        raise UserError(
            "No image that is trained on has landmarks; mark some, and give their files in the column “landmarks”."
        )
    names = list(learnt[0].get("landmarks", Points).names)
    if not names:
        raise UserError(
            f"The landmarks of {learnt[0].label or 'the first marked image'} are an empty list; place some."
        )
    shown = [case for case in marked if case.row.get("split") == "validation"]
    rest = [case for case in cases if not _is_marked(case) and case.row.get("split") != "validation"]

    def framed(some: list[Case]) -> tuple[Tensor, Tensor]:
        images = torch.empty(len(some), 1, size, size, dtype=torch.float16)
        places = torch.empty(len(some), len(names), 2)
        for number, case in enumerate(some):
            one = frame(case.get("image", Image), size)
            images[number] = one.data
            if _is_marked(case):
                places[number] = in_order(case, names, one)
        return images, places

    (images, points), (unmarked, _), (validation, validation_points) = framed(learnt), framed(rest), framed(shown)
    return Pools(names, images, points, unmarked, validation, validation_points)


def _is_marked(case: Case) -> bool:
    return "landmarks" in case and case.row.get("labelled") != "no"


# --- random changes


@dataclass(frozen=True)
class Change:
    """A turn (radians) and change of size about the square's middle, then a shift (sides); contrast and brightness."""

    angle: float = 0.0
    size: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    gain: float = 1.0
    bias: float = 0.0

    @property
    def matrix(self) -> Tensor:
        """(2, 2): turn and size."""
        cosine, sine = self.size * math.cos(self.angle), self.size * math.sin(self.angle)
        return torch.tensor([[cosine, -sine], [sine, cosine]])

    def moved(self, places: Tensor) -> Tensor:
        """Places (n, 2) -> where they lie afterwards."""
        return (places - 0.5) @ self.matrix.T + 0.5 + torch.tensor(self.shift)

    def undone(self, places: Tensor) -> Tensor:
        """Places (n, 2) of the changed image -> of the image as it was."""
        return (places - 0.5 - torch.tensor(self.shift)) @ torch.linalg.inv(self.matrix).T + 0.5


def random_change(
    rotation: float, scale: float, translation: float, contrast: float, generator: np.random.Generator
) -> Change:
    """Uniform up to so many degrees, shares of the size, sides, and shares of the contrast (and of a deviation)."""
    turn, size, down, across, gain, bias = generator.uniform(-1, 1, 6).tolist()
    return Change(
        math.radians(rotation * turn),
        1 + scale * size,
        (translation * down, translation * across),
        1 + contrast * gain,
        contrast * bias,
    )


def changed(data: Tensor, places: Tensor, change: Change) -> tuple[Tensor, Tensor]:
    """A framed image (1, size, size) and places (n, 2), changed alike; beyond the edge the edge goes on."""
    back = torch.linalg.inv(change.matrix)
    shift = -back @ (2 * torch.tensor(change.shift))
    theta = torch.cat((back.flip(0, 1), shift.flip(0)[:, None]), dim=1)  # grids have the last axis first
    grid = F.affine_grid(theta[None], [1, 1, *data.shape[1:]], align_corners=False)
    seen = F.grid_sample(data.float()[None], grid, padding_mode="border", align_corners=False)[0]
    return seen * change.gain + change.bias, change.moved(places)
