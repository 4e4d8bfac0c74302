"""As rating methods will declare themselves: an operation on a set, whose heavy step is done image by image."""

from __future__ import annotations

import torch

from medgen.bundle import Model
from medgen.case import Case, Latent, Table
from medgen.jobs import Run
from medgen.method import Config, Kind, Method, Operation, Role


class RankConfig(Config):
    pass


class Ranker(Method):
    slug = "stub-ranker"
    title = "Rank images"
    sentence = "Ranks images by how bright they are."
    citation = "Nobody, Ranks, 2026"
    url = "https://example.org/rank"
    module = "MedGenSynthesis"
    group = "Evaluate"
    operations = (
        Operation(
            "rank",
            "Rank",
            "Rank images by their brightness among the others.",
            RankConfig,
            scope="set",
            features="moments",
            inputs=(Role("image", Kind.IMAGE, "An image"),),
            outputs=(Role("ranks", Kind.TABLE, "Rank and standard score of each"),),
        ),
    )

    def moments(self, case: Case, config: RankConfig, run: Run, model: Model | None) -> Latent:
        data = case["image"].data.double()
        return Latent({"mean": data.mean()[None], "sd": data.std()[None]})

    def rank(self, cases: list[Case], config: RankConfig, run: Run, model: Model | None) -> Case:
        means = torch.cat([case["features"].tensors["mean"] for case in cases])
        scores = (means - means.mean()) / means.std()
        ranks = (-means).argsort().argsort() + 1
        return Case({"ranks": Table({"rank": ranks.tolist(), "score": [round(s, 6) for s in scores.tolist()]})})
