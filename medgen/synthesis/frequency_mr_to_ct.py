"""Frequency-supervised MR-to-CT: a synthetic CT in Hounsfield units from an MR volume.

Shi, Mettes, Zheng, Snoek: Frequency-Supervised MR-to-CT Image Synthesis (DGM4MICCAI 2021).

What is implemented of the paper (section 2): a 3D base network (FC-Net of Nie et al., Res-Net of Li et al., U-Net of
Cicek et al.); on its features V the decomposition layer p = softmax(theta_d V), V_l = p_l V, V_h = p_h V; the low-
frequency CT theta_l V_l; the refinement module, a symmetric factorised convolution with k = 13 (at 32 channels 119 808
weights without biases and normalisations; table 2 also has k = 19, 175 104, and a row "K = 3, 64.5k", a misprint for
k = 7, 64 512); the high-frequency CT theta_h phi(V_h); equation 1, L1 on the high frequencies plus L1 on the sum; the
target, CT minus its Gaussian low-pass; the relativistic average discriminator on high-frequency images alone. The
other arms of tables 1 and 3 are settings: the base network alone (supervision = plain), and with it a discriminator on
whole CTs (adversarial = true), which is the paper's 3D GAN.

Where the paper is silent we follow the published code, as far as it is right: instance normalisation and leaky ReLU
(0.2) after each of the module's convolutions and none after their sum; adversarial weight 0.001, both adversarial
losses halved, one update in six before the discriminator joins; a turned crop in 35 % of the updates; windows
that overlap by some three quarters (the paper tier; else by half) and are averaged. Where the two differ we follow
the paper: Gaussian low-pass in place of a 16-voxel box (an option here), He initialisation, any angle
within +-10 degrees in place of exactly 10, Adam's beta1 0.9 throughout. The low-pass is taken on the whole CT, not on
the crop, whose borders would pass for frequencies. Three slips of the code are not followed: the discriminator's two
inputs joined along a spatial axis, its nine outputs a crop, its optimiser moving the generator's heads.

Where both are silent: sigma is in millimetres on the isotropic grid that is worked on, 15 at the default 1 mm;
convolutions before a normalisation have no bias, the heads (3^3 in all arms) do; the discriminator ends in a global
mean and one linear unit; beyond its ends a CT's low-pass continues with its border values. Ours is that the heads, of
all arms alike, start at a tenth of He's weights (`_head`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Affine, Case, Image
from medgen.cohort import Collection
from medgen.errors import UserError
from medgen.geometry import WorkingGrid, sample_linear
from medgen.hounsfield import check_ct, check_not_ct, check_one_channel, tissues
from medgen.jobs import Run
from medgen.method import Config, Estimate, Kind, Method, Operation, Pool, Role, lowers_memory, memory_window, paper
from medgen.metrics import images
from medgen.metrics.overlap import dice
from medgen.nn.fcnet import FCNet
from medgen.nn.highresnet import HighResNet
from medgen.nn.instance_unet import InstanceEncoder, InstanceUNet, he_initialise, normalised
from medgen.nn.unet import parameter_count
from medgen.pace import seconds_an_update
from medgen.patches import antialiased, working_grid
from medgen.tiles import Blend, starts, tiled
from medgen.training import Best, Randomness, Training

Base = Literal["u-net", "res-net", "fc-net"]
Autocast = Callable[[], AbstractContextManager[Any]]

LOWEST_HU, HIGHEST_HU = -1024.0, 2252.7  # the paper's range of CT values
LEAST_WINDOW = 24
_WINDOWS = 2  # run at once: one small window alone takes torch's slow path on CPUs, which takes three times as long
_LEAST_COVERED = 0.25  # share of an MR that its CT must cover


class TrainConfig(Config):
    """How to train. Defaults are the paper's."""

    base: Base = Field("u-net", description="3D network under the decomposition", json_schema_extra=paper("u-net"))
    supervision: Literal["frequency", "plain"] = Field(
        "frequency",
        description="Frequency-supervised, or the base network alone",
        json_schema_extra=paper("frequency"),
    )
    adversarial: bool = Field(
        True, description="Second stage with a discriminator (on high frequencies)", json_schema_extra=paper(True)
    )
    width: int = Field(
        32,
        ge=4,
        le=128,
        multiple_of=2,
        description="C: channels the base network gives",
        json_schema_extra={**paper(32), **lowers_memory()},
    )
    kernel: int = Field(
        13,
        ge=3,
        le=63,
        description="k: length of the refinement's convolutions, odd",
        json_schema_extra=paper(13, "voxel"),
    )
    voxel: float = Field(
        1.0, ge=0.2, le=10, description="Voxel size of the isotropic grid worked on", json_schema_extra={"unit": "mm"}
    )
    low_pass: Literal["gaussian", "box"] = Field(
        "gaussian",
        description="Low-pass that parts CT frequencies; box: 16 voxels",
        json_schema_extra=paper("gaussian"),
    )
    sigma: float = Field(15.0, gt=0, le=100, description="Width of the Gaussian", json_schema_extra=paper(15.0, "mm"))
    crop: int = Field(
        64, ge=24, le=256, multiple_of=8, description="Side of a training crop",
        json_schema_extra={**paper(64, "voxel"), **lowers_memory()},
    )  # fmt: skip
    batch_size: int = Field(
        1, ge=1, le=64, description="Crops an update", json_schema_extra={**paper(1), **lowers_memory()}
    )
    updates: int = Field(
        180_000, ge=1, le=10**7, description="Updates of the generator (paper: 5000 epochs of 36 pairs)",
        json_schema_extra=paper(180_000),
    )  # fmt: skip
    pretraining: float = Field(1 / 6, ge=0, lt=1, description="Share of the updates before the discriminator joins")
    adversarial_weight: float = Field(0.001, gt=0, le=10, description="Of the discriminator in the generator's loss")
    learning_rate: float = Field(1e-3, gt=0, le=0.1, description="Adam's step size", json_schema_extra=paper(1e-3))
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="Step size over the training", json_schema_extra=paper("constant")
    )
    rotation: float = Field(
        10.0, ge=0, le=180, description="Largest turn about the z axis", json_schema_extra=paper(10.0, "degree")
    )
    rotation_share: float = Field(0.35, ge=0, le=1, description="Share of crops that are turned")
    lowest: float = Field(
        LOWEST_HU, ge=-2000, le=0, description="CT value taken as 0", json_schema_extra=paper(LOWEST_HU, "HU")
    )
    highest: float = Field(
        HIGHEST_HU, ge=100, le=32000, description="CT value taken as 1", json_schema_extra=paper(HIGHEST_HU, "HU")
    )
    validate_every: int = Field(2000, ge=1, le=10**7, description="Updates between looks at the validation pairs")

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("k must be an odd number")
        return value

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        """No kernel longer than what it slides along, at any level (hence also `crop` >= 24): where one is, torch 2.13
        gives wrong gradients for bfloat16 convolutions on CPUs, of up to 1e35."""
        if self.kernel > self.crop:
            raise ValueError("kernel must not be longer than crop; choose a shorter kernel or a larger crop")
        return self

    @property
    def stages(self) -> tuple[int, int]:
        """Updates of the stages `synthesis` and `adversarial`."""
        first = round(self.updates * self.pretraining) if self.adversarial else self.updates
        return first, self.updates - first

    def to_unit(self, hu: Tensor) -> Tensor:
        """Hounsfield units -> [0, 1], clipped."""
        return ((hu - self.lowest) / (self.highest - self.lowest)).clamp(0, 1)

    def to_hu(self, unit: Tensor) -> Tensor:
        """[0, 1] -> Hounsfield units within the training range."""
        return (unit * (self.highest - self.lowest) + self.lowest).clamp(self.lowest, self.highest)


