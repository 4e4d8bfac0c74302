"""HRNet against its publications' parameter counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medgen.nn.hrnet import HRNet, joined
from medgen.nn.unet import parameter_count


@pytest.mark.parametrize(("width", "millions"), [(32, 28.5), (48, 63.6)])
def test_the_pose_networks_have_the_parameters_of_table_1(width: int, millions: float) -> None:
    with torch.device("meta"):
        network = nn.Sequential(HRNet(width, finest_only=True), nn.Conv2d(width, 17, 1))
    assert parameter_count(network) / 1e6 == pytest.approx(millions, abs=0.05)


def test_four_branches_halve_in_size_and_double_in_width() -> None:
    branches = HRNet.small(4, inputs=1)(torch.zeros(2, 1, 64, 96))
    assert [tuple(branch.shape) for branch in branches] == [
        (2, 4, 16, 24), (2, 8, 8, 12), (2, 16, 4, 6), (2, 32, 2, 3),
    ]  # fmt: skip
    assert joined(branches).shape == (2, 60, 16, 24)


def test_the_pose_network_gives_the_finest_branch_alone() -> None:
    network = HRNet(4, inputs=1, blocks=1, bottlenecks=1, modules=(1, 1, 2), finest_only=True).eval()
    (finest,) = network(torch.zeros(1, 1, 32, 32))
    assert finest.shape == (1, 4, 8, 8)


def test_every_branch_sees_every_other_one() -> None:
    """A change that only the coarsest branch could carry so far reaches the finest, and every weight learns."""
    torch.manual_seed(0)
    network = HRNet.small(4, inputs=1)
    branches = network(torch.randn(2, 1, 64, 64))
    sum(branch.square().mean() for branch in branches).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
