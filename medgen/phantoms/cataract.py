"""Frames of an operating microscope over a cataract surgery: an eye, and up to three tools in it with their boxes.

A drawing, not a simulation of a patient: lengths are shares of the frame's height, round numbers by eye. Position and
colours of the eye, vessels, lamp reflexes, focus, colour cast and noise vary from seed to seed; so do the tools that
are there, where their tips lie, from where they come and how they are lit. One frame in eight has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Array = NDArray[np.float32]
Colour = tuple[float, float, float]

NAME = "cataract-frame"
SENTENCE = "A frame of an operating microscope: an eye in cataract surgery, with the tools in it boxed."
ROLES = {"image": "Image", "boxes": "Box"}
SEGMENTS = ()
LABELLED = 0.25  # share of the training frames that come with their boxes

STEEL: Colour = (0.66, 0.68, 0.71)
HEAD = 0.27  # heights from a tool's tip to where its handle begins


@dataclass(frozen=True)
class Part:
    """A piece of a tool between two distances from its tip: half its width at either end, its colour, how much of what
    lies behind shows through, and how far its middle lies off the tool's axis, from the distance."""

    begin: float
    end: float
    widths: tuple[float, float]
    colour: Colour = STEEL
    clear: float = 0.0
    bend: Callable[[Array], Array] = lambda along: np.zeros_like(along)


def _hook(along: Array) -> Array:
    return 0.9 * np.clip(0.035 - along, 0, None)


def _kink(along: Array) -> Array:
    return 0.55 * np.clip(0.10 - along, 0, None)


def _upper(along: Array) -> Array:
    return 0.004 + 0.036 * np.sin(np.clip(along / 0.24, 0, 1) * np.pi * 0.75)


def _lower(along: Array) -> Array:
    return -_upper(along)


LONG = 2.0  # beyond any frame's edge
TOOLS: dict[str, tuple[Part, ...]] = {
    "phacoemulsifier handpiece": (
        Part(0.0, 0.07, (0.010, 0.012)),
        Part(0.05, 0.20, (0.020, 0.026), (0.55, 0.66, 0.80), 0.35),
        Part(0.20, 0.27, (0.028, 0.045), (0.50, 0.52, 0.55)),
        Part(0.27, LONG, (0.048, 0.075), (0.74, 0.75, 0.77)),
    ),
    "lens injector": (
        Part(0.0, 0.16, (0.020, 0.030), (0.62, 0.80, 0.84), 0.5),
        Part(0.16, 0.27, (0.032, 0.060), (0.45, 0.70, 0.80), 0.25),
        Part(0.27, LONG, (0.062, 0.066), (0.35, 0.55, 0.75), 0.1),
    ),
    "primary knife": (
        Part(0.0, 0.075, (0.001, 0.034), (0.84, 0.86, 0.88)),
        Part(0.075, 0.13, (0.034, 0.012), (0.72, 0.74, 0.77)),
        Part(0.13, 0.27, (0.012, 0.014)),
        Part(0.27, LONG, (0.030, 0.034), (0.88, 0.88, 0.83)),
    ),
    "micromanipulator": (
        Part(0.0, 0.30, (0.007, 0.009), bend=_hook),
        Part(0.30, LONG, (0.020, 0.024), (0.58, 0.60, 0.63)),
    ),
    "capsulorhexis forceps": (
        Part(0.0, 0.25, (0.005, 0.009), bend=_upper),
        Part(0.0, 0.25, (0.005, 0.009), bend=_lower),
        Part(0.24, LONG, (0.036, 0.030), (0.60, 0.61, 0.64)),
    ),
    "hydrodissection cannula": (
        Part(0.0, 0.32, (0.006, 0.008), (0.74, 0.76, 0.78), bend=_kink),
        Part(0.32, LONG, (0.030, 0.042), (0.36, 0.66, 0.48)),
    ),
}


