"""Sutures in endoscopic frames of the theatre, learnt together with frames of a simulator, in three ways.

Wang, Wang, Mu, Wang: Cross-Domain Landmarks Detection in Mitral Regurgitation (2021).

What is implemented of the paper:

- heatmaps of all points of a frame in one map, Gaussians that end at a radius (section 3.2), learnt by HRNet or
  DeepLabv3+;
- joint training (equations 1 and 7): the squared error of the theatre's frames, and lambda_sim times the simulator's;
- adversarial training (equations 3 and 4): a fully convolutional discriminator tells from the features in front of the
  head which domain they are of, and the network learns to have the simulator's taken for the theatre's;
- collaborative training (equations 5 and 6): a network for each domain; on frames of its own domain each teaches the
  other by a Kullback-Leibler divergence. The theatre's is kept;
- the peak rule (section 2.2): values that are the highest of a window, by score; those of 0.1 or more, but at least so
  many and at most so many. The paper's later rule has the bounds 4 and 10 (it calls 4 the upper and 10 the lower one:
  we take them for least and most, as its precision above its sensitivity says), its first rule 10 and 30 (table 1);
- sensitivity, precision and F1 over all points, by the rule of `medgen.pointframes`.

No code was published. Where the paper is silent, ours:

- errors are summed over a frame's pixels, the discriminator's over its patches, and averaged over frames: only so do
  the printed step sizes move anything, and are the printed weights of one order. Equation 6 divides by the pixels; we
  leave that out for the same reason;
- equation 6 has p log(q / p) alone, which is no divergence for sigmoids: it is least where q is 1. `divergence` takes
  both terms of two Bernoulli distributions, or equation 6 as printed;
- features are brought to the head's size by 1 x 1 convolution, batch normalisation and ReLU; the head is one 1 x 1
  convolution, whose map is enlarged four times. Both domains' frames go through batch normalisation together;
- the discriminator is a PatchGAN without normalisation, which would hide how the domains' features differ; random
  changes, batches and numbers of updates; Adam instead of SGD in the quick tiers;
- a peak below `floor` is never taken, not even to reach the lower bound: a frame without sutures gives none;
- the weights of the best validation F1 in the theatre are kept, where frames validate.

The text speaks of four models in collaborative training; its equations have two, and so have we. Several processes:
batch normalisation sees each process's own frames.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medgen import pointframes
from medgen.bundle import Model
from medgen.case import Case, Image
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.method import Config, Estimate, Operation, paper
from medgen.nn.cyclegan import PatchGAN
from medgen.nn.deeplab import DeepLabv3Plus
from medgen.nn.heatmaps import peaks
from medgen.nn.hrnet import HRNet, joined
from medgen.pace import seconds_an_update
from medgen.pointframes import FrameConfig, PointFrame, SutureMethod, map_of, marked_frames
from medgen.training import Best, Randomness, Training, look_due, placed

Values = NDArray[np.float64]

_LEAST_SIDE = 64  # rows and columns; the discriminator sees a quarter of them


class TrainConfig(FrameConfig):
    """How to train. Defaults are the paper's where it gives them."""

    backbone: Literal["hrnet", "hrnet-small", "deeplabv3+", "deeplabv3+-small"] = Field(
        "hrnet", description="HRNet, DeepLabv3+ (on ResNet-50), or a small form", json_schema_extra=paper("hrnet")
    )
    hrnet_width: int = Field(32, ge=2, le=64, description="Channels of HRNet's finest branch")
    resnet_width: int = Field(64, ge=8, le=128, multiple_of=8, description="Channels of DeepLab's first stage")
    features: int = Field(256, ge=4, le=1024, description="Channels of the features in front of the head")
    sigma: float = Field(
        5.0, gt=0, le=50, description="Standard deviation of a point's Gaussian", json_schema_extra=paper(5.0, "px")
    )
    radius: float = Field(24.0, gt=0, le=200, description="Where it ends", json_schema_extra=paper(24.0, "px"))
    scheme: Literal["joint", "adversarial", "collaborative"] = Field(
        "joint", description="How the simulator's frames take part", json_schema_extra=paper("joint")
    )
    simulator_weight: float = Field(
        1.0, ge=0, le=1, description="lambda_sim: weight of their error, unless collaborative; 0: the theatre alone",
        json_schema_extra=paper(1.0),
    )  # fmt: skip
    adversary_weight: float = Field(
        1.0, ge=0, le=100, description="lambda_adv: weight of passing for the theatre", json_schema_extra=paper(1.0)
    )
    adversary_width: int = Field(64, ge=4, le=128, description="Channels of the discriminator's first layer")
    adversary_rate: float = Field(
        1e-5, gt=0, le=1, description="Adam's step size for it", json_schema_extra=paper(1e-5)
    )
    divergence_weight: float = Field(
        0.1, ge=0, le=100, description="lambda_KL: weight of what the other network teaches",
        json_schema_extra=paper(0.1),
    )  # fmt: skip
    divergence: Literal["bernoulli", "printed"] = Field(
        "bernoulli", description="Both terms of the divergence of two sigmoids, or equation 6 as printed",
        json_schema_extra=paper("printed"),
    )  # fmt: skip
    updates: int = Field(50_000, ge=1, le=1_000_000, description="Updates of the network")
    optimiser: Literal["sgd", "adam"] = Field(
        "sgd", description="SGD with momentum 0.9, or Adam", json_schema_extra=paper("sgd")
    )
    learning_rate: float = Field(
        5e-5, gt=0, le=1, description="Step size (paper: 1e-5 in the schemes that are not joint)",
        json_schema_extra=paper(5e-5),
    )  # fmt: skip
    weight_decay: float = Field(1e-4, ge=0, le=1, description="Weight decay", json_schema_extra=paper(1e-4))


