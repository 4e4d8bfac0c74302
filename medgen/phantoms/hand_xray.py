"""A radiograph of a left hand, palm down, with 21 landmarks: the ends of its bones.

A drawing of what X-rays do, not of a patient: every bone is a hollow round bar with thicker ends, the rays are dimmed
by the lengths of cortex, marrow and soft tissue that they cross, and the detector adds blur, scatter and noise. Hands
differ in size and proportions, in how far the fingers are spread and bent, in density, and in how they lie on the
plate; the plate bears a side marker and is partly shuttered off. Lengths are round numbers from anatomy atlases, mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

NAME = "hand-xray"
SENTENCE = "A radiograph of a hand with landmarks at the ends of its bones; hands vary in shape, spread and pose."
ROLES = {"image": "Image", "landmarks": "Points"}
SEGMENTS = ()
LABELLED = 0.25  # of the training cases

Vector = NDArray[np.float64]
FINGERS = ("thumb", "index", "middle", "ring", "little")
LANDMARKS = (
    *(f"{finger} {part}" for finger in FINGERS[1:] for part in ("knuckle", "middle joint", "end joint", "tip")),
    *(f"thumb {part}" for part in ("knuckle", "joint", "tip")),
    "radial styloid",
    "ulnar styloid",
)
# Metacarpal, phalanges (mm); the metacarpal's base from the wrist's middle (x towards the thumb, y to the finger tips)
# and the direction in degrees from y towards the thumb; the bones' half width.
_BONES: dict[str, tuple[tuple[float, ...], tuple[float, float], float, float]] = {
    "thumb": ((44, 32, 23), (21, 21), 46, 4.9),
    "index": ((66, 40, 23, 18), (12, 33), 10, 4.5),
    "middle": ((63, 44, 28, 19), (2, 35), 1, 4.6),
    "ring": ((56, 41, 27, 19), (-8, 33), -7, 4.2),
    "little": ((52, 32, 19, 17), (-16, 29), -17, 3.8),
}
_CARPALS = ((13, 9, 7, 5.5), (4, 8, 6.5, 5.5), (-6, 8, 6, 5.5), (16, 20, 6, 5), (8, 23, 4.5, 5), (-1, 21, 6, 8))
_CORTEX, _MARROW, _SOFT = 0.075, 0.020, 0.0105  # attenuation, 1/mm


@dataclass
class Bone:
    """A round bar from `begin` to `end` (x, y; mm) with half width `radius` at its middle."""

    begin: Vector
    end: Vector
    radius: float


def make(
    seed: int, size: tuple[int, ...] = (192, 240), spacing: float | None = None, noise: float = 1.0
) -> dict[str, Any]:
    """One hand: "image" (2D, uint16, bright bones) and "landmarks" (content of a .mrk.json, LPS mm).

    size: pixels along x (columns) and y (rows); spacing: mm, by default as much as makes the plate 240 mm high. noise:
    its strength. The same seed is the same hand whatever the size. Raises ValueError for fewer than 32 pixels.
    """
    if min(size[:2]) < 32:
        raise ValueError("a hand needs 32 pixels or more along each axis")
    shapes, poses, plate, scanner = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
    spacing = spacing or 240.0 / size[1]
    chains, forearm = skeleton(shapes)
    half = (np.array(size[:2]) - 1) / 2 * spacing
    place = posed(poses, landmarks(chains, forearm), half - 6.0)
    # Row 0 is at the finger tips, column 0 on the little finger's side: the palm lies on the plate.
    columns = np.arange(size[0]) * spacing - half[0]
    rows = half[1] - np.arange(size[1]) * spacing
    grid = np.stack(np.broadcast_arrays(columns[None], rows[:, None])).astype(np.float32)
    depth = attenuation(grid, spacing, chains, forearm, place, shapes)
    array = detected(depth, grid, spacing, noise, plate, scanner)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([spacing, spacing])
    marks = place(landmarks(chains, forearm))
    pixels = np.column_stack([marks[:, 0] + half[0], half[1] - marks[:, 1]])  # mm from the first pixel's centre
    return {"image": image, "landmarks": fiducials(pixels)}


def fiducials(points: Vector) -> dict[str, Any]:
    """The landmarks (n, 2), mm along x and y, as Slicer's markups file has them."""
    controls = [
        {"id": str(number + 1), "label": name, "position": [*point.tolist(), 0.0], "positionStatus": "defined"}
        for number, (name, point) in enumerate(zip(LANDMARKS, points, strict=True))
    ]
    form = {"type": "Fiducial", "name": "landmarks", "coordinateSystem": "LPS", "coordinateUnits": "mm"}
    return {"markups": [{**form, "controlPoints": controls}]}


