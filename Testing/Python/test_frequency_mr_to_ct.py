"""Frequency-supervised MR-to-CT: its modules and losses, its pairs and crops, and that it does its job."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from method_tools import configured
from torch import nn

from medgen import bundle, catalog, cohort, execute, io, prepare
from medgen.case import Affine, Case, Image
from medgen.errors import Cancelled, UserError
from medgen.geometry import AxisOrder
from medgen.jobs import Run
from medgen.method import Kind
from medgen.nn.unet import parameter_count
from medgen.synthesis.frequency_mr_to_ct import (
    ApplyConfig,
    DecompositionLayer,
    Discriminator,
    Fit,
    FrequencyMRToCT,
    FrequencySynthesis,
    Pair,
    PlainSynthesis,
    RefinementModule,
    TrainConfig,
    air_level,
    build_base,
    build_network,
    discriminator_loss,
    fit_pairs,
    frequency_loss,
    generator_loss,
    low_pass,
    predict,
    synthesise,
    working_mr,
)

METHOD = FrequencyMRToCT()
TRAIN, APPLY = METHOD.operation("train"), METHOD.operation("apply")


def train_config(**settings: Any) -> TrainConfig:
    return configured(TrainConfig, TRAIN, "smoke", settings)


def apply_config(**settings: Any) -> ApplyConfig:
    return configured(ApplyConfig, APPLY, "smoke", settings)


AFFINE = np.diag([4.0, 4, 5, 1])


def head(seed: int = 0, shape: tuple[int, int, int] = (40, 44, 34)) -> tuple[np.ndarray, np.ndarray]:
    """An egg of skin, bone and brain, off centre so that axes can be told apart: MR and CT (HU), float32 (i, j, k)."""
    generator = np.random.default_rng(seed)
    sides = [np.linspace(-1.2, 1.2, size) for size in shape]
    i, j, k = np.meshgrid(*sides, indexing="ij")
    size = generator.uniform(0.9, 1.0)
    depth = np.sqrt((i / 0.8) ** 2 + ((j + 0.1) / 1.0) ** 2 + ((k - 0.1) / 0.9) ** 2 + 0.1 * i * j) / size
    ct, mr = np.full(shape, -1000.0), np.zeros(shape)
    for edge, hu, signal in ((1.0, 20, 600), (0.9, 900, 60), (0.75, 40, 400)):
        ct[depth < edge], mr[depth < edge] = hu, signal
    noisy = np.abs(mr * generator.uniform(0.8, 1.2) + generator.normal(0, 10, shape))
    return noisy.astype(np.float32), (ct + generator.normal(0, 10, shape)).astype(np.float32)


def case_of(seed: int = 0, affine: Affine = AFFINE) -> Case:
    mr, ct = (torch.from_numpy(array)[None] for array in head(seed))
    return Case({"mr": Image(mr, affine, "mr"), "ct": Image(ct, affine, "ct", "HU")})


def write(array: np.ndarray, path: Path, affine: Affine = AFFINE) -> Path:
    io.write_image(Image(torch.from_numpy(np.ascontiguousarray(array))[None], affine), path)
    return path


def write_cohort(folder: Path, splits: tuple[str, ...]) -> Path:
    """Pairs as files and their cohort.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, split in enumerate(splits):
        for role, array in zip(("mr", "ct"), head(number), strict=True):
            write(array, folder / f"{role}{number}.nii.gz")
        rows.append({"mr": f"mr{number}.nii.gz", "ct": f"ct{number}.nii.gz", "subject": f"s{number}", "split": split})
    io.write_rows(rows, folder / "cohort.csv")
    return folder / "cohort.csv"


def run_in(folder: Path, **options: Any) -> Run:
    return Run(folder, device="cpu", precision=options.pop("precision", "32"), **options)


def train(table: Path, out: Path, **settings: Any) -> bundle.Model:
    execute.perform(METHOD, TRAIN, train_config(**settings), run_in(out.parent / "run"), out, collection=table)
    return bundle.load(out)


def apply(model: bundle.Model, mr: Path, out: Path, **settings: Any) -> sitk.Image:
    files = [{"mr": [str(mr)]}]
    execute.perform(METHOD, APPLY, apply_config(**settings), run_in(out.parent / "a"), out, files=files, model=model)
    return sitk.ReadImage(str(out))


def convolution_weights(network: nn.Module) -> int:
    """Weights of all convolutions, without biases and normalisations."""
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv3d))


# --- the modules


@pytest.mark.parametrize(("kernel", "weights"), [(13, 119_808), (19, 175_104), (7, 64_512), (3, 27_648)])
def test_the_refinement_module_has_9_k_c_squared_weights(kernel: int, weights: int) -> None:
    """Table 2: 119.8k for k = 13, 175.1k for k = 19; its 64.5k, printed as K = 3, is what k = 7 has."""
    module = RefinementModule(32, kernel)
    assert convolution_weights(module) == weights
    assert all(m.bias is None for m in module.modules() if isinstance(m, nn.Conv3d))


def test_each_branch_of_the_refinement_is_one_cyclic_order_of_the_axes() -> None:
    module = RefinementModule(4, 5)
    orders = [[step[0].kernel_size.index(5) for step in branch] for branch in module.branches]
    assert orders == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]


