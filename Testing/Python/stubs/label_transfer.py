"""As label-transfer will declare itself: a collection and a model go in; a cohort with corrected labels, a better model
and a table come out."""

from __future__ import annotations

import torch
from pydantic import Field

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Case, Cohort, Mask, Segment, Table
from medgen.cohort import Collection
from medgen.jobs import Run
from medgen.method import Config, Kind, Method, Operation, Pool, Role

CLEAN = Role("clean", Kind.IMAGE, "A good picture of cells", dims="2D")
NOISY = Role("noisy", Kind.IMAGE, "A noisy picture of the same cells", dims="2D")
MASK = Role("mask", Kind.MASK, "Cells of the good picture", dims="2D", optional=True)


class TrainConfig(Config):
    threshold: float = Field(0.5, ge=0.0, le=1.0, description="Start of the threshold, as a share of the range")


class CorrectConfig(Config):
    iterations: int = Field(5, ge=1, le=20, description="Rounds", json_schema_extra={"paper": 5})


class LabelTransfer(Method):
    slug = "stub-label-transfer"
    title = "Correct the labels of noisy cells"
    sentence = "Carries labels from good pictures over to noisy ones and trains on them."
    citation = "Liu et al., Towards annotation-efficient segmentation via image-to-image translation, 2021"
    url = "https://doi.org/10.1007/978-3-030-88210-5_13"
    module = "MedGenSegmentation"
    group = "Learn from weak labels"
    carries_patient_data = True
    operations = (
        Operation(
            "train",
            "Train",
            "Learn from the good pictures.",
            TrainConfig,
            scope="collection",
            pools=(Pool("pairs", (CLEAN, NOISY, MASK)),),
            outputs=(Role("model", Kind.MODEL, "The model"),),
        ),
        Operation(
            "correct",
            "Correct labels",
            "New labels for the noisy pictures, and a better model.",
            CorrectConfig,
            scope="collection",
            pools=(Pool("pairs", (CLEAN, NOISY, MASK)),),
            outputs=(
                Role("cohort", Kind.COHORT, "The noisy pictures with corrected labels"),
                Role("model", Kind.MODEL, "The better model"),
                Role("changes", Kind.TABLE, "How many pixels changed in each picture"),
            ),
            needs_model=True,
        ),
    )

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None) -> Case:
        networks = {"region": {"threshold": torch.tensor([config.threshold])}}
        facts = {"trained_on": f"{len(collection.rows())} pairs"}
        new = Model(self.slug, networks, config.model_dump(mode="json"), {}, facts, patient_data=True)
        return Case({"model": new})

    def correct(self, collection: Collection, config: CorrectConfig, run: Run, model: Model) -> Case:
        cases, columns, changed = [], [], []
        for row in collection.rows():
            case = prepare.load_row(row, collection.declared["pairs"].roles, run.log)
            noisy = case["noisy"]
            low, high = noisy.data.min(), noisy.data.max()
            inside = noisy.data.mean(0) > low + (high - low) * model.networks["region"]["threshold"]
            mask = Mask(inside.to(torch.int16), noisy.affine, [Segment(1, "cell")], "corrected")
            before = case["mask"].data if "mask" in case else torch.zeros_like(mask.data)
            changed.append(int((before != mask.data).sum()))
            cases.append(Case({"image": noisy, "mask": mask}))
            columns.append(row.columns())
        better = Model(self.slug, model.networks, model.config, {}, model.facts, True, operation="correct")
        table = Table({"subject": [c["subject"] for c in columns], "changed_pixels": changed})
        return Case({"cohort": Cohort(cases, columns), "model": better, "changes": table})