class ApplyConfig(Config):
    """The peak rule."""

    window: int = Field(
        5, ge=3, le=99, description="A peak is the highest in a window so wide", json_schema_extra={"unit": "px"}
    )
    least_score: float = Field(
        0.1, ge=0, le=1, description="Score from which on peaks are points", json_schema_extra=paper(0.1)
    )
    fewest: int = Field(
        4, ge=0, le=100, description="So many of the best peaks are points whatever their score (first rule: 10)",
        json_schema_extra=paper(4),
    )  # fmt: skip
    most: int = Field(
        10, ge=1, le=1000, description="At most so many are points (first rule: 30)", json_schema_extra=paper(10)
    )
    floor: float = Field(0.03, ge=0, le=1, description="No peak below it is a point", json_schema_extra=paper(0))


FIRST_RULE = {"fewest": 10, "most": 30}


# --- networks


class HeatmapNetwork(nn.Module):
    """(N, 3, h, w), multiples of 32 -> one map (N, 1, h, w). `features` gives what stands in front of the head."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        small = config.backbone.endswith("small")
        if config.backbone.startswith("hrnet"):
            self.backbone: nn.Module = (HRNet.small if small else HRNet)(config.hrnet_width)
            channels = 15 * config.hrnet_width
        else:
            self.backbone = DeepLabv3Plus("resnet-18" if small else "resnet-50", config.resnet_width, config.features)
            channels = config.features
        self.last = nn.Sequential(
            nn.Conv2d(channels, config.features, 1, bias=False), nn.BatchNorm2d(config.features), nn.ReLU(inplace=True)
        )
        self.head = nn.Conv2d(config.features, 1, 1)
        nn.init.normal_(self.head.weight, 0.0, 0.001)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def features(self, frames: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, features, h / 4, w / 4)."""
        found = self.backbone(frames)
        return self.last(found if isinstance(found, Tensor) else joined(found))

    def heat(self, features: Tensor) -> Tensor:
        """Features -> map."""
        with torch.autocast(features.device.type, enabled=False):  # in half precision neighbouring peaks would tie
            return F.interpolate(self.head(features.float()), scale_factor=4, mode="bilinear", align_corners=False)

    def forward(self, frames: Tensor) -> Tensor:
        return self.heat(self.features(frames))


# --- losses


def squared_error(found: Tensor, heatmap: Tensor) -> Tensor:
    """Summed over the pixels of maps (N, 1, h, w), mean of the frames."""
    return (found.float() - heatmap).square().sum(dim=(1, 2, 3)).mean()


