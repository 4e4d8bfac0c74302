"""What a network in training makes of a validation case, small enough that a viewer loads it in an instant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medgen import io
from medgen.case import Affine, Image, Mask, Points
from medgen.method import Kind

MOST_VOXELS = 1_000_000


def write(value: Image | Mask | Points, role: str, folder: Path, number: int) -> tuple[Path, Kind]:
    """Write a preview into a run's folder; its path and kind.

    Masks are cut to what they hold, and images and masks of more than a million voxels are thinned. Files alternate
    between two names, so that a reader of the last one is not disturbed.
    """
    kind = Kind.MASK if isinstance(value, Mask) else Kind.IMAGE if isinstance(value, Image) else Kind.POINTS
    folder.mkdir(parents=True, exist_ok=True)
    ending = ".nrrd" if kind is Kind.IMAGE else io.ENDINGS[kind]  # not compressed: it is read at once, and replaced
    path = folder / f"preview_{role}_{number % 2}{ending}"
    io.write(smaller(value), kind, path)
    return path, kind


def smaller(value: Image | Mask | Points) -> Image | Mask | Points:
    """The same in no more than `MOST_VOXELS` voxels, a mask without its empty margins."""
    if isinstance(value, Mask):
        data, affine = _thinned(*_without_margins(value.data.cpu(), value.affine))
        return replace(value, data=data.clone(), affine=affine, annotated=None)
    if isinstance(value, Image):
        data, affine = _thinned(value.data.cpu(), value.affine)
        return replace(value, data=data.clone(), affine=affine)
    return value


def _without_margins(labels: Tensor, affine: Affine) -> tuple[Tensor, Affine]:
    inside = torch.nonzero(labels > 0)
    if not len(inside):
        return labels, affine
    first, last = inside.amin(dim=0).tolist(), inside.amax(dim=0).tolist()
    cut = labels[tuple(slice(low, high + 1) for low, high in zip(first, last, strict=True))]
    return cut, _moved(affine, first, 1)


def _thinned(data: Tensor, affine: Affine) -> tuple[Tensor, Affine]:
    """Every n-th voxel along the last axes (three, or two of a picture), n as small as it may be."""
    axes, stride, thinned = min(data.ndim, 3), 1, data
    while thinned.numel() > MOST_VOXELS:
        stride += 1
        every = slice(None, None, stride)
        thinned = data[..., every, every, every] if axes == 3 else data[..., every, every]
    return thinned, _moved(affine, [0] * axes, stride)


def _moved(affine: Affine, first: list[int], stride: int) -> Affine:
    """The affine of a grid that begins at voxel `first` and takes every n-th one."""
    result = affine.copy()
    count = len(first)
    result[:3, 3] = affine[:3, 3] + affine[:3, :count] @ np.asarray(first, dtype=np.float64)
    result[:3, :count] = affine[:3, :count] * stride
    return result
