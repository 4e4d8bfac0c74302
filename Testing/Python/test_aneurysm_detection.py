"""The method: its patches and their distortion, losses and network, how it looks, what it refuses, that it learns."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from method_tools import a_run, configured, said
from scipy.interpolate import CubicSpline
from torch import nn
from torch.nn import functional as F

from medgen import bundle, execute, io, markups, phantoms
from medgen.case import Case, Image, Points, Sphere
from medgen.cli import main
from medgen.cohort import read_collection
from medgen.errors import Cancelled, UserError
from medgen.jobs import Event, Run
from medgen.landmarks import aneurysm_detection as method
from medgen.landmarks.aneurysm_detection import AneurysmDetection, ApplyConfig, Fit, TrainConfig, focal_loss
from medgen.lattice import displacement, draw_lattice
from medgen.lesionpatches import Patch, choose_patches, places_in
from medgen.lesions import MarkedVolume, look_through, window_side
from medgen.method import Kind, Role
from medgen.nn.unet import UNet, parameter_count
from medgen.patches import working_grid

METHOD = AneurysmDetection()
TRAIN, APPLY = METHOD.operation("train"), METHOD.operation("apply")
TINY: dict[str, Any] = {"voxel": 1.0, "patch": 16, "width": 2, "duplicates": 4, "vessel_patches": 4}
TINY |= {"tissue_patches": 3, "apart": 6.0, "updates": 4, "batch_size": 2, "validate_every": 2}
SPHERES = Role("aneurysms", Kind.SPHERE, "", many=True, may_be_empty=True)


def train_config(**settings: Any) -> TrainConfig:
    return configured(TrainConfig, TRAIN, None, {**TINY, **settings})


def apply_config(**settings: Any) -> ApplyConfig:
    return configured(ApplyConfig, APPLY, None, settings)


def scene(seed: int = 0, sacs: int = 1, shape: tuple[int, int, int] = (40, 36, 32)) -> Case:
    """Straight bright tubes, and balls of 5 mm on some of them, which are the aneurysms, in grey noise; 1 mm voxels."""
    generator = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij"), axis=-1)
    values = generator.normal(100, 8, shape)
    spheres = []
    for number in range(3):
        middle = generator.uniform(10, np.array(shape) - 10)
        along = generator.standard_normal(3)
        along /= np.linalg.norm(along)
        offset = places - middle
        apart = np.linalg.norm(offset - (offset @ along)[..., None] * along, axis=-1)
        values = np.maximum(values, 100 + 250 / (1 + np.exp(4 * (apart - 1.2))))
        if number < sacs:
            ball = np.linalg.norm(offset, axis=-1)
            values = np.maximum(values, 100 + 300 / (1 + np.exp(4 * (ball - 2.5))))
            spheres.append(Sphere(middle + (3, -2, 5), 2.5, f"sac {number}"))
    affine = np.eye(4)
    affine[:3, 3] = (3, -2, 5)
    return Case({"image": Image(torch.from_numpy(values).float()[None], affine, f"scene {seed}"), "aneurysms": spheres})


def volume_of(case: Case) -> MarkedVolume:
    return method.volume_of(case, 1.0)


# --- patches


def test_the_distortion_is_the_natural_cubic_spline_through_the_knots_along_each_axis_in_turn() -> None:
    lattice = draw_lattice(4.0, np.random.default_rng(1))
    places = (np.arange(24) - 11.5) / 12
    found = lattice
    for axis in range(3):
        found = np.moveaxis(CubicSpline([-1, 0, 1], np.moveaxis(found, axis, 0), bc_type="natural")(places), 0, axis)
    np.testing.assert_allclose(displacement(lattice, 24), found, atol=1e-12)


def test_the_middle_stays_every_other_knot_moves_up_to_the_distortion_and_a_shift_of_all_knots_is_a_shift() -> None:
    lattices = np.stack([draw_lattice(4.0, np.random.default_rng(seed)) for seed in range(300)])
    assert not lattices[:, 1, 1, 1].any()
    moved = np.delete(lattices.reshape(300, 27, 3), 13, axis=1)
    assert np.abs(moved).max() <= 4 and moved.std() == pytest.approx(4 / math.sqrt(3), rel=0.02)
    middle = np.abs(displacement(lattices[0], 24)[11:13, 11:13, 11:13].mean(axis=(0, 1, 2)))
    assert middle.max() < 0.1 < np.abs(displacement(lattices[0], 24)[0, 0, 0]).max()
    shifted = displacement(np.broadcast_to([1.0, -2.0, 3.0], (3, 3, 3, 3)), 24)
    np.testing.assert_allclose(shifted, np.broadcast_to([1.0, -2.0, 3.0], shifted.shape), atol=1e-12)


def test_a_patch_lies_around_its_centre_turned_and_shifted_in_mm() -> None:
    config, centre = train_config(voxel=0.4, patch=24), np.array([10.0, -20.0, 30.0])
    plain = places_in(Patch(0, centre), config)
    np.testing.assert_allclose(plain.mean(axis=(0, 1, 2)), centre)
    np.testing.assert_allclose(plain[1, 0, 0] - plain[0, 0, 0], (0.4, 0, 0))
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = places_in(Patch(0, centre), config, turn, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(turned[1, 0, 0] - turned[0, 0, 0], (0, 0.4, 0), atol=1e-12)
    np.testing.assert_allclose(turned.mean(axis=(0, 1, 2)), centre + (1, 2, 3))
    lattice = draw_lattice(4.0, np.random.default_rng(1))
    distorted = places_in(Patch(0, centre, lattice), config)
    np.testing.assert_allclose(distorted - plain, displacement(lattice, 24), atol=1e-12)


def test_patches_are_distorted_duplicates_then_the_brightest_voxels_then_those_of_tissue_all_apart() -> None:
    case = scene(3, sacs=2)
    volume = volume_of(case)
    patches = choose_patches(volume, 7, train_config(duplicates=5), np.random.default_rng(0))
    assert {patch.volume for patch in patches} == {7}
    copies, negatives = patches[:10], patches[10:]
    for number, patch in enumerate(copies):
        np.testing.assert_array_equal(patch.centre, case["aneurysms"][number // 5].centre)
    lattices = [patch.lattice for patch in copies]
    assert all(lattice is not None for lattice in lattices) and len({str(lattice) for lattice in lattices}) == 10
    assert len(negatives) == 7 and all(patch.lattice is None for patch in negatives)
    values = [float(volume.look(patch.centre[None])[0]) for patch in negatives]
    taken = [sphere.centre for sphere in case["aneurysms"]]
    index = np.argwhere(np.ones(volume.data.shape, bool))
    order = np.argsort(-volume.data.numpy().ravel().astype(float), kind="stable")
    for patch in negatives[:4]:  # greedily, over all voxels
        best = next(
            place for place in index[order] + (3, -2, 5) if all(np.linalg.norm(place - other) >= 6 for other in taken)
        )
        np.testing.assert_allclose(patch.centre, best)
        taken.append(patch.centre)
    low, high = np.percentile(volume.data.numpy().astype(float), (20, 80))
    assert all(low - 1e-3 <= value <= high + 1e-3 for value in values[4:])
    centres = np.array([patch.centre for patch in negatives] + [sphere.centre for sphere in case["aneurysms"]])
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1) + 99 * np.eye(len(centres))
    assert apart[: len(negatives)].min() >= 6


def test_without_distortion_duplicates_are_alike_and_a_volume_without_aneurysms_gives_negatives_alone() -> None:
    patches = choose_patches(volume_of(scene(3)), 0, train_config(distortion=0.0), np.random.default_rng(0))
    assert [patch.lattice for patch in patches] == [None] * 11
    healthy = choose_patches(volume_of(scene(3, sacs=0)), 0, train_config(), np.random.default_rng(0))
    assert len(healthy) == 7


def test_an_epoch_sees_every_patch_once_and_draws_the_same_whoever_makes_them(tmp_path: Path) -> None:
    volumes = [volume_of(scene(1))]
    config = train_config(rotation=0.0, shift=0.0)
    fit, again = (Fit(volumes, [], config, a_run(tmp_path)) for _ in range(2))
    assert len(fit.patches) == 11
    first = [make() for step in range(11) for make in fit._draw(step, 1)]
    by_patch = sorted(float(image.sum()) for image, _ in first)
    every = sorted(float(volumes[0].look(places_in(patch, config)).sum()) for patch in fit.patches)
    np.testing.assert_allclose(by_patch, every, rtol=1e-6)
    together = [make() for make in again._draw(0, 11)]  # as many processes would share them out
    for (one, label), (other, other_label) in zip(first, together, strict=True):
        assert torch.equal(one, other) and torch.equal(label, other_label)
    assert fit._order(0) != fit._order(1)


def test_labels_move_with_the_intensities(tmp_path: Path) -> None:
    fit = Fit([volume_of(scene(2))], [], train_config(), a_run(tmp_path))
    for make in fit._draw(0, 30):
        image, label = make()
        if label.sum() > 20:
            assert float(image[label > 0].mean()) > float(image[label == 0].mean()) + 0.3


# --- network and losses


def test_the_network_has_the_parameters_of_ellis_and_gives_a_logit_a_voxel() -> None:
    def convolution(width_in: int, width_out: int) -> int:
        return 27 * width_in * width_out + width_out + 2 * width_out  # weights, bias, batch normalisation

    pairs = [(1, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    pairs += [(512 + 256, 256), (256, 256), (256 + 128, 128), (128, 128), (128 + 64, 64), (64, 64)]
    assert parameter_count(UNet.ellis()) == sum(convolution(*pair) for pair in pairs) + 65 == 16_320_257
    network = method.build_network(train_config(), share=0.01).eval()
    assert network(torch.zeros(1, 1, 24, 24, 24)).shape == (1, 1, 24, 24, 24)
    assert network.head.bias is not None
    assert torch.sigmoid(network.head.bias).item() == pytest.approx(0.01)


def test_the_focal_loss_is_its_formula_and_forgives_what_is_nearly_right() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(400, generator=generator) * 2, (torch.rand(400, generator=generator) < 0.2).float()
    p = torch.sigmoid(logits)
    formula = -(0.25 * target * (1 - p) ** 2 * p.log() + 0.75 * (1 - target) * p**2 * (1 - p).log()).mean()
    assert focal_loss(logits, target).item() == pytest.approx(formula.item(), rel=1e-5)
    sure, unsure = torch.full((1,), 4.0), torch.full((1,), 0.0)
    one = torch.ones(1)
    cross = F.binary_cross_entropy_with_logits
    assert focal_loss(sure, one) / focal_loss(unsure, one) < 0.01 * cross(sure, one) / cross(unsure, one)


# --- looking


class Itself(nn.Module):
    """Stands for the network: a voxel's logit is its own intensity, 0 to 1, less a half, times 20."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return 20 * (windows - 0.5)


