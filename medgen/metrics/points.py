"""How far found points lie from their references: distances by name, mirrored pairs taken for each other; and, for
points without names, which of them belong together."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medgen.case import Affine, Points

Values = NDArray[np.float64]

_AT_ONCE = 16_384  # candidate pairs looked at together

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


# --- points without names -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matched:
    """Which found points belong to which of the reference: `pairs` (n, 2), numbers in both; `apart` (n,), how far."""

    pairs: NDArray[np.int64]
    apart: Values
    found: int
    meant: int

    @property
    def hits(self) -> int:
        """True positives."""
        return len(self.pairs)

    @property
    def precision(self) -> float:
        """Share of the found points that are right; NaN where, wrongly, nothing was found, 1 where rightly so."""
        return self._share(self.found)

    @property
    def recall(self) -> float:
        """Share of the reference's points that were found (sensitivity); where it has none, 1 if none was found, else
        NaN."""
        return self._share(self.meant)

    @property
    def f1(self) -> float:
        """2 hits / (found + meant); 1 where there is nothing and nothing was found."""
        return 2 * self.hits / (self.found + self.meant) if self.found + self.meant else 1.0

    def _share(self, total: int) -> float:
        if total:
            return self.hits / total
        return math.nan if self.found + self.meant else 1.0


def matched(found: Values, meant: Values, radius: float) -> Matched:
    """Pair points (n, d) with those of the reference (m, d), each at most once: the closest pair first, then the
    closest of what is left, as long as they lie strictly less than `radius` apart.

    Of pairs that lie equally far apart, the one of the earlier found point comes first, then of the earlier reference.
    Positions that are not finite match nothing, but count. radius: above 0, in the positions' unit.
    """
    from scipy.spatial.distance import cdist

    if not radius > 0:
        raise ValueError(f"points match within a radius above 0, not {radius}")
    table = np.empty((len(found), len(meant))) if not (len(found) and len(meant)) else cdist(found, meant)
    numbers = np.flatnonzero(table.ravel() < radius)
    free, open_ = np.ones(len(found), bool), np.ones(len(meant), bool)
    pairs: list[tuple[int, int]] = []
    while len(numbers) and len(pairs) < min(len(found), len(meant)):
        apart = table.ravel()[numbers]
        limit = np.partition(apart, _AT_ONCE - 1)[_AT_ONCE - 1] if len(apart) > _AT_ONCE else np.inf
        closest = numbers[apart <= limit]  # all that tie with the last of them, too
        closest = closest[np.argsort(table.ravel()[closest], kind="stable")]
        for row, column in zip(*np.divmod(closest, len(meant)), strict=True):
            if free[row] and open_[column]:
                free[row] = open_[column] = False
                pairs.append((int(row), int(column)))
        numbers = numbers[apart > limit]
        numbers = numbers[free[numbers // len(meant)] & open_[numbers % len(meant)]]
    chosen = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Matched(chosen, table[chosen[:, 0], chosen[:, 1]], len(found), len(meant))