def test_permuting_the_axes_cyclically_permutes_the_branches() -> None:
    """With one set of weights in all three branches, the module of a turned volume is the turned module's."""
    torch.manual_seed(0)
    module = RefinementModule(3, 5)
    for branch, (step, layer) in itertools.product(module.branches[1:], enumerate(module.branches[0])):
        weight = branch[step][0].weight
        weight.data = layer[0].weight.data.reshape(weight.shape)
    features = torch.randn(1, 3, 6, 7, 8)
    turned = features.permute(0, 1, 3, 4, 2)
    torch.testing.assert_close(module(turned), module(features).permute(0, 1, 3, 4, 2), atol=1e-4, rtol=1e-4)
    for branch in range(3):
        torch.testing.assert_close(
            module.branches[branch](turned),
            module.branches[(branch + 1) % 3](features).permute(0, 1, 3, 4, 2),
            atol=1e-4,
            rtol=1e-4,
        )


def test_a_voxel_of_the_refinement_sees_half_a_kernel_each_way() -> None:
    module = RefinementModule(2, 13)
    for part in module.modules():
        for name, child in list(part.named_children()):
            if isinstance(child, (nn.InstanceNorm3d, nn.LeakyReLU)):
                setattr(part, name, nn.Identity())
    image = torch.zeros(1, 2, 17, 17, 17, requires_grad=True)
    module(image)[0, :, 8, 8, 8].sum().backward()
    assert image.grad is not None
    seen = torch.nonzero(image.grad.abs().sum(dim=(0, 1)) > 0)
    assert seen.amin(dim=0).tolist() == [2, 2, 2] and seen.amax(dim=0).tolist() == [14, 14, 14]


def test_the_decomposition_parts_the_features_without_loss() -> None:
    torch.manual_seed(0)
    layer, features = DecompositionLayer(6), torch.randn(2, 6, 5, 6, 7)
    probabilities = layer.probabilities(features)
    assert probabilities.shape == (2, 2, 5, 6, 7) and bool((probabilities > 0).all())
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 5, 6, 7))
    low, high = layer(features)
    torch.testing.assert_close(low, probabilities[:, :1] * features)
    torch.testing.assert_close(low + high, features)


@pytest.mark.parametrize("base", ["u-net", "res-net", "fc-net"])
def test_the_output_is_the_sum_of_its_frequencies(base: Any) -> None:
    torch.manual_seed(0)
    network = FrequencySynthesis(base, 4, 3).eval()
    mr = torch.randn(2, 1, 16, 16, 16)
    low, high = network.frequencies(mr)
    assert low.shape == high.shape == (2, 1, 16, 16, 16)
    torch.testing.assert_close(network(mr), low + high)


def test_the_network_adds_to_its_base_what_the_paper_names() -> None:
    """Decomposition, two heads and the refinement; the plain arm has the base and one head."""
    whole, plain = FrequencySynthesis("u-net", 32, 13), PlainSynthesis("u-net", 32)
    base = parameter_count(build_base("u-net", 32))
    head = 27 * 32 + 1
    norms = 9 * 2 * 32
    assert parameter_count(plain) == base + head
    assert parameter_count(whole) == base + 2 * head + (27 * 32 * 2 + 2) + 119_808 + norms


def test_the_discriminator_is_the_u_nets_encoder() -> None:
    encoder = build_base("u-net", 32).encoder
    assert parameter_count(Discriminator(32)) == parameter_count(encoder) + 256 + 1
    assert Discriminator(4)(torch.randn(3, 1, 16, 16, 16)).shape == (3,)


def test_settings_choose_the_network() -> None:
    assert isinstance(build_network(train_config(supervision="plain")), PlainSynthesis)
    network = build_network(train_config(base="fc-net", width=6, kernel=9))
    assert isinstance(network, FrequencySynthesis)
    assert convolution_weights(network.refinement) == 9 * 9 * 6**2
    assert convolution_weights(network.base) == convolution_weights(build_base("fc-net", 6))


# --- losses


def test_the_adversarial_losses_are_half_the_relativistic_average_ones() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(4, dtype=torch.float64) * 2, torch.randn(4, dtype=torch.float64) * 2

    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    judge = [logistic(float(r - fake.mean())) for r in real], [logistic(float(f - real.mean())) for f in fake]
    expected = -(np.log(judge[0]).mean() + np.log(1 - np.asarray(judge[1])).mean()) / 2
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-9)
    expected = -(np.log(1 - np.asarray(judge[0])).mean() + np.log(judge[1]).mean()) / 2
    assert float(generator_loss(real, fake)) == pytest.approx(expected, rel=1e-9)


def test_the_adversarial_losses_are_log_2_where_nothing_is_told_apart_and_stay_finite() -> None:
    same = torch.zeros(1)
    assert float(discriminator_loss(same, same)) == pytest.approx(math.log(2))
    assert float(discriminator_loss(same + 200, same - 200)) == pytest.approx(0)
    assert float(generator_loss(same + 200, same - 200)) == pytest.approx(400)


def test_equation_1() -> None:
    torch.manual_seed(0)
    low, high, ct, ct_high = torch.rand(4, 2, 1, 3, 3, 3)
    expected = (high - ct_high).abs().mean() + (low + high - ct).abs().mean()
    torch.testing.assert_close(frequency_loss(low, high, ct, ct_high), expected)


