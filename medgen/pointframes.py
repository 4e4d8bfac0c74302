"""Frames with any number of points that have no names of their own (sutures, for one): brought to one size, changed at
random, and measured as they are found.

A position is a row and a column in pixels, 0 at the centre of the first one. In a case, points are RAS mm on the
picture's plane (of a PNG or JPEG: its pixels).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medgen import augmentation, prepare
from medgen.bundle import Model
from medgen.case import Case, Image, Points
from medgen.cohort import Collection
from medgen.errors import UserError
from medgen.frames import frame_of
from medgen.jobs import Run
from medgen.method import Config, Declared, Kind, Method, Operation, Pool, Role, Tiers, lowers_memory, paper
from medgen.metrics.points import Matched, matched
from medgen.nn.heatmaps import gaussians, together
from medgen.training import Training

Values = NDArray[np.float64]

RADIUS = 6 / 512  # of a frame's width: a point farther off is missed (both papers' 6 pixels of 512)

IMAGE = Role("image", Kind.IMAGE, "Frame of a video, a picture", dims="2D", reference=True)
POINTS = Role(
    "points", Kind.POINTS, "A point where each suture enters the tissue; an empty list where there is none", dims="2D",
    may_be_empty=True,
)  # fmt: skip
FOUND = Role(
    "points", Kind.POINTS, "A point where each suture was found to enter the tissue", dims="2D", may_be_empty=True
)


POOLS = (
    Pool("theatre", (IMAGE, POINTS), "Frames of the kind to find points in", may=("labelled",)),
    Pool("simulator", (IMAGE, POINTS), "Frames of another kind", optional=True, may=("labelled",)),
)


def operations(train: Declared, rule: type[Config], rules: Tiers) -> tuple[Operation, Operation]:
    """Training on `POOLS`, and finding the points of a frame by a `rule`."""
    return Operation.train_and_apply(POOLS, (IMAGE,), (FOUND,), train, ("Find the sutures in a frame.", rule, rules))


SECONDS_A_PIXEL = 4e-7  # that a frame's random change and its target take


def positions_in(image: Image, points: Points, label: str = "") -> Values:
    """(N, 2) positions of the placed points in a picture. UserError, naming the point, for one outside the picture."""
    placed = points.positions[points.found]
    index = (placed - image.affine[:3, 3]) @ np.linalg.inv(image.affine[:3, :3]).T
    columns, rows = image.shape
    outside = ((index[:, :2] < -0.5) | (index[:, :2] > np.array([columns, rows]) - 0.5)).any(axis=1)
    if outside.any():
        name = [name for name, there in zip(points.names, points.found, strict=True) if there][int(outside.argmax())]
        raise UserError(
            f"Point “{name}” of {label or image.name or 'the image'} lies outside its image ({columns} x {rows} px); "
            "move or remove it."
        )
    return index[:, [1, 0]]


def points_from(found: Values, confidence: Sequence[float] | Values, image: Image, name: str) -> Points:
    """Positions (N, 2) in a picture as points on its plane, surest first, called `name` 1, 2, ..."""
    order = np.argsort(-np.asarray(confidence, float), kind="stable")
    index = np.column_stack([found[order][:, [1, 0]], np.zeros(len(order))]) if len(order) else np.empty((0, 3))
    places = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    names = [f"{name} {number}" for number in range(1, len(order) + 1)]
    return Points(places, names, np.asarray(confidence, float)[order], f"{name}s")


# --- settings that trainings on such frames share


@dataclass(frozen=True)
class Limits:
    """Of random changes: degrees of turning, share of the size, of a change of colours, brightness and contrast."""

    rotation: float
    scale: float
    colour: float


class FrameConfig(Config):
    """Canvas, batches and random changes."""

    rows: int = Field(
        288, ge=32, le=2048, multiple_of=32, description="Height of the canvas that frames are fitted to",
        json_schema_extra={**paper(288, "px"), **lowers_memory()},
    )  # fmt: skip
    columns: int = Field(
        512, ge=32, le=2048, multiple_of=32, description="Its width", json_schema_extra=paper(512, "px")
    )
    batch_size: int = Field(
        8, ge=2, le=256, description="Frames an update, of each kind", json_schema_extra=lowers_memory()
    )
    rotation: float = Field(40.0, ge=0, le=180, description="Largest random turn", json_schema_extra={"unit": "degree"})
    scale: float = Field(0.0, ge=0, le=0.9, description="Largest random change of size, as a share")
    colour: float = Field(0.2, ge=0, le=0.9, description="Largest random change of colours and brightness, as a share")
    validate_every: int = Field(500, ge=1, le=100_000, description="Updates between looks at the validation frames")

    @property
    def size(self) -> tuple[int, int]:
        """Of the canvas: rows, columns."""
        return self.rows, self.columns

    @property
    def limits(self) -> Limits:
        """Of the random changes."""
        return Limits(self.rotation, self.scale, self.colour)


# --- one size


@dataclass(frozen=True)
class Fitting:
    """How a picture of `own` (rows, columns) lies in the upper left of a canvas `size`: `inner` pixels of it."""

    own: tuple[int, int]
    inner: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def of(cls, own: tuple[int, int], size: tuple[int, int]) -> Fitting:
        """As large as it goes, in its proportions."""
        factor = min(size[0] / own[0], size[1] / own[1])
        return cls(own, (max(1, round(own[0] * factor)), max(1, round(own[1] * factor))), size)

    def pixels(self, frame: Tensor) -> Tensor:
        """(3, *own) in 0..255 -> (3, *size) uint8, smoothed where it shrinks, black beyond it."""
        scaled = F.interpolate(frame.float()[None], self.inner, mode="bilinear", antialias=True)[0]
        padding = (0, self.size[1] - self.inner[1], 0, self.size[0] - self.inner[0])
        return F.pad(scaled, padding).round().clamp(0, 255).to(torch.uint8)

    def into(self, positions: Values) -> Values:
        """Positions (N, 2) of the picture -> on the canvas."""
        return (positions + 0.5) * np.array(self.inner) / np.array(self.own) - 0.5

    def back(self, positions: Values) -> Values:
        """Positions (N, 2) on the canvas -> of the picture."""
        return (positions + 0.5) * np.array(self.own) / np.array(self.inner) - 0.5

    def within(self, positions: Values) -> NDArray[np.bool_]:
        """(N,) whether positions on the canvas lie in the picture."""
        return np.asarray(((positions >= -0.5) & (positions <= np.array(self.inner) - 0.5)).all(axis=1))


def fit_picture(image: Image, size: tuple[int, int], log: Callable[[str], None]) -> tuple[Tensor, Fitting]:
    """A picture on a canvas of this size: (3, *size) uint8, and how it lies there."""
    frame = frame_of(image, log)
    fitting = Fitting.of((frame.shape[1], frame.shape[2]), size)
    return fitting.pixels(frame), fitting


def normalised(pixels: Tensor) -> Tensor:
    """0..255 -> -1..1, as networks see frames."""
    return pixels.float() / 127.5 - 1


@dataclass
class PointFrame:
    """A frame in memory: pixels (3, rows, columns) uint8 and points (N, 2) px on its canvas; `marked` where somebody
    has looked for points in it."""

    pixels: Tensor
    points: Tensor
    split: str = ""
    marked: bool = True
    inner: tuple[int, int] = (0, 0)  # rows and columns that the picture fills


def frames_of(cases: Sequence[Case], size: tuple[int, int], log: Callable[[str], None]) -> list[PointFrame]:
    """Cases with `image` and, where they are labelled, `points` on canvases of one size; those of the test split are
    left out. UserError for a point outside its image."""
    found = []
    for case in cases:
        if case.row.get("split") == "test":
            continue
        image, marked = case.get("image", Image), case.row.get("labelled") != "no" and "points" in case
        pixels, fitting = fit_picture(image, size, log)
        places = np.empty((0, 2))
        if marked:
            places = fitting.into(positions_in(image, case.get("points", Points), case.label))
        points = torch.from_numpy(places).float()
        found.append(PointFrame(pixels, points, case.row.get("split", ""), marked, fitting.inner))
    return found


def read_pools(collection: Collection, size: tuple[int, int], run: Run) -> tuple[list[PointFrame], list[PointFrame]]:
    """The frames of both of `POOLS`, on canvases of one size; none of one that is not there."""
    pools = (prepare.load_rows(collection.rows(pool.name), pool.roles, run) for pool in POOLS)
    first, second = (frames_of(cases, size, run.log) for cases in pools)
    return first, second


def of_pools(cases: Sequence[Case], run: Run) -> list[list[PointFrame]]:
    """Cases in memory whose row names their pool (the first, where it does not), as small frames to be checked."""
    own = [[case for case in cases if case.row.get("pool", POOLS[0].name) == pool.name] for pool in POOLS]
    return [frames_of(some, (32, 32), run.log) for some in own]


def marked_frames(frames: Sequence[PointFrame], pool: str) -> tuple[list[PointFrame], list[PointFrame]]:
    """Those that are marked, to learn from and to validate with. UserError where none to learn from has a point."""
    marked = [frame for frame in frames if frame.marked]
    learnt = [frame for frame in marked if frame.split != "validation"]
    if not any(len(frame.points) for frame in learnt):
        raise UserError(f"No training frame of pool “{pool}” has a point to learn from; place points in some of them.")
    return learnt, [frame for frame in marked if frame.split == "validation"]


# --- random changes


@dataclass(frozen=True)
class Variation:
    """Mirrored or not along rows and columns, turned (radians) and scaled about the middle; factors for brightness,
    contrast and saturation, and a turn of the hue (radians)."""

    flips: tuple[bool, bool]
    angle: float
    size: float
    factors: tuple[float, float, float]
    hue: float


def random_variation(limits: Limits, random: np.random.Generator) -> Variation:
    """Each flip by half a chance; turn and size uniform; colours, and again brightness and contrast, by half a chance
    each, uniform."""
    flips, turn, size = random.uniform(size=2) < 0.5, random.uniform(-1, 1), random.uniform(-1, 1)
    jitter = np.where(random.uniform() < 0.5, random.uniform(-1, 1, 4) * limits.colour, 0.0)
    further = np.where(random.uniform() < 0.5, random.uniform(-1, 1, 2) * limits.colour, 0.0)
    brightness, contrast = (1 + jitter[:2]) * (1 + further)
    return Variation(
        (bool(flips[0]), bool(flips[1])),
        math.radians(limits.rotation * turn),
        1 + limits.scale * size,
        (float(brightness), float(contrast), float(1 + jitter[2])),
        float(jitter[3] * math.pi / 2),
    )


def varied(frame: PointFrame, variation: Variation) -> tuple[Tensor, Tensor]:
    """Pixels (3, rows, columns) in 0..255 and points (M, 2), changed alike; points that leave the canvas are gone."""
    rows, columns = frame.pixels.shape[1:]
    cosine, sine = variation.size * math.cos(variation.angle), variation.size * math.sin(variation.angle)
    signs = np.where(variation.flips, -1.0, 1.0)[::-1]  # x, y
    linear = np.array([[cosine, -sine], [sine, cosine]]) * signs
    matrix = np.column_stack([linear, np.zeros(2)])
    pixels = recoloured(augmentation.warped(frame.pixels, matrix), variation)
    middle = torch.tensor([columns, rows]) / 2
    turn = torch.from_numpy(linear).float()
    moved = ((frame.points.flip(1) + 0.5 - middle) @ turn.T + middle - 0.5).flip(1)
    inside = ((moved >= -0.5) & (moved <= torch.tensor([rows, columns]) - 0.5)).all(dim=1)
    return pixels, moved[inside]


_GREY = torch.tensor([0.299, 0.587, 0.114])


def recoloured(frame: Tensor, variation: Variation) -> Tensor:
    """Brightness, contrast, saturation and hue changed, in this order; the hue turns about the grey axis."""
    brightness, contrast, saturation = variation.factors
    weights = _GREY[:, None, None]
    frame = frame * brightness
    frame = (frame - (frame * weights).sum(0).mean()) * contrast + (frame * weights).sum(0).mean()
    grey = (frame * weights).sum(0, keepdim=True)
    colours = (frame - grey) * saturation
    if variation.hue:
        cosine, sine = math.cos(variation.hue), math.sin(variation.hue)
        across = (torch.roll(colours, -1, 0) - torch.roll(colours, 1, 0)) / math.sqrt(3)
        level = colours.mean(0, keepdim=True)
        colours = level + (colours - level) * cosine + across * sine
    return (grey + colours).clamp(0, 255)


def target(points: Tensor, size: tuple[int, int], sigma: float, radius: float | None = None) -> Tensor:
    """(1, rows, columns): a Gaussian for each point, all in one map."""
    return together(gaussians(points, size, sigma, radius))[None]


def random_batch(
    training: Training,
    frames: Sequence[PointFrame],
    size: int,
    limits: Limits,
    random: np.random.Generator,
    chances: Values | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """This process's frames of the next update, varied at random: pixels (3, rows, columns) in -1..1 and points.

    chances: (len(frames),) of each frame to be drawn, of sum 1; all alike where there are none.
    """

    def sample(number: int, variation: Variation) -> tuple[Tensor, Tensor]:
        pixels, points = varied(frames[number], variation)
        return normalised(pixels), points

    def draw(count: int) -> list[Callable[[], tuple[Tensor, Tensor]]]:
        numbers = random.choice(len(frames), size=count, p=chances)
        return [partial(sample, int(number), random_variation(limits, random)) for number in numbers]

    return training.batch(size, draw)


def with_maps(
    batch: Sequence[tuple[Tensor, Tensor]], size: tuple[int, int], device: torch.device, *shape: float
) -> tuple[Tensor, Tensor]:
    """Frames and points of `random_batch` as networks learn from them: frames (B, 3, rows, columns) and heatmaps
    (B, 1, rows, columns) on a device. shape: of the Gaussians, for `target`."""
    frames = torch.stack([pixels for pixels, _ in batch]).to(device).contiguous(memory_format=torch.channels_last)
    return frames, torch.stack([target(points, size, *shape) for _, points in batch]).to(device)


@torch.no_grad()
def map_of(network: nn.Module, pixels: Tensor, run: Run) -> Tensor:
    """(h, w): what a network (N, 3, h, w) -> (N, 1, h, w) gives for a canvas (3, h, w) in 0..255, on the CPU."""
    network.eval()
    frames = normalised(pixels)[None].to(run.device).contiguous(memory_format=torch.channels_last)
    with run.autocast():
        found = network(frames)[0, 0]
    return found.float().cpu()


def sutures_in(
    image: Image,
    size: tuple[int, int],
    see: Callable[[Tensor], Any],
    rule: Callable[[Any], tuple[Values, Values]],
    log: Callable[[str], None],
) -> Points:
    """The sutures of a picture, surest first. see: a canvas (3, *size) in 0..255 -> its heatmap (rows, columns); rule:
    a heatmap, as far as the picture goes -> points (n, 2) px and their scores (n,)."""
    pixels, fitting = fit_picture(image, size, log)
    found, scores = rule(see(pixels)[: fitting.inner[0], : fitting.inner[1]])
    return points_from(fitting.back(found), scores.clip(0, 1), image, "suture")


# --- how well points were found


def compared(found: Points, meant: Points, image: Image) -> Matched:
    """Which points were found: the closest pair first, strictly within 6 pixels of a frame 512 wide, in its plane."""
    limit = RADIUS * image.shape[0] * float(image.spacing[0])
    to_index = np.linalg.inv(image.affine)

    def in_plane(points: Points) -> Values:
        index = points.positions[points.found] @ to_index[:3, :3].T + to_index[:3, 3]
        return np.column_stack([index[:, :2] * image.spacing[:2], np.zeros(len(index))])

    return matched(in_plane(found), in_plane(meant), limit)


def measures(result: Case, reference: Case) -> dict[str, float]:
    """Sensitivity, precision and F1 of one frame, and its true positives, false positives and false negatives, whose
    sums over frames give the papers' measures over all points (`over_all`). The reference has the image too."""
    found, meant = (case.get("points", Points) for case in (result, reference))
    pairs = compared(found, meant, reference.get("image", Image))
    counts = {"TP": pairs.hits, "FP": pairs.found - pairs.hits, "FN": pairs.meant - pairs.hits}
    shares = {"sensitivity": pairs.recall, "precision": pairs.precision, "F1": pairs.f1}
    return {**{name: share for name, share in shares.items() if math.isfinite(share)},
            **{name: float(count) for name, count in counts.items()}}  # fmt: skip


