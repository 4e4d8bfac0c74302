"""The method: its slices and equations, what moves where, when it stops, what it refuses, and that it does its job."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_tools import ROOT
from method_tools import a_run, configured, said
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from medgen import bundle, execute, io, markups
from medgen.case import Case, Image, Mask, Points, Segment
from medgen.cohort import read_collection
from medgen.errors import Cancelled, UserError
from medgen.jobs import Event, Run
from medgen.landmarks import one_shot_landmarks as one_shot
from medgen.landmarks.one_shot_landmarks import (
    ApplyConfig,
    OneShotLandmarks,
    ShallowUNet,
    TrainConfig,
    joint_probability,
    localise,
    random_pose,
    slice_points,
    slices_along,
)
from medgen.marked import Example, check, choose_voxel
from medgen.method import Kind
from medgen.nn.unet import parameter_count
from medgen.patches import Volume
from medgen.registration import orientations
from medgen.training import Patience

METHOD = OneShotLandmarks()
TRAIN, APPLY = METHOD.operation("train"), METHOD.operation("apply")
NAMES = ["tip", "left bud", "right bud", "beyond"]
MARKS = np.array(
    [[13.0, 0, 1], [-5.0, 8, 0], [-6.0, -5, 6], [20.0, 0, 0]]
)  # mm from the structure's middle, in its own axes
SMALL: dict[str, Any] = {"patch": 48, "voxel": 1.0, "width": 8, "transforms": 40, "slices": 12, "batch_size": 6}
QUICK: dict[str, Any] = {**SMALL, "learning_rate": 5e-3, "halved_after": 80, "validation_stride": 6}


# --- a structure without symmetry, anywhere, turned in any way


def drawn(places: NDArray[np.float64], seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Image and mask of the structure at (..., 3) mm from its middle: a long body and two buds, bright in grey noise,
    among three bright balls that do not belong to it."""
    bodies = [((3.0, 0, 0), (11.0, 4.5, 3.5)), ((-5.0, 6, 0), (3.5, 4.5, 3.0)), ((-6.0, -3, 4), (3.0, 3.0, 4.0))]
    inside = np.zeros(places.shape[:-1], bool)
    for middle, radii in bodies:
        inside |= (((places - middle) / radii) ** 2).sum(-1) < 1
    balls = [((2.0, 16, -14), 5.0), ((-15.0, -14, -3), 4.0), ((8.0, -12, 15), 4.5)]
    others = np.zeros_like(inside)
    for middle, radius in balls:
        others |= ((places - middle) ** 2).sum(-1) < radius**2
    body = (places**2).sum(-1) < 27**2
    noise = np.random.default_rng(seed).normal(0, 3, inside.shape)
    return (60 * body + 40 * inside + 25 * others + noise).astype(np.float32), inside.astype(np.int16)


