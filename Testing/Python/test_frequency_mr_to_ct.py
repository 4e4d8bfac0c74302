"""Frequency-supervised MR-to-CT: its modules and losses, its pairs and crops, and that it does its job."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medgen.nn.unet import parameter_count
from medgen.synthesis.frequency_mr_to_ct import (
    DecompositionLayer,
    Discriminator,
    FrequencyMRToCT,
    FrequencySynthesis,
    PlainSynthesis,
    RefinementModule,
    TrainConfig,
    build_base,
    build_network,
    discriminator_loss,
    frequency_loss,
    generator_loss,
    low_pass,
)

METHOD = FrequencyMRToCT()
TRAIN, APPLY = METHOD.operation("train"), METHOD.operation("apply")


def train_config(**settings: Any) -> TrainConfig:
    config = TRAIN.configure("smoke", settings)
    assert isinstance(config, TrainConfig)
    return config


def convolution_weights(network: nn.Module) -> int:
    """Weights of all convolutions, without biases and normalisations."""
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv3d))


# --- the modules


@pytest.mark.parametrize(("kernel", "weights"), [(13, 119_808), (19, 175_104), (7, 64_512), (3, 27_648)])
def test_the_refinement_module_has_9_k_c_squared_weights(kernel: int, weights: int) -> None:
    """Table 2: 119.8k for k = 13, 175.1k for k = 19; its 64.5k, printed as K = 3, is what k = 7 has."""
    module = RefinementModule(32, kernel)
    assert convolution_weights(module) == weights
    assert all(m.bias is None for m in module.modules() if isinstance(m, nn.Conv3d))


def test_each_branch_of_the_refinement_is_one_cyclic_order_of_the_axes() -> None:
    module = RefinementModule(4, 5)
    orders = [[step[0].kernel_size.index(5) for step in branch] for branch in module.branches]
    assert orders == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]


def test_permuting_the_axes_cyclically_permutes_the_branches() -> None:
    """With one set of weights in all three branches, the module of a turned volume is the turned module's."""
    torch.manual_seed(0)
    module = RefinementModule(3, 5)
    for branch, (step, layer) in itertools.product(module.branches[1:], enumerate(module.branches[0])):
        weight = branch[step][0].weight
        weight.data = layer[0].weight.data.reshape(weight.shape)
    features = torch.randn(1, 3, 6, 7, 8)
    turned = features.permute(0, 1, 3, 4, 2)
    torch.testing.assert_close(module(turned), module(features).permute(0, 1, 3, 4, 2), atol=1e-4, rtol=1e-4)
    for branch in range(3):
        torch.testing.assert_close(
            module.branches[branch](turned),
            module.branches[(branch + 1) % 3](features).permute(0, 1, 3, 4, 2),
            atol=1e-4,
            rtol=1e-4,
        )


def test_a_voxel_of_the_refinement_sees_half_a_kernel_each_way() -> None:
    module = RefinementModule(2, 13)
    for part in module.modules():
        for name, child in list(part.named_children()):
            if isinstance(child, (nn.InstanceNorm3d, nn.LeakyReLU)):
                setattr(part, name, nn.Identity())
    image = torch.zeros(1, 2, 17, 17, 17, requires_grad=True)
    module(image)[0, :, 8, 8, 8].sum().backward()
    assert image.grad is not None
    seen = torch.nonzero(image.grad.abs().sum(dim=(0, 1)) > 0)
    assert seen.amin(dim=0).tolist() == [2, 2, 2] and seen.amax(dim=0).tolist() == [14, 14, 14]


def test_the_decomposition_parts_the_features_without_loss() -> None:
    torch.manual_seed(0)
    layer, features = DecompositionLayer(6), torch.randn(2, 6, 5, 6, 7)
    probabilities = layer.probabilities(features)
    assert probabilities.shape == (2, 2, 5, 6, 7) and float(probabilities.min()) > 0
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 5, 6, 7))
    low, high = layer(features)
    torch.testing.assert_close(low, probabilities[:, :1] * features)
    torch.testing.assert_close(low + high, features)


@pytest.mark.parametrize("base", ["u-net", "res-net", "fc-net"])
def test_the_output_is_the_sum_of_its_frequencies(base: Any) -> None:
    torch.manual_seed(0)
    network = FrequencySynthesis(base, 4, 3).eval()
    mr = torch.randn(2, 1, 16, 16, 16)
    low, high = network.frequencies(mr)
    assert low.shape == high.shape == (2, 1, 16, 16, 16)
    torch.testing.assert_close(network(mr), low + high)