class Settings(Config):
    """What a model keeps beside its config: the CT value, scaled to [0, 1], of what its MR volumes show as air."""

    air: float = Field(ge=0, le=1)


class ApplyConfig(Config):
    """How to synthesise."""

    window: int = Field(
        0, ge=0, le=512, multiple_of=8, description="Side of a window; 0: of the training's crops",
        json_schema_extra={**paper(64, "voxel"), **memory_window(LEAST_WINDOW, 8, at_zero="crop")},
    )  # fmt: skip
    overlap: float = Field(0.5, ge=0, lt=0.95, description="Share of a window that the next one sees too")
    blend: Blend = Field(
        "mean",
        description="Windows count alike where they overlap, or by their distance from the centre: fewer seams",
        json_schema_extra=paper("mean"),
    )
    fast: bool = Field(
        False,
        description="Compute in bfloat16 where it is faster, and skip windows of nothing but air (of a head, few)",
    )


# --- networks


def build_base(base: Base, width: int) -> FCNet | HighResNet | InstanceUNet:
    """A base network: MR (N, 1, i, j, k) -> the features V (N, width, i, j, k) of its penultimate layer."""
    networks = {"u-net": InstanceUNet, "res-net": HighResNet, "fc-net": FCNet}
    network = networks[base](1, width)
    he_initialise(network, 0.2 if base == "u-net" else 0.0)
    return network


def _head(width: int) -> nn.Conv3d:
    """A 3^3 convolution to one image. It starts at a tenth of He's weights: nothing normalises after it, and with whole
    ones it would start with images of unit variance where targets lie in [0, 1], and take long to unlearn that."""
    head = nn.Conv3d(width, 1, 3, padding=1)
    he_initialise(head)
    with torch.no_grad():
        head.weight.mul_(0.1)
    return head


