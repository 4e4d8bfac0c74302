"""How well boxes were found: average precision as the COCO challenge defines it, over frames and classes.

Detections of a class are taken in order of their scores over all frames. Each takes the true box of its frame and class
that it overlaps most of those still free, if by the threshold or more; it is then right, else wrong. Average precision
is the mean of the interpolated precision (the highest at this recall or a higher one) at 101 recalls from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
_RECALLS = np.linspace(0, 1, 101)


@dataclass
class Found:
    """One frame's boxes: (N, 4) x1, y1, x2, y2; classes (N,); scores (N,), None for true boxes."""

    boxes: Values
    classes: NDArray[np.int64]
    scores: Values | None = None


def overlaps(first: Values, second: Values) -> Values:
    """(N, 4), (M, 4) -> (N, M) intersection over union, 0 where both are empty."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    sizes = [np.prod(np.clip(one[:, 2:] - one[:, :2], 0, None), axis=1) for one in (first, second)]
    united = sizes[0][:, None] + sizes[1][None] - shared
    return np.divide(shared, united, out=np.zeros_like(shared), where=united > 0)


def average_precision(
    found: Sequence[Found], true: Sequence[Found], kind: int, threshold: float, most: int = 100
) -> float:
    """Of one class at one overlap; NaN where no frame shows the class. most: detections of it that count, a frame."""
    wanted = sum(int((one.classes == kind).sum()) for one in true)
    if not wanted:
        return float("nan")
    scores: list[Values] = []
    right: list[NDArray[np.bool_]] = []
    for detections, truth in zip(found, true, strict=True):
        assert detections.scores is not None
        own = np.flatnonzero(detections.classes == kind)
        best = own[np.argsort(-detections.scores[own], kind="stable")[:most]]
        scores.append(detections.scores[best])
        right.append(_taken(overlaps(detections.boxes[best], truth.boxes[truth.classes == kind]), threshold))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.concatenate(right)[order].cumsum()
    if not len(hits):
        return 0.0
    recall, precision = hits / wanted, hits / np.arange(1, len(hits) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, _RECALLS - 1e-12)].mean())


def _taken(overlap: Values, threshold: float) -> NDArray[np.bool_]:
    """(N, M), detections in order of their scores -> (N,) whether each takes a true box that is still free."""
    free = np.ones(overlap.shape[1], bool)
    result = np.zeros(len(overlap), bool)
    for row, values in enumerate(overlap):
        if not free.any():
            break
        nearest = int(np.where(free, values, -1.0).argmax())
        if values[nearest] >= threshold:
            result[row], free[nearest] = True, False
    return result


def mean_average_precision(
    found: Sequence[Found], true: Sequence[Found], thresholds: Sequence[float] = THRESHOLDS
) -> tuple[float, dict[int, float]]:
    """The mean over overlaps and classes that any frame shows (NaN where none does), and that of each class."""
    kinds = sorted({int(kind) for one in true for kind in one.classes})
    by_class = {
        kind: float(np.mean([average_precision(found, true, kind, threshold) for threshold in thresholds]))
        for kind in kinds
    }
    return (float(np.mean(list(by_class.values()))) if by_class else float("nan")), by_class


def measures(found: Sequence[Found], true: Sequence[Found]) -> dict[str, float]:
    """mAP 50:95 and mAP 50; of what has a score of 0.5 or more, precision and recall at an overlap of 0.5."""
    sure = [
        Found(one.boxes[one.scores >= 0.5], one.classes[one.scores >= 0.5], one.scores[one.scores >= 0.5])
        for one in found
        if one.scores is not None
    ]
    kinds = {int(kind) for one in (*true, *sure) for kind in one.classes}
    right = sum(
        int(_taken(overlaps(one.boxes[one.classes == kind], truth.boxes[truth.classes == kind]), 0.5).sum())
        for one, truth in zip(sure, true, strict=True)
        for kind in kinds
    )
    given, wanted = sum(len(one.boxes) for one in sure), sum(len(one.boxes) for one in true)
    result = {
        "mAP 50:95": mean_average_precision(found, true)[0],
        "mAP 50": mean_average_precision(found, true, (0.5,))[0],
        "precision": right / given if given else float("nan"),
        "recall": right / wanted if wanted else float("nan"),
    }
    return {name: value for name, value in result.items() if not np.isnan(value)}
