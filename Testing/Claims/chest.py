#!/usr/bin/env python
"""Few-shot DAG on real chest radiographs: six points of the lungs, ten images marked, the rest unmarked.

    Testing/Claims/chest.py OUT [--data ../shared/data] [--tier demo] [--seed 1] [--device auto]
        [--arms DAG ...] [--set KEY=VALUE ...]

The points were computed from lung masks that people drew (apex, costophrenic and cardiophrenic angle of either side of
the picture), so they are as exact as those masks' corners. A seed draws which 10 images are marked, which 10 validate,
which 40 are measured on; all others are unmarked. Writes summary.json and a picture an arm to OUT; no pixel size is
known, so lengths are pixels of images whose longer side has 384. The mean is over the points that were found alone:
read it beside "not found", the share that were not, and the failure rate, in which those have failed.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from medgen import pictures, prepare  # noqa: E402
from medgen.case import Case, Image, Points  # noqa: E402
from medgen.jobs import Run  # noqa: E402
from medgen.landmarks.few_shot_dag import FewShotDAG  # noqa: E402
from medgen.method import Kind, Role  # noqa: E402
from medgen.metrics.points import distances  # noqa: E402

SET = "cxr_kermany_v7lungs"
COUNTS = {"marked": 10, "validation": 10, "measured": 40}
ARMS: dict[str, dict[str, Any]] = {
    "DAG": {"updates": 0},
    "few-shot DAG": {"js_weight": 0.0},
    "few-shot DAG + JS": {},
}


def read(data: Path) -> list[Case]:
    """Every image with its six points; the points of pixels (x, y) in the RAS mm of a PNG."""
    role, cases = Role("image", Kind.IMAGE, "A chest radiograph", dims="2D"), []
    with (data / SET / "landmarks_derived.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = row.pop("file")
            path = data / SET / "images" / name
            case = prepare.load_case({"image": [str(path)]}, (role,), lambda text: None, name)
            names = list(dict.fromkeys(key.rsplit("_", 1)[0] for key in row))
            pixels = np.array([[float(row[f"{one}_x"]), float(row[f"{one}_y"]), 0.0] for one in names])
            affine = case.get("image", Image).affine
            case.values["landmarks"] = Points(pixels @ affine[:3, :3].T + affine[:3, 3], names, name=name)
            cases.append(case)
    return cases


def parted(cases: list[Case], seed: int) -> tuple[list[Case], list[Case]]:
    """Cases to learn from, and those to measure on, by the seed."""
    order = np.random.default_rng(seed).permutation(len(cases))
    marked, validation, measured = np.cumsum(list(COUNTS.values()))
    learnt = []
    for place, number in enumerate(order):
        case = cases[number]
        case.row = {"split": "validation" if marked <= place < validation else "train", "labelled": "yes"}
        if place >= measured:
            case.row["labelled"] = "no"
        if not validation <= place < measured:
            learnt.append(case)
    return learnt, [cases[number] for number in order[validation:measured]]


def summed(found: list[Points], measured: list[Case]) -> dict[str, float | None]:
    """Over all points of the images: mean error of those that were found (none: null), share of those that were not,
    and share of those farther off than 5 % of the image's width or not found."""
    pairs = list(zip(found, measured, strict=True))
    apart = np.concatenate([distances(points, case.get("landmarks", Points))[0] for points, case in pairs])
    failed = [FewShotDAG().measure(Case({"landmarks": points}), case)["failure rate"] for points, case in pairs]
    there = np.isfinite(apart)
    return {
        "mean mm of those found": round(float(apart[there].mean()), 4) if there.any() else None,
        "not found": round(float((~there).mean()), 4),
        "failure rate": round(float(np.mean(failed)), 4),
    }


def main(arguments: list[str] | None = None) -> int:
    """Train every arm, find, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--tier", default="demo")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--set", nargs="*", default=[], help="settings of training, KEY=VALUE")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    settings = {key: json.loads(value) for key, value in (text.split("=", 1) for text in chosen.set)}
    method = FewShotDAG()
    train, apply = method.operation("train"), method.operation("apply")
    learnt, measured = parted(read(chosen.data), chosen.seed)
    mean = np.mean([c["landmarks"].positions for c in learnt if c.row == {"split": "train", "labelled": "yes"}], axis=0)
    found = {"mean shape": [Points(mean, case["landmarks"].names) for case in measured]}
    facts: dict[str, Any] = {}
    for arm in chosen.arms:
        changes = {**settings, **ARMS[arm]}
        whole = train.configure(chosen.tier, settings)
        if not ARMS[arm].get("updates", 1):  # as many updates in all as the others have
            changes["pretrain_updates"] = whole.pretrain_updates + whole.updates  # type: ignore[attr-defined]
        config = train.configure(chosen.tier, changes)
        run = Run(chosen.out / arm.replace(" ", "-"), seed=chosen.seed, device=chosen.device)
        model = method.fit(learnt, config, run)  # type: ignore[arg-type]
        facts[arm] = model.facts
        plain = apply.configure(chosen.tier, {"views": 0})
        shown = (Case({"image": case["image"]}) for case in measured)
        found[arm] = [method.apply(case, plain, run, model)["landmarks"] for case in shown]  # type: ignore[arg-type]
        path = chosen.out / f"{arm.replace(' ', '-')}.png"
        pictures.marks(measured[0].get("image", Image), found[arm][0], measured[0]["landmarks"], path, arm)
    result = {arm: summed(points, measured) for arm, points in found.items()}
    how = {"tier": chosen.tier, "seed": chosen.seed, "device": str(run.device), "settings": settings}
    summary = {**how, "arms": result, "training": facts}
    (chosen.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
