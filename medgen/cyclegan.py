"""CycleGAN: two domains translated into each other, learnt without pairs.

Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017:
equations 1 (as least squares, section 4), 2 and 3, and the identity loss of section 5.2; discriminators see images of a
pool and their loss is halved; Adam with beta1 0.5, whose step size is constant for half of the updates and then falls
linearly towards 0. Whoever uses it draws the images, and hands `parts()` to its `medgen.training.Training`.

Several processes: each has a pool of its own images, and a resumed training starts all of them with that of rank 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.jobs import Run
from medgen.nn.cyclegan import Generator, ImagePool, PatchGAN
from medgen.training import Randomness, Training

DIRECTIONS = ("there", "back")


@dataclass(frozen=True)
class Recipe:
    """The paper's numbers: channels, residual blocks and PatchGAN layers, weights of the cycle and identity losses (the
    latter as a share of the former), images in each pool, Adam's step size."""

    channels: int = 3
    width: int = 64
    blocks: int = 9
    discriminator_width: int = 64
    layers: int = 3
    cycle: float = 10.0
    identity: float = 0.5
    pool: int = 50
    learning_rate: float = 2e-4


def random_pieces(
    training: Training, images: Sequence[Tensor], size: tuple[int, int], count: int, random: np.random.Generator
) -> Tensor:
    """This process's pieces of images (C, h, w) for the next update: (count, C, *size), or as large as the images are,
    anywhere in them, mirrored by half a chance."""

    def piece(number: int, share: tuple[float, float], flip: bool) -> Tensor:
        image = images[number]
        top, left = (
            round(part * max(0, extent - side)) for part, extent, side in zip(share, image.shape[1:], size, strict=True)
        )
        found = image[:, top : top + size[0], left : left + size[1]]
        return found.flip(2) if flip else found

    def draw(total: int) -> list[Callable[[], Tensor]]:
        numbers, shares = random.integers(len(images), size=total), random.uniform(size=(total, 3)).tolist()
        return [
            partial(piece, int(number), (down, across), flip < 0.5)
            for number, (down, across, flip) in zip(numbers, shares, strict=True)
        ]

    return torch.stack(training.batch(count, draw))


def make_generator(recipe: Recipe) -> Generator:
    """One of the two."""
    return Generator(recipe.channels, recipe.channels, recipe.width, recipe.blocks)


def least_squares(judged: Tensor, real: bool) -> Tensor:
    """How far a discriminator's values are from calling all patches real (1) or made (0): mean square."""
    return F.mse_loss(judged, torch.full_like(judged, float(real)))


def decayed(update: int, updates: int) -> float:
    """Share of the step size at an update (from 0): 1 in the first half, then linearly to (not quite) 0."""
    half = updates // 2
    return 1.0 if update < half else 1.0 - (update - half) / max(1, updates - half)


class CycleGAN:
    """Generators `there` (A -> B) and `back`, a discriminator of what each makes, their pools and optimisers.

    Images are (N, channels, h, w) in -1..1, h and w multiples of 4 and 32 or more.
    """

    def __init__(self, recipe: Recipe, run: Run) -> None:
        self.recipe, self.run = recipe, run
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.generators = {name: make_generator(recipe).to(run.device) for name in DIRECTIONS}
            self.discriminators = {
                name: PatchGAN(recipe.channels, recipe.discriminator_width, recipe.layers).to(run.device)
                for name in DIRECTIONS
            }
        self.pools = {name: ImagePool(recipe.pool) for name in DIRECTIONS}
        self.random = Randomness(run.seed)
        self.adam = {
            "generators": self._optimiser(self.generators.values()),
            "discriminators": self._optimiser(self.discriminators.values()),
        }

    def parts(self) -> dict[str, Any]:
        """All that a checkpoint has to hold."""
        kinds = {"generator": self.generators, "discriminator": self.discriminators, "pool": self.pools}
        named = {f"{kind} {name}": part for kind, parts in kinds.items() for name, part in parts.items()}  # type: ignore[attr-defined]
        return {**named, **{f"{name} adam": part for name, part in self.adam.items()}, "pool random": self.random}

    def update(self, training: Training, a: Tensor, b: Tensor, update: int, updates: int) -> dict[str, float]:
        """One update of the generators, then of the discriminators, with a batch of each domain; the losses."""
        for adam in self.adam.values():
            for group in adam.param_groups:
                group["lr"] = self.recipe.learning_rate * decayed(update, updates)
        with training.autocast():
            made, losses = self.generator_losses(a, b)
        value = training.step(sum(losses.values(), start=torch.zeros((), device=a.device)), self.adam["generators"])
        self.adam["discriminators"].zero_grad(set_to_none=True)  # what the generators' loss left there
        with training.autocast():
            judged = self.discriminator_loss(made, {"there": b, "back": a})
        judge = training.step(judged, self.adam["discriminators"])
        return {"generators": value, "discriminators": judge} | {k: float(v.detach()) for k, v in losses.items()}

    def generator_losses(self, a: Tensor, b: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the generators make of a batch of each domain, by direction, and their three losses, weighted."""
        there, back = (self.generators[name] for name in DIRECTIONS)
        made = {"there": there(a), "back": back(b)}
        adversarial = sum((least_squares(self.discriminators[n](made[n]), True) for n in DIRECTIONS), a.new_zeros(()))
        cycle = F.l1_loss(back(made["there"]), a) + F.l1_loss(there(made["back"]), b)
        losses = {"adversarial": adversarial, "cycle": self.recipe.cycle * cycle}
        if self.recipe.identity:
            same = F.l1_loss(there(b), b) + F.l1_loss(back(a), a)
            losses["identity"] = self.recipe.cycle * self.recipe.identity * same
        return made, losses

    def discriminator_loss(self, made: dict[str, Tensor], real: dict[str, Tensor]) -> Tensor:
        """Half the sum, over both, of what real images, and made ones of the pool, are judged wrongly."""
        total = torch.zeros((), device=self.run.device)
        for name in DIRECTIONS:
            shown = self.pools[name].exchanged(made[name], self.random.numpy).to(self.run.device)
            judge = self.discriminators[name]
            total = total + 0.5 * (least_squares(judge(real[name]), True) + least_squares(judge(shown), False))
        return total

    def _optimiser(self, networks: Iterable[nn.Module]) -> torch.optim.Adam:
        learnt = [parameter for network in networks for parameter in network.parameters()]
        return torch.optim.Adam(learnt, self.recipe.learning_rate, betas=(0.5, 0.999))
