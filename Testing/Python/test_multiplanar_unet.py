"""The method: what counts in its loss, what its planes cover, and that it does its job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from method_tools import configured

from medgen import bundle, catalog, execute, io, markups
from medgen.case import Case, Mask, Plane, renumber, unite_segments
from medgen.contours import UNANNOTATED, AnnotatedPlane, random_planes
from medgen.errors import Cancelled, UserError
from medgen.geometry import AxisOrder, WorkingGrid
from medgen.jobs import Run
from medgen.method import Config, Kind
from medgen.nn.unet import UNet, parameter_count
from medgen.planes import (
    Helpers,
    PlaneSampler,
    PlaneVolume,
    Predictor,
    fuse,
    logits_of,
    orientation_matrices,
    oriented_grid,
)
from medgen.segmentation.multiplanar_unet import (
    ApplyConfig,
    MultiplanarUNet,
    TrainConfig,
    annotated_planes,
    build_network,
    choose_held_out,
    hidden_groups,
    hold_out,
    masked_cross_entropy,
)

METHOD = MultiplanarUNet()
TRAIN, APPLY = METHOD.operation("train"), METHOD.operation("apply")


def train_config(**settings: Any) -> TrainConfig:
    return configured(TrainConfig, TRAIN, "smoke", settings)


def apply_config(**settings: Any) -> ApplyConfig:
    return configured(ApplyConfig, APPLY, "smoke", settings)


def blob(size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipsoid in noise, and its mask; off centre, so that axes can be told apart."""
    generator = np.random.default_rng(0)
    i, j, k = np.meshgrid(*[np.arange(size)] * 3, indexing="ij")
    inside = ((i - 14) / 9) ** 2 + ((j - 17) / 7) ** 2 + ((k - 15) / 11) ** 2 < 1
    image = 100.0 * inside + generator.normal(0, 10, inside.shape)
    return image.astype(np.float32), inside.astype(np.uint8)