def f1_over(frames: Sequence[PointFrame], find: Callable[[PointFrame], Values]) -> float:
    """F1 over all points of frames in memory, by what `find` gives on their canvases."""
    pairs = [matched(find(one), one.points.double().numpy(), RADIUS * one.inner[1]) for one in frames]
    return over_all(pairs).f1


def over_all(pairs: Sequence[Matched]) -> Matched:
    """The counts of several frames together: their precision, recall and F1 are over all points."""
    return Matched(
        np.concatenate([np.empty((0, 2), np.int64), *(one.pairs for one in pairs)]),
        np.concatenate([np.empty(0), *(one.apart for one in pairs)]),
        sum(one.found for one in pairs),
        sum(one.meant for one in pairs),
    )


# --- what both methods are


class SutureMethod(Method):
    """A method that learns from `POOLS` in memory (`fit`) and finds the sutures of a frame."""

    module = "MedGenLandmarks"
    group = "Points"
    phantoms = ("annulus",)
    demo_cases = 72

    def train(self, collection: Collection, config: Any, run: Run, model: Model | None = None) -> Case:
        """The rows of the pools -> a model of the theatre; rows of the test split are left out."""
        return Case({"model": self.fit(*read_pools(collection, config.size, run), config, run)})

    @abstractmethod
    def fit(self, theatre: Sequence[PointFrame], simulator: Sequence[PointFrame], config: Any, run: Run) -> Model:
        """Train on frames in memory."""

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        """As `measures`: the papers' measures of one frame, and the counts that give them over all points."""
        return measures(result, reference)
