"""Dice heatmaps beside the baseline in both domains, and the simulator's frames translated, joined or left out.

Per seed: many marked frames of a simulator, few of the theatre, others of both to measure on. An arm for both domains
trains a network for each, on its frames alone; an arm with the simulator's frames trains one for the theatre, on frames
of both, and is measured in both. All networks see as many frames, changed at random alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sutures
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.jobs import Run
from medgen.landmarks.suture_heatmap import (
    ApplyConfig,
    Fit,
    SutureHeatmap,
    TrainConfig,
    heatmap_of,
    points_of,
)
from medgen.pointframes import PointFrame, map_of

DOMAINS = ("theatre", "simulator")
WAYS = {"heatmap + simulator": "joined", "heatmap + translated": "translated"}


# --- the baseline: Stern, Sharan et al., 2021


class Block(nn.Module):
    """Two 3 x 3 convolutions, each with ReLU and then batch normalisation, dropout between them."""

    def __init__(self, inputs: int, outputs: int, dropout: float, middle: int | None = None) -> None:
        super().__init__()
        between = middle or outputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, between, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(between),
            nn.Dropout(dropout), nn.Conv2d(between, outputs, 3, padding=1), nn.ReLU(inplace=True),
            nn.BatchNorm2d(outputs),
        )  # fmt: skip
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class BaselineUNet(nn.Module):
    """U-Net of 16, 32, 64, 128 and 128 channels, enlarged bilinearly; sigmoid, a Gaussian of 3 x 3 pixels, and the
    values of a soft-argmax in every window of 3 x 3. (N, 3, h, w) -> (N, 1, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        widths, drops = (16, 32, 64, 128, 128), (0.3, 0.37, 0.43, 0.5, 0.4)
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(Block(a, b, drop) for a, b, drop in zip(inputs, widths, drops, strict=True))
        joins = ((256, 64, 0.5), (128, 32, 0.43), (64, 16, 0.37), (32, 16, 0.3))
        self.up = nn.ModuleList(Block(a, b, drop, a // 2) for a, b, drop in joins)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, frames: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for number, block in enumerate(self.down):
            frames = block(frames if number == 0 else F.max_pool2d(frames, 2))
            skips.append(frames)
        found = skips.pop()
        for block in self.up:
            found = F.interpolate(found, scale_factor=2, mode="bilinear", align_corners=True)
            found = block(torch.cat((skips.pop(), found), dim=1))
        return soft_values(smoothed(torch.sigmoid(self.head(found).float())))


def smoothed(maps: Tensor) -> Tensor:
    """By a Gaussian of sigma 1 in a window of 3 x 3, edges mirrored."""
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0], device=maps.device) / 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="reflect"), kernel[None, None])


def soft_values(maps: Tensor) -> Tensor:
    """At each pixel the mean of its 3 x 3 window, each value weighted by its softmax there; beyond the edge 0."""
    windows = F.unfold(maps, 3, padding=1)
    found = (windows * torch.softmax(windows, dim=1)).sum(dim=1)
    return found.reshape(maps.shape)


class BaselineFit(Fit):
    """The same training with the baseline's network, loss and points."""

    def build(self) -> nn.Module:
        return BaselineUNet()

    def loss(self, found: Tensor, maps: Tensor) -> Tensor:
        """Mean squared error, and 1 - Dice of the whole batch."""
        dice = (2 * (found * maps).sum() + 1) / (found.sum() + maps.sum() + 1)
        return F.mse_loss(found, maps) + 1 - dice

    def points(self, frame: PointFrame) -> sutures.Values:
        """Centres of mass of the blobs of 0.5 and more."""
        heatmap = map_of(self.network, frame.pixels, self.run)[: frame.inner[0], : frame.inner[1]].double().numpy()
        numbers, count = ndimage.label(heatmap >= 0.5, np.ones((3, 3)))
        centres = ndimage.center_of_mass(heatmap, numbers, range(1, count + 1))
        return np.array(centres, np.float64).reshape(-1, 2)


# --- the arms


def run_seed(seed: int, registration: Any, folder: Path, done: set[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Every arm on the frames held out."""
    settings, train = registration.settings, SutureHeatmap().operation("train")
    config = train.configure(settings["tier"], settings["train"])
    assert isinstance(config, TrainConfig)
    made = sutures.frames(seed, settings, config.size)
    fits: dict[str, Fit] = {}
    for arm in registration.arms:
        if arm.name in done:
            continue
        measures: dict[str, float] = {}
        for domain in DOMAINS:
            if arm.role == "trivial":
                find = sutures.usual_places(made[domain], seed)
            elif arm.name in WAYS:
                find = _finder(arm.name, "theatre", made, config, folder, seed, fits)
            else:
                find = _finder(arm.name, domain, made, config, folder, seed, fits)
            measures |= sutures.measured(made[f"{domain} tested"], find, f" {domain}")
        yield arm.name, measures


def _finder(
    arm: str, domain: str, made: dict[str, list[PointFrame]], config: TrainConfig, folder: Path, seed: int,
    fits: dict[str, Fit],
) -> Any:  # fmt: skip
    """What finds the points of a frame; trained where no arm before has trained the same."""
    way = WAYS.get(arm, "left out")
    kind, cuts = (BaselineFit, False) if arm == "MSE + Dice" else (Fit, arm == "heatmap, paper's cut")
    key = f"{kind.__name__} {domain} {way}"
    if key not in fits:
        chosen = config.model_copy(update={"simulator": way})
        simulator = made["simulator"] if way != "left out" else []
        fits[key] = kind(made[domain], simulator, chosen, Run(folder / f"{seed} {key}", seed=seed))
        fits[key].network.load_state_dict(fits[key].fit())
    fit = fits[key]
    if not cuts:
        return fit.points
    paper = ApplyConfig.model_validate({"cut_above": 1.0})
    return lambda frame: points_of(heatmap_of(fit.network, frame.pixels, fit.run)[: frame.inner[0]], paper)[0]
