"""Strong augmentation of frames with boxes: RandAugment for detection (Zoph et al., 2020), as STAC (Sohn et al., 2020)
uses it: one change of colour, then one geometric change of the whole frame or within one box, then cutout.

Frames are (3, rows, columns) in 0..255, boxes (N, 4) in pixels. Strengths are STAC's; where its code leaves what a
magnitude of 1 to 10 means to a library, it is said here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medgen.nn.boxes import clipped

FILL = 125.0  # what cutout leaves, and what comes in from beyond a moved frame
Matrix = NDArray[np.float64]
_GREY = (0.299, 0.587, 0.114)


def strongly(frame: Tensor, boxes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Colour, geometry, cutout: frame, boxes, and the numbers (M,) of those that are left. Where no box would be, the
    frame comes back as it was."""
    changed = recoloured(frame, rng)
    moved, kept = boxes, torch.arange(len(boxes))
    if len(boxes) and rng.uniform() < 0.5:
        changed = within_box(changed, boxes[int(rng.integers(len(boxes)))], rng)
    else:
        changed, moved, kept = transformed(changed, boxes, random_affine(rng, 0.1, 30.0, frame.shape[1:]))
    if len(boxes) and not len(kept):
        return frame, boxes, torch.arange(len(boxes))
    return cut_out(changed, rng), moved, kept


# --- colour


def _blend(other: Tensor, frame: Tensor, factor: float) -> Tensor:
    """PIL's enhancement: the other picture at 0, the frame at 1, beyond it at more."""
    return (other + factor * (frame - other)).clamp(0, 255)


def _grey(frame: Tensor) -> Tensor:
    return (frame * frame.new_tensor(_GREY)[:, None, None]).sum(0, keepdim=True)


def autocontrast(frame: Tensor, strength: float) -> Tensor:
    """Each channel stretched from its least and largest value to 0 and 255."""
    low, high = frame.amin((1, 2), keepdim=True), frame.amax((1, 2), keepdim=True)
    return torch.where(high > low, (frame - low) * (255 / (high - low).clamp(min=1e-6)), frame)


def equalized(frame: Tensor, strength: float) -> Tensor:
    """Each channel through its own cumulative histogram of 256 values, in whole steps as Pillow takes them."""
    values = frame.round().clamp(0, 255).long()
    result = torch.empty_like(frame)
    for channel, one in enumerate(values):
        counts = torch.bincount(one.flatten(), minlength=256)
        step = int(one.numel() - counts[counts > 0][-1]) // 255
        table = (step // 2 + counts.cumsum(0) - counts) // max(step, 1)
        result[channel] = table.clamp(max=255).to(frame.dtype)[one] if step else frame[channel]
    return result


def solarized(frame: Tensor, strength: float) -> Tensor:
    """Values from 256 (1 - strength) on inverted."""
    return torch.where(frame >= 256 * (1 - strength), 255 - frame, frame)


def posterized(frame: Tensor, strength: float) -> Tensor:
    """8 to 4 bits a channel."""
    step = 2 ** round(4 * strength)
    return (frame / step).floor() * step


def saturated(frame: Tensor, strength: float) -> Tensor:
    """From nearly grey to nearly twice the colour."""
    return _blend(_grey(frame), frame, 0.1 + 1.8 * strength)


def contrasted(frame: Tensor, strength: float) -> Tensor:
    """From nearly uniform to nearly twice the contrast."""
    return _blend(_grey(frame).mean(), frame, 0.1 + 1.8 * strength)


def brightened(frame: Tensor, strength: float) -> Tensor:
    """From nearly black to nearly twice as bright."""
    return _blend(torch.zeros_like(frame), frame, 0.1 + 1.8 * strength)


def sharpened(frame: Tensor, strength: float) -> Tensor:
    """From smoothed by PIL's 3x3 kernel to sharpened by as much."""
    kernel = frame.new_ones(3, 3)
    kernel[1, 1] = 5
    padded = F.pad(frame[:, None], (1, 1, 1, 1), mode="replicate")
    return _blend(F.conv2d(padded, (kernel / kernel.sum())[None, None])[:, 0], frame, 0.1 + 1.8 * strength)


COLOURS: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda frame, strength: frame,
    autocontrast,
    equalized,
    solarized,
    saturated,
    contrasted,
    brightened,
    sharpened,
    posterized,
)


