"""Endoscopic views of a mitral annulus with sutures, in two looks: a surgical simulator and an operating theatre.

A drawing, not a simulation of a patient: lengths are shares of the frame's height, round numbers by eye. A valve of two
leaflets lies in an oval ring; mattress sutures, two threads each, enter the tissue along it and run out of the frame.
The points are where threads enter. Position, tilt and shape of the valve, how many sutures there are and which part of
the ring they cover vary from seed to seed, alike in both looks, and so do loose threads, which enter nowhere; one frame
in eight has no suture. The simulator is silicone in even light on a plain table; the theatre has muscle, blood (also
where threads enter), wet reflexes, a scope's narrow light, soaked threads and, at times, a prosthetic ring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medgen.phantoms.cataract import blend, photographed, smooth

Array = NDArray[np.float32]
Vector = NDArray[np.float64]
Colour = tuple[float, float, float]

NAME = "annulus"
SENTENCE = "An endoscopic view of a mitral annulus with the points where sutures enter, in a simulator or a theatre."
ROLES = {"image": "Image", "points": "Points"}
SEGMENTS = ()
DOMAINS = ("theatre", "simulator")

MOST = 16  # points in a frame
_THREADS: tuple[Colour, ...] = ((0.86, 0.88, 0.88), (0.22, 0.36, 0.72), (0.20, 0.52, 0.40))
_HALF = 0.0058  # half a thread's width: about 3.3 pixels of 288 for the whole


@dataclass(frozen=True)
class Valve:
    """Centre, half axes (shares of the frame's height), turn (radians) and unevenness of the ring."""

    centre: Vector
    axes: Vector
    turn: float
    waves: NDArray[np.float64]  # (3, 2): strengths of sines and cosines of the angle's multiples 2 to 4

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Valve:
        """Another valve."""
        height = rng.uniform(0.21, 0.35)
        return cls(
            rng.normal(0, (0.13, 0.06)),
            np.array([height * rng.uniform(1.25, 1.6), height]),
            float(rng.normal(0, 0.3)),
            rng.normal(0, 0.018, (3, 2)),
        )

    def places(self, angles: Vector, share: float | Vector = 1.0) -> Vector:
        """(n, 2) x, y on the ring, or on the same curve as a share of its size."""
        orders = np.arange(2, 5)[:, None] * angles
        uneven = 1 + (self.waves[:, :1] * np.sin(orders) + self.waves[:, 1:] * np.cos(orders)).sum(axis=0)
        local = np.stack([np.cos(angles), np.sin(angles)]) * self.axes[:, None] * uneven * share
        return self.centre + (self._rotation @ local).T

    def polar(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Of each pixel: how far it lies from the centre, as a share of the ring's size there, and its angle."""
        inverse = self._rotation.T.astype(np.float32)
        dx, dy = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        u = (inverse[0, 0] * dx + inverse[0, 1] * dy) / np.float32(self.axes[0])
        v = (inverse[1, 0] * dx + inverse[1, 1] * dy) / np.float32(self.axes[1])
        angle = np.arctan2(v, u)
        uneven = np.ones_like(angle)
        for order, (sine, cosine) in zip((2, 3, 4), self.waves.astype(np.float32), strict=True):
            uneven += sine * np.sin(order * angle) + cosine * np.cos(order * angle)
        return np.hypot(u, v) / uneven, angle

    @property
    def _rotation(self) -> NDArray[np.float64]:
        return np.array([[np.cos(self.turn), -np.sin(self.turn)], [np.sin(self.turn), np.cos(self.turn)]])


def make(
    seed: int, size: tuple[int, ...] = (512, 288), domain: str = "theatre", most: int = MOST, noise: float = 1.0
) -> dict[str, Any]:
    """One frame: "image" (8-bit red, green, blue), "points" (content of a .mrk.json, pixels as LPS mm).

    size: pixels across and down (what follows is ignored). domain: one of DOMAINS. most: at most so many points. noise:
    its strength. A seed has the same valve and threads in either domain. Raises ValueError for another domain, fewer
    than 16 pixels along an edge, or more than MOST points.
    """
    columns, rows = size[:2]
    if domain not in DOMAINS:
        raise ValueError(f"a frame is of the {' or the '.join(DOMAINS)}, not of “{domain}”")
    if min(columns, rows) < 16 or not 0 <= most <= MOST:
        raise ValueError(f"a frame needs 16 pixels or more along each edge, and 0 to {MOST} points")
    shape, threads, look, camera = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(4))
    pixel = 1.0 / rows
    x, y = np.meshgrid(
        (np.arange(columns, dtype=np.float32) + 0.5) * pixel - columns * pixel / 2,
        (np.arange(rows, dtype=np.float32) + 0.5) * pixel - 0.5,
    )
    valve = Valve.drawn(shape)
    theatre = domain == "theatre"
    canvas = _theatre(valve, x, y, pixel, look) if theatre else _simulator(valve, x, y, pixel, look)
    places = _entries(valve, most, columns * pixel / 2, threads)
    if theatre and look.uniform() < 0.4:
        _prosthesis(canvas, valve, x, y, pixel, look)
    for number in range(int(threads.integers(0, 4)) if most else 0):
        _thread(canvas, valve, valve.centre + threads.normal(0, (0.5, 0.3)), 2 * number, x, y, pixel, theatre, threads,
                loose=True)  # fmt: skip
    for number, place in enumerate(places):
        _thread(canvas, valve, place, number, x, y, pixel, theatre, threads)
    if theatre:
        _wet(canvas, valve, places, x, y, pixel, look)
    picture = photographed(canvas, x, y, noise * (1.6 if theatre else 0.8), camera)
    image = sitk.GetImageFromArray(picture, isVector=True)
    pixels = [((px / pixel + columns / 2) - 0.5, (py / pixel + rows / 2) - 0.5) for px, py in places]
    return {"image": image, "points": {"markups": [fiducials(pixels)]}}


def fiducials(pixels: list[tuple[float, float]]) -> dict[str, Any]:
    """Points (x, y) as Slicer's markups file has them; a plain picture's pixels are its millimetres."""
    return {
        "type": "Fiducial",
        "name": "sutures",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": [
            {"id": str(n), "label": f"suture {n}", "position": [float(x), float(y), 0.0], "positionStatus": "defined"}
            for n, (x, y) in enumerate(pixels, start=1)
        ],
    }


