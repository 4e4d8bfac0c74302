"""Sparse annotations: which slices of a mask somebody drew on, and interpolation of contours between them.

Everything is in grid mm (`medgen.geometry`): a position is a voxel index times the spacing. An annotated plane knows
its origin and normal; a voxel belongs to it when its centre lies within half a voxel of the plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medgen.geometry import PlaneFrame, WorkingGrid, plane_frame, random_directions

UNANNOTATED = -1
_TOLERANCE = 1e-5  # mm or cosines: what rounding errors may add up to
_SLAB_POINTS = 1_000_000


@dataclass(frozen=True)
class AnnotatedPlane:
    """A plane somebody has annotated whole: origin and unit normal, grid mm; empty there means background."""

    origin: tuple[float, float, float]
    normal: tuple[float, float, float]

    @property
    def frame(self) -> PlaneFrame:
        """With its in-plane axes."""
        return plane_frame(np.asarray(self.origin), np.asarray(self.normal))

    @classmethod
    def slice_of(cls, axis: int, index: int, spacing: NDArray[np.float64]) -> AnnotatedPlane:
        """The slice with that index along a voxel axis."""
        origin, normal = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
        origin[axis], normal[axis] = float(index * spacing[axis]), 1.0
        return cls((origin[0], origin[1], origin[2]), (normal[0], normal[1], normal[2]))

    def half_thickness(self, spacing: NDArray[np.float64]) -> float:
        """Half the voxel size across the plane, mm: along an axis half its spacing, obliquely their weighted mean."""
        return 0.5 * float((np.square(self.normal) * spacing).sum())


# --- which slices are annotated


def infer_annotated_slices(labels: NDArray[np.integer]) -> list[tuple[int, int]]:
    """(axis, index) of the slices of (i, j, k) labels that hold a drawing; empty when nothing is drawn.

    A structure drawn on a few slices meets few slices along the axis it was drawn on, far apart, and unbroken runs
    of slices along the others: the axis with the shortest runs is taken, then the one with fewest slices. When no
    axis has short runs, slices of several axes are tried: the largest drawing not yet explained, again and again,
    until every drawn voxel lies on a slice; that is believed when it takes at most half as many slices as one axis
    would. Slices drawn empty cannot be told from slices not drawn on.
    """
    drawn = np.asarray(labels) > 0
    if not drawn.any():
        return []
    occupied = [
        np.flatnonzero(drawn.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)
    ]
    runs = [1 + int((np.diff(slices) > 1).sum()) for slices in occupied]
    lengths = [len(slices) / count for slices, count in zip(occupied, runs, strict=True)]
    axis = min(range(3), key=lambda a: (lengths[a], len(occupied[a]), -a))
    if lengths[axis] > 2:
        mixed = _mixed_slices(drawn, limit=min(len(slices) for slices in occupied) // 2)
        if mixed is not None:
            return sorted(mixed)
    return [(axis, int(index)) for index in occupied[axis]]


def looks_sparse(labels: NDArray[np.integer]) -> bool:
    """Whether (i, j, k) labels look drawn on some slices, rather than whole: the slices that `infer_annotated_slices`
    finds along an axis are few, with undrawn ones between them, or one alone, or of several axes."""
    slices = infer_annotated_slices(labels)
    if not slices:
        return False
    if len({axis for axis, _ in slices}) > 1 or len(slices) == 1:
        return True
    indices = [index for _, index in slices]
    return len(indices) <= 0.6 * (indices[-1] - indices[0] + 1)


def _mixed_slices(drawn: NDArray[np.bool_], limit: int) -> list[tuple[int, int]] | None:
    """Slices of any axes that cover every drawn voxel, found greedily; None when more than `limit` are needed."""
    left = drawn.copy()
    chosen: list[tuple[int, int]] = []
    while left.any():
        if len(chosen) >= limit:
            return None
        areas = [left.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
        axis = int(np.argmax([area.max() for area in areas]))
        index = int(np.argmax(areas[axis]))
        chosen.append((axis, index))
        left[(slice(None),) * axis + (index,)] = False
    return chosen


def random_planes(
    shape: tuple[int, ...], spacing: NDArray[np.float64], count: int, generator: np.random.Generator
) -> list[AnnotatedPlane]:
    """Planes of random direction, each through a random place of a volume."""
    planes = []
    for normal in random_directions(count, generator):
        frame = plane_frame(generator.uniform(size=3) * (np.asarray(shape) - 1) * spacing, normal)
        origin, unit = np.round(frame.origin, 6).tolist(), np.round(frame.normal, 6).tolist()
        planes.append(AnnotatedPlane((origin[0], origin[1], origin[2]), (unit[0], unit[1], unit[2])))
    return planes


# --- annotations on a working grid


def annotate(
    labels: Tensor, planes: list[AnnotatedPlane], grid: WorkingGrid
) -> tuple[Tensor, Tensor, list[NDArray[np.int64]]]:
    """Sparse labels on a working grid, from a mask (i, j, k) on the grid's source and the planes annotated in it.

    Returns labels (*grid.shape) int16 with `UNANNOTATED` off the planes; the plane of each annotated voxel (int16,
    -1 elsewhere; where planes cross, the nearest); and for each plane its labels on the pixel grid of `plane_pixels`.
    """
    volume = labels.cpu().numpy()
    spacing = np.asarray(grid.source_spacing)
    sparse = np.full(grid.shape, UNANNOTATED, dtype=np.int16)
    owner = np.full(grid.shape, -1, dtype=np.int16)
    nearest = np.full(grid.shape, np.inf, dtype=np.float32)
    axes = _axes(grid)
    drawings = []
    for number, plane in enumerate(planes):
        frame = plane.frame
        drawing = _drawing(volume, plane, spacing, grid)
        drawings.append(drawing)
        distance = np.abs(_distance(frame, axes))
        inside = (distance <= 0.5 * grid.spacing + _TOLERANCE) & (distance < nearest)
        where = np.nonzero(inside)
        points = np.stack([axes[axis][where[axis]] for axis in range(3)], axis=-1)
        rows, columns = _pixel_index(frame, points, grid, drawing.shape)
        sparse[where] = drawing[rows, columns]
        owner[where] = number
        nearest[where] = distance[where]
    return torch.from_numpy(sparse), torch.from_numpy(owner), drawings


def _axes(grid: WorkingGrid) -> list[NDArray[np.float64]]:
    return [grid.offset[axis] + np.arange(grid.shape[axis]) * grid.spacing for axis in range(3)]


def _distance(frame: PlaneFrame, axes: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(i, j, k) signed distances of a grid's voxels from a plane, mm."""
    i, j, k = ((axes[axis] - frame.origin[axis]) * frame.normal[axis] for axis in range(3))
    return i[:, None, None] + j[None, :, None] + k[None, None, :]


