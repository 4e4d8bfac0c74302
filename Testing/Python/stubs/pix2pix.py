"""As bridged-pix2pix will declare itself: an unpaired pool beside a paired one, and two directions."""

from __future__ import annotations

import torch
from pydantic import Field

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Case, Image
from medgen.cohort import Collection
from medgen.jobs import Run
from medgen.method import Config, Kind, Method, Operation, Pool, Role

MR = Role("mr", Kind.IMAGE, "An MR volume", modality="MR")
CT = Role("ct", Kind.IMAGE, "A CT volume", modality="CT", units="HU")
STANDIN = Role("standin", Kind.IMAGE, "A cheap CT stand-in on the MR's grid", modality="CT", units="HU", same_grid=True)


class TrainConfig(Config):
    weight: float = Field(100.0, ge=0.0, le=1000.0, description="Weight of L1", json_schema_extra={"paper": 100.0})


class TranslateConfig(Config):
    pass


class BridgedPix2pix(Method):
    slug = "stub-bridged-pix2pix"
    title = "MR to CT and back"
    sentence = "Translates between MR and CT."
    citation = "Paavilainen et al., Bridging the gap between paired and unpaired medical image translation, 2021"
    url = "https://doi.org/10.1007/978-3-030-88210-5_4"
    module = "MedGenSynthesis"
    group = "Translate"
    operations = (
        Operation(
            "train",
            "Train",
            "Learn both directions.",
            TrainConfig,
            scope="collection",
            pools=(
                Pool("pairs", (MR, STANDIN), "MR volumes with a voxel-aligned stand-in"),
                Pool("unpaired", (CT,), "CT volumes of anybody"),
                Pool("unpaired_mr", (MR,), "Further MR volumes", optional=True),
            ),
            outputs=(Role("model", Kind.MODEL, "The model"),),
        ),
        Operation("mr-to-ct", "MR to CT", "A CT from an MR.", TranslateConfig, "case", (MR,), (), (CT,), True),
        Operation("ct-to-mr", "CT to MR", "An MR from a CT.", TranslateConfig, "case", (CT,), (), (MR,), True),
    )

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None) -> Case:
        pairs = [prepare.load_row(r, collection.declared["pairs"].roles, run.log) for r in collection.rows("pairs")]
        others = [
            prepare.load_row(r, collection.declared["unpaired"].roles, run.log) for r in collection.rows("unpaired")
        ]
        mr = torch.cat([case["mr"].data.flatten() for case in pairs])
        ct = torch.cat([case["ct"].data.flatten() for case in others])
        gain = ct.std() / mr.std()
        networks = {
            "mr_to_ct": {"gain": gain[None], "offset": (ct.mean() - gain * mr.mean())[None]},
            "ct_to_mr": {"gain": 1 / gain[None], "offset": (mr.mean() - ct.mean() / gain)[None]},
        }
        facts = {"trained_on": f"{len(pairs)} pairs and {len(others)} CT volumes"}
        return Case({"model": Model(self.slug, networks, config.model_dump(mode="json"), {}, facts)})

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        return {"MAE": float((result["ct"].data - reference["ct"].data).abs().mean())}

    def _translate(self, image: Image, network: dict[str, torch.Tensor]) -> Image:
        return Image(image.data * network["gain"] + network["offset"], image.affine, "synthetic")

    def mr_to_ct(self, case: Case, config: TranslateConfig, run: Run, model: Model) -> Case:
        return Case({"ct": self._translate(case.get("mr", Image), model.networks["mr_to_ct"])})

    def ct_to_mr(self, case: Case, config: TranslateConfig, run: Run, model: Model) -> Case:
        return Case({"mr": self._translate(case.get("ct", Image), model.networks["ct_to_mr"])})
