"""A head as T1-weighted MR and as CT (HU) of the same patient, on one grid or each on its own.

A drawing, not a simulation of a patient: shapes, sizes and places are round numbers from anatomy atlases, varied from
seed to seed. Both modalities are painted together, so that each voxel's partial volume is the same in both. What makes
the translation hard is there: compact bone and air are both dark in the MR (sinuses, mastoid cells, ear canals), and
diploe and fat are both bright; only the surroundings tell which is which. The MR has a bias field, Rician noise and an
arbitrary scale; the CT has a scanner's blur and noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medgen.phantoms.canvas import (
    Array,
    Canvas,
    Grid,
    Segment,
    blurred,
    ct_scanned,
    ellipsoid,
    rotation,
    smooth_overlap,
    smooth_union,
    tube,
)

NAME = "head-mr-ct"
SENTENCE = "A head as T1-weighted MR and as CT (HU) of the same patient."
ROLES = {"mr": "Image", "ct": "Image"}
SEGMENTS: tuple[Segment, ...] = ()

FIELD_OF_VIEW = (192.0, 224.0, 192.0)  # mm along x, y, z
LOWEST, HIGHEST = -1024, 3071
Tissue = tuple[float | Array, float | Array]  # MR signal (white matter 1), HU
AIR, FAT, SKIN, MUSCLE = (0.0, -1000.0), (1.25, -100.0), (0.55, 15.0), (0.48, 55.0)
GREY, WHITE, DEEP_GREY, CSF = (0.70, 38.0), (1.0, 29.0), (0.80, 36.0), (0.24, 7.0)
VITREOUS, LENS, NERVE, MUCOSA, GRISTLE = (0.20, 5.0), (0.45, 85.0), (0.85, 33.0), (0.62, 40.0), (0.45, 95.0)
BLOOD, DURA, MARROW = (0.22, 52.0), (0.45, 58.0), (0.85, 330.0)
COMPACT_MR, PETROUS_HU, TOOTH, METAL = 0.06, 1600.0, (0.03, 1950.0), (0.0, 3071.0)


@dataclass
class Patient:
    """What differs from patient to patient. Lengths in mm, LPS, about the middle of the field of view."""

    size: NDArray[np.float64]  # of the cranium along x, y, z, relative
    skull: float  # mean thickness
    table: float  # of the outer and inner table
    scalp: float  # fat
    face: float  # fat
    compact: float  # HU
    diploe: float  # HU
    atrophy: float  # added width of fluid around and within the brain
    sinuses: NDArray[np.float64]  # relative size: frontal, maxillary right and left, sphenoid
    cells: int  # of each mastoid
    contrast: NDArray[np.float64]  # of the MR: power of the signal, power of the bias field, scale

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Patient:
        """One patient at random."""
        return cls(
            size=np.clip(rng.normal(1.0, 0.03, 3), 0.93, 1.06),
            skull=rng.uniform(5.0, 8.0),
            table=rng.uniform(1.5, 2.1),
            scalp=rng.uniform(2.0, 5.0),
            face=rng.uniform(3.0, 9.0),
            compact=rng.normal(1280.0, 90.0),
            diploe=rng.normal(520.0, 80.0),
            atrophy=rng.uniform(0.0, 1.6),
            sinuses=rng.uniform(0.65, 1.2, 4),
            cells=int(rng.integers(25, 90)),
            contrast=np.array([rng.uniform(0.85, 1.2), rng.uniform(0.1, 0.3), np.exp(rng.uniform(4.5, 7.5))]),
        )


def make(
    seed: int,
    size: tuple[int, int, int] = (96, 112, 96),
    oblique: float = 0.0,
    noise: float = 1.0,
    ct_size: tuple[int, int, int] | None = None,
    ct_oblique: float = 0.0,
    fillings: int = 0,
) -> dict[str, sitk.Image]:
    """One patient: "mr" (int16, arbitrary scale) and "ct" (int16, HU).

    seed: the same seed is the same patient on every grid, and the same bytes on the same grid.
    size: voxels along x, y, z over a fixed field of view of 192 x 224 x 192 mm (2 mm by default). oblique: by how many
    degrees the grid is turned, about an axis that the seed draws. ct_size, ct_oblique: the same for a CT on a grid of
    its own (then it is drawn again, at the same place in space). noise: strength in both, 0 for none. fillings: metal
    in so many teeth: saturated in the CT, a hole in the MR. Raises ValueError for fewer than 8 voxels along an axis.
    """
    if min(*size, *(ct_size or size)) < 8:
        raise ValueError("a head needs 8 voxels or more along each axis")
    anatomy, *others = np.random.SeedSequence(seed).spawn(5)
    shape, axes, mr_noise, ct_noise = (np.random.default_rng(s) for s in others)
    patient = Patient.drawn(shape)
    turns = axes.standard_normal((2, 3))
    own = ct_size is not None or ct_oblique != 0.0
    grid = _grid(size, turns[0], oblique)
    head = draw(grid, patient, anatomy, fillings)
    ct_grid = _grid(ct_size or size, turns[1], ct_oblique) if own else grid
    hu = draw(ct_grid, patient, anatomy, fillings).channels[1] if own else head.channels[1]
    mr = magnetic(head, patient, noise, mr_noise)
    ct = np.clip(np.rint(ct_scanned(hu, 1.3 * noise, ct_noise)), LOWEST, HIGHEST)
    return {"mr": grid.image(mr.astype(np.int16)), "ct": ct_grid.image(ct.astype(np.int16))}


def _grid(size: tuple[int, int, int], axis: NDArray[np.float64], degrees: float) -> Grid:
    spacing = tuple(f / n for f, n in zip(FIELD_OF_VIEW, size, strict=True))
    return Grid(size, spacing, rotation(axis, degrees) if degrees else np.eye(3))  # type: ignore[arg-type]


def magnetic(head: Canvas, patient: Patient, noise: float, rng: np.random.Generator) -> Array:
    """The magnitude MR: the scanner's contrast, a smooth bias field, slight blur, Rician noise, its own scale."""
    contrast, bias, scale = patient.contrast
    signal = np.power(np.maximum(head.channels[0], 0.0), np.float32(contrast))
    signal = blurred(signal, (0.4, 0.4, 0.4)) * np.exp(bias * head.grid.smooth_field(rng, 110.0, 1)[0])
    parts = 0.025 * noise * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    return np.clip(np.rint(np.hypot(signal + parts[0], parts[1]) * scale), 0, 32767).astype(np.float32)