def scene(
    turn: tuple[float, float, float] = (0, 0, 0),
    shift: tuple[float, float, float] = (0, 0, 0),
    shape: tuple[int, int, int] = (60, 60, 60),
    spacing: tuple[float, float, float] = (1, 1, 1),
    tilt: tuple[float, float, float] = (0, 0, 0),
    seed: int = 0,
) -> Case:
    """The structure turned (rotation vector, degrees) and shifted (mm), in a volume centred on the origin whose own
    axes are tilted (degrees)."""
    rotation = Rotation.from_rotvec(turn, degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(tilt, degrees=True).as_matrix() * np.array(spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    image, mask = drawn((places - np.array(shift)) @ rotation, seed)
    marks = Points(MARKS @ rotation.T + np.array(shift), list(NAMES), name="marks")
    return Case(
        {
            "image": Image(torch.from_numpy(image)[None], affine, "scene"),
            "mask": Mask(torch.from_numpy(mask), affine, [Segment(1, "structure")], "structure"),
            "landmarks": marks,
        }
    )


def train_config(**settings: Any) -> TrainConfig:
    return configured(TrainConfig, TRAIN, "smoke", {**QUICK, **settings})


def apply_config(**settings: Any) -> ApplyConfig:
    return configured(ApplyConfig, APPLY, "smoke", settings)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bundle.Model:
    """Trained for seconds on the scene as it stands."""
    run = a_run(tmp_path_factory.mktemp("model"))
    return METHOD.fit(scene(), scene((20, -30, 10), (2, 1, -2), seed=1), train_config(transforms=60), run)


def found(model: bundle.Model, case: Case, folder: Path, **settings: Any) -> Case:
    given = Case({"image": case["image"]})
    return METHOD.apply(given, apply_config(**settings), a_run(folder), model)


def median_mm(result: Case, truth: Case) -> float:
    apart = np.linalg.norm(result["landmarks"].positions - truth["landmarks"].positions, axis=1)
    return float(np.median(np.where(np.isnan(apart), np.inf, apart)))


class Bright(nn.Module):
    """Stands for the network: sees what is brighter than 0."""

    def forward(self, slices: Tensor) -> Tensor:
        return 20 * slices


class Slanted(nn.Module):
    """Its answer depends on row and column, so that the views can be told apart."""

    def forward(self, slices: Tensor) -> Tensor:
        rows = torch.arange(slices.shape[2])[:, None] / 3
        columns = torch.arange(slices.shape[3])[None] / 7
        return slices + rows - columns


def cube(data: Tensor, voxel: float = 1.0) -> Volume:
    return Volume(data, np.diag([voxel, voxel, voxel, 1.0]), float(data.min()))


# --- network and slices


def test_the_network_has_the_papers_shape() -> None:
    network = ShallowUNet(64)
    assert parameter_count(network) == 850_049
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64] * 4 + [128] * 4 + [64] * 4 + [1]
    assert convolutions[8].in_channels == 64 + 128
    assert network(torch.zeros(2, 1, 100, 100)).shape == (2, 1, 100, 100)


def test_the_joint_probability_is_equation_1() -> None:
    volume = torch.randn(5, 4, 7)
    network = Slanted()
    expected = np.empty(volume.shape)
    for i, j, k in np.ndindex(*volume.shape):
        z = network(volume[:, :, k][None, None]).sigmoid()[0, 0, i, j]
        y = network(volume[:, j, :].T[None, None]).sigmoid()[0, 0, k, i]
        x = network(volume[i][None, None]).sigmoid()[0, 0, j, k]
        expected[i, j, k] = float(z * y * x)
    found = joint_probability(network, volume, a_run(Path("unused")))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_a_stride_interpolates_between_the_slices_that_are_looked_at() -> None:
    lines = [torch.linspace(0.2, 0.8, size) for size in (9, 11, 13)]
    volume = torch.logit(lines[0])[:, None, None].expand(9, 11, 13)  # probability linear along i, 3 slices apart
    found = joint_probability(nn.Identity(), volume, a_run(Path("unused")), stride=2)
    torch.testing.assert_close(found, (lines[0] ** 3)[:, None, None].expand(9, 11, 13))


def test_training_slices_are_the_reference_seen_through_one_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    index = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij"), axis=-1)
    steep = np.array([1.0, 2.0, 4.0])
    volume = cube(torch.from_numpy(index @ steep).float(), 0.5)
    example = Example(volume, torch.from_numpy((index @ steep > 80).astype(np.float32)), np.array([6.0, 6, 6]))
    config = train_config(patch=24, slices=6, contrast=0.0, near_share=0.0)
    turn, shift = Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix(), np.array([1.0, -2.0, 0.5])
    monkeypatch.setattr(one_shot, "random_pose", lambda config, generator: (turn, shift))
    slices, masks = one_shot.random_slices(example, config, np.random.default_rng(3))
    places = slice_points(24, 6, 0.0, 0.0, np.random.default_rng(3)) @ turn.T + shift + 12.0
    generator = np.random.default_rng(3)
    generator.uniform(0, 1, 2), generator.uniform(0, 1, 2), generator.uniform(0, 1, 2)
    places = places[generator.permutation(6)]
    inside = ((places >= 0) & (places <= 23)).all(axis=-1)
    np.testing.assert_allclose(slices[:, 0].numpy()[inside], (places @ steep)[inside], atol=1e-3)
    sure = inside & (np.abs(places @ steep - 80) > 8)
    assert ((places @ steep > 80) == masks[:, 0].numpy())[sure].all()
    assert not masks[:, 0].numpy()[((places < -0.6) | (places > 23.6)).any(axis=-1)].any()


def test_a_third_of_the_slices_lies_across_each_axis_in_the_order_of_equation_1() -> None:
    places = slice_points(10, 9, 2.0, 0.34, np.random.default_rng(0))
    volume = torch.arange(1000.0).reshape(10, 10, 10)
    for axis in range(3):
        for plane in places[3 * axis : 3 * axis + 3]:
            assert np.ptp(plane[..., axis]) == 0
            assert abs(plane[0, 0, axis]) <= 5
            index = np.rint(plane + 4.5).astype(int)
            index[..., axis] = 2
            np.testing.assert_array_equal(volume[tuple(index.transpose(2, 0, 1))], slices_along(volume, axis)[2, 0])
        assert abs(places[3 * axis + 2][0, 0, axis]) <= 2  # the one that is to cross the structure


def test_poses_reach_delta_r_and_delta_t_and_no_farther() -> None:
    config = train_config(rotation=20.0, translation=4.0)
    generator = np.random.default_rng(0)
    poses = [random_pose(config, generator) for _ in range(300)]
    angles = np.abs([Rotation.from_matrix(turn).as_euler("xyz", degrees=True) for turn, _ in poses])
    shifts = np.abs([shift for _, shift in poses])
    assert angles.max() <= 20 and angles.max() > 19
    assert shifts.max() <= 4 and shifts.max() > 3.9


# --- localisation


def test_the_search_goes_on_until_the_centre_moves_less_than_epsilon() -> None:
    data = torch.full((80, 40, 40), -1.0)
    data[58:66, 16:24, 16:24] = 1.0  # the structure
    data[16:18, 16:20, 16:20] = 1.0  # pulls the first centre away
    path = localise(Bright(), cube(data), 40, apply_config(epsilon=1.0), a_run(Path("unused"))).path
    moves = [float(np.linalg.norm(b - a)) for a, b in itertools.pairwise(path)]
    assert len(moves) >= 2 and all(move >= 1.0 for move in moves[:-1]) and moves[-1] < 1.0
    np.testing.assert_allclose(path[-1], (61.5, 19.5, 19.5), atol=0.1)
    once = localise(Bright(), cube(data), 40, apply_config(max_iterations=1), a_run(Path("unused"))).path
    assert len(once) == 2


def test_a_structure_far_from_the_barycentre_of_false_positives_is_found() -> None:
    data = torch.full((150, 60, 60), -1.0)
    data[10:20, 10:20, 10:20] = 1.0  # 1000 voxels
    data[134:142, 50:58, 50:58] = 1.0  # 512 voxels: their barycentre lies in neither
    found = localise(Bright(), cube(data), 30, apply_config(), a_run(Path("unused")))
    np.testing.assert_allclose(found.centre, (14.5, 14.5, 14.5), atol=0.1)


def test_axes_of_inertia_give_back_a_turn_up_to_half_turns_about_them() -> None:
    spread = np.diag([30.0, 80.0, 200.0])
    turn = Rotation.from_rotvec([1.0, -2.0, 0.7]).as_matrix()
    candidates = orientations(spread, turn @ spread @ turn.T)
    assert len(candidates) == 4
    assert all(np.linalg.det(candidate) == pytest.approx(1.0) for candidate in candidates)
    assert min(np.abs(candidate - turn).max() for candidate in candidates) < 1e-9
    assert max(np.abs(candidate - turn).max() for candidate in candidates) > 1.0


def test_axes_that_cannot_be_told_apart_are_tried_in_eighths_of_a_turn() -> None:
    reference, target = np.diag([99.0, 100.0, 300.0]), np.diag([100.0, 99.0, 300.0])
    candidates = orientations(reference, target)
    assert len(candidates) == 16
    assert min(np.abs(candidate - np.eye(3)).max() for candidate in candidates) < 1e-9


# --- training


def test_the_voxel_is_the_finest_whose_patch_holds_structure_and_landmarks() -> None:
    case = scene(spacing=(0.5, 0.5, 0.5), shape=(120, 120, 120))
    assert choose_voxel(case, 200) == pytest.approx(0.5)
    coarse = choose_voxel(case, 24)
    radius = 0.9 * 24 * coarse / 2
    inside = np.argwhere(case["mask"].data.numpy() > 0) @ case["image"].affine[:3, :3].T + case["image"].affine[:3, 3]
    centre = inside.mean(axis=0)
    assert np.linalg.norm(np.concatenate((inside, MARKS)) - centre, axis=1).max() == pytest.approx(radius)


def test_patience_counts_looks_without_a_lower_loss() -> None:
    strict, patient = Patience(0), Patience(2)
    for better in (True, False):
        strict.note(better)
        patient.note(better)
    assert strict.over and not patient.over
    for better, over in ((True, False), (False, False), (False, False), (False, True)):
        patient.note(better)
        assert patient.over is over


def test_training_stops_where_the_validation_loss_rises_and_keeps_the_best(tmp_path: Path) -> None:
    wrong = scene()
    wrong.values["mask"].data = 1 - wrong["mask"].data  # the better it learns, the higher this loss
    events: list[Event] = []
    config = train_config(patience=1, validate_every=2, transforms=60)
    reference, validation = (Example.of(case, 1.0) for case in (scene(), wrong))
    fit = one_shot.Fit(reference, validation, config, a_run(tmp_path, events))
    fit.fit()
    losses = [e["value"] for e in events if e.get("name") == "validation_loss"]
    trained = [e for e in events if e.get("name") == "loss"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3
    assert len(trained) == 2 * len(losses) < 60
    assert fit.best.step == 2 * (best + 1)


def test_the_mean_of_the_weights_of_a_short_training_has_left_its_start(tmp_path: Path) -> None:
    """It lies nearer to where they ended than to where they began, however many updates it may span."""
    examples = [Example.of(case, 1.0) for case in (scene(), scene(seed=1))]
    fit = one_shot.Fit(*examples, train_config(transforms=20, ema=0.999), a_run(tmp_path))
    start = {key: tensor.clone() for key, tensor in fit.network.state_dict().items()}
    fit.fit()
    trained, mean = fit.network.state_dict(), fit.average.network.state_dict()
    moved = math.sqrt(sum(float((trained[key] - start[key]).square().sum()) for key in start))
    lags = math.sqrt(sum(float((trained[key] - mean[key]).square().sum()) for key in start))
    assert 0 < lags < 0.5 * moved


def test_a_stopped_training_resumes_to_the_same_model(tmp_path: Path) -> None:
    config = train_config(transforms=12, validate_every=3)
    examples = [Example.of(case, 1.0) for case in (scene(), scene(seed=1))]

    def fit(run: Run) -> one_shot.Fit:
        result = one_shot.Fit(*examples, config, run)
        result.fit()
        return result

    def stop(event: Event) -> None:
        if event.get("name") == "loss" and event["step"] == 6:
            run.cancel()

    whole = fit(a_run(tmp_path / "whole"))
    run = Run(tmp_path / "cut", device="cpu", precision="32", emit=stop)
    with pytest.raises(Cancelled):
        fit(run)
    events: list[Event] = []
    resumed = fit(a_run(tmp_path / "cut", events, resume=True))
    assert "Resumed: train at step 7" in said(events)
    for key, tensor in whole.network.state_dict().items():
        torch.testing.assert_close(resumed.network.state_dict()[key], tensor, rtol=0, atol=0)
    assert (resumed.best.value, resumed.best.step) == (whole.best.value, whole.best.step)
    assert resumed.patience.state_dict() == whole.patience.state_dict()


def test_a_network_that_sees_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not learn to see the structure.*learning_rate"):
        METHOD.fit(scene(), scene(seed=1), train_config(transforms=12, learning_rate=1.0), a_run(tmp_path))


# --- the whole way


def test_landmarks_are_found_in_a_turned_shifted_target_of_another_grid(model: bundle.Model, tmp_path: Path) -> None:
    target = scene((-50, 80, 100), (9, -14, 6), (70, 56, 40), (0.9, 1.3, 2.0), (10, 5, -15), seed=2)
    result = found(model, target, tmp_path)
    assert median_mm(result, target) < 1.5
    assert result["landmarks"].names == NAMES
    assert (result["landmarks"].confidence[:3] > 0.6).all()
    assert result["landmarks"].confidence[3] < 0.5  # nothing but noise there
    seen, meant = result["structure"].data > 0, target["mask"].data > 0
    assert float((seen & meant).sum()) / float((seen | meant).sum()) > 0.4
    assert METHOD.measure(result, target)["median mm"] == pytest.approx(median_mm(result, target))


def test_plain_registration_holds_for_a_small_turn_and_fails_for_a_large_one(
    model: bundle.Model, tmp_path: Path
) -> None:
    near, far = scene((5, 5, 0), (2, 0, 1), seed=3), scene((0, 20, 170), (4, -4, 4), seed=3)
    assert median_mm(found(model, near, tmp_path, start="rigid"), near) < 1.5
    shifted = scene((5, 5, 0), (14, -12, 9), (84, 84, 84), seed=3)
    assert median_mm(found(model, shifted, tmp_path, start="centre-of-mass"), shifted) < 1.5
    assert median_mm(found(model, far, tmp_path, start="rigid"), far) > 5


def test_a_target_without_the_structure_has_no_landmarks(model: bundle.Model, tmp_path: Path) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(60, 3, (1, 50, 50, 50)).astype(np.float32))
    noise[:, :10] = 0
    events: list[Event] = []
    case = Case({"image": Image(noise, np.eye(4), "empty")})
    result = METHOD.apply(case, apply_config(), a_run(tmp_path, events), model)
    assert not result["landmarks"].found.any()
    assert result["landmarks"].names == NAMES
    assert (result["landmarks"].confidence == 0).all()
    assert "not found in “empty”" in said(events) or "does not resemble" in said(events)


def test_a_landmark_beyond_the_edge_of_the_target_is_not_found(model: bundle.Model, tmp_path: Path) -> None:
    target = scene(seed=4)
    cut = target["image"].data[:, :48]  # “beyond” lies at voxel 49.5
    case = Case({"image": Image(cut, target["image"].affine, "cut"), "landmarks": target["landmarks"]})
    result = found(model, case, tmp_path)
    assert result["landmarks"].found.tolist() == [True, True, True, False]
    assert result["landmarks"].confidence[3] == 0
    apart = np.linalg.norm(result["landmarks"].positions - target["landmarks"].positions, axis=1)
    assert np.nanmax(apart) < 2
    assert METHOD.measure(result, target)["not found"] == 1


# --- files, bundles


def write_case(case: Case, folder: Path, **without: bool) -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"image": (Kind.IMAGE, ".nrrd"), "mask": (Kind.MASK, ".nrrd"), "landmarks": (Kind.POINTS, ".mrk.json")}
    row = {}
    for role, (kind, ending) in kinds.items():
        if role in case and not without.get(role):
            io.write(case[role], kind, folder / f"{role}{ending}")
            row[role] = f"{role}{ending}"
    return row


