"""Which rows are learnt from, choose the best network, or are held out. numpy only: the panel splits cases, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

SPLITS = ("train", "validation", "test")


class Splittable(Protocol):
    """A row or case: whose it is, and its split ("" where none is given)."""

    subject: str
    split: str


def split_subjects(
    rows: Sequence[Splittable], seed: int, fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
) -> None:
    """Give every row without a split one of train, validation, test by seeded chance, whole subjects at a time.

    The counts are the fractions of the subjects without a split, rounded; a validation or test share above 0 gets at
    least one subject as soon as there are enough to leave one for training.
    """
    subjects = sorted({row.subject for row in rows if not row.split})
    np.random.default_rng(seed).shuffle(subjects)
    shares = [round(fraction * len(subjects)) for fraction in fractions[1:]]
    for index, fraction in enumerate(fractions[1:]):
        if fraction > 0 and shares[index] == 0 and len(subjects) > 1 + sum(shares):
            shares[index] = 1
    named = dict(zip(subjects, ["validation"] * shares[0] + ["test"] * shares[1], strict=False))
    for row in rows:
        row.split = row.split or named.get(row.subject, "train")
