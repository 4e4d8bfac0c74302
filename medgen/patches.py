"""Volumes at one voxel size: intensities on one scale, cubes cut out, means over bins, barycentre and moments.

What methods share that look at every volume through a window of fixed size in mm. All positions are RAS mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from medgen.case import Affine, Image, Mask
from medgen.errors import UserError
from medgen.geometry import WorkingGrid, spacing_of

Vector = NDArray[np.float64]

_MOST_VOXELS = 400_000_000  # of a working grid
_CLIP = 10.0  # spreads from the median at which intensities are cut


@dataclass
class Intensity:
    """A volume's scale, robust to how much air surrounds the patient and to noise within one tissue.

    median: of the brighter class by Otsu's threshold; spread: a quarter of what lies between both classes' medians.
    """

    median: float
    spread: float

    @classmethod
    def of(cls, data: Tensor) -> Intensity:
        """Of a volume (any shape); every n-th voxel of a large one. Outliers (0.1 %) do not count."""
        from skimage.filters import threshold_otsu

        values = data.flatten()[:: max(1, data.numel() // 2_000_000)].double().numpy()
        low, high = np.percentile(values, (0.1, 99.9))
        values = np.clip(values, low, high) if high > low else values
        bright = values > threshold_otsu(values)
        dark, median = float(np.median(values[~bright])), float(np.median(values[bright]))
        return cls(median, max((median - dark) / 4, 1e-9))

    def scale(self, data: Tensor) -> Tensor:
        """Spreads from the median, cut at +-10."""
        return ((data.float() - self.median) / self.spread).clamp(-_CLIP, _CLIP)


@dataclass
class Volume:
    """A volume on an isotropic grid: scaled intensities (i, j, k), affine to RAS mm, the value beyond its edge.

    known: (i, j, k) bool, False where a cube that was cut out reached beyond the edge; None where it nowhere did.
    """

    data: Tensor
    affine: Affine
    fill: float
    known: Tensor | None = None

    @classmethod
    def of(cls, image: Image, voxel: float, intensity: Intensity | None = None) -> Volume:
        """An image at `voxel` mm, smoothed first where its own voxels are finer."""
        grid = working_grid(image, voxel)
        intensity = intensity or Intensity.of(image.data)
        scaled = intensity.scale(antialiased(image.data[0].float(), image.spacing, voxel))
        fill = float(scaled.min())
        return cls(grid.from_source(scaled[None], fill=fill)[0], grid_affine(grid, image.affine), fill)

    @property
    def voxel(self) -> float:
        """Voxel size, mm."""
        return float(spacing_of(self.affine)[0])

    def crop(self, centre: Vector, side: int) -> Volume:
        """The cube of `side` voxels around the voxel next to a place in RAS mm; `fill` beyond the edge."""
        index = np.linalg.solve(self.affine, np.append(centre, 1.0))[:3]
        first = np.floor(index - (side - 1) / 2 + 0.5).astype(int)
        data, known = torch.full((side,) * 3, self.fill), torch.zeros((side,) * 3, dtype=torch.bool)
        shape = np.asarray(self.data.shape)
        low, high = np.clip(first, 0, shape), np.clip(first + side, 0, shape)
        if (low < high).all():
            there = tuple(slice(int(a), int(b)) for a, b in zip(low - first, high - first, strict=True))
            here = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
            data[there] = self.data[here]
            known[there] = True if self.known is None else self.known[here]
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ first + self.affine[:3, 3]
        return Volume(data, affine, self.fill, None if bool(known.all()) else known)

    def shrunk(self, factor: int) -> Volume:
        """Means over what is known in bins of factor^3 voxels; a bin is known where most of it is."""
        if factor == 1:
            return self
        pad = [(-size) % factor for size in self.data.shape]
        padded = F.pad(self.data[None, None], (0, pad[2], 0, pad[1], 0, pad[0]), value=self.fill)
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ np.full(3, (factor - 1) / 2) + self.affine[:3, 3]
        affine[:3, :3] *= factor
        means = F.avg_pool3d(padded, factor)[0, 0]
        if self.known is None:
            return Volume(means, affine, self.fill)
        share = F.pad(self.known[None, None].float(), (0, pad[2], 0, pad[1], 0, pad[0]))
        share = F.avg_pool3d(share, factor)[0, 0]
        known = (self.data - self.fill).where(self.known, 0.0)[None, None]
        known = F.avg_pool3d(F.pad(known, (0, pad[2], 0, pad[1], 0, pad[0])), factor)[0, 0]
        return Volume(self.fill + known / share.clamp(min=1e-6), affine, self.fill, share > 0.5)

    def centre_of_intensity(self) -> Vector:
        """(3,) RAS mm: barycentre of the intensity above the darkest."""
        return barycentre(self.data - self.data.min(), self.affine)


def working_grid(image: Image | Mask, voxel: float) -> WorkingGrid:
    wanted = float(np.prod(np.asarray(image.shape) * image.spacing / voxel))
    if wanted > _MOST_VOXELS:
        raise UserError(
            f"“{image.name or 'the image'}” would have {wanted:.1e} voxels at the {voxel:.3g} mm that the model works "
            "at; crop it to the neighbourhood of the structure."
        )
    return WorkingGrid.over(image.shape, image.spacing, _MOST_VOXELS, voxel)


def grid_affine(grid: WorkingGrid, affine: Affine) -> Affine:
    axes = affine[:3, :3] / spacing_of(affine)
    result = np.eye(4)
    result[:3, :3] = axes * grid.spacing
    result[:3, 3] = axes @ grid.offset + affine[:3, 3]
    return result


def antialiased(data: Tensor, spacing: Vector, voxel: float) -> Tensor:
    """Smoothed for a coarser voxel: a Gaussian that makes half a coarse voxel out of half a fine one."""
    sigma = 0.5 * np.sqrt(np.maximum((voxel / spacing) ** 2 - 1, 0))
    if (sigma < 0.3).all():
        return data
    return torch.from_numpy(ndimage.gaussian_filter(data.numpy(), sigma, mode="nearest", truncate=3.0))


def barycentre(weights: Tensor, affine: Affine) -> Vector:
    """Equation 2: (3,) RAS mm of the voxels (i, j, k) weighted; the middle where all weights are 0."""
    sums = [weights.sum(dim=[other for other in range(3) if other != axis]).double().numpy() for axis in range(3)]
    total = sums[0].sum()
    if total <= 0:
        index = [(size - 1) / 2 for size in weights.shape]
    else:
        index = [float(np.arange(len(line)) @ line / total) for line in sums]
    return affine[:3, :3] @ np.array(index) + affine[:3, 3]


def fullest_window(weights: Tensor, affine: Affine, side: int) -> Vector:
    """(3,) RAS mm: middle of the cube of `side` voxels, which may reach beyond the edge, that holds most weight."""
    held = weights[None, None]
    for axis in range(3):
        size = min(side, weights.shape[axis])
        window, before = [1, 1, 1], [0, 0, 0]
        window[axis], before[axis] = size, size // 2
        behind = [(size - 1 - size // 2) if a == axis else 0 for a in range(3)]
        held = F.pad(held, (before[2], behind[2], before[1], behind[1], before[0], behind[0]))
        held = F.avg_pool3d(held, window, stride=1)
    index = np.array(np.unravel_index(int(held.argmax()), tuple(held.shape[2:])), dtype=np.float64)
    return affine[:3, :3] @ index + affine[:3, 3]


def second_moments(weights: Tensor, affine: Affine) -> NDArray[np.float64]:
    """(3, 3) central second moments in mm^2 of voxels (i, j, k) weighted, along RAS axes.

    Their eigenvectors are those of the matrix of inertia, tr(M) 1 - M.
    """
    index = torch.nonzero(weights > 0)
    mass = weights[tuple(index.T)].double().numpy()
    places = index.double().numpy() @ affine[:3, :3].T
    places -= np.average(places, axis=0, weights=mass)
    return (places * mass[:, None]).T @ places / mass.sum()
