"""A two-stage detector: Faster R-CNN (Ren et al., 2015) on a feature pyramid (Lin et al., 2017), in plain torch.

    detector = Detector(Shape(classes=3))
    losses = detector(images, targets, seeds)  # losses.total() is what the papers minimise
    found = detector.detect(images)                   # one Detections a frame

Each frame's losses are means over its own sampled anchors and regions, and the batch's are means over its frames; the
random samples of a frame come from a seed of its own. So parts of a batch in several processes give what the whole
gives in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.jobs import Run
from medgen.nn import boxes as box
from medgen.nn.resnet import Backbone, PyramidNetwork
from medgen.pace import seconds_an_update

_HEAD_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the second stage's box codes, whose spread is that much smaller
_STRIDES = (4, 8, 16, 32, 64)
_REGION = 7  # cells along a side of what the second stage sees


@dataclass(frozen=True)
class Shape:
    """What a detector is made of; defaults are the published ones.

    classes: kinds of things, the background not counted. smallest: side of the finest level's anchors, px; each level's
    are twice as large. ratios: their heights through their widths. regions: proposals that reach the second stage.
    rpn_samples, head_samples: anchors and regions that a frame's losses are taken of.
    """

    classes: int
    backbone: Backbone = "resnet-50"
    width: int = 64
    pyramid: int = 256
    head: int = 1024
    frozen: bool = False
    smallest: float = 32.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    regions: int = 1000
    rpn_samples: int = 256
    head_samples: int = 512
    rpn_overlap: tuple[float, float] = (0.3, 0.7)
    head_overlap: float = 0.5


def stretched(most: int) -> tuple[float, ...]:
    """Anchors' ratios of height to width: 2 to the powers of -`most` to `most`."""
    return tuple(2.0**power for power in range(-most, most + 1))


@dataclass
class Targets:
    """What one frame shows: boxes (M, 4) px, classes (M,) from 0, and its size (rows, columns) without padding."""

    boxes: Tensor
    classes: Tensor
    size: tuple[int, int]


@dataclass
class Drawn:
    """What one frame's losses of the second stage are taken of: regions (K, 4) px, first those that stand for a true
    box, and the numbers (P,) of those boxes."""

    regions: Tensor
    stand_for: Tensor


@dataclass
class Losses:
    """Means over the frames: is there anything (of anchors), where is it, what is it (of regions), where is it."""

    anchor_class: Tensor
    anchor_box: Tensor
    region_class: Tensor
    region_box: Tensor

    def total(self, box_weight: float = 1.0) -> Tensor:
        """Their sum, the terms on boxes weighted by lambda."""
        return self.anchor_class + self.region_class + box_weight * (self.anchor_box + self.region_box)


@dataclass
class Detections:
    """What was found in one frame, best first: boxes (K, 4) px, classes (K,) from 0, scores (K,) in 0..1."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor

    def above(self, score: float) -> Detections:
        """Those with at least that score."""
        kept = self.scores >= score
        return Detections(self.boxes[kept], self.classes[kept], self.scores[kept])


def smooth_l1(found: Tensor, meant: Tensor, beta: float) -> Tensor:
    """Sum of |d| - beta / 2, below beta of d^2 / 2 beta."""
    return F.smooth_l1_loss(found, meant, reduction="sum", beta=beta)


def weigh_frames(values: list[Tensor], weights: Sequence[float]) -> Tensor:
    """Mean over the frames of each one's loss times its weight."""
    return torch.stack([value * weight for value, weight in zip(values, weights, strict=True)]).mean()


