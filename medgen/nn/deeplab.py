"""DeepLabv3+: a residual network, what it sees at several distances (ASPP), and a decoder that looks at edges again.

Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation,
ECCV 2018 (sections 3.1 and 4.1), with plain convolutions on ResNet; Chen, Papandreou, Schroff, Adam: Rethinking Atrous
Convolution for Semantic Image Segmentation, 2017 (ASPP, its figure 5).

ASPP on ResNet-50 has the 15 535 104 parameters that it has in torchvision's DeepLabv3 (42 004 074 in all).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.nn.resnet import Backbone, ResNet


def _layer(inputs: int, outputs: int, size: int, dilation: int = 1) -> nn.Sequential:
    """Convolution of the same size, batch normalisation and ReLU."""
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: (N, inputs, h, w) -> (N, outputs, h, w).

    A 1 x 1 convolution, a 3 x 3 one at each of the rates, and the mean of the whole image, side by side, brought
    together by a 1 x 1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...] = (6, 12, 18)) -> None:
        super().__init__()
        self.near = nn.ModuleList([_layer(inputs, outputs, 1), *(_layer(inputs, outputs, 3, rate) for rate in rates)])
        self.whole = _layer(inputs, outputs, 1)
        self.together = _layer((len(rates) + 2) * outputs, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        mean = features.mean(dim=(2, 3), keepdim=True)
        if self.training and len(features) == 1:  # one value a channel: nothing to take statistics of
            mean = mean.expand(2, -1, -1, -1)
        whole = self.whole(mean)[: len(features)].expand(-1, -1, *features.shape[2:])
        return self.together(torch.cat([*(layer(features) for layer in self.near), whole], dim=1))


class DeepLabv3Plus(nn.Module):
    """(N, 3, h, w), multiples of 16 -> features (N, `channels`, h / 4, w / 4); a head is the caller's.

    kind, width: of the residual network (paper: 64 channels in its first stage), whose last stage is dilated: its
    output stride is 16. features: channels of ASPP and decoder (paper: 256). edges: channels to which the first stage's
    features are brought (paper: 48).
    """

    def __init__(self, kind: Backbone = "resnet-50", width: int = 64, features: int = 256, edges: int = 48) -> None:
        super().__init__()
        self.channels = features
        self.encoder = ResNet(kind, width, norm=nn.BatchNorm2d, dilated=True)
        self.aspp = ASPP(self.encoder.channels[-1], features)
        self.edges = _layer(self.encoder.channels[0], edges, 1)
        self.decoder = nn.Sequential(_layer(features + edges, features, 3), _layer(features, features, 3))

    def forward(self, images: Tensor) -> Tensor:
        stages = self.encoder(images)
        seen = self.aspp(stages[-1])
        seen = F.interpolate(seen, size=stages[0].shape[-2:], mode="bilinear", align_corners=False)
        return self.decoder(torch.cat((seen, self.edges(stages[0])), dim=1))
