"""The networks: published sizes, shapes, places of the normalisations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medgen.nn.unet import UNet, parameter_count


def test_the_paper_network_has_31_044_289_parameters() -> None:
    assert parameter_count(UNet(dims=2, in_channels=1, out_channels=1, base_width=64)) == 31_044_289


def test_the_3d_unet_has_the_published_weights() -> None:
    """19 069 955 (Cicek et al., 3 channels in and out) counts neither normalisations nor up-convolutions' biases."""
    network = UNet.cicek(3, 3)
    norms = sum(parameter_count(layer) for layer in network.modules() if isinstance(layer, nn.BatchNorm3d))
    biases = sum(layer.bias.numel() for layer in network.modules() if isinstance(layer, nn.ConvTranspose3d))
    assert parameter_count(network) - norms - biases == 19_069_955


def test_every_convolution_but_the_last_is_normalised() -> None:
    network = UNet(base_width=4)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 5 * 2 + 4 * 3
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) == 5 * 2 + 4 * 3 + 1
    assert all(layer.bias is not None for layer in network.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("channels", "outputs"), [(1, 1), (5, 4)])
def test_output_has_the_input_size(dims: int, channels: int, outputs: int) -> None:
    size = (32, 48, 16)[:dims]
    assert UNet(dims, channels, outputs, base_width=4)(torch.randn(2, channels, *size)).shape == (2, outputs, *size)


def test_the_3d_unet_keeps_the_size() -> None:
    assert UNet.cicek(2, 3, base_width=8)(torch.randn(1, 2, 16, 24, 8)).shape == (1, 3, 16, 24, 8)


def test_the_bottom_is_seen_from_the_top() -> None:
    torch.manual_seed(0)
    network = UNet(base_width=4).eval()
    picture = torch.zeros(1, 1, 64, 64)
    spot = picture.clone()
    spot[0, 0, 8, 8] = 10.0
    change = (network(spot) - network(picture)).abs()[0, 0]
    assert change[8, 8] > 0 and (change[40:, 40:] > 0).any()


def test_a_level_smaller_than_a_kernel_is_computed_in_full_precision_under_autocast() -> None:
    network, seen = UNet.ellis(first_width=2), {}
    for level, block in enumerate(network.encoder):
        block[0].register_forward_hook(lambda _, __, out, level=level: seen.update({level: out.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.rand(1, 1, 16, 16, 16)).float().mean().backward()
    assert seen == {0: torch.bfloat16, 1: torch.bfloat16, 2: torch.bfloat16, 3: torch.float32}