class Proposer(nn.Module):
    """The region proposal network: at every cell of every level, for each anchor, a logit and a box code."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        count = len(shape.ratios)
        self.conv = nn.Conv2d(shape.pyramid, shape.pyramid, 3, padding=1)
        self.logit, self.code = nn.Conv2d(shape.pyramid, count, 1), nn.Conv2d(shape.pyramid, 4 * count, 1)
        for layer in (self.conv, self.logit, self.code):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """(N, anchors) logits and (N, anchors, 4) codes of each level, in the order of `anchors`."""
        logits, codes = [], []
        for one in maps:
            shared = F.relu(self.conv(one))
            logits.append(self.logit(shared).float().permute(0, 2, 3, 1).flatten(1))
            codes.append(self.code(shared).float().permute(0, 2, 3, 1).reshape(len(one), -1, 4))
        return logits, codes

    def anchors(self, maps: list[Tensor]) -> list[Tensor]:
        """(anchors, 4) of each level."""
        return [
            box.anchors_of((one.shape[2], one.shape[3]), stride, self.shape.smallest * 2**level, self.shape.ratios).to(
                one.device
            )
            for level, (one, stride) in enumerate(zip(maps, _STRIDES, strict=True))
        ]

    @torch.no_grad()
    def propose(
        self, logits: list[Tensor], codes: list[Tensor], anchors: list[Tensor], size: tuple[int, int], most: int
    ) -> Tensor:
        """One frame's (anchors,) logits and (anchors, 4) codes by level -> at most `most` regions (K, 4), best first:
        the best of each level, suppressed within it at 0.7."""
        kept, scores, levels = [], [], []
        for level, (logit, code, anchor) in enumerate(zip(logits, codes, anchors, strict=True)):
            value, best = logit.topk(min(most, len(logit)))
            kept.append(box.clipped(box.decode(code[best], anchor[best]), size))
            scores.append(value)
            levels.append(torch.full_like(best, level))
        regions, score, level_of = torch.cat(kept), torch.cat(scores), torch.cat(levels)
        large = torch.nonzero(((regions[:, 2:] - regions[:, :2]) >= 1).all(dim=1)).flatten()
        numbers = box.nms_by_class(regions[large], score[large], level_of[large], 0.7, most)
        return regions[large[numbers]]


class Head(nn.Module):
    """The second stage: two fully connected layers on a region's features; class logits (the last is the background)
    and box codes for each class."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.classes = shape.classes
        self.fc1 = nn.Linear(shape.pyramid * _REGION**2, shape.head)
        self.fc2 = nn.Linear(shape.head, shape.head)
        self.logit, self.code = nn.Linear(shape.head, shape.classes + 1), nn.Linear(shape.head, 4 * shape.classes)
        for layer, spread in ((self.logit, 0.01), (self.code, 0.001)):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """(K, C, 7, 7) -> (K, classes + 1) logits, (K, classes, 4) codes."""
        hidden = F.relu(self.fc2(F.relu(self.fc1(regions.flatten(1)))))
        return self.logit(hidden).float(), self.code(hidden).float().reshape(len(hidden), self.classes, 4)


