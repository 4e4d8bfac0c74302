"""One volume with a drawn structure and landmarks as an example to learn from: what is asked of it, the voxel it is
looked at, and what of it stays in the model. All positions are RAS mm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from medgen.case import Case, Image, Mask, Points
from medgen.errors import UserError
from medgen.patches import Intensity, Vector, Volume, antialiased, barycentre, second_moments, working_grid

_OVERVIEW = 64  # most voxels along an axis of the whole reference at a glance

Finite = Annotated[float, Field(ge=-1e9, le=1e9)]
_Place = tuple[Finite, Finite, Finite]
_Row = tuple[Finite, Finite, Finite, Finite]


class ReferenceSettings(BaseModel):
    """What a bundle keeps of the reference as plain data (`Reference.settings`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    affine: tuple[_Row, _Row, _Row, _Row]
    overview_affine: tuple[_Row, _Row, _Row, _Row]
    fill: Finite
    names: tuple[str, ...] = Field(max_length=100_000)
    centre: _Place
    intensity_centre: _Place

    @field_validator("affine", "overview_affine")
    @classmethod
    def _spans_space(cls, rows: tuple[_Row, ...]) -> tuple[_Row, ...]:
        if abs(np.linalg.det(np.array(rows)[:3, :3])) < 1e-12 or list(rows[3]) != [0.0, 0.0, 0.0, 1.0]:
            raise ValueError("is no affine")
        return rows


@dataclass
class Reference:
    """The example at the model's voxel: patch around the structure, the structure in it, landmarks, and an overview.

    mask: (i, j, k) share of the structure in each voxel of the patch. overview: the whole volume, coarse: what the
    plain registrations start from. centre: of the structure, RAS mm; intensity_centre: of the whole volume.
    """

    patch: Volume
    mask: Tensor
    overview: Volume
    landmarks: Points
    centre: Vector
    intensity_centre: Vector

    def tensors(self) -> dict[str, Tensor]:
        """What the bundle keeps as tensors."""
        return {
            "image": self.patch.data,
            "mask": self.mask,
            "known": torch.ones_like(self.mask, dtype=torch.bool) if self.patch.known is None else self.patch.known,
            "overview": self.overview.data,
            "landmarks": torch.from_numpy(self.landmarks.positions),
        }

    def settings(self) -> dict[str, Any]:
        """What it keeps as plain data."""
        return {
            "affine": self.patch.affine.tolist(),
            "overview_affine": self.overview.affine.tolist(),
            "fill": self.patch.fill,
            "names": list(self.landmarks.names),
            "centre": self.centre.tolist(),
            "intensity_centre": self.intensity_centre.tolist(),
        }

    @classmethod
    def of(cls, name: str, tensors: dict[str, Tensor], plain: ReferenceSettings) -> Reference:
        """The reference in the bundle of that name; UserError where its tensors do not belong together."""
        if not _belong_together(tensors, len(plain.names)):
            raise UserError(f"Model “{name}” has a damaged reference; train or fetch it again.")
        known = None if bool(tensors["known"].all()) else tensors["known"]
        patch = Volume(tensors["image"].float(), np.array(plain.affine), plain.fill, known)
        overview = Volume(tensors["overview"].float(), np.array(plain.overview_affine), plain.fill)
        landmarks = Points(tensors["landmarks"].double().numpy(), list(plain.names))
        centre, intensity_centre = np.array(plain.centre), np.array(plain.intensity_centre)
        return cls(patch, tensors["mask"].float(), overview, landmarks, centre, intensity_centre)


def _belong_together(tensors: dict[str, Tensor], landmarks: int) -> bool:
    if not {"image", "mask", "known", "overview", "landmarks"} <= tensors.keys():
        return False
    image, overview = tensors["image"], tensors["overview"]
    volumes = image.ndim == 3 == overview.ndim and min(*image.shape, *overview.shape) > 0
    alike = image.shape == tensors["mask"].shape == tensors["known"].shape and tensors["known"].dtype == torch.bool
    finite = all(bool(torch.isfinite(value).all()) for value in tensors.values())
    return volumes and alike and finite and tuple(tensors["landmarks"].shape) == (landmarks, 3)


@dataclass
class Example:
    """A volume with its structure at the model's voxel; reach: pixels from the structure's centre that hold most of it
    (twice its radius of gyration)."""

    volume: Volume
    mask: Tensor
    centre: Vector
    reach: float = 0.0
    files: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case, voxel: float, intensity: Intensity | None = None) -> Example:
        """`image` and `mask` of a case, on the volume's own scale of intensities or a given one.

        UserError where the structure is thinner than a voxel.
        """
        image, mask = case.get("image", Image), case.get("mask", Mask)
        volume = Volume.of(image, voxel, intensity)
        inside = antialiased((mask.data > 0).float(), mask.spacing, voxel)
        share = working_grid(mask, voxel).from_source(inside[None])[0]
        if not bool((share >= 0.5).any()):
            raise UserError(
                f"The structure in “{mask.name or 'the mask'}” is thinner than a voxel of {voxel:.3g} mm; "
                "give a smaller “voxel”."
            )
        reach = 2 * math.sqrt(float(np.trace(second_moments(share, volume.affine)))) / volume.voxel
        return cls(volume, share, barycentre(share, volume.affine), reach, case.files)