# --- anatomy


@dataclass
class Shells:
    """Distances (mm, first order, negative inside) from outside to inside."""

    head: Array  # skin
    skull: Array  # outer table
    cavity: Array  # inner table


def draw(grid: Grid, patient: Patient, seeds: np.random.SeedSequence, fillings: int) -> Canvas:
    """MR signal and HU on a grid, outer layers first; what is painted later lies in front of what was there."""
    rng = np.random.default_rng(seeds)
    points = grid.points()
    points += grid.smooth_field(rng, 75.0, 3) * 2.5
    points /= patient.size.astype(np.float32).reshape(3, 1, 1, 1)
    canvas = Canvas(grid, points, (0.0, -1000.0))
    texture, vary = grid.smooth_field(rng, 12.0, 1)[0], grid.smooth_field(rng, 55.0, 1)[0]
    shells = outline(points, patient, vary)
    soft(canvas, shells, patient, texture)
    cranium(canvas, shells, patient, texture)
    face(canvas, shells, patient, rng, fillings)
    for side in (-1, 1):
        ear(canvas, shells, patient, side, rng)
    brain(canvas, shells.cavity, patient, texture, grid.smooth_field(rng, 9.0, 1)[0])
    return canvas


def outline(points: Array, patient: Patient, vary: Array) -> Shells:
    """The cranial cavity with its three fossae, the skull around it, and the outline of head, face and neck."""
    x, y, z = points
    egg = 1.0 - 0.13 * _step(-20.0 - y, 22.0)  # narrower in front
    level = (
        np.abs(x / (65.0 * egg)) ** 2.25 + np.abs((y - 4.0) / 82.0) ** 2.25 + np.abs((z - 18.0) / 58.0) ** 2.25
    ) ** (1 / 2.25)
    radius = np.sqrt(np.square(x) + np.square(y - 4.0) + np.square(z - 18.0))
    dome = (radius * (1.0 - 1.0 / np.maximum(level, 0.05))).astype(np.float32)
    behind = ellipsoid(points, (0, 40, -16), (52, 38, 34))
    middle = 22.0 * _step(np.abs(x) - 15.0, 5.0)  # the middle fossae lie deeper, on both sides of the sella
    floor = -6.0 - middle * _step(y + 26.0, 6.0) - (44.0 - middle) * _step(y - 14.0, 6.0)
    floor += 6.0 * np.exp(-np.square(x / 12.0)) * _step(-y - 30.0, 8.0)
    cavity = smooth_overlap(smooth_union(dome, behind, 12.0), ((floor - z) * 0.8).astype(np.float32), 8.0)
    temporal = np.exp(-np.square((y + 18.0) / 26.0) - np.square((z - 4.0) / 24.0)) * _step(np.abs(x) - 45.0, 6.0)
    occipital = np.exp(-np.square((y - 85.0) / 25.0))
    skull = cavity - (patient.skull * (1.0 + 0.22 * vary - 0.5 * temporal + 0.3 * occipital)).astype(np.float32)
    scalp = skull - (3.2 + patient.scalp + 9.0 * temporal).astype(np.float32)
    front = ellipsoid(points, (0, -44, -46), (60, 52, 60))
    jaw = ellipsoid(points, (0, -52, -84), (48, 42, 34))
    neck = np.maximum((np.hypot(x, (y - 24.0) / 1.05) - 60.0 + 0.2 * z.clip(-60, 0)), z + 6.0).astype(np.float32)
    head = smooth_union(smooth_union(scalp, smooth_union(front, jaw, 20.0), 14.0), neck, 18.0)
    nose = _cone(points, (0, -92, -14), (0, -109, -42), 5.0, 11.0)
    return Shells(smooth_union(head, nose, 8.0), skull, cavity)


