"""Model0 to Model4 of table 1 on angiograms of the same phantoms, and what is thick and bright called an aneurysm.

Per seed: some patients are learnt from, others give the patches on which Dice and kappa are measured, others are tested
whole. Every arm is measured by one ruler: the patches that Model0's settings choose, the same test volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medgen import phantoms, prepare
from medgen.case import Affine, Case, Image
from medgen.cohort import read_pool
from medgen.jobs import Run
from medgen.landmarks.aneurysm_detection import (
    AneurysmDetection,
    TrainConfig,
    build_network,
    choose_patches,
    places_in,
    volume_of,
)
from medgen.lesions import MarkedVolume, free_response, look_through
from medgen.metrics.overlap import Confusion
from medgen.patches import grid_affine, working_grid

THRESHOLDS = (0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)
COUNTED_AT = 0.5
MOST_FP = 2.0
BRIGHT, SMOOTH = 99.7, 1.5  # percentile and mm of the trivial arm

Maps = Callable[[MarkedVolume, Image], tuple[Tensor, Affine]]  # a test volume -> a map in [0, 1] and its affine
Taker = Callable[[Tensor], Tensor]  # patches (n, 1, side, side, side) -> which voxels are taken for aneurysms


def run_seed(seed: int, registration: Any, folder: Path, done: set[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Every arm on the same patients."""
    settings = registration.settings
    cases = _patients(folder / f"angiograms-{seed}", seed, settings)
    first, second = settings["train"], settings["train"] + settings["validation"]
    train = AneurysmDetection().operation("train")
    ruler = train.configure(None, settings["common"])
    assert isinstance(ruler, TrainConfig)
    patches = _validation_patches(cases[first:second], ruler, seed)
    for arm in registration.arms:
        if arm.name in done:
            continue
        if arm.role == "trivial":
            maps, taker = _bright_map, _bright_voxels(cases[:first], ruler)
        else:
            own = {**settings["common"], **settings["arms"].get(arm.name, {}), "updates": arm.updates}
            config = train.configure(None, own)
            assert isinstance(config, TrainConfig)
            maps, taker = _trained(cases[:first], config, Run(folder / "run", seed=seed))
        counts = sum((Confusion.of(taker(images), labels) for images, labels in patches), Confusion())
        yield arm.name, {**_found(cases[second:], maps, ruler), "dice": counts.dice, "kappa": counts.kappa}


def _patients(folder: Path, seed: int, settings: dict[str, Any]) -> list[Case]:
    """Learnt from, validating and tested, in this order."""
    count = settings["train"] + settings["validation"] + settings["test"]
    if not folder.exists():
        options = {"size": tuple(settings["size"]), "spacing": settings["spacing"]}
        phantoms.write(phantoms.PHANTOMS["mr-angiogram"], count, seed, folder, **options)
    pool = AneurysmDetection().operation("train").pools[0]
    rows = read_pool(folder / "cohort.csv", pool)
    return [prepare.load_row(row, pool.roles, lambda text: None) for row in rows]


def _validation_patches(cases: list[Case], ruler: TrainConfig, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Intensities and labels of each volume's patches, one an aneurysm, none distorted."""
    plain = ruler.model_copy(update={"duplicates": 1, "distortion": 0.0})
    found = []
    for number, case in enumerate(cases):
        volume = volume_of(case, ruler.voxel)
        places = [
            places_in(patch, plain)
            for patch in choose_patches(volume, number, plain, np.random.default_rng([seed, number]))
        ]
        images = torch.stack([volume.look(place)[None] for place in places])
        found.append((images, torch.stack([volume.inside(place)[None] for place in places])))
    return found


def _trained(cases: list[Case], config: TrainConfig, run: Run) -> tuple[Maps, Taker]:
    """A model, as a map of a volume and as what it takes of patches."""
    model = AneurysmDetection().fit(cases, [False] * len(cases), config, run)
    network = model.network("unet", lambda: build_network(config)).to(run.device).eval()

    def maps(volume: MarkedVolume, image: Image) -> tuple[Tensor, Affine]:
        grid = working_grid(image, config.voxel)
        found, _, _ = look_through(network, volume, grid, config.patch, config.patch // 6, 0.0, run)
        return found, grid_affine(grid, image.affine)

    def taker(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([network(part.to(run.device)).cpu() > 0 for part in images.split(16)])

    return maps, taker


def _bright_map(volume: MarkedVolume, image: Image) -> tuple[Tensor, Affine]:
    """The volume smoothed, as percentiles of itself beyond BRIGHT on [0, 1]: 0.5 in the middle of what is brightest."""
    smooth = ndimage.gaussian_filter(volume.data.float().numpy(), SMOOTH / image.spacing)
    low, high = np.percentile(smooth, (BRIGHT, 100))
    shown = 0.5 + 0.5 * (smooth - low) / max(high - low, 1e-6)
    return torch.from_numpy(np.clip(shown, 0, 1)), image.affine


def _bright_voxels(cases: list[Case], ruler: TrainConfig) -> Taker:
    """Voxels brighter than BRIGHT per cent of the volumes learnt from."""
    level = float(np.mean([volume_of(case, ruler.voxel).percentiles(BRIGHT)[0] for case in cases]))
    return lambda images: images > level


def _found(cases: list[Case], maps: Maps, ruler: TrainConfig) -> dict[str, float]:
    """ADAM's figures at one threshold, and the area under the curve over all."""
    shown = ((*maps(volume_of(case, ruler.voxel), case.get("image", Image)), case.many("aneurysms")) for case in cases)
    curve = free_response(shown, THRESHOLDS)
    counted = THRESHOLDS.index(COUNTED_AT)
    found = {
        "sensitivity": curve.sensitivity[counted],
        "false positives": curve.fp[counted],
        "area": curve.area(MOST_FP),
    }
    return {name: float(value) for name, value in found.items()}
