"""ResNeXt, DeepLabv3+ and the U-Net with a ResNeXt encoder: their sizes against published ones, and what they give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medgen.landmarks.suture_heatmap import ResNeXtUNet
from medgen.nn.deeplab import ASPP, DeepLabv3Plus
from medgen.nn.resnet import ResNet
from medgen.nn.unet import parameter_count

CLASSIFIER = 2048 * 1000 + 1000  # ImageNet's, which ours leave out


@pytest.mark.parametrize(("kind", "published"), [("resnet-50", 25_557_032), ("resnext-50", 25_028_904)])
def test_residual_networks_have_torchvisions_parameters_but_for_the_classifier(kind: str, published: int) -> None:
    with torch.device("meta"):
        network = ResNet(kind, 64, norm=nn.BatchNorm2d)  # type: ignore[arg-type]
    assert parameter_count(network) == published - CLASSIFIER


def test_a_narrow_resnext_keeps_four_channels_a_group() -> None:
    groups = [
        layer for layer in ResNet("resnext-14", 16).modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1
    ]
    assert [layer.in_channels // layer.groups for layer in groups] == [4, 8, 16, 32]


def test_aspp_and_resnet_have_torchvisions_deeplabv3_parameters() -> None:
    with torch.device("meta"):
        body = parameter_count(ResNet("resnet-50", 64, norm=nn.BatchNorm2d)) + parameter_count(ASPP(2048, 256))
    head = 256 * 256 * 9 + 2 * 256 + 256 * 21 + 21
    auxiliary = 1024 * 256 * 9 + 2 * 256 + 256 * 21 + 21
    assert body + head + auxiliary == 42_004_074


def test_the_decoder_of_deeplabv3_plus_has_the_papers_layers() -> None:
    """1 x 1 from 256 to 48 channels, then two 3 x 3 from 256 + 48 and 256 to 256, each with its normalisation."""
    with torch.device("meta"):
        network = DeepLabv3Plus()
        without = parameter_count(network.encoder) + parameter_count(network.aspp)
    expected = 256 * 48 + 2 * 48 + (256 + 48) * 256 * 9 + 2 * 256 + 256 * 256 * 9 + 2 * 256
    assert parameter_count(network) - without == expected


def test_the_u_net_has_the_parameters_of_the_usual_one_on_resnext() -> None:
    """A decoder of 256 to 16 channels on ResNet-50 makes 32 521 105 with a 3 x 3 head, as its users print it."""
    with torch.device("meta"):
        network = ResNeXtUNet("resnext-50", 64, 16)
    decoder = parameter_count(network) - parameter_count(network.encoder) - 17
    assert 25_557_032 - CLASSIFIER + decoder + 16 * 9 + 1 == 32_521_105


def test_the_last_stage_is_dilated_instead_of_halved() -> None:
    images = torch.randn(2, 3, 64, 96)
    assert [one.shape[-2:] for one in ResNet("resnet-18", 8, dilated=True)(images)][-2:] == [(4, 6), (4, 6)]
    assert [one.shape[-1] for one in ResNet("resnet-18", 8)(images)] == [24, 12, 6, 3]


def test_deeplab_gives_features_at_a_quarter_of_the_size_for_one_image_and_for_several() -> None:
    network = DeepLabv3Plus("resnet-18", 8, 16, 4)
    assert network.train()(torch.randn(1, 3, 64, 96)).shape == (1, 16, 16, 24)
    found = network.eval()(torch.randn(3, 3, 64, 96))
    assert found.shape == (3, 16, 16, 24) and network.channels == 16


def test_aspp_sees_far() -> None:
    aspp = ASPP(2, 4, (6, 12)).eval()
    features = torch.randn(1, 2, 41, 41, requires_grad=True)
    aspp.near[2][0](features)[0, :, 20, 20].sum().backward()
    assert features.grad is not None
    rows = features.grad[0].abs().sum(dim=(0, 2)).nonzero().flatten().tolist()
    assert rows == [8, 20, 32]


def test_every_weight_of_the_u_net_learns() -> None:
    network = ResNeXtUNet("resnext-14", 16, 4)
    network(torch.randn(2, 3, 64, 96)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