def recoloured(frame: Tensor, rng: np.random.Generator) -> Tensor:
    """One of the nine at a tenth to ten tenths of its strength."""
    change = COLOURS[int(rng.integers(len(COLOURS)))]
    return change(frame, int(rng.integers(1, 11)) / 10)


# --- geometry


def random_affine(rng: np.random.Generator, shift: float, angle: float, size: tuple[int, ...]) -> Matrix:
    """(2, 3), about the middle of (rows, columns), of x and y: one of a shift along x or y (up to a share of the size),
    a rotation and a shear along x (up to `angle` degrees)."""
    rows, columns = size
    kind = int(rng.integers(4))
    matrix = np.eye(2, 3)
    if kind < 2:
        matrix[kind, 2] = rng.uniform(-shift, shift) * (columns, rows)[kind]
        return matrix
    turn = math.radians(rng.uniform(-angle, angle))
    if kind == 2:
        matrix[:, :2] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    else:
        matrix[0, 1] = math.tan(turn)
    return matrix


def warped(frame: Tensor, matrix: Matrix) -> Tensor:
    """The frame's content moved by a (2, 3) about its middle, bilinear; what comes in is `FILL`."""
    rows, columns = frame.shape[1:]
    back = np.linalg.inv(matrix[:, :2])
    half = np.array([columns, rows]) / 2
    linear = back * half / half[:, None]  # in grid_sample's units, -1..1 from edge to edge
    theta = np.column_stack([linear, -(back @ matrix[:, 2]) / half])
    grid = F.affine_grid(torch.from_numpy(theta).float()[None], [1, 3, rows, columns], align_corners=False)
    seen = F.grid_sample(frame.float()[None] - FILL, grid, padding_mode="zeros", align_corners=False)[0]
    return (seen + FILL).clamp(0, 255)


def transformed(frame: Tensor, boxes: Tensor, matrix: Matrix) -> tuple[Tensor, Tensor, Tensor]:
    """Frame and boxes moved by a (2, 3) about the middle. A box becomes what encloses its moved corners, cut to the
    frame; those of which a pixel or less is left along an edge go. Also the numbers of those that stay."""
    rows, columns = frame.shape[1:]
    middle = boxes.new_tensor([columns, rows]) / 2
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) - middle
    linear, shift = boxes.new_tensor(matrix[:, :2]), boxes.new_tensor(matrix[:, 2])
    places = corners @ linear.T + shift + middle
    moved = clipped(torch.cat((places.amin(1), places.amax(1)), dim=1), (rows, columns))
    kept = torch.nonzero((moved[:, 2:] - moved[:, :2] > 1).all(dim=1)).flatten()
    return warped(frame, matrix), moved[kept], kept


def within_box(frame: Tensor, box: Tensor, rng: np.random.Generator) -> Tensor:
    """The content of one box moved within it (by up to 5 %, or 10 degrees); the box itself stays."""
    x1, y1, x2, y2 = (int(value) for value in box.round())
    part = frame[:, y1:y2, x1:x2]
    if min(part.shape[1:]) < 2:
        return frame
    result = frame.clone()
    result[:, y1:y2, x1:x2] = warped(part, random_affine(rng, 0.05, 10.0, part.shape[1:]))
    return result


def cut_out(frame: Tensor, rng: np.random.Generator) -> Tensor:
    """One to five squares of up to a fifth of the short edge, filled."""
    rows, columns = frame.shape[1:]
    result = frame.clone()
    for _ in range(int(rng.integers(1, 6))):
        half = rng.uniform(0, 0.2) * min(rows, columns) / 2
        x, y = rng.uniform(0, columns), rng.uniform(0, rows)
        result[:, max(0, round(y - half)) : round(y + half), max(0, round(x - half)) : round(x + half)] = FILL
    return result