def test_the_middles_of_the_windows_make_the_whole_and_dark_windows_are_skipped(tmp_path: Path) -> None:
    volume, run = volume_of(scene(4)), a_run(tmp_path)
    grid = working_grid(scene(4)["image"], 1.0)
    whole, skipped, windows = look_through(Itself(), volume, grid, 24, 8, 0.0, run)
    expected = torch.sigmoid(20 * (volume.data.float() - 0.5))
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=1e-3)
    assert (skipped, windows) == (0, 5 * 5 * 4)
    some, skipped, _ = look_through(Itself(), volume, grid, 24, 8, 97.0, run)
    assert 0 < skipped < windows
    left_out = some == 0
    assert bool(left_out.any()) and torch.equal(some[~left_out], whole[~left_out])
    assert float(volume.data[left_out].max()) < volume.percentiles(97.0)[0]


def test_candidates_are_counted_as_adam_does_and_a_case_without_reference_is_told_so() -> None:
    spheres = [Sphere(np.zeros(3), 2.0), Sphere(np.array([20.0, 0, 0]), 2.0)]
    found = Case({"points": Points(np.array([[1.0, 0, 0], [0, 9, 0]]), ["a", "b"]), "aneurysms": []})
    measured = METHOD.measure(found, Case({"aneurysms": spheres}))
    assert measured == {"sensitivity": 0.5, "false positives": 1.0, "missed": 1.0}
    assert METHOD.measure(found, Case({"aneurysms": []})) == {"false positives": 2.0, "missed": 0.0}
    with pytest.raises(UserError, match="no reference aneurysms"):
        METHOD.measure(found, Case({"points": Points(np.zeros((1, 3)), ["a"])}))


