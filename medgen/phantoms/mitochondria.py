"""A FIB-SEM-like block of cytoplasm with mitochondria that point everywhere alike, their bodies segmented.

Bodies are bent tubes whose directions are uniform on the sphere; membranes, cristae, vesicles and sheets of endoplasmic
reticulum are drawn around and in them. The grid is isotropic and no step of the drawing knows its axes, so that the
claim of methods for isotropic microscopy (no preferred direction) can be tested on it. Lengths in the files: 1 mm
stands for 1 nm, voxels of 5; grey values 0..255, dark membranes on light cytoplasm.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medgen.phantoms.canvas import Array, Canvas, Grid, Segment, blurred, rotation, segmentation, tube

NAME = "mitochondria"
SENTENCE = "A block of electron microscopy with mitochondria-like bodies that have no preferred direction, segmented."
ROLES = {"image": "Image", "mask": "Mask"}
SEGMENTS = (Segment(1, "mitochondria", (0.400, 0.780, 0.560), ("4421005", "Cell structure")),)

VOXEL = 5.0  # nm, written as mm
CYTOPLASM, MEMBRANE, MATRIX, LUMEN = 172.0, 66.0, 132.0, 188.0
SHARE = 0.22  # of the block that is mitochondria, at most
GAP = 22.0  # nm between two bodies, at least
Vector = NDArray[np.float64]


def make(
    seed: int, size: tuple[int, int, int] = (96, 96, 96), direction: tuple[float, float, float] | None = None
) -> dict[str, sitk.Image]:
    """One block: "image" (uint8 grey values) and "mask" (uint8, 1 = mitochondrion, with Slicer's segment fields).

    size: voxels along x, y, z. direction: LPS axis along which the bodies then lie, within about 15 degrees; None, the
    default, gives them no preferred direction. Raises ValueError for fewer than 16 voxels along an axis or a zero axis.
    """
    if min(size) < 16:
        raise ValueError("a block of mitochondria needs 16 voxels or more along each axis")
    if direction is not None and not np.linalg.norm(direction) > 0:
        raise ValueError("the bodies' direction must not be zero")
    shapes, fields, scanner = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    grid = Grid(size, (VOXEL, VOXEL, VOXEL), np.eye(3))
    canvas = Canvas(grid, grid.points(), CYTOPLASM)
    canvas.values += 9.0 * noise_field(fields, grid, 30.0) + 7.0 * noise_field(fields, grid, 9.0)
    reticulum(canvas, fields)
    vesicles(canvas, shapes)
    for path, radii in bodies(shapes, grid, direction):
        mitochondrion(canvas, path, radii, shapes)
    values = detected(canvas.values, scanner)
    image = grid.image(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    return {"image": image, "mask": segmentation(grid, canvas.labels, SEGMENTS)}


def noise_field(rng: np.random.Generator, grid: Grid, width: float) -> Array:
    """A random field (z, y, x), Gaussian correlation of `width` nm, mean 0, deviation 1, alike in all directions."""
    field = blurred(rng.standard_normal(grid.size[::-1], dtype=np.float32), (width / VOXEL,) * 3)
    return (field - field.mean()) / field.std()


def on_sphere(rng: np.random.Generator) -> Vector:
    """A direction, uniform on the sphere."""
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def body(rng: np.random.Generator, grid: Grid, direction: Vector | None) -> tuple[Vector, Vector]:
    """One bent tube: path (n, 3) and radii (n,) in nm. Its middle is anywhere in the block or a little outside."""
    half = np.array(grid.size) * VOXEL / 2 + 40.0
    length = rng.uniform(70.0, 340.0)
    step = 18.0
    heading = on_sphere(rng) if direction is None else direction + 0.18 * rng.standard_normal(3)
    bend = 0.16 if direction is None else 0.05
    path = [np.zeros(3)]
    for _ in range(int(length / step)):
        heading = heading + bend * rng.standard_normal(3)
        heading /= np.linalg.norm(heading)
        path.append(path[-1] + step * heading)
    line = np.array(path)
    line += rng.uniform(-half, half) - line.mean(axis=0)
    waves = 1.0 + 0.16 * np.sin(np.linspace(0, rng.uniform(2, 9), len(line)) + rng.uniform(0, 6.3))
    return line, rng.uniform(34.0, 56.0) * waves


def bodies(
    rng: np.random.Generator, grid: Grid, direction: tuple[float, float, float] | None
) -> list[tuple[Vector, Vector]]:
    """Bodies that keep apart, until they fill their share of the block or no more find a place."""
    axis = None if direction is None else np.array(direction, float) / np.linalg.norm(direction)
    room = float(np.prod(np.array(grid.size) * VOXEL + 80.0)) * SHARE
    found: list[tuple[Vector, Vector]] = []
    for _ in range(600):
        path, radii = body(rng, grid, axis)
        if all(apart(path, radii, *other) for other in found):
            found.append((path, radii))
            room -= np.pi * float(np.square(radii).mean()) * 18.0 * len(path)
        if room <= 0:
            break
    return found


def apart(path: Vector, radii: Vector, other: Vector, other_radii: Vector) -> bool:
    """Whether two tubes leave the gap between them, looked at along their points."""
    distance = np.linalg.norm(path[:, None] - other[None], axis=2)
    return bool((distance - radii[:, None] - other_radii[None] > GAP).all())


def mitochondrion(canvas: Canvas, path: Vector, radii: Vector, rng: np.random.Generator) -> None:
    """Outer and inner membrane with a light gap, a matrix, and cristae: folded sheets across the body."""
    canvas.tube(path, radii, MEMBRANE, 1)
    canvas.tube(path, radii - 8.0, LUMEN - 30.0)
    canvas.tube(path, radii - 11.0, MEMBRANE + 12.0)
    canvas.tube(path, radii - 18.0, MATRIX)
    low, high = path.min(axis=0), path.max(axis=0)
    window = canvas.window((low + high) / 2, float(np.linalg.norm(high - low)) / 2 + float(radii.max()))
    points = canvas.points[(slice(None), *window)]
    if points[0].size == 0:
        return
    inside = tube(points, path, radii) + 22.0
    turn = rotation(on_sphere(rng), rng.uniform(0, 180)).astype(np.float32)
    u, v, w = np.tensordot(turn, points, axes=1) * np.float32(2 * np.pi / rng.uniform(52, 70))
    sheets = np.abs(np.sin(u + 0.9 * np.sin(v) + 0.7 * np.sin(w + 1.3))) * 9.0 - 3.0
    canvas.paint(np.maximum(sheets, inside), MEMBRANE + 8.0, None, window)


def vesicles(canvas: Canvas, rng: np.random.Generator) -> None:
    """Small round vesicles with a membrane, a few of them dark inside, and ribosome-like specks."""
    half = np.array(canvas.grid.size) * VOXEL / 2
    volume = float(np.prod(2 * half)) / 480.0**3
    for _ in range(int(70 * volume)):
        centre, radius = rng.uniform(-half, half), rng.uniform(13.0, 26.0)
        canvas.ellipsoid(centre, (radius,) * 3, MEMBRANE + 12.0, 0)
        canvas.ellipsoid(centre, (radius - 7.0,) * 3, 105.0 if rng.uniform() < 0.2 else LUMEN + 10.0)
    for _ in range(int(900 * volume)):
        canvas.ellipsoid(rng.uniform(-half, half), (rng.uniform(4.0, 7.0),) * 3, MEMBRANE + 25.0)


def reticulum(canvas: Canvas, rng: np.random.Generator) -> None:
    """Sheets of endoplasmic reticulum: level sets of a smooth random field, where a second field lets them be."""
    field = noise_field(rng, canvas.grid, 60.0)
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(field, VOXEL)))
    distance = np.abs(field) / np.maximum(slope, 2e-3)  # nm to the sheet, first order
    present = noise_field(rng, canvas.grid, 50.0) * 30.0 - 12.0
    canvas.paint(np.maximum(np.abs(distance - 11.0) - 4.0, -present).astype(np.float32), MEMBRANE + 22.0)
    canvas.paint(np.maximum(distance - 7.5, -present).astype(np.float32), LUMEN)


def detected(values: Array, rng: np.random.Generator) -> Array:
    """A slight blur and the electron detector's grain, alike in all directions."""
    grain = 0.75 * rng.standard_normal(values.shape, dtype=np.float32)
    fine = blurred(rng.standard_normal(values.shape, dtype=np.float32), (0.7,) * 3)
    return blurred(values, (0.55,) * 3) + 9.0 * grain + 7.0 * fine / fine.std()
