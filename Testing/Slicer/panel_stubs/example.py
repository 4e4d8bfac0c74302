"""A point carried over from one example: several pools of one case each, and a model that holds a patient's image."""

from __future__ import annotations

import numpy as np
import torch

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Case, Image, Mask, Points
from medgen.cohort import Collection
from medgen.jobs import Run
from medgen.method import Config, Kind, Method, Operation, Pool, Role

IMAGE = Role("image", Kind.IMAGE, "A volume")
MASK = Role("mask", Kind.MASK, "Its structure")
POINT = Role("landmarks", Kind.POINTS, "Its landmarks")


class Example(Method):
    """The example's mask says how bright the structure is; the landmark is put in the middle of what is as bright."""

    slug = "stub-example"
    title = "A landmark from one example"
    sentence = "Finds a landmark that is marked in one example volume."
    citation = "Nobody, One is enough, 1999"
    url = "https://doi.org/10.1000/1"
    module = "MedGenLandmarks"
    group = "Points"
    carries_patient_data = True
    operations = (
        Operation(
            "train",
            "Train",
            "Learn from the example.",
            Config,
            scope="collection",
            pools=(
                Pool("reference", (IMAGE, MASK, POINT), "The example", one_case=True),
                Pool("validation", (IMAGE, MASK), "Another volume to stop at", one_case=True),
            ),
            outputs=(Role("model", Kind.MODEL, "The example and what was learnt"),),
        ),
        Operation(
            "apply",
            "Apply",
            "Find the landmark.",
            Config,
            inputs=(IMAGE,),
            outputs=(Role("landmarks", Kind.POINTS, "What was found"),),
            needs_model=True,
        ),
    )

    def train(self, collection: Collection, config: Config, run: Run, model: Model | None = None) -> Case:
        """Mean brightness inside the example's mask; how many voxels both masks have tells whose they are."""
        sizes = {}
        for pool in collection.pools:
            (row,) = collection.rows(pool)
            case = prepare.load_row(row, collection.declared[pool].roles, run.log)
            sizes[pool] = int((case.get("mask", Mask).data > 0).sum())
            if pool == "reference":
                inside = case.get("image", Image).data[0][case.get("mask", Mask).data > 0].mean()
                names = case.get("landmarks", Points).names
        weights = {"bright": {"value": inside.reshape(1)}}
        return Case({"model": Model(self.slug, weights, {}, {"names": names}, sizes, patient_data=True)})

    def apply(self, case: Case, config: Config, run: Run, model: Model) -> Case:
        """The middle of the voxels that are as bright."""
        image = case.get("image", Image)
        index = torch.nonzero(image.data[0] > model.networks["bright"]["value"] / 2).double().mean(0).numpy()
        position = image.affine[:3, :3] @ index + image.affine[:3, 3]
        names = model.settings["names"]
        return Case({"landmarks": Points(np.tile(position, (len(names), 1)), names, np.full(len(names), 0.75))})
