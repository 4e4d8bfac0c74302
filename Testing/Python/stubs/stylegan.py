"""As 3d-stylegan will declare itself: volumes out of nothing, projection to a latent, style mixing of two latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Case, Image, Latent
from medgen.cohort import Collection
from medgen.jobs import Run
from medgen.method import Config, Grid, Kind, Method, Operation, Pool, Role
from medgen.training import EMA, Randomness, Training

SHAPE = (8, 10, 6)
WIDTH = 4


class TrainConfig(Config):
    steps: int = Field(20, ge=1, le=100_000, description="Updates of the generator")


class SampleConfig(Config):
    count: int = Field(2, ge=1, le=64, description="How many volumes")
    truncation: float = Field(
        1.0, ge=0.0, le=1.0, description="How near to the mean latent", json_schema_extra={"paper": 1.0}
    )


class ProjectConfig(Config):
    steps: int = Field(30, ge=1, le=10_000, description="Steps of the search for the latent")


class MixConfig(Config):
    first_fine: int = Field(2, ge=0, le=WIDTH, description="The first latent entry taken from the fine volume")


class Stylegan3D(Method):
    slug = "stub-3d-stylegan"
    title = "Generate volumes"
    sentence = "Makes new volumes like those it was trained on."
    citation = "Hong et al., 3D-StyleGAN, 2021"
    url = "https://doi.org/10.1007/978-3-030-88210-5_3"
    module = "MedGenSynthesis"
    group = "Generate"
    _volume = Role("image", Kind.IMAGE, "A volume", modality="MR")
    operations = (
        Operation(
            "train",
            "Train",
            "Learn from volumes.",
            TrainConfig,
            scope="collection",
            pools=(Pool("cases", (_volume,)),),
            outputs=(Role("model", Kind.MODEL, "The model"),),
            tiers={"smoke": {"steps": 5}, "demo": {}, "paper": {"steps": 1000}},
        ),
        Operation(
            "sample",
            "Generate",
            "New volumes out of nothing.",
            SampleConfig,
            scope="nothing",
            outputs=(Role("images", Kind.IMAGE, "New volumes", many=True),),
            needs_model=True,
            grid=Grid(SHAPE, (2.0, 2.0, 2.0)),
        ),
        Operation(
            "project",
            "Project",
            "Find the latent of a volume.",
            ProjectConfig,
            inputs=(_volume,),
            outputs=(Role("latent", Kind.LATENT, "Its latent"), Role("image", Kind.IMAGE, "What the latent gives")),
            needs_model=True,
        ),
        Operation(
            "mix",
            "Mix styles",
            "Coarse shape of one, fine detail of another.",
            MixConfig,
            inputs=(Role("coarse", Kind.LATENT, "Gives shape"), Role("fine", Kind.LATENT, "Gives detail")),
            outputs=(Role("image", Kind.IMAGE, "The mixture"),),
            needs_model=True,
        ),
    )

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None) -> Case:
        roles = collection.declared["cases"].roles
        volumes = [prepare.load_row(row, roles, run.log)["image"].data for row in collection.rows()]
        random = Randomness(run.seed)
        network = nn.Linear(WIDTH, int(np.prod(SHAPE)))
        adam = torch.optim.Adam(network.parameters(), 0.05)
        average = EMA(network, 0.9)
        training = Training(run, {"generator": network, "adam": adam, "ema": average, "random": random})
        for step in training.stage("adversarial", config.steps):
            target = volumes[int(random.numpy.integers(len(volumes)))]
            target = nn.functional.interpolate(target[None], SHAPE).flatten().to(run.device)
            latent = torch.randn(WIDTH, generator=random.torch).to(run.device)
            value = training.step((network(latent) - target).square().mean(), adam)
            average.update(network)
            run.metric("loss", value, step)
        networks = {"generator": network.state_dict(), "generator_ema": average.state_dict()}
        facts = {"trained_on": f"{len(volumes)} volumes"}
        return Case({"model": Model(self.slug, networks, config.model_dump(mode="json"), {}, facts)})

    def _image(self, latent: torch.Tensor, model: Model) -> Image:
        network = model.network("generator_ema", lambda: nn.Linear(WIDTH, int(np.prod(SHAPE))))
        with torch.no_grad():
            return Image(network(latent).reshape(1, *SHAPE), np.diag([2.0, 2.0, 2.0, 1.0]), "generated")

    def sample(self, config: SampleConfig, run: Run, model: Model) -> Case:
        generator = torch.Generator().manual_seed(run.seed)
        latents = config.truncation * torch.randn(config.count, WIDTH, generator=generator)
        return Case({"images": [self._image(latent, model) for latent in latents]})

    def project(self, case: Case, config: ProjectConfig, run: Run, model: Model) -> Case:
        image = case.get("image", Image)
        weights = model.networks["generator_ema"]
        target = nn.functional.interpolate(image.data[None], SHAPE).flatten() - weights["bias"]
        latent = torch.linalg.lstsq(weights["weight"], target[:, None]).solution[:, 0]
        return Case({"latent": Latent({"w": latent}), "image": self._image(latent, model)})

    def mix(self, case: Case, config: MixConfig, run: Run, model: Model) -> Case:
        coarse, fine = (case.get(name, Latent).tensors["w"] for name in ("coarse", "fine"))
        mixed: Any = torch.cat([coarse[: config.first_fine], fine[config.first_fine :]])
        return Case({"image": self._image(mixed, model)})