def plane_extent(frame: PlaneFrame, grid: WorkingGrid) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """In-plane coordinates (2,) mm of the first pixel, and the (rows, columns) of `grid.spacing` pixels, of a pixel
    grid that holds the projection of the whole volume; it coincides with the voxels where the plane is a slice."""
    axes = _axes(grid)
    corners = np.stack(np.meshgrid(*[axis[[0, -1]] for axis in axes], indexing="ij"), axis=-1).reshape(-1, 3)
    coordinates = frame.coordinates(corners)
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    counts = np.ceil((high - low) / grid.spacing - _TOLERANCE).astype(int) + 1
    return low, (int(counts[0]), int(counts[1]))


def _pixel_index(
    frame: PlaneFrame, points: NDArray[np.float64], grid: WorkingGrid, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    low, _ = plane_extent(frame, grid)
    index = np.floor((frame.coordinates(points) - low) / grid.spacing + 0.5 + _TOLERANCE).astype(np.int64)
    return np.clip(index[..., 0], 0, shape[0] - 1), np.clip(index[..., 1], 0, shape[1] - 1)


def _drawing(
    volume: NDArray[np.integer], plane: AnnotatedPlane, spacing: NDArray[np.float64], grid: WorkingGrid
) -> NDArray[np.int64]:
    """(rows, columns) labels of a plane: of the voxels it was drawn into, holes filled from the nearest of them.

    A pixel whose nearest voxel does not belong to the plane (its centre is too far away) says nothing.
    """
    frame = plane.frame
    low, (rows, columns) = plane_extent(frame, grid)
    u = low[0] + np.arange(rows) * grid.spacing
    v = low[1] + np.arange(columns) * grid.spacing
    points = frame.origin + u[:, None, None] * frame.u + v[None, :, None] * frame.v
    index = np.floor(points / spacing + 0.5 + _TOLERANCE).astype(np.int64)
    inside = ((index >= 0) & (index < volume.shape)).all(axis=-1)
    clipped = np.clip(index, 0, np.asarray(volume.shape) - 1)
    drawn = volume[clipped[..., 0], clipped[..., 1], clipped[..., 2]].astype(np.int64)
    on_plane = np.abs(frame.distance(clipped * spacing)) <= plane.half_thickness(spacing) + _TOLERANCE
    known = inside & on_plane
    if not known.any():
        return np.zeros((rows, columns), dtype=np.int64)
    if known.all():
        return drawn
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return drawn[nearest[0], nearest[1]]


def annotated_voxels(
    shape: tuple[int, ...], spacing: NDArray[np.float64], planes: list[AnnotatedPlane]
) -> NDArray[np.bool_]:
    """(i, j, k) whether each voxel of a volume belongs to one of the planes."""
    axes = [np.arange(shape[axis]) * spacing[axis] for axis in range(3)]
    result = np.zeros(shape, dtype=bool)
    for plane in planes:
        result |= np.abs(_distance(plane.frame, axes)) <= plane.half_thickness(spacing) + _TOLERANCE
    return result


# --- interpolation


def common_direction(planes: list[AnnotatedPlane]) -> NDArray[np.float64]:
    """(3,) the unit vector closest to all normals, whichever way they point; largest component positive."""
    normals = np.asarray([plane.normal for plane in planes]).reshape(-1, 3)
    direction = np.linalg.eigh(normals.T @ normals)[1][:, -1]
    return plane_frame(np.zeros(3), direction).normal


def mean_gap(planes: list[AnnotatedPlane], voxel: float) -> float:
    """Mean distance in mm between neighbouring planes along their common direction, at least 5 voxels; 10 voxels when
    some plane is tilted by more than 60 degrees from it, or when there is one plane."""
    direction = common_direction(planes)
    if len(planes) < 2 or any(abs(np.dot(plane.normal, direction)) < 0.5 for plane in planes):
        return 10 * voxel
    positions = np.sort([float(np.dot(plane.origin, direction)) for plane in planes])
    return max(5 * voxel, float(np.diff(positions).mean()))


def signed_distance(inside: NDArray[np.bool_], pixel: float) -> NDArray[np.float32]:
    """Signed distance in mm to the edge of a 2D shape, positive inside; minus infinity where nothing is inside.

    The edge runs half a pixel from the outermost pixel centres.
    """
    if not inside.any():
        return np.full(inside.shape, -np.inf, dtype=np.float32)
    if inside.all():
        return np.full(inside.shape, float(max(inside.shape)) * pixel, dtype=np.float32)
    within = ndimage.distance_transform_edt(inside)
    without = ndimage.distance_transform_edt(~inside)
    return (np.where(inside, within - 0.5, 0.5 - without) * pixel).astype(np.float32)


class ContourInterpolation:
    """Signed distances on annotated planes, carried into the volume between them.

    At each voxel the distances of its two neighbours, the nearest plane on either side, are interpolated linearly by
    the distances from them: shape-based interpolation (Raya and Udupa 1990) where planes are parallel. Beyond the
    first and last plane the distance falls by 1 mm a mm; but where the volume itself ends within `reach` mm of them,
    the structure may well go on to its edge: what is inside then fades to 0 over `reach`, and falls by 1 mm a mm from
    there on. A structure absent from a plane has there minus its largest radius elsewhere.

    Args:
        drawings: labels (rows, columns) of each plane, from `annotate`.
        structures: the label values to interpolate.
        reach: how near the volume's edge must be for a structure to be taken as cut off by it, mm.
    """

    def __init__(
        self,
        planes: list[AnnotatedPlane],
        drawings: list[NDArray[np.int64]],
        structures: list[int],
        grid: WorkingGrid,
        reach: float = 0.0,
    ) -> None:
        self.grid = grid
        self.reach = reach
        self.structures = structures
        self.frames = [plane.frame for plane in planes]
        self.direction = common_direction(planes)
        self.sides = torch.tensor([1.0 if frame.normal @ self.direction >= 0 else -1.0 for frame in self.frames])
        self.positions = np.asarray([frame.origin @ self.direction for frame in self.frames])
        self.lows = [plane_extent(frame, grid)[0] for frame in self.frames]
        self.distances = [self._of_plane(drawing) for drawing in drawings]
        for number in range(len(structures)):
            largest = max((float(d[number].max()) for d in self.distances), default=0.0)
            absent = -largest if np.isfinite(largest) and largest > 0 else -10 * grid.spacing
            for distance in self.distances:
                distance[number][~torch.isfinite(distance[number])] = absent

    def _of_plane(self, drawing: NDArray[np.int64]) -> Tensor:
        maps = [signed_distance(drawing == value, self.grid.spacing) for value in self.structures]
        return torch.from_numpy(np.stack(maps))

    def volumes(self, subsets: list[list[int]]) -> list[Tensor]:
        """For each subset of planes (by number) the (structures, *grid.shape) float32 signed distances in mm."""
        results = [torch.empty((len(self.structures), *self.grid.shape)) for _ in subsets]
        axes = [torch.from_numpy(axis.astype(np.float32)) for axis in _axes(self.grid)]
        shape = self.grid.shape
        slab = max(1, _SLAB_POINTS // (shape[1] * shape[2]))
        for start in range(0, shape[0], slab):
            part = axes[0][start : start + slab]
            points = torch.stack(torch.meshgrid(part, axes[1], axes[2], indexing="ij"), dim=-1)
            values, offsets = self._projections(points.reshape(-1, 3))
            for result, subset in zip(results, subsets, strict=True):
                blended = self._blend(values[subset], offsets[subset], subset)
                result[:, start : start + slab] = blended.reshape(len(self.structures), len(part), *shape[1:])
        return results

    def _projections(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Each plane's distances at the projections of (N, 3) points: (planes, structures, N), and the points'
        signed distances from the planes (planes, N)."""
        values, offsets = [], []
        for frame, low, maps in zip(self.frames, self.lows, self.distances, strict=True):
            relative = points - torch.from_numpy(frame.origin.astype(np.float32))
            axes = torch.from_numpy(np.stack((frame.u, frame.v, frame.normal), axis=1).astype(np.float32))
            local = relative @ axes
            size = torch.tensor(maps.shape[1:], dtype=torch.float32)
            index = (local[:, :2] - torch.from_numpy(low.astype(np.float32))) / self.grid.spacing
            scaled = (2 * index / (size - 1).clamp(min=1) - 1).flip(-1).reshape(1, 1, -1, 2)
            sampled = torch.nn.functional.grid_sample(
                maps[None], scaled, mode="bilinear", padding_mode="border", align_corners=True
            )
            values.append(sampled[0, :, 0])
            offsets.append(local[:, 2])
        return torch.stack(values), torch.stack(offsets)

    def _blend(self, values: Tensor, offsets: Tensor, subset: list[int]) -> Tensor:
        """(structures, N) from the (planes, structures, N) values and (planes, N) offsets of a subset."""
        offsets = offsets * self.sides[subset][:, None]
        above, upper = torch.where(offsets <= 0, -offsets, torch.inf).min(dim=0)
        below, lower = torch.where(offsets > 0, offsets, torch.inf).min(dim=0)
        points = torch.arange(values.shape[2])
        from_above, from_below = values[upper, :, points].T, values[lower, :, points].T
        share = torch.nan_to_num(below / (below + above).clamp(min=1e-6), nan=1.0)
        result = from_below + share * (from_above - from_below)
        first, last = self._extent()
        positions = self.positions[subset]
        for alone, beyond, room in (
            (torch.isinf(below), above, float(positions.min()) - first),
            (torch.isinf(above), below, last - float(positions.max())),
        ):
            known = torch.where(torch.isinf(below), from_above, from_below)
            result = torch.where(alone, self._beyond(known, beyond, room), result)
        return result

    def _beyond(self, known: Tensor, beyond: Tensor, room: float) -> Tensor:
        """What the outermost plane knows, carried `beyond` mm outwards, with `room` mm to the volume's edge."""
        if room > self.reach:
            return known - beyond
        fade = (1 - beyond / max(self.reach, 1e-6)).clamp(min=0)
        return torch.where(known > 0, known * fade, known) - (beyond - self.reach).clamp(min=0)

    def _extent(self) -> tuple[float, float]:
        """Lowest and highest position of the volume's voxels along the planes' common direction, mm."""
        corners = np.meshgrid(*[axis[[0, -1]] for axis in _axes(self.grid)], indexing="ij")
        along = np.stack(corners, axis=-1).reshape(-1, 3) @ self.direction
        return float(along.min()), float(along.max())


def labels_from_distances(distances: Tensor, structures: list[int]) -> Tensor:
    """(structures, spatial...) signed distances -> int16 labels: the structure deepest inside, 0 where none is."""
    values = torch.tensor([0, *structures], dtype=torch.int16)
    deepest, which = distances.max(dim=0)
    return values[torch.where(deepest > 0, which + 1, 0)]


def interpolate_contours(labels: Tensor, planes: list[AnnotatedPlane], spacing: NDArray[np.float64]) -> Tensor:
    """Labels (i, j, k) drawn on some planes -> labels everywhere, by `ContourInterpolation`; same grid, int16."""
    grid = WorkingGrid.over(tuple(labels.shape), spacing, max_voxels=2**62)
    structures = [int(value) for value in torch.unique(labels) if value > 0]
    _, _, drawings = annotate(labels, planes, grid)
    interpolation = ContourInterpolation(planes, drawings, structures, grid)
    distances = interpolation.volumes([list(range(len(planes)))])[0]
    filled = labels_from_distances(grid.to_source(distances), structures)
    drawn = torch.from_numpy(annotated_voxels(tuple(labels.shape), spacing, planes))
    return torch.where(drawn, labels.to(torch.int16), filled)


def without_islands(result: Tensor, drawn: Tensor, on_planes: NDArray[np.bool_], structures: list[int]) -> Tensor:
    """Labels without the connected pieces (26 neighbours) that hold no voxel drawn as the same structure."""
    for value in structures:
        pieces, _ = ndimage.label((result == value).numpy(), structure=np.ones((3, 3, 3)))
        touched = np.unique(pieces[(drawn == value).numpy() & on_planes])
        result = result.masked_fill((result == value) & ~torch.from_numpy(np.isin(pieces, touched[touched > 0])), 0)
    return result