def write_collection(folder: Path, reference: Case, validation: Case, **without: bool) -> Path:
    row = write_case(reference, folder / "reference", **without)
    io.write_rows([row], folder / "reference" / "reference.csv")
    row = write_case(Case({k: validation[k] for k in ("image", "mask")}), folder / "validation")
    io.write_rows([row], folder / "validation" / "validation.csv")
    pools = {"reference": "reference/reference.csv", "validation": "validation/validation.csv"}
    (folder / "collection.json").write_text(json.dumps({"pools": pools}))
    return folder


def test_files_of_any_axis_order_give_the_same_points_and_a_bundle_with_the_patient_in_it(
    model: bundle.Model, tmp_path: Path
) -> None:
    digest = bundle.save(model, tmp_path / "model")
    loaded = bundle.load(tmp_path / "model", "one-shot-landmarks")
    assert loaded.patient_data and loaded.digest == digest
    assert "Contains patient data" in (tmp_path / "model" / "docs" / "README.md").read_text()
    target = scene((20, 0, -40), (4, 5, -3), (56, 60, 50), seed=6)
    image = target["image"]
    turned = image.data.permute(0, 3, 1, 2).flip(2)
    to_old = np.zeros((4, 4))
    to_old[[2, 0, 1, 3], [0, 1, 2, 3]] = 1
    to_old[0, 1], to_old[0, 3] = -1, image.shape[0] - 1
    other = Image(turned, image.affine @ to_old, "turned")
    positions = []
    for number, one in enumerate((image, other)):
        file = tmp_path / f"target{number}.nrrd"
        io.write(one, Kind.IMAGE, file)
        out = tmp_path / f"out{number}"
        execute.perform(
            METHOD, APPLY, apply_config(), a_run(tmp_path / "run"), out, files=[{"image": [str(file)]}], model=loaded
        )
        positions.append(markups.read(out / "landmarks.mrk.json", APPLY.outputs[0])[0].positions)
        seen = io.read_mask(out / "structure.seg.nrrd")
        assert seen.shape == one.shape
        np.testing.assert_allclose(seen.affine, one.affine, atol=1e-4)
    np.testing.assert_allclose(positions[0], positions[1], atol=1e-3)
    np.testing.assert_allclose(positions[0], target["landmarks"].positions, atol=2.5)


