"""Plain pictures as detectors see them: frames of three channels, boxes in their pixels, batches of both.

A frame is (3, rows, columns), red, green, blue in 0..255; a box is (x1, y1, x2, y2) in pixels from its left upper
corner. In a case, boxes are ROIs in RAS mm (of a PNG or JPEG: its pixels), on the picture's own plane.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from medgen.bundle import Model
from medgen.case import Box, Case, Image
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.method import Config
from medgen.metrics import detection
from medgen.metrics.detection import Found
from medgen.nn.boxes import clipped
from medgen.nn.detector import Detections, Targets
from medgen.nn.resnet import PyramidNetwork, load_imagenet
from medgen.training import drawn, placed

Values = NDArray[np.float64]
Network = TypeVar("Network", bound=PyramidNetwork)


def frame_of(image: Image, log: Callable[[str], None] = lambda message: None) -> Tensor:
    """A picture (C, i, j) as a frame. Grey becomes three equal channels. Values within 0..255 stay, others are scaled
    to that from their own least and largest, which the log says. UserError for 2 channels, or more than 3."""
    channels = image.data.shape[0]
    if channels not in (1, 3):
        raise UserError(f"“{image.name or 'The image'}” has {channels} channels; give a colour or a grey picture.")
    pixels = image.data.float().transpose(1, 2)
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 255 or high <= 1:
        log(f"“{image.name or 'The image'}” has values from {low:g} to {high:g}, which were scaled to 0..255.")
        pixels = (pixels - low) * (255 / max(high - low, 1e-6))
    return pixels.expand(3, -1, -1).contiguous()


def boxes_in(image: Image, boxes: Sequence[Box], label: str = "") -> Values:
    """(N, 4): boxes in the picture's pixels, cut to it; of a box that lies obliquely, what encloses it.

    label: how messages call the case. UserError for a box without extent, or outside the picture.
    """
    to_index = np.linalg.inv(image.affine)
    columns, rows = image.shape
    result = np.empty((len(boxes), 4))
    signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    for number, box in enumerate(boxes):
        corners = box.centre + (signs * box.size) @ box.axes.T
        places = (corners @ to_index[:3, :3].T + to_index[:3, 3])[:, :2] + 0.5
        low, high = places.min(axis=0), places.max(axis=0)
        whose = f"Box “{box.name}” of {label or image.name or 'the image'}"
        if not np.isfinite(places).all() or min(high - low) <= 0:
            raise UserError(f"{whose} has no extent; draw it again or remove it.")
        low, high = np.clip(low, 0, (columns, rows)), np.clip(high, 0, (columns, rows))
        if min(high - low) <= 0:
            raise UserError(f"{whose} lies outside its image ({columns} x {rows} px); correct or remove it.")
        result[number] = (*low, *high)
    return result


def boxes_from(found: Values, names: Sequence[str], confidence: Sequence[float] | Values, image: Image) -> list[Box]:
    """Boxes (N, 4) in a picture's pixels as ROIs on its plane, one pixel (of a slice: one voxel) deep."""
    affine = image.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    if np.linalg.det(axes) < 0:  # a ROI's axes are right-handed; which way the depth points changes nothing
        axes[:, 2] *= -1
    result = []
    for (x1, y1, x2, y2), name, share in zip(found, names, confidence, strict=True):
        middle = np.array([(x1 + x2) / 2 - 0.5, (y1 + y2) / 2 - 0.5, 0.0])
        size = np.array([x2 - x1, y2 - y1, 1.0]) * spacing
        result.append(Box(affine[:3, :3] @ middle + affine[:3, 3], axes.copy(), size, name, float(share)))
    return result


def class_names(names: Sequence[str]) -> dict[str, str]:
    """The class that each box's name stands for. “forceps_1”, as Slicer calls a second “forceps”, is a forceps where
    some box is called just that; “tool_1” and “tool_2” without a “tool” are two classes."""
    known = set(names)
    stems = {name: re.sub(r"_\d+$", "", name) for name in known}
    return {name: stem if stem in known else name for name, stem in stems.items()}


class ClassNames(Config):
    """What a detector's model keeps beside its config: the names of its classes, in the order of the network's."""

    classes: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(min_length=1, max_length=1000)


def stretch_field() -> Any:
    """The setting of how long anchors are, for `medgen.nn.detector.stretched`."""
    words = "Beside square anchors, lying and upright ones, 2 to this power times as long as wide"
    return Field(1, ge=0, le=3, description=words)


