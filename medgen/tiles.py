"""Inference on volumes larger than a network's window: overlapping windows, blended.

The windows stand where MONAI's `sliding_window_inference` puts them. They are the product of positions along three
axes, and so are the weights that blend them: their sum over all windows is the product of three sums along the axes.
Each axis is normalised beforehand, therefore, and neither a count for every voxel nor a padded copy of the volume is
ever held: beside the volume, in whatever type it came, there are the float32 output and one batch of windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Blend = Literal["mean", "gaussian"]
Index = tuple[int, int, int]

_SIGMA = 0.125  # of the window's side, as MONAI's default


class Reader(Protocol):
    """An input that is made window by window. `shape` is the volume's (i, j, k)."""

    @property
    def shape(self) -> Index: ...

    def __call__(self, start: Index, window: Index) -> Tensor:
        """(C, *window) from voxel `start` on; a start is negative where the window is larger than the volume."""
        ...


@dataclass
class _Span:
    """A window along one axis: where it starts, the part of the volume and of the window they share, its weights."""

    start: int
    inside: slice
    cut: slice
    weight: Tensor


def starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along an axis; the last window ends with the axis.

    They are floor(window (1 - overlap)) apart, 1 at least. A single window that is larger than the axis is centred on
    it, starting floor((window - size) / 2) voxels before.
    """
    if size <= window:
        return [-((window - size) // 2)]
    return [*range(0, size - window, max(1, int(window * (1 - overlap)))), size - window]


def _spans(size: int, window: int, overlap: float, blend: Blend) -> list[_Span]:
    """The windows along an axis; at each of its voxels their weights sum to one."""
    profile: NDArray[np.float64] = np.ones(window)
    if blend == "gaussian":
        profile = np.exp(-0.5 * ((np.arange(window) - (window - 1) / 2) / (_SIGMA * window)) ** 2)
    places = []
    total = np.zeros(size)
    for start in starts(size, window, overlap):
        inside = slice(max(start, 0), min(start + window, size))
        cut = slice(inside.start - start, inside.stop - start)
        places.append((start, inside, cut))
        total[inside] += profile[cut]
    return [
        _Span(start, inside, cut, torch.from_numpy((profile[cut] / total[inside]).astype(np.float32)))
        for start, inside, cut in places
    ]


def _read(volume: Tensor, spans: tuple[_Span, ...], window: Index, pad: float) -> Tensor:
    """(C, *window) float32 of a tensor, `pad` beyond its ends."""
    i, j, k = spans
    part = volume[:, i.inside, j.inside, k.inside].to(torch.float32)
    if part.shape[1:] == window:
        return part
    padded = torch.full((part.shape[0], *window), pad, device=part.device)
    padded[:, i.cut, j.cut, k.cut] = part
    return padded


def _batches(
    volume: Tensor | Reader,
    places: list[tuple[_Span, ...]],
    window: Index,
    batch: int,
    pad: float,
    skip: Callable[[Tensor], bool] | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[list[tuple[tuple[_Span, ...], Tensor]]]:
    """Windows that are not skipped, with their inputs, `batch` at a time."""
    pending: list[tuple[tuple[_Span, ...], Tensor]] = []
    for number, spans in enumerate(places):
        if progress is not None:
            progress(number, len(places))
        if isinstance(volume, Tensor):
            seen = _read(volume, spans, window, pad)
        else:
            seen = volume((spans[0].start, spans[1].start, spans[2].start), window)
        if skip is not None and skip(seen):
            continue
        pending.append((spans, seen))
        del seen  # the consumer runs the network now: it should not find what it has used up still held here
        if len(pending) == batch:
            yield pending
            pending = []
    if pending:
        yield pending


def tiled(
    network: Callable[[Tensor], Tensor],
    volume: Tensor | Reader,
    *,
    window: Index,
    overlap: float,
    channels: int = 1,
    blend: Blend = "mean",
    skip: Callable[[Tensor], bool] | None = None,
    fill: float = 0.0,
    pad: float = 0.0,
    batch: int = 1,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """A network's output on a whole volume, from overlapping windows -> (channels, i, j, k) float32 on the CPU.

    Args:
        network: (N, C, *window) float32 on `device` -> (N, channels, *window), in evaluation mode; runs under
            inference mode, and under autocast where the caller wraps it so.
        volume: (C, i, j, k) of any real type, or a `Reader`.
        window: voxels along each axis. overlap: share of a window that the next one sees too, in [0, 1).
        blend: "mean" weights all windows alike; "gaussian" by exp(-d^2 / 2 s^2) along each axis, d from the window's
            centre and s an eighth of its side. MONAI's is the same but for its floor of 0.001, which acts where the
            product of the three falls below it; having none keeps the weights separable.
        skip: told a window's input (C, *window), whether it is empty. Empty windows are not run and count as `fill`;
            a voxel that lies in empty windows only is exactly `fill`.
        pad: what a tensor is taken to hold beyond its ends, where a window is larger than the volume.
        batch: windows run at once (on a GPU, several small ones keep it busy).
        progress: called with (windows done, windows) before each window and at the end; what it raises ends the work.

    Raises:
        ValueError: where overlap, blend or the network's output is not as said.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be at least 0 and less than 1, not {overlap}")
    if blend not in ("mean", "gaussian"):
        raise ValueError(f"blend must be mean or gaussian, not {blend}")
    shape = tuple(volume.shape[-3:])
    axes = [_spans(size, side, overlap, blend) for size, side in zip(shape, window, strict=True)]
    places = list(product(*axes))
    result = torch.full((channels, *shape), float(fill))  # outside inference mode: the caller may work on it in place
    with torch.inference_mode():
        for pending in _batches(volume, places, window, batch, pad, skip, progress):
            inputs = torch.stack([seen for _, seen in pending]).to(device)
            spans = [where for where, _ in pending]
            pending.clear()
            found = network(inputs)
            if tuple(found.shape) != (len(spans), channels, *window):
                expected = (len(spans), channels, *window)
                raise ValueError(f"the network's output is {tuple(found.shape)}, where {expected} was expected")
            for where, one in zip(spans, found.to("cpu", torch.float32), strict=True):
                _blend_in(result, one, where, fill)
            del inputs, found, one
    if progress is not None:
        progress(len(places), len(places))
    return result


def _blend_in(result: Tensor, found: Tensor, spans: tuple[_Span, ...], fill: float) -> None:
    """Add one window's (channels, *window), weighted, to a result that starts as `fill`."""
    i, j, k = spans
    weight = i.weight[:, None, None] * j.weight[:, None] * k.weight
    part = found[:, i.cut, j.cut, k.cut]
    result[:, i.inside, j.inside, k.inside].addcmul_(part - fill if fill else part, weight)
