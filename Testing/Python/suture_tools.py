"""Small frames with bright dots as sutures, as cases and in memory, for the tests of both suture methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from medgen.case import Case, Image, Points
from medgen.pointframes import PointFrame, frames_of

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # of a PNG: pixels as LPS mm


def points_at(pixels: Any, affine: np.ndarray = AFFINE) -> Points:
    """Points at (x, y) pixels of a picture."""
    places = np.array(pixels, float).reshape(-1, 2)
    index = np.column_stack([places, np.zeros(len(places)), np.ones(len(places))])
    return Points((index @ affine.T)[:, :3], [f"p{n}" for n in range(len(places))], name="points")


def case(seed: int, count: int = 4, split: str = "train", marked: bool = True, look: float = 0.0) -> Case:
    """64 x 36 pixels, dark with bright dots of 2 pixels that lie 10 or more apart; look: how much redder."""
    rng = np.random.default_rng(seed)
    places: list[np.ndarray] = []
    while len(places) < count:
        place = rng.uniform((4, 4), (60, 32))
        if all(np.hypot(*(place - other)) >= 10 for other in places):
            places.append(place)
    x, y = np.meshgrid(np.arange(64), np.arange(36), indexing="ij")
    values = rng.normal(40, 6, (3, 64, 36))
    values[0] += look
    for place in places:
        values += 180 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * 1.5**2))
    image = Image(torch.from_numpy(values.clip(0, 255)).float(), AFFINE, f"frame {seed}")
    found = Case({"image": image}, {"split": split} | ({} if marked else {"labelled": "no"}), f"case {seed}")
    if marked:
        found.values["points"] = points_at(places)
    return found


def pool(numbers: range, size: tuple[int, int] = (64, 64), **options: Any) -> list[PointFrame]:
    """Such frames in memory."""
    return frames_of([case(seed, **options) for seed in numbers], size, lambda message: None)
