"""Overlap of masks."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def dice(found: Tensor, reference: Tensor) -> float:
    """Dice coefficient of two boolean tensors of one shape; 1 when both are empty."""
    total = int(found.sum() + reference.sum())
    return 2 * int((found & reference).sum()) / total if total else 1.0


def mean_dice(found: Tensor, reference: Tensor, structures: list[int]) -> float:
    """Mean Dice coefficient of the structures, values of two label tensors of one shape."""
    return float(np.mean([dice(found == value, reference == value) for value in structures]))
