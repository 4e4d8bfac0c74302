"""Overlap and agreement of masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


def dice(found: Tensor, reference: Tensor) -> float:
    """Dice coefficient of two boolean tensors of one shape; 1 when both are empty."""
    total = int(found.sum() + reference.sum())
    return 2 * int((found & reference).sum()) / total if total else 1.0


def mean_dice(found: Tensor, reference: Tensor, structures: list[int]) -> float:
    """Mean Dice coefficient of the structures, values of two label tensors of one shape."""
    return float(np.mean([dice(found == value, reference == value) for value in structures]))


@dataclass(frozen=True)
class Confusion:
    """Voxels, patches or cases by what they are and what they were taken for. Those of several sets add up."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @classmethod
    def of(cls, found: Tensor, reference: Tensor) -> Confusion:
        """Of two boolean tensors of one shape."""
        tp, taken, true = int((found & reference).sum()), int(found.sum()), int(reference.sum())
        return cls(tp, taken - tp, true - tp, found.numel() - taken - true + tp)

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 where nothing is there and nothing was found."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 1.0

    @property
    def kappa(self) -> float:
        """Cohen's kappa (1960): how far both agree beyond chance, 1 for all, 0 for no more than chance, below for less;
        1 where both see one and the same class alone, which leaves chance nothing to explain."""
        expected = (self.tp + self.fp) * (self.fp + self.tn) + (self.tp + self.fn) * (self.fn + self.tn)
        return 2 * (self.tp * self.tn - self.fp * self.fn) / expected if expected else 1.0