def _step(value: Array, width: float) -> Array:
    """A smooth step from 0 (far below 0) to 1."""
    return np.asarray(0.5 + 0.5 * np.tanh(value / width), np.float32)


def _cone(points: Array, start: object, stop: object, first: float, last: float) -> Array:
    return tube(points, np.array([start, stop], float), np.array([first, last]))


def soft(canvas: Canvas, shells: Shells, patient: Patient, texture: Array) -> None:
    """Auricles, skin, fat and muscle, the neck's vertebrae and vessels; bone and brain come later."""
    x, y, z = canvas.points
    for side in (-1, 1):
        tilt = rotation((0, 0, 1), side * 18.0)
        canvas.ellipsoid((side * 75, 16, -20), (5, 17, 29), SKIN, axes=tilt)
        canvas.ellipsoid((side * 75, 16, -20), (1.6, 13, 24), GRISTLE, axes=tilt)
    canvas.paint(shells.head, SKIN)
    below = _step(-20.0 - z, 16.0)
    fat = patient.scalp + (patient.face - patient.scalp + 2.0) * below
    canvas.paint(shells.head + 2.0, (FAT[0] + 0.06 * texture, FAT[1] + 8.0 * texture))
    canvas.paint((shells.head + 2.0 + fat).astype(np.float32), (MUSCLE[0] + 0.03 * texture, MUSCLE[1] + 5.0 * texture))
    between = np.maximum(np.abs(texture) * 5.0 - 1.5, shells.head + 10.0)  # fat between the muscles
    canvas.paint(np.maximum(between, z + 40.0).astype(np.float32), FAT)
    for side in (-1, 1):
        canvas.ellipsoid((side * 46, -50, -58), (9, 20, 17), FAT)
        canvas.ellipsoid((side * 56, -8, -52), (8, 15, 18), (0.75, 0.0))  # parotid gland
        canvas.tube(np.array([(side * 28, 2, -120), (side * 27, 0, -40)], float), 4.0, BLOOD)
        canvas.tube(np.array([(side * 34, 12, -120), (side * 32, 14, -38)], float), 5.5, BLOOD)
    turn = np.mod(z + 60.0, 17.0) - 8.5
    body = np.maximum(np.hypot(x / 1.25, y - 14.0) - 8.5, z + 52.0).astype(np.float32)
    canvas.paint(body, (0.5, 90.0))
    bone = np.maximum(body, np.abs(turn) - 6.5).astype(np.float32)
    arch = np.maximum(np.abs(np.hypot(x, y - 29.0) - 11.5) - 2.5, np.maximum(np.abs(turn) - 5.0, z + 50.0))
    spinous = np.maximum(np.maximum(np.abs(x) - 3.5, np.abs(y - 50.0) - 9.0), np.maximum(np.abs(turn) - 4.0, z + 56.0))
    wing = np.maximum(np.hypot((y - 18.0) / 1.3, turn) - 4.5, np.maximum(np.abs(x) - 30.0, z + 54.0))
    for part in (arch, spinous, wing, bone):
        canvas.paint(part.astype(np.float32), (COMPACT_MR, 0.6 * patient.compact))
        canvas.paint(part.astype(np.float32) + 2.0, MARROW)