def test_the_network_adds_to_its_base_what_the_paper_names() -> None:
    """Decomposition, two heads and the refinement; the plain arm has the base and one head."""
    whole, plain = FrequencySynthesis("u-net", 32, 13), PlainSynthesis("u-net", 32)
    base = parameter_count(build_base("u-net", 32))
    head = 27 * 32 + 1
    norms = 9 * 2 * 32
    assert parameter_count(plain) == base + head
    assert parameter_count(whole) == base + 2 * head + (27 * 32 * 2 + 2) + 119_808 + norms


def test_the_discriminator_is_the_u_nets_encoder() -> None:
    encoder = build_base("u-net", 32).encoder
    assert parameter_count(Discriminator(32)) == parameter_count(encoder) + 256 + 1
    assert Discriminator(4)(torch.randn(3, 1, 16, 16, 16)).shape == (3,)


def test_settings_choose_the_network() -> None:
    assert isinstance(build_network(train_config(supervision="plain")), PlainSynthesis)
    network = build_network(train_config(base="fc-net", width=6, kernel=9))
    assert isinstance(network, FrequencySynthesis)
    assert convolution_weights(network.refinement) == 9 * 9 * 6**2
    assert convolution_weights(network.base) == convolution_weights(build_base("fc-net", 6))


# --- losses


def test_the_adversarial_losses_are_half_the_relativistic_average_ones() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(4, dtype=torch.float64) * 2, torch.randn(4, dtype=torch.float64) * 2

    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    judge = [logistic(float(r - fake.mean())) for r in real], [logistic(float(f - real.mean())) for f in fake]
    expected = -(np.log(judge[0]).mean() + np.log(1 - np.asarray(judge[1])).mean()) / 2
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-9)
    expected = -(np.log(1 - np.asarray(judge[0])).mean() + np.log(judge[1]).mean()) / 2
    assert float(generator_loss(real, fake)) == pytest.approx(expected, rel=1e-9)


def test_the_adversarial_losses_are_log_2_where_nothing_is_told_apart_and_stay_finite() -> None:
    same = torch.zeros(1)
    assert float(discriminator_loss(same, same)) == pytest.approx(math.log(2))
    assert float(discriminator_loss(same + 200, same - 200)) == pytest.approx(0)
    assert float(generator_loss(same + 200, same - 200)) == pytest.approx(400)


def test_equation_1() -> None:
    torch.manual_seed(0)
    low, high, ct, ct_high = torch.rand(4, 2, 1, 3, 3, 3)
    expected = (high - ct_high).abs().mean() + (low + high - ct).abs().mean()
    torch.testing.assert_close(frequency_loss(low, high, ct, ct_high), expected)


# --- frequencies


def test_the_gaussian_low_pass_has_sigma_in_millimetres() -> None:
    """A point becomes a Gaussian of sigma mm: its second moment says so, whatever the voxel."""
    for voxel in (1.0, 2.0):
        config = train_config(voxel=voxel, sigma=4.0)
        point = torch.zeros(1, 41, 41, 41)
        point[0, 20, 20, 20] = 1
        low = low_pass(point, config)[0].double()
        distance = (torch.arange(41, dtype=torch.float64) - 20) * voxel
        assert float(low.sum()) == pytest.approx(1, abs=1e-3)
        assert float((low.sum(dim=(1, 2)) * distance**2).sum()) == pytest.approx(16, rel=0.02)


def test_the_box_low_pass_is_the_mean_of_16_voxels_with_zeros_beyond() -> None:
    low = low_pass(torch.ones(1, 40, 40, 40), train_config(low_pass="box"))[0]
    assert float(low[20, 20, 20]) == pytest.approx(1, abs=1e-5)
    assert float(low[0, 20, 20]) == pytest.approx(0.5, abs=1e-5) and float(low[0, 0, 0]) == pytest.approx(
        1 / 8, abs=1e-5
    )


# --- settings


def test_the_paper_tier_is_the_paper() -> None:
    config = TRAIN.configure("paper", {})
    assert isinstance(config, TrainConfig)
    assert (config.base, config.supervision, config.adversarial) == ("u-net", "frequency", True)
    assert (config.width, config.kernel, config.sigma, config.crop, config.batch_size) == (32, 13, 15.0, 64, 1)
    assert (config.updates, config.learning_rate, config.rotation) == (5000 * 36, 1e-3, 10)
    assert config.highest - config.lowest == pytest.approx(3276.7)
    assert sum(config.stages) == config.updates and config.stages[0] == 30_000
