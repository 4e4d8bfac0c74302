"""The method: its augmentation against Pillow and by hand, its frames and boxes, teacher and student, what it refuses,
and how long a frame takes."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from backend_tools import ROOT
from method_tools import a_run, as_image, configured, least_seconds, said
from torch import Tensor

from medgen import augmentation, bundle, catalog, execute, io, markups, phantoms, pictures, tables
from medgen.case import Box, Case, Image
from medgen.cohort import read_collection
from medgen.errors import Cancelled, UserError
from medgen.frames import (
    Frame,
    boxes_from,
    boxes_in,
    class_names,
    detector_model,
    fitted,
    frame_of,
    frames_of,
    weakly,
)
from medgen.jobs import Event, Run
from medgen.landmarks import tool_detection
from medgen.landmarks.tool_detection import ToolDetection, TrainConfig, learning_rate_at, make_detector
from medgen.nn.detector import Detections
from medgen.phantoms import cataract

METHOD = ToolDetection()
TRAIN, APPLY = METHOD.operation("train"), METHOD.operation("apply")
TINY: dict[str, Any] = {"short_edge": 48, "long_edge": 96, "updates": 3, "validate_every": 2, "regions": 20}


def train_config(tier: str = "smoke", **settings: Any) -> TrainConfig:
    return configured(TrainConfig, TRAIN, tier, {**TINY, **settings} if tier == "smoke" else settings)


def frame(seed: int = 0, labelled: bool = True, split: str = "") -> Frame:
    """A small frame with a bright thing in it."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 80, (3, 48, 80)).astype(np.uint8)
    x, y = int(rng.integers(5, 40)), int(rng.integers(5, 25))
    pixels[:, y : y + 16, x : x + 24] = 220
    boxes, classes = torch.tensor([[x, y, x + 24, y + 16]]).float(), torch.tensor([seed % 2])
    if not labelled:
        boxes, classes = boxes[:0], classes[:0]
    return Frame(torch.from_numpy(pixels), boxes, classes, labelled, split)


FRAMES = [*(frame(seed) for seed in range(3)), frame(3, split="validation"), *(frame(n, False) for n in range(4, 8))]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small frames of the phantom, some of them with boxes."""
    folder = tmp_path_factory.mktemp("frames") / "cohort"
    return phantoms.write(phantoms.PHANTOMS["cataract-frame"], 10, 3, folder, size=(96, 54))


# --- strong augmentation


def as_picture(pixels: Tensor) -> Any:
    from PIL import Image as Pillow

    return Pillow.fromarray(pixels.permute(1, 2, 0).round().byte().numpy())


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", ["autocontrast", "equalized", "solarized", "saturated", "contrasted", "brightened",
                                  "sharpened", "posterized"])  # fmt: skip
def test_changes_of_colour_are_those_of_pillow(name: str, strength: float) -> None:
    from PIL import ImageEnhance, ImageOps

    pixels = torch.from_numpy(np.random.default_rng(1).integers(30, 200, (3, 40, 50))).float()
    shown, factor = as_picture(pixels), 0.1 + 1.8 * strength
    theirs = {
        "autocontrast": lambda: ImageOps.autocontrast(shown),
        "equalized": lambda: ImageOps.equalize(shown),
        "solarized": lambda: ImageOps.solarize(shown, 256 * (1 - strength)),
        "saturated": lambda: ImageEnhance.Color(shown).enhance(factor),
        "contrasted": lambda: ImageEnhance.Contrast(shown).enhance(factor),
        "brightened": lambda: ImageEnhance.Brightness(shown).enhance(factor),
        "sharpened": lambda: ImageEnhance.Sharpness(shown).enhance(factor),
        "posterized": lambda: ImageOps.posterize(shown, 8 - round(4 * strength)),
    }[name]()
    found = getattr(augmentation, name)(pixels, strength)
    inner = slice(1, -1)  # Pillow does not smooth the outermost pixels
    apart = (found - torch.from_numpy(np.array(theirs)).permute(2, 0, 1).float()).abs()[:, inner, inner]
    assert float(apart.max()) <= 2.0  # it rounds on the way
    assert float(found.min()) >= 0 and float(found.max()) <= 255


@pytest.mark.parametrize("seed", range(12))
def test_boxes_move_with_what_they_hold(seed: int) -> None:
    pixels = torch.zeros(3, 60, 90)
    pixels[:, 20:40, 30:60] = 250.0
    matrix = augmentation.random_affine(np.random.default_rng(seed), 0.1, 30.0, (60, 90))
    moved, boxes, kept = augmentation.transformed(pixels, torch.tensor([[30.0, 20, 60, 40]]), matrix)
    rows, columns = np.nonzero((moved[0] > 190).numpy())
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert kept.tolist() == [0]
    np.testing.assert_allclose(boxes[0], seen, atol=2.5)


def test_a_shift_of_whole_pixels_moves_them_and_leaves_grey_behind() -> None:
    pixels = torch.from_numpy(np.random.default_rng(2).uniform(0, 255, (3, 20, 30))).float()
    moved = augmentation.warped(pixels, np.array([[1.0, 0, 4], [0, 1.0, -3]]))
    torch.testing.assert_close(moved[:, :-3, 4:], pixels[:, 3:, :-4], atol=1e-2, rtol=0)
    assert torch.allclose(moved[:, :, :3], torch.full((3, 20, 3), augmentation.FILL))


def test_a_frame_that_would_lose_its_last_box_comes_back_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.rand(3, 40, 40) * 255
    away = np.array([[1.0, 0, 500], [0, 1.0, 0]])
    monkeypatch.setattr(augmentation, "random_affine", lambda *given: away)
    monkeypatch.setattr(augmentation, "within_box", lambda frame, box, rng: pytest.fail("not here"))
    rng = next(rng for rng in map(np.random.default_rng, range(99)) if _takes_the_whole(rng))
    same, boxes, kept = augmentation.strongly(pixels, torch.tensor([[5.0, 5, 20, 20]]), rng)
    assert torch.equal(same, pixels) and boxes.tolist() == [[5, 5, 20, 20]] and kept.tolist() == [0]


def _takes_the_whole(rng: np.random.Generator) -> bool:
    """Whether this generator's next frame is moved as a whole (looked at in a copy)."""
    copy = np.random.default_rng()
    copy.bit_generator.state = rng.bit_generator.state
    copy.integers(9), copy.integers(1, 11)
    return bool(copy.uniform() >= 0.5)