# --- frequencies


def test_the_gaussian_low_pass_has_sigma_in_millimetres() -> None:
    """A point becomes a Gaussian of sigma mm: its second moment says so, whatever the voxel."""
    for voxel in (1.0, 2.0):
        config = train_config(voxel=voxel, sigma=4.0)
        point = torch.zeros(1, 41, 41, 41)
        point[0, 20, 20, 20] = 1
        low = low_pass(point, config)[0].double()
        distance = (torch.arange(41, dtype=torch.float64) - 20) * voxel
        assert float(low.sum()) == pytest.approx(1, abs=1e-3)
        assert float((low.sum(dim=(1, 2)) * distance**2).sum()) == pytest.approx(16, rel=0.02)


def test_the_box_low_pass_is_the_mean_of_16_voxels_with_zeros_beyond() -> None:
    low = low_pass(torch.ones(1, 40, 40, 40), train_config(low_pass="box"))[0]
    assert float(low[20, 20, 20]) == pytest.approx(1, abs=1e-5)
    assert float(low[0, 20, 20]) == pytest.approx(0.5, abs=1e-5) and float(low[0, 0, 0]) == pytest.approx(
        1 / 8, abs=1e-5
    )


# --- settings


def test_the_paper_tier_is_the_paper() -> None:
    config = TRAIN.configure("paper", {})
    assert isinstance(config, TrainConfig)
    assert (config.base, config.supervision, config.adversarial) == ("u-net", "frequency", True)
    assert (config.width, config.kernel, config.sigma, config.crop, config.batch_size) == (32, 13, 15.0, 64, 1)
    assert (config.updates, config.learning_rate, config.rotation) == (5000 * 36, 1e-3, 10)
    assert config.highest - config.lowest == pytest.approx(3276.7)
    assert sum(config.stages) == config.updates and config.stages[0] == 30_000


# --- pairs and crops


def pair_of(seed: int = 0, **settings: Any) -> Pair:
    return Pair.prepare(case_of(seed), train_config(**settings), lambda message: None)


def test_the_low_pass_is_taken_on_the_whole_ct_and_adds_up_with_the_high_frequencies() -> None:
    config = train_config(rotation_share=0.0)
    pair = pair_of()
    torch.testing.assert_close(pair.stack[2:], low_pass(pair.stack[1:2], config))
    crop = pair.crop(24, config, np.random.default_rng(1))
    assert float((low_pass(crop[1:2], config) - crop[2]).abs().max()) > 0.01  # of the crop alone it would be another


def test_all_arms_start_from_the_same_base_network() -> None:
    bases = []
    for supervision in ("plain", "frequency"):
        torch.manual_seed(5)
        bases.append(build_network(train_config(supervision=supervision)).base.state_dict())
    assert all(torch.equal(bases[0][name], bases[1][name]) for name in bases[0])


def test_what_lies_beyond_a_smaller_ct_is_neither_learnt_nor_measured(tmp_path: Path) -> None:
    whole = case_of(1)
    mr, ct = whole["mr"], whole["ct"]
    short = sitk.GetImageFromArray(ct.data[0].numpy().transpose(2, 1, 0)[: ct.shape[2] // 2])
    io.write(mr, Kind.IMAGE, tmp_path / "mr.nrrd")
    io.write(ct, Kind.IMAGE, tmp_path / "ct.nrrd")
    grid = sitk.ReadImage(str(tmp_path / "ct.nrrd"))
    short.CopyInformation(grid[:, :, : short.GetSize()[2]])
    sitk.WriteImage(short, str(tmp_path / "short.nrrd"))
    said: list[str] = []
    roles = TRAIN.pools[0].roles
    case = prepare.load_case(
        {"mr": [str(tmp_path / "mr.nrrd")], "ct": [str(tmp_path / "short.nrrd")]}, roles, said.append
    )
    assert any("of which it covers" in line for line in said)
    pair = Pair.prepare(case, train_config(), said.append)
    full = Pair.prepare(whole, train_config(), said.append)
    halves = [ours / theirs for ours, theirs in zip(pair.stack.shape[1:], full.stack.shape[1:], strict=True)]
    assert sorted(round(half, 1) for half in halves) == [0.5, 1, 1]
    perfect = Image(case.get("ct", Image).data.clone(), case["mr"].affine)
    outside = torch.ones(perfect.data.shape, dtype=torch.bool)
    outside[0][prepare.covered_box(case, "ct")] = False
    perfect.data[outside] = 900
    assert METHOD.measure(Case({"ct": perfect}), case)["mae"] < 1
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "short.nrrd"))[:, :, :3], str(tmp_path / "shorter.nrrd"))
    files = {"mr": [str(tmp_path / "mr.nrrd")], "ct": [str(tmp_path / "shorter.nrrd")]}
    with pytest.raises(UserError, match="covers .* too little to learn from"):
        Pair.prepare(prepare.load_case(files, roles, said.append), train_config(), said.append)


