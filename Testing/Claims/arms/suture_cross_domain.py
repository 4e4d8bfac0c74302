"""Weights of the simulator's frames, three ways to let them take part, and two peak rules, in the theatre.

Per seed: few marked frames of the theatre, many of a simulator, others of the theatre to measure on. All networks see
as many frames of the theatre, changed at random alike. Arms of table 1 have the paper's first peak rule; “joint” is the
network of lambda 1 with the later one, which the arms of table 2 have too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sutures

from medgen.jobs import Run
from medgen.landmarks.suture_cross_domain import (
    FIRST_RULE,
    ApplyConfig,
    Fit,
    SutureCrossDomain,
    TrainConfig,
    points_of,
)
from medgen.pointframes import PointFrame, map_of

WAYS: dict[str, dict[str, Any]] = {
    "lambda 0": {"simulator_weight": 0.0},
    "lambda 0.5": {"simulator_weight": 0.5},
    "lambda 1": {},
    "joint": {},
    "adversarial": {"scheme": "adversarial"},
    "collaborative": {"scheme": "collaborative"},
    "DeepLabv3+": {"backbone": "deeplabv3+-small"},
}


def run_seed(seed: int, registration: Any, folder: Path, done: set[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Every arm on the theatre's frames held out."""
    settings, train = registration.settings, SutureCrossDomain().operation("train")
    config = train.configure(settings["tier"], settings["train"])
    assert isinstance(config, TrainConfig)
    made = sutures.frames(seed, settings, config.size, sutures.NAMES[:3])
    tested = made["theatre tested"]
    fits: dict[str, Fit] = {}
    for arm in registration.arms:
        if arm.name in done:
            continue
        if arm.role == "trivial":
            yield arm.name, sutures.measured(tested, sutures.usual_places(made["theatre"], seed))
            continue
        way = WAYS[arm.name]
        key = repr(sorted(way.items()))
        if key not in fits:
            run = Run(folder / f"{seed} {arm.name}", seed=seed)
            fits[key] = Fit(made["theatre"], made["simulator"], config.model_copy(update=way), run)
            fits[key].network.load_state_dict(fits[key].fit())
        rule = ApplyConfig.model_validate(FIRST_RULE if arm.name.startswith("lambda") else {})
        yield arm.name, sutures.measured(tested, _finder(fits[key], rule))


def _finder(fit: Fit, rule: ApplyConfig) -> Any:
    """What finds the points of a frame."""

    def find(frame: PointFrame) -> sutures.Values:
        heatmap = map_of(fit.network, frame.pixels, fit.run)[: frame.inner[0], : frame.inner[1]]
        return points_of(heatmap, rule)[0]

    return find
