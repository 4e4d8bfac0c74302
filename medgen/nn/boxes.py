"""Operations on boxes that detectors share: overlap, coding, assignment, sampling, suppression, anchors, RoIAlign.

A box is (x1, y1, x2, y2) in pixels of a frame whose left upper corner is (0, 0): pixel (column i, row j) covers i..i+1
and j..j+1. All of it is plain torch: torchvision cannot be relied on here, and MONAI, against whose box operations the
tests hold these, takes seconds to import and compares box by box where thousands are to be suppressed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_STEP = math.log(1000 / 16)  # the logarithm of the most that a coded box may grow: exp() must stay finite
BACKGROUND, IGNORED = -1, -2


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...), 0 for a box turned inside out."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """(N, 4), (M, 4) -> (N, M) intersection over union, 0 where both are empty."""
    width = torch.minimum(first[:, None, 2], second[None, :, 2]) - torch.maximum(first[:, None, 0], second[None, :, 0])
    height = torch.minimum(first[:, None, 3], second[None, :, 3]) - torch.maximum(first[:, None, 1], second[None, :, 1])
    shared = width.clamp_(min=0) * height.clamp_(min=0)
    united = area(first)[:, None] + area(second)[None] - shared
    return shared / united.clamp_(min=torch.finfo(united.dtype).tiny)


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) cut to a frame of `size` (rows, columns)."""
    rows, columns = size
    limits = torch.tensor([columns, rows, columns, rows], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limits)


# --- coding (Faster R-CNN, section 3.1.2)


def encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """(N, 4) boxes against (N, 4) anchors -> (N, 4): shifts of the centre in anchor sizes, logarithms of the growth,
    each times its weight (of x, y, width, height)."""
    size, own = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2 / own
    return torch.cat((shift, torch.log(size / own)), dim=1) * boxes.new_tensor(weights)


