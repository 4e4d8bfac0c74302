"""Landmarks from one example, beside plain registration and copied positions, on ears of other patients in two poses.

Per seed: one ear is the reference, another one validates, the others are targets; each target lies once nearly as the
reference does and once far from it. An arm is called POSE WAY. All trained arms of a seed share one trained model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medgen import phantoms, prepare
from medgen.bundle import Model
from medgen.case import Case, Image, Points
from medgen.cohort import read_pool
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.landmarks.one_shot_landmarks import OneShotLandmarks
from medgen.metrics.points import distances
from medgen.phantoms.inner_ear import LANDMARKS

WAYS: dict[str, dict[str, Any]] = {
    "one-shot": {"start": "structure"},
    "one-shot without demons": {"start": "structure", "demons_iterations": 0},
    "registration": {"start": "rigid", "least_similarity": -1},
    "registration from centres": {"start": "centre-of-mass", "least_similarity": -1},
}
FAILED = 10.0  # voxels
LOST = 32.0  # mm that a landmark which was not found counts as


def run_seed(seed: int, registration: Any, folder: Path, done: set[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Every arm over the targets of its pose."""
    settings, method, run = registration.settings, OneShotLandmarks(), Run(folder / "run", seed=seed)
    apply = method.operation("apply")
    ears = {name: _ears(folder / f"ears-{seed}-{name}", seed, settings, name) for name in settings["poses"]}
    reference, validation = ears["near"][:2]
    model, learnt, budget = None, False, max(arm.updates for arm in registration.arms)
    for arm in registration.arms:
        if arm.name in done:
            continue
        pose, way = arm.name.split(" ", 1)
        if model is None and way != "copied":  # plain registration takes nothing but the reference from the model
            model, learnt = _trained(reference, validation, budget, folder / "run", seed)
        rows = []
        for target in ears[pose][2:]:
            if way == "copied":
                found = _copied(reference, target)
            elif "one-shot" in way and not learnt:
                found = Points(np.full((len(LANDMARKS), 3), np.nan), list(LANDMARKS))
            else:
                shown, config = Case({"image": target["image"]}), apply.configure("demo", WAYS[way])
                found = method.apply(shown, config, run, model).get("landmarks", Points)  # type: ignore[arg-type]
            rows.append(_errors(found, target))
        yield arm.name, {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _trained(reference: Case, validation: Case, budget: int, folder: Path, seed: int) -> tuple[Model, bool]:
    """A model, and whether the seed's own training gave it; where that is refused, others lend it their reference."""
    train = OneShotLandmarks().operation("train")
    config = train.configure("demo", {})
    config = train.configure("demo", {"transforms": budget * config.batch_size // config.slices})  # type: ignore[attr-defined]
    for attempt in range(3):
        try:
            run = Run(folder, seed=seed + attempt)
            return OneShotLandmarks().fit(reference, validation, config, run), attempt == 0  # type: ignore[arg-type]
        except UserError as error:
            print(f"seed {seed}, training {attempt + 1}: {error}", flush=True)
    raise RuntimeError("three trainings were refused")


def _ears(folder: Path, seed: int, settings: dict[str, Any], pose: str) -> list[Case]:
    """The same patients in every pose: image, cochlea and landmarks."""
    if not folder.exists():
        options = {"size": tuple(settings["size"]), "spacing": settings["spacing"], **settings["poses"][pose]}
        phantoms.write(phantoms.PHANTOMS["inner-ear"], 2 + settings["targets"], seed, folder, **options)
    pool = OneShotLandmarks().operation("train").pools[0]
    return [prepare.load_row(row, pool.roles, lambda text: None) for row in read_pool(folder / "cohort.csv", pool)]


def _copied(reference: Case, target: Case) -> Points:
    """The reference's landmarks at the same place relative to the volume's centre."""
    points = reference.get("landmarks", Points)
    return Points(points.positions - _centre(reference) + _centre(target), points.names)


def _centre(case: Case) -> np.ndarray:
    image = case.get("image", Image)
    return image.affine[:3, :3] @ ((np.array(image.shape) - 1) / 2) + image.affine[:3, 3]


def _errors(found: Points, target: Case) -> dict[str, float]:
    """Distances to the truth; a landmark that was not found counts as LOST."""
    apart, _ = distances(found, target.get("landmarks", Points))
    lost = np.isnan(apart)
    apart = np.where(lost, LOST, apart)
    voxels = apart / float(target.get("image", Image).spacing.mean())
    return {
        "mm": float(apart.mean()),
        "voxels": float(voxels.mean()),
        "failed": float(voxels.mean() > FAILED),
        "not found": float(lost.mean()),
    }