def test_what_moves_within_a_box_stays_in_it() -> None:
    pixels = torch.rand(3, 40, 60) * 255
    found = augmentation.within_box(pixels, torch.tensor([10.0, 5, 40, 30]), np.random.default_rng(3))
    changed = (found != pixels).any(dim=0)
    assert bool(changed[5:30, 10:40].any())
    changed[5:30, 10:40] = False
    assert not bool(changed.any())


def test_cutout_covers_one_to_five_squares_of_a_fifth_at_most() -> None:
    shares = []
    for seed in range(40):
        found = augmentation.cut_out(torch.zeros(3, 100, 160), np.random.default_rng(seed))
        shares.append(float((found[0] == augmentation.FILL).float().sum()) / 100**2)
    assert 0 < np.mean(shares) < 0.1 and max(shares) <= 5 * 0.2**2


# --- frames and boxes


def slice_of(affine: np.ndarray) -> Image:
    return Image(torch.rand(1, 60, 40), affine, "slice")


def test_boxes_go_to_pixels_and_back_wherever_the_picture_lies() -> None:
    oblique = np.eye(4)
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1.0]])  # left-handed
    oblique[:3, :3], oblique[:3, 3] = turn * (0.5, 0.25, 3.0), (10.0, -20.0, 5.0)
    for affine in (np.diag([-1.0, -1.0, 1.0, 1.0]), oblique):
        image, places = slice_of(affine), np.array([[3.0, 4, 20, 30], [0, 0, 60, 40]])
        made = boxes_from(places, ["a", "b"], [0.5, 1.0], image)
        np.testing.assert_allclose(boxes_in(image, made), places, atol=1e-9)
        assert all(np.linalg.det(box.axes) == pytest.approx(1) for box in made)
    first = boxes_from(np.array([[2.0, 3, 3, 4]]), ["pixel"], [1.0], slice_of(np.diag([-1.0, -1, 1, 1])))[0]
    assert first.centre.tolist() == [-2.0, -3.0, 0.0]  # the middle of pixel (2, 3), RAS
    assert first.size.tolist() == [1.0, 1.0, 1.0]


