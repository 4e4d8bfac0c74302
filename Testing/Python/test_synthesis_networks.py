"""The base networks of frequency-supervised synthesis: published sizes, shapes, what a voxel sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medgen.nn.fcnet import FCNet
from medgen.nn.highresnet import HighResNet
from medgen.nn.instance_unet import InstanceEncoder, InstanceUNet, he_initialise
from medgen.nn.unet import parameter_count

BASES = (FCNet, HighResNet, InstanceUNet)


def convolution_weights(network: nn.Module) -> int:
    """Weights of all convolutions, without biases and normalisations."""
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d)))


@pytest.mark.parametrize(
    ("base", "parameters", "weights"),
    [(FCNet, 592_160, 591_776), (HighResNet, 805_616, 804_272), (InstanceUNet, 11_343_328, 11_339_616)],
)
def test_the_bases_have_the_stated_sizes_at_the_papers_width(
    base: type[nn.Module], parameters: int, weights: int
) -> None:
    network = base(1, 32)
    assert (parameter_count(network), convolution_weights(network)) == (parameters, weights)


def test_highresnet_with_the_publications_last_layers_has_its_0_81_million_parameters() -> None:
    """Li et al. have 80 channels before 160 classes where we have 32."""
    kept = convolution_weights(HighResNet(1, 32)) - 64 * 32
    assert 0.805e6 < kept + 64 * 80 < 0.815e6


@pytest.mark.parametrize("base", BASES)
def test_features_have_the_width_and_the_inputs_size(base: type[nn.Module]) -> None:
    network = base(1, 8)
    assert network(torch.randn(2, 1, 16, 24, 8)).shape == (2, 8, 16, 24, 8)


@pytest.mark.parametrize(("base", "reach"), [(FCNet, 12), (HighResNet, 1 + 6 * (1 + 2 + 4))])
def test_a_voxel_sees_as_far_as_the_publications_say(base: type[nn.Module], reach: int) -> None:
    """FC-Net: two 5^3 and eight 3^3 convolutions; HighRes3DNet: 87 voxels across. Normalisation sees everything, so it
    is taken out, and ReLUs, which may hide a path."""
    network = base(1, 4)
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, (nn.InstanceNorm3d, nn.ReLU)):
                setattr(module, name, nn.Identity())
    side = 2 * reach + 5
    image = torch.zeros(1, 1, side, 1, 1, requires_grad=True)
    network(image)[0, :, side // 2].sum().backward()
    assert image.grad is not None
    seen = torch.nonzero(image.grad[0, 0, :, 0, 0].abs() > 0).flatten() - side // 2
    assert (int(seen.min()), int(seen.max())) == (-reach, reach)


def test_the_shortcut_of_a_widening_block_gets_zero_channels() -> None:
    block = HighResNet(1, 8).layers[6]
    last = block.layers[-1]
    nn.init.zeros_(last.weight)
    features = torch.randn(1, 4, 6, 6, 6)
    found = block(features).detach()
    torch.testing.assert_close(found[:, :4], features)
    assert float(found[:, 4:].abs().max()) == 0


def test_odd_widths_are_refused_by_the_residual_network() -> None:
    with pytest.raises(ValueError, match="even"):
        HighResNet(1, 7)


def test_the_encoder_halves_the_size_and_doubles_the_width() -> None:
    shapes = [tuple(level.shape[1:]) for level in InstanceEncoder(1, 4)(torch.randn(1, 1, 16, 16, 16))]
    assert shapes == [(4, 16, 16, 16), (8, 8, 8, 8), (16, 4, 4, 4), (32, 2, 2, 2)]


@pytest.mark.parametrize(
    "layer", [nn.Conv3d(8, 16, 3, padding=1), nn.Conv3d(1, 64, 5), nn.ConvTranspose3d(16, 16, 4, stride=2, padding=1)]
)
def test_he_initialisation_keeps_the_second_moment_through_a_leaky_relu(layer: nn.Module) -> None:
    """He et al.: E[y^2] after convolution and rectifier is E[x^2] before, whatever the width."""
    torch.manual_seed(0)
    he_initialise(layer, 0.2)
    found = nn.functional.leaky_relu(layer(torch.randn(4, layer.in_channels, 14, 14, 14)), 0.2)
    assert float(found[..., 3:-3, 3:-3, 3:-3].square().mean()) == pytest.approx(1, rel=0.1)
