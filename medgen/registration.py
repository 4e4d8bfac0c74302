"""Rigid and diffeomorphic registration of volumes over SimpleITK, from coarse to fine.

A registration maps RAS mm of a fixed volume to RAS mm of a moving one, so that points of the fixed volume are carried
over directly and the moving volume is resampled onto the fixed one's grid through the same map. Every pyramid is made
here, by means over bins of voxels: SimpleITK's own shrinks the fixed volume only and smooths the whole moving one at
every level. What is not known of a volume (`Volume.known`) has no say in where it comes to lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medgen.case import Affine
from medgen.patches import Volume

Positions = NDArray[np.float64]

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS mm <-> LPS mm, SimpleITK's frame
_SAMPLES = 20_000  # voxels of the fixed volume that a rigid step looks at
_ROUND = 0.15  # share by which two radii of gyration must differ for their axes to be told apart
_LEAST_SIDE = 12  # voxels: a coarser level has nothing to register


# --- volumes


def to_sitk(volume: Volume) -> sitk.Image:
    """A SimpleITK image (float32) that lies at the same place."""
    return _placed(volume.data.numpy().astype(np.float32, copy=False), volume.affine)


def _placed(array: NDArray[Any], affine: Affine) -> sitk.Image:
    lps = _LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def _known(volume: Volume) -> sitk.Image | None:
    """What is known and has known neighbours: interpolation and gradients reach a voxel farther."""
    if volume.known is None:
        return None
    inner = ndimage.binary_erosion(volume.known.numpy(), np.ones((3, 3, 3)), border_value=1)
    return _placed(inner.astype(np.uint8), volume.affine)


def from_sitk(image: sitk.Image) -> Tensor:
    """A scalar SimpleITK image -> (i, j, k) float32."""
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _usable(size: Sequence[int], levels: Sequence[int]) -> list[int]:
    """The factors that leave enough voxels; 1 if none does."""
    return [factor for factor in levels if min(size) // factor >= _LEAST_SIDE] or [1]


# --- rigid


@dataclass(frozen=True)
class Rigid:
    """A rotation and translation: (4, 4) matrix from the fixed volume's RAS mm to the moving one's, and how alike the
    two are there (normalised correlation in -1..1 over the finest level's samples)."""

    matrix: Affine
    similarity: float


def about(rotation: NDArray[np.float64], centre: Positions, moved: Positions) -> Affine:
    """(4, 4): turn by a (3, 3) rotation about `centre` (3,), which comes to `moved` (3,)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = moved - rotation @ centre
    return matrix


def orientations(reference: NDArray[np.float64], target: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Rotations (3, 3) that lay the reference's axes of inertia on the target's, from their second moments.

    Four, as every axis may point either way. Where two radii of gyration of either differ by less than 15 %, the axes
    of that pair cannot be told apart and rotations by eighths of a turn about the third are added.
    """
    (moments_r, axes_r), (moments_t, axes_t) = np.linalg.eigh(reference), np.linalg.eigh(target)
    axes_r[:, 0] *= np.sign(np.linalg.det(axes_r))
    axes_t[:, 0] *= np.sign(np.linalg.det(axes_t))
    turns = [np.eye(3)]
    for lone, pair in ((2, (0, 1)), (0, (1, 2))):
        radii = np.sqrt(np.maximum(np.stack((moments_r, moments_t))[:, pair], 0))
        if (radii[:, 0] >= (1 - _ROUND) * radii[:, 1]).any():
            axis = np.eye(3)[lone]
            turns += [_rotation(axis * angle) for angle in np.deg2rad((45, 90, 135))]
    signs = [np.diag(signs) for signs in ((1.0, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))]
    return [axes_t @ turn @ sign @ axes_r.T for turn in turns for sign in signs]


def _rotation(vector: Positions) -> NDArray[np.float64]:
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_rotvec(vector).as_matrix())


def _transform(matrix: Affine) -> sitk.AffineTransform:
    lps = _LPS @ matrix @ _LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def _matrix(transform: sitk.Euler3DTransform) -> Affine:
    rotation = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    return _LPS @ about(rotation, centre, centre + np.array(transform.GetTranslation())) @ _LPS


