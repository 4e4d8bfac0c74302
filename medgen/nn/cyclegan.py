"""The networks of CycleGAN: a generator of residual blocks, the PatchGAN discriminator, and the pool of past images.

Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017,
appendix 7.2. With three channels, width 64 and nine blocks a generator has 11.378 million parameters, a discriminator
of 70 x 70 pixels 2.765 million, as the authors' program says when it starts. Their training is in `medgen.cyclegan`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def _normalised(width: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(width), nn.ReLU(inplace=True)]


class _Residual(nn.Module):
    """x + two 3 x 3 convolutions, edges mirrored."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for activated in (True, False):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), *_normalised(width)[: 2 if activated else 1]]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Generator(nn.Module):
    """(N, inputs, h, w), multiples of 4 -> (N, outputs, h, w) in -1..1.

    width: channels of the first layer (paper: 64); blocks: residual blocks at a quarter of the size (paper: 9 for
    images of 256 pixels and more, 6 for smaller ones).
    """

    def __init__(self, inputs: int = 3, outputs: int = 3, width: int = 64, blocks: int = 9) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(inputs, width, 7), *_normalised(width)]
        for channels in (width, 2 * width):
            layers += [nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), *_normalised(2 * channels)]
        layers += [_Residual(4 * width) for _ in range(blocks)]
        for channels in (4 * width, 2 * width):
            up = nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)
            layers += [up, *_normalised(channels // 2)]
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, outputs, 7), nn.Tanh())
        self.apply(_initialised)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class PatchGAN(nn.Module):
    """(N, inputs, h, w) -> one logit a patch (N, 1, h', w'): is it real?

    layers: convolutions of stride 2; 3 make patches of 70 x 70 pixels, 4 of 142, 5 of 286. width: channels of the
    first (paper: 64); each next has twice as many, at most 8 times. norm: instance normalisation, as in the paper;
    without it, levels and contrasts that a whole image has count too.
    """

    def __init__(self, inputs: int = 3, width: int = 64, layers: int = 3, norm: bool = True) -> None:
        super().__init__()
        steps: list[nn.Module] = [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        channels = width
        for number in range(1, layers + 1):
            wider = width * min(2**number, 8)
            steps += [
                nn.Conv2d(channels, wider, 4, stride=2 if number < layers else 1, padding=1),
                nn.InstanceNorm2d(wider) if norm else nn.Identity(),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            channels = wider
        self.layers = nn.Sequential(*steps, nn.Conv2d(channels, 1, 4, padding=1))
        self.apply(_initialised)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def _initialised(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class ImagePool:
    """The last images that a generator made (Shrivastava et al., 2017), for its discriminator; part of a checkpoint.

    size: images that it holds (paper: 50); 0 gives every image back as it came.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def exchanged(self, images: Tensor, random: np.random.Generator) -> Tensor:
        """A batch (N, ...) of the same shape: while the pool fills, the images themselves; then each, by half a chance,
        changed for one of the pool, in which it takes that one's place."""
        given = []
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image.clone())
                given.append(image)
            elif self.size and random.uniform() < 0.5:
                number = int(random.integers(self.size))
                given.append(self.images[number].to(image.device))  # a checkpoint's are on the CPU
                self.images[number] = image.clone()
            else:
                given.append(image)
        return torch.stack(given)

    def state_dict(self) -> dict[str, Any]:
        """The images."""
        return {"images": [image.cpu() for image in self.images]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.images = list(state["images"])