def test_the_phantoms_boxes_hold_its_tools() -> None:
    """A frame with and without its tool differs inside the box, up to a shadow and the blur, and nowhere else."""
    made = cataract.make(5, size=(192, 108), most_tools=1, noise=0.0)
    bare = cataract.make(5, size=(192, 108), most_tools=0, noise=0.0)
    item = made["boxes"]["markups"][0]
    with_tool, without = (sitk.GetArrayFromImage(one["image"]).astype(int) for one in (made, bare))
    rows, columns = np.nonzero(np.abs(with_tool - without).max(axis=2) > 60)
    (cx, cy, _), (width, height, _) = item["center"], item["size"]
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    wanted = [cx - width / 2 + 0.5, cy - height / 2 + 0.5, cx + width / 2 + 0.5, cy + height / 2 + 0.5]
    np.testing.assert_allclose(seen, wanted, atol=4.5)


def test_a_second_tool_as_slicer_names_it_is_of_the_first_ones_kind() -> None:
    names = class_names(["forceps", "forceps_1", "tool_1", "tool_2"])
    assert names == {"forceps": "forceps", "forceps_1": "forceps", "tool_1": "tool_1", "tool_2": "tool_2"}


def test_grey_and_wide_values_become_frames_and_the_log_says_so() -> None:
    told: list[str] = []
    grey = frame_of(Image(torch.tensor([[[0.0, 1000.0], [500.0, 250.0]]]), np.eye(4), "scan"), told.append)
    assert grey.shape == (3, 2, 2) and torch.equal(grey[0], grey[2])
    assert grey[0].round().tolist() == [[0, 128], [255, 64]]  # rows are j
    assert "scan" in told[0] and "0..255" in told[0]
    with pytest.raises(UserError, match="5 channels"):
        frame_of(Image(torch.rand(5, 4, 4), np.eye(4), "odd"))


def test_weak_augmentation_resizes_and_mirrors_frame_and_boxes() -> None:
    one = frame(1)
    sample = weakly(one, (24, 200), True, 7)
    assert sample.pixels.shape == (3, 24, 40)
    x1, y1, x2, y2 = (one.boxes[0] / 2).tolist()
    np.testing.assert_allclose(sample.boxes[0], [40 - x2, y1, 40 - x1, y2])
    assert fitted((540, 960), 600, 1000) == (562, 1000)


def test_frames_come_from_the_cohorts_rows_labelled_or_not(cohort: Path, tmp_path: Path) -> None:
    rows = read_collection(cohort, TRAIN).rows()
    assert sum(not row.labelled for row in rows) > 0
    cases = [
        Case({"image": io.read_image(Path(row.files["image"][0]), tool_detection._IMAGE)}, row.columns())
        for row in rows
    ]
    for case, row in zip(cases, rows, strict=True):
        if row.labelled:
            case.values["boxes"] = markups.read(Path(row.files["boxes"][0]), tool_detection._BOXES)
    frames, classes = frames_of(cases, 27, 48, a_run(tmp_path))
    assert len(frames) == sum(row.split != "test" for row in rows)
    assert frames[0].pixels.shape == (3, 27, 48) and frames[0].pixels.dtype == torch.uint8
    assert set(classes) <= set(cataract.TOOLS) and classes == sorted(classes)
    assert all(not len(one.boxes) for one in frames if not one.labelled)


def test_a_row_that_is_not_labelled_may_name_its_boxes_all_the_same(cohort: Path, tmp_path: Path) -> None:
    table = cohort.with_name("unlabelled.csv")
    rows = [one for one in tables.read_rows(cohort) if one["boxes"]]
    tables.write_rows([{**one, "labelled": "yes" if number < 4 else "no"} for number, one in enumerate(rows)], table)
    config = train_config(updates=1, validate_every=1)
    made = execute.perform(METHOD, TRAIN, config, a_run(tmp_path / "run"), tmp_path / "model", collection=table)
    assert bundle.load(made[0][1]).facts


# --- teacher and student


def test_the_step_size_warms_up_and_falls_twice() -> None:
    config = train_config(updates=80, warm_up=4, learning_rate=0.01)
    rates = [learning_rate_at(update, config) for update in (0, 3, 4, 29, 30, 59, 60, 79)]
    np.testing.assert_allclose(rates, [0.002, 0.008, 0.01, 0.01, 0.003, 0.003, 0.0009, 0.0009])