# --- the whole


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[bundle.Model, list[Event]]:
    """Trained for seconds on five scenes, a sixth held out."""
    events: list[Event] = []
    cases = [scene(seed, sacs=2 if seed % 2 else 1) for seed in range(6)]
    config = train_config(
        width=4,
        updates=80,
        batch_size=6,
        duplicates=12,
        learning_rate=0.01,
        schedule="cosine",
        shift=3.0,
        distortion=2.5,
    )
    run = a_run(tmp_path_factory.mktemp("model"), events)
    return METHOD.fit(cases, [False] * 5 + [True], config, run), events


def test_it_learns_to_tell_balls_on_tubes_from_tubes(trained: tuple[bundle.Model, list[Event]], tmp_path: Path) -> None:
    model, events = trained
    case = scene(11, sacs=2)
    result = METHOD.apply(Case({"image": case["image"]}), apply_config(window=40), a_run(tmp_path), model)
    measured = METHOD.measure(result, case)
    assert measured["sensitivity"] == 1 and measured["false positives"] <= 1
    for sphere in result["aneurysms"][:2]:
        assert 1.0 < sphere.radius < 4.0
    points = result["points"]
    assert (np.diff(points.confidence) <= 0).all() and points.confidence.max() <= 1
    kappa = [event["value"] for event in events if event["event"] == "metric" and event["name"] == "validation_kappa"]
    assert kappa[-1] > 0.4 and model.facts["validation kappa"] == pytest.approx(kappa[-1], abs=1e-4)
    tp, fp, fn, tn = map(int, str(model.facts["validation patches TP, FP, FN, TN"]).split(", "))
    assert tp + fn >= 2 and tp + fp + fn + tn == 2 + 7
    assert "sensitivity 1.00 at" in str(model.facts["validation FROC"]) and "“threshold” 0." in str(model.facts)


