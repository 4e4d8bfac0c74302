"""Lesions found in volumes, counted as the ADAM challenge counts them, and the free-response curve (FROC).

ADAM, task 1 (adam.isi.uu.nl): a reference lesion is a true positive when it contains the centre of gravity of something
found, else a false negative; what is found is a false positive when its centre lies in no reference lesion. Several
findings in one lesion count once and are no false positives.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medgen.case import Sphere

Values = NDArray[np.float64]
Inside = NDArray[np.bool_]  # (found, lesions): whether each found centre lies in each reference lesion


@dataclass(frozen=True)
class Counts:
    """One case: true positives and false negatives are counted in reference lesions, false positives in findings."""

    tp: int
    fp: int
    fn: int

    @property
    def sensitivity(self) -> float:
        """Share of the case's lesions that were found; NaN where it has none."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else float("nan")


def inside_spheres(centres: Values, lesions: Sequence[Sphere]) -> Inside:
    """(n, m) whether centres (n, 3), RAS mm, lie in spheres, their surface included."""
    middles = np.array([lesion.centre for lesion in lesions], dtype=np.float64).reshape(-1, 3)
    radii = np.array([lesion.radius for lesion in lesions], dtype=np.float64)
    apart = np.linalg.norm(np.asarray(centres, np.float64).reshape(-1, 1, 3) - middles, axis=2)
    return np.asarray(apart <= radii)


def adam_counts(inside: Inside) -> Counts:
    """The challenge's counts of one case, from which found centre lies in which lesion."""
    hit = inside.any(axis=0)
    return Counts(int(hit.sum()), int((~inside.any(axis=1)).sum()), int((~hit).sum()))


def over_cases(counts: Sequence[Counts]) -> tuple[float, float]:
    """The challenge's two figures: mean sensitivity over the cases that have lesions, false positives a case.

    The first is NaN where no case has any. Raises ValueError for no case.
    """
    if not counts:
        raise ValueError("there is no case to count in")
    shares = [one.sensitivity for one in counts if one.tp + one.fn]
    sensitivity = float(np.mean(shares)) if shares else float("nan")
    return sensitivity, float(np.mean([one.fp for one in counts]))


@dataclass(frozen=True)
class Froc:
    """Operating points, from the strictest threshold on; each (n,). `fp` is a case's mean, `sensitivity` as ADAM's."""

    thresholds: Values
    sensitivity: Values
    fp: Values

    def sensitivity_at(self, fp: float) -> float:
        """The best sensitivity at no more than so many false positives a case; 0 where no threshold gives so few."""
        reached = self.sensitivity[self.fp <= fp]
        return float(reached.max()) if len(reached) else 0.0

    def area(self, most: float = 1.0) -> float:
        """Mean of `sensitivity_at` over 0 … `most` false positives a case, in 0..1. Raises ValueError for most <= 0."""
        if most <= 0:
            raise ValueError(f"the area needs false positives above 0, not {most}")
        ends = np.unique(np.clip(np.concatenate(([0.0], self.fp, [most])), 0.0, most))
        steps = [self.sensitivity_at(start) * (stop - start) for start, stop in itertools.pairwise(ends)]
        return float(np.sum(steps) / most)

    def nearest_corner(self) -> int:
        """Number of the point nearest to sensitivity 1 at no false positive, the curve's upper left corner."""
        return int(np.argmin(np.hypot(self.fp, 1.0 - self.sensitivity)))


def froc(cases: Sequence[tuple[Values, Inside]]) -> Froc:
    """The curve of cases given as the confidence (n,) of each finding and where it lies (n, m): at each threshold that
    some finding has, all findings at or above it count. Without any finding, one point: none found at an endless
    threshold. Raises ValueError for no case.
    """
    every: list[Values] = [np.asarray(confidence, np.float64) for confidence, _ in cases]
    thresholds = np.unique(np.concatenate(every)) if every else np.zeros(0)
    return froc_at(
        np.concatenate(([np.inf], thresholds[::-1])),
        [
            [adam_counts(inside[np.asarray(confidence) >= threshold]) for confidence, inside in cases]
            for threshold in (np.inf, *thresholds[::-1])
        ],
    )


def froc_at(thresholds: Sequence[float] | Values, counts: Sequence[Sequence[Counts]]) -> Froc:
    """The curve from each case's counts at each of some thresholds, where the findings themselves change with it (the
    connected components of a thresholded map), in the order given."""
    points = [over_cases(one) for one in counts]
    sensitivity, fp = (np.array([point[axis] for point in points]) for axis in (0, 1))
    return Froc(np.asarray(thresholds, dtype=np.float64), sensitivity, fp)