def _entries(valve: Valve, most: int, half_width: float, rng: np.random.Generator) -> Vector:
    """(n, 2) where threads enter: pairs along the part of the ring that is sewn so far, none outside the frame."""
    if most == 0 or rng.uniform() < 0.12:
        return np.empty((0, 2))
    pairs = int(rng.integers(2, MOST // 2 + 1))
    covered = min(2 * np.pi, pairs * rng.uniform(0.62, 0.95))
    begin = rng.uniform(-np.pi, np.pi)
    middles = begin + covered * (np.arange(pairs) + rng.normal(0, 0.08, pairs)) / pairs
    angles = (middles[:, None] + np.array([-0.5, 0.5]) * rng.uniform(0.24, 0.36, (pairs, 1))).ravel()
    places = valve.places(angles, rng.normal(1.05, 0.03, len(angles)))
    inside = (np.abs(places) < np.array([half_width, 0.5]) - 0.02).all(axis=1)
    return np.asarray(places[inside][:most])


# --- two looks


def _simulator(valve: Valve, x: Array, y: Array, pixel: float, rng: np.random.Generator) -> Array:
    """Silicone leaflets and ring on a plain table."""
    canvas = np.empty((*x.shape, 3), np.float32)
    tables: list[Colour] = [(0.30, 0.34, 0.40), (0.46, 0.44, 0.42), (0.20, 0.25, 0.34)]
    canvas[:] = np.array(tables[int(rng.integers(3))], np.float32) * (1 + 0.10 * (y + 0.2 * x))[..., None]
    away, angle = valve.polar(x, y)
    skin = np.array([0.83, 0.66, 0.56], np.float32) * rng.uniform(0.92, 1.05)
    even = 0.02 * smooth(x.shape, 0.12 / pixel, rng)
    blend(canvas, (away - 1.75) * 0.25, skin * (0.80 + even - 0.10 * np.clip(away - 1.2, 0, 1))[..., None], 0.02)
    rim = np.exp(-(((away - 1.05) / 0.16) ** 2))
    blend(canvas, (away - 1.28) * 0.25, skin * (0.90 + even + 0.16 * rim)[..., None], 0.05)
    _leaflets(canvas, away, angle, valve, x, y, skin * 1.06, pixel, 0.45)
    return canvas


def _theatre(valve: Valve, x: Array, y: Array, pixel: float, rng: np.random.Generator) -> Array:
    """Muscle with folds, a fibrous ring, pale leaflets with vessels and pools of blood."""
    canvas = np.empty((*x.shape, 3), np.float32)
    away, angle = valve.polar(x, y)
    coarse, fine = smooth(x.shape, 0.07 / pixel, rng), smooth(x.shape, 0.012 / pixel, rng)
    fibre: Array = (away - np.float32(1.2) + np.float32(0.05) * coarse) * np.float32(0.25)
    folds = np.sin(9 * away + 1.4 * coarse + rng.uniform(0, 6.3))
    muscle = np.array([0.52, 0.20, 0.17], np.float32) * rng.uniform(0.8, 1.1)
    canvas[:] = muscle * (1 + 0.16 * folds + 0.13 * coarse + 0.07 * fine)[..., None]
    fibrous = np.array([0.72, 0.45, 0.38], np.float32)
    blend(canvas, fibre, fibrous * (1 + 0.12 * coarse + 0.06 * fine)[..., None], 0.04)
    _leaflets(canvas, away, angle, valve, x, y, np.array([0.84, 0.66, 0.56], np.float32) + 0.05 * fine[..., None],
              pixel, 0.8)  # fmt: skip
    for _ in range(int(rng.integers(2, 6))):
        at = rng.normal(0, (0.35, 0.22)).astype(np.float32)
        reach = np.float32(rng.uniform(0.04, 0.14))
        spread: Array = np.hypot(x - at[0], (y - at[1]) * np.float32(rng.uniform(0.9, 1.8))) - reach
        blood = np.array([0.40, 0.035, 0.03], np.float32) * rng.uniform(0.8, 1.5)
        blend(canvas, spread + 0.035 * coarse, blood * (1 + 0.1 * fine)[..., None], 0.02, rng.uniform(0.55, 0.9))
    return canvas


def _leaflets(
    canvas: Array, away: Array, angle: Array, valve: Valve, x: Array, y: Array, colour: Array, pixel: float, dark: float
) -> None:
    """Two leaflets that meet in a smile, and the dark gap between them."""
    shade = np.asarray(1.02 - 0.20 * away**4 + 0.05 * np.cos(11 * angle) * away**2, np.float32)
    blend(canvas, (away - 0.88) * 0.25, colour * shade[..., None], 0.02)
    u, v = away * np.cos(angle), away * np.sin(angle)
    smile = np.abs(np.asarray((v - 0.42 + 0.55 * u**2) * valve.axes[1], np.float32))
    ends = np.clip((0.80 - away) / 0.15, 0, 1).astype(np.float32)
    blend(canvas, smile - np.float32(0.03), colour * 0.72, 0.05, 0.6 * ends)
    blend(canvas, smile - 0.010 * (0.3 + ends), np.array([0.16, 0.05, 0.05], np.float32), 0.012, dark * ends)


def _prosthesis(canvas: Array, valve: Valve, x: Array, y: Array, pixel: float, rng: np.random.Generator) -> None:
    """Part of a cloth-covered ring that is being lowered along the threads."""
    away, angle = valve.polar(x, y + np.float32(rng.uniform(-0.05, 0.05)))
    size, middle, reach = rng.uniform(1.35, 1.6), rng.uniform(-np.pi, np.pi), rng.uniform(0.7, 1.5)
    within = (np.abs((angle - middle + np.pi) % (2 * np.pi) - np.pi) - reach).astype(np.float32)
    across = (away - np.float32(size)) * np.float32(valve.axes.mean() / 0.032)
    weave = 1 + 0.05 * np.sin(angle * 120) + 0.04 * np.sin(across * 9)
    shade = (0.55 + 0.4 * np.sqrt(np.clip(1 - across**2, 0, 1))) * weave
    colour = np.array([0.90, 0.89, 0.86], np.float32) * shade[..., None]
    blend(canvas, np.maximum(np.abs(across) * 0.032 - 0.032, within * 0.3), colour, 0.006)


def _wet(
    canvas: Array, valve: Valve, places: Vector, x: Array, y: Array, pixel: float, rng: np.random.Generator
) -> None:
    """Reflexes on wet tissue, blood where one thread in four enters, and the scope's narrow light."""
    away, _ = valve.polar(x, y)
    gloss = smooth(x.shape, 0.010 / pixel, rng) + 0.8 * smooth(x.shape, 0.05 / pixel, rng)
    lit = np.exp(-(((away - rng.uniform(0.6, 1.2)) / 0.5) ** 2))
    shine = np.clip((gloss - 2.3) * 1.6, 0, 1) * lit
    canvas += (np.array([1.0, 0.97, 0.94], np.float32) - canvas) * shine[..., None]
    for at in places[rng.uniform(size=len(places)) < 0.25] + rng.normal(0, 0.008, 2):
        spot = np.hypot(x - np.float32(at[0]), y - np.float32(at[1])) - np.float32(rng.uniform(0.006, 0.026))
        blend(canvas, spot, np.array([0.42, 0.04, 0.04], np.float32), 0.016, rng.uniform(0.4, 0.85))
    beam = np.hypot((x - np.float32(rng.normal(0, 0.1))) * 0.8, y - np.float32(rng.normal(0, 0.06)))
    canvas *= (np.clip(1.22 - 1.15 * beam**2, 0.12, 1.2))[..., None]


# --- threads


def _thread(
    canvas: Array, valve: Valve, place: Vector, number: int, x: Array, y: Array, pixel: float, theatre: bool,
    rng: np.random.Generator, loose: bool = False,
) -> None:  # fmt: skip
    """A thread from where it enters the tissue outwards beyond the frame, with its shadow and the dimple it makes; a
    loose one makes none, lies as it likes and may end."""
    outwards = place - valve.centre
    outwards = outwards / np.linalg.norm(outwards) + rng.normal(0, 0.22, 2) + np.array([0.0, -0.15])
    if loose:
        outwards = rng.normal(0, 1, 2)
    length = np.float32(rng.uniform(0.15, 1.5) if loose else 9.0)
    along = outwards / np.linalg.norm(outwards)
    side, bend = np.array([-along[1], along[0]]), rng.normal(0, 0.10)
    dx, dy = x - np.float32(place[0]), y - np.float32(place[1])
    far, off = (np.float32(v[0]) * dx + np.float32(v[1]) * dy for v in (along, side))
    off = off - np.float32(bend) * np.clip(far, 0, None) ** 2
    near = (np.abs(off) < 0.04) & (far > -0.04)
    part, dx, dy, far, off = (values[near] for values in (canvas, dx, dy, far, off))
    pair = (number // 2) % len(_THREADS)
    colour = np.array(_THREADS[pair], np.float32) * rng.uniform(0.85, 1.1)
    soaked = np.float32(rng.uniform(0.1, 0.75))
    if theatre:
        colour = colour * (0.9 - 0.7 * soaked) + np.array([0.38, 0.06, 0.05], np.float32) * soaked
    if not loose:
        blend(part, np.hypot(dx, dy) - 0.012, np.zeros(3, np.float32), 0.014, 0.45)
    shadow = np.maximum(np.abs(off - 0.010) - _HALF, np.maximum(0.006 - far, far - length))
    blend(part, shadow, np.zeros(3, np.float32), 0.012, 0.32)
    body = np.maximum(np.abs(off) - _HALF, np.maximum(-far - 0.004, far - length))
    twist = 1 + 0.10 * np.sin(far * 420 + off * 300)
    round_ = 0.66 + 0.42 * np.sqrt(np.clip(1 - (off / _HALF) ** 2, 0, 1))
    blend(part, body, colour * (twist * round_)[..., None], max(pixel, 0.002))
    canvas[near] = part