class Detector(PyramidNetwork):
    """Faster R-CNN on a feature pyramid. Frames are (N, 3, rows, columns) of values 0..255."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape.backbone, shape.width, shape.pyramid, shape.frozen)
        self.shape = shape
        self.proposer, self.head = Proposer(shape), Head(shape)

    # --- training

    def forward(
        self,
        images: Tensor,
        targets: list[Targets],
        seeds: list[int],
        weights: Sequence[float] | None = None,
    ) -> Losses:
        """The losses of a batch. seeds: one a frame, for its random samples. weights: one a frame, default 1."""
        maps = self.maps(images)
        logits, codes = self.proposer(maps)
        anchors = self.proposer.anchors(maps)
        every = torch.cat(anchors)
        terms: list[list[Tensor]] = [[], [], [], []]
        drawn = []
        for frame, (target, seed) in enumerate(zip(targets, seeds, strict=True)):
            generator = torch.Generator().manual_seed(seed)
            own = [level[frame] for level in logits], [level[frame] for level in codes]
            first = self._anchor_losses(torch.cat(own[0]), torch.cat(own[1]), every, target, generator)
            proposals = self.proposer.propose(
                [level.detach() for level in own[0]],
                [level.detach() for level in own[1]],
                anchors,
                target.size,
                self.shape.regions,
            )
            drawn.append(self._draw(proposals, target, generator))
            for term, value in zip(terms[:2], first, strict=True):
                term.append(value)
        counts = [len(one.regions) for one in drawn]
        seen = self.head(self._features(maps, [one.regions for one in drawn]))
        for one, target, scores, codes_found in zip(
            drawn, targets, *(part.split(counts) for part in seen), strict=True
        ):
            second = self._region_losses(scores, codes_found, one, target)
            for term, value in zip(terms[2:], second, strict=True):
                term.append(value)
        means = [weigh_frames(term, weights or [1.0] * len(targets)) for term in terms]
        return Losses(means[0], means[1], means[2], means[3])

    def _anchor_losses(
        self, logits: Tensor, codes: Tensor, anchors: Tensor, target: Targets, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Equation 1 of Faster R-CNN on one frame; both terms are divided by the number of sampled anchors."""
        low, high = self.shape.rpn_overlap
        assigned = box.assign(box.iou(anchors, target.boxes), high, low, keep_best=True)
        middle = (anchors[:, :2] + anchors[:, 2:]) / 2
        assigned[(middle[:, 0] > target.size[1]) | (middle[:, 1] > target.size[0])] = box.IGNORED  # padding
        positive, negative = box.sample(assigned, self.shape.rpn_samples, 0.5, generator)
        count = max(1, len(positive) + len(negative))
        chosen = logits[torch.cat((positive, negative))]
        wanted = torch.cat((torch.ones_like(logits[positive]), torch.zeros_like(logits[negative])))
        classes = F.binary_cross_entropy_with_logits(chosen, wanted, reduction="sum") / count
        meant = box.encode(target.boxes[assigned[positive]], anchors[positive])
        return classes, smooth_l1(codes[positive], meant, 1 / 9) / count

    def _draw(self, proposals: Tensor, target: Targets, generator: torch.Generator) -> Drawn:
        """Regions of one frame, a quarter of which stand for boxes at the most."""
        proposals = torch.cat((proposals, target.boxes))  # the true ones too: at first nothing else is near them
        overlap = self.shape.head_overlap
        assigned = box.assign(box.iou(proposals, target.boxes), overlap, overlap, keep_best=False)
        positive, negative = box.sample(assigned, self.shape.head_samples, 0.25, generator)
        return Drawn(proposals[torch.cat((positive, negative))], assigned[positive])

    def _region_losses(self, logits: Tensor, codes: Tensor, drawn: Drawn, target: Targets) -> tuple[Tensor, Tensor]:
        """The second stage's losses on one frame."""
        count, positive = len(drawn.regions), len(drawn.stand_for)
        true = target.classes[drawn.stand_for]
        wanted = torch.cat((true, true.new_full((count - positive,), self.shape.classes)))
        classes = F.cross_entropy(logits, wanted, reduction="sum") / max(1, count)
        own = codes[torch.arange(positive, device=codes.device), true]
        meant, places = target.boxes[drawn.stand_for], drawn.regions[:positive]
        return classes, smooth_l1(own, box.encode(meant, places, _HEAD_WEIGHTS), 1.0) / max(1, count)

    def _features(self, maps: list[Tensor], regions: list[Tensor]) -> Tensor:
        """(K, C, 7, 7) of all frames' regions, frame after frame: each at the level whose anchors are of its size
        (equation 1 of Lin et al., where 224 px, seven times the finest anchors, lie on the third)."""
        places = torch.cat(regions)
        level = (2 + torch.log2(box.area(places).sqrt() / (7 * self.shape.smallest) + 1e-6)).floor().clamp(0, 3)
        counts = torch.tensor([len(one) for one in regions])
        frames = torch.arange(len(regions)).repeat_interleave(counts).to(places.device)
        return box.roi_align(maps[:4], _STRIDES[:4], box.Regions(places, frames, level.long()), _REGION)

    # --- detection

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        sizes: list[tuple[int, int]] | None = None,
        *,
        least: float = 0.05,
        overlap: float = 0.5,
        most: int = 100,
        regions: int | None = None,
    ) -> list[Detections]:
        """What the frames show. sizes: (rows, columns) without padding, default the whole. least: lowest score.
        overlap: of two boxes of a class above it, one goes. most: detections, and regions: proposals, a frame."""
        maps = self.maps(images)
        logits, codes = self.proposer(maps)
        anchors = self.proposer.anchors(maps)
        found = []
        for frame, size in enumerate(sizes or [(images.shape[2], images.shape[3])] * len(images)):
            own = [level[frame] for level in logits], [level[frame] for level in codes]
            proposals = self.proposer.propose(*own, anchors, size, regions or self.shape.regions)
            scores, codes_found = self.head(self._features([level[frame : frame + 1] for level in maps], [proposals]))
            probabilities = scores.softmax(dim=1)[:, :-1]
            region, kind = torch.nonzero(probabilities >= least, as_tuple=True)
            decoded = box.decode(codes_found[region, kind], proposals[region], _HEAD_WEIGHTS)
            places, score = box.clipped(decoded, size), probabilities[region, kind]
            large = (places[:, 2:] > places[:, :2]).all(dim=1)
            places, score, kind = places[large], score[large], kind[large]
            kept = box.nms_by_class(places, score, kind, overlap, most)
            found.append(Detections(places[kept], kind[kept], score[kept]))
        return found


class _LossAlone(nn.Module):
    """A detector whose forward pass is its loss on frames with one box each."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, rows, columns) -> the loss."""
        rows, columns = images.shape[2:]
        box = images.new_tensor([[columns / 4, rows / 4, columns / 2, rows / 2]])
        target = Targets(box, torch.zeros(1, dtype=torch.long, device=images.device), (rows, columns))
        losses: Losses = self.detector(images, [target] * len(images), [0] * len(images))
        return losses.total()


def seconds_a_frame(detector: Detector, size: tuple[int, int], run: Run) -> float:
    """Seconds that a frame of `size` (rows, columns) costs in an update: measured on two that are smaller where that is
    large, and scaled by the pixels. The detector ends up on the run's device."""
    share = min(1.0, 400 / max(size))
    rows, columns = (max(32, round(edge * share)) for edge in size)
    seconds = seconds_an_update(_LossAlone(detector), (2, 3, rows, columns), run, updates=2) / 2
    return seconds * size[0] * size[1] / (rows * columns)