def make(
    seed: int,
    size: tuple[int, ...] = (512, 288),
    most_tools: int = 2,
    head: bool = False,
    noise: float = 1.0,
    kinds: Sequence[str] = tuple(TOOLS),
) -> dict[str, Any]:
    """One frame: "image" (8-bit red, green, blue), "boxes" (content of a .mrk.json with a ROI for each tool).

    size: pixels across and down (what follows is ignored). most_tools: at most so many at once, of different kinds.
    head: boxes hold what lies in front of the handle alone (the second of the paper's two set-ups), not the whole tool.
    noise: its strength. kinds: those of `TOOLS` that are used. Raises ValueError for fewer than 16 pixels along an
    edge or more tools than there are kinds.
    """
    columns, rows = size[:2]
    if min(columns, rows) < 16:
        raise ValueError("a frame needs 16 pixels or more along each edge")
    if not 0 <= most_tools <= len(kinds):
        raise ValueError(f"there are {len(kinds)} kinds of tools, so 0 to {len(kinds)} can be shown")
    look, tools, camera = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(3))
    pixel = 1.0 / rows
    x, y = np.meshgrid(
        (np.arange(columns, dtype=np.float32) + 0.5) * pixel - columns * pixel / 2,
        (np.arange(rows, dtype=np.float32) + 0.5) * pixel - 0.5,
    )
    eye = Eye.drawn(look)
    canvas = eye.paint(x, y, pixel, look)
    count = 0 if most_tools == 0 or tools.uniform() < 0.12 else int(tools.integers(1, most_tools + 1))
    names = [str(name) for name in tools.permutation(list(kinds))[:count]]
    shown: list[tuple[str, NDArray[np.bool_]]] = []
    for name in names:
        covered, part = draw_tool(canvas, TOOLS[name], x, y, pixel, eye, tools)
        shown = [(other, mask & ~covered) for other, mask in shown]
        shown.append((name, part if head else covered))
    eye.reflexes(canvas, x, y, look)
    picture = photographed(canvas, x, y, noise, camera)
    image = sitk.GetImageFromArray(picture, isVector=True)
    return {"image": image, "boxes": {"markups": [roi(name, mask) for name, mask in shown if mask.sum() >= 20]}}


