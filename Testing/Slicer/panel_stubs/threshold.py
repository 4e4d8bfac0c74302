"""A threshold learned from annotated slices: the roles and settings of a real method, a second of work."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Case, Image, Mask, Plane, Segment
from medgen.cohort import Collection
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.method import Config, Estimate, Kind, Method, Operation, Pool, Role, memory_window
from medgen.training import CHECKPOINT

IMAGE = Role("image", Kind.IMAGE, "The volume to segment")
MASK = Role("mask", Kind.MASK, "The structure, drawn on a few slices", may_be_empty=True)
PLANES = Role("planes", Kind.PLANE, "The slices that are drawn completely", many=True, optional=True)


class TrainConfig(Config):
    """Every type of setting once."""

    steps: int = Field(
        4, ge=1, le=10000, description="Rounds of looking at the slices", json_schema_extra={"paper": 400}
    )
    pause: float = Field(0.0, ge=0, le=10, description="Rest after each round", json_schema_extra={"unit": "s"})
    learning_rate: float = Field(1e-5, gt=0, le=0.1, description="Step size", json_schema_extra={"paper": 1e-5})
    rule: Literal["middle", "otsu"] = Field("middle", description="Where the threshold is put")
    smooth: bool = Field(False, description="Smooth the volume first")
    label: str = Field("structure", description="What the structure is called")
    window: list[int] = Field([0, 1000], description="Range of intensities looked at")


class ApplyConfig(Config):
    """Only what the result depends on, and what it may need of memory."""

    shift: float = Field(0.0, ge=-100, le=100, description="Moves the threshold", json_schema_extra={"unit": "HU"})
    window: int = Field(
        64, ge=16, le=512, multiple_of=8, description="Side of a window", json_schema_extra=memory_window(16, 8)
    )
    room: int = Field(512, ge=0, le=512, description="The largest window that there is memory for")


class InvertConfig(Config):
    """Nothing to set."""


class Threshold(Method):
    """Mean of the intensities inside and outside, on annotated slices."""

    slug = "stub-threshold"
    title = "Threshold from a few slices"
    sentence = (
        "Finds the threshold that separates a structure drawn on a few slices, and segments the whole volume with it."
    )
    citation = "Nobody, A threshold for everything, 1979"
    url = "https://doi.org/10.1109/TSMC.1979.4310076"
    module = "MedGenSegmentation"
    group = "Segment"
    needs = "One volume with a structure drawn on one slice or more."
    limits = "Finds nothing that is not brighter than its surroundings."
    phantoms = ("abdomen-ct-drawn",)
    operations = (
        Operation(
            "train",
            "Train",
            "Learn the threshold.",
            TrainConfig,
            scope="collection",
            pools=(Pool("cases", (IMAGE, MASK, PLANES)),),
            outputs=(Role("model", Kind.MODEL, "The threshold"),),
            tiers={"smoke": {"steps": 2}, "demo": {"steps": 4}, "paper": {"steps": 400}},
        ),
        Operation(
            "apply",
            "Apply",
            "Segment the whole volume.",
            ApplyConfig,
            inputs=(IMAGE,),
            outputs=(Role("mask", Kind.MASK, "The structure in the whole volume"),),
            needs_model=True,
        ),
        Operation(
            "invert",
            "Invert",
            "Turn dark into bright.",
            InvertConfig,
            inputs=(IMAGE,),
            outputs=(Role("inverted", Kind.IMAGE, "The inverted volume"),),
        ),
    )

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Four minutes, whatever comes; the slices along k that hold something when none was named."""
        if isinstance(config, ApplyConfig):
            if float(cases[0].get("image", Image).data.max()) < 0:
                raise UserError("Everything is darker than nothing; choose a brighter image.")
            return Estimate(seconds=20.0, memory_bytes=config.window**3 * 2**14, disk_bytes=2**20)
        suggested = {}
        if operation.name == "train" and cases and not cases[0].many("planes"):
            mask = cases[0].get("mask", Mask)
            slices = torch.nonzero((mask.data > 0).any(dim=0).any(dim=0))[:, 0].tolist()
            if not slices:
                raise UserError(f"Mask “{mask.name}” is empty; draw the structure on a slice.")
            normal = mask.affine[:3, :3] / np.linalg.norm(mask.affine[:3, :3], axis=0)
            centre = [size / 2 for size in mask.shape[:2]]
            suggested["planes"] = [Plane((mask.affine @ [*centre, k, 1])[:3], normal, f"slice {k}") for k in slices]
        return Estimate(seconds=240.0, memory_bytes=2**29, disk_bytes=2**20, suggested=suggested)

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None = None) -> Case:
        """The threshold of the first row."""
        rows = [row for row in collection.rows() if row.split != "test"]
        case, *others = [prepare.load_row(row, collection.declared["cases"].roles, run.log) for row in rows]
        shown = next((other for other in others if other.row.get("split") == "validation"), case)
        image, mask = case.get("image", Image), case.get("mask", Mask)
        if not bool((mask.data > 0).any()):
            raise UserError(f"Mask “{mask.name}” is empty; draw the structure on a slice.")
        torch.save({}, run.folder / CHECKPOINT)
        for step in range(config.steps):
            run.progress(step, config.steps, "fit")
            run.metric("loss", 1.0 / (step + 1), step)
            if step % 4 == 0:
                run.metric("validation_dice", 1 - 1 / (step + 2), step)
            run.preview("mask", lambda step=step: _grown(shown, step), step, files=shown.files, measure={"Dice": 0.5})
            time.sleep(config.pause)
        run.progress(config.steps, config.steps, "fit")
        seen = torch.zeros(mask.shape, dtype=torch.bool)
        planes = case.many("planes")
        for plane in planes:
            k = np.linalg.solve(mask.affine, [*plane.origin, 1])[2]
            seen[:, :, round(float(k))] = True
        run.log(f"Learned from {len(planes)} slices.")
        chosen = seen if planes else torch.ones_like(seen)
        inside = image.data[0][(mask.data > 0) & chosen].mean()
        outside = image.data[0][(mask.data == 0) & chosen].mean()
        weights = {"threshold": {"value": ((inside + outside) / 2).reshape(1)}}
        settings = {"label": config.label}
        facts = {"trained_on": f"{len(planes)} slices of one volume", "dice": 0.9}
        return Case({"model": Model(self.slug, weights, config.model_dump(mode="json"), settings, facts)})

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model) -> Case:
        """Voxels above the threshold."""
        image = case.get("image", Image)
        run.progress(0, 1, "segment")
        if config.window > config.room:
            raise torch.OutOfMemoryError
        labels = (image.data[0] > model.networks["threshold"]["value"] + config.shift).to(torch.int16)
        segment = Segment(1, model.settings["label"], (0.9, 0.3, 0.2))
        return Case({"mask": Mask(labels, image.affine, [segment], "structure")})

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        """Dice's coefficient."""
        ours, theirs = (case.get("mask", Mask).data > 0 for case in (result, reference))
        return {"dice": float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()).clamp(min=1))}

    def invert(self, case: Case, config: InvertConfig, run: Run, model: Model | None) -> Case:
        """Maximum minus value."""
        image = case.get("image", Image)
        return Case({"inverted": Image(image.data.max() - image.data, image.affine, "inverted")})


def _grown(case: Case, step: int) -> Mask:
    """A preview: what is bright, in more slices with every step."""
    image = case.get("image", Image)
    labels = (image.data[0] > 150).to(torch.int16)
    labels[:, :, 10 + step % 8 :] = 0
    return Mask(labels, image.affine, [Segment(1, "structure", (0.2, 0.6, 0.9))], "preview")