class RefinementModule(nn.Module):
    """Symmetric factorised k^3 convolution, (N, width, i, j, k) -> the same size: the sum of three branches of three
    1D convolutions along (i, j, k), (j, k, i) and (k, i, j). 9 k width^2 weights."""

    def __init__(self, width: int = 32, kernel: int = 13) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(self._along((first + step) % 3, width, kernel) for step in range(3))) for first in range(3)
        )

    @staticmethod
    def _along(axis: int, width: int, kernel: int) -> nn.Sequential:
        shape, padding = [1, 1, 1], [0, 0, 0]
        shape[axis], padding[axis] = kernel, kernel // 2
        convolution = nn.Conv3d(width, width, tuple(shape), padding=tuple(padding), bias=False)  # type: ignore[arg-type]
        return normalised(convolution, width)

    def forward(self, features: Tensor) -> Tensor:
        first, second, third = (branch(features) for branch in self.branches)
        return first + second + third


class DecompositionLayer(nn.Module):
    """Features V (N, width, i, j, k) -> V_l = p_l V and V_h = p_h V with p = softmax(theta_d V), so V_l + V_h = V."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(width, 2, 3, padding=1)

    def probabilities(self, features: Tensor) -> Tensor:
        """(N, 2, i, j, k): p_l and p_h, which sum to one."""
        return self.convolution(features).softmax(dim=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.probabilities(features).to(features.dtype).split(1, dim=1)
        return low * features, high * features


class FrequencySynthesis(nn.Module):
    """Figure 2 without its discriminator: z-scored MR (N, 1, i, j, k) -> CT (N, 1, i, j, k), about [0, 1]."""

    def __init__(self, base: Base = "u-net", width: int = 32, kernel: int = 13) -> None:
        super().__init__()
        self.base = build_base(base, width)  # first, as in the other arms: from one seed they all start alike
        self.decomposition, self.refinement = DecompositionLayer(width), RefinementModule(width, kernel)
        self.low_head, self.high_head = _head(width), _head(width)
        he_initialise(self.decomposition)
        he_initialise(self.refinement)

    def frequencies(self, mr: Tensor) -> tuple[Tensor, Tensor]:
        """The low- and the high-frequency CT, (N, 1, i, j, k) each, float32."""
        low, high = self.decomposition(self.base(mr))
        return self.low_head(low).float(), self.high_head(self.refinement(high)).float()

    def forward(self, mr: Tensor) -> Tensor:
        low, high = self.frequencies(mr)
        return low + high


class PlainSynthesis(nn.Module):
    """A base network and a head: MR (N, 1, i, j, k) -> CT (N, 1, i, j, k); what table 1 calls the base network."""

    def __init__(self, base: Base = "u-net", width: int = 32) -> None:
        super().__init__()
        self.base = build_base(base, width)
        self.head = _head(width)

    def forward(self, mr: Tensor) -> Tensor:
        return self.head(self.base(mr)).float()


class Discriminator(nn.Module):
    """C(x) of the relativistic discriminator: image (N, 1, i, j, k) -> logit (N,), by the U-Net's encoder.

    As published; its instance normalisation makes it blind to how strong the contrast is: patterns alone are judged.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = InstanceEncoder(1, width)
        self.linear = nn.Linear(self.encoder.widths[-1], 1)
        he_initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.encoder(image)[-1].mean(dim=(2, 3, 4))).float()[:, 0]


def build_network(config: TrainConfig) -> nn.Module:
    """The generator of a config, initialised from torch's global generator."""
    if config.supervision == "frequency":
        return FrequencySynthesis(config.base, config.width, config.kernel)
    return PlainSynthesis(config.base, config.width)


# --- losses


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half of L_D^RaSGAN (Jolicoeur-Martineau 2019): logits (N,) of real and of synthetic images -> a number.

    -(E[log s(C(x_r) - E C(x_f))] + E[log(1 - s(C(x_f) - E C(x_r)))]) / 2, s the logistic function.
    """
    return (F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()) / 2


def generator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half of L_G^RaSGAN: the discriminator's loss with real and synthetic images exchanged."""
    return discriminator_loss(fake, real)


def frequency_loss(low: Tensor, high: Tensor, ct: Tensor, ct_high: Tensor) -> Tensor:
    """Equation 1 as a mean over voxels: |high - ct_high| + |low + high - ct|."""
    return F.l1_loss(high, ct_high) + F.l1_loss(low + high, ct)


# --- images on the working grid


def low_pass(ct: Tensor, config: TrainConfig) -> Tensor:
    """The low frequencies of a whole CT (1, i, j, k) on the working grid: Gaussian of `sigma` mm, or the published
    code's box of 16 voxels with zeros beyond the ends."""
    volume = ct[0].cpu().numpy()
    if config.low_pass == "box":
        smooth = ndimage.uniform_filter(volume, 16, mode="constant")
    else:
        smooth = ndimage.gaussian_filter(volume, config.sigma / config.voxel, mode="nearest")
    return torch.from_numpy(smooth)[None]


