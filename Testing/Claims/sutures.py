"""Frames of the annulus phantom in memory, and measures over all of their points, for the claims about sutures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from medgen.metrics.points import matched
from medgen.phantoms import annulus
from medgen.phantoms.cohort import subject_seed
from medgen.pointframes import RADIUS, Fitting, PointFrame, over_all

Values = NDArray[np.float64]


NAMES = ("theatre", "simulator", "theatre tested", "simulator tested")


def frames(
    seed: int, settings: dict[str, Any], canvas: tuple[int, int], names: Sequence[str] = NAMES
) -> dict[str, list[PointFrame]]:
    """By name: “theatre” and “simulator” to learn from, “theatre tested” and “simulator tested” to measure on. Each
    frame is of another patient."""
    made: dict[str, list[PointFrame]] = {}
    first = 0
    for name in names:
        count = settings["tested" if name.endswith("tested") else name]
        domain = name.split()[0]
        made[name] = [frame(subject_seed(seed, first + n), domain, settings["size"], canvas) for n in range(count)]
        first += count
    return made


def frame(seed: int, domain: str, size: Sequence[int], canvas: tuple[int, int]) -> PointFrame:
    """One frame on its canvas."""
    made = annulus.make(seed, (size[0], size[1]), domain)
    pixels = torch.from_numpy(sitk.GetArrayFromImage(made["image"]).transpose(2, 0, 1).copy())
    fitting = Fitting.of((size[1], size[0]), canvas)
    items = made["points"]["markups"][0]["controlPoints"]
    places = np.array([item["position"][1::-1] for item in items]).reshape(-1, 2)
    points = torch.from_numpy(fitting.into(places)).float()
    return PointFrame(fitting.pixels(pixels), points, inner=fitting.inner)


def measured(tested: Sequence[PointFrame], find: Callable[[PointFrame], Values], name: str = "") -> dict[str, float]:
    """Sensitivity, precision and F1 over all points, in per cent, each followed by `name`."""
    pairs = [matched(find(one), one.points.double().numpy(), RADIUS * one.inner[1]) for one in tested]
    total = over_all(pairs)
    precision = total.hits / total.found if total.found else 0.0
    shares = {"sensitivity": total.recall, "precision": precision, "F1": total.f1}
    return {f"{key}{name}": 100 * share for key, share in shares.items()}


def usual_places(learnt: Sequence[PointFrame], seed: int) -> Callable[[PointFrame], Values]:
    """In every frame the same points: the centres of as many groups of all that were learnt from as frames have on
    average."""
    from sklearn.cluster import KMeans

    places = torch.cat([one.points for one in learnt]).double().numpy()
    count = max(1, round(len(places) / len(learnt)))
    centres = KMeans(count, random_state=seed % 2**31, n_init=3).fit(places).cluster_centers_
    return lambda shown: np.asarray(centres, np.float64)