def seen(fixed: Volume, moving: Volume, matrix: Affine) -> NDArray[np.bool_]:
    """(i, j, k) of the fixed volume: what is known there and, through a rigid map, in the moving volume."""
    image = _known(moving) or _placed(np.ones(tuple(moving.data.shape), np.uint8), moving.affine)
    there = sitk.Resample(image, to_sitk(fixed), _transform(matrix), sitk.sitkNearestNeighbor)
    result = sitk.GetArrayFromImage(there).transpose(2, 1, 0) > 0
    return result if fixed.known is None else result & fixed.known.numpy()


def similarity(fixed: Volume, moving: Volume, matrix: Affine) -> float:
    """Normalised correlation in -1..1 over what is known of both; 0 when that is less than a quarter of the fixed."""
    both = seen(fixed, moving, matrix)
    if both.mean() < 0.25 * (1.0 if fixed.known is None else float(fixed.known.float().mean())):
        return 0.0
    moved = resampled(moving, fixed, matrix)
    return correlation(fixed.data.numpy()[both], moved.numpy()[both])


def correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Normalised (Pearson) correlation of two arrays; 0 where one of them is constant."""
    one, other = one.astype(np.float64) - one.mean(), other.astype(np.float64) - other.mean()
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / norm if norm > 1e-12 else 0.0


def correlation_around(
    index: NDArray[np.int_], radius: int, one: NDArray[np.floating], other: NDArray[np.floating]
) -> float:
    """The correlation of two arrays (i, j, k) in the ball of `radius` voxels around an index; what lies beyond their
    edges does not count."""
    low, high = np.maximum(index - radius, 0), np.minimum(index + radius + 1, one.shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    offsets = np.stack(
        np.meshgrid(*[np.arange(a, b) for a, b in zip(low - index, high - index, strict=True)], indexing="ij")
    )
    ball = (offsets**2).sum(axis=0) <= radius**2
    return correlation(one[box][ball], other[box][ball])


def register_rigid(
    fixed: Volume,
    moving: Volume,
    start: Affine,
    levels: Sequence[int] = (4, 2, 1),
    iterations: int = 60,
    seed: int = 0,
) -> Rigid:
    """Multi-resolution rigid registration by gradient descent on normalised correlation, from a start matrix.

    levels: shrink factors, coarse to fine; those that leave fewer than 12 voxels along an axis are skipped. iterations:
    most steps a level; a level that ends less alike than it began (too few steps) is as if it had not been. What is
    unknown of either does not count. Where the two do not overlap, the start comes back with a similarity of 0.
    """
    matrix = np.array(start, dtype=np.float64)
    for factor in _usable(fixed.data.shape, levels):
        one, other = fixed.shrunk(factor), moving.shrunk(factor)
        try:
            sought = _descend(one, other, matrix, iterations, seed)
        except RuntimeError:  # all samples fell outside the moving volume
            return Rigid(np.array(start, dtype=np.float64), 0.0)
        likeness, before = similarity(one, other, sought), similarity(one, other, matrix)
        if likeness >= before:
            matrix = sought
    return Rigid(matrix, max(likeness, before))


def register_from(
    starts: Sequence[Affine], fixed: Volume, moving: Volume, iterations: int = 60, kept: int = 3
) -> Rigid:
    """The most alike of rigid registrations from several starts, two levels each.

    All get half the steps, coarse to fine, and the `kept` most alike of them a run from where they ended. A ranking of
    what has barely moved is chance: a start in a shallow optimum is at its best at once, while the right one, coming
    from farther away, is not.
    """
    tried = [register_rigid(fixed, moving, start, levels=(2, 1), iterations=iterations // 2 + 1) for start in starts]
    tried.sort(key=lambda rigid: rigid.similarity, reverse=True)
    last = [
        register_rigid(fixed, moving, rigid.matrix, levels=(1,), iterations=2 * iterations) for rigid in tried[:kept]
    ]
    return max(last, key=lambda rigid: rigid.similarity)


def _descend(fixed: Volume, moving: Volume, start: Affine, iterations: int, seed: int) -> Affine:
    """One level. The start stays fixed and a small turn and shift before it is sought: no angle is ever near a pole."""
    still = to_sitk(fixed)
    size, voxel = still.GetSize(), fixed.voxel
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    voxels = int(np.prod(size))
    if voxels > _SAMPLES:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(_SAMPLES / voxels, seed + 1)  # 0 would mean the clock
    for known, use in ((_known(fixed), method.SetMetricFixedMask), (_known(moving), method.SetMetricMovingMask)):
        if known is not None:
            use(known)
    method.SetInterpolator(sitk.sitkLinear)
    if moving.known is not None:  # the filter that smooths gradients reaches far beyond an edge
        method.SetMetricUseMovingImageGradientFilter(False)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2 * voxel,
        minStep=0.02 * voxel,
        numberOfIterations=iterations,
        relaxationFactor=0.8,  # half, the default, stops short of the optimum
        gradientMagnitudeTolerance=1e-9,  # a correlation changes little per mm: the default takes that for an optimum
    )
    method.SetOptimizerScalesFromPhysicalShift()
    small = sitk.Euler3DTransform()
    small.SetCenter(still.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size]))
    method.SetInitialTransform(small, inPlace=True)
    method.SetMovingInitialTransform(_transform(start))
    loud = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK speaks to the terminal where volumes do not overlap
    try:
        method.Execute(still, to_sitk(moving))
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(loud)
    return start @ _matrix(small)


# --- diffeomorphic


@dataclass(frozen=True)
class Warp:
    """A rigid map, and a displacement on the fixed volume's grid that is applied before it."""

    rigid: Affine
    displacement: sitk.Image  # LPS mm

    def carry(self, points: Positions) -> Positions:
        """(N, 3) RAS mm of the fixed volume -> RAS mm of the moving one; beyond the grid the displacement is 0."""
        field = sitk.DisplacementFieldTransform(sitk.Image(self.displacement))
        flip = np.diag(_LPS)[:3]
        moved = np.array([field.TransformPoint(point.tolist()) for point in points * flip]).reshape(-1, 3) * flip
        return moved @ self.rigid[:3, :3].T + self.rigid[:3, 3]


