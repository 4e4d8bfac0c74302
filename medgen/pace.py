"""How fast this machine trains: what `estimate` of every method scales from."""

from __future__ import annotations

import time

import torch
from torch import nn

from medgen.jobs import Run


def seconds_an_update(network: nn.Module, shape: tuple[int, ...], run: Run, updates: int = 3) -> float:
    """Seconds of one forward and backward pass of inputs of `shape` (N, C, ...), the least of a few, at the run's
    device, precision and, as in training, with the channels last.

    Take a shape that is small enough to be done at once and large enough to be typical, and scale by the voxels of a
    real batch. The network ends up on the run's device, with gradients that nobody uses.
    """
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    network.to(run.device, memory_format=layout)  # type: ignore[call-overload]
    inputs = torch.zeros(shape, device=run.device).contiguous(memory_format=layout)
    times = []
    for _ in range(updates):
        began = time.monotonic()
        with run.autocast():
            loss = network(inputs).float().mean()
        loss.backward()
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        times.append(time.monotonic() - began)
    return min(times)