def test_a_ct_is_clipped_and_scaled_to_the_papers_range() -> None:
    config = train_config()
    unit = config.to_unit(torch.tensor([-3000.0, -1024, 0, 2252.7, 4000]))
    torch.testing.assert_close(unit, torch.tensor([0, 0, 1024 / 3276.7, 1, 1]))
    torch.testing.assert_close(
        config.to_hu(torch.tensor([-0.2, 0, 1, 1.3])), torch.tensor([-1024, -1024, 2252.7, 2252.7])
    )


def test_an_mr_has_zero_mean_and_unit_variance_on_the_isotropic_grid() -> None:
    mr, grid = working_mr(case_of()["mr"], 4.0)
    assert grid.shape == (40, 44, 42) and tuple(mr.shape) == (1, 40, 44, 42)
    assert float(mr.mean()) == pytest.approx(0, abs=1e-4) and float(mr.std()) == pytest.approx(1, abs=1e-4)


def coordinates(shape: tuple[int, int, int] = (30, 34, 26)) -> Pair:
    """A pair whose three volumes are i, j and k."""
    axes = torch.meshgrid(*[torch.arange(size, dtype=torch.float32) for size in shape], indexing="ij")
    return Pair(torch.stack(axes), torch.full((3,), -100.0), 0.0)


def test_crops_cover_the_volume_and_nothing_else() -> None:
    config, generator = train_config(rotation_share=0.0), np.random.default_rng(0)
    corners = np.asarray([coordinates().crop(24, config, generator)[:, 0, 0, 0].tolist() for _ in range(200)])
    assert corners.min(axis=0).tolist() == [0, 0, 0] and corners.max(axis=0).tolist() == [6, 10, 2]
    crop = coordinates().crop(24, config, generator)
    assert float((crop[0, 1:] - crop[0, :-1] - 1).abs().max()) == 0


def test_turned_crops_turn_about_z_within_the_angle() -> None:
    config, generator = train_config(rotation_share=1.0), np.random.default_rng(0)
    angles = []
    for _ in range(40):
        crop = coordinates().crop(24, config, generator)
        seen = (crop > -100).all(dim=0)
        step = (crop[:, 1:] - crop[:, :-1])[:, (seen[1:] & seen[:-1])]
        inner = step[:, (step.square().sum(dim=0) - 1).abs() < 1e-3]  # at the volume's ends values stop growing
        assert inner.shape[1] > 0.7 * step.shape[1]
        assert float(inner[2].abs().max()) < 1e-4
        angles.append(float(math.degrees(math.atan2(inner[1].median(), inner[0].median()))))
        assert float((crop[2][seen] - crop[2][seen].round()).abs().max()) < 1e-3
    assert 5 < max(angles) <= 10 and -10 <= min(angles) < -5


def test_a_pair_smaller_than_the_crop_is_padded_with_air() -> None:
    pair = coordinates((10, 40, 9))
    for share in (0.0, 1.0):
        crop = pair.crop(24, train_config(rotation_share=share), np.random.default_rng(0))
        assert crop.shape == (3, 24, 24, 24) and (crop[:, 0] == -100).all() and (crop[:, :, :, -1] == -100).all()
    unturned = pair.crop(24, train_config(rotation_share=0.0), np.random.default_rng(0))
    assert torch.equal(unturned[0, 7:17, 0, 12], torch.arange(10.0))


def test_the_same_seed_draws_the_same_crops() -> None:
    one, other = (pair_of().crop(16, train_config(rotation_share=1.0), np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one, other)


# --- one update


def fit_of(tmp_path: Path, **settings: Any) -> Fit:
    return Fit([pair_of(0), pair_of(1)], [], train_config(**settings), run_in(tmp_path / "run"))


def state(network: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("supervision", ["frequency", "plain"])
def test_each_optimiser_moves_its_own_network_only(tmp_path: Path, supervision: str) -> None:
    fit = fit_of(tmp_path, supervision=supervision)
    judge, generator = state(fit.discriminator), state(fit.network)
    fit._update(0, adversarial=False)
    assert same(judge, state(fit.discriminator)) and not same(generator, state(fit.network))
    generator = state(fit.network)
    fit._judge(torch.randn(1, 1, 24, 24, 24), torch.randn(1, 1, 24, 24, 24))
    assert same(generator, state(fit.network)) and not same(judge, state(fit.discriminator))
    assert {id(p) for group in fit.judge_adam.param_groups for p in group["params"]} == {
        id(p) for p in fit.discriminator.parameters()
    }


@pytest.mark.parametrize("supervision", ["frequency", "plain"])
def test_the_discriminator_sees_high_frequencies_or_in_the_plain_arm_whole_cts(
    tmp_path: Path, supervision: str
) -> None:
    fit = fit_of(tmp_path, supervision=supervision)
    _, ct, ct_high = fit._batch()
    fit._batch = lambda: (torch.zeros_like(ct), ct, ct_high)  # type: ignore[method-assign]
    seen: list[torch.Tensor] = []
    fit.discriminator.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().clone()))
    fit._update(0, adversarial=True)
    assert len(seen) == 4 and seen[0].shape[1] == 1
    torch.testing.assert_close(seen[0], ct if supervision == "plain" else ct_high)
    torch.testing.assert_close(seen[2], seen[0])
    torch.testing.assert_close(seen[1], seen[3])


