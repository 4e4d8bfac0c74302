"""A contrast-enhanced CT of the upper abdomen, HU, with liver, kidneys, spleen, aorta, spine and lung bases segmented.

A drawing, not a simulation of a patient: organ shapes, sizes and places are round numbers from anatomy atlases, varied
from seed to seed; HU are typical of the portal-venous phase. Noise has the spectrum of filtered back-projection (rising
with frequency, then cut by the reconstruction kernel), independent between slices.
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
    ct_scanned,
    ellipsoid,
    rotation,
    segmentation,
    smooth_overlap,
    smooth_union,
)

NAME = "abdomen-ct"
SENTENCE = "A contrast-enhanced CT of the upper abdomen (HU) with seven structures and the lung bases segmented."
ROLES = {"image": "Image", "mask": "Mask"}

RIGHT, LEFT = ("24028007", "Right"), ("7771000", "Left")
SEGMENTS = (
    Segment(1, "liver", (0.867, 0.510, 0.396), ("10200004", "Liver")),
    Segment(2, "kidney_right", (0.725, 0.400, 0.325), ("64033007", "Kidney"), RIGHT),
    Segment(3, "kidney_left", (0.725, 0.400, 0.325), ("64033007", "Kidney"), LEFT),
    Segment(4, "spleen", (0.616, 0.424, 0.635), ("78961009", "Spleen")),
    Segment(5, "aorta", (0.878, 0.380, 0.298), ("15825003", "Aorta")),
    Segment(6, "spine", (0.886, 0.792, 0.525), ("421060004", "Vertebral column")),
    Segment(7, "lungs", (0.773, 0.647, 0.569), ("39607008", "Lung")),
    Segment(8, "stomach", (0.847, 0.518, 0.412), ("69695003", "Stomach")),
)
LIVER, KIDNEY_RIGHT, KIDNEY_LEFT, SPLEEN, AORTA, SPINE, LUNGS, STOMACH = (s.value for s in SEGMENTS)

FIELD_OF_VIEW = (380.0, 300.0, 256.0)  # mm along x, y, z
AIR, GAS, LUNG, FAT, WATER, MUSCLE, SKIN = -1000.0, -950.0, -850.0, -105.0, 8.0, 58.0, 5.0
TRABECULAR, CORTICAL, DISC, CARTILAGE, CORD = 190.0, 620.0, 85.0, 105.0, 32.0
LOWEST, HIGHEST = -1024, 3071


@dataclass
class Patient:
    """What differs from patient to patient. Lengths in mm, LPS, about the middle of the field of view."""

    half_width: float
    front: float
    back: float
    fat: float
    wall: float
    spine_y: float
    dome: float
    phase: float  # where the vertebrae and ribs lie along z
    liver: float  # HU
    cortex: float
    spleen: float
    blood: float
    kidneys_z: tuple[float, float]
    sway: tuple[float, float, float]  # bends of the aorta and its branches

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Patient:
        """One patient at random."""
        size = rng.normal(1.0, 0.04)
        fat = rng.uniform(8.0, 24.0)
        back = 104.0 * size
        return cls(
            half_width=(148.0 + 0.7 * fat) * size,
            front=(98.0 + 0.6 * fat) * size,
            back=back,
            fat=fat,
            wall=rng.uniform(9.0, 13.0),
            spine_y=back - 0.6 * fat - 56.0,
            dome=rng.uniform(80.0, 98.0),
            phase=rng.uniform(0.0, 34.0),
            liver=rng.normal(110.0, 8.0),
            cortex=rng.normal(185.0, 12.0),
            spleen=rng.normal(122.0, 8.0),
            blood=rng.normal(165.0, 15.0),
            kidneys_z=(rng.normal(-38.0, 8.0), rng.normal(-26.0, 8.0)),
            sway=tuple(rng.normal(0.0, 1.0, 3)),
        )


def make(
    seed: int, size: tuple[int, int, int] = (96, 80, 64), oblique: float = 0.0, noise: float = 1.0
) -> dict[str, sitk.Image]:
    """One patient: "image" (int16, HU) and "mask" (uint8 labels that carry Slicer's segment fields).

    seed: the same seed is the same patient on every grid, and the same bytes on the same grid.
    size: voxels along x, y, z over a fixed field of view of 380 x 300 x 256 mm; (96, 80, 32) has slices of 8 mm.
    oblique: by how many degrees the grid is turned, about an axis that the seed draws. noise: its strength, 0 for none.
    Raises ValueError for fewer than 8 voxels along an axis.
    """
    if min(size) < 8:
        raise ValueError("an abdomen needs 8 voxels or more along each axis")
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(5)]
    patient = Patient.drawn(streams[0])
    direction = rotation(streams[1].standard_normal(3), oblique) if oblique else np.eye(3)
    spacing = tuple(f / n for f, n in zip(FIELD_OF_VIEW, size, strict=True))
    grid = Grid(size, spacing, direction)  # type: ignore[arg-type]
    # Thick slices are averaged from thin ones, as a scanner does: that is where their partial volume comes from.
    factors = [max(1, round(s / min(spacing))) for s in spacing]
    fine = grid.finer(factors)
    points = fine.points()
    points += fine.smooth_field(streams[2], 70.0, 3) * 4.0
    canvas = Canvas(fine, points, AIR)
    texture = fine.smooth_field(streams[2], 14.0, 1)[0]
    draw(canvas, patient, texture, streams[3])
    values, labels = canvas.coarsened(factors)
    values = ct_scanned(values, noise, streams[4])
    image = grid.image(np.clip(np.rint(values), LOWEST, HIGHEST).astype(np.int16))
    return {"image": image, "mask": segmentation(grid, labels, SEGMENTS)}


def draw(canvas: Canvas, patient: Patient, texture: Array, rng: np.random.Generator) -> None:
    """Paint the patient, outer layers first; what is painted later lies in front of what was there."""
    table(canvas, patient)
    cavity = trunk(canvas, patient, texture)
    below_dome = diaphragm(canvas, patient, cavity, rng)
    spine(canvas, patient, texture)
    gut(canvas, patient, np.maximum(cavity + 3.0, below_dome), rng)
    inside = np.maximum(cavity + 1.5, below_dome + 3.0)
    stomach(canvas, patient, inside)
    spleen(canvas, patient, inside, texture)
    liver(canvas, patient, inside, texture, rng)
    for side in (-1, 1):
        kidney(canvas, patient, side, rng)
    vessels(canvas, patient, rng)


def table(canvas: Canvas, patient: Patient) -> None:
    """The couch: a thin curved shell under the back."""
    x, y = canvas.grid.points()[:2]
    top = patient.back + 12.0 - np.square(x) / 1400.0
    shell = np.abs(y - top) - 2.0
    canvas.paint(np.maximum(shell, np.abs(x) - 185.0), -60.0, 0)


def radial(x: Array, y: Array, half_width: float, front: float, back: float, power: float = 2.35) -> Array:
    """Distance (mm, along the radius) to the trunk's outline: a superellipse, deeper in front or behind."""
    depth = np.where(y < 0, front, back).astype(np.float32)
    level = (np.abs(x / half_width) ** power + np.abs(y / depth) ** power) ** (1 / power)
    radius = np.sqrt(x * x + y * y)
    return (radius * (1.0 - 1.0 / np.maximum(level, 0.05))).astype(np.float32)


def trunk(canvas: Canvas, patient: Patient, texture: Array) -> Array:
    """Skin, fat, the muscle wall with its ribs, and the fat inside. Returns the distance to the abdominal cavity."""
    x, y, z = canvas.points
    waist = 1.0 - 0.05 * np.exp(-np.square((z + 30.0) / 60.0)) - 0.08 * np.clip((z - 40.0) / 90.0, 0.0, 1.0)
    furrow = 7.0 * np.exp(-np.square(x / 16.0)) * (y > 0)  # over the spinous processes
    outline = radial(x / waist, y, patient.half_width, patient.front, patient.back) + furrow
    canvas.paint(outline, SKIN, 0)
    canvas.paint(outline + 2.5, FAT + 9.0 * texture)
    flank = 0.6 + 0.4 * np.square(np.clip(x / patient.half_width, -1, 1)) + 0.2 * np.tanh(-y / 50.0)
    wall = outline + patient.fat * flank
    canvas.paint(wall, MUSCLE + 7.0 * texture)
    thin = np.exp(-np.square(x / 9.0)) * (y < 0)  # the linea alba between the two recti
    cavity = wall + patient.wall * (1.0 - 0.6 * thin)
    canvas.paint(cavity, FAT + 4.0 + 10.0 * texture)
    ribs(canvas, patient, wall + 0.55 * patient.wall)
    return cavity


def ribs(canvas: Canvas, patient: Patient, middle: Array) -> None:
    """Ribs 12 and up within the wall, falling forwards; the lower ones end early, the upper ones turn to cartilage."""
    x, y, z = canvas.points
    angle = np.arctan2(np.abs(x), y - 10.0)  # 0 at the back, pi in front
    height = z + 34.0 * angle - (patient.phase - 12.0)
    number = np.floor(height / 27.0)
    from_centre = height - 27.0 * (number + 0.5)
    slab = np.sqrt(np.square(middle) + np.square(0.62 * from_centre)) - 4.3
    length = np.select([number < 0, number == 0, number == 1], [-1.0, 0.95, 1.35], 2.15)
    near_spine = 18.0 - np.abs(x)
    bone = np.maximum(np.maximum(slab, (angle - length) * 110.0), near_spine)
    canvas.paint(bone, CORTICAL)
    canvas.paint(bone + 2.6, TRABECULAR)
    gristle = np.maximum(slab, np.maximum((length - angle) * 110.0, (angle - 2.8) * 110.0))
    canvas.paint(np.where(number >= 2, gristle, 99.0).astype(np.float32), CARTILAGE)
    sternum = np.maximum(np.maximum(np.abs(middle) - 4.5, np.abs(x) - 15.0), np.maximum(72.0 - z, y))
    canvas.paint(sternum.astype(np.float32), CORTICAL - 150.0)
    canvas.paint(sternum.astype(np.float32) + 2.5, TRABECULAR - 40.0)


def diaphragm(canvas: Canvas, patient: Patient, cavity: Array, rng: np.random.Generator) -> Array:
    """Lung bases, heart and mediastinum above two domes. Returns the distance to the space below the diaphragm."""
    x, y, z = canvas.points
    right = patient.dome - (np.square(x + 62.0) + np.square(y)) / 210.0
    left = patient.dome - 10.0 - (np.square(x - 66.0) + np.square(y - 6.0)) / 190.0
    dome = -smooth_union(-right.astype(np.float32), -left.astype(np.float32), 14.0)
    above = (dome - z) * 0.75  # the domes are steep: a height is not a distance
    beside = (44.0 - np.hypot(x, 0.6 * (y - patient.spine_y))).astype(np.float32)  # of the mediastinum
    lung = np.maximum(smooth_overlap(cavity - 1.0, beside, 14.0), above)
    canvas.paint(lung, LUNG, LUNGS)
    for _ in range(70):  # lung vessels, thinner towards the pleura
        side = rng.choice((-1.0, 1.0))
        start = np.array([side * rng.uniform(25, 55), rng.uniform(-20, 40), rng.uniform(60, 135)])
        stop = start + np.array([side * rng.uniform(15, 60), rng.uniform(-55, 45), rng.uniform(-70, 5)])
        canvas.tube(np.stack([start, stop]), [rng.uniform(1.2, 2.6), 0.7], 20.0, clip=lung + 3.0)
    ribcage = np.maximum(cavity, 34.0 - z)
    canvas.ellipsoid((16, -30, 112), (62, 46, 48), FAT + 15.0, 0, clip=ribcage)
    tilt = rotation((0, 1, 0), 25.0)
    canvas.ellipsoid((18, -32, 114), (56, 40, 42), 115.0, 0, axes=tilt, clip=ribcage)
    canvas.ellipsoid((28, -28, 120), (33, 24, 30), patient.blood, axes=tilt, clip=ribcage)
    canvas.ellipsoid((-14, -38, 122), (19, 26, 30), patient.blood - 10.0, axes=tilt, clip=ribcage)
    muscle = np.maximum(np.abs(above + 1.5) - 1.5, cavity)
    canvas.paint(np.where(z > 20.0 - 0.4 * y, muscle, 99.0).astype(np.float32), MUSCLE)
    return -above


def spine(canvas: Canvas, patient: Patient, texture: Array) -> None:
    """Vertebrae with their arches and processes, discs, cord, and the muscles along them."""
    x, y, z = canvas.points
    y = y - patient.spine_y + np.square(z / 128.0) * 6.0  # lordosis
    for side in (-1, 1):
        psoas = np.sqrt(np.square((x - side * (34 - 0.10 * z)) / 1.0) + np.square((y - 4.0) / 1.2))
        canvas.paint((psoas - np.clip(15.0 - 0.16 * (z + 30.0), 0.0, 24.0)).astype(np.float32), MUSCLE, 0)
        erector = np.sqrt(np.square((x - side * 30.0) / 1.45) + np.square((y - 45.0) / 1.0)) - 18.0
        canvas.paint(erector.astype(np.float32), MUSCLE + 10.0 * texture - 12.0, 0)
    turn = np.mod(z - patient.phase, 34.0) - 17.0  # 0 in the middle of a vertebral body
    waist = 1.6 * np.cos(turn * np.pi / 15.0)
    oval = np.sqrt(np.square(x / 1.25) + np.square(y))
    body = (oval - (17.5 - waist)).astype(np.float32)
    canvas.paint(body, DISC, SPINE)
    bone = np.maximum(body, np.abs(turn) - 13.5).astype(np.float32)
    arch = np.maximum(np.abs(np.hypot(x / 1.15, y - 25.0) - 12.0) - 2.6, np.abs(turn - 3.0) - 11.0)
    arch = np.maximum(arch, 10.0 - y)
    spinous = np.maximum(np.maximum(np.abs(x) - 2.8, np.abs(y - 47.0) - 12.0), np.abs(turn + 5.0) - 8.0)
    lateral = np.maximum(np.hypot((y - 22.0 - 0.12 * np.abs(x)) / 1.0, turn - 4.0) - 4.6, np.abs(x) - 40.0)
    lateral = np.maximum(lateral, 13.0 - np.abs(x))
    for part in (arch, spinous, lateral, bone):
        canvas.paint(part.astype(np.float32), CORTICAL, SPINE)
    canvas.paint(bone + 2.2, TRABECULAR + 28.0 * texture, SPINE)
    for part in (spinous, lateral):
        canvas.paint(part.astype(np.float32) + 2.8, TRABECULAR + 60.0)
    canvas.paint((np.hypot(x / 1.15, y - 25.0) - 9.0).astype(np.float32), WATER, 0)
    canvas.paint((np.hypot(x, y - 25.0) - 4.8).astype(np.float32), CORD)


def gut(canvas: Canvas, patient: Patient, inside: Array, rng: np.random.Generator) -> None:
    """Mesentery, loops of small bowel and the colon's frame; some hold gas, which lies in front of the fluid."""
    behind = min(patient.spine_y - 42.0, 20.0)
    for _ in range(60):
        start = np.array([rng.uniform(-90, 90), rng.uniform(-70, behind), rng.uniform(-125, 0)])
        stop = start + rng.normal(0.0, 1.0, 3) * (22, 16, 26)
        canvas.tube(np.stack([start, stop]), rng.uniform(0.9, 2.0), patient.blood - 40.0, 0, inside)
    for _ in range(46):
        at = np.array([rng.uniform(-95, 100), rng.uniform(-82, behind), rng.uniform(-140, -6)])
        steps = rng.normal(0.0, 1.0, (3, 3)) * (17, 13, 17)
        loop(canvas, at + np.cumsum(steps, axis=0) - steps.mean(axis=0), rng.uniform(8, 12), inside, rng, 0.22)
    wide = patient.half_width - patient.fat - 34.0
    top = rng.uniform(-42.0, -22.0)
    frame = [
        [(-wide, 22, -150), (-wide - 2, 18, -100), (-wide + 4, 6, -62)],
        [(-wide + 4, -20, -58), (-50, -62, top - 8), (0, -72, top - 16), (48, -62, top), (wide - 6, -12, top + 22)],
        [(wide - 4, 18, top + 16), (wide, 30, -60), (wide - 2, 28, -150)],
    ]
    for part in frame:
        path = np.array(part, float)
        path += rng.normal(0.0, 3.0, path.shape)
        loop(canvas, path, rng.uniform(15, 19), inside, rng, 0.9)


def loop(
    canvas: Canvas, path: NDArray[np.float64], radius: float, inside: Array, rng: np.random.Generator, gas: float
) -> None:
    """One piece of bowel: wall, content, and with probability `gas` a bubble above a level."""
    canvas.tube(path, radius, 72.0, 0, inside)
    lumen = inside + 2.5
    canvas.tube(path, radius - 2.5, rng.uniform(8.0, 42.0), 0, lumen)
    if rng.uniform() < gas:
        level = float(path[:, 1].mean()) + rng.uniform(-0.6, 0.3) * radius
        canvas.tube(path, radius - 2.5, GAS, 0, np.maximum(lumen, canvas.points[1] - level))


def stomach(canvas: Canvas, patient: Patient, inside: Array) -> None:
    """Fundus to antrum, full of fluid, with the bubble in front that a person lying on the back has."""
    bend = 5.0 * np.array(patient.sway)
    path = np.array([(56, 14, 46), (66, -16, 26), (56, -50, 2), (22, -62, -12), (-18, -52, -10)], float)
    path[1:4] += np.roll(bend, 1)
    radii = np.array([27.0, 29.0, 22.0, 15.0, 9.0])
    canvas.tube(path, radii, 82.0, STOMACH, inside)
    canvas.tube(path, radii - 4.0, 26.0, STOMACH, inside + 4.0)
    level = -56.0 + 4.0 * patient.sway[0]
    canvas.tube(path, radii - 4.0, GAS, STOMACH, np.maximum(inside + 4.0, canvas.points[1] - level))


def spleen(canvas: Canvas, patient: Patient, inside: Array, texture: Array) -> None:
    """A crescent between the ribs and the stomach."""
    tilt = rotation((1, 0, 0), -24.0) @ rotation((0, 0, 1), 16.0)
    centre = (patient.half_width - patient.fat - 52.0, 44.0, 26.0)
    body = ellipsoid(canvas.points, centre, (32.0, 44.0, 52.0), tilt)
    hollow = ellipsoid(canvas.points, (centre[0] - 44.0, 16.0, 26.0), (36.0, 44.0, 60.0))
    away = 46.0 - np.hypot(canvas.points[0], canvas.points[1] - patient.spine_y)
    shape = np.maximum(np.maximum(body, -hollow), np.maximum(inside, away)).astype(np.float32)
    canvas.paint(shape, patient.spleen + 5.0 * texture, SPLEEN)


def liver(canvas: Canvas, patient: Patient, inside: Array, texture: Array, rng: np.random.Generator) -> None:
    """Both lobes with portal and hepatic veins, and the gallbladder in its bed."""
    x, y = canvas.points[:2]
    right = ellipsoid(canvas.points, (-68, 2, 24), (80, 88, patient.dome + 6), rotation((0, 1, 0), 12.0))
    left = ellipsoid(canvas.points, (-6, -46, 40), (74, 34, 36), rotation((0, 1, 0), -14.0))
    shape = smooth_union(right, left, 18.0)
    behind = 44.0 - np.hypot((x - 4.0) / 1.05, y - patient.spine_y - 2.0)
    bed = (-54.0, patient.spine_y + 10.0, patient.kidneys_z[0] - 2.0)
    shape = smooth_overlap(shape, behind.astype(np.float32), 12.0)
    shape = smooth_overlap(shape, -ellipsoid(canvas.points, bed, (42, 38, 66)), 12.0)
    shape = np.maximum(shape, inside)
    canvas.paint(shape, patient.liver + 5.0 * texture, LIVER)
    within = shape + 5.0
    gate, top = np.array([-34.0, -12.0, 8.0]), np.array([-24.0, 6.0, 64.0])
    portal = [(-78, 8, 26), (-98, 30, 4), (-64, -42, 22), (-92, -20, 46), (-22, -44, 36), (16, -52, 44), (-84, 40, 34)]
    hepatic = [(-92, 24, 38), (-62, -40, 50), (-10, -46, 58), (22, -44, 54), (-110, -8, 26)]
    for root, leaves, radius in ((gate, portal, 4.6), (top, hepatic, 4.2)):
        for leaf in leaves:
            stop = np.array(leaf, float) + rng.normal(0.0, 7.0, 3)
            middle = (root + stop) / 2 + rng.normal(0.0, 7.0, 3)
            canvas.tube(np.stack([root, middle, stop]), [radius, 0.7 * radius, 1.2], patient.liver + 42.0, clip=within)
            for _ in range(2):
                twig = middle + rng.normal(0.0, 24.0, 3)
                canvas.tube(np.stack([middle, twig]), [0.55 * radius, 0.9], patient.liver + 38.0, clip=within)
    gallbladder = np.array([-44.0, -54.0, -22.0]) + rng.normal(0.0, 4.0, 3)
    tilt = rotation((1, 0, 0), 28.0)
    canvas.ellipsoid(gallbladder, (14, 15, 28), 60.0, 0, tilt, inside)
    canvas.ellipsoid(gallbladder, (12, 13, 26), WATER + 4.0, 0, tilt, inside)


def kidney(canvas: Canvas, patient: Patient, side: int, rng: np.random.Generator) -> None:
    """Cortex, medullary pyramids and the fatty sinus with its pelvis; the hilum looks forward and to the middle."""
    centre = np.array([side * 66.0, patient.spine_y + 6.0, patient.kidneys_z[(side + 1) // 2]])
    axes = rotation((0, 1, 0), -side * 13.0) @ rotation((1, 0, 0), 9.0) @ rotation((0, 0, 1), side * 32.0)
    radii = np.array([25.0, 28.0, 54.0]) * rng.normal(1.0, 0.05)
    label = KIDNEY_RIGHT if side < 0 else KIDNEY_LEFT
    canvas.ellipsoid(centre, radii + 4.0, FAT, 0, axes)  # its own fat keeps the neighbours away
    canvas.ellipsoid(centre, radii, patient.cortex, label, axes)
    medial = -side * axes[:, 0]
    for height in np.linspace(-0.66, 0.66, 5):
        for angle in (-1.9, -0.6, 0.6, 1.9):
            turn = np.cos(angle) * -medial + np.sin(angle) * axes[:, 1]
            place = centre + axes[:, 2] * height * radii[2] + turn * 14.0 * np.sqrt(1 - height**2)
            canvas.ellipsoid(place, (5.2, 5.2, 6.4), patient.cortex - 52.0, axes=axes)
    canvas.ellipsoid(centre + medial * 12.0, (15, 8, 27), FAT + 35.0, 0, axes)
    canvas.ellipsoid(centre + medial * 11.0, (9, 5, 17), WATER + 6.0, 0, axes)
    front = patient.spine_y - 26.0
    for kind, value, radius in (("artery", patient.blood, 2.6), ("vein", patient.blood - 12.0, 4.6)):
        start = np.array([10.0 if kind == "artery" else -20.0, front - (0 if kind == "artery" else 6), centre[2] + 10])
        stop = centre + medial * 20.0
        middle = (start + stop) / 2 + (0.0, -6.0, 2.0)
        canvas.tube(np.stack([start, middle, stop]), [radius, radius, 0.7 * radius], value, 0)


def vessels(canvas: Canvas, patient: Patient, rng: np.random.Generator) -> None:
    """Pancreas and duodenum, vena cava, the aorta with its branches and plaques."""
    front = patient.spine_y - 17.0
    sway = patient.sway
    bed = np.array([(-30, -26, -22), (-8, -24, -10), (22, -20, -2), (52, -2, 10), (78, 18, 18)], float)
    canvas.tube(bed, [13.0, 8.5, 8.5, 9.0, 7.0], 92.0, 0)
    canvas.tube(bed[1:] + (0, 9, 1), 3.4, patient.blood - 5.0, 0)  # splenic vein
    duodenum = np.array([(-34, -44, -6), (-48, -26, -16), (-48, -10, -44), (-24, front - 30, -56)], float)
    canvas.tube(duodenum, 11.0, 74.0, 0)
    canvas.tube(duodenum, 8.0, 25.0, 0)
    z = np.linspace(-150.0, 150.0, 31)
    bent = front - 6.0 * np.square(z / 128.0)
    cava = np.stack([-22 - 2.5 * sway[1] * np.sin(z / 60), bent - 11.0 - 0.05 * np.clip(z, 0, 99), z], axis=1)
    canvas.tube(cava[z < 82], np.interp(z[z < 82], (-150, 80), (9.5, 12.5)), patient.blood - 18.0, 0)
    radius = np.interp(z, (-110, 150), (8.4, 11.5))
    curve = 10 + 5.0 * sway[0] * np.sin((z + 40) / 55) + 0.06 * np.clip(z - 40, 0, 99)
    aorta = np.stack([curve, bent - radius - 2.5 + 0.16 * np.clip(z - 30, 0, 99), z], axis=1)
    fork = z >= -112.0
    branches(canvas, patient, aorta, z)
    canvas.tube(aorta[fork], radius[fork] + 1.2, 75.0, 0)
    canvas.tube(aorta[fork], radius[fork], patient.blood, AORTA)
    root = aorta[fork][0]
    for side in (-1, 1):
        iliac = np.stack([root, root + (side * 16, 4, -22), root + (side * 34, 12, -50)])
        canvas.tube(iliac, [6.5, 5.8, 5.6], patient.blood, 0)
    for _ in range(rng.integers(0, 7)):  # plaques
        level = int(rng.integers(np.argmax(fork), 24))
        turn = rng.uniform(0, 2 * np.pi)
        place = aorta[level] + radius[level] * np.array([np.cos(turn), np.sin(turn), 0.0])
        canvas.ellipsoid(place, (2.4, 2.4, 4.0), 520.0, AORTA)


def branches(canvas: Canvas, patient: Patient, aorta: NDArray[np.float64], z: NDArray[np.float64]) -> None:
    """Coeliac trunk, superior mesenteric artery and the portal vein's stem."""
    for level, reach in ((12.0, 24.0), (-6.0, 20.0)):
        root = aorta[int(np.abs(z - level).argmin())]
        tip = root + (0, -reach, -3)
        far = tip + ((26, -4, 6) if level > 0 else (-4, -12, -70))
        canvas.tube(np.stack([root, tip, far]), [3.4, 3.2, 2.2], patient.blood, 0)
    stem = np.array([(-8, -20, -60), (-8, -16, -12), (-34, -12, 8)], float)
    canvas.tube(stem, [5.0, 6.0, 6.2], patient.blood - 5.0)
