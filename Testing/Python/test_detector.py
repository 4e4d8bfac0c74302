"""The detector that methods share: its box operations and mean average precision against brute force and MONAI, its
losses by hand, and that it learns to find what it is shown."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from medgen.metrics import detection
from medgen.metrics.detection import Found, average_precision, mean_average_precision
from medgen.nn import boxes as box
from medgen.nn.detector import Detector, Shape, Targets, stretched
from medgen.nn.resnet import FrozenBatchNorm, ResNet, load_imagenet
from medgen.nn.unet import parameter_count

TINY = Shape(2, "resnet-18", 8, 32, 64, smallest=16, regions=50, rpn_samples=64, head_samples=32)


def random_boxes(count: int, side: float, seed: int, reach: float = 1000.0) -> Tensor:
    """Boxes with sides up to `side` in a square of `reach` px."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, reach, (count, 2)), rng.uniform(1, side, (count, 2))
    return torch.from_numpy(np.concatenate([corner, corner + size], axis=1)).float()


def overlap_of(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two boxes, written out."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    sizes = [(one[2] - one[0]) * (one[3] - one[1]) for one in (first, second)]
    return float(shared / (sum(sizes) - shared))


# --- boxes


def test_overlaps_are_those_of_monai_and_of_the_formula() -> None:
    from monai.data.box_utils import box_iou

    first, second = random_boxes(40, 400, 1), random_boxes(30, 400, 2)
    found = box.iou(first, second)
    torch.testing.assert_close(found, box_iou(first, second))
    for i, j in itertools.product(range(0, 40, 7), range(0, 30, 5)):
        assert float(found[i, j]) == pytest.approx(overlap_of(first[i].numpy(), second[j].numpy()), abs=1e-6)
    np.testing.assert_allclose(detection.overlaps(first.double().numpy(), second.double().numpy()), found, atol=1e-6)
    assert float(box.iou(torch.zeros(1, 4), torch.zeros(1, 4))) == 0.0


def test_coding_is_faster_rcnns_and_decoding_undoes_it() -> None:
    anchors, boxes = random_boxes(50, 200, 3) + torch.tensor([0, 0, 20, 20]), random_boxes(50, 300, 4)
    codes = box.encode(boxes, anchors, (10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(box.decode(codes, anchors, (10.0, 10.0, 5.0, 5.0)), boxes, rtol=1e-4, atol=1e-2)
    one = box.encode(torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[0.0, 0, 10, 20]]))
    torch.testing.assert_close(one, torch.tensor([[1.5, 1.5, math.log(2), math.log(2)]]))
    huge = box.decode(torch.tensor([[0.0, 0, 100, 100]]), torch.tensor([[0.0, 0, 16, 16]]))
    assert float(huge[0, 2] - huge[0, 0]) == pytest.approx(1000, rel=1e-4)


def test_anchors_stand_for_boxes_by_overlap_and_none_goes_without() -> None:
    overlaps = torch.tensor([[0.8, 0.1], [0.5, 0.2], [0.1, 0.35], [0.0, 0.1], [0.0, 0.35]])
    assert box.assign(overlaps, 0.7, 0.3, keep_best=True).tolist() == [0, -2, 1, -1, 1]
    assert box.assign(overlaps, 0.7, 0.3, keep_best=False).tolist() == [0, -2, -2, -1, -2]
    assert box.assign(torch.zeros(3, 0), 0.7, 0.3, keep_best=True).tolist() == [-1] * 3
    assert box.assign(torch.zeros(2, 1), 0.7, 0.3, keep_best=True).tolist() == [-1, -1]


def test_samples_hold_at_most_their_share_of_positives_and_fill_up_with_background() -> None:
    assigned = torch.tensor([0] * 30 + [-1] * 200 + [-2] * 50)
    positive, negative = box.sample(assigned, 40, 0.5, torch.Generator().manual_seed(1))
    assert (len(positive), len(negative)) == (20, 20)
    assert bool((assigned[positive] >= 0).all()) and bool((assigned[negative] == -1).all())
    assert len(set(positive.tolist())) == 20
    few, many = box.sample(assigned[25:], 40, 0.5, torch.Generator().manual_seed(1))
    assert (len(few), len(many)) == (5, 35)


def brute_nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Box by box, best first, each against every one that comes after it."""
    order = torch.argsort(scores, descending=True, stable=True)
    sorted_boxes, gone, kept = boxes[order], np.zeros(len(boxes), bool), []
    for start in range(0, len(boxes), 250):
        over = (box.iou(sorted_boxes[start : start + 250], sorted_boxes[start:]) > threshold).numpy()
        for number, row in enumerate(over):
            if not gone[start + number]:
                kept.append(int(order[start + number]))
                gone[start:] |= row
    return kept


@pytest.mark.parametrize(
    ("side", "threshold"), [(30.0, 0.5), (400.0, 0.5), (900.0, 0.7)], ids=["sparse", "dense", "0.7"]
)
def test_suppression_of_10_000_boxes_takes_a_second_at_most_and_is_that_of_brute_force(
    side: float, threshold: float
) -> None:
    boxes = random_boxes(10_000, side, 5)
    scores = torch.from_numpy(np.random.default_rng(6).integers(0, 3000, 10_000) / 3000).float()  # many are equal
    began = time.process_time()
    kept = box.nms(boxes, scores, threshold)
    seconds = time.process_time() - began
    assert kept.tolist() == brute_nms(boxes, scores, threshold)
    assert seconds <= 1.0
    assert box.nms(boxes, scores, threshold, most=10).tolist() == kept[:10].tolist()


def test_suppression_is_that_of_monai_and_keeps_classes_apart() -> None:
    from monai.data.box_utils import non_max_suppression

    boxes, scores = random_boxes(300, 300, 7), torch.rand(300, generator=torch.Generator().manual_seed(8))
    theirs = non_max_suppression(boxes, scores, 0.4)
    assert box.nms(boxes, scores, 0.4).tolist() == torch.as_tensor(theirs).tolist()
    classes = torch.arange(300) % 3
    kept = box.nms_by_class(boxes, scores, classes, 0.4)
    apart = [
        numbers[box.nms(boxes[numbers], scores[numbers], 0.4)]
        for numbers in (torch.nonzero(classes == kind).flatten() for kind in range(3))
    ]
    assert sorted(kept.tolist()) == sorted(torch.cat(apart).tolist())
    assert bool((scores[kept].diff() <= 0).all())
    assert box.nms_by_class(boxes[:0], scores[:0], classes[:0], 0.4).tolist() == []


def test_anchors_have_their_area_and_ratio_about_the_middle_of_each_cell() -> None:
    anchors = box.anchors_of((2, 3), 8, 16.0, (0.5, 1.0, 2.0)).reshape(2, 3, 3, 4)
    middle = (anchors[..., :2] + anchors[..., 2:]) / 2
    torch.testing.assert_close(middle[1, 2], torch.tensor([[20.0, 12.0]]).expand(3, 2))
    size = anchors[0, 0, :, 2:] - anchors[0, 0, :, :2]
    torch.testing.assert_close(size.prod(dim=1), torch.full((3,), 256.0))
    torch.testing.assert_close(size[:, 1] / size[:, 0], torch.tensor([0.5, 1.0, 2.0]))
    assert stretched(0) == (1,) and stretched(2) == (0.25, 0.5, 1, 2, 4)


def test_regions_are_aligned_to_the_fraction_of_a_pixel_each_in_its_frame_and_map() -> None:
    maps, slopes = [], {}
    for level, (height, width) in enumerate(((20, 30), (10, 15))):
        rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
        slopes |= {(frame, level): (2.0 + frame, 5.0 - 3 * level) for frame in range(2)}
        maps.append(torch.stack([(slopes[n, level][0] * columns + slopes[n, level][1] * rows)[None] for n in range(2)]))
    boxes = torch.tensor([[40.3, 24.6, 96.1, 120.2], [8.0, 8.0, 30.0, 40.0], [60.0, 30.0, 200.5, 110.0]])
    frames, levels = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    found = box.roi_align(maps, (8, 16), box.Regions(boxes, frames, levels), 7)
    for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        frame, level = int(frames[number]), int(levels[number])
        x = (x1 + (np.arange(7) + 0.5) * (x2 - x1) / 7) / (8 << level) - 0.5  # at cell i the value of place i + 0.5
        y = (y1 + (np.arange(7) + 0.5) * (y2 - y1) / 7) / (8 << level) - 0.5
        wanted = slopes[frame, level][0] * x[None] + slopes[frame, level][1] * y[:, None]
        np.testing.assert_allclose(found[number, 0], wanted, rtol=1e-4)
    assert box.roi_align(maps, (8, 16), box.Regions(boxes[:0], frames[:0], levels[:0]), 7).shape == (0, 1, 7, 7)


def test_regions_are_those_of_bilinear_sampling_and_so_are_their_gradients() -> None:
    """Against `grid_sample`, region by region; beyond the map's edge too."""
    features = torch.rand(2, 3, 9, 12, dtype=torch.float32, requires_grad=True)
    boxes, frames = torch.tensor([[3.0, -6, 50, 40], [20, 11, 110, 90], [0, 0, 96, 72]]), torch.tensor([1, 0, 1])
    found = box.roi_align([features], (8,), box.Regions(boxes, frames, torch.zeros(3, dtype=torch.long)), 4)
    steps = (torch.arange(8) + 0.5) / 8
    wanted = []
    for (x1, y1, x2, y2), frame in zip(boxes.tolist(), frames.tolist(), strict=True):
        x, y = (x1 + steps * (x2 - x1)) / 48 - 1, (y1 + steps * (y2 - y1)) / 36 - 1
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None]
        seen = torch.nn.functional.grid_sample(
            features[frame : frame + 1], grid, padding_mode="border", align_corners=False
        )
        wanted.append(torch.nn.functional.avg_pool2d(seen, 2)[0])
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=1e-4)
    weights = torch.rand_like(found)
    (ours,) = torch.autograd.grad((found * weights).sum(), features, retain_graph=True)
    (theirs,) = torch.autograd.grad((torch.stack(wanted) * weights).sum(), features)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