def test_a_collection_of_two_pools_of_one_case_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_shot, "_mass_in", lambda reference, fit: 1.0)  # so few transforms teach it nothing
    folder = write_collection(tmp_path / "given", scene(), scene(seed=1))
    config = train_config(transforms=3)
    execute.perform(METHOD, TRAIN, config, a_run(tmp_path / "run"), tmp_path / "model", collection=folder)
    model = bundle.load(tmp_path / "model")
    assert model.networks["reference"]["image"].shape == (48, 48, 48)
    assert model.settings["reference"]["names"] == NAMES
    np.testing.assert_allclose(model.networks["reference"]["landmarks"].numpy(), MARKS, atol=1e-4)


def spoilt(**changes: Any) -> Case:
    case = scene()
    marks = case["landmarks"].positions
    if "move" in changes:
        marks[1] = changes["move"]
    if changes.get("unplaced"):
        marks[:] = np.nan
    if changes.get("empty"):
        case["mask"].data = torch.zeros_like(case["mask"].data)
    if "channels" in changes:
        case["image"].data = case["image"].data.expand(changes["channels"], -1, -1, -1)
    return case


@pytest.mark.parametrize(
    ("reference", "validation", "message"),
    [
        ({"move": (0.0, 0, 500)}, {}, "“left bud” lies outside the reference volume; place it in that volume"),
        ({"move": (0.0, 0, 27)}, {}, "“left bud” lies 2[0-9.]+ mm from the structure in the mask; draw a structure"),
        ({"unplaced": True}, {}, "“marks” has no placed point; place the landmarks"),
        ({"empty": True}, {}, "mask of the reference is empty; draw"),
        ({}, {"empty": True}, "mask of the validation case is empty; draw"),
        ({"channels": 3}, {}, "“scene” has 3 channels"),
        ({}, {"channels": 2}, "“scene” has 2 channels"),
    ],
)
def test_a_training_refuses_in_one_sentence(
    reference: dict[str, Any], validation: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = spoilt(**reference), spoilt(**validation)
    with pytest.raises(UserError, match=message) as caught:
        METHOD.fit(*given, train_config(), a_run(tmp_path))
    assert str(caught.value).count(". ") == 0
    with pytest.raises(UserError, match=message):
        METHOD.estimate(TRAIN, list(given), train_config(), a_run(tmp_path))


@pytest.mark.parametrize("what", ["no mask", "empty mask", "constant", "nan", "apart"])
def test_bad_files_are_refused_before_training(what: str, tmp_path: Path) -> None:
    reference = scene(shape=(30, 30, 30))
    expected = {
        "no mask": "no column “mask”",
        "empty mask": "is an empty mask",
        "constant": "is constant",
        "nan": "not numbers",
        "apart": "do not overlap",
    }
    if what == "empty mask":
        reference = spoilt(empty=True)
    elif what == "constant":
        reference["image"].data.fill_(3.0)
    elif what == "nan":
        reference["image"].data[0, 3, 3, 3] = math.nan
    elif what == "apart":
        moved = reference["mask"].affine.copy()
        moved[:3, 3] += 1000
        reference["mask"].affine = moved
    folder = write_collection(tmp_path / "given", reference, scene(), mask=what == "no mask")
    with pytest.raises(UserError, match=expected[what]):
        execute.perform(METHOD, TRAIN, train_config(), a_run(tmp_path / "run"), tmp_path / "model", collection=folder)
    assert not (tmp_path / "model").exists()


def test_a_second_reference_is_refused(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "given", scene(), scene())
    table = folder / "reference" / "reference.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[-1]]) + "\n")
    with pytest.raises(UserError, match="reference"):
        read_collection(folder, TRAIN)


def test_landmarks_that_are_not_placed_are_left_out_and_said(tmp_path: Path) -> None:
    case = scene()
    case["landmarks"].positions[2:] = np.nan
    told: list[str] = []
    kept = check(case, scene(), 10.0, told.append)
    assert kept["landmarks"].names == NAMES[:2]
    assert "right bud, beyond" in told[0]


def test_a_patch_too_small_for_the_landmarks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="outside the patch of 24 voxels.*raise “patch” or “voxel”"):
        METHOD.fit(scene(), scene(), train_config(patch=24, voxel=0.8), a_run(tmp_path))


