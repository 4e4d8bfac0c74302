"""What the backend's tests share: where things are, small images, the command line in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DATA = ROOT.parent / "shared" / "data"
STUBS = ["stubs.plain", "stubs.ranker", "stubs.stylegan", "stubs.pix2pix", "stubs.metahistoseg", "stubs.label_transfer"]

# Property tests: few examples, the same ones wherever CI says that it runs, none slower than five seconds.
PROPERTY = settings(
    max_examples=40,
    deadline=5000,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def volume(
    shape: tuple[int, int, int] = (12, 10, 8), seed: int = 0, spacing: tuple[float, ...] = (1.0, 1.5, 2.0)
) -> sitk.Image:
    """A small random volume, (x, y, z) voxels."""
    array = np.random.default_rng(seed).normal(100, 20, shape[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((5.0, -7.0, 11.0))
    return image


def picture(size: tuple[int, int] = (24, 16), seed: int = 0) -> sitk.Image:
    """A small RGB picture, (columns, rows)."""
    array = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return sitk.GetImageFromArray(array, isVector=True)


def medgen(*arguments: object, cwd: Path | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "medgen", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd or ROOT, timeout=timeout, check=False)