def decode(codes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The inverse of `encode`; growth is limited to exp(`LARGEST_STEP`)."""
    codes = codes / codes.new_tensor(weights)
    own = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + codes[:, :2] * own
    half = own * codes[:, 2:].clamp(max=LARGEST_STEP).exp() / 2
    return torch.cat((centre - half, centre + half), dim=1)


# --- assignment and sampling


def assign(overlaps: Tensor, positive: float, negative: float, keep_best: bool) -> Tensor:
    """(N, M) overlaps of anchors with M true boxes -> (N,): the box that an anchor stands for, `BACKGROUND` below
    `negative`, `IGNORED` between.

    positive: least overlap with the nearest box. keep_best: the anchors that overlap a box most stand for it, however
    little that is, so that no box goes without.
    """
    count, true = overlaps.shape
    if true == 0:
        return torch.full((count,), BACKGROUND, device=overlaps.device)
    best, nearest = overlaps.max(dim=1)
    result = torch.where(best >= positive, nearest, torch.full_like(nearest, IGNORED))
    result[best < negative] = BACKGROUND
    if keep_best and count:
        most = overlaps.max(dim=0).values
        rows, columns = torch.nonzero((overlaps == most[None]) & (most[None] > 0), as_tuple=True)
        result[rows] = columns
    return result


def sample(assigned: Tensor, count: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers of at most `count` anchors drawn for a loss: those that stand for a box, at most `share` of them, and
    background to fill up. generator: a CPU one, so that every device draws alike."""
    positive = torch.nonzero(assigned >= 0).flatten()
    negative = torch.nonzero(assigned == BACKGROUND).flatten()
    positive = _some(positive, int(count * share), generator)
    return positive, _some(negative, count - len(positive), generator)


def _some(numbers: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(numbers) <= most:
        return numbers
    return numbers[torch.randperm(len(numbers), generator=generator)[:most].to(numbers.device)]


# --- non-maximum suppression


def nms(boxes: Tensor, scores: Tensor, threshold: float, most: int | None = None) -> Tensor:
    """Greedy non-maximum suppression: (N, 4), (N,) -> numbers of the kept boxes, best first (of equals, the first).

    A box goes when its overlap with a kept one is above `threshold`. most: stop after so many.
    """
    return nms_by_class(boxes, scores, torch.zeros_like(scores, dtype=torch.long), threshold, most)


def nms_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float, most: int | None = None) -> Tensor:
    """`nms` within each class; numbers of the kept boxes of all, best first, `most` of them at most.

    A kept box is held against those alone that begin to the left of its end, and not farther left than the widest box
    reaches.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    places = boxes[order].float().cpu().numpy()
    from_left = np.argsort(places[:, 0], kind="stable")
    x1, y1, x2, y2 = np.ascontiguousarray(places[from_left].T)
    kinds = classes[order].cpu().numpy()[from_left]
    areas = (x2 - x1).clip(0) * (y2 - y1).clip(0)
    reach = float((x2 - x1).max(initial=0)) * 1.001 + 1e-3
    begins, ends = np.searchsorted(x1, x1 - reach), np.searchsorted(x1, x2, "right")
    smallest = np.finfo(np.float32).tiny
    gone = np.zeros(len(places), bool)
    kept: list[int] = []
    for rank, own in enumerate(np.argsort(from_left)):
        if gone[own]:
            continue
        kept.append(rank)
        if len(kept) == most:
            break
        near = slice(begins[own], ends[own])
        width = np.minimum(x2[near], x2[own]) - np.maximum(x1[near], x1[own])
        height = np.minimum(y2[near], y2[own]) - np.maximum(y1[near], y1[own])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        over = shared / np.maximum(areas[own] + areas[near] - shared, smallest) > threshold
        gone[near] |= over & (kinds[near] == kinds[own])
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


# --- anchors and regions


@dataclass
class Regions:
    """Boxes (K, 4) px, each in one frame of a batch (K,), to be looked at in one map of a pyramid (K,)."""

    boxes: Tensor
    frames: Tensor
    levels: Tensor


def anchors_of(size: tuple[int, int], stride: int, side: float, ratios: Sequence[float]) -> Tensor:
    """(rows x columns x ratios, 4): boxes of area side^2 about the middle of every cell of a feature map of `size`
    (rows, columns); a ratio is height through width."""
    half = torch.tensor([[side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2] for ratio in ratios])
    y, x = ((torch.arange(count) + 0.5) * stride for count in size)
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[:, :, None]
    return torch.cat((centres - half, centres + half), dim=-1).reshape(-1, 4)


def roi_align(maps: Sequence[Tensor], strides: Sequence[int], regions: Regions, output: int) -> Tensor:
    """RoIAlign of a batch: maps (N, C, h, w) at their strides, K regions -> (K, C, output, output).

    Each of the output's cells is the mean of 2 x 2 bilinear samples, evenly spread in it; what lies beyond a map has
    the value at its edge. Differentiable in the maps.
    """
    channels = maps[0].shape[1]
    if not len(regions.boxes):
        return maps[0].new_zeros((0, channels, output, output))
    table = torch.cat([one.permute(0, 2, 3, 1).reshape(-1, channels) for one in maps])
    shapes = torch.tensor([one.shape[2:] for one in maps], device=table.device)[regions.levels]
    starts = torch.tensor([0, *(len(one) * one.shape[2] * one.shape[3] for one in maps)]).cumsum(0)[:-1]
    starts = starts.to(table.device)[regions.levels] + regions.frames * shapes.prod(dim=1)
    places = regions.boxes / torch.tensor(strides, device=table.device)[regions.levels, None]
    y, y_weights = _interpolated(places[:, 1], places[:, 3], shapes[:, 0], output)
    x, x_weights = _interpolated(places[:, 0], places[:, 2], shapes[:, 1], output)
    rows = starts[:, None, None] + y * shapes[:, 1, None, None]
    numbers = rows[:, :, None, :, None] + x[:, None, :, None, :]  # (K, output, output, 4, 4)
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    found = F.embedding_bag(
        numbers.reshape(-1, 16), table.float(), per_sample_weights=weights.reshape(-1, 16), mode="sum"
    )
    return found.reshape(-1, output, output, channels).permute(0, 3, 1, 2).to(table.dtype)


def _interpolated(low: Tensor, high: Tensor, length: Tensor, output: int) -> tuple[Tensor, Tensor]:
    """Along one axis: for each of `output` cells between two places (K,) of maps of a length (K,), the numbers (K,
    output, 4) of the map's cells that its two samples lie between, and what each weighs."""
    steps = (torch.arange(2 * output, device=low.device) + 0.5) / (2 * output)
    last = (length - 1)[:, None]
    at = torch.minimum((low[:, None] + steps * (high - low)[:, None] - 0.5).clamp(min=0), last.to(low.dtype))
    before = at.floor().long()
    share = at - before
    numbers = torch.stack((before, torch.minimum(before + 1, last)), dim=2)
    weights = torch.stack((1 - share, share), dim=2) / 2
    return numbers.reshape(-1, output, 4), weights.reshape(-1, output, 4)