def working_mr(image: Image, voxel: float) -> tuple[Tensor, WorkingGrid]:
    """An MR on its isotropic working grid, (1, i, j, k) of zero mean and unit variance, and that grid."""
    grid = working_grid(image, voxel)
    smooth = antialiased(image.data[0].float(), image.spacing, voxel)[None]
    mr = grid.from_source(smooth, fill=float(smooth.min()))
    return (mr - mr.mean()) / mr.std().clamp(min=1e-6), grid


def air_level(mr: Tensor) -> float:
    """The intensity below which an MR volume shows air: a tenth of the way from its darkest to its brightest voxels
    (0.5th and 99.5th percentiles)."""
    dark, bright = np.percentile(mr.numpy(), (0.5, 99.5))
    return float(dark + 0.1 * (bright - dark))


@dataclass
class Pair:
    """A training pair on its working grid. stack: (3, i, j, k): z-scored MR, CT in [0, 1], the CT's low frequencies.

    outside: what the three hold beyond the volume; air: CT value in [0, 1] where the MR shows air; affine: of the
    working grid; files: what it was read from.
    """

    stack: Tensor
    outside: Tensor
    air: float
    affine: Affine = field(default_factory=lambda: np.eye(4))
    files: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def prepare(cls, case: Case, config: TrainConfig, log: Callable[[str], None]) -> Pair:
        """From a case whose images `mr` and `ct` lie on one grid; UserError where they are not what they should be."""
        case = within_ct(case)
        check_pair(case, config, log)
        image, truth = case.get("mr", Image), case.get("ct", Image)
        mr, grid = working_mr(image, config.voxel)
        unit = config.to_unit(truth.data[0].float())
        ct = grid.from_source(antialiased(unit, truth.spacing, config.voxel)[None])
        stack = torch.cat((mr, ct, low_pass(ct, config)))
        outside = torch.stack((mr.min(), ct.min(), ct.min()))
        dark = ct[mr < air_level(mr)]
        affine = grid.affine(case.get("mr", Image).affine)
        return cls(stack, outside, float((dark if dark.numel() else ct).median()), affine, case.files)

    def crop(self, side: int, config: TrainConfig, generator: np.random.Generator) -> Tensor:
        """A random (3, side, side, side) piece, turned about the z axis by chance; see `draw_crop`."""
        return self.draw_crop(side, config, generator)()

    def draw_crop(self, side: int, config: TrainConfig, generator: np.random.Generator) -> Callable[[], Tensor]:
        """The random numbers of a piece; a function that cuts it.

        Its centre is a random voxel, moved as far as the piece must be to lie inside: so a volume's ends are learnt as
        often as they are met by the windows of a synthesis, half of which, or more, end there.
        """
        shape = self.stack.shape[1:]
        first = []
        for size in shape:
            start = int(generator.integers(0, size)) - side // 2
            first.append(min(max(start, 0), size - side) if size > side else -((side - size) // 2))
        angle = np.deg2rad(generator.uniform(-config.rotation, config.rotation))
        if generator.random() >= config.rotation_share or angle == 0:
            return partial(self._piece, first, side)
        return partial(self._turned, first, side, float(angle))

    def _turned(self, first: list[int], side: int, angle: float) -> Tensor:
        """(3, side, side, side) from voxel `first` on, turned about the volume's z axis by an angle (radian)."""
        axes = [torch.arange(side, dtype=torch.float32) + start for start in first]
        i, j, k = torch.meshgrid(*axes, indexing="ij")
        centre_i, centre_j = ((size - 1) / 2 for size in self.stack.shape[1:3])
        cosine, sine = float(np.cos(angle)), float(np.sin(angle))
        turned_i = centre_i + cosine * (i - centre_i) - sine * (j - centre_j)
        turned_j = centre_j + sine * (i - centre_i) + cosine * (j - centre_j)
        return sample_linear(self.stack, torch.stack((turned_i, turned_j, k), dim=-1), self.outside)

    def _piece(self, first: list[int], side: int) -> Tensor:
        """(3, side, side, side) from voxel `first` on, `outside` beyond the volume's ends."""
        whole = self.outside[:, None, None, None].expand(-1, side, side, side).clone()
        ends = [min(start + side, size) for start, size in zip(first, self.stack.shape[1:], strict=True)]
        inside = [slice(max(start, 0), end) for start, end in zip(first, ends, strict=True)]
        target = [slice(part.start - start, part.stop - start) for part, start in zip(inside, first, strict=True)]
        whole[:, target[0], target[1], target[2]] = self.stack[:, inside[0], inside[1], inside[2]]
        return whole


def within_ct(case: Case) -> Case:
    """A pair without what lies beyond its CT, where it covers less than the MR: there is nothing to learn from, or to
    measure against. UserError where little is left."""
    box = prepare.covered_box(case, "ct")
    if box is None:
        return case
    mr, ct = case.get("mr", Image), case.get("ct", Image)
    share = float(np.prod([(part.stop - part.start) / size for part, size in zip(box, ct.shape, strict=True)]))
    if share < _LEAST_COVERED:
        raise UserError(
            f"“{ct.name or 'ct'}” covers {share:.0%} of “{mr.name or 'mr'}”, too little to learn from; check that they"
            " are aligned, or crop the MR to it."
        )
    shift = np.eye(4)
    shift[:3, 3] = [part.start for part in box]

    def cut(image: Image) -> Image:
        return replace(image, data=image.data[:, box[0], box[1], box[2]], affine=image.affine @ shift)

    return Case({**case.values, "mr": cut(mr), "ct": cut(ct)}, case.row, case.label)


def check_mr(image: Image) -> None:
    """UserError where an MR has several channels or is a CT by its values."""
    check_one_channel(image, "mr")
    check_not_ct(image, "mr")


def check_pair(case: Case, config: TrainConfig, log: Callable[[str], None]) -> None:
    """UserError where the MR or the CT of a pair is not what it should be."""
    check_mr(case.get("mr", Image))
    check_one_channel(case.get("ct", Image), "ct")
    check_ct(case.get("ct", Image), "ct", config.lowest, config.highest, log)


# --- training


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Adam's step size at an update: constant, or a half cosine down to 1 % of it."""
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * (0.505 + 0.495 * float(np.cos(np.pi * step / config.updates)))


class Fit:
    """One training: generator, discriminator, their optimisers and random state as parts of the engine, two stages.

    network: takes the place of `build_network(config)`; (N, 1, i, j, k) -> CT (N, 1, i, j, k), and with frequency
    supervision it has `frequencies`, too.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        validation: Sequence[Pair],
        config: TrainConfig,
        run: Run,
        network: nn.Module | None = None,
    ) -> None:
        self.pairs, self.validation, self.config, self.run = pairs, validation, config, run
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            network = build_network(config) if network is None else network
            discriminator = Discriminator(config.width) if config.adversarial else None
        self.network = _laid_out(network.to(run.device))
        self.adam = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, betas=(0.9, 0.999))
        self.random, self.best = Randomness(run.seed), Best()
        parts: dict[str, Any] = {"generator": self.network, "adam": self.adam}
        parts |= {"random": self.random, "best": self.best}
        if discriminator is not None:
            self.discriminator = _laid_out(discriminator.to(run.device))
            self.judge_adam = torch.optim.Adam(self.discriminator.parameters(), lr=config.learning_rate)
            parts |= {"discriminator": self.discriminator, "judge_adam": self.judge_adam}
        self.training = Training(run, parts)
        self.air = float(np.mean([pair.air for pair in pairs]))

    @property
    def validation_mae(self) -> float | None:
        """Mean absolute error (HU) of the kept network on the validation pairs."""
        return -self.best.value if self.best.weights else None

    def weights(self) -> dict[str, Tensor]:
        """What to keep: the best generator on the validation pairs where there are any, else the last one."""
        return self.best.weights or self.network.state_dict()

    def fit(self) -> None:
        """L1 losses alone, then with the discriminator."""
        first, second = self.config.stages
        for step in self.training.stage("synthesis", first):
            self._update(step, adversarial=False)
            self._look(step + 1, choose=second == 0)
        for step in self.training.stage("adversarial", second):
            self._update(first + step, adversarial=True)
            self._look(first + step + 1, choose=True)

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """MR, CT and the CT's high frequencies, (batch, 1, crop, crop, crop) each, on the device."""
        crops = self.training.batch(self.config.batch_size, self._draw)
        mr, ct, low = torch.stack(crops).to(self.run.device).split(1, dim=1)
        return mr.contiguous(memory_format=torch.channels_last_3d), ct, ct - low

    def _draw(self, count: int) -> list[Callable[[], Tensor]]:
        chosen = self.random.numpy.integers(0, len(self.pairs), count)
        return [self.pairs[number].draw_crop(self.config.crop, self.config, self.random.numpy) for number in chosen]

    def _logits(self, images: Tensor) -> Tensor:
        """The discriminator's judgement of an update's images, those of all processes: its loss compares means."""
        return self.training.gathered(self.discriminator(images))

    def _update(self, step: int, *, adversarial: bool) -> None:
        """One update of the generator, and before it, with a discriminator, one of that on the same crops."""
        self.network.train()
        for adam in (self.adam, *([self.judge_adam] if adversarial else [])):
            for group in adam.param_groups:
                group["lr"] = learning_rate_at(step, self.config)
        mr, ct, ct_high = self._batch()
        with self.training.autocast():
            if self.config.supervision == "frequency":
                low, high = self.network.frequencies(mr)  # type: ignore[operator]
                loss, real, fake = frequency_loss(low, high, ct, ct_high), ct_high, high
            else:
                fake, real = self.network(mr), ct
                loss = F.l1_loss(fake, ct)
        if adversarial:
            judged = self._judge(real, fake.detach())
            self.discriminator.requires_grad_(False)
            with self.training.autocast():  # a new block: autocast keeps the cast weights of the one before
                generated = generator_loss(self._logits(real), self._logits(fake))
            self.discriminator.requires_grad_(True)
            loss = loss + self.config.adversarial_weight * generated
        value = self.training.step(loss, self.adam)
        if step % 10 == 0:
            self.run.metric("loss", value, step)
            if adversarial:
                self.run.metric("discriminator_loss", judged, step)

    def _judge(self, real: Tensor, fake: Tensor) -> float:
        """One update of the discriminator; its loss."""
        with self.training.autocast():
            loss = discriminator_loss(self._logits(real), self._logits(fake))
        return self.training.step(loss, self.judge_adam)

    def _look(self, step: int, *, choose: bool) -> None:
        """MAE on the validation pairs now and then and at the end; keeps the best network of the last stage."""
        if not self.validation or (step % self.config.validate_every and step != self.config.updates):
            return
        mean = self.training.alone(lambda: self._validation_error(step))
        if choose:
            self.best.offer(-mean, step, self.network)

    def _validation_error(self, step: int) -> float:
        """MAE (HU) on the validation pairs; tells of it and shows the first."""
        errors, all_found = [], []
        for pair in self.validation:
            found = predict(
                self.network, pair.stack[:1], self.config.crop, 0.25, self.run, autocast=self.training.autocast
            )
            errors.append(images.mae(self.config.to_hu(found), self.config.to_hu(pair.stack[1:2])))
            all_found.append(found)
        mean = float(np.mean(errors))
        self.run.metric("validation_mae", mean, step)
        shown = self.validation[0]
        self.run.preview(
            "ct",
            lambda: Image(self.config.to_hu(all_found[0]).round().to(torch.int16), shown.affine, "preview", "HU"),
            step,
            files=shown.files,
            measure={"validation MAE (HU)": mean},
        )
        return mean


def fit_pairs(
    cases: Sequence[Case],
    config: TrainConfig,
    run: Run,
    validation: Sequence[Case] = (),
    network: nn.Module | None = None,
) -> Fit:
    """Train on cases in memory (images `mr` and `ct` on one grid, canonical axes); the finished `Fit`."""
    pairs = []
    for number, case in enumerate((*cases, *validation)):
        run.progress(number, len(cases) + len(validation), "prepare")
        pairs.append(Pair.prepare(case, config, run.log))
    fit = Fit(pairs[: len(cases)], pairs[len(cases) :], config, run, network)
    fit.fit()
    return fit


def _laid_out(network: nn.Module) -> nn.Module:
    """Weights in the memory layout that 3D convolutions are fastest in."""
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


# --- prediction


def predict(
    network: nn.Module,
    mr: Tensor,
    window: int,
    overlap: float,
    run: Run,
    *,
    autocast: Autocast,
    blend: Blend = "mean",
    skip: Callable[[Tensor], bool] | None = None,
    air: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """CT (1, i, j, k) in training units from an MR on the working grid, in overlapping windows that are blended."""
    network.eval()

    def forward(inputs: Tensor) -> Tensor:
        with autocast():
            return network(inputs.contiguous(memory_format=torch.channels_last_3d)).float()

    return tiled(
        forward,
        mr,
        window=(window, window, window),
        overlap=overlap,
        blend=blend,
        skip=skip,
        fill=air,
        pad=float(mr.min()),
        batch=_WINDOWS,
        device=run.device,
        progress=progress,
    )


def window_side(config: ApplyConfig, trained: TrainConfig) -> int:
    """Side of a window in voxels: no smaller than a training crop may be, nor than the kernel (see `TrainConfig`)."""
    return max(config.window or trained.crop, LEAST_WINDOW, -(-trained.kernel // 8) * 8)


def synthesise(
    network: nn.Module, image: Image, trained: TrainConfig, config: ApplyConfig, run: Run, air: float = 0.0
) -> Image:
    """The synthetic CT of an MR, on the MR's own grid, int16 in Hounsfield units.

    air: CT value in training units of windows that the fast setting skips.
    """
    check_mr(image)
    mr, grid = working_mr(image, trained.voxel)
    level = air_level(mr)
    window = window_side(config, trained)

    def empty(seen: Tensor) -> bool:  # a few bright voxels are noise, or a wire
        return bool((seen > level).float().mean() < 1e-4)

    found = predict(
        network,
        mr,
        window,
        config.overlap,
        run,
        autocast=run.autocast if config.fast else nullcontext,
        blend=config.blend,
        skip=empty if config.fast else None,
        air=air,
        progress=lambda done, total: run.progress(done, total, "synthesise"),
    )
    hu = trained.to_hu(grid.to_source(found))
    return Image(
        hu.round().clamp(np.ceil(trained.lowest), np.floor(trained.highest)).to(torch.int16),
        image.affine,
        image.name,
        "HU",
    )


# --- the method

_MR = Role("mr", Kind.IMAGE, "The MR volume", modality="MR", reference=True)
_CT = Role("ct", Kind.IMAGE, "The CT of the same patient, aligned with the MR", modality="CT", units="HU")
_SYNTHETIC = Role("ct", Kind.IMAGE, "The synthetic CT", modality="CT", units="HU")
_SMOKE = {"width": 4, "kernel": 5, "voxel": 4.0, "crop": 24, "updates": 24, "pretraining": 0.8, "learning_rate": 0.01}
_DEMO = {
    "width": 8,
    "voxel": 2.0,
    "crop": 48,
    "updates": 600,
    "learning_rate": 0.005,
    "schedule": "cosine",
    "validate_every": 100,
}


class FrequencyMRToCT(Method):
    """See the module's docstring."""

    slug = "frequency-mr-to-ct"
    title = "Synthetic CT from MR"
    sentence = "Turn an MR volume into a synthetic CT volume in Hounsfield units, learnt from pairs of both."
    citation = (
        "Shi, Mettes, Zheng, Snoek. Frequency-Supervised MR-to-CT Image Synthesis. "
        "Deep Generative Models, and Data Augmentation, Labelling, and Imperfections (MICCAI workshops), 2021"
    )
    url = "https://doi.org/10.1007/978-3-030-88210-5_1"
    module = "MedGenSynthesis"
    group = "Translate"
    needs = "Some ten or more pairs of MR and CT of the same patients, aligned with each other."
    limits = "It knows only the sequence, the field of view and the anatomy it was trained on; MR hardly shows bone."
    phantoms = ("head-mr-ct",)
    demo_cases = 10
    operations = (
        Operation(
            "train",
            "Train",
            "Learn from pairs of MR and CT.",
            TrainConfig,
            scope="collection",
            pools=(Pool("pairs", (_MR, _CT)),),
            outputs=(Role("model", Kind.MODEL, "The trained model"),),
            tiers={"smoke": _SMOKE, "demo": _DEMO, "paper": {}},
        ),
        Operation(
            "apply",
            "Apply",
            "Make the synthetic CT of an MR volume with a trained model.",
            ApplyConfig,
            inputs=(_MR,),
            outputs=(_SYNTHETIC,),
            needs_model=True,
            tiers={"smoke": {"overlap": 0.25}, "demo": {}, "paper": {"overlap": 0.75}},
        ),
    )

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None = None) -> Case:
        """Pairs -> a model. Rows of split validation choose the best network, those of split test are left out."""
        began = time.monotonic()
        rows = [row for row in collection.rows() if row.split != "test" and row.labelled]
        cases = [prepare.load_row(row, (_MR, _CT), run.log) for row in rows]
        learnt, held_out = _parted(cases)
        fit = fit_pairs(learnt, config, run, held_out)
        error = fit.validation_mae
        facts = {
            "pairs": len(learnt),
            "validation pairs": len(held_out),
            "validation MAE (HU)": "not measured" if error is None else round(error, 2),
            "seconds": round(time.monotonic() - began, 1),
        }
        networks, settings = {"generator": fit.weights()}, {"air": fit.air}
        inference = inference_config(config)
        return Case(
            {"model": Model(self.slug, networks, config.model_dump(mode="json"), settings, facts, inference=inference)}
        )

    def apply(self, case: Case, config: ApplyConfig, run: Run, model: Model | None = None) -> Case:
        """An MR -> its synthetic CT on the MR's own grid."""
        assert model is not None
        trained, air = model.trained(TrainConfig), model.noted(Settings).air
        network = model.network("generator", lambda: build_network(trained))
        network = _laid_out(network.to(run.device))
        return Case({"ct": synthesise(network, case.get("mr", Image), trained, config, run, air)})

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        """The paper's measures over the whole volume, on HU clipped to its range: MAE (HU), PSNR and SSIM (data range
        3276.7; SSIM from 7 voxels an axis on); and MAE and Dice of air, soft tissue and bone (`hounsfield.tissues` of
        the reference): most of a volume is air."""
        found, truth = (case.get("ct", Image).data[0].float() for case in (result, reference))
        box = prepare.covered_box(reference, "ct")
        if box is not None:  # the reference knows nothing of the rest
            found, truth = found[box], truth[box]
        truth = truth.clamp(LOWEST_HU, HIGHEST_HU)
        data_range = HIGHEST_HU - LOWEST_HU
        measures = {
            "mae": images.mae(found, truth),
            "psnr": images.psnr(found, truth, data_range),
        }
        if min(found.shape) >= 7:
            measures["ssim"] = float(images.ssim(found, truth, data_range))
        ours, theirs = tissues(found), tissues(truth)
        for name, where in theirs.items():
            if bool(where.any()):
                measures[f"mae {name}"] = images.mae(found, truth, where)
        return measures | {f"dice {name}": dice(ours[name], theirs[name]) for name in ours}

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Measured on this device: the real networks on a small crop, scaled to the run."""
        if isinstance(config, ApplyConfig):
            trained = TrainConfig.model_validate({}) if model is None else model.trained(TrainConfig)
            side = window_side(config, trained)
            for case in cases:
                check_mr(case.get("mr", Image))
            shapes = [_working_shape(case.get("mr", Image), trained.voxel) for case in cases]
            windows = sum(int(np.prod([len(starts(size, side, config.overlap)) for size in shape])) for shape in shapes)
            autocast = run.autocast if config.fast else nullcontext
            seconds = 5 + windows * side**3 * _window_seconds(trained, side, run, autocast)
            largest = max((int(np.prod(shape)) for shape in shapes), default=1)
            own = max((case.voxels() for case in cases), default=1)
            memory = 2**29 + 20 * largest + 12 * own + 80 * trained.width * side**3
            return Estimate(seconds, memory, 2 * sum(case.voxels() for case in cases))
        assert isinstance(config, TrainConfig)
        cases = [case for case in cases if case.row.get("split") != "test" and case.row.get("labelled") != "no"]
        _, held_out = _parted(cases)
        for case in cases:
            check_pair(within_ct(case), config, run.log)
        shapes = [_working_shape(case.get("mr", Image), config.voxel) for case in cases]
        voxels_held = sum(int(np.prod(shape)) for shape in shapes)
        seconds = 8 + 1e-6 * voxels_held
        seconds += config.updates * config.batch_size * config.crop**3 * _update_seconds(config, run)
        if held_out:  # with a quarter of overlap every voxel is in 2.4 windows
            looks = -(-config.updates // config.validate_every)
            looked_at = 2.4 * looks * voxels_held * len(held_out) / len(cases)
            seconds += looked_at * _window_seconds(config, config.crop, run, run.autocast)
        weights = parameter_count(build_network(config))
        activations = (350 if run.precision == "bf16" else 650) * config.width * config.batch_size * config.crop**3
        memory = 2**29 + 12 * voxels_held + 32 * weights + activations
        return Estimate(seconds, memory, 20 * weights)


def _parted(cases: list[Any]) -> tuple[list[Case], list[Case]]:
    """Cases to learn from and cases that choose the best network; UserError when there are none to learn from."""
    held_out = [case for case in cases if case.row.get("split") == "validation"]
    learnt = [case for case in cases if case.row.get("split") != "validation"]
    if not learnt:
        raise UserError("The cohort has no pairs to learn from; leave “split” empty or write train in some rows.")
    return learnt, held_out


def _working_shape(image: Image, voxel: float) -> tuple[int, int, int]:
    return working_grid(image, voxel).shape


def _update_seconds(config: TrainConfig, run: Run) -> float:
    """Time of one voxel of a crop in one update, the mean over both stages."""
    side = min(config.crop, 48)
    shape = (1, 1, side, side, side)
    seconds = seconds_an_update(build_network(config), shape, run, updates=2)
    if config.adversarial:  # it sees real and synthetic images, once for itself and once for the generator
        judged = seconds_an_update(Discriminator(config.width), shape, run, updates=2)
        seconds += 4 * judged * config.stages[1] / config.updates
    return seconds / side**3


def _window_seconds(config: TrainConfig, side: int, run: Run, autocast: Autocast) -> float:
    """Time of one voxel of a window."""
    network = _laid_out(build_network(config).to(run.device)).eval()
    side = min(side, 48)
    inputs = torch.zeros(_WINDOWS, 1, side, side, side, device=run.device)
    times = []
    for _ in range(2):
        began = time.monotonic()
        with torch.inference_mode(), autocast():
            float(network(inputs.contiguous(memory_format=torch.channels_last_3d)).sum())
        times.append(time.monotonic() - began)
    return min(times) / inputs.numel()


def inference_config(config: TrainConfig) -> dict[str, Any]:
    """MONAI's inference.json of a trained model: MR file in, synthetic CT file out. Written for others."""
    network: dict[str, Any] = {"_target_": f"{__name__}.PlainSynthesis", "base": config.base, "width": config.width}
    if config.supervision == "frequency":
        network |= {"_target_": f"{__name__}.FrequencySynthesis", "kernel": config.kernel}
    range_hu = {"a_min": 0.0, "a_max": 1.0, "b_min": config.lowest, "b_max": config.highest, "clip": True}
    return {
        "imports": ["$import torch", "$from safetensors.torch import load_file"],
        "bundle_root": ".",
        "image": "$@bundle_root + '/mr.nii.gz'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device).eval().requires_grad_(False)",
        "weights": "$@network.load_state_dict(load_file(@bundle_root + '/models/generator.safetensors'))",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "image", "pixdim": [config.voxel] * 3, "mode": "bilinear"},
                {"_target_": "NormalizeIntensityd", "keys": "image"},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [config.crop] * 3, "overlap": 0.5},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
                 "nearest_interp": False},
                {"_target_": "ScaleIntensityRanged", "keys": "pred", **range_hu},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_postfix": "ct"},
            ],
        },
        "inputs": "$@preprocessing({'image': @image})",
        "prediction": "$@inferer(@inputs['image'][None].to(@device), @network)[0]",
        "run": ["$@weights", "$@postprocessing({**@inputs, 'pred': @prediction})"],
    }  # fmt: skip
