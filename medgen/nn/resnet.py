"""Residual networks (He et al., 2016; Xie et al., 2017: ResNeXt) as feature extractors, and the feature pyramid on them
(Lin et al., 2017).

Names of the parts are torchvision's, so that a file of its ImageNet weights fits. With such weights batch normalisation
is frozen, as detectors keep it; without, layers are normalised in groups (Wu and He, 2018), which learns from scratch
with few images a batch and sees the same with one process as with several.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.errors import UserError

Backbone = Literal["resnet-18", "resnet-50", "resnext-14", "resnext-50"]
_LAYERS = {"resnet-18": (2, 2, 2, 2), "resnet-50": (3, 4, 6, 3), "resnext-14": (1, 1, 1, 1), "resnext-50": (3, 4, 6, 3)}
_MEAN, _SPREAD = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)  # ImageNet's red, green and blue
Norm = Callable[[int], nn.Module]


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose statistics, scale and shift stay as they were loaded."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, ...) of the same shape."""
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        return inputs * scale.reshape(shape).to(inputs.dtype) + shift.reshape(shape).to(inputs.dtype)


def group_norm(channels: int) -> nn.Module:
    """Group normalisation in groups of 8 channels or more, at most 32 groups."""
    return nn.GroupNorm(math.gcd(channels, max(1, min(32, channels // 8))), channels)


class Block(nn.Module):
    """Two 3x3 convolutions, or (bottleneck) 1x1, 3x3 and 1x1 with four times the channels, beside a shortcut.

    groups: of a bottleneck's 3x3, whose channels are then doubled (ResNeXt). dilation: of its 3x3.
    """

    def __init__(
        self, inputs: int, width: int, stride: int, bottleneck: bool, norm: Norm, groups: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.outputs = width * (4 if bottleneck else 1)
        if bottleneck:
            width = width if groups == 1 else 2 * width
            self.conv1, self.conv2 = _conv(inputs, width, 1), _conv(width, width, 3, stride, groups, dilation)
            self.conv3, self.bn3 = _conv(width, self.outputs, 1), norm(self.outputs)
        else:
            self.conv1 = _conv(inputs, width, 3, stride, dilation=dilation)
            self.conv2 = _conv(width, width, 3, dilation=dilation)
        self.bn1, self.bn2 = norm(width), norm(width)
        self.bottleneck = bottleneck
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != self.outputs:
            self.downsample = nn.Sequential(_conv(inputs, self.outputs, 1, stride), norm(self.outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, h / stride, w / stride)."""
        found = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(inputs)))))
        if self.bottleneck:
            found = self.bn3(self.conv3(F.relu(found)))
        return F.relu(found + (inputs if self.downsample is None else self.downsample(inputs)))


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (size // 2)
    layer = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class ResNet(nn.Module):
    """The stages of a residual network: (N, 3, h, w) -> features at strides 4, 8, 16 and 32.

    width: channels of the first stage (64 in the paper). frozen: batch normalisation that does not learn, for
    `load_imagenet`; otherwise `norm` (group normalisation). dilated: the last stage looks at every other pixel instead
    of halving the size again. The fully connected layer is left out. ResNeXt has width / 2 groups, in the first stage
    of 4 channels each.
    """

    def __init__(
        self, kind: Backbone, width: int = 64, frozen: bool = False, norm: Norm = group_norm, dilated: bool = False
    ) -> None:
        super().__init__()
        norm = FrozenBatchNorm if frozen else norm
        self.conv1, self.bn1 = _conv(3, width, 7, 2), norm(width)
        bottleneck, groups = kind != "resnet-18", width // 2 if kind.startswith("resnext") else 1
        channels, self.channels = width, []
        for number, count in enumerate(_LAYERS[kind]):
            blocks = []
            for first in (index == 0 for index in range(count)):
                spread = dilated and number == 3
                stride = 2 if first and number and not spread else 1
                blocks.append(Block(channels, width * 2**number, stride, bottleneck, norm, groups, 2 if spread else 1))
                channels = blocks[-1].outputs
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
            self.channels.append(channels)

    def stem(self, images: Tensor) -> Tensor:
        """(N, width, h / 2, w / 2): what all stages build on."""
        return F.relu(self.bn1(self.conv1(images)))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of the four stages."""
        return self.stages(self.stem(images))

    def stages(self, stem: Tensor) -> list[Tensor]:
        """Features of the four stages, from the stem's."""
        found = F.max_pool2d(stem, 3, 2, padding=1)
        stages = []
        for number in range(4):
            found = self.get_submodule(f"layer{number + 1}")(found)
            stages.append(found)
        return stages


class Pyramid(nn.Module):
    """Feature pyramid: stages' features -> maps of `channels` at their strides and, by subsampling, at 64."""

    def __init__(self, inputs: list[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in inputs)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)
        for layer in (*self.lateral, *self.smooth):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        """Finest first."""
        merged = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        for level in range(len(merged) - 2, -1, -1):
            coarser = F.interpolate(merged[level + 1], size=merged[level].shape[-2:], mode="nearest")
            merged[level] = merged[level] + coarser
        maps = [smooth(one) for smooth, one in zip(self.smooth, merged, strict=True)]
        return [*maps, F.max_pool2d(maps[-1], 1, 2)]


class PyramidNetwork(nn.Module):
    """What detectors stand on: frames (N, 3, rows, columns) of values 0..255 -> the maps of a feature pyramid.

    finest: the backbone's stage that the finest map comes from: 0 has stride 4, 1 stride 8. The rest as in `ResNet`.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, kind: Backbone, width: int, channels: int, frozen: bool, finest: int = 0) -> None:
        super().__init__()
        self.finest = finest
        self.backbone = ResNet(kind, width, frozen)
        self.pyramid = Pyramid(self.backbone.channels[finest:], channels)
        self.register_buffer("mean", torch.tensor(_MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(_SPREAD).reshape(1, 3, 1, 1), persistent=False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The pyramid's maps; frames are padded to multiples of 32 at their right and lower edges."""
        rows, columns = images.shape[-2:]
        scaled = F.pad((images - self.mean) / self.spread, (0, -columns % 32, 0, -rows % 32))
        return list(self.pyramid(self.backbone(scaled)[self.finest :]))


def load_imagenet(network: ResNet, path: Path) -> None:
    """Put ImageNet weights into a frozen `ResNet`, from a file with torchvision's names (.safetensors, or a .pth state
    dict, read without running code from it); the classifier's are left out. UserError where they do not fit."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path} does not exist; correct the path of the ImageNet weights or leave it empty.")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        wanted = network.state_dict()
        missing = [name for name in wanted if name not in weights or weights[name].shape != wanted[name].shape]
    except Exception:
        raise UserError(f"{path} is not a readable file of weights; give a .safetensors or .pth state dict.") from None
    if missing:
        raise UserError(
            f"{path} does not fit the backbone ({missing[0]} is missing or of another shape); give the ImageNet "
            "weights of the same residual network, at width 64."
        )
    network.load_state_dict({name: weights[name] for name in wanted})
