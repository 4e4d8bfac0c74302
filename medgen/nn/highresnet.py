"""HighRes3DNet of Li et al. (2017): residual blocks at full resolution, with dilations in place of pooling.

Li, Wang, Fidon, Ourselin, Cardoso, Vercauteren: On the Compactness, Efficiency, and Representation of 3D Convolutional
Networks: Brain Parcellation as a Pretext Task (IPMI 2017), table 1: a 3^3 convolution of 16 channels; three residual
blocks each of 16, 32 and 64 channels with dilations 1, 2 and 4, every block two times normalisation, ReLU, 3^3
convolution, with zero channels added to the shortcut where a block widens; a 1^3 convolution. The publication's
last-but-one layer has 80 channels, which serve 160 classes; here it has `width`, so that whatever follows sees as many
features as with any other base. Normalisation is over each image (instance normalisation): the methods that use this
network train on one crop at a time, where a batch has no statistics of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Residual(nn.Module):
    """x -> x + two times (normalisation, ReLU, 3^3 convolution); the shortcut gets zero channels where it widens."""

    def __init__(self, width_in: int, width_out: int, dilation: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (width_in, width_out):
            layers += [
                nn.InstanceNorm3d(before, affine=True),
                nn.ReLU(inplace=True),
                nn.Conv3d(before, width_out, 3, padding=dilation, dilation=dilation, bias=False),
            ]
        self.layers = nn.Sequential(*layers)
        self.added = width_out - width_in

    def forward(self, x: Tensor) -> Tensor:
        change = self.layers(x)
        if self.added:
            lead = x.shape[1]
            return torch.cat((change[:, :lead] + x, change[:, lead:]), dim=1)
        return change + x


class HighResNet(nn.Module):
    """(N, in_channels, i, j, k) -> features (N, width, i, j, k) of the penultimate layer; any size.

    width: twice the publication's first width (32 there: 16, 32 and 64 channels), an even number. 805 616 parameters
    at one input channel and width 32, 804 272 of them in convolutions.
    """

    multiple = 1  # sizes need not be divisible by anything

    def __init__(self, in_channels: int = 1, width: int = 32) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"width must be even, not {width}")
        first = width // 2
        layers: list[nn.Module] = [
            nn.Conv3d(in_channels, first, 3, padding=1, bias=False),
            nn.InstanceNorm3d(first, affine=True),
            nn.ReLU(inplace=True),
        ]
        before = first
        for dilation in (1, 2, 4):
            for _ in range(3):
                layers.append(_Residual(before, first * dilation, dilation))
                before = first * dilation
        layers += [nn.Conv3d(before, width, 1, bias=False), nn.InstanceNorm3d(width, affine=True)]
        self.layers = nn.Sequential(*layers, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