# --- anatomy: mm about the middle of the wrist, x towards the thumb, y towards the finger tips


def skeleton(rng: np.random.Generator) -> tuple[dict[str, list[Bone]], list[Bone]]:
    """Each finger's bones from the metacarpal outwards, and the radius and ulna."""
    size, spread, slender = np.clip(rng.normal(0.97, 0.05), 0.85, 1.08), rng.normal(1.0, 0.3), rng.normal(1.0, 0.06)
    chains: dict[str, list[Bone]] = {}
    for finger, (lengths, base, direction, radius) in _BONES.items():
        at = np.array(base, float) * size + rng.normal(0, 0.8, 2)
        fan = direction * (0.85 + 0.15 * spread) + rng.normal(0, 1.2)
        bend = rng.normal(0, 4.0) + (spread - 1) * (direction if finger != "thumb" else 14.0)
        bones = []
        for number, length in enumerate(lengths):
            if number == 1:
                fan += bend
            elif number > 1:
                fan += rng.normal(0, 2.5)
            length = length * size * rng.normal(1.0, 0.04)
            # A finger bent out of the plate looks shorter.
            length *= np.cos(np.radians(abs(rng.normal(0, 8.0 if number else 3.0))))
            heading = np.array([np.sin(np.radians(fan)), np.cos(np.radians(fan))])
            thick = radius * size * slender * (1.0, 0.88, 0.75, 0.6)[number if finger != "thumb" else min(number, 2)]
            bones.append(Bone(at, at + heading * (length - 1.8), thick))
            at = at + heading * length
        chains[finger] = bones
    turn = rng.normal(0, 3.0)
    arms = []
    for x, far, radius in ((9.0, 17.0, 7.0), (-12.0, -10.0, 5.0)):
        begin = np.array([x, -1.5 - (x < 0) * rng.uniform(0, 4)]) * size
        arms.append(Bone(begin, begin + np.array([(far - x) * 0.4 + turn, -110.0]) * size, radius * size * slender))
    return chains, arms


def landmarks(chains: dict[str, list[Bone]], forearm: list[Bone]) -> Vector:
    """(21, 2): the heads of the fingers' bones, and the corners of radius and ulna, in the order of `LANDMARKS`."""
    marks = [bone.end for finger in (*FINGERS[1:], "thumb") for bone in chains[finger]]
    for bone, side in zip(forearm, (1.0, -1.0), strict=True):
        marks.append(bone.begin + bone.radius * np.array([side * _flare(0.0), -_flare(0.0)]))
    return np.array(marks)


def posed(rng: np.random.Generator, marks: Vector, half: Vector) -> Any:
    """How the hand lies on the plate: a function from its own mm to the plate's, (n, 2) -> (n, 2).

    Whoever takes the radiograph sees to it that the landmarks lie within `half` (2,) mm of the plate's middle.
    """
    angle = np.radians(np.clip(rng.normal(0, 8.0), -16, 16))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = marks @ turn.T
    shift = rng.normal(0, 7.0, 2) - turn @ np.array([14.0, 80.0])
    shift = np.minimum(shift, half - turned.max(axis=0))
    shift = np.maximum(shift, -half - turned.min(axis=0))
    return lambda points: np.asarray(points) @ turn.T + shift


# --- what the rays cross


def _flare(share: Any) -> Any:
    """Half width at a share of a bone's length, in that of its middle."""
    return 1.0 + 0.42 * np.abs(2 * np.clip(share, 0, 1) - 1) ** 3


def along(grid: NDArray[np.float32], begin: Vector, end: Vector) -> tuple[Any, Any]:
    """Of every pixel (2, rows, columns): its distance from the line between two points, and the share along it."""
    axis = (end - begin).astype(np.float32)
    offset = grid - begin.astype(np.float32)[:, None, None]
    share = np.clip(np.tensordot(axis, offset, axes=1) / float(axis @ axis), 0, 1)
    return np.hypot(*(offset - axis[:, None, None] * share)), share


def _chord(distance: Any, radius: Any) -> Any:
    """Length of a ray through a round bar at a distance from its axis."""
    return 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))