def test_the_adversarial_term_reaches_the_generator(tmp_path: Path) -> None:
    """The same update with and without it differs."""
    ends = []
    for adversarial in (False, True):
        fit = fit_of(tmp_path, adversarial_weight=10.0)
        fit._update(0, adversarial=adversarial)
        ends.append(state(fit.network))
    assert not same(*ends)


# --- from files to files


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bundle.Model]:
    """A smoke-tier model of two heads, chosen on a third; a fourth is its test."""
    folder = tmp_path_factory.mktemp("heads")
    return folder, train(write_cohort(folder / "cohort", ("train", "", "validation", "test")), folder / "model")


def test_the_synthetic_ct_lies_on_the_mrs_own_grid_in_hu(trained: tuple[Path, bundle.Model], tmp_path: Path) -> None:
    folder, model = trained
    mr = sitk.ReadImage(str(folder / "cohort" / "mr3.nii.gz"))
    ct = apply(model, folder / "cohort" / "mr3.nii.gz", tmp_path / "ct.nii.gz")
    assert ct.GetSize() == mr.GetSize() and ct.GetPixelID() == sitk.sitkInt16
    assert ct.GetDirection() == mr.GetDirection()
    np.testing.assert_allclose(ct.GetOrigin(), mr.GetOrigin())
    np.testing.assert_allclose(ct.GetSpacing(), mr.GetSpacing())
    values = sitk.GetArrayFromImage(ct)
    assert values.min() >= -1024 and values.max() <= 2252 and values.std() > 50
    record = json.loads((tmp_path / "ct.nii.gz.provenance.json").read_text())
    assert record["model"]["digest"] == model.digest


def rotation(degrees: float) -> np.ndarray:
    """About an axis that is none of the volume's."""
    a = np.radians(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(a / 2), -np.sin(a / 2)], [0, np.sin(a / 2), np.cos(a / 2)]])
    return about_z @ about_x


@pytest.mark.parametrize(
    "order", [AxisOrder((2, 0, 1), (True, False, True)), AxisOrder((1, 0, 2), (False, True, False))]
)
def test_flipping_permuting_and_tilting_the_mr_changes_nothing_in_space(
    trained: tuple[Path, bundle.Model], tmp_path: Path, order: AxisOrder
) -> None:
    _, model = trained
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation(20) @ AFFINE[:3, :3], (5, -40, 12)
    mr, _ = head(3)
    plain = apply(model, write(mr, tmp_path / "mr.nrrd", affine), tmp_path / "plain.nrrd")
    moved = order.forward(torch.from_numpy(mr)).numpy()
    other = apply(model, write(moved, tmp_path / "moved.nrrd", order.affine(affine, mr.shape)), tmp_path / "other.nrrd")
    found = torch.from_numpy(sitk.GetArrayFromImage(other).transpose(2, 1, 0).copy())
    assert np.array_equal(order.backward(found).numpy(), sitk.GetArrayFromImage(plain).transpose(2, 1, 0))


def test_an_mr_smaller_than_the_window_is_padded(trained: tuple[Path, bundle.Model], tmp_path: Path) -> None:
    _, model = trained
    mr, _ = head(3)
    ct = apply(model, write(mr[15:25, 5:40, 12:17], tmp_path / "mr.nrrd"), tmp_path / "ct.nrrd", window=64)
    assert ct.GetSize() == (10, 35, 5)


def test_validation_pairs_choose_the_network_and_test_pairs_are_not_read(tmp_path: Path) -> None:
    """The test row's files are broken; the best of three looks is kept, and stands on the card."""
    table = write_cohort(tmp_path / "cohort", ("train", "validation", "test"))
    for name in ("mr2.nii.gz", "ct2.nii.gz"):
        (tmp_path / "cohort" / name).write_bytes(b"nobody reads this")
    collection = cohort.read_collection(table, TRAIN)
    looks: list[tuple[int, float]] = []

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "metric" and event["name"] == "validation_mae":
            looks.append((event["step"], event["value"]))

    config = train_config(updates=9, validate_every=4, pretraining=0.5)
    model = METHOD.train(collection, config, run_in(tmp_path / "run", emit=emit))["model"]
    assert [step for step, _ in looks] == [4, 8, 9]
    assert model.facts["validation MAE (HU)"] == pytest.approx(
        min(value for step, value in looks if step > 4), abs=0.01
    )
    assert (model.facts["pairs"], model.facts["validation pairs"]) == (1, 1) and model.facts["seconds"] > 0
    network = build_network(config)
    network.load_state_dict(model.networks["generator"])
    pair = Pair.prepare(case_of(1), config, lambda message: None)
    found = predict(network, pair.stack[:1], config.crop, 0.25, run_in(tmp_path / "run"), autocast=nullcontext)
    error = (config.to_hu(found) - config.to_hu(pair.stack[1:2])).abs().mean().item()
    assert error == pytest.approx(model.facts["validation MAE (HU)"], abs=0.01)


def test_a_cohort_without_pairs_to_learn_from_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pairs to learn from"):
        train(write_cohort(tmp_path / "cohort", ("validation", "test")), tmp_path / "model")


