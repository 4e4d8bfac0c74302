"""Sutures of a mitral valve repair are found in endoscopic frames, however many there are, as peaks of one heatmap.

Yao, Guo, Zhang, Li: Improved Heatmap-Based Landmark Detection (2021).

What is implemented of the paper:

- all points of a frame are Gaussians in one map (section 2.3), which a U-Net with a ResNeXt encoder learns under the
  Dice loss of its sigmoid (section 2.4), with flips, turns of up to 40 degrees and changes of colour and brightness;
- from the map to points (section 2.5): Otsu's threshold, opening, and of each blob the centre of mass; a blob whose
  area is above the mean of all is cut at its centre of mass, across its longer side, and gives the centres of both
  parts;
- CycleGAN turns frames of the simulator into such as of the theatre, which enlarge the training set (`simulator`:
  translated, joined as they are, or left out);
- precision, sensitivity and F1 over all points within 6 pixels of a frame 512 wide (equations 1 to 3). The matching
  rule is not stated: here the closest pair comes first, strictly within the radius, each point once.

No code was published. Where the paper is silent, ours:

- the map takes the highest Gaussian at each pixel; its sigma (the baseline's loader has 3 pixels of 512); batch, step
  size and number of updates; Dice is over the whole batch, plus 1 above and below;
- the paper has 16 filters in the first layer, 512 at the bottom and a ResNeXt encoder, which has 2048 there: we keep
  the encoder, and a decoder that ends with 16;
- the threshold is taken of the map in 256 levels. Otsu's finds something in every map, also where no suture is: blobs
  whose mean is below `least_score` are left out, and the mean is a point's confidence;
- a blob as high as wide is cut along its rows. Cutting all above the mean also cuts many single ones in two; the demo
  tier cuts from 1.5 times the mean on (`cut_above`), and joins the simulator's frames as they are: translated by
  so short a training of CycleGAN they do harm (docs/claims.md);
- half of the frames that an update sees are the simulator's (`simulator_share`), however many there are of each;
- the translator sees random pieces of frames, as CycleGAN's own training does; of frames nobody has marked it learns
  too. Frames are fitted to the canvas in their proportions; the weights of the best validation F1 are kept.

Several processes: batch normalisation sees each process's own frames; the pools of past images are each process's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from medgen import pointframes
from medgen.bundle import Model
from medgen.case import Case, Image
from medgen.cyclegan import CycleGAN, Recipe, random_pieces
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.method import Config, Estimate, Operation, lowers_memory, paper
from medgen.nn.resnet import ResNet
from medgen.pace import seconds_an_update
from medgen.pointframes import FrameConfig, PointFrame, SutureMethod, marked_frames, normalised
from medgen.training import Best, Randomness, Training, look_due, placed, set_rate

Values = NDArray[np.float64]
_LEAST_PIECE = 24  # pixels that CycleGAN's discriminators need each way
_VALIDATION_CUT = 1.5  # `cut_above` where the weights are chosen


class TrainConfig(FrameConfig):
    """How to train. Defaults are the paper's where it gives them, and CycleGAN's for the translator."""

    encoder: Literal["resnext-50", "resnext-14"] = Field("resnext-50", description="ResNeXt, or its small form")
    width: int = Field(64, ge=8, le=128, multiple_of=8, description="Channels of the encoder's first layer")
    decoder_width: int = Field(
        16, ge=2, le=128, description="Channels of the decoder's last block; each before it has twice as many",
        json_schema_extra=paper(16),
    )  # fmt: skip
    sigma: float = Field(
        3.0, gt=0, le=50, description="Standard deviation of a point's Gaussian", json_schema_extra={"unit": "px"}
    )
    simulator: Literal["translated", "joined", "left out"] = Field(
        "translated", description="What becomes of the simulator's frames", json_schema_extra=paper("translated")
    )
    rotation: float = Field(
        40.0, ge=0, le=180, description="Largest random turn", json_schema_extra=paper(40.0, "degree")
    )
    simulator_share: float = Field(
        0.5, ge=0, le=1, description="Share of the frames an update sees that are the simulator's, where they take part"
    )
    updates: int = Field(20_000, ge=1, le=1_000_000, description="Updates of the U-Net")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size; it falls along a cosine to 0")
    translator_updates: int = Field(100_000, ge=1, le=10_000_000, description="Updates of CycleGAN")
    translator_crop: int = Field(
        256, ge=32, le=2048, multiple_of=4, description="Side of the pieces it sees, at most the canvas's",
        json_schema_extra={"unit": "px", **lowers_memory()},
    )  # fmt: skip
    translator_batch: int = Field(1, ge=1, le=64, description="Pieces of each domain an update")
    translator_width: int = Field(64, ge=4, le=128, description="Channels of its generators' first layer")
    translator_blocks: int = Field(9, ge=1, le=16, description="Residual blocks of its generators")
    translator_rate: float = Field(2e-4, gt=0, le=1, description="Its step size in the first half of the updates")
    cycle_weight: float = Field(10.0, ge=0, le=1000, description="Weight of the cycle loss")
    identity_weight: float = Field(0.5, ge=0, le=10, description="Weight of the identity loss, as a share of that")

    @property
    def recipe(self) -> Recipe:
        """Of the translator."""
        return Recipe(
            width=self.translator_width, blocks=self.translator_blocks, discriminator_width=self.translator_width,
            cycle=self.cycle_weight, identity=self.identity_weight, learning_rate=self.translator_rate,
        )  # fmt: skip


class ApplyConfig(Config):
    """From a heatmap to points."""

    opening: int = Field(
        1, ge=0, le=20, description="Radius of the disc that blobs are opened with; 0: none",
        json_schema_extra={"unit": "px"},
    )  # fmt: skip
    cut_above: float = Field(
        1.0, ge=0.5, le=100, description="Blobs larger than so many times the mean blob are cut in two",
        json_schema_extra=paper(1.0),
    )  # fmt: skip
    least_score: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Blobs whose mean in the heatmap is lower are left out",
        json_schema_extra=paper(0),
    )


# --- network and loss (section 2.4)


class ResNeXtUNet(nn.Module):
    """(N, 3, h, w), multiples of 32 -> logits of the heatmap (N, 1, h, w).

    The encoder's maps at a half to a 32nd of the size; five times up by repeating pixels, joined with the encoder's map
    of that size, and two 3 x 3 convolutions with batch normalisation.
    """

    def __init__(self, kind: Literal["resnext-50", "resnext-14"], width: int, decoder_width: int) -> None:
        super().__init__()
        self.encoder = ResNet(kind, width, norm=nn.BatchNorm2d)
        skips = [*self.encoder.channels[-2::-1], width, 0]
        widths = [self.encoder.channels[-1], *(decoder_width * 2**level for level in (4, 3, 2, 1, 0))]
        self.decoder = nn.ModuleList(
            nn.Sequential(*self._layer(below + skip, own), *self._layer(own, own))
            for below, skip, own in zip(widths, skips, widths[1:], strict=False)
        )
        self.head = nn.Conv2d(decoder_width, 1, 1)
        nn.init.constant_(self.head.bias, -3.0)  # type: ignore[arg-type]  # most of a map is empty

    @staticmethod
    def _layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    def forward(self, frames: Tensor) -> Tensor:
        stem = self.encoder.stem(frames)
        *skips, found = stem, *self.encoder.stages(stem)
        for block in self.decoder:
            found = F.interpolate(found, scale_factor=2, mode="nearest")
            found = block(torch.cat((found, skips.pop()), dim=1) if skips else found)
        return self.head(found)


def dice_loss(logits: Tensor, heatmap: Tensor) -> Tensor:
    """1 - (2 sum p g + 1) / (sum p + sum g + 1) of the sigmoid p and heatmaps g in 0..1, over the whole batch."""
    shown = torch.sigmoid(logits.float())
    return 1 - (2 * (shown * heatmap).sum() + 1) / (shown.sum() + heatmap.sum() + 1)


# --- from a heatmap to points (section 2.5)


def blobs(heatmap: Values, opening: int) -> NDArray[np.int32]:
    """A map (h, w) in 0..1 -> the numbers, from 1, of the 8-connected blobs above Otsu's threshold, opened."""
    from skimage.filters import threshold_otsu
    from skimage.morphology import disk

    grey = np.rint(255 * heatmap).astype(np.uint8)
    if grey.min() == grey.max():
        return np.zeros(grey.shape, np.int32)
    above = grey > threshold_otsu(grey)
    if opening:
        above = ndimage.binary_opening(above, disk(opening))
    return np.asarray(ndimage.label(above, np.ones((3, 3)))[0], np.int32)


