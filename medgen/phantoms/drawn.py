"""A patient on whom somebody has begun to draw: the abdominal CT with its liver outlined on a few axial slices only."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen.phantoms import abdomen_ct
from medgen.phantoms.canvas import Grid, segmentation

NAME = "abdomen-ct-drawn"
SENTENCE = "An abdominal CT with the liver drawn on a few axial slices, their planes, and the whole liver."
ROLES = {"image": "Image", "mask": "Mask", "planes": "Plane", "truth_mask": "Mask"}
SEGMENTS = tuple(segment for segment in abdomen_ct.SEGMENTS if segment.value == abdomen_ct.LIVER)


def make(seed: int, slices: int = 6, **options: Any) -> dict[str, Any]:
    """One patient: `abdomen_ct.make` with the liver alone as "truth_mask", and on `slices` axial slices as "mask".

    The slices are spread evenly from the liver's lower to its upper end. "planes" is the content of a Slicer markups
    file with a plane for each (LPS mm). options go to `abdomen_ct.make`. Raises ValueError for fewer than 2 slices.
    """
    if slices < 2:
        raise ValueError("a structure needs 2 drawn slices or more")
    made = abdomen_ct.make(seed, **options)
    whole = sitk.GetArrayFromImage(made["mask"]) == abdomen_ct.LIVER
    levels = np.flatnonzero(whole.any(axis=(1, 2)))
    drawn = np.unique(np.linspace(levels[0] + 1, levels[-1] - 1, slices).round().astype(int))
    part = np.zeros(whole.shape, np.uint8)
    part[drawn] = whole[drawn]
    image = made["image"]
    direction = np.array(image.GetDirection()).reshape(3, 3)
    grid = Grid(image.GetSize(), image.GetSpacing(), direction)
    labels = [array.astype(np.uint8) * abdomen_ct.LIVER for array in (part, whole)]
    masks = [segmentation(grid, array, SEGMENTS) for array in labels]
    middle = [(size - 1) / 2 for size in image.GetSize()[:2]]
    flip = [-1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    centres = [image.TransformContinuousIndexToPhysicalPoint((*middle, float(level))) for level in drawn]
    planes = [
        {
            "type": "Plane",
            "name": f"drawn slice {number + 1}",
            "coordinateSystem": "LPS",
            "coordinateUnits": "mm",
            "planeType": "pointNormal",
            "sizeMode": "auto",
            "center": list(centre),
            "normal": direction[:, 2].tolist(),
            "orientation": direction.ravel().tolist(),
            # Slicer takes a plane's directions from these two, not from "orientation".
            "objectToBase": flip,
            "baseToNode": [*np.column_stack([direction, centre]).ravel().tolist(), 0.0, 0.0, 0.0, 1.0],
            # Without a placed point Slicer has no plane, wherever these say that it lies.
            "controlPoints": [
                {"id": "1", "label": f"drawn slice {number + 1}", "position": list(centre), "positionStatus": "defined"}
            ],
        }
        for number, centre in enumerate(centres)
    ]
    return {"image": image, "mask": masks[0], "planes": {"markups": planes}, "truth_mask": masks[1]}
