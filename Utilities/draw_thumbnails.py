"""Draw the thumbnails that Sample Data shows: the middle slice of each module's synthetic patient, 128 x 128.

python Utilities/draw_thumbnails.py
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from medgen import phantoms  # noqa: E402

SIZE = 128
COLOURS = {"mask": (255, 158, 64), "landmarks": (64, 214, 190)}
# Phantom, the module that shows it, the image roles side by side, the mask drawn over them, lowest and highest value.
SAMPLES = {
    "MedGenSegmentation": ("abdomen-ct-drawn", ("image",), "mask", (-160.0, 240.0)),
    "MedGenSynthesis": ("head-mr-ct", ("mr", "ct"), "", (None, None)),
    "MedGenLandmarks": ("inner-ear", ("image",), "mask", (None, None)),
}


def main() -> None:
    """One picture a module, where `MedGenLib.sampledata` looks for it."""
    for module, (phantom, roles, mask, window) in SAMPLES.items():
        with tempfile.TemporaryDirectory() as folder:
            table = phantoms.write(phantoms.PHANTOMS[phantom], 1, 0, Path(folder) / "patient")
            with table.open(newline="", encoding="utf-8") as file:
                row = next(csv.DictReader(file))
            tiles = [
                tile(table.parent / row[role], table.parent / row[mask] if mask else None, window) for role in roles
            ]
        width = SIZE // len(tiles)
        picture = np.concatenate([part[:, (SIZE - width) // 2 :][:, :width] for part in tiles], axis=1)
        path = ROOT / module / "Resources" / "SampleData" / f"{module}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, optimize=True)


def tile(image: Path, mask: Path | None, window: tuple[float | None, float | None]) -> np.ndarray:
    """(SIZE, SIZE, 3) uint8: an axial slice, seen from the feet, through the middle of the mask or of the volume."""
    volume = sitk.DICOMOrient(sitk.ReadImage(str(image)), "LPS")
    values = sitk.GetArrayFromImage(volume).astype(float)
    inside = np.zeros(values.shape, bool)
    if mask is not None:
        labels = sitk.Resample(sitk.ReadImage(str(mask)), volume, sitk.Transform(), sitk.sitkNearestNeighbor)
        inside = sitk.GetArrayFromImage(labels) > 0
    fullest = int(inside.sum(axis=(1, 2)).argmax()) if inside.any() else len(values) // 2
    low, high = (np.percentile(values, q) if v is None else v for v, q in zip(window, (1, 99.5), strict=True))
    grey = np.clip((values[fullest] - low) / (high - low), 0, 1) * 255
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[inside[fullest]] = 0.4 * picture[inside[fullest]] + 0.6 * np.array(COLOURS["mask"])
    spacing = volume.GetSpacing()
    size = np.array([picture.shape[1] * spacing[0], picture.shape[0] * spacing[1]])
    width, height = (size / size.max() * SIZE).round().astype(int)
    whole = Image.new("RGB", (SIZE, SIZE))
    small = Image.fromarray(picture.astype(np.uint8)).resize((int(width), int(height)), Image.Resampling.LANCZOS)
    whole.paste(small, ((SIZE - int(width)) // 2, (SIZE - int(height)) // 2))
    return np.asarray(whole)


if __name__ == "__main__":
    main()
