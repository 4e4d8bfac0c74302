"""How far two results are apart, in numpy and SimpleITK alone: what Slicer's own Python can compute without torch.

The same definitions as `medgen.metrics`, against which tests hold them.
"""

from __future__ import annotations

import math

import numpy as np

_WINDOW = 7  # voxels along each axis of SSIM's window
_SLAB = 24  # planes that SSIM looks at together: its memory does not grow with the volume's first axis


def mae(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Mean absolute difference of two images of one shape over the voxels of `where` (bool), in their unit."""
    return float(np.abs(_difference(one, other, where)).mean())


def psnr(one: np.ndarray, other: np.ndarray, where: np.ndarray, data_range: float) -> float:
    """10 log10(data_range^2 / MSE) in dB over the voxels of `where`; infinite for equal images."""
    error = float(np.square(_difference(one, other, where)).mean())
    return 10 * math.log10(data_range**2 / error) if error else math.inf


def ssim(one: np.ndarray, other: np.ndarray, where: np.ndarray, data_range: float) -> float:
    """Mean structural similarity (Wang et al., 2004) of two volumes: uniform window of 7^3 voxels, K1 = 0.01,
    K2 = 0.03, sample covariance, over the windows that lie inside the volume and in `where`; NaN where there is none.
    """
    if min(one.shape) < _WINDOW:
        return math.nan
    whole = bool(where.all())
    total, count = 0.0, 0
    centres = one.shape[0] - _WINDOW + 1
    for start in range(0, centres, _SLAB):
        part = slice(start, start + min(_SLAB, centres - start) + _WINDOW - 1)
        inside = where[part]
        pair = [np.where(inside, image[part], 0).astype(np.float64) for image in (one, other)]
        found = _ssim_map(pair[0], pair[1], data_range)
        if not whole:
            found = found[np.rint(_box_mean(inside.astype(np.float64)) * _WINDOW**3) == _WINDOW**3]
        total, count = total + float(found.sum()), count + found.size
    return total / count if count else math.nan


def _ssim_map(one: np.ndarray, other: np.ndarray, data_range: float) -> np.ndarray:
    unbiased = _WINDOW**3 / (_WINDOW**3 - 1)
    mean_one, mean_other = _box_mean(one), _box_mean(other)
    variance_one = unbiased * (_box_mean(one * one) - mean_one * mean_one)
    variance_other = unbiased * (_box_mean(other * other) - mean_other * mean_other)
    covariance = unbiased * (_box_mean(one * other) - mean_one * mean_other)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    upper = (2 * mean_one * mean_other + c1) * (2 * covariance + c2)
    lower = (mean_one**2 + mean_other**2 + c1) * (variance_one + variance_other + c2)
    return np.asarray(upper / lower)


def _box_mean(values: np.ndarray) -> np.ndarray:
    """The mean over every window of 7 that lies inside, along each axis as 4 + 2 + 1."""
    for axis in range(values.ndim):
        along = np.moveaxis(values, axis, 0)
        count = along.shape[0] - _WINDOW + 1
        twos = along[:-1] + along[1:]
        windows = twos[:count] + twos[2 : 2 + count]
        windows += twos[4 : 4 + count]
        windows += along[6 : 6 + count]
        values = np.moveaxis(windows, 0, axis)
    return values / _WINDOW**values.ndim


def _difference(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> np.ndarray:
    if not where.any():
        raise ValueError("there is no voxel to measure at")
    return np.subtract(one[where], other[where], dtype=np.float64)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice coefficient of two masks (bool); 1 when both are empty."""
    total = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero(one & other)) / total if total else 1.0


def hausdorff95(one: np.ndarray, other: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """The 95th percentile of the distances from each surface's voxels to the other surface, the larger of the two
    directions, mm; NaN where a mask is empty.

    Args:
        one, other: masks (k, j, i). A surface's voxels are those with one of six neighbours outside.
        spacing: mm along i, j and k.
    """
    import SimpleITK as sitk

    if not one.any() or not other.any():
        return math.nan
    box = box_of(one | other)
    surfaces = [_surface(mask[box]) for mask in (one, other)]
    percentiles = []
    for start, end in (surfaces, surfaces[::-1]):
        image = sitk.GetImageFromArray(end.astype(np.uint8))
        image.SetSpacing([float(size) for size in spacing])
        distance = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
        percentiles.append(np.percentile(np.abs(sitk.GetArrayViewFromImage(distance)[start]), 95))
    return float(max(percentiles))


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask with something in it."""
    found = []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        found.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(found)


def _surface(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for shift in (-1, 1):
            inside &= np.roll(padded, shift, axis)[(slice(1, -1),) * mask.ndim]
    return np.asarray(mask & ~inside)