def test_what_skipping_loses_is_said_and_measured(trained: tuple[bundle.Model, list[Event]], tmp_path: Path) -> None:
    model, _ = trained
    given = Case({"image": scene(12, sacs=2)["image"]})
    assert model.settings["dimmest"] > 95
    kept = {}
    for skip in (0.0, 95.0, 100.0):
        events: list[Event] = []
        result = METHOD.apply(given, apply_config(skip=skip, window=40), a_run(tmp_path, events), model)
        kept[skip] = result["points"].positions
        assert ("An aneurysm of the training is dimmer" in said(events)) == (skip > model.settings["dimmest"])
        assert "Windows skipped as too dark: " in said(events)
    np.testing.assert_allclose(kept[95.0], kept[0.0], atol=0.6)  # nothing is lost below the dimmest
    assert len(kept[100.0]) <= len(kept[0.0])


def test_a_stopped_training_resumes_to_the_same_model(tmp_path: Path) -> None:
    cases, flags = [scene(1), scene(2), scene(3)], [False, False, True]
    whole = METHOD.fit(cases, flags, train_config(), a_run(tmp_path / "whole"))

    def stop(event: Event) -> None:
        if event["event"] == "metric" and event["name"] == "validation_kappa":
            stopped.cancel()

    stopped = Run(tmp_path / "parts", device="cpu", precision="32", emit=stop)
    with pytest.raises(Cancelled):
        METHOD.fit(cases, flags, train_config(), stopped)
    resumed = METHOD.fit(cases, flags, train_config(), a_run(tmp_path / "parts", resume=True))
    for name, weights in whole.networks["unet"].items():
        assert torch.equal(weights, resumed.networks["unet"][name]), name
    assert whole.facts["validation kappa"] == resumed.facts["validation kappa"]


