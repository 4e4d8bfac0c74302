"""Small pictures to find landmarks in: a bright wedge on a dark plate, its three corners marked."""

from __future__ import annotations

import numpy as np
import torch

from medgen.case import Case, Image, Points

NAMES = ["top", "left", "right"]


def picture(seed: int, marked: bool = True, split: str = "train", spacing: tuple[float, float] = (1.0, 1.0)) -> Case:
    """48 x 40 pixels; corners in RAS mm as a file's affine gives them."""
    rng = np.random.default_rng(seed)
    corners = np.array([[24.0, 10], [12, 30], [36, 30]]) + rng.normal(0, 1.5, (3, 2)) + rng.uniform(-8, 8, 2)
    i, j = np.meshgrid(np.arange(48), np.arange(40), indexing="ij")
    inside = np.ones((48, 40), bool)
    for begin, end in ((0, 2), (2, 1), (1, 0)):
        side = corners[end] - corners[begin]
        inside &= side[0] * (j - corners[begin][1]) - side[1] * (i - corners[begin][0]) >= 0
    values = 20 + 60 * inside + rng.normal(0, 3, inside.shape)
    affine = np.diag([-spacing[0], -spacing[1], 1.0, 1.0])
    affine[:2, 3] = 5, -7
    image = Image(torch.from_numpy(values).float()[None], affine, f"picture {seed}")
    case = Case({"image": image}, {"split": split, "labelled": "yes" if marked else "no"}, f"case {seed}")
    if marked:
        index = np.column_stack([corners, np.zeros(3), np.ones(3)])
        case.values["landmarks"] = Points((index @ affine.T)[:, :3], list(NAMES), name="corners")
    return case