@pytest.mark.parametrize(("precision", "supervision"), [("bf16", "frequency"), ("32", "plain")])
def test_an_interrupted_training_resumes_to_the_same_model(tmp_path: Path, precision: str, supervision: str) -> None:
    """Stopped once in each stage."""
    config = train_config(updates=16, validate_every=8, pretraining=0.5, supervision=supervision)
    cases, held_out = [case_of(0), case_of(1)], [case_of(2)]
    expected = fit_pairs(cases, config, run_in(tmp_path / "whole", precision=precision), held_out)
    for number, stop in enumerate((1, 11)):
        run = run_in(tmp_path / "run", precision=precision, resume=number > 0)

        def emit(event: dict[str, Any], run: Run = run, stop: int = stop) -> None:
            if event["event"] == "metric" and event["step"] >= stop - 1:
                run.cancel()

        run.emit = emit
        with pytest.raises(Cancelled):
            fit_pairs(cases, config, run, held_out)
    found = fit_pairs(cases, config, run_in(tmp_path / "run", precision=precision, resume=True), held_out)
    for one, other in ((expected.network, found.network), (expected.discriminator, found.discriminator)):
        assert same(state(one), state(other))
    assert found.best.step == expected.best.step and found.validation_mae == expected.validation_mae
    assert all(torch.equal(value, found.weights()[key]) for key, value in expected.weights().items())


def test_a_network_of_ones_own_can_be_trained(tmp_path: Path) -> None:
    """How a claim adds an arm: any network from MR to CT."""
    network = nn.Conv3d(1, 1, 3, padding=1)
    before = state(network)
    config = train_config(supervision="plain", adversarial=False, updates=3)
    fit = fit_pairs([case_of()], config, run_in(tmp_path / "run"), network=network)
    assert fit.network is network and not same(before, state(network))
    ct = synthesise(network, case_of()["mr"], config, ApplyConfig(), run_in(tmp_path / "run"))
    assert ct.data.shape == case_of()["mr"].data.shape


# --- fast


def test_by_default_every_window_runs_in_float32_and_fast_skips_air(tmp_path: Path) -> None:
    mr = case_of()["mr"]
    mr.data[:, 14:] = mr.data[:, :1]  # air in most of the volume
    config = train_config()
    seen: list[tuple[torch.dtype, float]] = []

    class Spy(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            multiplied = inputs[:, :1, :, :, :1].flatten(2) @ inputs[:, :1, :, :, :1].flatten(2).mT
            seen.extend((multiplied.dtype, float(one.max())) for one in inputs)
            return torch.full_like(inputs, 0.5)

    run = run_in(tmp_path / "run", precision="bf16")
    plain = synthesise(Spy(), mr, config, ApplyConfig(overlap=0), run, air=0.1)
    every, seen[:] = len(seen), []
    assert every == 2 * 2 * 2 and bool((plain.data > 600).all())
    fast = synthesise(Spy(), mr, config, ApplyConfig(overlap=0, fast=True), run, air=0.1)
    level = air_level(working_mr(mr, config.voxel)[0])
    assert 0 < len(seen) < every and all(dtype == torch.bfloat16 and top > level for dtype, top in seen)
    assert int(fast.data[0, -1, 20, 20]) == round(0.1 * 3276.7 - 1024)


def test_without_fast_the_networks_see_float32(tmp_path: Path) -> None:
    types: set[torch.dtype] = set()
    network = build_network(train_config())
    network.low_head.register_forward_hook(lambda module, given, found: types.add(found.dtype))
    run = run_in(tmp_path / "run", precision="bf16")
    synthesise(network, case_of()["mr"], train_config(), ApplyConfig(overlap=0), run)
    assert types == {torch.float32}
    synthesise(network, case_of()["mr"], train_config(), ApplyConfig(overlap=0, fast=True), run)
    assert types == {torch.float32, torch.bfloat16}


# --- measures


def test_measures_of_known_images() -> None:
    truth = torch.full((1, 10, 10, 10), -1000.0)
    truth[:, 2:8, 2:8, 2:8] = 40
    truth[:, 4:6, 4:6, 4:6] = 900
    truth[:, 0, 0, 0] = -3000  # padding counts as -1024
    found = truth.clamp(min=-1024) + 10
    affine = np.eye(4)
    measures = METHOD.measure(Case({"ct": Image(found.to(torch.int16), affine)}), Case({"ct": Image(truth, affine)}))
    assert measures["mae"] == pytest.approx(10) and measures["psnr"] == pytest.approx(20 * math.log10(327.67))
    assert 0.98 < measures["ssim"] < 1
    assert measures["dice air"] == measures["dice soft tissue"] == measures["dice bone"] == 1
    found[:, 4:6, 4:6, 4] = 249
    measures = METHOD.measure(Case({"ct": Image(found, affine)}), Case({"ct": Image(truth, affine)}))
    assert measures["dice bone"] == pytest.approx(2 * 4 / (4 + 8))
    assert measures["dice soft tissue"] == pytest.approx(2 * 208 / (208 + 212))


def test_evaluation_compares_on_the_mrs_grid(trained: tuple[Path, bundle.Model], tmp_path: Path) -> None:
    folder, model = trained
    row = execute.evaluate(METHOD, model, folder / "cohort" / "cohort.csv", apply_config(), run_in(tmp_path / "run"))
    assert len(row) == 1 and row[0]["subject"] == "s3"
    tissue = {f"{name} {kind}" for name in ("mae", "dice") for kind in ("air", "soft tissue", "bone")}
    assert set(row[0]) == {"subject", "mae", "psnr", "ssim", *tissue}
    assert 0 < row[0]["mae"] < 2000


# --- what users bring


def refusal(tmp_path: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> str:
    """What training says of a pair that has been changed."""
    mr, ct = change(*head())
    for name, array in (("mr", mr), ("ct", ct)):
        write(array, tmp_path / f"{name}.nrrd")
    io.write_rows([{"mr": "mr.nrrd", "ct": "ct.nrrd"}], tmp_path / "cohort.csv")
    with pytest.raises(UserError) as caught:
        execute.estimate(METHOD, TRAIN, train_config(), run_in(tmp_path / "run"), collection=tmp_path / "cohort.csv")
    with pytest.raises(UserError) as again:
        train(tmp_path / "cohort.csv", tmp_path / "model")
    assert str(caught.value) == str(again.value) and not (tmp_path / "model").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mr, ct: (mr, (ct + 1024) / 3276.7 + 0.1), ("Hounsfield", "ct", "convert")),
        (lambda mr, ct: (mr, (ct + 1100).clip(0)), ("Hounsfield", "subtract its offset")),
        (lambda mr, ct: (mr, ct.clip(-150)), ("Hounsfield", "-150")),
        (lambda mr, ct: (mr, ct.clip(max=100)), ("Hounsfield", "100")),
        (lambda mr, ct: (ct, mr), ("swapped", "mr")),
        (lambda mr, ct: (mr, mr), ("swapped", "ct")),
        (lambda mr, ct: (ct, ct), ("swapped", "mr")),
        (lambda mr, ct: (np.full_like(mr, 7), ct), ("constant",)),
        (lambda mr, ct: (np.where(mr > 500, np.nan, mr), ct), ("not numbers",)),
    ],
)
def test_pairs_that_are_no_mr_and_ct_are_refused(
    tmp_path: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], words: tuple[str, ...]
) -> None:
    said = refusal(tmp_path, change)
    assert all(word in said for word in words), said