def test_an_image_of_several_channels_is_refused_where_landmarks_are_sought(
    model: bundle.Model, tmp_path: Path
) -> None:
    case = Case({"image": spoilt(channels=2)["image"]})
    with pytest.raises(UserError, match="2 channels"):
        METHOD.apply(case, apply_config(), a_run(tmp_path), model)
    with pytest.raises(UserError, match="2 channels"):
        METHOD.estimate(APPLY, [case], apply_config(), a_run(tmp_path), model)


def test_a_target_too_large_at_the_models_voxel_is_refused(model: bundle.Model, tmp_path: Path) -> None:
    huge = Image(torch.zeros(1, 2, 2, 2), np.diag([500.0, 500, 500, 1]), "huge")
    with pytest.raises(UserError, match="crop it"):
        METHOD.apply(Case({"image": huge}), apply_config(), a_run(tmp_path), model)


def test_estimates_say_that_training_may_stop_early(tmp_path: Path, model: bundle.Model) -> None:
    given = METHOD.estimate(TRAIN, [scene(), scene()], train_config(), a_run(tmp_path))
    assert given.seconds > 0 and "stops as soon as" in given.notes[0]
    assert METHOD.estimate(APPLY, [scene()], apply_config(), a_run(tmp_path), model).seconds > 1