def test_from_a_cohort_to_points_and_spheres_in_files(tmp_path: Path) -> None:
    options = {"size": (40, 40, 32), "spacing": 1.2}
    table = phantoms.write(phantoms.PHANTOMS["mr-angiogram"], 3, 4, tmp_path / "patients", **options)
    run = a_run(tmp_path / "run")
    learnt = TRAIN.configure("smoke", {**TINY, "updates": 3})
    execute.perform(METHOD, TRAIN, learnt, run, tmp_path / "model", collection=table)
    model = bundle.load(tmp_path / "model", METHOD.slug)
    assert model.facts["cases"] == 1 and model.facts["aneurysms"] >= 1
    image = next((tmp_path / "patients").glob("*_image.nii.gz"))
    files = [{"image": [str(image)]}]
    config = apply_config(threshold=0.01, window=24, skip=90.0)
    written = dict(execute.perform(METHOD, APPLY, config, run, tmp_path / "out", files=files, model=model))
    (points,) = markups.read(written["points"], Role("points", Kind.POINTS, ""))
    spheres = markups.read(written["aneurysms"], SPHERES)
    assert len(points.names) == len(spheres)
    for position, sphere in zip(points.positions, spheres, strict=True):
        np.testing.assert_allclose(position, sphere.centre, atol=1e-6)
    measured = execute.evaluate(METHOD, model, table, apply_config(window=48), run)
    assert len(measured) == 1 and 0 <= measured[0]["sensitivity"] <= 1
    record = json.loads((tmp_path / "out" / "aneurysms.mrk.json.provenance.json").read_text())
    assert record["method"] == METHOD.slug and record["config"]["threshold"] == 0.01
    assert record["result"]["windows"] > record["result"]["windows skipped as too dark"] > 0
    assert record["result"]["candidates"] == len(spheres)


def blind(folder: Path | None = None) -> bundle.Model:
    """A model that takes nothing for an aneurysm."""
    config = train_config()
    network = method.build_network(config, share=1e-5)
    nn.init.zeros_(network.head.weight)
    model = bundle.Model(METHOD.slug, {"unet": network.state_dict()}, config.model_dump(), {"dimmest": 99.0})
    if folder is not None:
        bundle.save(model, folder)
    return model


def test_finding_nothing_is_a_result(tmp_path: Path) -> None:
    model = blind()
    image = tmp_path / "image.nii.gz"
    io.write_image(scene(1)["image"], image)
    run = a_run(tmp_path / "run")
    files = [{"image": [str(image)]}]
    written = dict(
        execute.perform(METHOD, APPLY, apply_config(window=48), run, tmp_path / "out", files=files, model=model)
    )
    (points,) = markups.read(written["points"], Role("points", Kind.POINTS, ""))
    assert points.names == [] and markups.read(written["aneurysms"], SPHERES) == []