def cranium(canvas: Canvas, shells: Shells, patient: Patient, texture: Array) -> None:
    """Outer table, diploe, inner table; the diploe vanishes where the bone is thin."""
    compact = (COMPACT_MR, patient.compact + 40.0 * texture)
    canvas.paint(shells.skull, compact)
    diploe = np.maximum(shells.skull + patient.table, patient.table - shells.cavity)
    canvas.paint(diploe, (0.80 + 0.12 * texture, patient.diploe + 90.0 * texture))
    body = ellipsoid(canvas.points, (0, -14, -18), (19, 22, 15))  # of the sphenoid bone, and the clivus
    body = smooth_union(body, _cone(canvas.points, (0, 2, -22), (0, 14, -44), 9.0, 4.5), 6.0)
    canvas.paint(body, compact)
    canvas.paint(body + 2.2, MARROW)


def face(canvas: Canvas, shells: Shells, patient: Patient, rng: np.random.Generator, fillings: int) -> None:
    """Orbits, facial bones, jaw and teeth, sinuses, nasal cavity, mouth and throat."""
    compact = (COMPACT_MR, 0.9 * patient.compact)
    inside = shells.head + 5.0
    frontal, right, left, sphenoid = patient.sinuses
    canvas.ellipsoid((0, -64, -44), (36, 23, 28), compact, clip=inside)
    canvas.ellipsoid((0, -64, -44), (34, 21, 26), MARROW, clip=inside + 2.0)
    for side in (-1, 1):
        zygoma = np.array(
            [(side * 36, -76, -32), (side * 50, -66, -32), (side * 64, -42, -29), (side * 70, -14, -27)], float
        )
        canvas.tube(zygoma, [8.0, 7.5, 4.0, 4.0], compact, clip=inside)
        canvas.tube(zygoma[:2], [5.0, 5.0], MARROW, clip=inside + 2.0)
        ramus = np.array(
            [(side * 55, -10, -34), (side * 52, -14, -64), (side * 48, -24, -88), (side * 30, -66, -98)], float
        )
        canvas.tube(ramus, [5.5, 6.0, 7.0, 8.0], compact)
        canvas.tube(ramus, [2.8, 3.2, 4.5, 5.5], MARROW)
    chin = np.array([(-30, -66, -98), (-16, -82, -98), (0, -87, -98), (16, -82, -98), (30, -66, -98)], float)
    canvas.tube(chin, 9.0, compact, clip=inside)
    canvas.tube(chin, 6.5, MARROW, clip=inside + 2.0)
    orbits(canvas, shells, compact)
    hollows(canvas, shells, compact, (frontal, right, left, sphenoid), rng)
    teeth(canvas, rng, fillings)


