"""The method: its equations and graph, what moves where, what teaches whom, what it refuses, that it does its job."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from backend_tools import ROOT
from method_tools import a_run, configured
from scipy.spatial.distance import jensenshannon
from wedges import NAMES, picture

from medgen import bundle, execute, io, markups, pictures
from medgen.case import Case, Image, Points
from medgen.errors import Cancelled, UserError
from medgen.jobs import Event, Run
from medgen.landmarks import few_shot_dag
from medgen.landmarks.few_shot_dag import (
    ApplyConfig,
    Evolution,
    FewShotDAG,
    Fit,
    TrainConfig,
    global_loss,
    js_divergence,
    local_loss,
)
from medgen.method import Kind
from medgen.radiographs import Change, Pools, gather

METHOD = FewShotDAG()
TRAIN, APPLY = METHOD.operation("train"), METHOD.operation("apply")
TINY: dict[str, Any] = {"size": 32, "width": 2, "features": 8, "graph_width": 16, "validate_every": 5}

LEARNS: dict[str, Any] = {
    **{"pretrain_updates": 120, "updates": 10, "validate_every": 40, "learning_rate": 3e-3},
    **{"width": 4, "rotation": 5.0, "scale": 0.05, "translation": 0.15, "contrast": 0.1, "batch_size": 8},
}


def cohort() -> list[Case]:
    marked = [picture(seed) for seed in range(4)] + [picture(20, split="validation")]
    return marked + [picture(seed, marked=False) for seed in range(30, 36)]


def train_config(**settings: Any) -> TrainConfig:
    return configured(TrainConfig, TRAIN, "smoke", {**TINY, "pretrain_updates": 6, "updates": 6, **settings})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bundle.Model:
    """Trained for seconds."""
    config = train_config(**LEARNS)
    return METHOD.fit(cohort(), config, a_run(tmp_path_factory.mktemp("model")))


# --- equations


def test_the_global_loss_forgives_what_lies_within_the_margin() -> None:
    truth = torch.zeros(2, 3, 2)
    placed = torch.stack([torch.full((3, 2), 0.01), torch.full((3, 2), -0.05)])
    assert float(global_loss(placed, truth, 0.02)) == pytest.approx((0 + 0.03) / 2)
    assert float(global_loss(placed, truth, 0.0)) == pytest.approx(0.03)
    assert float(local_loss(placed, truth)) == pytest.approx(0.03)


def test_no_gradient_flows_from_an_image_within_the_margin() -> None:
    placed = torch.full((1, 3, 2), 0.01, requires_grad=True)
    global_loss(placed, torch.zeros(1, 3, 2), 0.02).backward()
    assert placed.grad is not None and not placed.grad.any()


def test_the_js_divergence_is_0_for_equal_maps_symmetric_and_bounded() -> None:
    one, other = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    assert float(js_divergence(one, one + 3.0)) == pytest.approx(0, abs=1e-7)  # a softmax forgets a constant
    assert float(js_divergence(one, other)) == pytest.approx(float(js_divergence(other, one)))
    apart = torch.zeros(1, 2, 1, 1)
    apart[0, 0] = 200.0
    assert float(js_divergence(apart, -apart)) == pytest.approx(math.log(2) / 2, rel=1e-6)


def test_the_js_divergence_is_scipys_over_twice_all_values() -> None:
    one, other = torch.randn(2, 5, 3, 4, dtype=torch.float64), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    p, q = (values.softmax(1).movedim(1, -1).reshape(-1, 5).numpy() for values in (one, other))
    total = sum(2 * jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True))
    assert float(js_divergence(one, other)) == pytest.approx(total / (2 * one.numel()), rel=1e-9)


# --- training


def test_one_batch_in_r_plus_1_is_marked_and_the_teacher_follows_by_equation_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config(ratio=1, smoothing=0.75)
    fit = Fit(gather(cohort(), 32), config, a_run(tmp_path))
    asked: list[bool] = []
    batch = fit._batch
    monkeypatch.setattr(fit, "_batch", lambda *pool: (asked.append(len(pool) == 2), batch(*pool))[1])
    for step in range(3):
        before = {key: value.clone() for key, value in fit.teacher.network.named_parameters()}
        fit._teach(step)
        student = dict(fit.student.named_parameters())
        for key, value in fit.teacher.network.named_parameters():
            torch.testing.assert_close(value, 0.75 * before[key] + 0.25 * student[key])
    assert asked == [True, False, True]


def test_what_the_teacher_finds_is_what_the_student_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Fit(gather(cohort(), 32), train_config(js_weight=0.0), a_run(tmp_path))
    lesson = torch.rand(4, 3, 2)
    monkeypatch.setattr(
        fit.teacher.network, "forward", lambda images: Evolution(torch.zeros(4, 8, 8, 8), torch.zeros(4, 3, 2), lesson)
    )
    truths: list[torch.Tensor] = []
    loss = few_shot_dag.dag_loss
    monkeypatch.setattr(few_shot_dag, "dag_loss", lambda f, truth, c: (truths.append(truth), loss(f, truth, c))[1])
    fit._teach(1)
    assert torch.equal(truths[0], lesson) and not lesson.requires_grad


def test_student_and_teacher_start_from_the_pretrained_network_that_validated_best(tmp_path: Path) -> None:
    fit = Fit(gather(cohort(), 32), train_config(updates=1, student_rate=1e-12, smoothing=0.0), a_run(tmp_path))
    fit.fit()
    assert fit.first.weights
    student = dict(fit.student.named_parameters())
    for key, parameter in student.items():
        torch.testing.assert_close(parameter.detach(), fit.first.weights[key], atol=1e-9, rtol=0)


def test_teaching_keeps_the_statistics_of_the_pretraining(tmp_path: Path) -> None:
    fit = Fit(gather(cohort(), 32), train_config(updates=2), a_run(tmp_path))
    fit.fit()
    kept = {name: value for name, value in fit.first.weights.items() if "running" in name}
    for network in (fit.student, fit.teacher.network):
        assert kept and all(torch.equal(network.state_dict()[name], value) for name, value in kept.items())


def test_a_teaching_that_only_harms_gives_the_pretrained_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = Fit(gather(cohort(), 32), train_config(updates=4, validate_every=2), a_run(tmp_path))
    errors = itertools.count()
    monkeypatch.setattr(fit, "_error", lambda network: float(next(errors)))
    kept = fit.fit()
    assert next(errors) == 5 and fit.first.step == 2
    assert all(torch.equal(kept[name], value) for name, value in fit.first.weights.items())


def stop_after_one_step(curve: str, pools: Pools, config: TrainConfig, folder: Path) -> None:
    def stop(event: Event) -> None:
        if event.get("name") == curve:
            run.cancel()

    run = Run(folder, device="cpu", precision="32", emit=stop)
    with pytest.raises(Cancelled):
        Fit(pools, config, run).fit()


def test_a_training_stopped_in_either_stage_resumes_to_the_same_model(tmp_path: Path) -> None:
    pools, config = gather(cohort(), 32), train_config(pretrain_updates=2, updates=2, validate_every=2)
    whole = Fit(pools, config, a_run(tmp_path / "whole")).fit()
    for name in ("loss", "student loss"):
        stop_after_one_step(name, pools, config, tmp_path / name)
        resumed = Fit(pools, config, a_run(tmp_path / name, resume=True)).fit()
        assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_without_unmarked_images_the_network_is_trained_on_the_marked_ones_alone(tmp_path: Path) -> None:
    events: list[Event] = []
    METHOD.fit([picture(seed) for seed in range(3)], train_config(), a_run(tmp_path, events))
    assert {event["name"] for event in events if event["event"] == "metric"} == {"loss"}
    said = " ".join(event["message"] for event in events if event["event"] == "log")
    assert "no unmarked image" in said and "Images that are marked: 3; the paper's network did" in said


def test_corners_of_unseen_pictures_are_found_far_better_than_by_the_mean_shape(
    model: bundle.Model, tmp_path: Path
) -> None:
    mean = np.mean([picture(seed)["landmarks"].positions for seed in range(4)], axis=0)
    errors, means = [], []
    for seed in range(50, 58):
        case = picture(seed)
        result = METHOD.apply(Case({"image": case["image"]}), ApplyConfig(views=3), a_run(tmp_path), model)
        errors.append(METHOD.measure(result, case)["mean mm"])
        means.append(np.linalg.norm(mean - case["landmarks"].positions, axis=1).mean())
        assert ((result["landmarks"].confidence >= 0) & (result["landmarks"].confidence <= 1)).all()
    assert np.mean(errors) < 0.7 * np.mean(means)


# --- points in and out


def test_an_image_finer_by_half_gives_the_same_points_in_mm(model: bundle.Model, tmp_path: Path) -> None:
    image = picture(60)["image"]
    affine = image.affine @ np.diag([0.5, 0.5, 1, 1])
    affine[:3, 3] -= image.affine[:3, :2] @ [0.25, 0.25]
    finer = Image(image.data.repeat_interleave(2, 1).repeat_interleave(2, 2), affine, "finer")
    found = [
        METHOD.apply(Case({"image": one}), ApplyConfig(views=0), a_run(tmp_path), model)["landmarks"]
        for one in (image, finer)
    ]
    np.testing.assert_allclose(found[0].positions, found[1].positions, atol=0.5)
    assert found[0].confidence is None


def test_confidence_falls_to_0_at_5_percent_of_the_width_and_points_below_the_least_are_not_placed(
    model: bundle.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = torch.tensor([[0.3, 0.3], [0.5, 0.5], [0.4, 0.6]])
    moves = torch.tensor([0.0, 1.2, 5.0])[:, None] / 48 * torch.tensor([0.0, 1.0])  # mm along j
    monkeypatch.setattr(few_shot_dag, "random_change", lambda *limits: Change())
    monkeypatch.setattr(
        few_shot_dag, "vertices_in", lambda network, images, batch, run: torch.stack([steady, steady + moves])
    )
    case = Case({"image": picture(61)["image"]})
    found = METHOD.apply(case, ApplyConfig(views=1), a_run(tmp_path), model)["landmarks"]
    np.testing.assert_allclose(found.confidence, [1.0, 0.5, 0.0], atol=0.02)
    kept = METHOD.apply(case, ApplyConfig(views=1, least_confidence=0.3), a_run(tmp_path), model)["landmarks"]
    assert found.found.all() and kept.found.tolist() == [True, True, False]
    with pytest.raises(UserError, match="raise “views”"):
        METHOD.apply(case, ApplyConfig(views=0, least_confidence=0.3), a_run(tmp_path), model)


def test_a_place_beyond_the_image_is_not_found(
    model: bundle.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beyond = torch.tensor([[0.5, 0.5], [0.5, 0.95], [0.2, 0.2]])  # the picture ends at 40 / 48
    monkeypatch.setattr(
        few_shot_dag, "vertices_in", lambda network, images, batch, run: beyond.expand(len(images), -1, -1)
    )
    found = METHOD.apply(Case({"image": picture(1)["image"]}), ApplyConfig(views=0), a_run(tmp_path), model)[
        "landmarks"
    ]
    assert found.found.tolist() == [True, False, True] and found.names == NAMES


def test_measures_are_those_of_table_1() -> None:
    case = picture(2)
    found = case["landmarks"].positions.copy()
    found[0] += (1.0, 0, 0)
    found[1] += (0, 3.0, 0)
    found[2] = np.nan
    measures = METHOD.measure(Case({"landmarks": Points(found, NAMES)}), case)
    assert measures["mean mm"] == pytest.approx(2) and measures["std mm"] == pytest.approx(1)
    assert measures["failure rate"] == pytest.approx(2 / 3)  # 5 % of 48 mm; not found has failed
    with pytest.raises(UserError, match="name them alike"):
        METHOD.measure(Case({"landmarks": Points(found[:1], ["x"])}), case)


def test_the_real_radiographs_points_that_were_not_found_are_told_and_have_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "Testing" / "Claims"))
    import chest

    cases = [picture(seed) for seed in (2, 3)]
    found = [case["landmarks"].positions + (1.0, 0, 0) for case in cases]
    found[0][0] += (3.0, 0, 0)
    found[1][1:] = np.nan
    told = chest.summed([Points(places, NAMES) for places in found], cases)
    expected = {"mean mm of those found": 7 / 4, "not found": 2 / 6, "failure rate": 3 / 6}
    assert told == pytest.approx(expected, abs=1e-4)
    nothing = chest.summed([Points(np.full((3, 3), np.nan), NAMES)], cases[:1])
    assert nothing == {"mean mm of those found": None, "not found": 1.0, "failure rate": 1.0}


# --- files


def write_cohort(folder: Path, cases: list[Case]) -> Path:
    folder.mkdir(parents=True)
    rows = []
    for number, case in enumerate(cases):
        row = {"image": f"{number}.nrrd", "landmarks": "", "subject": f"s{number}", **case.row}
        io.write(case["image"], Kind.IMAGE, folder / row["image"])
        if "landmarks" in case:
            row["landmarks"] = f"{number}.mrk.json"
            io.write(case["landmarks"], Kind.POINTS, folder / row["landmarks"])
        rows.append(row)
    io.write_rows(rows, folder / "cohort.csv")
    return folder / "cohort.csv"


def test_files_in_a_model_and_points_out_on_a_png_and_a_slice(tmp_path: Path) -> None:
    table = write_cohort(tmp_path / "given", cohort())
    execute.perform(METHOD, TRAIN, train_config(), a_run(tmp_path / "run"), tmp_path / "model", collection=table)
    model = bundle.load(tmp_path / "model", "few-shot-dag")
    assert model.settings["names"] == NAMES and not model.patient_data
    assert (model.facts["marked images"], model.facts["unmarked images"]) == (4, 6)
    case = picture(70)
    array = case["image"].data[0].T.numpy().clip(0, 255).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "plain.png"))
    volume = sitk.GetImageFromArray(array[None])
    volume.SetSpacing((1.0, 1.0, 3.0))
    volume.SetOrigin((10.0, 20.0, 30.0))
    sitk.WriteImage(volume, str(tmp_path / "slice.nrrd"))
    found = {}
    for name in ("plain.png", "slice.nrrd"):
        out = tmp_path / f"out of {Path(name).stem}"
        files = [{"image": [str(tmp_path / name)]}]
        execute.perform(METHOD, APPLY, ApplyConfig(), a_run(tmp_path / "run"), out, files=files, model=model)
        found[name] = markups.read(out / "landmarks.mrk.json", APPLY.outputs[0])[0].positions
    np.testing.assert_allclose(found["slice.nrrd"] - found["plain.png"], [[-10, -20, 30]] * 3, atol=1e-4)


def spoilt(**changes: Any) -> list[Case]:
    cases = cohort()
    points = cases[1]["landmarks"]
    if "move" in changes:
        points.positions[1] = changes["move"]
    if changes.get("unplaced"):
        points.positions[2] = np.nan
    if "names" in changes:
        points.names = changes["names"]
    if changes.get("fewer"):
        cases[1].values["landmarks"] = Points(points.positions[:2], points.names[:2], name="corners")
    if changes.get("none"):
        return [case for case in cases if "landmarks" not in case]
    if changes.get("empty"):
        for case in cases[:5]:
            case.values["landmarks"] = Points(np.empty((0, 3)), [])
    return cases


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"none": True}, "No image that is trained on has landmarks; mark some"),
        ({"empty": True}, "landmarks of case 0 are an empty list; place some"),
        ({"fewer": True}, "“corners” .case 1. has no placed landmark “right”, which others have; place it"),
        ({"unplaced": True}, "has no placed landmark “right”"),
        ({"names": ["top", "left", "left"]}, "several landmarks called “left”; give each a name of its own"),
        ({"names": ["top", "left", "beyond"]}, "has no placed landmark “right”"),
        ({"move": (500.0, 0, 0)}, "Landmark “left” of “corners” .case 1. lies outside the image “picture 1”; place it"),
    ],
)
def test_a_training_refuses_in_one_sentence(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    for attempt in (
        lambda: METHOD.fit(spoilt(**changes), train_config(), a_run(tmp_path)),
        lambda: METHOD.estimate(TRAIN, spoilt(**changes), train_config(), a_run(tmp_path)),
    ):
        with pytest.raises(UserError, match=message) as caught:
            attempt()
        assert str(caught.value).count(". ") == 0


def test_a_reference_with_fewer_points_is_measured_on_those_it_has() -> None:
    case = picture(2)
    found = Case({"landmarks": Points(case["landmarks"].positions + (3.0, 4.0, 0), NAMES)})
    fewer = Case({"landmarks": Points(case["landmarks"].positions[1:], NAMES[1:]), "image": case["image"]})
    measures = METHOD.measure(found, fewer)
    assert measures["mean mm"] == pytest.approx(5) and measures["failure rate"] == 1.0
    assert (
        METHOD.measure(found, Case({"landmarks": Points(np.full((3, 3), np.nan), NAMES)})).get("failure rate") is None
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {}}, "record that cannot be used .“names”"),
        ({"settings": {"names": []}}, "record that cannot be used .“names”"),
        ({"settings": {"names": [["top"], "left", "right"]}}, "record that cannot be used .“names.0”"),
        ({"settings": {"names": NAMES, "mean_shape": [[0, 0]]}}, "record that cannot be used .“mean_shape”"),
        ({"settings": {"names": NAMES * 400}}, "record that cannot be used .“names”"),
        ({"settings": {"names": ["top", "left", "left"]}}, "record that cannot be used .“names”"),
        ({"settings": {"names": NAMES[:2]}}, "weights that do not fit its network “dag”"),
        ({"config": {"size": 10**9}}, "record that cannot be used .“size”"),
        ({"config": {"width": 64, "graph_width": 512}}, "weights that do not fit its network “dag”"),
        ({"networks": {}}, "lacks the network “dag”"),
    ],
)
def test_a_strangers_model_is_refused_in_one_sentence(
    changes: dict[str, Any], message: str, model: bundle.Model, tmp_path: Path
) -> None:
    config = {**model.config, **changes.pop("config", {})}
    foreign = replace(model, config=config, **changes)
    with pytest.raises(UserError, match=message) as caught:
        METHOD.apply(Case({"image": picture(1)["image"]}), ApplyConfig(), a_run(tmp_path), foreign)
    assert str(caught.value).count(". ") == 0 and "train or fetch it again" in str(caught.value)


def test_weights_that_are_no_numbers_find_nothing(model: bundle.Model, tmp_path: Path) -> None:
    dag = {
        name: torch.full_like(value, torch.nan) if name == "mean_shape" else value
        for name, value in model.networks["dag"].items()
    }
    foreign = replace(model, networks={"dag": dag})
    found = METHOD.apply(Case({"image": picture(1)["image"]}), ApplyConfig(views=2), a_run(tmp_path), foreign)
    assert not found["landmarks"].found.any() and found["landmarks"].confidence.tolist() == [0, 0, 0]


def test_a_volume_is_refused(tmp_path: Path, model: bundle.Model) -> None:
    io.write(Image(torch.rand(1, 8, 8, 8), np.eye(4)), Kind.IMAGE, tmp_path / "volume.nrrd")
    files = [{"image": [str(tmp_path / "volume.nrrd")]}]
    with pytest.raises(UserError, match="needs a 2D picture"):
        execute.perform(METHOD, APPLY, ApplyConfig(), a_run(tmp_path), tmp_path / "out", files=files, model=model)


def test_estimates_are_measured_and_smaller_without_unmarked_images(tmp_path: Path, model: bundle.Model) -> None:
    config = train_config(pretrain_updates=400, updates=4000)
    full = METHOD.estimate(TRAIN, cohort(), config, a_run(tmp_path))
    alone = METHOD.estimate(TRAIN, cohort()[:5], config, a_run(tmp_path))
    assert full.seconds > 2 * alone.seconds > 0
    assert METHOD.estimate(APPLY, cohort()[:2], ApplyConfig(), a_run(tmp_path), model).seconds > 0


def test_the_declarations_are_the_ones_the_panel_needs() -> None:
    from medgen import catalog

    entry = catalog.entry("few-shot-dag")
    assert (entry["module"], entry["group"], entry["phantoms"]) == ("MedGenLandmarks", "Points", ["hand-xray"])
    settings = {setting["name"]: setting for setting in entry["operations"][0]["settings"]}
    assert settings["ratio"]["paper"] == 100 and settings["size"]["memory"] == {"role": "lower"}
    assert json.dumps(entry)


def test_a_picture_of_points_on_a_radiograph_shows_them_where_they_lie(tmp_path: Path) -> None:
    case = picture(5)
    index = np.array([[30.0, 8.0, 0.0, 1.0]])
    pictures.marks(case["image"], Points((index @ case["image"].affine.T)[:, :3], ["a"]), None, tmp_path / "p.png", "t")
    shown = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.png")))[..., :3].astype(int)
    orange = np.argwhere((shown[..., 0] > 200) & (shown[..., 2] < 100) & (abs(shown[..., 1] - 154) < 60))
    tall = shown.shape[0] * 9.0 / 9.5  # below the title
    row, column = orange.mean(axis=0) - (shown.shape[0] - tall, 0)
    assert column / shown.shape[1] == pytest.approx(30.5 / 48, abs=0.01)
    assert row / tall == pytest.approx(8.5 / 40, abs=0.01)
