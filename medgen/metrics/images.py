"""How near an image comes to its reference: error, signal to noise, structural similarity."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

_WINDOW = 7  # voxels along each axis of SSIM's window
_SLAB = 32  # planes that SSIM looks at together: its memory does not grow with the volume's first axis

Values = Tensor | ArrayLike


def mae(found: Values, reference: Values, where: Values | None = None) -> float:
    """Mean absolute error of two images of one shape, in their unit; `where` (bool, the same shape) chooses voxels."""
    return float(np.abs(_difference(found, reference, where)).mean())


def psnr(found: Values, reference: Values, data_range: float, where: Values | None = None) -> float:
    """Peak signal-to-noise ratio 10 log10(data_range^2 / MSE) in dB; infinite for equal images."""
    error = float(np.square(_difference(found, reference, where)).mean())
    return 10 * math.log10(data_range**2 / error) if error else math.inf


def ssim(found: Values, reference: Values, data_range: float) -> float:
    """Mean structural similarity (Wang et al., 2004) of two volumes (i, j, k): uniform window of 7^3 voxels, K1 = 0.01,
    K2 = 0.03, sample covariance, mean over the voxels whose window lies inside. What scikit-image gives for the whole.

    Raises ValueError where an axis has fewer than 7 voxels.
    """
    from skimage.metrics import structural_similarity

    one, other = _pair(found, reference)
    if one.ndim != 3 or min(one.shape) < _WINDOW:
        raise ValueError(f"SSIM needs volumes of {_WINDOW} voxels or more along each axis, not {one.shape}")
    centres = one.shape[0] - _WINDOW + 1
    total = 0.0
    for start in range(0, centres, _SLAB):
        planes = min(_SLAB, centres - start)
        part = slice(start, start + planes + _WINDOW - 1)
        pair = one[part].astype(np.float64), other[part].astype(np.float64)
        total += planes * structural_similarity(*pair, win_size=_WINDOW, data_range=data_range)
    return total / centres


def _pair(found: Values, reference: Values) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    one, other = (_array(values) for values in (found, reference))
    if one.shape != other.shape:
        raise ValueError(f"images of {one.shape} and {other.shape} voxels cannot be compared")
    return one, other


def _array(values: Values) -> NDArray[np.generic]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _difference(found: Values, reference: Values, where: Values | None) -> NDArray[np.float64]:
    """found - reference in double precision (integers would wrap) at the chosen voxels. ValueError for none."""
    one, other = _pair(found, reference)
    if where is not None:
        chosen = _array(where).astype(bool)
        one, other = one[chosen], other[chosen]
    if not one.size:
        raise ValueError("there is no voxel to measure at")
    return np.subtract(one, other, dtype=np.float64)