def orbits(canvas: Canvas, shells: Shells, compact: Tissue) -> None:
    """Bony cones full of fat, with globes, lenses, optic nerves and muscles."""
    inside = shells.head + 1.5
    for side in (-1, 1):
        tilt = rotation((0, 0, 1), -side * 16.0)
        centre = (side * 31.0, -54.0, -13.0)
        canvas.ellipsoid(centre, (20, 31, 19), compact, axes=tilt, clip=np.maximum(inside + 2.5, 1.0 - shells.cavity))
        canvas.ellipsoid(centre, (18, 30, 17), FAT, axes=tilt, clip=np.maximum(inside + 1.0, 2.2 - shells.cavity))
        globe, apex = np.array([side * 33.0, -71.0, -13.0]), np.array([side * 17.0, -28.0, -12.0])
        for offset in ((0, 0, 10), (0, 0, -10), (10, 4, 0), (-10, 4, 0)):
            canvas.tube(np.array([globe + offset, apex]), [2.0, 1.5], MUSCLE)
        canvas.tube(np.array([globe, (globe + apex) / 2 + (side * 2, 0, 0), apex]), 2.4, NERVE)
        canvas.ellipsoid(globe, (12.2,) * 3, (0.45, 60.0))
        canvas.ellipsoid(globe, (11.0,) * 3, VITREOUS)
        canvas.ellipsoid(globe + (0, -8.5, 0), (4.6, 2.3, 4.6), LENS)


def hollows(
    canvas: Canvas, shells: Shells, compact: Tissue, sizes: tuple[float, ...], rng: np.random.Generator
) -> None:
    """Air: frontal, ethmoid, maxillary and sphenoid sinuses, the nasal passages, mouth and throat."""
    frontal, right, left, sphenoid = sizes
    inside = shells.head + 3.0
    behind = np.maximum(inside, 1.5 - shells.cavity)
    spots: list[tuple[tuple[float, float, float], tuple[float, float, float]]]
    spots = [((side * 30, -60, -46), (13.0 * s, 14.0 * s, 15.0 * s)) for side, s in ((-1, right), (1, left))]
    spots += [((side * 8, -18, -19), (7.0 * sphenoid, 11.0 * sphenoid, 8.0 * sphenoid)) for side in (-1, 1)]
    spots += [
        ((side * rng.uniform(8, 13), -76, 2), (10.0 * frontal, 6.0 * frontal, 11.0 * frontal)) for side in (-1, 1)
    ]
    spots += [
        ((side * rng.uniform(4.0, 8.5), y + rng.normal(0, 1.5), -14 + rng.normal(0, 3.5)), (3.8, 4.6, 4.4))
        for side in (-1, 1)
        for y in np.linspace(-72, -38, 5)
    ]
    for centre, radii in spots:
        canvas.ellipsoid(centre, np.array(radii) + 1.4, compact, clip=behind)
    for centre, radii in spots:
        canvas.ellipsoid(centre, radii, MUCOSA, clip=behind + 1.0)
        canvas.ellipsoid(centre, np.array(radii) - 0.8, AIR, clip=behind + 1.8)
    x, z = canvas.points[0], canvas.points[2]
    cavity = ellipsoid(canvas.points, (0, -66, -42), (14, 34, 20))
    cavity = np.maximum(
        smooth_union(cavity, _cone(canvas.points, (0, -98, -48), (0, -112, -54), 8.0, 8.0), 5.0), shells.head + 1.5
    )
    canvas.paint(np.maximum(cavity, behind - 1.0), MUCOSA)
    lobes = np.abs(np.mod(z + 46.0, 11.0) - 5.5) - 3.2  # turbinates reach in from the sides
    free = np.maximum(np.maximum(cavity + 1.5, 1.3 - np.abs(x)), np.minimum(np.abs(x) - 4.2, lobes))
    canvas.paint(free.astype(np.float32), AIR)
    canvas.paint(np.maximum(cavity + 2.0, np.abs(x) - 0.8).astype(np.float32), GRISTLE)
    throat = np.array([(0, -34, -42), (0, -16, -50), (0, -12, -72), (0, -14, -125)], float)
    canvas.tube(throat, [9.5, 10.5, 9.5, 9.0], MUCOSA)
    canvas.tube(throat, [7.5, 8.5, 7.5, 7.5], AIR)
    canvas.ellipsoid((0, -58, -66), (24, 30, 2.8), compact, clip=inside)  # the hard palate
    canvas.ellipsoid((0, -50, -84), (25, 30, 14), (0.55, 55.0), clip=inside)  # the tongue
    canvas.ellipsoid((0, -48, -71), (20, 24, 2.2), AIR, clip=inside)


