"""Heatmaps of landmarks: Gaussian targets, peaks with sub-pixel refinement, and the soft-argmax.

A position is a pair of indices (i, j) along the two axes of a map, in pixels, 0 at the centre of the first pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussians(points: Tensor, shape: tuple[int, int], sigma: float, radius: float | None = None) -> Tensor:
    """One map a point: exp(-r^2 / 2 sigma^2), r the distance to it in pixels; 0 beyond `radius`, where one is given.

    points: (..., 2) pixels; one that is not a number, for a landmark that is not there, gives an empty map.
    shape: of a map. sigma, radius: pixels. Returns (..., *shape), 0..1, and 1 where a point lies on a pixel's centre.
    """
    rows = torch.arange(shape[0], device=points.device, dtype=points.dtype)
    columns = torch.arange(shape[1], device=points.device, dtype=points.dtype)
    there = torch.isfinite(points).all(dim=-1)[..., None, None]
    known = torch.nan_to_num(points)
    down, across = rows - known[..., :1], columns - known[..., 1:]
    squared = down.square()[..., :, None] + across.square()[..., None, :]
    if radius is not None:
        there = there & (squared <= radius**2)
    return torch.exp(-squared / (2 * sigma**2)).where(there, 0.0)


def together(maps: Tensor) -> Tensor:
    """(..., N, H, W) maps of N points -> (..., H, W): the highest at each pixel, 0 without a point, so that a point
    keeps its 1 however near another one lies."""
    if maps.shape[-3] == 0:
        return maps.new_zeros((*maps.shape[:-3], *maps.shape[-2:]))
    return maps.amax(dim=-3)


def soft_argmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The mean position under softmax(logits / temperature): (..., H, W) -> (..., 2) pixels, differentiable.

    temperature above 0; towards 0 it becomes the position of the highest logit.
    """
    height, width = logits.shape[-2:]
    weights = torch.softmax(logits.flatten(-2) / temperature, dim=-1).unflatten(-1, (height, width))
    rows = torch.arange(height, device=logits.device, dtype=weights.dtype)
    columns = torch.arange(width, device=logits.device, dtype=weights.dtype)
    return torch.stack(((weights.sum(-1) * rows).sum(-1), (weights.sum(-2) * columns).sum(-1)), dim=-1)


def argmax(maps: Tensor, refine: bool = True) -> tuple[Tensor, Tensor]:
    """The highest pixel of each map (..., H, W): its position (..., 2), and its value (...)."""
    flat = maps.flatten(-2)
    scores, index = flat.max(dim=-1)
    width = maps.shape[-1]
    positions = torch.stack((index // width, index % width), dim=-1)
    if not refine:
        return positions.to(maps.dtype), scores
    stack = maps.reshape(-1, *maps.shape[-2:])
    numbers = torch.arange(len(stack), device=maps.device)
    return refined(stack, numbers, positions.reshape(-1, 2)).reshape(positions.shape), scores


def peaks(
    heatmap: Tensor, threshold: float, window: int = 3, most: int | None = None, refine: bool = True
) -> tuple[Tensor, Tensor]:
    """The local maxima of a map (H, W): positions (n, 2) in pixels and their values (n,), highest first.

    A pixel is one where its value reaches `threshold` and is the highest in the window x window pixels around it (odd);
    of several equally high ones in a window, the first. most: keep as many at most.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window has a middle: an odd number of pixels, not {window}")
    highest = F.max_pool2d(heatmap[None, None], window, stride=1, padding=window // 2)[0, 0]
    where = torch.nonzero((heatmap == highest) & (heatmap >= threshold))
    scores = heatmap[where[:, 0], where[:, 1]]
    order = torch.argsort(scores, descending=True, stable=True)
    where, scores = where[order], scores[order]
    kept = _first_of_equals(where, scores, window // 2)[:most]
    where, scores = where[kept], scores[kept]
    if not refine:
        return where.to(heatmap.dtype), scores
    return refined(heatmap[None], torch.zeros(len(where), dtype=torch.long, device=heatmap.device), where), scores


def _first_of_equals(where: Tensor, scores: Tensor, reach: int) -> Tensor:
    """Numbers of the candidates (in the order of their scores) that have no equal before them within `reach`."""
    if len(torch.unique(scores)) == len(scores):
        return torch.arange(len(scores), device=scores.device)
    kept: list[int] = []
    taken: set[tuple[int, int]] = set()
    for number, (row, column) in enumerate(where.tolist()):
        if (row, column) not in taken:
            kept.append(number)
            around = range(-reach, reach + 1)
            taken.update((row + down, column + across) for down in around for across in around)
    return torch.tensor(kept, dtype=torch.long, device=scores.device)


def refined(maps: Tensor, numbers: Tensor, pixels: Tensor) -> Tensor:
    """Peaks to a fraction of a pixel: along each axis the vertex of the parabola through the logarithms of a pixel and
    its two neighbours, which for a sampled Gaussian is its very centre; at most half a pixel away.

    maps: (M, H, W); numbers: (n,) which map each of the pixels (n, 2) lies in. At an edge, and where a value is not
    above 0, the pixel's centre stays. Returns (n, 2).
    """
    height, width = maps.shape[-2:]
    rows, columns = pixels[:, 0], pixels[:, 1]
    moves = []
    for at, size, step in ((rows, height, (1, 0)), (columns, width, (0, 1))):
        before, here, after = (
            maps[
                numbers,
                (rows + sign * step[0]).clamp(0, height - 1),
                (columns + sign * step[1]).clamp(0, width - 1),
            ]
            for sign in (-1, 0, 1)
        )
        inside = (at > 0) & (at < size - 1) & (before > 0) & (here > 0) & (after > 0)
        low, middle, high = (torch.log(value.clamp_min(1e-30)) for value in (before, here, after))
        curve = low - 2 * middle + high
        move = 0.5 * (low - high) / curve.where(curve < 0, -1.0)
        moves.append(move.where(inside & (curve < 0), 0.0).clamp(-0.5, 0.5))
    return pixels.to(maps.dtype) + torch.stack(moves, dim=-1)