def resampled(moving: Volume, fixed: Volume, matrix: Affine) -> Tensor:
    """(i, j, k): the moving volume on the fixed one's grid, through a rigid map; its `fill` beyond it."""
    image = sitk.Resample(to_sitk(moving), to_sitk(fixed), _transform(matrix), sitk.sitkLinear, moving.fill)
    return from_sitk(image)


def no_displacement(fixed: Volume) -> sitk.Image:
    """Zero everywhere on the volume's grid."""
    field = np.zeros((*(int(n) for n in reversed(fixed.data.shape)), 3))
    image = sitk.GetImageFromArray(field, isVector=True)
    image.CopyInformation(to_sitk(fixed))
    return image


def register_demons(
    fixed: Volume,
    moving: Volume,
    levels: Sequence[int] = (4, 2, 1),
    iterations: int = 10,
    smoothing: float = 1.5,
) -> sitk.Image:
    """Diffeomorphic demons (Vercauteren et al., 2007) of two volumes on one grid -> displacement (LPS mm) on it.

    iterations: steps at full resolution; a level shrunk by f gets f times as many. smoothing: standard deviation of the
    Gaussian that regularises the displacement, in voxels of each level. Intensities must already match.
    """
    displacement: sitk.Image | None = None
    for factor in _usable(fixed.data.shape, levels):
        one, other = to_sitk(fixed.shrunk(factor)), to_sitk(moving.shrunk(factor))
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations * factor)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(smoothing)
        start = no_displacement(fixed.shrunk(factor)) if displacement is None else _onto(displacement, one)
        displacement = demons.Execute(one, other, start)
    assert displacement is not None
    return _onto(displacement, to_sitk(fixed))


def _onto(displacement: sitk.Image, grid: sitk.Image) -> sitk.Image:
    """A displacement on another grid; it keeps its border's value in the half voxel beyond its outermost centres."""
    if displacement.GetSize() == grid.GetSize():
        return displacement
    padded = sitk.ZeroFluxNeumannPad(displacement, [1] * 3, [1] * 3)
    return sitk.Resample(padded, grid, sitk.Transform(), sitk.sitkLinear, 0.0, displacement.GetPixelID())


def match_histogram(moving: Volume, fixed: Volume, bins: int = 128, points: int = 12) -> Tensor:
    """(i, j, k): the moving volume with its histogram above the mean matched to the fixed one's."""
    return from_sitk(sitk.HistogramMatching(to_sitk(moving), to_sitk(fixed), bins, points, True))


def apply_displacement(moving: Volume, displacement: sitk.Image) -> Tensor:
    """(i, j, k): the moving volume seen through a displacement on its own grid; its `fill` beyond it."""
    field = sitk.DisplacementFieldTransform(sitk.Image(displacement))
    image = to_sitk(moving)
    return from_sitk(sitk.Resample(image, image, field, sitk.sitkLinear, moving.fill))
