"""A one-stage detector on anchors, as YOLOv5 describes it, on a residual network with a feature pyramid.

    network = OneStage(shape)
    losses = losses_of(network, network(images), targets)
    found = network.detect(images)  # one Detections a frame

A box is learnt by the anchors that are less than four times as long and as wide as it, or it as they, in the cell of
its middle and the two next to it: complete IoU (Zheng et al., 2020) for the box; an anchor's object probability is to
be its box's complete IoU, and layers weigh 4, 1 and 0.4 there; cross-entropy for each class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.nn import boxes as box
from medgen.nn.detector import Detections, Shape, Targets
from medgen.nn.resnet import PyramidNetwork

STRIDES = (8, 16, 32)
_BALANCE = (4.0, 1.0, 0.4)
_MATCH = 4.0


class OneStage(PyramidNetwork):
    """At every cell of three layers, for each anchor: codes of a box, an object's logit, a logit for each class."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape.backbone, shape.width, shape.pyramid, shape.frozen, finest=1)
        self.sizes = [  # (A, 2) width and height of the anchors of each layer, px
            torch.tensor([[side / math.sqrt(ratio), side * math.sqrt(ratio)] for ratio in shape.ratios])
            for side in (shape.smallest * 2**level for level in range(len(STRIDES)))
        ]
        self.count, self.classes = len(shape.ratios), shape.classes
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(shape.pyramid, shape.pyramid, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(shape.pyramid, self.count * (5 + shape.classes), 1),
            )
            for _ in STRIDES
        )
        for head in self.heads:
            bias = head[2].bias  # type: ignore[index]
            with torch.no_grad():
                bias.reshape(self.count, -1)[:, 4:] -= 4.6  # at first nothing is seen: a probability of 0.01

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, rows, columns) of 0..255 -> of each layer (N, anchors, rows, columns, 5 + classes)."""
        found = [head(one) for head, one in zip(self.heads, self.maps(images), strict=False)]
        return [
            one.float().reshape(len(one), self.count, -1, *one.shape[2:]).permute(0, 1, 3, 4, 2).contiguous()
            for one in found
        ]

    def decoded(self, codes: Tensor, cells: Tensor, anchors: Tensor) -> Tensor:
        """Codes (K, 4), cells (K, 2) x and y, anchors (K, 2) in cells -> boxes (K, 4) in cells."""
        shares = codes.sigmoid()
        middle = 2 * shares[:, :2] - 0.5 + cells
        half = (2 * shares[:, 2:]) ** 2 * anchors / 2
        return torch.cat((middle - half, middle + half), dim=1)

    @torch.no_grad()
    def detect(
        self, images: Tensor, *, least: float = 0.05, overlap: float = 0.45, most: int = 100
    ) -> list[Detections]:
        """What each frame shows, best first. least: lowest score, an object's probability times its class's.
        overlap: of two boxes above it, whatever their classes, one goes. most: boxes of a frame."""
        rows, columns = images.shape[-2:]
        parts: list[list[Tensor]] = [[], [], []]
        for layer, sizes, stride in zip(self(images), self.sizes, STRIDES, strict=True):
            count, height, width = layer.shape[1:4]
            y, x = torch.meshgrid(*(torch.arange(n, device=layer.device) for n in (height, width)), indexing="ij")
            cells = torch.stack((x, y), dim=-1).expand(count, -1, -1, -1).reshape(-1, 2)
            anchors = (sizes.to(layer.device) / stride)[:, None].expand(-1, height * width, -1).reshape(-1, 2)
            flat = layer.reshape(len(layer), -1, layer.shape[-1])
            places = [self.decoded(one[:, :4], cells, anchors) * stride for one in flat]
            score, kind = (flat[..., 4:5].sigmoid() * flat[..., 5:].sigmoid()).max(dim=2)
            for part, value in zip(parts, (torch.stack(places), score, kind), strict=True):
                part.append(value)
        found = []
        for boxes, score, kind in zip(*(torch.cat(part, dim=1) for part in parts), strict=True):
            boxes = box.clipped(boxes, (rows, columns))
            sure = torch.nonzero((score >= least) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)).flatten()
            kept = sure[box.nms(boxes[sure], score[sure], overlap, most)]
            found.append(Detections(boxes[kept], kind[kept], score[kept]))
        return found


def complete_iou(found: Tensor, true: Tensor) -> Tensor:
    """Boxes (K, 4) -> (K,): IoU, less the squared distance of the middles in diagonals of the box around both, less a
    term of the proportions (Zheng et al., 2020)."""
    low, high = torch.maximum(found[:, :2], true[:, :2]), torch.minimum(found[:, 2:], true[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    sizes = [one[:, 2:] - one[:, :2] for one in (found, true)]
    iou = shared / (sizes[0].prod(dim=1) + sizes[1].prod(dim=1) - shared + 1e-7)
    around = torch.maximum(found[:, 2:], true[:, 2:]) - torch.minimum(found[:, :2], true[:, :2])
    apart = (found[:, :2] + found[:, 2:] - true[:, :2] - true[:, 2:]) / 2
    angles = [torch.atan(size[:, 0] / (size[:, 1] + 1e-7)) for size in sizes]
    unlike = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
    with torch.no_grad():
        weight = unlike / (1 - iou + unlike + 1e-7)
    return iou - (apart**2).sum(dim=1) / ((around**2).sum(dim=1) + 1e-7) - weight * unlike


@dataclass
class Match:
    """Which anchors of a layer learn which boxes: figure, anchor, row, column (K,), boxes (K, 4) in cells, classes."""

    place: tuple[Tensor, Tensor, Tensor, Tensor]
    boxes: Tensor
    classes: Tensor


def matched(targets: list[Targets], sizes: Tensor, stride: int, shape: tuple[int, int]) -> Match:
    """Boxes whose sides are less than four times an anchor's (A, 2) px, and more than a fourth, are learnt by it in the
    cell of their middle, in the nearer one beside it and in the nearer one above or below, within (rows, columns)."""
    true = torch.cat([one.boxes for one in targets]) / stride
    kinds = torch.cat([one.classes for one in targets])
    counts = torch.tensor([len(one.boxes) for one in targets])
    figures = torch.arange(len(targets)).repeat_interleave(counts).to(true.device)
    ratio = (true[:, 2:] - true[:, :2])[:, None] / (sizes.to(true.device) / stride)
    number, anchor = torch.nonzero(torch.maximum(ratio, 1 / ratio).amax(dim=2) < _MATCH, as_tuple=True)
    middle = (true[number, :2] + true[number, 2:]) / 2
    cell = middle.floor()
    nearer = torch.where(middle - cell < 0.5, -1.0, 1.0)
    beside, above = nearer * nearer.new_tensor([1.0, 0.0]), nearer * nearer.new_tensor([0.0, 1.0])
    cells = torch.cat((cell, cell + beside, cell + above)).long()
    number, anchor = number.repeat(3), anchor.repeat(3)
    limits = torch.tensor([shape[1], shape[0]], device=cells.device)
    inside = ((cells >= 0) & (cells < limits)).all(dim=1)
    cells, number, anchor = cells[inside], number[inside], anchor[inside]
    return Match((figures[number], anchor, cells[:, 1], cells[:, 0]), true[number], kinds[number])


@dataclass
class Losses:
    """Sums over the layers: of boxes, objects and classes. found, true: of each layer, boxes (K, 4) in its cells, with
    their gradients, and those that they should be."""

    box: Tensor
    objects: Tensor
    classes: Tensor
    found: list[Tensor]
    true: list[Tensor]


def losses_of(network: OneStage, given: list[Tensor], targets: list[Targets]) -> Losses:
    """Of what the network gave for a batch; each is a mean over a layer's boxes, or its anchors."""
    nothing = given[0].sum() * 0
    result = Losses(nothing, nothing, nothing, [], [])
    for layer, sizes, stride, balance in zip(given, network.sizes, STRIDES, _BALANCE, strict=True):
        match = matched(targets, sizes, stride, (layer.shape[2], layer.shape[3]))
        wanted, some = torch.zeros_like(layer[..., 4]), layer[match.place]
        if len(some):
            _, anchor, row, column = match.place
            cells = torch.stack((column, row), dim=1)
            boxes = network.decoded(some[:, :4], cells, (sizes.to(some.device) / stride)[anchor])
            iou = complete_iou(boxes, match.boxes)
            wanted[match.place] = iou.detach().clamp(min=0)
            result.box = result.box + (1 - iou).mean()
            kinds = F.one_hot(match.classes, network.classes).to(some.dtype)
            result.classes = result.classes + F.binary_cross_entropy_with_logits(some[:, 5:], kinds)
            result.found.append(boxes)
            result.true.append(match.boxes)
        result.objects = result.objects + balance * F.binary_cross_entropy_with_logits(layer[..., 4], wanted)
    return result