def domain_loss(judged: Tensor, theatre: bool) -> Tensor:
    """L_D of equation 3: cross-entropy of the discriminator's logits (N, 1, h', w'), summed over patches, mean of N."""
    wanted = torch.full_like(judged, float(theatre))
    return F.binary_cross_entropy_with_logits(judged.float(), wanted, reduction="none").sum(dim=(1, 2, 3)).mean()


def divergence(teacher: Tensor, student: Tensor, kind: Literal["bernoulli", "printed"]) -> Tensor:
    """Equation 6, of the sigmoids p and q of maps (N, 1, h, w): p log(p / q), and with it, for two Bernoulli
    distributions, (1 - p) log((1 - p) / (1 - q)); summed over pixels, mean of N. The teacher does not learn by it."""
    teacher, student = teacher.detach().float(), student.float()
    p = torch.sigmoid(teacher)
    found = p * (F.logsigmoid(teacher) - F.logsigmoid(student))
    if kind == "bernoulli":
        found = found + (1 - p) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return found.sum(dim=(1, 2, 3)).mean()


# --- from a heatmap to points (section 2.2)


def points_of(heatmap: Tensor, config: ApplyConfig) -> tuple[Values, Values]:
    """A map (h, w) -> points (n, 2) px and their scores (n,), highest first."""
    places, scores = peaks(heatmap, max(config.floor, 1e-9), config.window // 2 * 2 + 1, config.most)
    count = max(int((scores >= config.least_score).sum()), config.fewest)
    return places[:count].double().numpy(), scores[:count].double().numpy()


# --- training


class Fit:
    """One of the three schemes as a stage of the training engine."""

    def __init__(
        self, theatre: Sequence[PointFrame], simulator: Sequence[PointFrame], config: TrainConfig, run: Run
    ) -> None:
        self.config, self.run = config, run
        self.theatre, self.shown = marked_frames(theatre, "theatre")
        self.simulator: list[PointFrame] = []
        if simulator and (config.scheme == "collaborative" or config.simulator_weight):
            self.simulator = marked_frames(simulator, "simulator")[0]
        elif config.scheme != "joint":
            raise UserError(
                f"“scheme” is {config.scheme}, which needs frames of a simulator; give a pool “simulator” (and to "
                "“adversarial” a “simulator_weight” above 0), or take “joint”."
            )
        if config.scheme == "adversarial" and min(config.rows, config.columns) < _LEAST_SIDE:
            raise UserError(
                f"“rows” and “columns” are too few for the discriminator of “scheme” adversarial; give {_LEAST_SIDE} "
                "or more of each."
            )
        names = ["theatre", "simulator"] if config.scheme == "collaborative" else ["theatre"]
        torch.manual_seed(run.seed)
        self.networks = {name: placed(HeatmapNetwork(config), run) for name in names}
        self.optimisers = {name: make_optimiser(network, config) for name, network in self.networks.items()}
        self.random, self.best = Randomness(run.seed), Best()
        parts: dict[str, Any] = {f"{name} network": network for name, network in self.networks.items()}
        parts |= {f"{name} optimiser": optimiser for name, optimiser in self.optimisers.items()}
        if config.scheme == "adversarial":
            self.judge = placed(PatchGAN(config.features, config.adversary_width, layers=2, norm=False), run)
            self.judge_adam = torch.optim.Adam(self.judge.parameters(), lr=config.adversary_rate)
            parts |= {"judge": self.judge, "judge adam": self.judge_adam}
        self.training = Training(run, {**parts, "random": self.random, "best": self.best})

    @property
    def network(self) -> nn.Module:
        """The one that is kept: the theatre's."""
        return self.networks["theatre"]

    def fit(self) -> dict[str, Tensor]:
        """The weights to keep."""
        update = {"joint": self.join, "adversarial": self.deceive, "collaborative": self.collaborate}
        for number in self.training.stage(self.config.scheme, self.config.updates):
            for network in self.networks.values():
                network.train()
            self.run.metric("loss", update[self.config.scheme](number), number)
            if self.shown and look_due(number, self.config.validate_every, self.config.updates):
                self.training.look("validation F1", self._f1, number + 1, self.network, self.best)
        return self.best.kept(self.network)

    def join(self, number: int) -> float:
        """Update `number` by equation 1; the loss."""
        frames, maps, own = self._both()
        with self.training.autocast():
            found = self.network(frames)
        return self.training.step(self._weighted(found, maps, own), self.optimisers["theatre"])

    def deceive(self, number: int) -> float:
        """Update `number` of the network by equation 4, and of the discriminator by equation 3; the network's loss."""
        frames, maps, own = self._both()
        with self.training.autocast():
            features = self.network.features(frames)  # type: ignore[operator]
            found = self.network.heat(features)  # type: ignore[operator]
            taken = domain_loss(self.judge(features[own:]), theatre=True)
        loss = self._weighted(found, maps, own) + self.config.adversary_weight * taken
        value = self.training.step(loss, self.optimisers["theatre"])
        self.judge_adam.zero_grad(set_to_none=True)  # what the network's loss left there
        seen = features.detach()
        with self.training.autocast():
            judged = domain_loss(self.judge(seen[:own]), True) + domain_loss(self.judge(seen[own:]), False)
        self.run.metric("discriminator loss", self.training.step(judged, self.judge_adam), number)
        return value

    def collaborate(self, number: int) -> float:
        """Update `number` of both networks by equation 5; the sum of their losses."""
        frames, maps, own = self._both()
        parts = {"theatre": slice(0, own), "simulator": slice(own, None)}
        with self.training.autocast():
            found = {name: network(frames) for name, network in self.networks.items()}
        total = torch.zeros((), device=self.run.device)
        for name, other in (("theatre", "simulator"), ("simulator", "theatre")):
            total = total + squared_error(found[name][parts[name]], maps[parts[name]])
            taught = divergence(found[other][parts[other]], found[name][parts[other]], self.config.divergence)
            total = total + self.config.divergence_weight * taught
        return self.training.step(total, *self.optimisers.values())

    def _weighted(self, found: Tensor, maps: Tensor, own: int) -> Tensor:
        """Equation 1 of maps of which the first `own` are the theatre's."""
        loss = squared_error(found[:own], maps[:own])
        if len(maps) > own:
            loss = loss + self.config.simulator_weight * squared_error(found[own:], maps[own:])
        return loss

    def _both(self) -> tuple[Tensor, Tensor, int]:
        """Frames of the theatre, then as many of the simulator (where they take part), their maps, and how many are
        the theatre's."""
        pools = [pool for pool in (self.theatre, self.simulator) if pool]
        config, batch = self.config, []
        for pool in pools:
            batch += pointframes.random_batch(self.training, pool, config.batch_size, config.limits, self.random.numpy)
        frames, maps = pointframes.with_maps(batch, config.size, self.run.device, config.sigma, config.radius)
        return frames, maps, len(batch) // len(pools)

    def _f1(self) -> float:
        rule = ApplyConfig.model_validate({})

        def points(frame: PointFrame) -> Values:
            heatmap = map_of(self.network, frame.pixels, self.run)[: frame.inner[0], : frame.inner[1]]
            return points_of(heatmap, rule)[0]

        return pointframes.f1_over(self.shown, points)


def make_optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam."""
    if config.optimiser == "adam":
        return torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(network.parameters(), config.learning_rate, momentum=0.9, weight_decay=config.weight_decay)


# --- the method

_SMALL = {"backbone": "hrnet-small", "hrnet_width": 8, "resnet_width": 16, "features": 32, "batch_size": 4,
          "optimiser": "adam", "learning_rate": 3e-3, "adversary_width": 16, "adversary_rate": 3e-4}  # fmt: skip
_SMOKE = {"rows": 64, "columns": 96, "sigma": 2.0, "radius": 8.0, "updates": 40, "validate_every": 40}
_DEMO = {"rows": 160, "columns": 256, "sigma": 2.5, "radius": 12.0, "updates": 600, "validate_every": 100}


class SutureCrossDomain(SutureMethod):
    """Heatmaps of two domains; see the module's docstring."""

    slug = "suture-cross-domain"
    title = "Find sutures, learning from two domains"
    sentence = "Finds where sutures enter the tissue in frames of the theatre, learnt together with a simulator's."
    citation = (
        "Wang, Wang, Mu, Wang. Cross-Domain Landmarks Detection in Mitral Regurgitation. Deep Generative Models, and "
        "Data Augmentation, Labelling, and Imperfections (MICCAI workshops), 2021"
    )
    url = "https://doi.org/10.1007/978-3-030-88210-5_12"
    needs = "Marked frames of the theatre; marked frames of a simulator help."
    limits = "The peak rule wants a usual number of sutures in a frame: set “fewest” and “most” to what yours have."
    operations = pointframes.operations(
        ("Learn from marked frames of both domains.", TrainConfig,
         {"smoke": {**_SMALL, **_SMOKE}, "demo": {**_SMALL, **_DEMO}, "paper": {}}),
        ApplyConfig, {"smoke": {}, "demo": {}, "paper": {}},
    )  # fmt: skip

    def fit(
        self, theatre: Sequence[PointFrame], simulator: Sequence[PointFrame], config: TrainConfig, run: Run
    ) -> Model:
        """By the chosen scheme, on frames in memory."""
        began = time.monotonic()
        fit = Fit(theatre, simulator, config, run)
        if not fit.simulator:
            run.log("No frame of a simulator takes part: the network learns from the theatre's alone.")
        weights = fit.fit()
        facts = {
            "frames of the theatre": len(fit.theatre),
            "frames of the simulator": len(fit.simulator),
            "points": sum(len(frame.points) for frame in (*fit.theatre, *fit.simulator)),
            "validation F1": round(fit.best.value, 4) if fit.best.weights else "not measured",
            "seconds": round(time.monotonic() - began, 1),
        }
        return Model(self.slug, {"network": weights}, config.model_dump(mode="json"), {}, facts)

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model | None = None) -> Case:
        """A frame -> its sutures, surest first; an empty list where no peak reaches the floor."""
        assert model is not None
        image, trained = case.get("image", Image), model.trained(TrainConfig)
        network = placed(model.network("network", lambda: HeatmapNetwork(trained)), run)
        see, rule = partial(map_of, network, run=run), partial(points_of, config=config)
        return Case({"points": pointframes.sutures_in(image, trained.size, see, rule, run.log)})

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Measured on this device: an update of the real network on small frames, scaled to what the run will do."""
        if isinstance(config, ApplyConfig):
            trained = model.trained(TrainConfig) if model is not None else TrainConfig.model_validate({})
            seconds = self._pixel(trained, run) * trained.rows * trained.columns / 3
            return Estimate(3 + len(cases) * (0.1 + seconds), 2**29 + _bytes(trained) // 3, 2**14 * len(cases))
        assert isinstance(config, TrainConfig)
        theatre, simulator = pointframes.of_pools(cases, run)
        marked_frames(theatre, "theatre")
        joins = bool(simulator) and (config.scheme == "collaborative" or config.simulator_weight > 0)
        frames = config.batch_size * (2 if joins else 1) * (2 if config.scheme == "collaborative" else 1)
        pixels = frames * config.rows * config.columns
        seconds = config.updates * pixels * (self._pixel(config, run) + pointframes.SECONDS_A_PIXEL)
        memory = 2**29 + frames * _bytes(config) + 3 * config.rows * config.columns * len(cases)
        return Estimate(5 + 1.2 * seconds, memory, 2**28)

    @staticmethod
    def _pixel(config: TrainConfig, run: Run) -> float:
        """Seconds of an update for each pixel."""
        return seconds_an_update(HeatmapNetwork(config), (2, 3, 64, 64), run) / (2 * 64**2)


def _bytes(config: TrainConfig) -> int:
    """About what a frame of a batch takes in a training: maps of a quarter's size weigh most."""
    if config.backbone.startswith("hrnet"):
        maps = (160 if config.backbone.endswith("small") else 700) * config.hrnet_width // 4
    else:
        maps = (30 if config.backbone.endswith("small") else 90) * config.resnet_width
    return config.rows * config.columns // 4 * (maps + 4 * config.features)
