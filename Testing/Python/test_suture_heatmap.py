"""The method: its loss by hand, Otsu, opening and cutting against brute force and closed forms, training, files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from method_tools import a_run, as_image, configured, least_seconds, said
from scipy import ndimage
from suture_tools import case, points_at, pool

from medgen import bundle, catalog, execute, io, markups, phantoms, pointframes
from medgen.case import Case, Image, Points
from medgen.errors import Cancelled, UserError
from medgen.jobs import Event, Run
from medgen.landmarks import suture_heatmap
from medgen.landmarks.suture_heatmap import (
    ApplyConfig,
    Fit,
    SutureHeatmap,
    TrainConfig,
    blobs,
    cut,
    dice_loss,
    make_network,
    points_of,
    translated,
)
from medgen.nn.heatmaps import gaussians, together
from medgen.phantoms import annulus
from medgen.training import drawn

METHOD = SutureHeatmap()
TRAIN, APPLY = METHOD.operation("train"), METHOD.operation("apply")
TINY: dict[str, Any] = {
    "rows": 64, "columns": 64, "width": 8, "decoder_width": 2, "batch_size": 4, "rotation": 10.0,
    "translator_width": 4, "translator_blocks": 1, "translator_updates": 3, "translator_crop": 32,
}  # fmt: skip


def train_config(**settings: Any) -> TrainConfig:
    return configured(TrainConfig, TRAIN, "smoke", {**TINY, "updates": 4, "validate_every": 2, **settings})


def apply_config(**settings: Any) -> ApplyConfig:
    return configured(ApplyConfig, APPLY, "demo", settings)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bundle.Model:
    """Trained for seconds on bright dots."""
    config = train_config(updates=60, validate_every=30, simulator="left out", decoder_width=4, width=16, sigma=2.0)
    frames = [*pool(range(12)), *pool(range(20, 23), count=0), *pool(range(30, 34), split="validation")]
    return METHOD.fit(frames, [], config, a_run(tmp_path_factory.mktemp("model")))


# --- the loss


def test_the_dice_loss_is_the_soft_overlap_of_the_whole_batch() -> None:
    heatmap = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 0.25]]]])
    logits = torch.zeros_like(heatmap)  # 0.5 everywhere
    expected = 1 - (2 * 0.5 * 1.75 + 1) / (8 * 0.5 + 1.75 + 1)
    assert float(dice_loss(logits, heatmap)) == pytest.approx(expected)


def test_the_dice_loss_is_0_for_a_map_that_is_met_and_for_empty_ones() -> None:
    heatmap = (torch.rand(2, 1, 8, 8) > 0.7).float()
    assert float(dice_loss(200 * (heatmap - 0.5), heatmap)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(torch.full((1, 1, 8, 8), -100.0), torch.zeros(1, 1, 8, 8))) == pytest.approx(0, abs=1e-6)


# --- from a heatmap to points


def heat(places: list[tuple[float, float]], shape: tuple[int, int] = (60, 80), sigma: float = 3.0) -> np.ndarray:
    points = torch.tensor(places, dtype=torch.float64).reshape(-1, 2)
    return np.asarray(together(gaussians(points, shape, sigma)).numpy())


def brute_otsu(grey: np.ndarray) -> float:
    """The level that parts the pixels with the greatest variance between both classes."""
    best, chosen = -1.0, 0
    for level in range(255):
        low, high = grey[grey <= level].astype(float), grey[grey > level].astype(float)
        if len(low) and len(high):
            between = len(low) * len(high) * (low.mean() - high.mean()) ** 2
            if between > best * (1 + 1e-12):
                best, chosen = between, level
    return chosen


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_otsus_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heatmap = np.clip(heat([(20, 20), (40, 60), (10, 50)]) * rng.uniform(0.3, 1) + rng.normal(0, 0.05, (60, 80)), 0, 1)
    grey = np.rint(255 * heatmap)
    assert np.array_equal(blobs(heatmap, 0) > 0, grey > brute_otsu(grey))


def test_opening_takes_away_specks_and_bridges_narrower_than_its_disc() -> None:
    heatmap = np.zeros((40, 60))
    heatmap[10:20, 10:20] = heatmap[10:20, 30:40] = 1
    heatmap[14, 20:30] = 1  # a bridge of one pixel
    heatmap[30, 50] = 1  # a speck
    assert blobs(heatmap, 0).max() == 2
    opened = blobs(heatmap, 1)
    assert opened.max() == 2 and not opened[14, 24] and not opened[30, 50]
    disc = np.add.outer(np.arange(-1, 2) ** 2, np.arange(-1, 2) ** 2) <= 1
    eroded = ndimage.minimum_filter((heatmap > 0).astype(int), footprint=disc)
    assert np.array_equal(opened > 0, ndimage.maximum_filter(eroded, footprint=disc) > 0)


def test_points_are_the_centres_of_mass_of_blobs() -> None:
    places = [(20.0, 20.0), (40.0, 60.0), (12.0, 55.0)]
    found, scores = points_of(heat(places), apply_config())
    np.testing.assert_allclose(found[np.lexsort(found.T)], np.array(places)[np.lexsort(np.array(places).T)], atol=0.01)
    assert (scores > 0.5).all() and (scores < 1).all()


@pytest.mark.parametrize("turned", [False, True])
def test_a_bar_is_cut_across_its_longer_side_into_halves_whose_centres_are_known(turned: bool) -> None:
    pixels = np.argwhere(np.ones((12, 4), bool))  # 12 high, 4 wide: centre of mass at row 5.5
    parts = cut(pixels[:, ::-1] if turned else pixels)
    centres = np.array([part.mean(axis=0) for part in parts])
    expected = np.array([[2.5, 1.5], [8.5, 1.5]])
    np.testing.assert_allclose(centres, expected[:, ::-1] if turned else expected)


def test_a_square_blob_is_cut_along_its_rows() -> None:
    parts = cut(np.argwhere(np.ones((4, 4), bool)))
    assert sorted(part[:, 1].max() for part in parts) == [1, 3]


def test_two_merged_points_are_cut_apart_and_single_ones_are_not() -> None:
    singles = [(float(row), float(column)) for row in (8, 50) for column in range(10, 80, 15)]
    places = [(28.0, 40.0), (28.0, 47.0), *singles]
    heatmap = heat(places)
    assert blobs(heatmap, 1).max() == len(places) - 1
    found, _ = points_of(heatmap, apply_config())
    assert len(found) == len(places)
    for place in places:
        assert np.hypot(*(found - place).T).min() < 1.5
    whole, _ = points_of(heatmap, apply_config(cut_above=100.0))
    assert len(whole) == len(places) - 1 and np.hypot(*(whole - (28.0, 43.5)).T).min() < 0.1


def test_all_blobs_above_the_mean_are_cut_as_the_paper_has_it() -> None:
    heatmap = np.zeros((40, 60))
    heatmap[5:15, 5:15] = heatmap[5:15, 25:33] = heatmap[25:33, 25:33] = 1  # areas 100, 80, 64; mean 81.3
    found, _ = points_of(heatmap, apply_config(cut_above=1.0, opening=0))
    assert len(found) == 4 and (found[np.hypot(*(found - (9.5, 9.5)).T) < 4][:, 0] == 9.5).all()


def test_weak_blobs_are_left_out_and_an_empty_or_constant_map_gives_no_point() -> None:
    heatmap = heat([(20, 20)]) * 0.3
    assert len(points_of(heatmap, apply_config())[0]) == 0
    assert len(points_of(heatmap, apply_config(least_score=0.1))[0]) == 1
    for flat in (np.zeros((20, 30)), np.full((20, 30), 0.7), np.random.default_rng(0).uniform(0, 0.05, (20, 30))):
        found, scores = points_of(flat, apply_config())
        assert found.shape == (0, 2) and scores.shape == (0,)


# --- training


def test_dots_of_unseen_frames_are_found_and_a_frame_without_any_gives_an_empty_list(
    model: bundle.Model, tmp_path: Path
) -> None:
    totals = {"TP": 0.0, "FP": 0.0, "FN": 0.0}
    for seed in range(50, 54):
        unseen = case(seed)
        measures = METHOD.measure(METHOD.apply(unseen, apply_config(), a_run(tmp_path), model), unseen)
        for key in totals:
            totals[key] += measures[key]
    assert totals["TP"] >= 14 and totals["FP"] <= 3
    result = METHOD.apply(case(60, count=0), apply_config(), a_run(tmp_path), model)
    assert result.get("points", Points).positions.shape == (0, 3)
    assert model.facts["validation F1"] > 0.8


@pytest.mark.parametrize(("choice", "learnt", "stages"), [
    ("translated", 9, ["translator", "heatmaps"]), ("joined", 9, ["heatmaps"]), ("left out", 5, ["heatmaps"]),
])  # fmt: skip
def test_the_simulators_frames_are_translated_joined_or_left_out(
    choice: str, learnt: int, stages: list[str], tmp_path: Path
) -> None:
    events: list[Event] = []
    simulator = [
        *pool(range(10, 14), look=60.0),
        *pool(range(14, 16), split="validation"),
        *pool(range(1), marked=False),
    ]
    fit = Fit(pool(range(5)), simulator, train_config(simulator=choice, updates=1), a_run(tmp_path, events))
    fit.fit()
    assert len(fit.learnt) == learnt
    assert list(dict.fromkeys(e["stage"] for e in events if e["event"] == "progress")) == stages
    if choice != "left out":
        same = torch.equal(fit.learnt[5].pixels, simulator[0].pixels)
        assert same == (choice == "joined") and torch.equal(fit.learnt[5].points, simulator[0].points)


def test_a_share_of_every_batch_is_the_simulators_however_many_frames_there_are_of_each(tmp_path: Path) -> None:
    fit = Fit(pool(range(3)), pool(range(10, 17)), train_config(simulator="joined"), a_run(tmp_path))
    fit.enlarge()
    assert fit.chances is not None
    np.testing.assert_allclose(fit.chances, [0.5 / 3] * 3 + [0.5 / 7] * 7)
    for number, frame in enumerate(fit.learnt):
        frame.points = torch.full((1, 2), 30.0 if number < 3 else 31.0)
    still = train_config(rotation=0.0, scale=0.0, colour=0.0).limits
    drawn = pointframes.random_batch(fit.training, fit.learnt, 400, still, np.random.default_rng(0), fit.chances)
    share = np.mean([round(float(points[0, 0])) in (31, 32) for _, points in drawn])  # mirrored or not
    assert 0.4 < share < 0.6


def test_a_translated_frame_is_what_the_generator_makes_of_it(tmp_path: Path) -> None:
    fit = Fit(pool(range(2)), pool(range(2, 4)), train_config(), a_run(tmp_path))
    assert fit.translator is not None
    fit.translator.generators["there"] = torch.nn.Identity()  # type: ignore[assignment]
    frame = fit.simulator[0]
    assert torch.equal(translated(frame, fit.translator, fit.run).pixels, frame.pixels)


def test_without_a_simulator_the_theatre_is_learnt_alone_and_the_log_says_so(tmp_path: Path) -> None:
    for name, simulator in (("none", []), ("unmarked", pool(range(3, 5), marked=False))):
        events: list[Event] = []
        made = METHOD.fit(pool(range(3)), simulator, train_config(updates=1), a_run(tmp_path / name, events))
        assert "no marked frames of a simulator" in said(events) and made.facts["marked frames"] == 3


@pytest.mark.parametrize("name", ["translator generators", "loss"])
def test_a_training_stopped_in_either_stage_resumes_to_the_same_model(name: str, tmp_path: Path) -> None:
    theatre, simulator = pool(range(4)), pool(range(4, 8), look=60.0)

    def stop(event: Event) -> None:
        if event.get("name") == name and event["step"] == 1:
            run.cancel()

    whole = Fit(theatre, simulator, train_config(), a_run(tmp_path / "whole")).fit()
    run = Run(tmp_path / "cut", device="cpu", precision="32", emit=stop)
    with pytest.raises(Cancelled):
        Fit(theatre, simulator, train_config(), run).fit()
    resumed = Fit(theatre, simulator, train_config(), a_run(tmp_path / "cut", resume=True)).fit()
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


# --- files, declarations, what is refused


def test_from_files_to_files_on_a_png_and_on_a_slice_that_lies_elsewhere(model: bundle.Model, tmp_path: Path) -> None:
    unseen = case(51)
    pixels = unseen.get("image", Image).data.round().byte().permute(2, 1, 0).numpy()
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(tmp_path / "frame.png"))
    image = sitk.GetImageFromArray(pixels[None], isVector=True)
    image.SetSpacing((0.5, 0.5, 2.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    sitk.WriteImage(image, str(tmp_path / "slice.nrrd"))
    found = {}
    for name in ("frame.png", "slice.nrrd"):
        out = tmp_path / f"{name}.mrk.json"
        files = [{"image": [str(tmp_path / name)]}]
        execute.perform(METHOD, APPLY, apply_config(), a_run(tmp_path), out, files=files, model=model)
        found[name] = markups.read(out, suture_heatmap.pointframes.FOUND)[0]
        assert found[name].confidence is not None and found[name].names[0] == "suture 1"
    plain = found["frame.png"].positions * (-1, -1, 1)  # LPS pixels
    placed = found["slice.nrrd"].positions * (-1, -1, 1)
    order = [rows[np.lexsort(rows.T)] for rows in (plain * (0.5, 0.5, 1) + (10, -20, 30), placed)]
    np.testing.assert_allclose(order[0], order[1], atol=1e-3)
    assert METHOD.measure(Case({"points": found["frame.png"]}), unseen)["TP"] >= 3


def test_an_empty_list_leaves_as_a_file_that_is_read_again(tmp_path: Path) -> None:
    io.write(points_at([]), suture_heatmap.pointframes.FOUND.kind, tmp_path / "none.mrk.json")
    assert json.loads((tmp_path / "none.mrk.json").read_text())["markups"][0]["controlPoints"] == []
    again = markups.read(tmp_path / "none.mrk.json", suture_heatmap.pointframes.POINTS)[0]
    assert again.positions.shape == (0, 3)


def test_pieces_too_small_for_the_translator_are_refused_before_it_learns(tmp_path: Path) -> None:
    config = train_config(rows=64, columns=32, simulator="translated")
    theatre, simulator = (frames_of(pool(range(4)), inner=(18, 32)) for _ in range(2))
    with pytest.raises(UserError, match="32 x 18 pixels on its canvas, and the translator wants 24 each way"):
        METHOD.fit(theatre, simulator, config, a_run(tmp_path))


def frames_of(frames: list[pointframes.PointFrame], inner: tuple[int, int]) -> list[pointframes.PointFrame]:
    """The same frames, of which a picture fills so much."""
    return [replace(one, inner=inner) for one in frames]


def test_a_point_in_front_of_a_thick_slice_is_found_in_its_plane() -> None:
    image = Image(torch.rand(1, 512, 288), np.diag([0.5, 0.5, 5.0, 1.0]), name="slice")
    found, meant = Points(np.array([[10.0, 10, 0]]), ["a"]), Points(np.array([[10.5, 10, 4]]), ["b"])
    assert len(pointframes.compared(found, meant, image).pairs) == 1
    assert not len(pointframes.compared(found, Points(np.array([[14.0, 10, 0]]), ["b"]), image).pairs)


@pytest.mark.parametrize("keep", ["theatre", "both"])
def test_a_training_reads_a_plain_table_or_a_collection_and_a_set_without_points_is_refused(
    keep: str, tmp_path: Path
) -> None:
    folder = tmp_path / "frames"
    phantoms.write(phantoms.PHANTOMS["annulus"], 10, 1, folder, size=(64, 36))
    source = folder / ("theatre.csv" if keep == "theatre" else "collection.json")
    config = train_config(updates=2, simulator="translated")
    made = execute.perform(METHOD, TRAIN, config, a_run(tmp_path / "run"), tmp_path / "model", collection=source)
    facts = bundle.load(made[0][1]).facts
    assert (facts["simulator's frames, translated"] > 0) == (keep == "both")
    estimate = execute.estimate(METHOD, TRAIN, config, a_run(tmp_path / "e"), collection=source)
    assert 5 < estimate.seconds < 600 and estimate.memory_bytes > 2**29
    for file in folder.glob("*points.mrk.json"):
        io.write(points_at([]), suture_heatmap.pointframes.POINTS.kind, file)
    for refused in (execute.estimate, lambda *a, **k: execute.perform(*a, tmp_path / "other", **k)):
        with pytest.raises(UserError, match="No training frame of pool “theatre” has a point to learn from"):
            refused(METHOD, TRAIN, config, a_run(tmp_path / "r"), collection=source)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"config": {"width": 10**9}}, "has a record that cannot be used"),
    ({"config": {"encoder": "vgg"}}, "has a record that cannot be used"),
    ({"config": {"decoder_width": 16}}, "has weights that do not fit its network “unet”"),
])  # fmt: skip
def test_a_strangers_model_is_refused_in_one_sentence(
    changes: dict[str, Any], message: str, model: bundle.Model, tmp_path: Path
) -> None:
    strange = bundle.Model(model.slug, model.networks, {**model.config, **changes["config"]}, name="strange")
    with pytest.raises(UserError, match=message):
        METHOD.apply(case(0), apply_config(), a_run(tmp_path), strange)


@pytest.mark.alone
def test_a_frame_of_512_by_288_is_looked_at_within_half_a_second(tmp_path: Path) -> None:
    """Of a processor's time, with a network of the demo tier at that size; untrained, it sees dozens of blobs."""
    config = configured(TrainConfig, TRAIN, "demo", {"rows": 288, "columns": 512})
    network = drawn(0, lambda: make_network(config))
    network.head.weight.data *= 100
    ready = bundle.Model(METHOD.slug, {"unet": network.state_dict()}, config.model_dump(mode="json"), {}, {})
    frame, run = Case({"image": as_image(annulus.make(1)["image"])}), a_run(tmp_path)
    every = apply_config(least_score=0)
    assert len(METHOD.apply(frame, every, run, ready)["points"].names) > 50
    assert least_seconds(lambda: METHOD.apply(frame, every, run, ready)) <= 0.5


def test_applying_is_estimated_for_each_frame(model: bundle.Model, tmp_path: Path) -> None:
    one, ten = (METHOD.estimate(APPLY, [case(0)] * n, apply_config(), a_run(tmp_path), model) for n in (1, 10))
    assert one.seconds < ten.seconds < 60


def test_the_catalog_has_the_papers_numbers() -> None:
    entry = catalog.operation_entry("suture-heatmap", "train")
    known = {setting["name"]: setting.get("paper") for setting in entry["settings"]}
    assert (known["rows"], known["columns"], known["rotation"], known["decoder_width"]) == (288, 512, 40.0, 16)
    assert [p["name"] for p in entry["pools"]] == ["theatre", "simulator"] and entry["pools"][1]["optional"]
    assert entry["tiers"]["paper"] == {}
    assert math.isclose(catalog.operation_entry("suture-heatmap", "apply")["settings"][1]["paper"], 1.0)