def test_only_confident_boxes_become_pseudo_labels_and_frames_without_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def see(network: Any, pixels: Tensor, *edges: Any, least: float) -> Detections:
        asked.append(least)
        scores = torch.tensor([0.95, 0.6]) if len(asked) % 2 else torch.tensor([0.6, 0.5])
        boxes = torch.tensor([[1.0, 2, 30, 40], [5, 5, 20, 20]])
        return Detections(boxes, torch.tensor([1, 0]), scores).above(least)

    monkeypatch.setattr(tool_detection, "look", see)
    fit = tool_detection.Fit(FRAMES[:3] + FRAMES[4:], 2, train_config(confidence=0.9), a_run(tmp_path))
    fit.label()
    kept = fit.pseudo.labelled(fit.unlabelled)
    assert asked == [0.9] * 4 and len(kept) == 2
    assert kept[0].boxes.tolist() == [[1, 2, 30, 40]] and kept[0].classes.tolist() == [1]
    assert torch.equal(kept[1].pixels, fit.unlabelled[2].pixels)


def test_the_student_starts_as_the_teacher_did_and_learns_from_both_kinds_of_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, events = train_config(), []
    fit = tool_detection.Fit(FRAMES, 2, config, a_run(tmp_path, events))
    first, second = (fit.networks[name].state_dict() for name in ("teacher", "student"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    for number in range(4):
        fit.pseudo.keep(number, Detections(torch.tensor([[4.0, 4, 20, 20]]), torch.tensor([0]), torch.ones(1)))
    seen = []
    network = fit.networks["student"]
    plain = network.forward

    def noted(images: Tensor, targets: Any, seeds: Any, weights: Any) -> Any:
        seen.append((len(images), weights))
        return plain(images, targets, seeds, weights)

    monkeypatch.setattr(network, "forward", noted)
    fit.fit_student()
    assert seen == [(4, [1.0, 1.0, 2.0, 2.0])] * config.updates
    assert "4 boxes in 4 of 4 unlabelled frames" in said(events)
    assert fit.best["student"].weights and fit.best["student"].value >= 0


def test_without_unlabelled_frames_or_weight_the_model_is_the_teacher(tmp_path: Path) -> None:
    events: list[Event] = []
    plain = METHOD.fit(FRAMES, ["a", "b"], train_config(unlabelled_weight=0.0), a_run(tmp_path / "a", events))
    alone = METHOD.fit(FRAMES[:4], ["a", "b"], train_config(), a_run(tmp_path / "b"))
    for name, value in plain.networks["detector"].items():
        assert torch.equal(value, alone.networks["detector"][name]), name
    assert "the model is the teacher" in said(events)
    assert not [event for event in events if event.get("name", "").startswith("student")]
    assert plain.facts["frames with pseudo labels"] == 0 and plain.facts["labelled frames"] == 3


def test_a_stopped_training_goes_on_to_the_model_of_one_that_was_not(tmp_path: Path) -> None:
    config = train_config(confidence=0.0)  # so that the untrained teacher's boxes are pseudo labels
    whole = METHOD.fit(FRAMES, ["a", "b"], config, a_run(tmp_path / "whole"))
    run = a_run(tmp_path / "stopped")
    run.emit = _stopper(run, "student loss")
    with pytest.raises(Cancelled):
        METHOD.fit(FRAMES, ["a", "b"], config, run)
    again = METHOD.fit(FRAMES, ["a", "b"], config, a_run(tmp_path / "stopped", resume=True))
    for name, value in whole.networks["detector"].items():
        assert torch.equal(value, again.networks["detector"][name]), name


def _stopper(run: Run, name: str) -> Callable[[Event], None]:
    """Cancels a run at the second value of a curve."""

    def hear(event: Event) -> None:
        if event.get("name") == name and event["step"] == 1:
            run.cancel()

    return hear


# --- files to files


def test_a_model_from_files_boxes_a_frames_tools_in_its_own_pixels(cohort: Path, tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    settings = {"updates": 12, "short_edge": 54, "long_edge": 96, "batch_size": 2}
    config = TRAIN.configure("smoke", settings)
    execute.perform(METHOD, TRAIN, config, run, tmp_path / "model", collection=cohort)
    model = bundle.load(tmp_path / "model", "tool-detection")
    assert not model.patient_data and "classes" in model.facts
    image = read_collection(cohort, TRAIN).rows()[0].files["image"]
    any_score = APPLY.configure("smoke", {"confidence": 0.0, "most": 5})
    files = [{"image": image}]
    execute.perform(METHOD, APPLY, any_score, run, tmp_path / "any.mrk.json", files=files, model=model)
    found = markups.read(tmp_path / "any.mrk.json", tool_detection._FOUND)
    assert 0 < len(found) <= 5 * len(model.settings["classes"])
    assert all(box.name in cataract.TOOLS and box.confidence is not None for box in found)
    places = boxes_in(io.read_image(Path(image[0])), found)
    assert places.min() >= 0 and places[:, 2].max() <= 96 and places[:, 3].max() <= 54
    never = APPLY.configure("smoke", {"confidence": 1.0})
    execute.perform(METHOD, APPLY, never, run, tmp_path / "none.mrk.json", files=files, model=model)
    assert json.loads((tmp_path / "none.mrk.json").read_text("utf-8"))["markups"] == []
    assert markups.read(tmp_path / "none.mrk.json", tool_detection._FOUND) == []
    estimate = METHOD.estimate(APPLY, [Case({"image": io.read_image(Path(image[0]))})], any_score, run, model)
    assert 0 < estimate.seconds < 60


def a_case(boxes: list[Box]) -> Case:
    return Case({"image": Image(torch.rand(3, 60, 40), np.diag([-1.0, -1, 1, 1])), "boxes": boxes})


def test_measures_of_a_frame_are_those_that_can_be_counted() -> None:
    image = a_case([])["image"]
    truth = a_case(boxes_from(np.array([[0.0, 0, 10, 10], [20, 20, 40, 30]]), ["knife", "forceps"], [1, 1], image))
    found = a_case(boxes_from(np.array([[0.0, 0, 10, 10], [2, 22, 9, 29]]), ["knife", "forceps_1"], [0.9, 0.8], image))
    assert METHOD.measure(found, truth) == pytest.approx(
        {"mAP 50:95": 0.5, "mAP 50": 0.5, "precision": 0.5, "recall": 0.5}
    )
    assert METHOD.measure(a_case([]), a_case([])) == {}
    assert METHOD.measure(found, a_case([])) == {"precision": 0.0}


@pytest.fixture(scope="module")
def untrained() -> bundle.Model:
    config = train_config(width=8)
    network = make_detector(config, 2, 0)
    settings = {"classes": ["forceps", "knife"]}
    return bundle.Model("tool-detection", {"detector": network.state_dict()}, config.model_dump(), settings, name="m")


@pytest.mark.parametrize(
    ("where", "changes", "words"),
    [
        ("settings", {"classes": []}, "record that cannot be used"),
        ("settings", {"classes": ["knife", 7]}, "record that cannot be used"),
        ("settings", {"classes": ["knife"] * 2000}, "record that cannot be used"),
        ("settings", {"classes": ["knife"]}, "weights that do not fit"),
        ("settings", {"surprise": 1}, "record that cannot be used"),
        ("config", {"width": 10**6}, "record that cannot be used"),
        ("config", {"width": 128, "head": 4096}, "weights that do not fit"),
        ("config", {"backbone": "resnet-10000"}, "record that cannot be used"),
    ],
)
def test_a_strangers_model_is_refused_before_anything_is_built_of_it(
    untrained: bundle.Model, tmp_path: Path, where: str, changes: dict[str, Any], words: str
) -> None:
    model = replace(untrained, **{where: {**getattr(untrained, where), **changes}})
    with pytest.raises(UserError, match=words):
        METHOD.apply(a_case([]), APPLY.configure(None, {}), a_run(tmp_path), model)
    with pytest.raises(UserError, match="lacks the network"):
        METHOD.apply(a_case([]), APPLY.configure(None, {}), a_run(tmp_path), replace(untrained, networks={}))


def test_bad_input_is_refused_in_a_sentence(tmp_path: Path) -> None:
    run, config = a_run(tmp_path), train_config()
    image = a_case([])["image"]
    outside = Case(
        {"image": image, "boxes": [Box(np.array([200.0, 0, 0]), np.eye(3), np.ones(3), "knife")]}, label="line 2"
    )
    with pytest.raises(UserError, match=r"“knife” of line 2 lies outside its image \(60 x 40 px\)"):
        frames_of([outside], 48, 96, run)
    flat = Case({"image": image, "boxes": [Box(np.array([-9.0, -9, 0]), np.eye(3), np.array([5.0, 0, 1]), "knife")]})
    with pytest.raises(UserError, match="no extent"):
        frames_of([flat], 48, 96, run)
    with pytest.raises(UserError, match="No labelled training frame"):
        METHOD.estimate(
            TRAIN, [Case({"image": image, "boxes": []}), Case({"image": image}, {"labelled": "no"})], config, run
        )
    with pytest.raises(UserError, match="nowhere.pth does not exist"):
        make_detector(train_config(imagenet_weights="nowhere.pth", width=64, backbone="resnet-50"), 2, 0)
    (tmp_path / "lie.pth").write_bytes(b"not weights")
    with pytest.raises(UserError, match="lie.pth is not a readable file of weights"):
        make_detector(train_config(imagenet_weights=str(tmp_path / "lie.pth")), 2, 0)


@pytest.mark.alone
def test_a_frame_of_512_by_288_is_looked_at_within_half_a_second(tmp_path: Path) -> None:
    """Of a processor's time, with a network of the demo tier at that size and all of 300 regions."""
    config = train_config("demo", short_edge=288, long_edge=512)
    weights, classes = make_detector(config, 12, 0).state_dict(), [f"tool {number}" for number in range(12)]
    ready = detector_model(METHOD.slug, weights, config, classes, {})
    frame, run = Case({"image": as_image(cataract.make(1)["image"])}), a_run(tmp_path)
    every = APPLY.configure("demo", {"confidence": 0.01, "regions": 300})
    assert len(METHOD.apply(frame, every, run, ready)["boxes"]) == 100
    assert least_seconds(lambda: METHOD.apply(frame, every, run, ready)) <= 0.5


def test_a_training_is_estimated_by_an_update_of_the_real_network(tmp_path: Path) -> None:
    case = a_case(boxes_from(np.array([[5.0, 5, 20, 20]]), ["knife"], [1.0], a_case([])["image"]))
    bare = Case({"image": case["image"]}, {"labelled": "no"})
    short = METHOD.estimate(TRAIN, [case], train_config(updates=100), a_run(tmp_path))
    both = METHOD.estimate(TRAIN, [case, bare], train_config(updates=1000), a_run(tmp_path))
    assert 5 < short.seconds < both.seconds
    assert short.memory_bytes > 2**29 and math.isfinite(both.seconds)


def test_the_catalog_offers_it_among_the_boxes() -> None:
    entry = catalog.entry("tool-detection")
    assert (entry["module"], entry["group"]) == ("MedGenLandmarks", "Boxes")
    assert (ROOT / "Testing/Claims/registrations/tool-detection.toml").is_file()


def test_a_quarter_of_the_phantoms_training_frames_come_with_boxes_and_a_file_without_boxes_is_none(
    cohort: Path, tmp_path: Path
) -> None:
    with cohort.open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    train = [row for row in rows if row["split"] == "train"]
    assert sum(row["labelled"] == "yes" for row in train) == round(len(train) / 4)
    assert all(bool(row["boxes"]) == (row["labelled"] == "yes") for row in rows)
    assert all(row["labelled"] == "yes" for row in rows if row["split"] != "train")
    assert {Path(row["image"]).suffix for row in rows} == {".png"}
    (tmp_path / "none.mrk.json").write_text('{"markups": []}')
    assert markups.read(tmp_path / "none.mrk.json", tool_detection._BOXES) == []
    with pytest.raises(UserError, match="holds nothing"):
        markups.read(tmp_path / "none.mrk.json", replace(tool_detection._BOXES, may_be_empty=False))


def test_a_picture_shows_found_and_true_boxes_where_they_lie(tmp_path: Path) -> None:
    image = Image(torch.full((3, 60, 40), 100.0), np.diag([-1.0, -1, 1, 1]), colour=True)
    image.data[:, 0, 0] = 0
    found = boxes_from(np.array([[30.0, 5, 55, 20]]), ["knife"], [0.9], image)
    true = boxes_from(np.array([[5.0, 25, 25, 38]]), ["knife"], [1.0], image)
    pictures.boxes(image, found, true, tmp_path / "p.png", "title")
    shown = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.png")))[..., :3].astype(int)
    shown = shown[-round(shown.shape[1] * 40 / 60) :]  # without the title
    scale = shown.shape[1] / 60
    orange = np.abs(shown - [255, 154, 46]).sum(axis=2) < 40
    green = np.abs(shown - [63, 220, 107]).sum(axis=2) < 40
    for colour, (x1, y1, x2, y2) in ((orange, (30, 5, 55, 20)), (green, (5, 25, 25, 38))):
        rows, columns = np.nonzero(colour)
        seen = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) / scale
        np.testing.assert_allclose(seen, [x1, y1, x2, y2], atol=1.0)