def roi(name: str, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The box around a tool's pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return roi_around(name, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


def roi_around(name: str, box: Sequence[int]) -> dict[str, Any]:
    """A box (left, upper, right, lower edge in px) as Slicer's markups file has it; a plain picture's pixels are its
    millimetres."""
    x1, y1, x2, y2 = (float(value) for value in box)
    centre = [(x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2, 0.0]
    return {
        "type": "ROI",
        "roiType": "Box",
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "center": centre,
        "orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "size": [x2 - x1, y2 - y1, 1.0],
        "controlPoints": [{"id": "1", "label": name, "position": centre, "positionStatus": "defined"}],
    }


# --- the eye


@dataclass(frozen=True)
class Eye:
    """Centre and radii (shares of the frame's height) and colours of what the microscope looks at."""

    centre: tuple[float, float]
    pupil: float
    iris: float
    colour: Colour
    glow: Colour
    drape: Colour

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Eye:
        """Another eye."""
        irises: list[Colour] = [(0.36, 0.22, 0.12), (0.30, 0.36, 0.42), (0.30, 0.33, 0.20), (0.24, 0.15, 0.09)]
        drapes: list[Colour] = [(0.25, 0.45, 0.47), (0.32, 0.42, 0.60), (0.62, 0.52, 0.44)]
        warmth = rng.uniform(0.35, 0.75)
        return cls(
            centre=(float(rng.normal(0, 0.06)), float(rng.normal(0, 0.04))),
            pupil=float(rng.uniform(0.23, 0.32)),
            iris=float(rng.uniform(0.38, 0.44)),
            colour=irises[int(rng.integers(len(irises)))],
            glow=(float(warmth), float(warmth * rng.uniform(0.40, 0.62)), float(warmth * rng.uniform(0.22, 0.40))),
            drape=drapes[int(rng.integers(len(drapes)))],
        )

    def paint(self, x: Array, y: Array, pixel: float, rng: np.random.Generator) -> Array:
        """(rows, columns, 3) in 0..1: sclera with vessels, iris, pupil with its red reflex, lids, speculum, drape."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        away, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
        waves = [rng.normal(0, 0.004) * np.sin(n * angle + rng.uniform(0, 6.3)) for n in range(1, 6)]
        wobble = np.sum(waves, axis=0).astype(np.float32)
        cloud = smooth(x.shape, 0.09 / pixel, rng)
        canvas = np.empty((*x.shape, 3), np.float32)
        canvas[:] = np.array([0.84, 0.76, 0.70], np.float32) * (1 + 0.05 * cloud[..., None])
        _vessels(canvas, away, angle, self.iris, rng)
        fibres = np.sin(angle * rng.integers(60, 110) + 5 * cloud) * 0.5 + smooth(x.shape, 0.012 / pixel, rng) * 0.5
        iris = np.array(self.colour, np.float32) * (1 + 0.22 * fibres + 0.1 * cloud)[..., None]
        blend(canvas, away + wobble - self.iris, iris, 0.012)
        blend(canvas, np.abs(away + wobble - self.iris) - 0.008, np.array(self.colour, np.float32) * 0.55, 0.02, 0.6)
        reflex = np.array(self.glow, np.float32) * (1.05 - 0.45 * (away / self.pupil) ** 2 + 0.1 * cloud)[..., None]
        blend(canvas, away + 0.6 * wobble - self.pupil, reflex, pixel)
        tilt, opening = (np.float32(value) for value in (0.06 * rng.normal(), rng.uniform(0.49, 0.58)))
        lid = np.abs(dy + tilt * dx) * 1.05 + 0.12 * dx**2 - opening
        blend(canvas, -lid, np.array([0.74, 0.53, 0.45], np.float32) * (1 + 0.08 * cloud)[..., None], 0.01)
        outer = 0.74 - np.hypot(dx * 0.86, dy * 0.9)
        blend(canvas, outer, np.array(self.drape, np.float32) * (1 + 0.12 * cloud)[..., None], 0.008)
        for side in (-1, 1):  # the speculum's wires that hold the lids
            wire = np.abs(np.hypot(dx, dy * 1.2 - side * 0.66) - 0.17) - 0.009
            blend(canvas, wire, np.array(STEEL, np.float32) * 0.9, pixel)
        return canvas

    def reflexes(self, canvas: Array, x: Array, y: Array, rng: np.random.Generator) -> None:
        """What the lamps leave on the wet cornea, over everything."""
        for _ in range(int(rng.integers(2, 5))):
            at = np.array(self.centre) + rng.normal(0, 0.12, 2)
            radius = rng.uniform(0.008, 0.022)
            spot = np.hypot(x - at[0], (y - at[1]) * rng.uniform(0.8, 1.3)) - radius
            blend(canvas, spot, np.array([0.98, 0.98, 0.95], np.float32), 0.008)


def _vessels(canvas: Array, away: Array, angle: Array, iris: float, rng: np.random.Generator) -> None:
    """Red lines that wind outwards from the limbus."""
    red = np.zeros_like(away)
    for _ in range(int(rng.integers(18, 34))):
        path = rng.uniform(-np.pi, np.pi) + rng.uniform(0.02, 0.07) * np.sin(
            away * np.float32(rng.uniform(8, 20)) + np.float32(rng.uniform(0, 6.3))
        )
        across = np.abs((angle - path + np.pi) % (2 * np.pi) - np.pi) * away
        begins, half = iris + rng.uniform(0.0, 0.1), rng.uniform(0.0012, 0.004)
        cover = np.clip(0.5 - (across - half) / 0.004, 0, 1) * np.clip((away - begins) / 0.12, 0, 1)
        np.maximum(red, cover, out=red)
    canvas += (np.array([0.66, 0.25, 0.22], np.float32) - canvas) * (0.55 * red)[..., None]


# --- tools


def draw_tool(
    canvas: Array,
    parts: tuple[Part, ...],
    x: Array,
    y: Array,
    pixel: float,
    eye: Eye,
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Paint a tool with its shadow; which pixels show it, and which the part of it in front of the handle."""
    reach = eye.iris * np.sqrt(rng.uniform(0, 1)) * 0.95
    tip = np.array(eye.centre) + reach * _direction(rng.uniform(-np.pi, np.pi))
    heading = rng.choice([-1.0, 1.0])  # surgeons sit above: tools come from the sides, rarely from below
    way = _direction(rng.normal(0, 0.55) + (0.0 if heading > 0 else np.pi))
    size, light, flip = rng.uniform(0.85, 1.25), rng.uniform(0.8, 1.15), rng.choice([-1.0, 1.0])
    covered, front = (np.zeros(x.shape, bool) for _ in range(2))
    for shadow in (True, False):
        offset = np.array([0.012, 0.018]) * size if shadow else np.zeros(2)
        along = ((x - tip[0] - offset[0]) * way[0] + (y - tip[1] - offset[1]) * way[1]) / size
        across = flip * (-(x - tip[0] - offset[0]) * way[1] + (y - tip[1] - offset[1]) * way[0]) / size
        for part in reversed(parts):
            share = np.clip((along - part.begin) / (min(part.end, 1.0) - part.begin), 0, 1)
            half = part.widths[0] + share * (part.widths[1] - part.widths[0])
            off = across - part.bend(along)
            distance = np.maximum(np.abs(off) - half, np.maximum(part.begin - along, along - part.end)) * size
            if shadow:
                blend(canvas, distance - 0.004, np.zeros(3, np.float32), 0.02, 0.30 * (1 - part.clear))
                continue
            round_ = off / np.maximum(half, 1e-4)
            shade = 0.62 + 0.38 * np.sqrt(np.clip(1 - round_**2, 0, 1)) + 0.45 * np.exp(-((round_ + 0.35) ** 2) / 0.03)
            colour = np.array(part.colour, np.float32) * (light * shade)[..., None]
            blend(canvas, distance, colour, pixel, 1 - part.clear)
            covered |= distance < 0
            front |= (distance < 0) & (along < HEAD)
    return covered, front


def _direction(angle: float) -> NDArray[np.float64]:
    return np.array([np.cos(angle), np.sin(angle)])


# --- painting


def blend(canvas: Array, distance: Array, colour: Array, soft: float, strength: float | Array = 1.0) -> None:
    """Put a colour where the distance is negative, over an edge `soft` wide."""
    cover = np.clip(0.5 - distance / soft, 0, 1) * strength
    canvas += (colour - canvas) * cover[..., None].astype(np.float32)


def smooth(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Array:
    """A smooth random field, mean 0 and deviation 1, that varies over `scale` pixels."""
    noise = np.fft.rfft2(rng.standard_normal(shape))
    frequencies = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    field = np.fft.irfft2(noise * np.exp(-2 * (np.pi * scale * frequencies) ** 2), shape)
    return ((field - field.mean()) / (field.std() + 1e-9)).astype(np.float32)


def photographed(canvas: Array, x: Array, y: Array, noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Focus, vignette, exposure, colour cast and grain; (rows, columns, 3) bytes."""
    rows = canvas.shape[0]
    blur = rng.uniform(0.0008, 0.0035) * rows
    frequencies = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(canvas.shape[1])[None])
    kernel = np.exp(-2 * (np.pi * blur * frequencies) ** 2)[..., None]
    soft = np.fft.irfft2(np.fft.rfft2(canvas, axes=(0, 1)) * kernel, canvas.shape[:2], axes=(0, 1))
    lit = (1.08 - 0.35 * (x**2 + y**2)) * rng.uniform(0.85, 1.12)
    soft = soft * lit[..., None] * rng.normal(1.0, 0.04, 3)
    grain = rng.standard_normal(canvas.shape) * 0.012 * noise
    return np.rint(np.clip(soft + grain, 0, 1) * 255).astype(np.uint8)