def cut(pixels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """A blob's pixels (n, 2) in two, at its centre of mass and across the longer side of its bounding box."""
    height, width = np.ptp(pixels, axis=0) + 1
    axis = 0 if height > width else 1
    before = pixels[:, axis] < pixels[:, axis].mean()
    return [part for part in (pixels[before], pixels[~before]) if len(part)]


def points_of(heatmap: Values, config: ApplyConfig) -> tuple[Values, Values]:
    """A map (h, w) in 0..1 -> points (n, 2) px and their scores (n,): the mean of the map over each blob."""
    numbers = blobs(heatmap, config.opening)
    inside = np.argwhere(numbers)
    of = numbers[numbers > 0]
    ends = np.cumsum(np.bincount(of, minlength=1)[1:-1])
    each = np.split(inside[np.argsort(of, kind="stable")], ends)
    where = [pixels for pixels in each if len(pixels) and heatmap[tuple(pixels.T)].mean() >= config.least_score]
    if not where:
        return np.empty((0, 2)), np.empty(0)
    limit = config.cut_above * np.mean([len(pixels) for pixels in where])
    parts = [part for pixels in where for part in (cut(pixels) if len(pixels) > limit else [pixels])]
    return np.array([part.mean(axis=0) for part in parts]), np.array([heatmap[tuple(p.T)].mean() for p in parts])


# --- training


class Fit:
    """CycleGAN, where it is asked for, and the U-Net as stages of the training engine."""

    def __init__(
        self, theatre: Sequence[PointFrame], simulator: Sequence[PointFrame], config: TrainConfig, run: Run
    ) -> None:
        self.config, self.run = config, run
        helps = config.simulator != "left out" and any(one.marked and one.split != "validation" for one in simulator)
        self.theatre, self.simulator = theatre, list(simulator) if helps else []
        self.learnt, self.shown = marked_frames(theatre, "theatre")
        self.chances: Values | None = None  # of each frame that is learnt from
        torch.manual_seed(run.seed)
        self.network = placed(self.build(), run)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.random, self.best = Randomness(run.seed), Best()
        parts: dict[str, Any] = {"network": self.network, "adam": self.adam, "random": self.random, "best": self.best}
        self.translator: CycleGAN | None = None
        if self.simulator and config.simulator == "translated":
            self._check_pieces()
            self.translator = CycleGAN(config.recipe, run)
            parts |= self.translator.parts()
        self.training = Training(run, parts)

    def fit(self) -> dict[str, Tensor]:
        """The weights to keep."""
        self.translate()
        self.enlarge()
        for update in self.training.stage("heatmaps", self.config.updates):
            share = 0.5 * (1 + math.cos(math.pi * update / self.config.updates))
            set_rate(self.adam, self.config.learning_rate * share)
            frames, maps = self._batch()
            self.network.train()
            with self.training.autocast():
                logits = self.network(frames)
            self.run.metric("loss", self.training.step(self.loss(logits, maps), self.adam), update)
            if self.shown and look_due(update, self.config.validate_every, self.config.updates):
                self.training.look("validation F1", self._f1, update + 1, self.network, self.best)
        return self.best.kept(self.network)

    def build(self) -> nn.Module:
        """The network that learns."""
        return make_network(self.config)

    def loss(self, logits: Tensor, maps: Tensor) -> Tensor:
        """What the U-Net learns by."""
        return dice_loss(logits, maps)

    def translate(self) -> None:
        """Train the translator on pieces of all frames but those that validate."""
        if self.translator is None:
            return
        pools = [[one for one in pool if one.split != "validation"] for pool in (self.simulator, self.theatre)]
        count = self.config.translator_updates
        for update in self.training.stage("translator", count):
            a, b = (self._pieces(pool) for pool in pools)
            for name, value in self.translator.update(self.training, a, b, update, count).items():
                self.run.metric(f"translator {name}", value, update)

    def enlarge(self) -> None:
        """Add the simulator's marked frames, as they are or translated, to those that are learnt from."""
        marked = [one for one in self.simulator if one.marked and one.split != "validation"]
        if marked:
            share, own = self.config.simulator_share, len(self.learnt)
            self.chances = np.repeat([(1 - share) / own, share / len(marked)], [own, len(marked)])
        self.learnt = [*self.learnt, *(translated(one, self.translator, self.run) for one in marked)]

    def _check_pieces(self) -> None:
        """UserError where pieces are smaller than what the translator's discriminators look at."""
        for frame in (*self.theatre, *self.simulator):
            if min(self.config.translator_crop, *frame.inner) < _LEAST_PIECE:
                raise UserError(
                    f"A picture has {frame.inner[1]} x {frame.inner[0]} pixels on its canvas, and the translator wants "
                    f"{_LEAST_PIECE} each way; raise “rows” and “columns”, or set “simulator” to joined."
                )

    def _pieces(self, frames: list[PointFrame]) -> Tensor:
        """Random pieces of pictures (not of what fills up their canvases), in -1..1."""
        rows, columns = (min(self.config.translator_crop, *(one.inner[axis] for one in frames)) for axis in (0, 1))
        pictures = [frame.pixels[:, : frame.inner[0], : frame.inner[1]] for frame in frames]
        pieces = random_pieces(
            self.training, pictures, (rows // 4 * 4, columns // 4 * 4), self.config.translator_batch, self.random.numpy
        )
        return normalised(pieces).to(self.run.device)

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Frames (B, 3, rows, columns), changed at random, and their heatmaps (B, 1, rows, columns)."""
        config = self.config
        batch = pointframes.random_batch(
            self.training, self.learnt, config.batch_size, config.limits, self.random.numpy, self.chances
        )
        return pointframes.with_maps(batch, config.size, self.run.device, config.sigma)

    def _f1(self) -> float:
        return pointframes.f1_over(self.shown, self.points)

    def points(self, frame: PointFrame) -> Values:
        """(n, 2) px that the network as it stands finds on a frame's canvas."""
        rule = ApplyConfig.model_validate({"cut_above": _VALIDATION_CUT})
        heatmap = heatmap_of(self.network, frame.pixels, self.run)[: frame.inner[0], : frame.inner[1]]
        return points_of(heatmap, rule)[0]


def make_network(config: TrainConfig) -> ResNeXtUNet:
    """The U-Net of a training."""
    return ResNeXtUNet(config.encoder, config.width, config.decoder_width)


@torch.no_grad()
def translated(frame: PointFrame, translator: CycleGAN | None, run: Run) -> PointFrame:
    """A frame of the simulator as of the theatre, or, without a translator, as it is. Its points stay."""
    if translator is None:
        return frame
    rows, columns = frame.inner
    picture = normalised(frame.pixels[None, :, :rows, :columns])
    picture = F.pad(picture, (0, -columns % 4, 0, -rows % 4), mode="replicate")
    made = translator.generators["there"](picture.to(run.device))[0].float().cpu()
    pixels = torch.zeros_like(frame.pixels)
    pixels[:, :rows, :columns] = ((made[:, :rows, :columns] + 1) * 127.5).round().to(torch.uint8)
    return PointFrame(pixels, frame.points, frame.split, True, frame.inner)


def heatmap_of(network: nn.Module, pixels: Tensor, run: Run) -> Values:
    """(h, w) in 0..1 of a frame (3, h, w) in 0..255."""
    return torch.sigmoid(pointframes.map_of(network, pixels, run)).double().numpy()


# --- the method

_SMALL = {"encoder": "resnext-14", "width": 16, "decoder_width": 8, "batch_size": 4, "translator_width": 16,
          "translator_blocks": 3, "translator_rate": 6e-4, "learning_rate": 3e-3}  # fmt: skip
_SMOKE = {"rows": 64, "columns": 96, "sigma": 1.5, "updates": 60, "validate_every": 60, "translator_updates": 10,
          "translator_crop": 32}  # fmt: skip
_DEMO = {"rows": 160, "columns": 256, "sigma": 2.0, "updates": 600, "validate_every": 100, "translator_updates": 700,
         "translator_crop": 64, "simulator": "joined"}  # fmt: skip


class SutureHeatmap(SutureMethod):
    """One heatmap, Dice, Otsu, opening, cutting; see the module's docstring."""

    slug = "suture-heatmap"
    title = "Find sutures in endoscopic frames"
    sentence = "Finds where sutures enter the tissue, however many there are, with help from frames of a simulator."
    citation = (
        "Yao, Guo, Zhang, Li. Improved Heatmap-Based Landmark Detection. Deep Generative Models, and Data "
        "Augmentation, Labelling, and Imperfections (MICCAI workshops), 2021"
    )
    url = "https://doi.org/10.1007/978-3-030-88210-5_11"
    needs = "Frames in which the point where each suture enters the tissue is marked; others of a simulator may help."
    limits = "Points closer than about their Gaussians become one or are cut in two at a guess; names are not learnt."
    operations = pointframes.operations(
        ("Learn from marked frames and, translated, from those of a simulator.", TrainConfig,
         {"smoke": {**_SMALL, **_SMOKE}, "demo": {**_SMALL, **_DEMO}, "paper": {}}),
        ApplyConfig, {"smoke": {"cut_above": 1.5}, "demo": {"cut_above": 1.5}, "paper": {}},
    )  # fmt: skip

    def fit(
        self, theatre: Sequence[PointFrame], simulator: Sequence[PointFrame], config: TrainConfig, run: Run
    ) -> Model:
        """Train on frames in memory."""
        began = time.monotonic()
        fit = Fit(theatre, simulator, config, run)
        if not fit.simulator and config.simulator != "left out":
            run.log("There are no marked frames of a simulator: the network learns from the theatre's alone.")
        own = len(fit.learnt)
        weights = fit.fit()
        facts = {
            "marked frames": own,
            f"simulator's frames, {config.simulator}": len(fit.learnt) - own,
            "points": sum(len(frame.points) for frame in fit.learnt),
            "validation F1": round(fit.best.value, 4) if fit.best.weights else "not measured",
            "validation cuts blobs from": f"{_VALIDATION_CUT} times the mean on",
            "seconds": round(time.monotonic() - began, 1),
        }
        return Model(self.slug, {"unet": weights}, config.model_dump(mode="json"), {}, facts)

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model | None = None) -> Case:
        """A frame -> its sutures, surest first; an empty list where there is none."""
        assert model is not None
        image, trained = case.get("image", Image), model.trained(TrainConfig)
        network = placed(model.network("unet", lambda: make_network(trained)), run)
        see, rule = partial(heatmap_of, network, run=run), partial(points_of, config=config)
        return Case({"points": pointframes.sutures_in(image, trained.size, see, rule, run.log)})

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Measured on this device: an update of the real networks on small frames, scaled to what the run will do."""
        if isinstance(config, ApplyConfig):
            trained = model.trained(TrainConfig) if model is not None else TrainConfig.model_validate({})
            pixels = trained.rows * trained.columns
            seconds = seconds_an_update(make_network(trained), (2, 3, 64, 64), run) / (2 * 64**2) * pixels / 3
            memory = 2**29 + _bytes(trained) // 3
            return Estimate(3 + len(cases) * (0.1 + seconds), memory, 2**14 * len(cases))
        assert isinstance(config, TrainConfig)
        theatre, simulator = pointframes.of_pools(cases, run)
        marked_frames(theatre, "theatre")
        pixel = seconds_an_update(make_network(config), (2, 3, 64, 64), run) / (2 * 64**2)
        pixel += pointframes.SECONDS_A_PIXEL
        seconds = config.updates * config.batch_size * config.rows * config.columns * pixel
        if simulator and config.simulator == "translated":
            crop = min(config.translator_crop, config.rows) * min(config.translator_crop, config.columns)
            piece = seconds_an_update(CycleGAN(config.recipe, run).generators["there"], (1, 3, 64, 64), run) / 64**2
            seconds += 8 * piece * crop * config.translator_batch * config.translator_updates
        memory = 2**29 + config.batch_size * _bytes(config) + 3 * config.rows * config.columns * len(cases)
        return Estimate(5 + 1.2 * seconds, memory, 2**28)


def _bytes(config: TrainConfig) -> int:
    """About what a frame of a batch takes in a training."""
    deep = 3 if config.encoder == "resnext-50" else 1
    return config.rows * config.columns * 4 * (12 * config.decoder_width + 8 * deep * config.width)