def teeth(canvas: Canvas, rng: np.random.Generator, fillings: int) -> None:
    """Two arches of teeth; some filled with metal, which the MR shows as a hole larger than itself."""
    places = [
        np.array([26.0 * np.sin(a), -58.0 - 29.0 * np.cos(a), z])
        for z in (-75.0, -85.0)
        for a in np.linspace(-1.5, 1.5, 14)
    ]
    for place in places:
        canvas.ellipsoid(place, (3.0, 3.4, 5.2), TOOTH)
        canvas.ellipsoid(place + (0, 0, 0.5), (1.2, 1.4, 3.0), (0.05, 900.0))
    for number in rng.permutation(len(places))[:fillings]:
        hole = ellipsoid(canvas.points, places[number], (9.0, 9.0, 9.0))
        canvas.paint(hole, (0.0, canvas.channels[1].copy()))
        canvas.ellipsoid(places[number], (2.6, 2.8, 3.0), METAL)


def ear(canvas: Canvas, shells: Shells, patient: Patient, side: int, rng: np.random.Generator) -> None:
    """The temporal bone: petrous pyramid, mastoid with its air cells, ear canal and tympanic cavity."""
    compact = (COMPACT_MR, patient.compact)
    inside = shells.head + 5.0
    mastoid = ellipsoid(canvas.points, (side * 58, 22, -34), (11, 15, 20))
    mastoid = np.maximum(mastoid, inside)
    canvas.paint(mastoid, compact)
    canvas.paint(mastoid + 2.0, (0.5, 450.0))
    pyramid = np.array([(side * 62, 12, -26), (side * 40, 6, -22), (side * 16, -8, -22)], float)
    canvas.tube(pyramid, [10.0, 9.0, 5.0], (COMPACT_MR, PETROUS_HU), clip=inside)
    for _ in range(patient.cells):
        at = np.array([side * rng.normal(58, 6), rng.normal(22, 7.5), rng.normal(-33, 9.5)])
        canvas.ellipsoid(at, rng.uniform(1.2, 3.4, 3), AIR, clip=np.maximum(mastoid + 1.0, 1.5 - shells.cavity))
    canvas.tube(np.array([(side * 92, 8, -24), (side * 66, 6, -23), (side * 50, 4, -22)], float), [4.0, 3.4, 3.6], AIR)
    canvas.ellipsoid((side * 47, 3, -21), (3.0, 6.0, 7.0), AIR)
    canvas.ellipsoid((side * 38, 4, -21), (3.4, 4.2, 3.2), (0.24, 200.0))  # labyrinth
    canvas.tube(np.array([(side * 34, 6, -21), (side * 22, 12, -20)], float), 2.2, CSF)