def test_a_z_scored_mr_is_no_ct() -> None:
    case = case_of()
    mr = case["mr"].data
    plain = Pair.prepare(case, train_config(), lambda message: None)
    case.values["mr"].data = (mr - mr.mean()) / mr.std()
    scored = Pair.prepare(case, train_config(), lambda message: None)
    torch.testing.assert_close(scored.stack, plain.stack, rtol=0, atol=1e-4)  # nor does its scale change anything


def test_padding_and_metal_count_as_the_ends_of_the_range_and_the_log_says_so() -> None:
    case, said = case_of(), []
    case["ct"].data[0, :2] = -3024
    case["ct"].data[0, 20, 20, :3] = 9000
    pair = Pair.prepare(case, train_config(), said.append)
    assert float(pair.stack[1].min()) == 0 and float(pair.stack[1].max()) == pytest.approx(1, abs=1e-4)
    assert any("-3024" in line and "-1024 HU" in line for line in said)
    assert any("3 voxels above" in line and "9000" in line for line in said)


def test_several_channels_are_refused(trained: tuple[Path, bundle.Model], tmp_path: Path) -> None:
    _, model = trained
    two = Image(torch.rand(2, 20, 20, 20), AFFINE, "dixon")
    io.write_image(two, tmp_path / "dixon.nrrd")
    with pytest.raises(UserError, match="dixon.*2 channels"):
        apply(model, tmp_path / "dixon.nrrd", tmp_path / "ct.nrrd")
    with pytest.raises(UserError, match="2 channels"):
        Pair.prepare(Case({"mr": case_of()["mr"], "ct": two}), train_config(), lambda message: None)


def test_a_ct_given_as_mr_is_refused_when_applying(trained: tuple[Path, bundle.Model], tmp_path: Path) -> None:
    folder, model = trained
    with pytest.raises(UserError, match="like a CT"):
        apply(model, folder / "cohort" / "ct0.nii.gz", tmp_path / "ct.nrrd")


def test_a_ct_on_another_grid_is_brought_to_the_mrs_and_one_elsewhere_is_refused(tmp_path: Path) -> None:
    mr, ct = head()
    write(mr, tmp_path / "mr.nrrd")
    finer = np.diag([2.0, 4, 5, 1])
    finer[0, 3] = -1.0
    write(ct.repeat(2, axis=0), tmp_path / "ct.nrrd", finer)
    io.write_rows([{"mr": "mr.nrrd", "ct": "ct.nrrd"}], tmp_path / "cohort.csv")
    said: list[str] = []
    run = run_in(tmp_path / "run", emit=lambda event: said.append(str(event.get("message"))))
    collection = cohort.read_collection(tmp_path / "cohort.csv", TRAIN)
    METHOD.train(collection, train_config(updates=1, adversarial=False), run)
    assert any("“ct”" in line and "resampled to the grid of “mr”" in line for line in said)
    finer[:3, 3] = 5000
    write(ct.repeat(2, axis=0), tmp_path / "ct.nrrd", finer)
    with pytest.raises(UserError, match="do not overlap"):
        train(tmp_path / "cohort.csv", tmp_path / "model")


