"""The patches that a detector of small lesions learns from: duplicates of each lesion's, distorted by a lattice, and
guided negative ones on vessels and in tissue.

Source: Assis, Liao, Pierre, Anxionnat, Kerrien: An Efficient Data Strategy for the Detection of Brain Aneurysms from
MRA with Deep Learning (2021), section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field

from medgen.lattice import Lattice, displacement, draw_lattice
from medgen.lesions import MarkedVolume, spaced
from medgen.method import Config, lowers_memory
from medgen.patches import Vector

_VESSELS = 95.0  # percentile above which a voxel may be the centre of a patch on a vessel
_TISSUE = (20.0, 80.0)  # percentiles between which the other negative patches are centred
_DRAWN = 50_000  # voxels of a volume, from which the centres in tissue are taken


def paper_setting(value: Any, description: str, unit: str | None = None, **more: Any) -> Any:
    """A setting whose default is the paper's value. more: limits, and marks for `json_schema_extra`."""
    marks = {key: more.pop(key) for key in ("memory",) if key in more}
    extra = {"paper": value, **({"unit": unit} if unit else {}), **marks}
    return Field(value, description=description, json_schema_extra=extra, **more)


class PatchConfig(Config):
    """Which patches are made. Defaults are the paper's."""

    voxel: float = paper_setting(0.4, "Voxel worked at", "mm", ge=0.1, le=2)
    patch: int = paper_setting(48, "Side of a patch", "voxel", ge=16, le=128, multiple_of=8, **lowers_memory())
    duplicates: int = paper_setting(50, "Patches made of each aneurysm", ge=1, le=1000)
    distortion: float = paper_setting(
        4.0, "How far a lattice's knot moves along each axis; 0: no distortion", "mm", ge=0, le=20
    )
    vessel_patches: int = paper_setting(100, "Patches of a volume centred on its brightest voxels", ge=1, le=10_000)
    tissue_patches: int = paper_setting(
        100, "Patches of a volume centred between the 20th and 80th percentiles", ge=1, le=10_000
    )
    apart: float = paper_setting(20.0, "Least distance of a negative patch's centre from any other", "mm", ge=0, le=200)
    rotation: float = paper_setting(180.0, "Largest turn about each axis", "degree", ge=0, le=180)
    shift: float = paper_setting(10.0, "Largest shift along each axis", "mm", ge=0, le=50)


@dataclass(frozen=True)
class Patch:
    """A patch to learn from: which volume, its middle (3,) RAS mm, its distortion."""

    volume: int
    centre: Vector
    lattice: Lattice | None = None


def choose_patches(
    angiogram: MarkedVolume, number: int, config: PatchConfig, generator: np.random.Generator
) -> list[Patch]:
    """The patches of volume `number` (section 2.3): duplicates of each aneurysm's, then those on vessels, in tissue."""
    centres = [sphere.centre for sphere in angiogram.lesions]
    chosen = [
        Patch(number, centre, draw_lattice(config.distortion, generator) if config.distortion else None)
        for centre in centres
        for _ in range(config.duplicates)
    ]
    low, high, bright = angiogram.percentiles(*_TISSUE, _VESSELS)
    values = angiogram.data.flatten()
    vessels = torch.nonzero(values >= bright)[:, 0]
    vessels = vessels[torch.argsort(values[vessels].float(), descending=True, stable=True)]
    drawn = torch.from_numpy(generator.integers(0, len(values), _DRAWN))
    tissue = drawn[(values[drawn] >= low) & (values[drawn] <= high)]
    for voxels, count in ((vessels, config.vessel_patches), (tissue, config.tissue_patches)):
        index = np.stack(np.unravel_index(voxels.numpy(), tuple(angiogram.data.shape)), axis=1)
        places = index @ angiogram.affine[:3, :3].T + angiogram.affine[:3, 3]
        found = spaced(places, count, config.apart, centres)
        chosen += [Patch(number, place) for place in found]
        centres += found
    return chosen


def places_in(patch: Patch, config: PatchConfig, turn: Vector | None = None, shift: Vector | None = None) -> Vector:
    """(side, side, side, 3) RAS mm of a patch's voxels: distorted, then turned (3, 3) and shifted (3,) mm."""
    line = (np.arange(config.patch) - (config.patch - 1) / 2) * config.voxel
    offsets = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)
    if patch.lattice is not None:
        offsets += displacement(patch.lattice, config.patch)
    offsets = offsets if turn is None else offsets @ turn.T
    return offsets + patch.centre + (0.0 if shift is None else shift)
