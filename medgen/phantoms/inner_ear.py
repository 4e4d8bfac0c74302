"""A CT (HU) of a temporal bone with its labyrinth: cochlea, vestibule and semicircular canals; the cochlea segmented,
and three landmarks where the drawn anatomy has them.

A drawing, not a simulation of a patient: shapes and sizes are round numbers from anatomy atlases, of a left ear, and
vary from seed to seed in size, shape (a smooth warp), density and air cells. The whole head is posed at random in the
block. Warp and pose are analytic, so that the landmarks are carried through both exactly. The labyrinth has no axis and
no plane of symmetry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.phantoms.canvas import Array, Canvas, Grid, Segment, ct_scanned, rotation, segmentation

NAME = "inner-ear"
SENTENCE = "A CT of a temporal bone (HU) in any pose, with the cochlea segmented and three landmarks."
ROLES = {"image": "Image", "mask": "Mask", "landmarks": "Points"}
SEGMENTS = (Segment(1, "cochlea", (0.867, 0.620, 0.400), ("80169004", "Cochlea")),)
POOLS = {"reference": ("train", ("image", "mask", "landmarks")), "validation": ("validation", ("image", "mask"))}

LANDMARKS = ("cochlea top", "cochlea centre", "round window")
TURNS = 2.5
FLUID, CAPSULE, BONE, BRAIN, LIQUOR, SOFT, BLOOD, AIR = 25.0, 1950.0, 1250.0, 35.0, 8.0, 45.0, 55.0, -980.0
LOWEST, HIGHEST = -1024, 3071
Vector = NDArray[np.float64]


@dataclass
class Waves:
    """A smooth random field of `components` in space: a sum of plane waves, known everywhere and not on a grid only."""

    vectors: Vector  # (waves, 3), radians per mm
    phases: Vector  # (waves,)
    weights: Vector  # (waves, components)

    @classmethod
    def drawn(cls, rng: np.random.Generator, shortest: float, components: int, count: int = 10) -> Waves:
        """Wavelengths from `shortest` (mm) to twice that, in all directions; mean 0, deviation 1 in each component."""
        vectors = rng.standard_normal((count, 3))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors *= 2 * np.pi / rng.uniform(shortest, 2 * shortest, (count, 1))
        weights = rng.standard_normal((count, components))
        weights /= np.sqrt(np.square(weights).sum(axis=0) / 2)
        return cls(vectors, rng.uniform(0, 2 * np.pi, count), weights)

    def at(self, points: NDArray[Any]) -> NDArray[Any]:
        """The field (components, …) at points (3, …), mm, in their precision."""
        field = np.zeros((self.weights.shape[1], *points.shape[1:]), points.dtype)
        for vector, phase, weight in zip(self.vectors, self.phases, self.weights, strict=True):
            wave = np.sin(np.tensordot(vector.astype(points.dtype), points, axes=1) + points.dtype.type(phase))
            for component, share in enumerate(weight):
                field[component] += points.dtype.type(share) * wave
        return field


@dataclass
class Placing:
    """Where a patient lies: undeformed = scale (rigid + elastic waves(rigid)), rigid = turn^T (world - shift)."""

    turn: Vector
    shift: Vector
    scale: Vector
    waves: Waves
    elastic: float

    def undeformed(self, rigid: NDArray[Any]) -> NDArray[Any]:
        """Points (3, …) of the posed body, its pose taken away, to where the anatomy is drawn."""
        moved = rigid + rigid.dtype.type(self.elastic) * self.waves.at(rigid)
        return moved * self.scale.astype(rigid.dtype).reshape(3, *[1] * (rigid.ndim - 1))

    def world(self, drawn: Vector) -> Vector:
        """Points (n, 3) of the drawn anatomy to LPS mm: the warp is inverted by fixed-point iteration to 1e-10 mm."""
        wanted = (drawn / self.scale).T
        rigid = wanted.copy()
        for _ in range(200):
            step = wanted - self.elastic * self.waves.at(rigid) - rigid
            rigid += step
            if np.abs(step).max() < 1e-10:
                return (self.turn @ rigid).T + self.shift
        raise ValueError("the elastic warp folds; take less of it")


def make(
    seed: int,
    size: tuple[int, int, int] = (112, 112, 112),
    spacing: float = 0.4,
    turn: float = 25.0,
    shift: float = 5.0,
    elastic: float = 0.5,
    noise: float = 1.0,
) -> dict[str, Any]:
    """One ear: "image" (int16, HU), "mask" (uint8, 1 = the cochlea's fluid), "landmarks" (content of a .mrk.json, LPS).

    size: voxels along x, y, z; spacing: mm. turn: the head's largest rotation (degrees) about a random axis, shift: its
    largest shift along each axis (mm). elastic: standard deviation of the smooth warp (mm). noise: its strength. The
    same seed is the same patient whatever the grid and the pose. Raises ValueError for fewer than 16 voxels along an
    axis, or an elastic warp that folds.
    """
    if min(size) < 16:
        raise ValueError("an inner ear needs 16 voxels or more along each axis")
    shapes, poses, textures, scanner = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
    posed: Vector = rotation(poses.standard_normal(3), turn * poses.uniform(-1, 1))
    moved = shift * poses.uniform(-1, 1, 3)
    scale = 1 / np.clip(shapes.normal(1.0, 0.04, 3), 0.9, 1.1)
    placing = Placing(posed, moved, scale, Waves.drawn(shapes, 22.0, 3), elastic)
    grid = Grid(size, (spacing,) * 3, np.eye(3))
    # The same voxels seen from the body: what is painted there needs to look at its own surroundings only.
    own = Grid(size, (spacing,) * 3, posed.T, tuple(posed.T @ -moved))
    canvas = Canvas(own, placing.undeformed(own.points()), BONE)
    grain = Waves.drawn(textures, 2.2, 1, 12).at(canvas.points)[0]
    landmarks = draw(canvas, grain, shapes)
    values = ct_scanned(canvas.values, 4.5 * noise, scanner)
    image = grid.image(np.clip(np.rint(values), LOWEST, HIGHEST).astype(np.int16))
    points = placing.world(np.array([landmarks[name] for name in LANDMARKS]))
    return {"image": image, "mask": segmentation(grid, canvas.labels, SEGMENTS), "landmarks": fiducials(points)}


def fiducials(points: Vector) -> dict[str, Any]:
    """The landmarks (n, 3), LPS mm, as Slicer's markups file has them."""
    controls = [
        {"id": str(number + 1), "label": name, "position": point.tolist(), "positionStatus": "defined"}
        for number, (name, point) in enumerate(zip(LANDMARKS, points, strict=True))
    ]
    form = {"type": "Fiducial", "name": "landmarks", "coordinateSystem": "LPS", "coordinateUnits": "mm"}
    return {"markups": [{**form, "controlPoints": controls}]}


# --- anatomy: mm, LPS about the vestibule of a left ear (x to the side, y to the back, z up)


def draw(canvas: Canvas, grain: Array, rng: np.random.Generator) -> dict[str, Vector]:
    """Paint the temporal bone and its surroundings, then the labyrinth; where the landmarks lie."""
    petrous(canvas, grain, rng)
    cells(canvas, rng)
    middle_ear(canvas, rng)
    return labyrinth(canvas, rng)


def petrous(canvas: Canvas, grain: Array, rng: np.random.Generator) -> None:
    """Marrow in the bone, the brain above and behind it, vessels and nerves through it, soft tissue below."""
    x, y, z = canvas.points
    surface = np.minimum(9.5 + 1.2 * np.sin(x / 5.0) - z, 12.0 + 0.6 * x - 0.8 * y + 0.8 * np.sin(z / 4.0)) * 0.85
    below = z + 15.0 + 1.5 * np.sin(x / 6.0 + y / 9.0)
    bone = -np.minimum(surface, below)  # negative inside
    canvas.values += 70.0 * grain
    marrow = np.maximum(bone + 2.2, 3.0 + 2.0 * grain - np.abs(x + 12.0) * 0.4)
    canvas.paint(marrow.astype(np.float32), 420.0 + 110.0 * grain)
    canvas.paint(below.astype(np.float32), SOFT + 6.0 * grain)
    canvas.paint(np.maximum(below + 1.5, 0.9 - np.abs(grain)).astype(np.float32), -90.0)
    canvas.paint(surface.astype(np.float32), LIQUOR)
    canvas.paint(surface.astype(np.float32) + 2.0, BRAIN)
    wobble = rng.normal(0.0, 0.8, (2, 3))
    carotid = np.array([(3, -11, -40), (3, -11, -11), (0, -13, -8), (-12, -20, -6), (-24, -26, -5)], float) + wobble[0]
    canvas.tube(carotid, 3.4, BONE + 150.0)
    canvas.tube(carotid, 2.7, BLOOD)
    jugular = np.array([(2, 9, -40), (2, 8, -14), (4, 9, -9.5)], float) + wobble[1]
    canvas.tube(jugular, [3.6, 4.2, 2.6], BLOOD)
    canal = np.array([(-26, 6, 3), (-14, 1, 1.5), (-3.6, -2.6, 0.8)], float)
    canvas.tube(canal, [4.0, 2.6, 1.9], LIQUOR)
    canvas.tube(canal, [1.0, 0.9, 0.9], BRAIN)


def cells(canvas: Canvas, rng: np.random.Generator) -> None:
    """Air cells of the mastoid, many or few, and some at the apex of the pyramid."""
    for _ in range(int(rng.integers(90, 220))):
        at = np.array([rng.uniform(6, 34), rng.normal(17, 6.0), rng.normal(-4, 7.0)])
        radii = rng.uniform(0.6, 2.3, 3)
        clear = np.linalg.norm((at - (2.5, 3.0, 1.5)) / (1.0, 1.0, 1.2)) - radii.max() > 6.5
        if clear and at[2] + radii.max() < 8.0 and 12.0 + 0.6 * at[0] - 0.8 * at[1] > 2.5:
            canvas.ellipsoid(at, radii, AIR, axes=rotation(rng.standard_normal(3), rng.uniform(0, 180)))
    for _ in range(int(rng.integers(0, 14))):
        canvas.ellipsoid(np.array([-15, -10, 1]) + rng.normal(0, 2.2, 3), rng.uniform(0.6, 1.6, 3), AIR)


def middle_ear(canvas: Canvas, rng: np.random.Generator) -> None:
    """Tympanic cavity with attic and tube, ossicles, ear drum and ear canal."""
    wide = rng.uniform(0.9, 1.15)
    canvas.ellipsoid((7.2, -3.0, -2.4), (2.3 * wide, 4.0, 4.6), AIR)
    canvas.ellipsoid((7.6, 1.2, 4.8), (2.4, 3.6 * wide, 2.4), AIR)
    canvas.tube(np.array([(7.0, -5.0, -4.0), (2.0, -17.0, -9.0), (-8.0, -28.0, -14.0)]), [1.9, 1.0, 1.3], AIR)
    canvas.tube(np.array([(7.6, 2.6, 5.0), (11.0, 9.0, 3.6), (13.5, 13.0, 1.5)]), [2.0, 2.2, 3.8], AIR)
    canvas.tube(np.array([(9.5, -3.2, -3.0), (17.0, -2.0, -3.6), (40.0, -1.0, -1.5)]), [3.7, 3.3, 4.0], AIR)
    drum = np.array([9.6, -3.2, -3.0])
    canvas.ellipsoid(drum, (0.35, 4.0, 4.0), SOFT, axes=rotation((0, 1, 0), 25.0))
    canvas.tube(np.array([drum, (8.0, -1.6, 2.2), (7.8, -1.0, 4.6)]), [0.5, 0.7, 1.25], 1500.0)  # malleus
    canvas.tube(np.array([(7.9, 0.6, 4.8), (7.4, 1.2, 2.6), (6.6, 0.4, -0.4)]), [1.3, 0.7, 0.45], 1450.0)  # incus
    canvas.tube(np.array([(6.6, 0.4, -0.4), (3.2, -0.4, 0.0)]), 0.45, 1200.0)  # stapes
    facial = np.array([(-3.0, -3.5, 1.6), (0.4, -5.6, 3.4), (4.6, 1.6, 3.0), (6.0, 4.6, 0.4), (7.5, 6.0, -16.0)])
    canvas.tube(facial, 1.0, BONE + 250.0)
    canvas.tube(facial, 0.6, SOFT)


def spiral(rng: np.random.Generator) -> tuple[Vector, Vector, Vector, Vector, float]:
    """The cochlea's centreline (n, 3) and radii (n,), from the round window to the apex; its base, axis and height."""
    axis = np.array([0.62, -0.74, -0.26]) / np.linalg.norm([0.62, -0.74, -0.26])
    base = np.array([0.6, -5.4, -1.6])
    first = np.array([0.0, 3.6, 0.9]) - axis * (axis @ np.array([0.0, 3.6, 0.9]))
    first /= np.linalg.norm(first)
    second = np.cross(axis, first)
    angle = np.linspace(0.0, 2 * np.pi * TURNS * rng.uniform(0.96, 1.04), 56)
    share = angle / angle[-1]
    height = rng.uniform(3.5, 4.1)
    radius = rng.uniform(3.5, 3.9) * np.exp(-1.6 * share)
    ring = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * second
    path = base + radius[:, None] * ring + (height * share**0.9)[:, None] * axis
    return path, 1.08 - 0.52 * share, base, axis, height


def arcs() -> list[tuple[Vector, Vector]]:
    """The three semicircular canals: centrelines that begin and end in the vestibule, and where each ampulla lies."""
    found = []
    for centre, outwards, across, begin, stop, radius in (
        ((2.9, 2.6, 0.9), (0.75, 0.60, -0.10), (0.62, -0.75, 0.20), -2.5, 2.4, 2.7),  # lateral
        ((-0.6, 0.2, 4.0), (0.05, -0.10, 1.00), (0.72, -0.70, 0.0), -2.5, 2.5, 3.0),  # superior
        ((-0.8, 4.4, 0.6), (0.25, 0.95, -0.05), (0.10, -0.05, 1.0), -2.4, 2.5, 3.1),  # posterior
    ):
        u = np.array(outwards) / np.linalg.norm(outwards)
        v = np.array(across) - u * (u @ np.array(across))
        v /= np.linalg.norm(v)
        angle = np.linspace(begin, stop, 22)[:, None]
        path = np.array(centre) + radius * (np.cos(angle) * u + np.sin(angle) * v)
        found.append((path, path[-2]))
    return found


def labyrinth(canvas: Canvas, rng: np.random.Generator) -> dict[str, Vector]:
    """The dense capsule, then the fluid in it; the landmarks."""
    path, radii, base, axis, height = spiral(rng)
    canals = arcs()
    width = rng.uniform(0.52, 0.64)
    canvas.ellipsoid(base + 0.45 * height * axis, (5.6, 5.6, 4.4), CAPSULE, axes=_frame(axis))
    canvas.ellipsoid((0, 0, 0), (3.2, 4.4, 4.2), CAPSULE)
    for canal, _ in canals:
        canvas.tube(canal[::3], 1.7, CAPSULE)
    canvas.ellipsoid((0, 0.2, 0.2), (1.5, 2.7, 2.2), FLUID)
    for canal, ampulla in canals:
        canvas.tube(canal, width, FLUID)
        canvas.ellipsoid(ampulla, (1.05, 1.05, 1.05), FLUID)
    canvas.tube(np.stack([base - 0.6 * axis, base + 0.7 * height * axis]), [1.0, 0.45], 420.0)  # modiolus
    tangent = (path[1] - path[0]) / np.linalg.norm(path[1] - path[0])
    window = path[0] - radii[0] * tangent
    canvas.ellipsoid(window - 1.0 * tangent + (0.5, 0, 0), (1.2, 1.2, 1.2), AIR)  # the round window's niche
    canvas.tube(path, radii, FLUID, 1)
    canvas.tube(path[6:], radii[6:] * 0.16, 260.0)  # the spiral lamina, as much of it as CT shows
    top = path[-1] + radii[-1] * axis
    return dict(zip(LANDMARKS, (top, base + 0.5 * height * axis, window), strict=True))


def _frame(axis: Vector) -> Vector:
    """Three axes as columns, the last one given."""
    first = np.cross(axis, (0.0, 0.0, 1.0))
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(axis, first), axis], axis=1)
