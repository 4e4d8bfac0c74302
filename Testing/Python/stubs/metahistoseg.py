"""As metahistoseg will declare itself: tasks with classes of their own, a model adapted to a new task, 2D pictures."""

from __future__ import annotations

import torch
from pydantic import Field

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Case, Image, Mask, Segment
from medgen.cohort import Collection
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.method import Config, Kind, Method, Operation, Pool, Role

PICTURE = Role("image", Kind.IMAGE, "A stained picture", dims="2D")
MASK = Role("mask", Kind.MASK, "Its labels", dims="2D", same_grid=True)
MODEL = Role("model", Kind.MODEL, "The model")


class TrainConfig(Config):
    inner_steps: int = Field(5, ge=1, le=100, description="Inner steps of MAML", json_schema_extra={"paper": 5})


class ApplyConfig(Config):
    pass


class MetaHistoSeg(Method):
    slug = "stub-metahistoseg"
    title = "Learn a new tissue from a few pictures"
    sentence = "Starts from many tissue data sets and learns a new one from a few pictures."
    citation = "Yuan et al., MetaHistoSeg, 2021"
    url = "https://doi.org/10.1007/978-3-030-88210-5_23"
    module = "MedGenSegmentation"
    group = "Adapt"
    operations = (
        Operation(
            "train",
            "Meta-train",
            "Learn a start from tasks with different classes.",
            TrainConfig,
            scope="collection",
            pools=(Pool("tasks", (PICTURE, MASK), "Pictures of many tasks", needs=("task",)),),
            outputs=(MODEL,),
        ),
        Operation(
            "adapt",
            "Adapt",
            "Learn a new task from a few pictures.",
            TrainConfig,
            scope="collection",
            pools=(Pool("support", (PICTURE, MASK), "A few pictures of the new task"),),
            outputs=(MODEL,),
            needs_model=True,
        ),
        Operation("apply", "Apply", "Segment a picture.", ApplyConfig, "case", (PICTURE,), (), (MASK,), True),
    )

    def _centres(self, cases: list[Case]) -> tuple[torch.Tensor, list[int]]:
        labels = sorted({int(v) for case in cases for v in case["mask"].data.unique()})
        centres = [
            torch.stack([c["image"].data[:, c["mask"].data == v].mean(1) for c in cases if (c["mask"].data == v).any()])
            for v in labels
        ]
        return torch.stack([centre.mean(0) for centre in centres]), labels

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None) -> Case:
        roles = collection.declared["tasks"].roles
        networks = {}
        settings: dict[str, list[int]] = {}
        for task in collection.tasks():
            cases = [prepare.load_row(row, roles, run.log) for row in collection.rows() if row.task == task]
            centres, settings[task] = self._centres(cases)
            networks[f"head_{task}"] = {"centres": centres}
        if len(networks) < 2:
            raise UserError(f"{collection.path} has one task only; meta-training needs two or more in column “task”.")
        facts = {"tasks": list(settings)}
        return Case({"model": Model(self.slug, networks, config.model_dump(mode="json"), {"labels": settings}, facts)})

    def adapt(self, collection: Collection, config: TrainConfig, run: Run, model: Model) -> Case:
        roles = collection.declared["support"].roles
        centres, labels = self._centres([prepare.load_row(row, roles, run.log) for row in collection.rows()])
        networks = {**model.networks, "head_new": {"centres": centres}}
        settings = {"labels": {**model.settings["labels"], "new": labels}}
        new = Model(self.slug, networks, config.model_dump(mode="json"), settings, model.facts, operation="adapt")
        return Case({"model": new})

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model) -> Case:
        if "head_new" not in model.networks:
            raise UserError(
                f"Model “{model.name}” is a start only; adapt it to your tissue with medgen run … adapt first."
            )
        image = case.get("image", Image)
        centres = model.networks["head_new"]["centres"]
        nearest = (image.data[None] - centres[:, :, None, None]).square().sum(1).argmin(0)
        labels = torch.tensor(model.settings["labels"]["new"])[nearest]
        return Case({"mask": Mask(labels.to(torch.int16), image.affine, [Segment(1, "tissue")], "tissue")})
