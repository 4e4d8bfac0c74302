"""A time-of-flight MR angiogram of the arteries at the base of the brain, with one to three saccular aneurysms.

A drawing, not a simulation of a patient: the circle of Willis and its branches with round numbers from anatomy atlases,
whose course, calibre and completeness vary from seed to seed. Aneurysms sit where they do in patients, at the forks of
arteries, and flow is slower, the signal weaker, in the domes of large ones. What is mistaken for aneurysms is drawn as
well: arteries that bend sharply, bulbs at forks, funnels where a small artery leaves a large one, fat and slow veins.
Each aneurysm is given as a line from the middle of its neck to its dome, as a reader would place it. They are larger
than those of Assis et al. (2021; 3.9 mm on average), since phantoms are looked at with voxels of twice the size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.phantoms.canvas import Array, Canvas, Grid, blurred, ellipsoid, rotation, smooth_union, tube
from medgen.phantoms.inner_ear import Waves

NAME = "mr-angiogram"
SENTENCE = "A time-of-flight MR angiogram of the circle of Willis with aneurysms, each given as a line, neck to dome."
ROLES = {"image": "Image", "aneurysms": "Line", "points": "Points"}
SEGMENTS = ()

CENTRE = (0.0, -1.0, -1.0)  # LPS mm: the middle of the block
BRAIN, LIQUOR, BONE, AIR, FAT, VEIN, BLOOD = 105.0, 70.0, 40.0, 12.0, 215.0, 150.0, 430.0
SLAB = 21.6  # mm: a slab of 54 slices of 0.8 mm, half of it shared with its neighbours
SMALLEST, MEDIAN, LARGEST = 2.5, 5.2, 11.0  # mm: diameters of aneurysms
SHORTEST = 20.0  # mm: the least block
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Artery:
    """A course (n, 3) with radii (n,), mm."""

    path: Vector
    radii: Vector


@dataclass(frozen=True)
class Site:
    """A fork where aneurysms grow: where it lies, which way they point, the radius of the artery there."""

    name: str
    at: Vector
    outwards: Vector
    radius: float


@dataclass(frozen=True)
class Aneurysm:
    """A sac: the middle of its neck, its dome, both LPS mm, and where it grows."""

    name: str
    neck: Vector
    dome: Vector

    @property
    def diameter(self) -> float:
        """From neck to dome, mm."""
        return float(np.linalg.norm(self.dome - self.neck))


def make(
    seed: int,
    size: tuple[int, int, int] = (128, 128, 96),
    spacing: float = 0.5,
    aneurysms: int = 0,
    noise: float = 1.0,
) -> dict[str, Any]:
    """One patient: "image" (int16), "aneurysms" (a .mrk.json's content: a line each), "points" (their middles), LPS.

    size: voxels along x, y, z; spacing: mm. aneurysms: how many; 0: one to three, most often one. noise: its strength.
    The same seed is the same patient whatever the grid, but for aneurysms that the block would not hold; one too small
    for any lies about the basilar tip. Raises ValueError for a block under 20 mm along an axis.
    """
    if min(size) * spacing < SHORTEST:
        raise ValueError(f"an angiogram needs {SHORTEST:g} mm or more along each axis")
    shapes, sacs, textures, scanner = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
    arteries, sites = tree(shapes)
    grid = Grid(size, (spacing,) * 3, np.eye(3), CENTRE)
    if not any(_held(site, grid) for site in sites):
        grid = Grid(size, (spacing,) * 3, np.eye(3), tuple(sites[0].at))
    canvas = Canvas(grid, grid.points(), BRAIN)
    grown = grow([site for site in sites if _held(site, grid)], aneurysms, sacs)
    surroundings(canvas, textures)
    for artery in arteries:
        draw(canvas, artery, shapes)
    for aneurysm in grown:
        swell(canvas, aneurysm, sacs)
    image = grid.image(np.clip(np.rint(scanned(canvas, noise, scanner)), 0, 32767).astype(np.int16))
    return {"image": image, "aneurysms": lines(grown), "points": middles(grown)}


def _held(site: Site, grid: Grid) -> bool:
    """Whether a block holds the middle of any sac at a site."""
    reach = np.abs(site.at - np.array(grid.centre)) + 2.5 + LARGEST / 2
    return bool((reach < np.array(grid.size) * np.array(grid.spacing) / 2).all())


# --- the arteries: mm, LPS about the middle of the circle (x to the left, y to the back, z up)


def tree(rng: np.random.Generator) -> tuple[list[Artery], list[Site]]:
    """The arteries of one patient and the forks where aneurysms may grow."""
    wide = rng.uniform(0.88, 1.12)
    tip, front = _at(rng, (0, 8.5, -4)), _at(rng, (0, -11, 2))
    arteries = [_artery(rng, [(0.5, 12, -22), (-0.3, 10, -13), tip], (1.7, 1.6, 1.5), wide)]
    sites = [Site("basilar tip", tip, _at(rng, (0, 0, 1), 0.25), 1.5 * wide)]
    joints = []
    for side, word in ((1.0, "left"), (-1.0, "right")):
        own, forks, joint = _half(rng, side, word, wide, tip, front)
        arteries += own
        sites += forks
        joints.append(joint)
    arteries.append(Artery(np.stack(joints), np.array([0.8, 0.8]) * wide))  # the anterior communicating artery
    sites.append(Site("anterior communicating", np.mean(joints, axis=0), _at(rng, (0, -1, 0.4), 0.3), 0.8 * wide))
    return arteries, sites


def _half(
    rng: np.random.Generator, side: float, word: str, wide: float, tip: Vector, front: Vector
) -> tuple[list[Artery], list[Site], Vector]:
    """The arteries of one side, their forks, and where the anterior cerebral artery meets its fellow."""

    def at(x: float, y: float, z: float, spread: float = 1.0) -> Vector:
        return _at(rng, (side * x, y, z), spread)

    siphon, origin, carotid, middle = at(12.5, -9, -11), at(10.5, -4.5, -5), at(9, -2, 0), at(24, -3, 1)
    joint = front + at(1.7, 0, 0, 0.3)
    posterior = at(8, 9.5, -3)
    neck = [at(17, 5, -38), at(15.5, 4.5, -29), at(13.5, 2, -21), at(11.5, -4, -17)]  # even steps, or bends clot
    parts = [
        ([*neck, siphon, origin, carotid], (2.2, 2.1, 2.1, 2.0, 1.9, 1.75, 1.6)),
        ([carotid, at(16, -4.5, 2), middle], (1.5, 1.35, 1.2)),
        ([middle, at(29, -6, 6), at(31, -3, 13), at(34, 5, 25)], (1.0, 0.9, 0.8, 0.6)),
        ([middle, at(29, 2, 3), at(31, 10, 7), at(37, 20, 12)], (1.0, 0.9, 0.8, 0.6)),
        ([carotid, at(5.5, -8, 1.5), joint], (1.1, 1.0, 0.95)),
        ([joint, at(1.6, -15, 9), at(1.4, -13, 19), at(1.5, -5, 30)], (0.95, 0.9, 0.75, 0.6)),
        ([tip, posterior, at(14, 14, -1), at(15, 24, 3), at(12, 34, 8)], (1.2, 1.1, 1.0, 0.8, 0.6)),
        ([tip + (0, 0.8, -3.5), at(8, 13, -8), at(15, 20, -6), at(16, 32, -2)], (0.8, 0.7, 0.6, 0.5)),
        ([at(6, 15, -36), at(4, 14, -28), np.array([0.5, 12, -22])], (1.4, 1.4, 1.4)),
        ([siphon, at(13, -17, -10), at(15, -30, -11)], (0.9, 0.65, 0.55)),  # ophthalmic: a funnel at its origin
    ]
    if rng.random() < 0.75:
        parts.append(([origin, at(9.5, 3, -4.5, 0.6), posterior], (float(rng.uniform(0.7, 1.2)), 0.6, 0.65)))
    arteries = [_artery(rng, points, radii, wide) for points, radii in parts]
    for trunk in (arteries[2], arteries[3], arteries[5], arteries[6]):  # small branches of the larger ones
        for share in rng.uniform(0.3, 0.95, int(rng.integers(1, 4))):
            start = trunk.path[int(share * (len(trunk.path) - 1))]
            ways = start + np.cumsum(rng.normal(0, 1, (3, 3)) * 3.0 + (side * 1.0, 1.0, 2.5), axis=0)
            arteries.append(_artery(rng, [start, *ways], (0.65, 0.5, 0.45, 0.4), wide))
    sites = [
        Site(f"{word} posterior communicating", origin, at(0.35, 0.9, -0.4, 0.2), 1.75 * wide),
        Site(f"{word} middle cerebral", middle, at(1, -0.3, -0.3, 0.3), 1.2 * wide),
        Site(f"{word} carotid fork", carotid, at(0.1, 0, 1, 0.25), 1.6 * wide),
        Site(f"{word} ophthalmic", siphon, at(-0.6, -0.3, 0.7, 0.25), 1.9 * wide),
    ]
    return arteries, sites, joint


def _at(rng: np.random.Generator, place: Any, spread: float = 1.0) -> Vector:
    """A place of the atlas as it lies in this patient."""
    return np.asarray(place, float) + np.clip(rng.normal(0, 0.8, 3), -1.6, 1.6) * spread


def _artery(rng: np.random.Generator, points: list[Any], radii: tuple[float, ...], wide: float) -> Artery:
    """A smooth course through points (Catmull and Rom), in steps of about 1 mm, that winds a little between them."""
    ends = np.stack([np.asarray(point, float) for point in points])
    padded = np.concatenate([2 * ends[:1] - ends[1:2], ends, 2 * ends[-1:] - ends[-2:-1]])
    calibre = np.asarray(radii, float) * wide * rng.uniform(0.92, 1.08)
    path, widths = [ends[:1]], [calibre[:1]]
    for number in range(len(ends) - 1):
        before, start, stop, after = padded[number : number + 4]
        steps = max(3, int(np.ceil(np.linalg.norm(stop - start) / 1.1)))
        t = (np.arange(1, steps + 1) / steps)[:, None]
        course = start + 0.5 * t * (
            stop - before + t * (2 * before - 5 * start + 4 * stop - after + t * (3 * (start - stop) + after - before))
        )
        winding = np.sin(np.pi * t) * np.sin(rng.uniform(2, 5) * t + rng.uniform(0, 6)) * rng.normal(0, 0.7, 3)
        path.append(course + winding)
        widths.append(calibre[number] + t[:, 0] * (calibre[number + 1] - calibre[number]))
    return Artery(np.concatenate(path), np.concatenate(widths))


def draw(canvas: Canvas, artery: Artery, rng: np.random.Generator) -> None:
    """Paint an artery: small ones are dimmer, and some forks have a bulb at their beginning."""
    for start in range(0, len(artery.path) - 1, 5):
        part = slice(start, start + 6)
        brightness = BLOOD * (0.62 + 0.38 * min(1.0, float(artery.radii[part].mean()) / 1.3))
        canvas.tube(artery.path[part], artery.radii[part], brightness)
    if rng.random() < 0.3:
        canvas.ellipsoid(artery.path[-1], np.full(3, 1.2 * artery.radii[-1]), BLOOD * 0.95)


# --- aneurysms


def grow(sites: list[Site], count: int, rng: np.random.Generator) -> list[Aneurysm]:
    """One to three aneurysms, or `count`, at different sites, most of them of 4 to 7 mm."""
    number = count or int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))
    found = []
    for index in rng.permutation(len(sites))[:number]:
        site = sites[int(index)]
        diameter = float(np.clip(MEDIAN * np.exp(rng.normal(0, 0.3)), SMALLEST, LARGEST))
        outwards = site.outwards / np.linalg.norm(site.outwards)
        neck = site.at + outwards * site.radius * 0.9
        found.append(Aneurysm(site.name, neck, neck + outwards * diameter))
    return found


def swell(canvas: Canvas, aneurysm: Aneurysm, rng: np.random.Generator) -> None:
    """Paint a sac that grows out of its neck; the larger it is, the dimmer its dome."""
    radius, middle = aneurysm.diameter / 2, (aneurysm.neck + aneurysm.dome) / 2
    outwards = (aneurysm.dome - aneurysm.neck) / aneurysm.diameter
    window = canvas.window(middle, 1.8 * radius + 1)
    points = canvas.points[(slice(None), *window)]
    if points.size == 0:
        return
    radii = radius * np.array([1.0, *rng.uniform(0.85, 1.1, 2)])
    across = np.cross(outwards, (0.3, 0.5, 0.81))
    across /= np.linalg.norm(across)
    sac = ellipsoid(points, middle, radii, np.stack([outwards, across, np.cross(outwards, across)], axis=1))
    stalk = np.stack([aneurysm.neck - 0.8 * outwards, middle])
    neck = tube(points, stalk, np.full(2, radius * rng.uniform(0.45, 0.7)))
    along = np.tensordot(outwards.astype(np.float32), points, axes=1) - np.float32(outwards @ aneurysm.neck)
    slow = min(0.45, 0.05 * max(0.0, aneurysm.diameter - 3.0))
    brightness = BLOOD * 0.93 * (1 - slow * np.clip(along / aneurysm.diameter, 0, 1))
    canvas.paint(smooth_union(sac, neck, 0.4 * radius), brightness.astype(np.float32), window=window)


def lines(aneurysms: list[Aneurysm]) -> dict[str, Any]:
    """Slicer's markups: a line from neck to dome for each."""
    markups = []
    for aneurysm in aneurysms:
        ends = [(aneurysm.neck, "neck"), (aneurysm.dome, "dome")]
        markups.append(_markup("Line", aneurysm.name, ends))
    return {"markups": markups}


def middles(aneurysms: list[Aneurysm]) -> dict[str, Any]:
    """Slicer's markups: one list with the middle of each."""
    points = [((aneurysm.neck + aneurysm.dome) / 2, aneurysm.name) for aneurysm in aneurysms]
    return {"markups": [_markup("Fiducial", "aneurysms", points)]}


def _markup(kind: str, name: str, points: list[tuple[Vector, str]]) -> dict[str, Any]:
    controls = [
        {"id": str(number + 1), "label": label, "position": point.tolist(), "positionStatus": "defined"}
        for number, (point, label) in enumerate(points)
    ]
    form = {"type": kind, "name": name, "coordinateSystem": "LPS", "coordinateUnits": "mm"}
    return {**form, "controlPoints": controls}


# --- what lies around, and the scanner


def surroundings(canvas: Canvas, rng: np.random.Generator) -> None:
    """Brain with its grain, the cisterns around the arteries, the base of the skull, fat of the orbits, slow veins."""
    x, y, z = canvas.points
    cortex, fine = Waves.drawn(rng, 16.0, 1, 12).at(canvas.points)[0], Waves.drawn(rng, 3.5, 1, 14).at(canvas.points)[0]
    canvas.paint((2.2 * (np.abs(cortex) - 0.22)).astype(np.float32), LIQUOR)  # sulci
    cistern = ellipsoid(canvas.points, (0, 0, -3), (14, 13, 7)) - 1.5 * cortex
    canvas.paint(cistern.astype(np.float32), LIQUOR)
    for side in (-1, 1):
        canvas.ellipsoid((side * 21, -3, 1), (12, 4, 3.5), LIQUOR)  # Sylvian fissures
        canvas.ellipsoid((side * 9, 4, 22), (5, 18, 7), LIQUOR - 8, axes=rotation((0, 0, 1), side * 12.0))
    canvas.ellipsoid((0, 14, -12), (10, 9, 13), BRAIN + 8)  # brain stem
    base = z + 14.0 + 0.35 * y + 2.5 * np.sin(x / 9.0) + 1.2 * cortex
    skull = np.maximum(base, y - 10.0)
    canvas.paint(skull.astype(np.float32), BONE)
    canvas.ellipsoid((0, -14, -21), (9, 10, 7), AIR)  # sphenoid sinus
    for side in (-1, 1):
        canvas.ellipsoid((side * 17, -27, -16), (8, 11, 7), FAT)
        canvas.ellipsoid((side * 9, -4, -15), (4, 7, 4), VEIN)  # cavernous sinus
        canvas.tube(np.array([(side * 4.0, 30, 24), (side * 1.5, 22, 16), (side * 6.0, 12, 14)]), 0.9, VEIN)
    canvas.tube(np.array([(0.0, 40, 34), (0.0, 33, 22), (0.0, 26, 15)]), [1.8, 1.6, 1.3], VEIN + 30)
    canvas.values += 9.0 * fine


def scanned(canvas: Canvas, strength: float, rng: np.random.Generator) -> Array:
    """What the scanner gives: blurred, brighter where blood enters each slab, uneven over the coil, Rician noise."""
    values = blurred(canvas.values, (0.5, 0.5, 0.5))
    x, _, z = canvas.points
    phase = (z - rng.uniform(0, SLAB)) / SLAB
    entering = 1.0 + 0.10 * (0.5 - (phase - np.floor(phase))) * np.clip(values / BLOOD, 0, 1)
    values = values * entering * (1.0 + 0.06 * np.sin(x / 40.0 + rng.uniform(0, 6)))
    sigma = 11.0 * strength
    real, imaginary = (rng.standard_normal(values.shape, dtype=np.float32) * sigma for _ in range(2))
    return np.hypot(values + real, imaginary).astype(np.float32)