def attenuation(
    grid: NDArray[np.float32],
    spacing: float,
    chains: dict[str, list[Bone]],
    forearm: list[Bone],
    place: Any,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """The logarithm of how much a ray is dimmed on its way to each pixel."""
    dense, corpulent = rng.uniform(0.8, 1.15), rng.uniform(0.9, 1.25)
    depth, flesh = np.zeros(grid.shape[1:], np.float32), np.zeros(grid.shape[1:], np.float32)

    def soft(begin: Vector, end: Vector, first: float, last: float) -> None:
        """Thickens the soft tissue to a tapered bar; where several overlap, the thickest counts."""
        line = place(np.stack([begin, end]))
        distance, share = along(grid, line[0], line[1])
        np.maximum(flesh, _chord(distance, corpulent * (first + (last - first) * share)), out=flesh)

    every = [bone for bones in chains.values() for bone in bones]
    for bone in [*every, *forearm]:
        heading = (bone.end - bone.begin) / np.linalg.norm(bone.end - bone.begin)
        inset = 0.85 * _flare(1.0) * bone.radius * heading  # the bar's round ends reach beyond its line
        line = place(np.stack([bone.begin + inset, bone.end - inset]))
        distance, share = along(grid, line[0], line[1])
        outer = bone.radius * _flare(share)
        inner = np.maximum(outer - 0.38 * bone.radius * (1.15 - np.abs(2 * share - 1) ** 2), 0)
        whole, hollow = _chord(distance, outer), _chord(distance, inner)
        depth += dense * (_CORTEX * (whole - hollow) + _MARROW * hollow)
    for x, y, wide, tall in _CARPALS:
        centre = place(np.array([[x, y]], float) + rng.normal(0, 0.7, (1, 2)))[0]
        offset = grid - centre.astype(np.float32)[:, None, None]
        share = np.sqrt(np.square(offset[0] / wide) + np.square(offset[1] / tall))
        depth += dense * 0.32 * (np.sqrt(np.maximum(1 - share**2, 0)) + 0.35 * np.exp(-(((share - 0.92) / 0.07) ** 2)))
    for finger, bones in chains.items():
        for number, bone in enumerate(bones):
            wide = 12.5 if number == 0 else 8.6 - 0.9 * number
            tip = (bone.end - bone.begin) / np.linalg.norm(bone.end - bone.begin) * (3.0 if bone is bones[-1] else 0.0)
            soft(bone.begin, bone.end + tip, wide, 10.0 if number == 0 and finger != "thumb" else wide - 0.9)
    soft(np.array([0.0, 5.0]), np.array([2.0, 70.0]), 24.0, 25.0)
    soft(np.array([14.0, 18.0]), chains["thumb"][0].end, 19.0, 12.0)
    soft(np.array([0.0, 10.0]), np.array([2.0, -115.0]), 23.0, 31.0)
    return depth + _SOFT * np.minimum(flesh, 26.0).astype(np.float32)


def detected(
    depth: NDArray[np.float32],
    grid: NDArray[np.float32],
    spacing: float,
    noise: float,
    plate: np.random.Generator,
    scanner: np.random.Generator,
) -> NDArray[np.uint16]:
    """What the detector shows: uneven beam, scatter, quantum noise, a side marker, shutters; bone bright, air dark."""
    dose = np.exp(-depth) * (1 + plate.uniform(-0.0012, 0.0012) * grid[0] + plate.uniform(-0.0012, 0.0012) * grid[1])
    wide = sitk.GetArrayFromImage(
        sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(dose.astype(np.float32)), 14.0 / spacing)
    )
    dose = 0.8 * dose + 0.2 * wide
    corner = np.array([plate.choice([-1.0, 1.0]) * plate.uniform(66, 78), plate.uniform(-100, 20)])
    marker = np.abs(grid - corner.astype(np.float32)[:, None, None])
    dose[(marker[0] < 4.5) & (marker[1] < 5.5) & ~((marker[0] < 2.5) & (marker[1] < 3.2))] = 0.02
    sharp = sitk.GetImageFromArray(dose.astype(np.float32))
    dose = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sharp, max(0.45 / spacing, 0.4)))
    grain = scanner.standard_normal(dose.shape).astype(np.float32)
    dose = np.maximum(dose + noise * 0.012 * np.sqrt(np.maximum(dose, 0)) * grain, 1e-3)
    shown = np.log(1.08 / dose) * plate.uniform(0.85, 1.15)
    margins = plate.uniform(-4, 4, 4)
    half = np.abs(grid).max(axis=(1, 2))
    open_ = (grid[0] > margins[0] - half[0]) & (grid[0] < half[0] - margins[1])
    open_ &= (grid[1] > margins[2] - half[1]) & (grid[1] < half[1] - margins[3])
    shown = np.where(open_, shown, 0.02)
    return np.clip(np.rint(2400 * np.maximum(shown, 0)), 0, 4095).astype(np.uint16)
