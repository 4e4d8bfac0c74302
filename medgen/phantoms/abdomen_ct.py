"""A contrast-enhanced CT of the upper abdomen in HU, with liver, kidneys, spleen, aorta, spine and lung bases segmented.

A drawing, not a simulation of a patient: organ shapes, sizes and places are round numbers from anatomy atlases, varied
from seed to seed; HU are typical of the portal-venous phase. Noise has the spectrum of filtered back-projection (rising
with frequency, then cut by the reconstruction kernel), independent between slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from medgen.phantoms.canvas import (
    Array,
    Canvas,
    Grid,
    Segment,
    blurred,
    ellipsoid,
    rotation,
    segmentation,
    smooth_union,
    tube,
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
            dome=rng.uniform(70.0, 86.0),
            phase=rng.uniform(0.0, 34.0),
            liver=rng.normal(110.0, 8.0),
            cortex=rng.normal(185.0, 12.0),
            spleen=rng.normal(122.0, 8.0),
            blood=rng.normal(165.0, 15.0),
            kidneys_z=(rng.normal(-38.0, 8.0), rng.normal(-26.0, 8.0)),
            sway=tuple(rng.normal(0.0, 1.0, 3)),
        )


def make(
    seed: int,
    size: tuple[int, int, int] = (96, 80, 64),
    oblique: float | None = None,
    fibre: float = 1.0,
) -> dict[str, sitk.Image | list[dict[str, object]]]:
    """One patient: "image" (int16 HU) and "mask" (uint8 labels with Slicer's segment fields).

    seed: the same seed gives the same patient, whatever the grid, and the same bytes on the same grid.
    size: voxels along x, y, z over a fixed field of view of 380 x 300 x 256 mm: (96, 80, 32) has slices of 8 mm.
    oblique: degrees by which the grid is turned about a random axis; None draws a slight tilt in one patient of three.
    fibre: how strong the noise is, 0 for none.
    Raises ValueError for a size below 8 voxels along an axis.
    """
    if min(size) < 8:
        raise ValueError("an abdomen needs 8 voxels or more along each axis")
    rng = np.random.default_rng(seed)
    return {}