@pytest.mark.parametrize(
    ("setting", "value", "word"), [("kernel", 12, "odd"), ("crop", 28, "multiple of 8"), ("kernel", 31, "crop")]
)
def test_settings_the_networks_cannot_use_are_refused(setting: str, value: int, word: str) -> None:
    with pytest.raises(UserError, match=word):
        TRAIN.configure("smoke", {setting: value})


# --- estimates, bundles, others


def test_estimates_of_training_and_applying_grow_with_the_work(
    trained: tuple[Path, bundle.Model], tmp_path: Path
) -> None:
    folder, model = trained
    table, run = folder / "cohort" / "cohort.csv", run_in(tmp_path / "run")
    short = execute.estimate(METHOD, TRAIN, train_config(), run, collection=table)
    long = execute.estimate(METHOD, TRAIN, train_config(updates=100_000), run, collection=table)
    assert 8 < short.seconds < 120 and long.seconds > 5 * short.seconds and short.memory_bytes > 2**29
    files = [{"mr": [str(folder / "cohort" / "mr3.nii.gz")]}]
    once = execute.estimate(METHOD, APPLY, apply_config(overlap=0.0), run, files=files, model=model)
    many = execute.estimate(METHOD, APPLY, apply_config(overlap=0.9), run, files=files, model=model)
    assert once.seconds < many.seconds


def test_monai_reads_the_bundle_and_synthesises_the_same_ct(trained: tuple[Path, bundle.Model], tmp_path: Path) -> None:
    """configs/inference.json by MONAI's own reader, against ours; the two differ in how they resample and round."""
    from monai.bundle import ConfigParser

    folder, model = trained
    mr, _ = head(3)
    path = write(mr, tmp_path / "mr.nii.gz", np.diag([4.0, 4, 4, 1]))
    ours = sitk.GetArrayFromImage(apply(model, path, tmp_path / "ct.nii.gz", overlap=0.5)).astype(float)
    parser = ConfigParser()
    parser.read_config(folder / "model" / "configs" / "inference.json")
    parser["bundle_root"], parser["device"] = str(folder / "model"), "cpu"
    # MONAI reads, writes and orients by nibabel, which is not among our packages: hand it the image, take the result.
    parser["image"] = io.read_image(path).as_metatensor()
    steps = [step["_target_"] for step in parser["preprocessing#transforms"]]
    assert steps[:3] == ["LoadImaged", "EnsureChannelFirstd", "Orientationd"]
    assert parser["postprocessing#transforms"][-1]["_target_"] == "SaveImaged"
    parser["preprocessing#transforms"] = parser["preprocessing#transforms"][3:]
    parser["postprocessing#transforms"] = parser["postprocessing#transforms"][:-1]
    theirs = parser.get_parsed_content("run")[-1]["pred"][0].numpy().transpose(2, 1, 0)
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).mean() < 5 and ours.std() > 50


def test_the_catalog_knows_the_method() -> None:
    entry = catalog.entry(METHOD.slug)
    assert (entry["module"], entry["group"], entry["phantoms"]) == ("MedGenSynthesis", "Translate", ["head-mr-ct"])


def test_a_real_t1_becomes_a_ct_in_hu_on_its_own_grid(
    trained: tuple[Path, bundle.Model], data: Path, tmp_path: Path
) -> None:
    """Smoke: the model has seen eggs only, so nothing is said of its error."""
    _, model = trained
    path = data / "mr_head_studyforrest" / "t1w_1.5mm.nii.gz"
    ct, mr = apply(model, path, tmp_path / "ct.nii.gz"), sitk.ReadImage(str(path))
    assert ct.GetSize() == mr.GetSize()
    np.testing.assert_allclose(io.affine_of(ct), io.affine_of(mr), atol=1e-4)
    values = sitk.GetArrayFromImage(ct)
    assert values.dtype == np.int16 and values.min() >= -1024 and values.max() <= 2252 and values.std() > 50


def test_previews_are_cts_of_the_first_validation_pair_and_change_no_weight(tmp_path: Path) -> None:
    config = train_config(updates=8, validate_every=4, pretraining=0.5)
    table = write_cohort(tmp_path / "cohort", ("train", "validation"))
    models, events = [], []
    for number, options in enumerate(({}, {"previews": 0.0, "emit": lambda event: events.append(event)})):
        run = run_in(tmp_path / f"run{number}", **options)
        models.append(METHOD.train(cohort.read_collection(table, TRAIN), config, run)["model"])
    plain, watched = (model.networks["generator"] for model in models)
    assert all(torch.equal(tensor, watched[key]) for key, tensor in plain.items())
    seen = [event for event in events if event["event"] == "preview"]
    assert seen and seen[0]["role"] == "ct" and seen[0]["files"]["mr"][0].endswith("mr1.nii.gz")
    shown = io.read_image(Path(seen[0]["path"]))
    mr, _ = head(1)
    assert np.allclose(
        np.asarray(shown.shape) * shown.spacing, np.asarray(mr.shape) * AFFINE.diagonal()[:3], atol=shown.spacing.max()
    )
    assert -1024 <= float(shown.data.min()) < float(shown.data.max())