def imagenet_field() -> Any:
    """The setting of which ImageNet weights a detector's backbone starts from, for `drawn_detector`."""
    words = "File of the backbone's ImageNet weights (.safetensors, .pth); empty: it learns from scratch"
    return Field("", description=words)


# --- sizes


def fitted(size: tuple[int, int], short: int, longest: int) -> tuple[int, int]:
    """(rows, columns) with the short edge `short`, or the long one `longest` where it would be more."""
    factor = min(short / min(size), longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def scaled(frame: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Frame and boxes at another size (rows, columns), smoothed where it is smaller."""
    rows, columns = frame.shape[1:]
    if size == (rows, columns):
        return frame, boxes
    smaller = size[0] < rows or size[1] < columns
    found = F.interpolate(frame.float()[None], size=size, mode="bilinear", align_corners=False, antialias=smaller)[0]
    ratio = boxes.new_tensor([size[1] / columns, size[0] / rows]).repeat(2)
    return found if frame.is_floating_point() else found.round().to(frame.dtype), boxes * ratio


# --- frames to learn from


@dataclass
class Frame:
    """A frame in memory: pixels (3, rows, columns) uint8, boxes (N, 4) px and classes (N,) where it is labelled."""

    pixels: Tensor
    boxes: Tensor
    classes: Tensor
    labelled: bool
    split: str = ""


@dataclass
class Sample:
    """A frame as an update sees it: float pixels, boxes, classes, and the seed of what its loss draws."""

    pixels: Tensor
    boxes: Tensor
    classes: Tensor
    seed: int


def frames_of(cases: list[Case], short: int, longest: int, run: Run) -> tuple[list[Frame], list[str]]:
    """Cases with `image` and, where they are labelled, `boxes` as frames, none larger than these edges; and the names
    of the classes.

    The test split is left out. UserError where no labelled training frame has a box, or a box is at fault.
    """
    cases = [case for case in cases if case.row.get("split") != "test"]
    drawn = [case for case in cases if case.row.get("labelled") != "no"]
    shown = [box.name for case in drawn if case.row.get("split") != "validation" for box in case.many("boxes")]
    if not shown:
        raise UserError("No labelled training frame has a box to learn from; draw boxes and name them in “boxes”.")
    meaning = class_names([box.name for case in drawn for box in case.many("boxes")])
    classes = sorted({meaning[name] for name in shown})
    if lacking := sorted(set(meaning.values()) - set(classes)):
        run.log(f"In no training frame, and left out of the validation frames: {', '.join(lacking)}.")
    frames = []
    for case in cases:
        image, labelled = case.get("image", Image), case.row.get("labelled") != "no"
        boxes: list[Box] = [box for box in case.many("boxes") if meaning[box.name] in classes] if labelled else []
        places = torch.from_numpy(boxes_in(image, boxes, case.label)).float()
        pixels = frame_of(image, run.log).round().to(torch.uint8)
        size = (pixels.shape[1], pixels.shape[2])
        working = fitted(size, short, longest)
        pixels, places = scaled(pixels, places, working if working[0] < size[0] else size)
        numbers = torch.tensor([classes.index(meaning[box.name]) for box in boxes], dtype=torch.long)
        frames.append(Frame(pixels, places, numbers, labelled, case.row.get("split", "")))
    return frames, classes


def weakly(frame: Frame, size: tuple[int, int], flip: bool, seed: int) -> Sample:
    """Weak augmentation: the frame at another size (short edge, long edge), mirrored or not."""
    rows, columns = fitted((frame.pixels.shape[1], frame.pixels.shape[2]), *size)
    pixels, boxes = scaled(frame.pixels.float(), frame.boxes, (rows, columns))
    if flip:
        pixels = pixels.flip(2)
        boxes = torch.stack((columns - boxes[:, 2], boxes[:, 1], columns - boxes[:, 0], boxes[:, 3]), dim=1)
    return Sample(pixels, boxes, frame.classes, seed)


def stacked(pixels: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Frames side by side, padded at their right and lower edges to the largest; and their own sizes."""
    sizes = [(one.shape[1], one.shape[2]) for one in pixels]
    rows, columns = (max(size[axis] for size in sizes) for axis in (0, 1))
    padded = [F.pad(one, (0, columns - one.shape[2], 0, rows - one.shape[1])) for one in pixels]
    return torch.stack(padded), sizes


def batch_of(samples: list[Sample], run: Run) -> tuple[Tensor, list[Targets]]:
    """Samples as a detector takes them, on the run's device."""
    images, sizes = stacked([sample.pixels for sample in samples])
    targets = [
        Targets(sample.boxes.to(run.device), sample.classes.to(run.device), size)
        for sample, size in zip(samples, sizes, strict=True)
    ]
    return images.to(run.device).contiguous(memory_format=torch.channels_last), targets


# --- a detector, and what it finds


def drawn_detector(build: Callable[[], Network], imagenet: str, seed: int | None) -> Network:
    """The detector that `build` makes, its weights drawn by a seed and, where a file of them is named, its backbone's
    ImageNet's; without a seed all are to be loaded."""
    network = drawn(seed or 0, build)
    if seed is not None and imagenet:
        load_imagenet(network.backbone, Path(imagenet))
    return network


def detector_model(
    slug: str, weights: dict[str, Tensor], config: Config, classes: Sequence[str], facts: dict[str, Any]
) -> Model:
    """A trained detector. Of the file of ImageNet weights (`imagenet_field`) no more than its name is kept."""
    settings = config.model_dump(mode="json")
    settings["imagenet_weights"] = Path(settings["imagenet_weights"]).name
    return Model(slug, {"detector": weights}, settings, {"classes": list(classes)}, facts)


@torch.no_grad()
def look(detector: Any, frame: Tensor, short: int, longest: int, run: Run, **options: Any) -> Detections:
    """What a detector sees in a frame (3, rows, columns) that is scaled to these edges, in the frame's own pixels, on
    the CPU. options: those of its `detect`."""
    size = (frame.shape[1], frame.shape[2])
    working = fitted(size, short, longest)
    pixels, _ = scaled(frame.float(), torch.zeros(0, 4), working)
    pixels = pixels[None].to(run.device).contiguous(memory_format=torch.channels_last)
    with run.autocast():
        found: Detections = detector.eval().detect(pixels, **options)[0]
    ratio = found.boxes.new_tensor([size[1] / working[1], size[0] / working[0]]).repeat(2)
    return Detections(clipped(found.boxes * ratio, size).cpu(), found.classes.cpu(), found.scores.cpu())


def boxes_found(
    detector: Any, classes: Sequence[str], image: Image, edges: tuple[int, int], run: Run, **options: Any
) -> list[Box]:
    """What a detector finds in a picture at these edges (short, long), as ROIs that are named as their classes."""
    found = look(placed(detector, run), frame_of(image, run.log), *edges, run, **options)
    names = [classes[kind] for kind in found.classes.tolist()]
    return boxes_from(as_found(found).boxes, names, found.scores.tolist(), image)


def precision_on(frames: Sequence[Frame], see: Callable[[Frame], Detections]) -> float:
    """mAP 50:95 of what `see` finds in labelled frames; 0 where they show nothing."""
    found = [as_found(see(frame)) for frame in frames]
    value, _ = detection.mean_average_precision(found, [as_truth(frame) for frame in frames])
    return 0.0 if math.isnan(value) else value


def measured(result: Case, reference: Case) -> dict[str, float]:
    """Of the boxes of one picture: mAP 50:95 and 50 over its classes, precision and recall (score and overlap of 0.5 or
    more). The papers' mAP ranks the boxes of all pictures together: `medgen.metrics.detection` gives it for a set."""
    image = reference.get("image", Image)
    truth, found = ([*case.many("boxes")] for case in (reference, result))
    meaning = class_names([box.name for box in truth])
    kinds = sorted({meaning.get(box.name, box.name) for box in (*truth, *found)})
    frames = []
    for boxes in (found, truth):
        numbers = np.array([kinds.index(meaning.get(box.name, box.name)) for box in boxes], dtype=np.int64)
        scores = np.array([1.0 if box.confidence is None else box.confidence for box in boxes])
        frames.append(Found(boxes_in(image, boxes, reference.label), numbers, scores))
    return detection.measures(frames[:1], frames[1:])


def as_found(detections: Detections) -> Found:
    """Detections as the measures take them."""
    scores = detections.scores.double().cpu().numpy()
    return Found(detections.boxes.double().cpu().numpy(), detections.classes.cpu().numpy(), scores)


def as_truth(frame: Frame) -> Found:
    """A labelled frame's boxes as the measures take them."""
    return Found(frame.boxes.double().numpy(), frame.classes.numpy())
