"""How far found points lie from their references: distances by name, mirrored pairs taken for each other."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from medgen.case import Affine, Points

Values = NDArray[np.float64]

_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
_SIDE = re.compile(r"(?<![a-z])(left|right|l|r)(?![a-z])", re.IGNORECASE)


def paired(found: Points, reference: Points) -> tuple[Values, Values, list[str]]:
    """Positions (n, 3) found and meant, and the names, of the reference's placed points in its order.

    Points are matched by name; where a name stands twice in either, all are matched by order, and there must be equally
    many. A point that was not found, or is not there, has NaN. ValueError where nothing can be matched.
    """
    placed = reference.found
    unique = len(set(found.names)) == len(found.names) and len(set(reference.names)) == len(reference.names)
    if unique:
        where = dict(zip(found.names, found.positions, strict=True))
        if not set(where) & set(reference.names):
            raise ValueError("none of the points has a name of the reference")
        rows = [where.get(name, np.full(3, np.nan)) for name in reference.names]
        mine = np.array(rows).reshape(-1, 3)
    elif len(found.names) == len(reference.names):
        mine = found.positions
    else:
        raise ValueError("names stand twice, and there are not equally many points: they cannot be matched")
    names = [name for name, there in zip(reference.names, placed, strict=True) if there]
    return mine[placed], reference.positions[placed], names


def distances(found: Points, reference: Points) -> tuple[Values, list[str]]:
    """(n,) mm from each placed point of the reference to the found one of its name, NaN where that was not found."""
    mine, theirs, names = paired(found, reference)
    return np.linalg.norm(mine - theirs, axis=1), names


def mirrored_pairs(names: list[str]) -> list[tuple[int, int]]:
    """Numbers of the points whose names differ in their side alone: “left horn” and “right horn”, “horn_L”, “horn_R”.

    The side is the word left, right, l or r, in any case, that stands alone in a name.
    """
    numbers = {name.lower(): number for number, name in reversed(list(enumerate(names)))}
    pairs = []
    for number, name in enumerate(names):
        other = _SIDE.sub(lambda match: _SIDES[match.group(1).lower()], name.lower())
        if other in numbers and numbers[other] > number:
            pairs.append((number, numbers[other]))
    return pairs


def swapped_pairs(found: Points, reference: Points) -> tuple[int, int]:
    """How many mirrored pairs were found the wrong way round, of how many that were found at all.

    A pair is swapped when each of its two found points lies nearer to the reference of its mirrored partner than to its
    own.
    """
    mine, theirs, names = paired(found, reference)
    swapped = counted = 0
    for one, other in mirrored_pairs(names):
        if not np.isfinite(mine[[one, other]]).all():
            continue
        counted += 1
        own = np.linalg.norm(mine[[one, other]] - theirs[[one, other]], axis=1)
        partner = np.linalg.norm(mine[[one, other]] - theirs[[other, one]], axis=1)
        swapped += bool((partner < own).all())
    return swapped, counted


def measures(found: Points, meant: Points, affine: Affine | None = None) -> dict[str, float]:
    """Distances in mm and, with the affine of a grid, in its voxels: mean, median, and each point's; how many were not
    found; how many mirrored pairs were swapped, where there are any. ValueError where nothing can be matched."""
    mine, theirs, names = paired(found, meant)
    apart = np.linalg.norm(mine - theirs, axis=1)
    result = {"not found": float(np.isnan(apart).sum())}
    if np.isfinite(apart).any():
        result |= {"mean mm": float(np.nanmean(apart)), "median mm": float(np.nanmedian(apart))}
        if affine is not None:
            voxels = np.linalg.norm((mine - theirs) @ np.linalg.inv(affine[:3, :3]).T, axis=1)
            result |= {"mean voxels": float(np.nanmean(voxels)), "median voxels": float(np.nanmedian(voxels))}
    result |= {f"mm {name}": float(mm) for name, mm in zip(names, apart, strict=True) if np.isfinite(mm)}
    swapped, pairs = swapped_pairs(found, meant)
    return {**result, "swapped pairs": float(swapped)} if pairs else result