def test_an_image_without_contrast_holds_nothing(trained: tuple[bundle.Model, list[Event]], tmp_path: Path) -> None:
    flat = scene(1)["image"]
    flat.data = torch.full_like(flat.data, 7.0)
    result = METHOD.apply(Case({"image": flat}), apply_config(window=40), a_run(tmp_path), trained[0])
    assert result["points"].names == [] and result["aneurysms"] == []


@pytest.mark.slow
def test_a_batch_gives_every_case_its_points_and_spheres_though_nothing_is_found(tmp_path: Path) -> None:
    blind(tmp_path / "model")
    for number in (1, 2):
        io.write_image(scene(number)["image"], tmp_path / f"{number}.nii.gz")
    io.write_rows([{"image": f"{number}.nii.gz", "subject": f"p{number}"} for number in (1, 2)], tmp_path / "cases.csv")
    command = [
        "batch",
        str(tmp_path / "model"),
        str(tmp_path / "cases.csv"),
        "-o",
        str(tmp_path / "out"),
        "--workers",
        "1",
    ]
    assert main([*command, "--set", "window=48", "--progress", "none"]) == 0
    for kind in ("points", "aneurysms"):
        assert len(list((tmp_path / "out").rglob(f"*{kind}.mrk.json"))) == 2


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({}, {}),
        ({"dimmest": "dark"}, {}),
        ({"dimmest": 1e9}, {}),
        ({"dimmest": math.nan}, {}),
        ({"dimmest": 99.0, "more": 1}, {}),
        ({"dimmest": 99.0}, {"width": 10**9}),
        ({"dimmest": 99.0}, {"patch": 25}),
        ({"dimmest": 99.0}, {"voxel": 1e-9}),
    ],
)
def test_a_strangers_record_is_refused_in_a_sentence(
    settings: dict[str, Any], changed: dict[str, Any], tmp_path: Path
) -> None:
    config = {**train_config().model_dump(mode="json"), **changed}
    weights = method.build_network(train_config()).state_dict()
    model, case = bundle.Model(METHOD.slug, {"unet": weights}, config, settings, name="m"), scene(1)
    with pytest.raises(UserError, match="Model “m” has a record that cannot be used"):
        METHOD.apply(case, apply_config(window=24), a_run(tmp_path), model)
    if changed:
        with pytest.raises(UserError, match="Model “m” has a record that cannot be used"):
            METHOD.estimate(APPLY, [case], apply_config(window=24), a_run(tmp_path), model)


def test_a_strangers_weights_of_another_width_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    weights = method.build_network(train_config()).state_dict()
    wide = train_config(width=64).model_dump(mode="json")
    for networks, words in (({"unet": weights}, "weights that do not fit"), ({}, "lacks the network “unet”")):
        model = bundle.Model(METHOD.slug, networks, wide, {"dimmest": 99.0}, name="m")
        with pytest.raises(UserError, match=f"Model “m” .*{words}"):
            METHOD.apply(scene(1), apply_config(window=24), a_run(tmp_path), model)


# --- what is refused, and what it will cost


