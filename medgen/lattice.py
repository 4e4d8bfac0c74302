"""Smooth random distortions of a cube: the knots of a lattice are moved, cubic splines carry what is between along."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Lattice = NDArray[np.float64]  # (3, 3, 3, 3): the displacement of each knot, mm


def draw_lattice(distortion: float, generator: np.random.Generator) -> Lattice:
    """Displacements (mm) of 3 x 3 x 3 knots, U(-distortion, distortion) along each axis; the middle one stays."""
    lattice = generator.uniform(-distortion, distortion, (3, 3, 3, 3))
    lattice[1, 1, 1] = 0.0
    return lattice


@lru_cache(maxsize=8)
def _knot_weights(side: int) -> NDArray[np.float64]:
    """(side, 3): what each knot, at the faces and in the middle, weighs at each voxel, by natural cubic splines."""
    from scipy.interpolate import CubicSpline

    places = (np.arange(side) - (side - 1) / 2) / (side / 2)
    return np.asarray(CubicSpline([-1.0, 0.0, 1.0], np.eye(3), bc_type="natural")(places))


def displacement(lattice: Lattice, side: int) -> NDArray[np.float64]:
    """(side, side, side, 3) mm: the lattice's knots, which lie on the patch's faces and middle, interpolated."""
    weights = _knot_weights(side)
    return np.asarray(np.einsum("ia,jb,kc,abcd->ijkd", weights, weights, weights, lattice, optimize=True))