def choose_voxel(reference: Case, patch: int) -> float:
    """mm: the reference's finest voxel, or as much coarser as it takes for the structure and the landmarks, turned in
    any way about the structure's centre, to fill no more than 90 % of a patch."""
    mask, landmarks = reference.get("mask", Mask), reference.get("landmarks", Points)
    inside = torch.nonzero(mask.data > 0).double().numpy()
    places = inside @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    centre = places.mean(axis=0)
    places = np.concatenate((places, landmarks.positions[landmarks.found]))
    radius = float(np.linalg.norm(places - centre, axis=1).max())
    return max(float(mask.spacing.min()), 2 * radius / (0.9 * patch))


def check(reference: Case, validation: Case, vicinity: float, log: Callable[[str], None]) -> Case:
    """The reference with its placed landmarks only; UserError for whatever a training would refuse.

    vicinity: mm, how far from the structure a landmark may lie.
    """
    for case, called in ((reference, "reference"), (validation, "validation case")):
        image, mask = case.get("image", Image), case.get("mask", Mask)
        check_image(image)
        if not bool((mask.data > 0).any()):
            raise UserError(f"The mask of the {called} is empty; draw the structure that the landmarks lie in first.")
    points, mask = reference.get("landmarks", Points), reference.get("mask", Mask)
    placed = points.found
    if not placed.any():
        raise UserError(f"“{points.name or 'landmarks'}” has no placed point; place the landmarks in the reference.")
    names = [name for name, there in zip(points.names, placed, strict=True) if there]
    if not placed.all():
        missing = [name for name, there in zip(points.names, placed, strict=True) if not there]
        log(f"Landmarks that are not placed are left out: {', '.join(missing)}.")
    positions = points.positions[placed]
    index = (positions - mask.affine[:3, 3]) @ np.linalg.inv(mask.affine[:3, :3]).T
    outside = ((index < -0.5) | (index > np.array(mask.shape) - 0.5)).any(axis=1)
    if outside.any():
        raise UserError(
            f"Landmark “{names[int(np.argmax(outside))]}” lies outside the reference volume; place it in that volume."
        )
    inside = torch.nonzero(mask.data > 0).double().numpy()
    far = np.array([np.linalg.norm((inside - place) * mask.spacing, axis=1).min() for place in index])
    if (far > vicinity).any():
        worst = int(np.argmax(far))
        raise UserError(
            f"Landmark “{names[worst]}” lies {far[worst]:.1f} mm from the structure in the mask; draw a structure that "
            f"the landmarks lie in or next to, or raise “vicinity” ({vicinity:g} mm)."
        )
    return Case({**reference.values, "landmarks": replace(points, positions=positions, names=names)}, reference.row)


def check_image(image: Image) -> None:
    """UserError for an image of several channels."""
    if image.data.shape[0] != 1:
        raise UserError(
            f"“{image.name or 'image'}” has {image.data.shape[0]} channels, but landmarks are found in images of one; "
            "choose or extract one channel."
        )


def make_reference(example: Example, landmarks: Points, side: int) -> Reference:
    """What is kept of the example: a patch of `side` voxels. UserError for a landmark that lies outside it."""
    patch = example.volume.crop(example.centre, side)
    mask = Volume(example.mask, example.volume.affine, 0.0).crop(example.centre, side)
    index = (landmarks.positions - patch.affine[:3, 3]) @ np.linalg.inv(patch.affine[:3, :3]).T
    beyond = ((index < 0) | (index > side - 1)).any(axis=1)
    if beyond.any():
        raise UserError(
            f"Landmark “{landmarks.names[int(np.argmax(beyond))]}” lies outside the patch of {side} voxels of "
            f"{patch.voxel:.3g} mm around the structure; raise “patch” or “voxel”."
        )
    factor = max(1, math.ceil(max(example.volume.data.shape) / _OVERVIEW))
    overview = example.volume.shrunk(factor)
    return Reference(patch, mask.data, overview, landmarks, example.centre, example.volume.centre_of_intensity())
