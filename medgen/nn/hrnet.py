"""HRNet: branches of four resolutions side by side that exchange what they see, again and again.

Sun, Xiao, Liu, Wang: Deep High-Resolution Representation Learning for Human Pose Estimation, CVPR 2019 (the network);
Wang et al.: Deep High-Resolution Representation Learning for Visual Recognition, TPAMI 2020 (all four branches joined).

With three channels in, the pose network (the finest branch, 17 joints) has 28.5 million parameters at width 32 and 63.6
million at width 48, as table 1 of the first publication says.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_STEM = 64


def _convolution(width_in: int, width_out: int, kernel: int, stride: int = 1, active: bool = True) -> nn.Sequential:
    """Convolution, batch normalisation and, where `active`, ReLU; the size is divided by the stride."""
    layers: list[nn.Module] = [
        nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width_out),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if active else nn.Sequential(*layers)


class _Residual(nn.Module):
    """ReLU(shortcut + body): a basic block (two 3 x 3) or a bottleneck (1 x 1, 3 x 3, 1 x 1 to 4 times the width)."""

    def __init__(self, width_in: int, width: int, bottleneck: bool = False) -> None:
        super().__init__()
        width_out = 4 * width if bottleneck else width
        if bottleneck:
            layers = [_convolution(width_in, width, 1), _convolution(width, width, 3)]
            self.body = nn.Sequential(*layers, _convolution(width, width_out, 1, active=False))
        else:
            self.body = nn.Sequential(_convolution(width_in, width, 3), _convolution(width, width, 3, active=False))
        same = width_in == width_out
        self.shortcut = nn.Identity() if same else _convolution(width_in, width_out, 1, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


class _Exchange(nn.Module):
    """Every branch gives to every other: coarser ones by a 1 x 1 convolution and enlarging, finer ones by 3 x 3
    convolutions of stride 2; their sum, through a ReLU, is what a branch goes on with."""

    def __init__(self, widths: list[int], outputs: int) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(len(widths)))
            for target in range(outputs)
        )

    @staticmethod
    def _path(widths: list[int], source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:
            enlarged = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
            return nn.Sequential(_convolution(widths[source], widths[target], 1, active=False), enlarged)
        steps = target - source
        layers = [_convolution(widths[source], widths[source], 3, stride=2) for _ in range(steps - 1)]
        return nn.Sequential(*layers, _convolution(widths[source], widths[target], 3, stride=2, active=False))

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        result = []
        for paths in self.paths:
            given = [path(branch) for path, branch in zip(paths, branches, strict=True)]  # type: ignore[call-overload]
            result.append(F.relu(functools.reduce(torch.add, given)))
        return result


class _Stage(nn.Module):
    """Modules of one stage: in each, every branch's basic blocks, then the exchange."""

    def __init__(self, widths: list[int], modules: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Sequential(*[_Residual(width, width) for _ in range(blocks)]) for width in widths)
            for _ in range(modules)
        )
        given = [len(widths)] * (modules - 1) + [outputs]
        self.exchanges = nn.ModuleList(_Exchange(widths, count) for count in given)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        for blocks, exchange in zip(self.blocks, self.exchanges, strict=True):
            through = [block(branch) for block, branch in zip(blocks, branches, strict=True)]  # type: ignore[call-overload]
            branches = exchange(through)
        return branches


class HRNet(nn.Module):
    """(N, inputs, H, W), both multiples of 32 -> maps of widths C, 2C, 4C, 8C at a 4th, 8th, 16th, 32nd of the size.

    Args:
        width: C, channels of the finest branch (publications: 18, 32, 40, 48).
        inputs: channels of the image.
        bottlenecks: blocks of the first stage (publications: 4; the small form: 1).
        blocks: basic blocks of a branch in each module (publications: 4; the small form: 2).
        modules: of the stages with two, three and four branches (publications: 1, 4, 3; the small form: 1, 1, 1).
        finest_only: the last exchange gives the finest branch alone, as the pose network has it.
        stem: channels of the two convolutions that everything begins with (publications: 64).
    """

    def __init__(
        self,
        width: int = 18,
        inputs: int = 3,
        bottlenecks: int = 4,
        blocks: int = 4,
        modules: tuple[int, int, int] = (1, 4, 3),
        finest_only: bool = False,
        stem: int = _STEM,
    ) -> None:
        super().__init__()
        self.widths = [width * 2**level for level in range(4)]
        self.stem = nn.Sequential(_convolution(inputs, stem, 3, stride=2), _convolution(stem, stem, 3, stride=2))
        self.first = nn.Sequential(
            *[_Residual(stem if number == 0 else 4 * stem, stem, bottleneck=True) for number in range(bottlenecks)]
        )
        self.start = nn.ModuleList(
            [_convolution(4 * stem, self.widths[0], 3), _convolution(4 * stem, self.widths[1], 3, stride=2)]
        )
        self.next = nn.ModuleList(
            _convolution(self.widths[level], self.widths[level + 1], 3, stride=2) for level in (1, 2)
        )
        outputs = [2, 3, 1 if finest_only else 4]
        self.stages = nn.ModuleList(
            _Stage(self.widths[: number + 2], modules[number], blocks, outputs[number]) for number in range(3)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def small(cls, width: int = 18, inputs: int = 3) -> HRNet:
        """The small form (W18-C-Small-v1 of the authors' model zoo): a module a stage, two blocks a branch, half the
        first stage; here the stem too is narrowed with the width, to between 8 and 32 channels."""
        return cls(width, inputs, 1, 2, (1, 1, 1), stem=min(32, max(8, 2 * width)))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.first(self.stem(x))
        branches = [start(x) for start in self.start]
        for number, stage in enumerate(self.stages):
            branches = stage(branches)
            if number < 2:
                branches = [*branches, self.next[number](branches[-1])]
        return branches


def joined(branches: list[Tensor]) -> Tensor:
    """The branches enlarged (bilinear) to the finest one's size and concatenated: 15 C channels of all four."""
    size = branches[0].shape[-2:]
    coarse = [F.interpolate(branch, size=size, mode="bilinear", align_corners=False) for branch in branches[1:]]
    return torch.cat((branches[0], *coarse), dim=1)
