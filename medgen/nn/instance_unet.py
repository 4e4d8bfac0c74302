"""A 3D U-Net with instance normalisation and leaky ReLU, for image synthesis from one crop at a time.

The U-Net of Cicek et al. (2016) with the changes of Shi et al. (2021): two 3^3 convolutions a level, 32, 64, 128 and
256 channels, each with instance normalisation (epsilon 1e-5, learnt scale and shift) and leaky ReLU (slope 0.2);
2^3 max pooling; transposed 4^3 convolutions of stride 2 that keep the width, normalised likewise; skips joined before
each decoder block. Convolutions before a normalisation carry no bias, which it would take away again.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

SLOPE = 0.2  # of every leaky ReLU


def normalised(convolution: nn.Module, width: int) -> nn.Sequential:
    """A convolution, instance normalisation of its `width` channels, leaky ReLU."""
    return nn.Sequential(
        convolution, nn.InstanceNorm3d(width, eps=1e-5, affine=True), nn.LeakyReLU(SLOPE, inplace=True)
    )


def _block(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        normalised(nn.Conv3d(width_in, width_out, 3, padding=1, bias=False), width_out),
        normalised(nn.Conv3d(width_out, width_out, 3, padding=1, bias=False), width_out),
    )


class InstanceEncoder(nn.Module):
    """(N, in_channels, i, j, k) -> features of each level, fine to coarse: (N, width 2^l, i / 2^l, ...)."""

    def __init__(self, in_channels: int = 1, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        self.widths = [width * 2**level for level in range(levels)]
        befores = [in_channels, *self.widths[:-1]]
        self.blocks = nn.ModuleList(_block(*pair) for pair in zip(befores, self.widths, strict=True))
        self.pool = nn.MaxPool3d(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        for block in self.blocks:
            x = block(self.pool(features[-1]) if features else x)
            features.append(x)
        return features


class InstanceUNet(nn.Module):
    """(N, in_channels, i, j, k) -> features (N, width, i, j, k) of the penultimate layer; sizes multiples of 8.

    11 343 328 parameters at one input channel and the published width, 32, 11 339 616 of them in convolutions.
    """

    def __init__(self, in_channels: int = 1, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        self.multiple = 2 ** (levels - 1)
        self.encoder = InstanceEncoder(in_channels, width, levels)
        widths = self.encoder.widths
        self.ups = nn.ModuleList(
            normalised(nn.ConvTranspose3d(wide, wide, 4, stride=2, padding=1, bias=False), wide) for wide in widths[1:]
        )
        self.decoder = nn.ModuleList(_block(wide + narrow, narrow) for narrow, wide in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        *skips, x = self.encoder(x)
        for up, block, skip in zip(reversed(self.ups), reversed(self.decoder), reversed(skips), strict=True):
            x = block(torch.cat((up(x), skip), dim=1))
        return x


def he_initialise(network: nn.Module, slope: float = SLOPE) -> None:
    """He et al. (2015): zero biases, and weights drawn from N(0, g^2 / n) with n the inputs that meet in one output
    voxel and g^2 = 2 / (1 + slope^2). Random numbers from torch's global generator."""
    gain = (2 / (1 + slope**2)) ** 0.5
    for layer in network.modules():
        if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
            taps = layer.weight[0, 0].numel()
            if isinstance(layer, nn.ConvTranspose3d):  # a stride leaves that share of the kernel for each voxel
                taps //= layer.stride[0] * layer.stride[1] * layer.stride[2]
            nn.init.normal_(layer.weight, std=gain / (layer.in_channels * taps) ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
