"""Planes traded for annotations: multi-planar against 3D U-Net on blocks with and without a preferred direction.

Per seed and kind of block: one block is learnt from (n_a random annotation planes, and half as many to choose the model
by), another is segmented whole. An arm is called BLOCK NETWORK n_a/n_t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medgen import phantoms, prepare
from medgen.case import Case, Mask
from medgen.cohort import read_collection
from medgen.jobs import Run
from medgen.segmentation.multiplanar_unet import MultiplanarUNet

NETWORKS = {"multi-planar": "multi-planar", "3D": "3d-unet"}


def run_seed(seed: int, registration: Any, folder: Path, done: set[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Every trained arm; the trivial one calls everything a mitochondrion."""
    settings = registration.settings
    method = MultiplanarUNet()
    train, apply = method.operation("train"), method.operation("apply")
    for block, direction in (("isotropic", None), ("directed", tuple(settings["direction"]))):
        data = folder / f"{seed}-{block}"
        if not data.exists():
            options = {"size": tuple(settings["size"]), "direction": direction}
            phantoms.write(phantoms.PHANTOMS["mitochondria"], 2, seed, data, **options)
        collection = read_collection(data / "cohort.csv", train)
        learnt, shown = collection.rows()
        collection.pools["cases"] = [learnt]
        learnt.split, shown.split = "train", "test"
        roles = train.pools[0].roles
        case = prepare.load_row(shown, roles, print)
        truth = prepare.load_row(shown, roles, print)
        del case.values["mask"]
        for arm in registration.arms:
            kind, name, planes = (*arm.name.split(), "")[:3]
            if kind != block or arm.name in done:
                continue
            run = Run(data / "run", seed=seed)
            if name == "everything":
                mask = truth.get("mask", Mask)
                result = Case({"mask": replace(mask, data=torch.ones_like(mask.data))})
            else:
                annotated, sampled = map(int, planes.split("/"))
                own = {**settings["train"], "network": NETWORKS[name], "updates": arm.updates}
                own |= {"annotation_planes": annotated * 3 // 2, "training_planes": sampled}
                model = method.train(collection, train.configure(None, own), run)["model"]
                result = method.apply(case, apply.configure(None, settings["apply"]), run, model)
            yield arm.name, method.measure(result, truth)