def brain(canvas: Canvas, cavity: Array, patient: Patient, texture: Array, folds: Array) -> None:
    """Fluid, cortex folded along the zero level of a random field, white matter, deep nuclei, ventricles, hindbrain."""
    x, y, z = canvas.points
    fluid = 1.6 + 0.8 * patient.atrophy
    grey = (GREY[0] + 0.02 * texture, GREY[1])
    white = (WHITE[0] + 0.02 * texture, WHITE[1])
    canvas.paint(cavity + 0.6, DURA)
    canvas.paint(cavity + 1.4, CSF)
    surface = cavity + fluid
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(folds, *canvas.grid.spacing[::-1])))
    sulcus = (np.abs(folds) / np.maximum(slope, 0.02)).astype(np.float32)
    width = 0.5 + 0.5 * patient.atrophy
    fissure = np.maximum(np.abs(x) - 0.7, np.maximum(surface + 1.0, 26.0 + np.square(y / 22.0) - z))
    canvas.paint(surface, grey)
    ribbon = np.maximum(sulcus - width - 2.8, -(surface + 19.0))
    ribbon = np.minimum(ribbon, np.maximum(np.abs(x) - 4.0, 24.0 + np.square(y / 22.0) - z))
    canvas.paint(np.maximum(surface + 3.0, -ribbon).astype(np.float32), white)
    open_sulcus = np.maximum(np.maximum(sulcus - width, -(surface + 15.0)), surface)
    canvas.paint(open_sulcus.astype(np.float32), CSF)
    for side in (-1, 1):
        canvas.ellipsoid((side * 12, 4, 16), (8, 14, 9), DEEP_GREY)
        canvas.ellipsoid((side * 25, -8, 14), (5, 15, 9), DEEP_GREY)
        canvas.ellipsoid((side * 15, -22, 23), (4.5, 8, 8), DEEP_GREY)
        horn = np.array([(side * 7, -32, 22), (side * 9, -6, 31), (side * 19, 26, 27), (side * 27, 48, 16)], float)
        canvas.tube(horn, np.array([3.4, 3.6, 5.0, 2.6]) + patient.atrophy, CSF)
        canvas.tube(
            np.array([(side * 20, 28, 25), (side * 34, 14, 2), (side * 32, -8, -6)], float), [3.0, 2.4, 1.6], CSF
        )
    canvas.ellipsoid((0, 2, 14), (1.8 + patient.atrophy, 12, 9), CSF)
    canvas.paint(fissure.astype(np.float32), DURA)
    hindbrain(canvas, cavity, texture)
    turn = np.linspace(-0.9, 2.0, 14)
    crest = np.stack([0 * turn, 4.0 + 80.0 * np.sin(turn), 18.0 + 56.0 * np.cos(turn)], axis=1)
    canvas.tube(crest, 3.2, BLOOD, clip=cavity + 0.3)  # the superior sagittal sinus


def hindbrain(canvas: Canvas, cavity: Array, texture: Array) -> None:
    """Tentorium, cerebellum with its folia, brain stem, fourth ventricle, and the cord in its canal."""
    y, z = canvas.points[1:]
    body = np.maximum(ellipsoid(canvas.points, (0, 44, -24), (48, 33, 25)), cavity + 2.2)
    canvas.paint(np.maximum(body - 2.4, cavity + 1.4), CSF)
    canvas.paint(body, (GREY[0] - 0.02, 40.0))
    folia = 2.0 - 3.0 * np.abs(np.sin((np.hypot(y - 22.0, z + 20.0) + 2.0 * texture) * np.pi / 6.5))
    canvas.paint(np.maximum(body + 2.5, folia).astype(np.float32), (0.86, 33.0))
    for side in (-1, 1):
        canvas.ellipsoid((side * 20, 34, -24), (15, 14, 9), WHITE)
    canal = np.array([(0, 14, -32), (0, 22, -48), (0, 29, -58), (0, 29, -125)], float)
    canvas.tube(canal, [11.0, 11.0, 8.5, 8.5], CSF)
    stem = np.array([(0, 5, 6), (0, 9, -10), (0, 13, -28), (0, 22, -48), (0, 29, -60), (0, 29, -125)], float)
    canvas.tube(stem, np.array([16.0, 14.0, 11.0, 7.5, 6.0, 5.5]), CSF, clip=cavity + 1.0)
    canvas.tube(stem, [13.0, 12.0, 9.0, 6.5, 5.0, 4.5], (0.92, 32.0))
    canvas.ellipsoid((0, 24, -18), (5, 4, 8), CSF)