# --- networks


def test_the_backbones_have_the_published_sizes_and_names(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """11 689 512 and 25 557 032 parameters, less the classifiers' 512 x 1000 and 2048 x 1000 weights and biases."""
    assert parameter_count(ResNet("resnet-18")) == 11_689_512 - 513_000
    fifty = ResNet("resnet-50", frozen=True)
    scales = sum(2 * len(one.weight) for one in fifty.modules() if isinstance(one, FrozenBatchNorm))
    assert parameter_count(fifty) + scales == 25_557_032 - 2_049_000
    names = set(fifty.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.1.weight", "layer4.2.bn3.bias"} <= names
    weights = {name: torch.rand_like(value) for name, value in fifty.state_dict().items()}
    torch.save({**weights, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "weights.pth")
    load_imagenet(fifty, tmp_path / "weights.pth")
    assert torch.equal(fifty.state_dict()["layer3.5.conv2.weight"], weights["layer3.5.conv2.weight"])
    maps = ResNet("resnet-18", 8)(torch.zeros(1, 3, 64, 96))
    assert [tuple(one.shape[1:]) for one in maps] == [(8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3)]


def shown(count: int = 2) -> tuple[Tensor, list[Targets]]:
    """Frames of noise with a bright red square (class 0) and a bright blue oblong (class 1)."""
    rng = np.random.default_rng(9)
    images, targets = torch.from_numpy(rng.normal(90, 8, (count, 3, 64, 96))).float(), []
    for image in images:
        x, y = int(rng.integers(2, 20)), int(rng.integers(2, 30))
        image[0, y : y + 24, x : x + 24] = 230
        u, v = int(rng.integers(48, 60)), int(rng.integers(2, 30))
        image[2, v : v + 20, u : u + 32] = 230
        boxes = torch.tensor([[x, y, x + 24, y + 24], [u, v, u + 32, v + 20]]).float()
        targets.append(Targets(boxes, torch.tensor([0, 1]), (64, 96)))
    return images, targets


def test_a_frame_without_any_region_has_no_boxes() -> None:
    shape = Shape(classes=3, backbone="resnet-18", width=8, pyramid=8, head=16)
    logits, codes = Detector(shape).head(torch.zeros(0, shape.pyramid, 7, 7))
    assert logits.shape == (0, 4) and codes.shape == (0, 3, 4)


def test_a_batchs_losses_are_the_means_of_its_frames_alone() -> None:
    torch.manual_seed(1)
    detector, (images, targets) = Detector(TINY), shown()
    whole = detector(images, targets, [3, 4])
    alone = [detector(images[number : number + 1], [targets[number]], [3 + number]) for number in range(2)]
    torch.testing.assert_close(whole.total(2.0), sum(one.total(2.0) for one in alone) / 2)
    weighted = detector(images, targets, [3, 4], [1.0, 3.0])
    torch.testing.assert_close(weighted.total(), (alone[0].total() + 3 * alone[1].total()) / 2)


def test_losses_on_boxes_are_0_where_nothing_is_shown() -> None:
    torch.manual_seed(1)
    detector, (images, targets) = Detector(TINY), shown(1)
    empty = [Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), (64, 96))]
    nothing = detector(images, empty, [0])
    assert nothing.anchor_box.item() == nothing.region_box.item() == 0.0
    assert math.isfinite(nothing.total().item()) and nothing.total().item() > 0
    losses = detector(images, targets, [0])
    assert losses.anchor_box.item() > 0 and losses.region_box.item() > 0


def test_at_first_the_losses_are_those_of_even_guesses() -> None:
    """With all weights of the last layers at 0: ln 2 for anchors, ln (classes + 1) for regions."""
    detector, (images, targets) = Detector(TINY), shown(1)
    for layer in (detector.proposer.logit, detector.head.logit):
        torch.nn.init.zeros_(layer.weight)
    losses = detector(images, targets, [0])
    assert losses.anchor_class.item() == pytest.approx(math.log(2), rel=1e-5)
    assert losses.region_class.item() == pytest.approx(math.log(3), rel=1e-5)


def test_it_learns_to_find_and_tell_apart_what_it_is_shown_and_padding_is_not_looked_at() -> None:
    torch.manual_seed(2)
    detector, (images, targets) = Detector(TINY), shown(4)
    adam = torch.optim.Adam(detector.parameters(), lr=2e-3)
    for step in range(50):
        loss = detector(images, targets, [4 * step + number for number in range(4)]).total()
        adam.zero_grad()
        loss.backward()
        adam.step()
    detector.eval()
    for found, target in zip(detector.detect(images), targets, strict=True):
        for kind in (0, 1):
            best = int(torch.nonzero(found.classes == kind)[0])
            assert float(found.scores[best]) > 0.5
            assert float(box.iou(found.boxes[best : best + 1], target.boxes[kind : kind + 1])) > 0.6
    inside = detector.detect(images, [(64, 40)] * 4)
    assert all(float(found.boxes[:, 2].max()) <= 40 for found in inside if len(found.boxes))


# --- mean average precision


def brute_average_precision(found: list[Found], true: list[Found], kind: int, threshold: float) -> float:
    """By its definition, detection after detection, recall after recall."""
    wanted = sum(int((one.classes == kind).sum()) for one in true)
    every = sorted(
        (
            (-float(score), frame, number)
            for frame, one in enumerate(found)
            for number, (score, own) in enumerate(zip(one.scores, one.classes, strict=True))  # type: ignore[arg-type]
            if own == kind
        ),
    )
    free = {(frame, n) for frame, one in enumerate(true) for n, own in enumerate(one.classes) if own == kind}
    right, curve = 0, []
    for count, (_, frame, number) in enumerate(every, start=1):
        best = max(
            ((overlap_of(found[frame].boxes[number], true[frame].boxes[n]), -n) for f, n in free if f == frame),
            default=(0.0, 0),
        )
        if best[0] >= threshold:
            free.remove((frame, -best[1]))
            right += 1
        curve.append((right / wanted, right / count))
    at = [max((p for r, p in curve if r >= recall / 100 - 1e-12), default=0.0) for recall in range(101)]
    return sum(at) / 101


def test_average_precision_is_that_of_brute_force() -> None:
    rng = np.random.default_rng(11)
    true, found = [], []
    for frame in range(6):
        boxes = random_boxes(5, 300, frame).double().numpy()
        true.append(Found(boxes, rng.integers(0, 3, 5)))
        moved = np.concatenate([boxes + rng.normal(0, 20, boxes.shape), random_boxes(4, 300, 50 + frame).numpy()])
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        kinds = np.concatenate([true[-1].classes, rng.integers(0, 3, 4)])
        found.append(Found(moved, kinds, rng.permutation(9) / 9 + frame / 1000))
    values = []
    for kind, threshold in itertools.product(range(3), detection.THRESHOLDS):
        values.append(average_precision(found, true, kind, threshold))
        assert values[-1] == pytest.approx(brute_average_precision(found, true, kind, threshold), abs=1e-9)
    assert len({round(value, 3) for value in values}) > 10
    mean, by_class = mean_average_precision(found, true)
    assert mean == pytest.approx(np.mean(values)) and len(by_class) == 3


def test_average_precision_of_cases_that_can_be_counted_by_hand() -> None:
    square = np.array([[0.0, 0, 10, 10]])
    kind = np.array([0])
    true = [Found(square, kind), Found(square, kind)]
    both = [Found(square, kind, np.array([0.9])), Found(square, kind, np.array([0.8]))]
    assert mean_average_precision(both, true)[0] == 1.0
    nothing = Found(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    one = [both[0], nothing]
    assert average_precision(one, true, 0, 0.5) == pytest.approx(51 / 101)  # recalls 0 to 0.5
    shifted = [Found(square + 50, kind, np.array([0.95])), both[1]]
    assert average_precision(shifted, true, 0, 0.5) == pytest.approx(51 / 101 / 2)
    twice = [Found(np.repeat(square, 2, axis=0), np.array([0, 0]), np.array([0.9, 0.7])), both[1]]
    assert average_precision(twice, true, 0, 0.5) == 1.0  # the second of a box comes last
    assert math.isnan(average_precision(both, true, 1, 0.5))
    assert mean_average_precision([nothing], [Found(np.zeros((0, 4)), np.zeros(0, int))])[1] == {}
    assert detection.measures([nothing], [Found(np.zeros((0, 4)), np.zeros(0, int))]) == {}
    assert detection.measures(one, true) == pytest.approx(
        {"mAP 50:95": 51 / 101, "mAP 50": 51 / 101, "precision": 1.0, "recall": 0.5}
    )
