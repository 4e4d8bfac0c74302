"""The 3D fully convolutional network of Nie et al. (2016), which estimates CT from MR without pooling.

Nie, Cao, Gao, Wang, Shen: Estimating CT Image from MRI Data Using 3D Fully Convolutional Networks (LABELS 2016). Widths
and kernels are those of the network the authors published beside it, without its deep supervision, which the paper
leaves out too: 5^3 and four 3^3 convolutions of 32 channels, 5^3 and 3^3 of 64, three 3^3 of 32, each with a ReLU and
none normalised. There the 5^3 convolutions are not padded (32^3 voxels in, 24^3 out); here all are, so that the output
has the input's size.
"""

from __future__ import annotations

from torch import Tensor, nn


class FCNet(nn.Module):
    """(N, in_channels, i, j, k) -> features (N, width, i, j, k) of the penultimate layer; any size.

    592 160 parameters at one input channel and the published width, 32.
    """

    multiple = 1  # sizes need not be divisible by anything

    def __init__(self, in_channels: int = 1, width: int = 32) -> None:
        super().__init__()
        kernels = (5, 3, 3, 3, 3, 5, 3, 3, 3, 3)
        widths = (in_channels, *[width] * 5, *[2 * width] * 2, *[width] * 3)
        layers: list[nn.Module] = []
        for kernel, before, after in zip(kernels, widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv3d(before, after, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