def test_measures_are_in_mm_and_in_the_images_voxels() -> None:
    truth = Points(np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 5]]), ["left a", "right a", "b", "c"])
    given = truth.positions.copy()
    given[[0, 1]] = given[[1, 0]]
    given[2] += (3.0, 0, 4)
    given[3] = np.nan
    image = Image(torch.zeros(1, 4, 4, 4), np.diag([3.0, 1.0, 2.0, 1.0]))
    measures = METHOD.measure(
        Case({"landmarks": Points(given, truth.names)}), Case({"landmarks": truth, "image": image})
    )
    assert measures["mm b"] == pytest.approx(5)
    assert measures["mean mm"] == pytest.approx((10 + 10 + 5) / 3)
    assert measures["median voxels"] == pytest.approx(10 / 3)
    assert measures["mean voxels"] == pytest.approx((10 / 3 + 10 / 3 + math.sqrt(1 + 4)) / 3)
    assert measures["not found"] == 1 and measures["swapped pairs"] == 1
    with pytest.raises(UserError, match="name them alike"):
        METHOD.measure(Case({"landmarks": Points(given[:1], ["x"])}), Case({"landmarks": truth}))


def test_afids_of_one_template_are_found_in_the_other_in_a_pose(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smoke size of Testing/Claims/afids.py, at 4 mm and a seed that does not report."""
    sys.path.insert(0, str(ROOT / "Testing" / "Claims"))
    try:
        import afids
    finally:
        sys.path.pop(0)
    monkeypatch.setattr(afids, "SPACING", 4.0)
    monkeypatch.setattr(afids, "SIDE", 80)
    given = ["--data", str(data), "--tier", "smoke", "--seeds", "501", "--arms", "structure", "--set", "transforms=30"]
    assert afids.main([str(tmp_path / "out"), *given]) == 0
    arm = json.loads((tmp_path / "out" / "summary.json").read_text())["arms"]["structure"]
    assert arm["points"] == 32 and arm["median mm"] <= 6 and arm["pairs swapped"] == 0
    assert (tmp_path / "out" / "pose.png").stat().st_size > 10_000
    pose = afids.Pose.of(501, np.zeros(3))
    points = np.random.default_rng(0).uniform(-60, 60, (20, 3))
    np.testing.assert_allclose(pose.to_template(pose.carry(points)), points, atol=1e-8)
    assert 30 <= pose.angle <= 180 and 40 <= np.linalg.norm(pose.shift) <= 60


def test_previews_show_the_structure_of_the_validation_volume_and_change_no_weight(tmp_path: Path) -> None:
    config = train_config(transforms=12, validate_every=3)
    examples = [Example.of(case, 1.0) for case in (scene(), scene(seed=1))]
    events: list[Event] = []
    fits = []
    for number, options in enumerate(({}, {"previews": 0.0})):
        fits.append(one_shot.Fit(*examples, config, a_run(tmp_path / str(number), events, **options)))
        fits[-1].fit()
    plain, watched = (fit.network.state_dict() for fit in fits)
    assert all(torch.equal(tensor, watched[key]) for key, tensor in plain.items())
    seen = [event for event in events if event["event"] == "preview"]
    assert seen and (seen[0]["role"], seen[0]["kind"]) == ("structure", "Mask")