def write_case(folder: Path, image: np.ndarray, mask: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """image.nii.gz, mask.nii.gz (numpy in i, j, k order) and a cohort.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4) if affine is None else affine
    for name, array in (("image", image), ("mask", mask)):
        written = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        flip = np.diag([-1.0, -1, 1])
        written.SetSpacing(spacing.tolist())
        written.SetDirection((flip @ affine[:3, :3] / spacing).ravel().tolist())
        written.SetOrigin((flip @ affine[:3, 3]).tolist())
        sitk.WriteImage(written, str(folder / f"{name}.nrrd"))
    (folder / "cohort.csv").write_text("image,mask\nimage.nrrd,mask.nrrd\n")
    return folder / "cohort.csv"


def drawn_slices(mask: np.ndarray, indices: tuple[int, ...] = (6, 11, 15, 20, 24)) -> np.ndarray:
    drawn = np.zeros_like(mask)
    drawn[:, :, list(indices)] = mask[:, :, list(indices)]
    return drawn


def train(cohort: Path, out: Path, **settings: Any) -> bundle.Model:
    run = Run(out.parent / "run", device="cpu", precision="32")
    execute.perform(METHOD, TRAIN, train_config(**settings), run, out, collection=cohort)
    return bundle.load(out)


def apply(model: bundle.Model, files: dict[str, list[str]], out: Path, **settings: Any) -> np.ndarray:
    run = Run(out.parent / "run-apply", device="cpu", precision="32")
    execute.perform(METHOD, APPLY, apply_config(**settings), run, out, files=[files], model=model)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(out))).transpose(2, 1, 0)


def prepared(**settings: Any) -> tuple[PlaneVolume, TrainConfig]:
    """The blob, drawn on five slices, on its working grid."""
    image, mask = blob()
    planes = [AnnotatedPlane.slice_of(2, index, np.ones(3)) for index in (6, 11, 15, 20, 24)]
    drawn = torch.from_numpy(drawn_slices(mask).astype(np.int16))
    return PlaneVolume.prepare(torch.from_numpy(image)[None], np.ones(3), drawn, planes, 10**6), train_config(
        **settings
    )


# --- loss


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_loss_is_the_weighted_mean_over_annotated_pixels(outputs: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, outputs, 4, 5, dtype=torch.float64)
    classes = torch.randint(-1, max(2, outputs), (2, 4, 5))
    weights = torch.rand(2, 4, 5, dtype=torch.float64)
    total, mass = 0.0, 0.0
    for n, r, c in np.ndindex(2, 4, 5):
        if classes[n, r, c] == UNANNOTATED:
            continue
        if outputs == 1:
            p = 1 / (1 + np.exp(-float(logits[n, 0, r, c])))
            entropy = -np.log(p if classes[n, r, c] > 0 else 1 - p)
        else:
            e = np.exp(logits[n, :, r, c].numpy())
            entropy = -np.log(e[int(classes[n, r, c])] / e.sum())
        total += float(weights[n, r, c]) * entropy
        mass += float(weights[n, r, c])
    assert float(masked_cross_entropy(logits, classes, weights)) == pytest.approx(total / mass, rel=1e-6)


@pytest.mark.parametrize("outputs", [1, 3])
def test_unannotated_pixels_get_no_gradient(outputs: int) -> None:
    logits = torch.randn(2, outputs, 8, 8, requires_grad=True)
    classes = torch.randint(-1, 2, (2, 8, 8))
    masked_cross_entropy(logits, classes, torch.ones(2, 8, 8)).backward()
    assert logits.grad is not None
    magnitude = logits.grad.abs().sum(dim=1)
    assert (magnitude[classes == UNANNOTATED] == 0).all() and (magnitude[classes != UNANNOTATED] > 0).all()


def test_a_batch_without_annotation_costs_nothing_and_stays_finite() -> None:
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.full((1, 4, 4), UNANNOTATED), torch.ones(1, 4, 4))
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and float(logits.grad.abs().max()) == 0


# --- training planes


def test_the_paper_tier_is_the_paper() -> None:
    config = TRAIN.configure("paper", {})
    assert isinstance(config, TrainConfig)
    assert parameter_count(build_network(config, 1, 1)) == 31_044_289
    assert (config.updates, config.batch_size, config.learning_rate, config.training_planes) == (22400, 4, 1e-5, 512)


def test_every_training_plane_cuts_an_annotated_one() -> None:
    volume, config = prepared(annotated_share=0.0, axis_share=0.0, far_background=0.0, window=64)
    sampler = PlaneSampler([volume], [1], Helpers(), config, set(), [None], seed=1)
    generator = np.random.default_rng(0)
    for _ in range(5):
        _, classes, weights = sampler.batch(generator)
        for one, weight in zip(classes, weights, strict=True):
            share = float((one != UNANNOTATED).float().mean())
            assert 0 < share < 0.5
            assert torch.equal(weight > 0, one != UNANNOTATED)


def test_without_training_planes_the_annotated_planes_are_shown_whole() -> None:
    volume, config = prepared(training_planes=0, window=16, foreground_share=1.0, scaling=0.0)
    sampler = PlaneSampler([volume], [1], Helpers(), config, set(), [None], seed=1)
    _, classes, _ = sampler.batch(np.random.default_rng(0))
    assert float((classes != UNANNOTATED).float().mean()) > 0.85  # the rest lies outside the volume


def test_labels_on_a_training_plane_are_those_of_the_volume() -> None:
    """A position channel tells where each pixel lies, so every label can be looked up."""
    _, mask = blob()
    volume, config = prepared(annotated_share=0.5, far_background=0.0, noise=0.0)
    sampler = PlaneSampler([volume], [1], Helpers(position=True), config, set(), [None], seed=2)
    inputs, classes, _ = sampler.batch(np.random.default_rng(1))
    index = torch.floor((inputs[:, 1:4].movedim(1, -1) + 1) / 2 * 31 + 0.5).long()
    known = classes != UNANNOTATED
    assert int(known.sum()) > 100
    i, j, k = index[known].clamp(0, 31).unbind(-1)
    assert torch.isin(k, torch.tensor([6, 11, 15, 20, 24])).all()
    assert float((torch.from_numpy(mask)[i, j, k].long() == classes[known]).float().mean()) > 0.995


def test_held_out_planes_never_count() -> None:
    volume, config = prepared(annotated_share=0.5, far_background=0.0)
    sampler = PlaneSampler([volume], [1], Helpers(position=True), config, {(0, 1), (0, 3)}, [None], seed=2)
    generator = np.random.default_rng(1)
    for _ in range(5):
        inputs, classes, _ = sampler.batch(generator)
        depth = torch.floor((inputs[:, 3] + 1) / 2 * 31 + 0.5)[classes != UNANNOTATED]
        assert not torch.isin(depth, torch.tensor([11.0, 20.0])).any()


def test_pixels_whose_answer_the_interpolation_shows_count_little() -> None:
    volume, config = prepared(annotated_share=0.0, far_background=0.0)
    volume.interpolate([1], [frozenset({2})])
    sampler = PlaneSampler([volume], [1], Helpers(True, True), config, set(), [None], seed=2)
    inputs, classes, weights = sampler.batch(np.random.default_rng(1))
    depth = torch.floor((inputs[:, 3] + 1) / 2 * 31 + 0.5)
    known = classes != UNANNOTATED
    assert (weights[known & (depth == 15)] == 1).all() and (weights[known & (depth != 15)] < 0.2).all()


def test_the_same_seed_draws_the_same_planes() -> None:
    volume, config = prepared()
    batches = [
        PlaneSampler([volume], [1], Helpers(), config, set(), [None], seed=3).batch(np.random.default_rng(4))
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_groups_of_hidden_planes_hide_every_plane_and_always_show_one() -> None:
    for count in range(2, 20):
        groups = hidden_groups(count, frozenset())
        assert set().union(*groups) == set(range(count)) and all(len(group) < count for group in groups)
    assert all({1, 2} < group for group in hidden_groups(6, frozenset({1, 2})))


def test_held_out_planes_are_half_as_many_as_train_and_inside() -> None:
    assert hold_out(6, 1 / 3) == [1, 4] and hold_out(9, 1 / 3) == [1, 4, 7]
    assert hold_out(2, 1 / 3) == [] and hold_out(5, 0.0) == []


def test_random_annotation_planes_pass_through_the_volume() -> None:
    for plane in random_planes((10, 20, 30), np.array([2.0, 1, 1]), 20, np.random.default_rng(0)):
        assert np.linalg.norm(plane.normal) == pytest.approx(1, abs=1e-5)
        assert (np.asarray(plane.origin) >= 0).all() and (np.asarray(plane.origin) <= [18, 19, 29]).all()


# --- prediction


@pytest.mark.parametrize("shape", [(20, 33, 17), (5, 40, 64)])
def test_every_voxel_lies_inside_every_orientation(shape: tuple[int, int, int]) -> None:
    voxels = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), axis=-1).reshape(-1, 3)
    for matrix in orientation_matrices(9, "axes", seed=5):
        stack, centre = oriented_grid(shape, matrix, 16)
        local = (voxels - centre) @ matrix + (np.asarray([stack[1], stack[2], stack[0]]) - 1) / 2
        assert (local > -1e-6).all() and (local < np.asarray([stack[1], stack[2], stack[0]]) - 1 + 1e-6).all()
        assert stack[1] % 16 == 0 and stack[2] % 16 == 0
        if np.isin(matrix, (-1.0, 0.0, 1.0)).all():  # pixels lie on voxels, however the planes are padded
            np.testing.assert_allclose(local, np.round(local), atol=1e-9)


def test_random_orientations_differ_and_repeat_with_the_seed() -> None:
    first, again = orientation_matrices(3, "random", 1), orientation_matrices(3, "random", 1)
    other = orientation_matrices(3, "random", 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.allclose(first[0], other[0]) and not np.allclose(first[0], first[1])


class Pointwise(torch.nn.Module):
    """Logit = intensity: what any orientation must give back unchanged."""

    multiple = 16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1]


def predictor_of(network: torch.nn.Module) -> Predictor:
    return Predictor(network, Helpers(), 0.0, [1])


def test_one_orientation_across_an_axis_is_the_slice_wise_network() -> None:
    torch.manual_seed(0)
    network = UNet(base_width=4).eval()
    volume = PlaneVolume(torch.rand(1, 32, 48, 6) * 2 - 1, WorkingGrid.over((32, 48, 6), np.ones(3), 10**6))
    run = Run(Path("unused"), device="cpu", precision="32")
    found = predictor_of(network).mean(volume, 0, orientation_matrices(1, "axes", 0), run, torch.no_grad)
    with torch.no_grad():
        expected = network(volume.image.permute(3, 0, 1, 2)).sigmoid().permute(1, 2, 3, 0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("directions", ["axes", "random"])
def test_every_orientation_puts_its_prediction_where_it_belongs(directions: str) -> None:
    i, j, k = torch.meshgrid(*[torch.linspace(-1, 1, size) for size in (20, 26, 15)], indexing="ij")
    volume = PlaneVolume((0.7 * i - 0.4 * j + 0.2 * k)[None], WorkingGrid.over((20, 26, 15), np.ones(3), 10**6))
    run = Run(Path("unused"), device="cpu", precision="32")
    matrices = orientation_matrices(3, directions, 7)
    found = predictor_of(Pointwise()).mean(volume, 0, matrices, run, torch.no_grad)
    inner = (slice(None), slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inner], volume.image.sigmoid()[inner], atol=5e-3, rtol=0)


def test_the_prior_and_the_fusion_add_distances_to_the_structures_logits() -> None:
    inputs = torch.randn(1, 4, 16, 16)
    network = Pointwise()
    torch.testing.assert_close(logits_of(network, inputs, 0.5, 1) - network(inputs), 2.5 * inputs[:, 2:3])
    mean = torch.tensor([0.2, 0.5, 0.3]).reshape(3, 1)
    fused = fuse(mean, torch.tensor([[2.0], [-2.0]]), 0.5, voxel=1.0)
    assert fused[:, 0].tolist() == pytest.approx([np.log(2.5) + 0.5, np.log(1.5) - 0.5], abs=1e-5)


# --- the whole


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bundle.Model]:
    """A smoke-tier model of the drawn blob."""
    folder = tmp_path_factory.mktemp("blob")
    image, mask = blob()
    return folder, train(write_case(folder / "case", image, drawn_slices(mask)), folder / "model")


def files_of(folder: Path) -> dict[str, list[str]]:
    return {"image": [str(folder / "image.nrrd")], "mask": [str(folder / "mask.nrrd")]}


def test_a_blob_drawn_on_five_slices_is_segmented(trained: tuple[Path, bundle.Model]) -> None:
    folder, model = trained
    _, mask = blob()
    found = apply(model, files_of(folder / "case"), folder / "found.nrrd")
    assert 2 * (found * mask).sum() / (found.sum() + mask.sum()) > 0.9
    assert np.array_equal(found[:, :, 11], mask[:, :, 11])


@pytest.mark.parametrize(
    "order", [AxisOrder((2, 0, 1), (True, False, True)), AxisOrder((1, 0, 2), (False, True, False))]
)
def test_flipping_and_permuting_the_input_changes_nothing_in_space(
    trained: tuple[Path, bundle.Model], tmp_path: Path, order: AxisOrder
) -> None:
    folder, model = trained
    image, mask = blob()
    expected = apply(model, files_of(folder / "case"), tmp_path / "expected.nrrd")
    moved = [order.forward(torch.from_numpy(array)).numpy() for array in (image, drawn_slices(mask))]
    cohort = write_case(tmp_path / "moved", *moved, order.affine(np.eye(4), (32, 32, 32)))
    found = apply(model, files_of(cohort.parent), tmp_path / "found.nrrd")
    assert np.array_equal(order.backward(torch.from_numpy(found)).numpy(), expected)
    again = train(cohort, tmp_path / "again")
    assert all(torch.equal(again.networks["unet"][key], value) for key, value in model.networks["unet"].items())


def test_a_model_from_drawn_slices_asks_for_them(trained: tuple[Path, bundle.Model], tmp_path: Path) -> None:
    folder, model = trained
    with pytest.raises(UserError, match="mask"):
        apply(model, {"image": files_of(folder / "case")["image"]}, tmp_path / "found.nrrd")


def test_an_empty_drawing_is_the_users_to_mend(tmp_path: Path) -> None:
    image, mask = blob()
    with pytest.raises(UserError, match=r"[Dd]raw"):
        train(write_case(tmp_path / "case", image, mask * 0), tmp_path / "model")


@pytest.mark.parametrize("network", ["multi-planar", "3d-unet"])
def test_a_cohort_of_whole_masks_trains_without_helpers(tmp_path: Path, network: str) -> None:
    image, mask = blob()
    labels = mask.astype(np.uint8) * np.where(np.arange(32) < 15, 1, 2).astype(np.uint8)
    rows = []
    for number, split in enumerate(("train", "train", "validation")):
        write_case(tmp_path / f"case{number}", image + number, labels)
        rows.append(f"case{number}/image.nrrd,case{number}/mask.nrrd,{split}")
    (tmp_path / "cohort.csv").write_text("image,mask,split\n" + "\n".join(rows) + "\n")
    model = train(tmp_path / "cohort.csv", tmp_path / "model", network=network, annotation_planes=4, updates=2)
    assert model.settings["structures"] == [1, 2]
    assert model.settings["helpers"] == {"position": False, "interpolation": False, "focus": None}
    found = apply(model, {"image": [str(tmp_path / "case0" / "image.nrrd")]}, tmp_path / "found.nrrd")
    assert found.shape == (32, 32, 32) and set(np.unique(found)) <= {0, 1, 2}


def test_an_interrupted_training_resumes_to_the_same_model(trained: tuple[Path, bundle.Model], tmp_path: Path) -> None:
    _, expected = trained
    image, mask = blob()
    cohort = write_case(tmp_path / "case", image, drawn_slices(mask))
    for stop in (5, 15):
        run = Run(tmp_path / "run", device="cpu", precision="32", resume=stop > 5)
        steps = iter(range(10**6))
        run.emit = lambda event, run=run, steps=steps, stop=stop: (  # type: ignore[misc]
            run.cancel() if event["event"] == "metric" and next(steps) >= stop // 10 else None
        )
        with pytest.raises(Cancelled):
            execute.perform(METHOD, TRAIN, train_config(), run, tmp_path / "model", collection=cohort)
    run = Run(tmp_path / "run", device="cpu", precision="32", resume=True)
    execute.perform(METHOD, TRAIN, train_config(), run, tmp_path / "model", collection=cohort)
    found = bundle.load(tmp_path / "model")
    for key, value in expected.networks["unet"].items():
        torch.testing.assert_close(found.networks["unet"][key], value, rtol=1e-5, atol=1e-6)
    assert found.settings == expected.settings


def test_the_catalog_knows_the_method() -> None:
    entry = json.loads(catalog.PATH.read_text("utf-8"))["methods"]
    assert any(method["slug"] == METHOD.slug for method in entry)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(UserError, match="windows"):
        TRAIN.configure("smoke", {"windows": 3})
    assert issubclass(TrainConfig, Config) and issubclass(ApplyConfig, Config)


def test_check_refuses_an_empty_drawing_before_anything_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from medgen.cli import main

    image, mask = blob()
    table = write_case(tmp_path / "case", image, mask * 0)
    assert main(["check", "multiplanar-unet", str(table), "--tier", "smoke", "--progress", "none"]) == 2
    assert "Nothing is drawn" in capfd.readouterr().err


def test_measures_are_the_papers_and_leave_annotated_voxels_out() -> None:
    truth, found = torch.zeros(4, 4, 4, dtype=torch.int16), torch.zeros(4, 4, 4, dtype=torch.int16)
    truth[:2, 0, 0], found[1:3, 0, 0] = 1, 1
    annotated = torch.zeros(4, 4, 4, dtype=torch.bool)
    annotated[:, :, 3] = True
    found[:, :, 3] = 1
    result = METHOD.measure(
        Case({"mask": Mask(found, np.eye(4))}), Case({"mask": Mask(truth, np.eye(4), annotated=annotated)})
    )
    assert result == pytest.approx({"dice": 0.5, "sensitivity": 0.5, "specificity": 45 / 46})


def test_annotated_planes_come_from_markups_before_drawings() -> None:
    """A slice marked as annotated counts although nothing is drawn on it: its empty pixels are background."""
    _, mask = blob()
    affine = np.diag([-0.5, 2.0, 1.0, 1.0])
    labels = Mask(torch.from_numpy(drawn_slices(mask).astype(np.int16)), affine)
    axes = np.eye(3)
    case = Case({"mask": labels, "planes": [Plane(np.array([0, 0, z]), axes) for z in (11.0, 2.0)]})
    planes = annotated_planes(case, labels, "auto", lambda message: None)
    assert [plane.origin[2] for plane in planes] == [11.0, 2.0]
    volume = PlaneVolume.prepare(torch.zeros(1, 32, 32, 32), labels.spacing, labels.data, planes, 10**6)
    assert volume.labels is not None
    known = (volume.labels != UNANNOTATED).any(dim=0).any(dim=0)
    assert int((volume.labels > 0).sum()) > 0 and known.sum() <= 8
    said: list[str] = []
    found = annotated_planes(Case({"mask": labels}), labels, "auto", said.append)
    assert len(found) == 5 and "5 axial" in said[0]
    assert annotated_planes(Case({"mask": labels}), labels, "whole", said.append) == []


def test_the_estimate_holds_a_time_and_suggests_the_slices_found(tmp_path: Path) -> None:
    image, mask = blob()
    cohort = write_case(tmp_path / "case", image, drawn_slices(mask))
    run = Run(tmp_path / "run", device="cpu", precision="32")
    estimate = execute.estimate(METHOD, TRAIN, train_config(), run, collection=cohort)
    assert 1 < estimate.seconds < 600 and estimate.memory_bytes > 2**28
    origins = sorted(float(plane.origin[2]) for plane in estimate.suggested["planes"])
    assert origins == pytest.approx([6, 11, 15, 20, 24])


def test_a_drawing_off_its_annotated_planes_is_the_users_to_mend(tmp_path: Path) -> None:
    image, mask = blob()
    cohort = write_case(tmp_path / "case", image, drawn_slices(mask, (11, 15, 20)))
    for height, message in ((2.0, "none of the annotated"), (90.0, "does not cut")):
        planes = [Plane(np.array([0.0, 0.0, height]), np.eye(3), "marked")]
        markups.write(planes, Kind.PLANE, tmp_path / "case" / "planes.mrk.json")
        cohort.write_text("image,mask,planes\nimage.nrrd,mask.nrrd,planes.mrk.json\n")
        with pytest.raises(UserError, match=message):
            train(cohort, tmp_path / "model")


def test_validation_cases_are_held_out_whole_and_subjects_stay_together() -> None:
    whole = PlaneVolume.prepare(torch.zeros(1, 8, 8, 8), np.ones(3), torch.ones(8, 8, 8, dtype=torch.int16), [], 10**6)
    config = train_config()
    assert choose_held_out([whole] * 3, [False, True, False], ["a", "b", "c"], config) == {(1, -1)}
    assert choose_held_out([whole] * 4, [False] * 4, ["a", "b", "b", "c"], config) == {(1, -1), (2, -1)}
    sampler = PlaneSampler([whole, whole], [1], Helpers(), config, {(1, -1)}, [None, None], seed=0)
    assert all(sampler._choose(np.random.default_rng(n))[0] == 0 for n in range(20))
    with pytest.raises(UserError, match="validation"):
        choose_held_out([whole], [True], ["a"], config)


def _two_structures(first: str, second: str) -> tuple[sitk.Image, sitk.Image]:
    """A volume with a dark and a bright ball; a mask whose segments are listed in the given order."""
    k, j, i = np.mgrid[:24, :24, :24]
    centres = {"dark": 7, "bright": 16}
    balls = {name: (k - 12) ** 2 + (j - at) ** 2 + (i - at) ** 2 < 25 for name, at in centres.items()}
    values = np.random.default_rng(0).normal(0, 5, (24, 24, 24))
    values[balls["dark"]] -= 80
    values[balls["bright"]] += 80
    labels = np.zeros(values.shape, np.uint8)
    labels[balls[first]], labels[balls[second]] = 1, 2
    mask = sitk.GetImageFromArray(labels)
    for index, name in enumerate((first, second)):
        for key, value in (("ID", name), ("Name", name), ("LabelValue", str(index + 1)), ("Layer", "0")):
            mask.SetMetaData(f"Segment{index}_{key}", value)
    return sitk.GetImageFromArray(values.astype(np.float32)), mask


def test_structures_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    from medgen import cohort, execute, io

    rows = []
    for number, order in enumerate((("dark", "bright"), ("bright", "dark"))):
        image, mask = _two_structures(*order)
        sitk.WriteImage(image, str(tmp_path / f"i{number}.nrrd"))
        sitk.WriteImage(mask, str(tmp_path / f"m{number}.seg.nrrd"))
        rows.append({"image": f"i{number}.nrrd", "mask": f"m{number}.seg.nrrd", "subject": f"s{number}"})
    io.write_rows(rows, tmp_path / "cohort.csv")
    masks = [io.read_mask(tmp_path / row["mask"]) for row in rows]
    united = unite_segments(masks)
    assert [(segment.name, segment.value) for segment in united] == [("dark", 1), ("bright", 2)]
    assert torch.equal(renumber(masks[0], united)[0].data, renumber(masks[1], united)[0].data)
    config = TRAIN.configure("smoke", {"updates": 120})
    run = Run(tmp_path / "run", device="cpu", precision="32")
    model = METHOD.train(cohort.read_collection(tmp_path / "cohort.csv", TRAIN), config, run)["model"]
    apply = METHOD.operation("apply")
    results = execute.evaluate(METHOD, model, tmp_path / "cohort.csv", apply.configure("smoke", {}), run)
    assert [row["dice dark"] > 0.6 and row["dice bright"] > 0.6 for row in results] == [True, True]


def test_check_of_a_model_refuses_what_apply_would(
    trained: tuple[Path, bundle.Model], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from medgen import io
    from medgen.cli import main

    folder, _ = trained
    image, _mask = blob()
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "i.nii.gz"))
    io.write_rows([{"image": "i.nii.gz"}], tmp_path / "cohort.csv")
    for given in (["-i", f"image={tmp_path / 'i.nii.gz'}"], [str(tmp_path / "cohort.csv")]):
        assert main(["check", str(folder / "model"), *given, "--progress", "none"]) == 2
        assert "give them as role “mask”" in capfd.readouterr().err


@pytest.mark.parametrize(("setting", "step"), [("window", 16), ("patch", 8)])
def test_sides_the_network_cannot_halve_are_refused(setting: str, step: int) -> None:
    with pytest.raises(UserError, match=f"“{setting}” = 50 .*multiple of {step}"):
        TRAIN.configure("smoke", {setting: 50})


def test_a_patch_whose_bottom_is_thinner_than_a_kernel_is_refused() -> None:
    with pytest.raises(UserError, match="“patch” = 16 .*24"):
        TRAIN.configure("smoke", {"patch": 16})
    assert TRAIN.configure("smoke", {"patch": 24}).patch // 2**3 >= 3  # type: ignore[attr-defined]


def test_previews_lie_on_the_drawn_volume_and_leave_the_model_as_it_is(
    trained: tuple[Path, bundle.Model], tmp_path: Path
) -> None:
    _, expected = trained
    image, mask = blob()
    cohort = write_case(tmp_path / "case", image, drawn_slices(mask))
    events: list[dict[str, Any]] = []
    run = Run(tmp_path / "run", device="cpu", precision="32", previews=0.0, emit=events.append)
    execute.perform(METHOD, TRAIN, train_config(), run, tmp_path / "model", collection=cohort)
    found = bundle.load(tmp_path / "model")
    assert all(torch.equal(value, found.networks["unet"][key]) for key, value in expected.networks["unet"].items())
    seen = [event for event in events if event["event"] == "preview"]
    assert seen and seen[0]["role"] == "mask" and seen[0]["files"]["image"] == [str(tmp_path / "case" / "image.nrrd")]
    shown = io.read_mask(Path(seen[-1]["path"]))
    whole = np.eye(4) @ [31, 31, 31, 1]
    corner = shown.affine @ [*(size - 1 for size in shown.shape), 1]
    assert (shown.affine[:3, 3] >= -1).all() and (corner[:3] <= whole[:3] + 1).all()


def test_the_card_says_what_was_learnt_from_and_how_well_on_held_out_cases(tmp_path: Path) -> None:
    image, mask = blob()
    rows = []
    for number, split in enumerate(("train", "train", "validation", "test")):
        write_case(tmp_path / f"case{number}", image + number, mask)
        rows.append(f"case{number}/image.nrrd,case{number}/mask.nrrd,{split},Patient {number // 2}{split}")
    (tmp_path / "cohort.csv").write_text("image,mask,split,subject\n" + "\n".join(rows) + "\n")
    model = train(tmp_path / "cohort.csv", tmp_path / "model", updates=2)
    assert model.facts["learnt from"] == "3 cases of 2 subjects (image, mask), 1 for validation"
    assert model.facts["held out"] == "1 case of 1 subject (image, mask)"
    measured = execute.evaluate(METHOD, model, tmp_path / "cohort.csv", apply_config(), Run(tmp_path / "evaluate"))
    assert len(measured) == 1
    assert model.facts["on held-out cases"]["dice"] == pytest.approx(measured[0]["dice"], abs=0.02)
    card = (tmp_path / "model" / "docs" / "README.md").read_text()
    assert "On held-out cases: dice" in card and "Patient" not in card


def test_held_out_cases_that_cannot_be_measured_cost_no_model(tmp_path: Path) -> None:
    image, mask = blob()
    for number in range(2):
        write_case(tmp_path / f"case{number}", image, mask)
    (tmp_path / "case1" / "image.nrrd").write_bytes(b"broken")
    rows = ["image,mask,split", *(f"case{n}/image.nrrd,case{n}/mask.nrrd,{s}" for n, s in enumerate(("train", "test")))]
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    assert train(tmp_path / "cohort.csv", tmp_path / "model", updates=2).facts["on held-out cases"] == "not measured"
