"""Voxel grids in physical space: canonical axes, planes, sampling and resampling.

Spatial axes are always the last three of a tensor, in the order (i, j, k) of its affine, which maps a voxel index to
RAS millimetres. Two further coordinate systems are used:

- *index*: the continuous voxel index (0 is the centre of the first voxel);
- *grid mm*: the index times the spacing. Flipping or permuting a volume's axes and bringing it back to canonical
  axes leaves indices and spacings unchanged bit by bit, while the origin of its affine picks up rounding errors;
  what must not depend on the axes of the input (training, prediction) is therefore computed in grid mm.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

_SLAB_POINTS = 2_000_000  # points sampled at a time: bounds the memory of `resample` to some 100 MB


# --- axes


@dataclass(frozen=True)
class AxisOrder:
    """A permutation and flips of the last three axes.

    `permutation[a]` is the input axis that becomes output axis a; `flips[a]` says whether that output axis then runs
    backwards. `forward` and `backward` are exact inverses and move values without arithmetic.
    """

    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def forward(self, data: Tensor) -> Tensor:
        """(..., i, j, k) in the input's axes -> contiguous (..., i', j', k') in the output's."""
        lead = data.ndim - 3
        moved = data.permute(*range(lead), *(lead + axis for axis in self.permutation))
        return moved.flip([lead + axis for axis in range(3) if self.flips[axis]]).contiguous()

    def backward(self, data: Tensor) -> Tensor:
        """(..., i', j', k') in the output's axes -> contiguous (..., i, j, k) in the input's."""
        lead = data.ndim - 3
        unflipped = data.flip([lead + axis for axis in range(3) if self.flips[axis]])
        inverse = np.argsort(self.permutation)
        return unflipped.permute(*range(lead), *(lead + int(axis) for axis in inverse)).contiguous()

    def affine(self, affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """The (4, 4) affine of `forward(data)`, for data of the given spatial shape with the given affine."""
        to_input = np.zeros((4, 4))
        to_input[3, 3] = 1.0
        for axis, source in enumerate(self.permutation):
            to_input[source, axis] = -1.0 if self.flips[axis] else 1.0
            to_input[source, 3] = shape[source] - 1 if self.flips[axis] else 0.0
        return np.asarray(affine, dtype=np.float64) @ to_input


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """(3,) voxel sizes in mm: the lengths of the affine's first three columns."""
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    return np.sqrt((columns**2).sum(axis=0))


def canonical_order(affine: np.ndarray) -> AxisOrder:
    """The flips and permutation that bring a volume's axes closest to right, anterior, superior (RAS).

    Of the 48 possible orders, the one with the largest sum of direction cosines between its axes and R, A, S. Ties
    (volumes at exactly 45 degrees) go to the lexicographically largest direction matrix, so that the choice depends
    on the volume's axes in space and never on the order in which the file lists them.
    """
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    directions = np.round(columns / spacing_of(affine), 6)
    best: tuple[tuple[float, ...], AxisOrder] | None = None
    for permutation in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            ordered = directions[:, permutation] * np.where(flips, -1.0, 1.0) + 0.0  # + 0.0: no minus zero
            rank = (round(float(np.trace(ordered)), 6), *ordered.ravel().tolist())
            if best is None or rank > best[0]:
                order = AxisOrder((permutation[0], permutation[1], permutation[2]), (flips[0], flips[1], flips[2]))
                best = (rank, order)
    assert best is not None
    return best[1]


def to_canonical(data: Tensor, affine: np.ndarray) -> tuple[Tensor, np.ndarray, AxisOrder]:
    """Bring (..., i, j, k) data to the closest canonical (RAS) axes by flips and permutations only.

    Returns the data, its (4, 4) affine and the order, whose `backward` undoes it exactly.
    """
    order = canonical_order(affine)
    shape = (int(data.shape[-3]), int(data.shape[-2]), int(data.shape[-1]))
    return order.forward(data), order.affine(affine, shape), order


# --- planes


@dataclass(frozen=True)
class PlaneFrame:
    """A plane with its in-plane axes: `origin`, unit `u`, `v` and `normal` = u x v, each (3,) in mm."""

    origin: np.ndarray
    u: np.ndarray
    v: np.ndarray
    normal: np.ndarray

    def points(self, shape: tuple[int, int], pixel: float) -> np.ndarray:
        """(rows, columns, 3) positions in mm of a pixel grid centred on the origin; rows run along u."""
        rows = (np.arange(shape[0]) - (shape[0] - 1) / 2) * pixel
        columns = (np.arange(shape[1]) - (shape[1] - 1) / 2) * pixel
        return self.origin + rows[:, None, None] * self.u + columns[None, :, None] * self.v

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance in mm along the normal of (..., 3) points."""
        return (points - self.origin) @ self.normal

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) in-plane coordinates in mm of (..., 3) points projected onto the plane."""
        offset = points - self.origin
        return np.stack((offset @ self.u, offset @ self.v), axis=-1)


def plane_frame(origin: np.ndarray, normal: np.ndarray) -> PlaneFrame:
    """The plane through `origin` (3,) mm with `normal` (3,), and in-plane axes fixed by the normal alone.

    u and v are as close as they can be to the two coordinate axes in which the plane is least steep, so a plane
    across the third axis has u and v along the first and second, exactly. Planes have no front: the normal is
    turned so that its largest component is positive.
    """
    unit = np.asarray(normal, dtype=np.float64) / np.linalg.norm(normal)
    across = int(np.argmax(np.round(np.abs(unit), 9)))
    unit = unit if unit[across] > 0 else -unit
    first = np.zeros(3)
    first[0 if across != 0 else 1] = 1.0
    u = first - (first @ unit) * unit
    u = u / np.linalg.norm(u)
    v = np.cross(unit, u)
    if across == 1:  # (x, z) is a left-handed pair about y: keep v pointing along +z
        v = -v
    return PlaneFrame(np.asarray(origin, dtype=np.float64) + 0.0, u + 0.0, v + 0.0, unit + 0.0)


def plane_in_grid(origin: np.ndarray, normal: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A plane given in RAS mm -> its origin (3,) and unit normal (3,) in grid mm of the volume with that affine.

    Rounded to 1e-6 mm, so that the rounding errors of a flipped volume's affine do not reach what is computed from
    the plane.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    spacing = spacing_of(matrix)
    index = np.linalg.solve(matrix[:3, :3], np.asarray(origin, dtype=np.float64) - matrix[:3, 3])
    covector = matrix[:3, :3].T @ np.asarray(normal, dtype=np.float64) / spacing
    unit = covector / np.linalg.norm(covector)
    return np.round(index * spacing, 6) + 0.0, np.round(unit, 6) + 0.0


def random_directions(count: int, generator: np.random.Generator) -> np.ndarray:
    """(count, 3) unit vectors, uniform on the sphere."""
    vectors = generator.standard_normal((count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rotation_to(normal: np.ndarray) -> np.ndarray:
    """(3, 3) matrix with columns u, v, normal of `plane_frame`, made right-handed by turning v where needed."""
    frame = plane_frame(np.zeros(3), normal)
    v = np.cross(frame.normal, frame.u)
    return np.stack((frame.u, v, frame.normal), axis=1)


# --- sampling


def sample_linear(volume: Tensor, index: Tensor, fill: float | Tensor = 0.0) -> Tensor:
    """Trilinear samples of a (C, i, j, k) float volume at (..., 3) continuous voxel indices -> (C, ...).

    A voxel reaches half its size beyond its centre; what lies outside all voxels is `fill` (a number, or (C,)).
    """
    shape = torch.tensor(volume.shape[1:], dtype=index.dtype, device=index.device)
    scaled = 2.0 * index / (shape - 1).clamp(min=1) - 1.0
    grid = scaled.flip(-1).reshape(1, 1, 1, -1, 3).to(volume.dtype)  # grid_sample wants (k, j, i)
    values = torch.nn.functional.grid_sample(
        volume[None], grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    values = values.reshape(volume.shape[0], *index.shape[:-1])
    outside = ((index < -0.5) | (index > shape - 0.5)).any(dim=-1)
    background = torch.as_tensor(fill, dtype=values.dtype, device=values.device).reshape(-1, *[1] * outside.ndim)
    return torch.where(outside, background, values)


def sample_nearest(volume: Tensor, index: Tensor, fill: float = 0) -> Tensor:
    """Values of (C, i, j, k) at the voxels nearest to (..., 3) continuous indices -> (C, ...), any dtype.

    Halfway between two voxels the higher index wins; outside all voxels the value is `fill`.
    """
    nearest = torch.floor(index + 0.5).long()
    shape = torch.tensor(volume.shape[1:], device=index.device)
    outside = ((nearest < 0) | (nearest >= shape)).any(dim=-1)
    clamped = torch.minimum(nearest.clamp(min=0), shape - 1)
    flat = (clamped[..., 0] * shape[1] + clamped[..., 1]) * shape[2] + clamped[..., 2]
    values = volume.reshape(volume.shape[0], -1)[:, flat.reshape(-1)].reshape(volume.shape[0], *flat.shape)
    return values.masked_fill(outside, fill)


def resample(
    data: Tensor,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    target_affine: np.ndarray,
    mode: Literal["linear", "nearest"] = "linear",
    fill: float = 0.0,
) -> Tensor:
    """(C, i, j, k) data with an affine -> (C, *shape) on the grid of `target_affine`; outside the input is `fill`.

    Linear for images (float), nearest for labels (any dtype). Grids with the same shape and affine are copied.
    """
    if tuple(data.shape[1:]) == tuple(shape) and np.allclose(affine, target_affine, rtol=0, atol=1e-9):
        return data.clone()
    to_source = np.linalg.solve(np.asarray(affine, dtype=np.float64), np.asarray(target_affine, dtype=np.float64))
    to_source = np.where(np.abs(to_source - np.round(to_source)) < 1e-9, np.round(to_source), to_source)
    return resample_index(data, to_source, shape, mode, fill)


def resample_index(
    data: Tensor,
    to_source: np.ndarray,
    shape: tuple[int, int, int],
    mode: Literal["linear", "nearest"] = "linear",
    fill: float = 0.0,
    extend: bool = False,
) -> Tensor:
    """`resample` with the (4, 4) matrix from the target's voxel index to the source's given directly. extend: what lies
    outside the source's voxels is as its border, not `fill`."""
    precision = torch.float64 if mode == "nearest" else torch.float32
    matrix = torch.as_tensor(to_source, dtype=torch.float64, device=data.device)
    axes = [torch.arange(size, dtype=torch.float64, device=data.device) for size in shape]
    plane = (axes[1][:, None, None] * matrix[:3, 1] + axes[2][None, :, None] * matrix[:3, 2]) + matrix[:3, 3]
    ends = torch.tensor(data.shape[1:], dtype=torch.float64, device=data.device) - 1
    result = torch.empty((data.shape[0], *shape), dtype=data.dtype, device=data.device)
    slab = max(1, _SLAB_POINTS // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], slab):
        index = axes[0][start : start + slab, None, None, None] * matrix[:3, 0] + plane
        if extend:
            index = torch.minimum(index.clamp(min=0), ends)
        index = index.to(precision)
        if mode == "linear":
            result[:, start : start + slab] = sample_linear(data, index, fill)
        else:
            result[:, start : start + slab] = sample_nearest(data, index, fill)
    return result


# --- working grids


@dataclass(frozen=True)
class WorkingGrid:
    """An isotropic grid over a volume, sharing its axes and centre; voxels of `spacing` mm.

    Where the volume's own spacing along an axis is `spacing`, the two grids' slices along it coincide exactly.
    """

    shape: tuple[int, int, int]
    spacing: float
    source_shape: tuple[int, int, int]
    source_spacing: tuple[float, float, float]

    @classmethod
    def over(
        cls, shape: tuple[int, ...], spacing: np.ndarray, max_voxels: int, voxel: float | None = None
    ) -> WorkingGrid:
        """Over a volume of that (3,) shape and spacing: at its finest spacing (or `voxel` mm), coarser if that
        would take more than `max_voxels`."""
        sizes = np.asarray(shape, dtype=np.float64)
        extent = sizes * spacing
        finest = float(np.min(spacing)) if voxel is None else float(voxel)
        chosen = max(finest, float((np.prod(extent) / max_voxels) ** (1 / 3)))
        counts = [max(1, round(length / chosen)) for length in extent.tolist()]
        return cls(
            (counts[0], counts[1], counts[2]),
            chosen,
            (int(shape[0]), int(shape[1]), int(shape[2])),
            (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        )

    @property
    def offset(self) -> np.ndarray:
        """(3,) position in the volume's grid mm of this grid's first voxel."""
        ours = (np.asarray(self.shape) - 1) / 2 * self.spacing
        return (np.asarray(self.source_shape) - 1) / 2 * np.asarray(self.source_spacing) - ours

    def affine(self, source: np.ndarray) -> np.ndarray:
        """4x4 voxel index -> RAS mm of this grid, from that of the volume."""
        return np.asarray(source @ self._to_source())

    def points(self) -> np.ndarray:
        """(*shape, 3) positions of the voxels in the volume's grid mm, float32."""
        axes = [self.offset[axis] + np.arange(self.shape[axis]) * self.spacing for axis in range(3)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)

    def _to_source(self) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, :3] = np.diag(self.spacing / np.asarray(self.source_spacing))
        matrix[:3, 3] = self.offset / np.asarray(self.source_spacing)
        return matrix

    def from_source(self, data: Tensor, mode: Literal["linear", "nearest"] = "linear", fill: float = 0.0) -> Tensor:
        """(C, i, j, k) on the volume's grid -> (C, *shape) on this one."""
        if self.shape == self.source_shape and np.allclose(self.source_spacing, self.spacing, rtol=1e-9):
            return data.clone()
        return resample_index(data, self._to_source(), self.shape, mode, fill)

    def to_source(self, data: Tensor, mode: Literal["linear", "nearest"] = "linear") -> Tensor:
        """(C, *shape) on this grid -> (C, i, j, k) on the volume's. This grid may end a fraction of a voxel before the
        volume does: there its border values go on."""
        if self.shape == self.source_shape and np.allclose(self.source_spacing, self.spacing, rtol=1e-9):
            return data.clone()
        return resample_index(data, np.linalg.inv(self._to_source()), self.source_shape, mode, extend=True)