def test_unfit_cohorts_are_refused_in_a_sentence(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    with pytest.raises(UserError, match="No aneurysm is marked in any case"):
        METHOD.fit([scene(1, sacs=0)], [False], train_config(), run)
    with pytest.raises(UserError, match="No aneurysm is marked in any case to learn from"):
        METHOD.fit([scene(1, sacs=0), scene(2)], [False, True], train_config(), run)
    with pytest.raises(UserError, match="Every case of the cohort is for validation"):
        METHOD.fit([scene(1)], [True], train_config(), run)
    outside = scene(1)
    outside["aneurysms"][0].centre[0] += 200
    with pytest.raises(UserError, match="The aneurysm “sac 0” lies outside “scene 1”"):
        METHOD.fit([outside], [False], train_config(), run)
    two = scene(1)
    two.values["image"].data = two["image"].data.repeat(2, 1, 1, 1)
    with pytest.raises(UserError, match="has 2 channels"):
        METHOD.fit([two], [False], train_config(), run)
    with pytest.raises(UserError, match="No aneurysm is marked"):
        METHOD.estimate(TRAIN, [scene(1, sacs=0)], train_config(), run)
    with pytest.raises(UserError, match="“margin” = 12 leaves nothing of a window of 16 voxels"):
        window_side(16, 12)
    for refuse in (METHOD.apply, lambda case, *rest: METHOD.estimate(APPLY, [case], *rest)):
        with pytest.raises(UserError, match="“margin” = 40 leaves nothing of a window"):
            refuse(Case({"image": scene(1)["image"]}), apply_config(margin=40), run, blind())


@pytest.mark.parametrize(("points", "words"), [(2, "has no length"), (1, "does not have its two points")])
def test_a_line_that_is_none_ends_a_training_with_a_sentence_and_code_2(
    points: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    io.write_image(scene(1)["image"], tmp_path / "image.nii.gz")
    dot = {"type": "Line", "name": "dot", "controlPoints": [{"label": "", "position": [10, 10, 10]}] * points}
    (tmp_path / "dot.mrk.json").write_text(json.dumps({"markups": [dot]}))
    io.write_rows([{"image": "image.nii.gz", "aneurysms": "dot.mrk.json"}], tmp_path / "cohort.csv")
    command = ["train", METHOD.slug, str(tmp_path / "cohort.csv"), "-o", str(tmp_path / "model")]
    assert main([*command, "--tier", "smoke", "--progress", "none"]) == 2
    error = capsys.readouterr().err
    assert "cohort.csv, line 2" in error and "Line “dot”" in error and words in error
    assert not (tmp_path / "model").exists()


def test_rows_without_lines_are_volumes_free_of_aneurysms_and_unlabelled_rows_are_left_out(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        io.write_image(scene(seed)["image"], tmp_path / f"{seed}.nii.gz")
    io.write(scene(1)["aneurysms"], Kind.SPHERE, tmp_path / "1.mrk.json")
    rows: list[dict[str, str]] = [{"image": "1.nii.gz", "aneurysms": "1.mrk.json"}, {"image": "2.nii.gz"}]
    io.write_rows([*rows, {"image": "3.nii.gz", "labelled": "no"}], tmp_path / "cohort.csv")
    collection = read_collection(tmp_path / "cohort.csv", TRAIN)
    events: list[Event] = []
    model = METHOD.train(collection, train_config(updates=1), a_run(tmp_path / "run", events))["model"]
    assert model.facts["cases"] == 2 and model.facts["patches"] == 4 + 7 + 7
    assert "1 of 2 volumes have no marked aneurysm and count as free of them" in said(events)


def test_more_is_said_to_cost_more(tmp_path: Path) -> None:
    run, cases = a_run(tmp_path), [scene(1), scene(2)]
    few, many = (METHOD.estimate(TRAIN, cases, train_config(updates=n), run) for n in (10, 1000))
    assert many.seconds > 5 * few.seconds > 0 and few.memory_bytes > 2**29
    unread = scene(9, sacs=0)
    unread.row = {"labelled": "no"}  # nobody has looked: it is not learnt from
    assert METHOD.estimate(TRAIN, [*cases, unread], train_config(updates=10), run).memory_bytes == few.memory_bytes
    epochs = METHOD.estimate(TRAIN, cases, train_config(updates=0, epochs=50), run)
    assert epochs.seconds > few.seconds  # 22 patches, 2 an update: 550 updates
    config = train_config()
    model = bundle.Model(METHOD.slug, {}, config.model_dump(), {"dimmest": 99.0})
    whole = METHOD.estimate(APPLY, cases, apply_config(window=24), run, model)
    skipping = METHOD.estimate(APPLY, cases, apply_config(skip=90.0, window=24), run, model)
    assert whole.seconds > 3 and not whole.notes and "less" in skipping.notes[0]
