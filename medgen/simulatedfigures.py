"""Compound figures simulated of single images: rows of random heights or columns of random widths.

Source: Yao, Qu, Liu, Deng, Tian, Xu, Jha, Bao, Zhao, Fogo, Landman, Chang, Yang, Huo: Compound Figure Separation of
Biomedical Images with Side Loss (2021), section 3.2. The simulator was not published: its ranges are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from medgen.frames import Frame
from medgen.method import Config, lowers_memory, paper


class FigureConfig(Config):
    """Which figures are simulated."""

    intra_class: float = Field(
        0.2, ge=0, le=1, description="Share of the simulated figures whose images are all of one class",
        json_schema_extra=paper(0.2),
    )  # fmt: skip
    alone: float = Field(
        0.3, ge=0, le=1, description="Share of the simulated figures that hold one image", json_schema_extra=paper(0.3)
    )
    strips: int = Field(4, ge=1, le=12, description="Most rows or columns of a simulated figure")
    thinnest: float = Field(
        0.15, ge=0.02, le=1, description="Least height of a row (width of a column), as share of the figure's length"
    )
    thickest: float = Field(0.5, ge=0.02, le=1, description="Largest height of a row (width of a column)")
    gap: float = Field(0.02, ge=0, le=0.2, description="Most space between images, as share of the figure's length")
    size: int = Field(
        640, ge=32, le=4096, description="Figures are scaled to this long edge",
        json_schema_extra={**paper(640, "px"), **lowers_memory()},
    )  # fmt: skip

    @model_validator(mode="after")
    def _agree(self) -> FigureConfig:
        if self.intra_class + self.alone > 1:
            raise ValueError("“intra_class” and “alone” are shares of the same figures: together 1 at the most")
        if self.thinnest > self.thickest:
            raise ValueError("“thinnest” is more than “thickest”")
        return self


@dataclass
class Single:
    """A picture of one thing: pixels (3, rows, columns) uint8, and its class."""

    pixels: Tensor
    kind: int


def singles_of(frames: list[Frame]) -> list[Single]:
    """What lies in each box of the frames, but for boxes thinner than 2 px."""
    found = []
    for frame in frames:
        for (x1, y1, x2, y2), kind in zip(frame.boxes.round().int().tolist(), frame.classes.tolist(), strict=True):
            if min(x2 - x1, y2 - y1) >= 2:
                found.append(Single(frame.pixels[:, y1:y2, x1:x2].clone(), kind))
    return found


def simulated(singles: list[Single], config: FigureConfig, rng: np.random.Generator) -> Frame:
    """A figure of single images in rows or, as often, in columns (SimCFS-AUG)."""
    draw = rng.uniform()
    chosen = singles
    if draw < config.intra_class:
        kind = singles[int(rng.integers(len(singles)))].kind
        chosen = [one for one in singles if one.kind == kind]
    upright = bool(rng.uniform() < 0.5)
    if upright:  # columns are rows of what lies on its side
        chosen = [Single(one.pixels.transpose(1, 2), one.kind) for one in _some(chosen, 24, rng)]
    if config.intra_class <= draw < config.intra_class + config.alone:
        placed = _placed([[chosen[int(rng.integers(len(chosen)))]]], [config.size], config.size, 0, rng)
    else:
        count = int(rng.integers(1, config.strips + 1))
        thick = [max(2, int(config.size * rng.uniform(config.thinnest, config.thickest))) for _ in range(count)]
        gap = int(config.size * config.gap * rng.uniform()) if rng.uniform() < 0.7 else 0
        rows = [_row(chosen, height, config.size, gap, rng) for height in thick]
        placed = _placed(rows, thick, config.size, gap, rng)
    pixels, boxes, classes = placed
    if upright:
        pixels, boxes = pixels.transpose(1, 2), boxes[:, [1, 0, 3, 2]]
    return Frame(pixels.contiguous(), boxes, classes, labelled=True)


def _some(singles: list[Single], most: int, rng: np.random.Generator) -> list[Single]:
    if len(singles) <= most:
        return singles
    return [singles[int(number)] for number in rng.choice(len(singles), most, replace=False)]


def _row(singles: list[Single], height: int, length: int, gap: int, rng: np.random.Generator) -> list[Single]:
    """Images that stand side by side within a length once they are `height` high: one at the least."""
    row: list[Single] = []
    used = 0
    while True:
        one = singles[int(rng.integers(len(singles)))]
        width = _scaled_width(one, height)
        if row and used + width > length:
            return row
        row.append(one)
        used += width + gap


def _scaled_width(one: Single, height: int) -> int:
    return max(2, round(one.pixels.shape[2] * height / one.pixels.shape[1]))


def _placed(
    rows: list[list[Single]], heights: list[int], length: int, gap: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of images below each other on paper: pixels, boxes, classes. A row that is longer is made to fit."""
    margin = int(rng.integers(0, 1 + max(1, length // 40)))
    ground = 255 if rng.uniform() < 0.9 else int(rng.integers(0, 256))
    parts: list[tuple[int, int, Tensor, int]] = []
    top, right = margin, 0
    for row, height in zip(rows, heights, strict=True):
        whole = sum(_scaled_width(one, height) for one in row) + gap * (len(row) - 1)
        fitting = max(2, int(height * min(1.0, length / whole)))
        left = margin
        for one in row:
            size = (fitting, _scaled_width(one, fitting))
            parts.append((left, top, _resized(one.pixels, size), one.kind))
            left += size[1] + gap
        top, right = top + fitting + gap, max(right, left - gap)
    pixels = torch.full((3, top - gap + margin, right + margin), ground, dtype=torch.uint8)
    boxes = torch.empty(len(parts), 4)
    for number, (x, y, part, _) in enumerate(parts):
        pixels[:, y : y + part.shape[1], x : x + part.shape[2]] = part
        boxes[number] = torch.tensor([x, y, x + part.shape[2], y + part.shape[1]])
    return pixels, boxes, torch.tensor([kind for _, _, _, kind in parts])


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    smaller = size[0] < pixels.shape[1]
    made = F.interpolate(pixels[None].float(), size=size, mode="bilinear", align_corners=False, antialias=smaller)
    return made[0].round().to(torch.uint8)
