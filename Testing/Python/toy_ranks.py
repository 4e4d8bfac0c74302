"""Two processes' worth of a toy training, for test_distributed.py: what they agree on, against closed form.

Started by torchrun with a folder and what to do; rank 0 writes what it found there as numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medgen import ranks
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.training import Randomness, Training

SIZES = (8, 7, 1)  # samples of the updates: equal parts, unequal ones, fewer than processes


class Toy(nn.Module):
    """A layer that is always used, one that has a gradient now and then, and a running statistic."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.seldom = nn.Linear(3, 1), nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(1))


def train(folder: Path, each: int = 4) -> dict[str, Any]:
    """A few updates of SGD in double precision, of losses that are means and of one that couples the samples."""
    torch.manual_seed(ranks.number())  # rank 0's start counts
    network = Toy().double()
    descent = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    random = Randomness(ranks.number())
    training = Training(
        Run(folder, device="cpu", precision="32"), {"network": network, "sgd": descent, "random": random}
    )
    losses, untouched = [], True
    for step in training.stage("fit", 2 * len(SIZES)):
        x = torch.randn(SIZES[step % len(SIZES)], 3, generator=random.torch).double()
        part, weight = training.part(len(x))
        output = network.used(x[part])
        if step % 2:
            output = output + network.seldom(x[part])
        else:
            untouched &= network.seldom.weight.grad is None
        network.seen.fill_(float(x[part].mean()))
        losses.append(training.step((output - x[part].sum(1, keepdim=True)).square().mean(), descent, weight=weight))
    averaged = float(network.seen)
    for _ in training.stage("coupled", 2):
        x = torch.stack(training.batch(each, lambda count: _drawn(random, count))).double()
        judged = training.gathered(network.used(x)[:, 0])
        losses.append(training.step((judged - judged.mean().square()).exp().mean(), descent))
    weights = {name: value for name, value in network.state_dict().items() if name != "seen"}
    told = training.alone(lambda: ranks.number())
    return {"weights": weights, "losses": losses, "seen": averaged, "untouched": untouched, "told": told}


def _drawn(random: Randomness, count: int) -> list[Any]:
    rows = torch.randn(count, 3, generator=random.torch)
    return [lambda row=row: row for row in rows]


def fail(folder: Path) -> dict[str, Any]:
    """What one process raises alone ends all; so does what `alone` raises."""
    network = nn.Linear(1, 1)
    training = Training(Run(folder, device="cpu"), {"network": network})
    descent = torch.optim.SGD(network.parameters(), 0.1)

    def wrong() -> int:
        raise UserError("The folder is not there; make it.")

    raised = []
    for work in (
        lambda: training.alone(wrong),
        lambda: training.step(network(torch.tensor([[float("nan") if ranks.number() else 1.0]])).sum(), descent),
    ):
        try:
            work()
        except UserError as error:
            raised.append(str(error))
    return {"raised": raised, "in all": ranks.mean(float(len(raised)), 1.0)[0]}


def main() -> None:
    folder = Path(sys.argv[1])
    found = {"train": train(folder / "run"), "fail": fail(folder / "fails")}
    if ranks.first():
        torch.save(found, folder / "found.pt")
    ranks.leave()


if __name__ == "__main__":
    main()
