"""The U-Net of Ronneberger et al. (2015) and of Cicek et al. (2016), in two or three dimensions.

Multi-planar form (Laprade et al. 2021; Perslev et al. 2019): nearest-neighbour up-sampling followed by a 2 x 2
convolution in place of the transposed convolution, padded convolutions, and batch normalisation after every
convolution but the last: two in an encoder or bottom block, three in a decoder block (one after the 2 x 2
convolution). With one channel in and out and base width 64 that gives the paper's 31 044 289 parameters.

3D U-Net form (`UNet.cicek`): three down-samplings, widths that double at the second convolution of a block
(32-64, 64-128, ...), 2 x 2 x 2 transposed convolutions that keep the width. It differs from the publication in its
padded convolutions, so that the output has the input's size.

`UNet.ellis` is the 3D U-Net of D. G. Ellis's Keras code (3DUnetCNN, 2017): the same widths, nearest-neighbour
up-sampling without a convolution of its own.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Up = Literal["nearest", "transposed", "repeat"]
_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def _convolution(dims: int, width_in: int, width_out: int, kernel: int) -> list[nn.Module]:
    """Convolution, batch normalisation, ReLU; padded so that the size stays (a 2-wide kernel: one zero behind)."""
    layers: list[nn.Module] = []
    if kernel == 2:
        layers.append(nn.ConstantPad2d((0, 1) * 2, 0.0) if dims == 2 else nn.ConstantPad3d((0, 1) * 3, 0.0))
    layers += [_CONV[dims](width_in, width_out, kernel, padding=1 if kernel == 3 else 0)]
    return [*layers, _NORM[dims](width_out), nn.ReLU(inplace=True)]


def _block(dims: int, width_in: int, width_middle: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        *_convolution(dims, width_in, width_middle, 3), *_convolution(dims, width_middle, width_out, 3)
    )


class _Up(nn.Module):
    """Twice the size, then joined to the encoder's output of that size."""

    def __init__(self, dims: int, width_in: int, width_up: int, kind: Up) -> None:
        super().__init__()
        if kind == "nearest":
            layers = [nn.Upsample(scale_factor=2, mode="nearest"), *_convolution(dims, width_in, width_up, 2)]
        elif kind == "repeat":
            layers = [nn.Upsample(scale_factor=2, mode="nearest")]
        else:
            layers = [_TRANSPOSED[dims](width_in, width_up, 2, stride=2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat((skip, self.layers(x)), dim=1)


class UNet(nn.Module):
    """(N, in_channels, spatial...) -> logits (N, out_channels, spatial...); each size a multiple of `multiple`.

    Args:
        dims: 2 or 3 spatial dimensions.
        in_channels, out_channels: one output channel is the logit of one structure, several are for a softmax.
        base_width: channels of the first level (paper: 64).
        levels: number of down-samplings (paper: 4).
        up: nearest + 2-wide convolution (multi-planar), transposed convolution (3D U-Net), or nearest alone (repeat).
        widen: whether a block's first or second convolution doubles the width.
    """

    def __init__(
        self,
        dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 1,
        base_width: int = 64,
        levels: int = 4,
        up: Up = "nearest",
        widen: Literal["first", "second"] = "first",
    ) -> None:
        super().__init__()
        self.multiple = 2**levels
        widths = [base_width * 2**level for level in range(levels + 1)]
        middles = widths if widen == "first" else [width // 2 for width in widths]
        self.encoder = nn.ModuleList(
            _block(dims, in_channels if level == 0 else widths[level - 1], middles[level], widths[level])
            for level in range(levels + 1)
        )
        self.pool = _POOL[dims](2)
        up_widths = [widths[level] if up == "nearest" else widths[level + 1] for level in range(levels)]
        self.ups = nn.ModuleList(_Up(dims, widths[level + 1], up_widths[level], up) for level in range(levels))
        self.decoder = nn.ModuleList(
            _block(dims, widths[level] + up_widths[level], widths[level], widths[level]) for level in range(levels)
        )
        self.head = _CONV[dims](widths[0], out_channels, 1)

    @classmethod
    def cicek(cls, in_channels: int = 1, out_channels: int = 1, base_width: int = 64) -> UNet:
        """The 3D U-Net; `base_width` is what its first block gives out (publication: 64)."""
        return cls(3, in_channels, out_channels, base_width, levels=3, up="transposed", widen="second")

    @classmethod
    def ellis(cls, in_channels: int = 1, out_channels: int = 1, first_width: int = 32) -> UNet:
        """Ellis's 3D U-Net of four levels; `first_width` is what its first convolution gives out (publication: 32)."""
        return cls(3, in_channels, out_channels, 2 * first_width, levels=3, up="repeat", widen="second")

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = x if level == 0 else self.pool(x)
            # On a CPU, gradients in bfloat16 of kernels of 3 on 2 voxels are not finite at times (oneDNN, torch 2.13).
            if min(x.shape[2:]) < 3:
                with torch.autocast(x.device.type, enabled=False):
                    x = block(x.float())
            else:
                x = block(x)
            skips.append(x)
        x = skips.pop()
        for up, block in zip(reversed(list(self.ups)), reversed(list(self.decoder)), strict=True):
            x = block(up(x, skips.pop()))
        return self.head(x)


def parameter_count(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
