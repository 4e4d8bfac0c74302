"""The method: its losses in closed form, the simulator by what it must keep, training, files, and what it refuses."""

from __future__ import annotations

import csv
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
from method_tools import a_run, as_image, configured, least_seconds

from medgen import bundle, catalog, execute, io, markups, phantoms
from medgen.case import Box, Case, Class, Image
from medgen.errors import Cancelled, UserError
from medgen.frames import Frame, boxes_from, detector_model, frame_of, look
from medgen.jobs import Event
from medgen.landmarks import compound_figures
from medgen.landmarks.compound_figures import CompoundFigures, TrainConfig, boxed, make_network, side_loss, total_loss
from medgen.nn import one_stage
from medgen.nn.detector import Targets
from medgen.nn.one_stage import complete_iou, losses_of, matched
from medgen.phantoms import figures
from medgen.simulatedfigures import Single, simulated, singles_of

METHOD = CompoundFigures()
TRAIN, APPLY, CUT = (METHOD.operation(name) for name in ("train", "apply", "cut-out"))
REAL = ROOT.parent / "shared" / "data" / "compound_figures_totalseg"
PLAIN = np.diag([-1.0, -1.0, 1.0, 1.0])


def train_config(**settings: Any) -> TrainConfig:
    return configured(TrainConfig, TRAIN, "smoke", {"size": 96, "updates": 3, "validate_every": 2, **settings})


def single(kind: int, size: tuple[int, int], value: int | None = None) -> Single:
    """A picture of one grey; by its value it can be told where it went."""
    return Single(torch.full((3, *size), 40 * kind + 20 if value is None else value, dtype=torch.uint8), kind)


SINGLES = [single(kind, size) for kind in range(3) for size in ((60, 40), (50, 80), (40, 40))]


# --- losses


def test_the_side_loss_is_0_within_the_true_box_and_grows_by_what_lies_beyond_each_side() -> None:
    true = torch.tensor([[10.0, 20.0, 50.0, 60.0]])
    for sides, wanted in (
        ((12, 25, 45, 55), 0.0),
        ((10, 20, 50, 60), 0.0),
        ((7, 20, 50, 60), 3.0),
        ((12, 16, 45, 60), 4.0),
        ((12, 22, 55.5, 58), 5.5),
        ((12, 22, 40, 66), 6.0),
        ((7, 16, 55.5, 66), 18.5),
    ):
        found = torch.tensor([sides], dtype=torch.float32, requires_grad=True)
        loss = side_loss(found, true)
        assert loss.tolist() == [wanted]
        (slope,) = torch.autograd.grad(loss.sum(), found)
        beyond = (found.detach() - true)[0] * torch.tensor([-1.0, -1, 1, 1]) > 0
        assert slope[0].tolist() == [(-1 if side < 2 else 1) * int(beyond[side]) for side in range(4)]


def test_two_boxes_of_equal_iou_differ_in_side_loss() -> None:
    """Figure 4: one too small and one too large; IoU alone cannot tell which holds pixels of the neighbours."""
    true = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    small, large = torch.tensor([[0.0, 0, 100, 80]]), torch.tensor([[0.0, 0, 100, 125]])
    from medgen.nn.boxes import iou

    assert float(iou(small, true)) == pytest.approx(float(iou(large, true))) == pytest.approx(0.8)
    assert side_loss(small, true).item() == 0 and side_loss(large, true).item() == 25


def test_complete_iou_is_its_formula() -> None:
    true = torch.tensor([[0.0, 0.0, 4.0, 2.0]])
    assert complete_iou(true, true).item() == pytest.approx(1, abs=1e-5)
    apart = torch.tensor([[6.0, 0.0, 10.0, 2.0]])  # as long and as wide, 6 away; around both 10 x 2
    assert complete_iou(apart, true).item() == pytest.approx(-36 / 104, abs=1e-5)
    turned = torch.tensor([[1.0, -1.0, 3.0, 3.0]])  # the same middle, on its side: 2 x 2 of 12 shared
    unlike = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    share = 1 / 3
    assert complete_iou(turned, true).item() == pytest.approx(share - unlike**2 / (1 - share + unlike), abs=1e-5)


def test_the_total_is_the_papers_sum_and_without_a_weight_the_side_loss_is_not_in_it() -> None:
    found, true = torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([[1.0, 1, 5, 4]])  # beyond by 1, 1, 0, 1
    parts = one_stage.Losses(torch.tensor(0.4), torch.tensor(0.2), torch.tensor(0.6), [found, found], [true, true])
    config = train_config(size=320, side_weight=0.1, box_weight=0.5, object_weight=2.0, class_weight=8.0)
    total, side = total_loss(parts, config, 20, 3)
    assert side.item() == 6
    assert total.item() == pytest.approx(3 * (0.5 * 0.4 + 2 * 0.25 * 0.2 + 8 * 20 / 80 * 0.6 + 0.05 * 6))
    without = total_loss(parts, config.model_copy(update={"side_weight": 0.0}), 20, 3)[0]
    assert (total - without).item() == pytest.approx(3 * 0.05 * 6)
    assert TrainConfig.model_validate({}).side_weight == pytest.approx(1 / 30)


def test_a_box_is_learnt_by_anchors_of_its_size_in_its_cell_and_the_two_next_to_it() -> None:
    """By hand: 16 px cells, a box about (72, 40): cell (4, 2), its middle; nearer ones are at the right and below."""
    boxes = torch.tensor([[56.0, 24.0, 90.0, 58.0], [0.0, 0.0, 400.0, 20.0]])
    target = Targets(boxes, torch.tensor([1, 0]), (96, 128))
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), (96, 128))
    sizes = torch.tensor([[16.0, 16.0], [136.0, 34.0], [140.0, 34.0]])  # 34 px: 2.1, exactly 4, more than 4 times
    match = matched([nothing, target], sizes, 16, (6, 8))
    figure, anchor, row, column = match.place
    assert figure.tolist() == [1] * 3 and anchor.tolist() == [0] * 3
    assert sorted(zip(column.tolist(), row.tolist(), strict=True)) == [(4, 2), (4, 3), (5, 2)]
    assert match.classes.tolist() == [1] * 3
    torch.testing.assert_close(match.boxes, (boxes[:1] / 16).expand(3, 4))
    edge = Targets(torch.tensor([[0.0, 0, 14, 14]]), torch.tensor([0]), (96, 128))
    *_, row, column = matched([edge], sizes[:1], 16, (6, 8)).place
    assert sorted(zip(column.tolist(), row.tolist(), strict=True)) == [(0, 0)]  # beside it there is nothing


def test_losses_of_what_is_found_exactly_are_near_0() -> None:
    config = train_config(anchor_stretch=0)
    network = make_network(config, 2, 0)
    target = Targets(torch.tensor([[20.0, 12.0, 44.0, 36.0]]), torch.tensor([1]), (96, 96))
    given = []
    for level, (stride, sizes) in enumerate(zip(one_stage.STRIDES, network.sizes, strict=True)):
        layer = torch.full((1, 1, 96 // stride, 96 // stride, 7), -20.0)
        match = matched([target], sizes, stride, (96 // stride, 96 // stride))
        _, anchor, row, column = match.place
        cells = torch.stack((column, row), dim=1)
        middle = (match.boxes[:, :2] + match.boxes[:, 2:]) / 2 - cells
        size = (match.boxes[:, 2:] - match.boxes[:, :2]) / (sizes[anchor] / stride)
        layer[match.place] = torch.cat(
            (((middle + 0.5) / 2).clamp(1e-6, 1 - 1e-6).logit(), (size.sqrt() / 2).logit(),
             torch.full((len(cells), 1), 20.0), torch.tensor([[-20.0, 20.0]]).expand(len(cells), 2)), dim=1
        )  # fmt: skip
        assert len(cells) or level
        given.append(layer)
    losses = losses_of(network, given, [target])
    assert max(losses.box.item(), losses.objects.item(), losses.classes.item()) < 1e-4
    assert total_loss(losses, config, 2, 1)[1].item() < 1e-3
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), (96, 96))
    empty = losses_of(network, network(torch.rand(1, 3, 96, 96) * 255), [nothing])
    assert empty.box.item() == empty.classes.item() == 0 and empty.objects.item() > 0


# --- the simulator


@pytest.mark.parametrize("seed", range(25))
def test_simulated_panels_keep_their_proportions_lie_in_rows_or_columns_and_do_not_overlap(seed: int) -> None:
    """Each single image has one grey and proportions of its own."""
    singles = [single(number % 3, size, 20 + 10 * number) for number, size in enumerate(((60, 40), (50, 80), (90, 90)))]
    figure = simulated(singles, train_config(size=256, alone=0.0), np.random.default_rng(seed))
    assert len(figure.boxes) == len(figure.classes) > 0
    shown = figure.pixels.numpy()
    painted = np.zeros(shown.shape[1:], int)
    for (x1, y1, x2, y2), kind in zip(figure.boxes.int().tolist(), figure.classes.tolist(), strict=True):
        own = singles[kind]
        assert (shown[:, y1:y2, x1:x2] == own.pixels[0, 0, 0].item()).all()
        rows, columns = own.pixels.shape[1:]
        assert abs((x2 - x1) - (y2 - y1) * columns / rows) <= 0.5 + max(1, columns / rows)
        painted[y1:y2, x1:x2] += 1
    assert painted.max() == 1
    starts = [set(figure.boxes[:, axis].tolist()) for axis in (0, 1)]
    assert min(len(one) for one in starts) <= 4  # rows or columns, four at the most


def test_intra_class_figures_hold_one_class_and_figures_alone_one_image() -> None:
    one_class = [
        simulated(SINGLES, train_config(intra_class=1.0, alone=0.0), np.random.default_rng(n)) for n in range(12)
    ]
    assert all(len(set(one.classes.tolist())) == 1 for one in one_class)
    assert len({int(one.classes[0]) for one in one_class}) > 1
    alone = [simulated(SINGLES, train_config(intra_class=0.0, alone=1.0), np.random.default_rng(n)) for n in range(6)]
    assert all(len(one.boxes) == 1 for one in alone)
    mixed = [
        simulated(SINGLES, train_config(intra_class=0, alone=0, strips=4), np.random.default_rng(n)) for n in range(9)
    ]
    assert any(len(set(one.classes.tolist())) > 1 for one in mixed)


def test_single_images_are_what_lies_in_the_boxes() -> None:
    figure = simulated(SINGLES, train_config(size=200, alone=0.0), np.random.default_rng(3))
    figure.boxes = torch.cat((figure.boxes, torch.tensor([[0.0, 0, 1, 30]])))  # too thin to be one
    figure.classes = torch.cat((figure.classes, torch.tensor([0])))
    parts = singles_of([figure])
    assert len(parts) == len(figure.boxes) - 1
    assert all((part.pixels == 40 * part.kind + 20).all() for part in parts)


# --- training


def test_pictures_that_are_not_labelled_are_neither_learnt_as_empty_nor_measured(tmp_path: Path) -> None:
    unknown = [replace(one, labelled=False, boxes=one.boxes[:0], classes=one.classes[:0]) for one in pictures_of()]
    fit = compound_figures.Fit([*pictures_of(), *unknown], 3, train_config(learn_from="boxes"), a_run(tmp_path))
    assert len(fit.figures) == 6 and len(fit.validation) == 1
    thin = [replace(one, boxes=torch.tensor([[0.0, 0, 1, 1]]), classes=one.classes[:1]) for one in pictures_of()]
    with pytest.raises(UserError, match="No box of the training pictures is 2 pixels wide"):
        compound_figures.Fit(thin, 3, train_config(), a_run(tmp_path / "thin"))


def pictures_of(count: int = 6) -> list[Frame]:
    """Single images as frames, one box around each, and a figure to validate on."""
    singles = [
        Frame(
            one.pixels,
            torch.tensor([[0.0, 0, one.pixels.shape[2], one.pixels.shape[1]]]),
            torch.tensor([one.kind]),
            True,
        )
        for one in SINGLES[:count]
    ]
    figure = simulated(SINGLES, train_config(size=96), np.random.default_rng(1))
    return [*singles, replace(figure, split="validation")]


def test_it_learns_to_part_simulated_figures(tmp_path: Path) -> None:
    options = {"updates": 30, "width": 8, "size": 64, "smallest_anchor": 12, "batch_size": 4, "strips": 2}
    config = train_config(**options, warm_up=0, learning_rate=3e-3)
    events: list[Event] = []
    METHOD.fit(pictures_of(9), ["a", "b", "c"], config, a_run(tmp_path, events))
    curve = [event["value"] for event in events if event.get("name") == "loss"]
    assert np.mean(curve[-5:]) < 0.8 * np.mean(curve[:5])
    assert any(event.get("name") == "side loss" and event["value"] > 0 for event in events)


def test_a_stopped_training_goes_on_to_the_model_of_one_that_was_not(tmp_path: Path) -> None:
    config = train_config(updates=4)
    whole = METHOD.fit(pictures_of(), ["a", "b", "c"], config, a_run(tmp_path / "whole"))
    run = a_run(tmp_path / "stopped")

    def stop(event: Event) -> None:
        if event.get("name") == "loss" and event["step"] == 1:
            run.cancel()

    run.emit = stop
    with pytest.raises(Cancelled):
        METHOD.fit(pictures_of(), ["a", "b", "c"], config, run)
    again = METHOD.fit(pictures_of(), ["a", "b", "c"], config, a_run(tmp_path / "stopped", resume=True))
    for name, value in whole.networks["detector"].items():
        assert torch.equal(value, again.networks["detector"][name]), name


def test_boxes_by_hand_are_learnt_from_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compound_figures, "simulated", lambda *given: pytest.fail("nothing is to be simulated"))
    seen: list[Frame] = []
    resized = compound_figures.weakly
    monkeypatch.setattr(compound_figures, "weakly", lambda figure, *rest: seen.append(figure) or resized(figure, *rest))
    pictures, config = pictures_of(), train_config(learn_from="boxes", updates=2, batch_size=4)
    METHOD.fit(pictures, ["a", "b", "c"], config, a_run(tmp_path))
    assert len(seen) == 8 and all(any(one is other for other in pictures[:-1]) for one in seen)


# --- files to files


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures of the phantom with boxes, and single images that a column calls by their class."""
    folder = tmp_path_factory.mktemp("figures")
    table = phantoms.write(phantoms.PHANTOMS["compound-figure"], 4, 3, folder / "cohort", size=(128, 96))
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    rng = np.random.default_rng(4)
    for number, name in enumerate(figures.KINDS):
        picture = np.rint(255 * figures.single(name, (50, 40), rng)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(table.with_name(f"single{number}.png")))
        rows.append({"image": f"single{number}.png", "subject": f"s{number}", "split": "train", "kind": name})
    io.write_rows(rows, table.with_name("all.csv"))
    return table.with_name("all.csv")


def test_a_model_from_files_boxes_a_figures_panels_and_they_are_cut_out_as_pictures(
    cohort: Path, tmp_path: Path
) -> None:
    run = a_run(tmp_path / "run")
    execute.perform(METHOD, TRAIN, train_config(), run, tmp_path / "model", collection=cohort)
    model = bundle.load(tmp_path / "model", "compound-figures")
    assert model.settings["classes"] == sorted(figures.KINDS) and not model.patient_data
    image = str(cohort.with_name("compound-figure-001_image.png"))
    any_score = APPLY.configure(None, {"confidence": 0.0, "most": 5})
    execute.perform(METHOD, APPLY, any_score, run, tmp_path / "p.mrk.json", files=[{"image": [image]}], model=model)
    found = markups.read(tmp_path / "p.mrk.json", compound_figures._FOUND)
    assert 0 < len(found) <= 5 and all(box.name in figures.KINDS and box.confidence is not None for box in found)
    files = [{"image": [image], "boxes": [str(tmp_path / "p.mrk.json")]}]
    execute.perform(METHOD, CUT, CUT.configure(None, {}), run, tmp_path / "cut", files=files)
    assert len(list((tmp_path / "cut" / "panels").glob("panels_*.png"))) == len(found)
    never = APPLY.configure(None, {"confidence": 1.0})
    execute.perform(METHOD, APPLY, never, run, tmp_path / "n.mrk.json", files=[{"image": [image]}], model=model)
    assert json.loads((tmp_path / "n.mrk.json").read_text("utf-8"))["markups"] == []
    files = [{"image": [image], "boxes": [str(tmp_path / "n.mrk.json")]}]
    execute.perform(METHOD, CUT, CUT.configure(None, {}), run, tmp_path / "none", files=files)
    assert [path.name for path in (tmp_path / "none" / "panels").iterdir()] == ["provenance.json"]


def a_case(places: list[list[float]], names: list[str] | None = None, affine: np.ndarray = PLAIN) -> Case:
    rng = np.random.default_rng(1)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, 60, 40)).astype(np.float32))
    image = Image(pixels, affine, "figure", colour=True)
    boxes = boxes_from(np.array(places, float).reshape(-1, 4), names or ["a"] * len(places), [1.0] * len(places), image)
    return Case({"image": image, "boxes": boxes})


def test_panels_are_the_pixels_of_their_boxes_where_they_lie(tmp_path: Path) -> None:
    oblique = np.eye(4)
    oblique[:3, :3], oblique[:3, 3] = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]]) * (0.5, 0.5, 3), (9, -7, 2)
    for affine in (PLAIN, oblique):
        case = a_case([[10, 5, 30, 25], [0, 0, 60, 40]], ["left", "all"], affine)
        panels = METHOD.cut_out(case, CUT.configure(None, {}), a_run(tmp_path)).many("panels")  # type: ignore[arg-type]
        assert torch.equal(panels[0].data, case["image"].data[:, 10:30, 5:25]) and panels[0].name == "left"
        assert torch.equal(panels[1].data, case["image"].data)
        corner = panels[0].affine @ [0, 0, 0, 1]
        np.testing.assert_allclose(corner, affine @ [10, 5, 0, 1])
        assert io.ending_of(panels[0], CUT.outputs[0].kind) == (".png" if affine is PLAIN else ".nii.gz")
    inset = METHOD.cut_out(case, CUT.configure(None, {"inset": 3.0}), a_run(tmp_path)).many("panels")  # type: ignore[arg-type]
    assert inset[0].shape == (14, 14)


def test_cut_panels_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = a_case([[0, 0, 20, 20], [30, 10, 60, 40]])
    io.write(case["image"], CUT.inputs[0].kind, tmp_path / "i.png")
    io.write(case["boxes"], CUT.inputs[1].kind, tmp_path / "b.mrk.json")
    files = [{"image": [str(tmp_path / "i.png")], "boxes": [str(tmp_path / "b.mrk.json")]}]
    plain, count = io.write, [0]

    def full(value: Any, kind: Any, path: Path) -> None:
        count[0] += 1
        if count[0] == 2:
            raise UserError("The disk is full.")
        plain(value, kind, path)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="full"):
        patch.setattr(io, "write", full)
        execute.perform(METHOD, CUT, CUT.configure(None, {}), a_run(tmp_path / "r"), tmp_path / "cut", files=files)
    assert not (tmp_path / "cut").exists() or not list((tmp_path / "cut").iterdir())
    execute.perform(METHOD, CUT, CUT.configure(None, {}), a_run(tmp_path / "r"), tmp_path / "cut", files=files)
    seen = [sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "cut/panels" / name))) for name in
            ("panels_001.png", "panels_002.png")]  # fmt: skip
    assert [one.shape for one in seen] == [(20, 20, 3), (30, 30, 3)]
    with pytest.raises(UserError, match="exists already"):
        execute.perform(METHOD, CUT, CUT.configure(None, {}), a_run(tmp_path / "r"), tmp_path / "cut", files=files)


def test_bad_input_is_refused_in_a_sentence(tmp_path: Path) -> None:
    run, image = a_run(tmp_path), a_case([])["image"]
    outside = Case(
        {"image": image, "boxes": [Box(np.array([200.0, 0, 0]), np.eye(3), np.ones(3), "p")]}, label="line 2"
    )
    with pytest.raises(UserError, match=r"“p” of line 2 lies outside its image \(60 x 40 px\)"):
        METHOD.cut_out(outside, CUT.configure(None, {}), run)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="outside its image"):
        METHOD.estimate(CUT, [outside], CUT.configure(None, {}), run)
    with pytest.raises(UserError, match="holds no whole pixel"):
        METHOD.cut_out(a_case([[5, 5, 9, 9]]), CUT.configure(None, {"inset": 2.0}), run)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="together 1 at the most"):
        train_config(intra_class=0.8, alone=0.3)
    with pytest.raises(UserError, match="line 3 has neither boxes nor a class"):
        boxed(Case({"image": image}, label="line 3"))
    with pytest.raises(UserError, match="No labelled training frame has a box"):
        METHOD.estimate(TRAIN, [a_case([])], train_config(), run)
    around = boxed(Case({"image": image, "kind": Class("chart")})).many("boxes")
    assert [box.name for box in around] == ["chart"] and around[0].size.tolist() == [60, 40, 1]


@pytest.mark.parametrize(
    ("where", "changes", "words"),
    [
        ("settings", {"classes": []}, "record that cannot be used"),
        ("settings", {"classes": ["a", ""]}, "record that cannot be used"),
        ("settings", {"classes": ["a"]}, "weights that do not fit"),
        ("config", {"pyramid": 10**9}, "record that cannot be used"),
        ("config", {"width": 128}, "weights that do not fit"),
    ],
)
def test_a_strangers_model_is_refused_before_anything_is_built_of_it(
    tmp_path: Path, where: str, changes: dict[str, Any], words: str
) -> None:
    config = train_config()
    model = bundle.Model(
        "compound-figures", {"detector": make_network(config, 2, 0).state_dict()}, config.model_dump(),
        {"classes": ["a", "b"]}, name="m",
    )  # fmt: skip
    apply = APPLY.configure(None, {})
    assert METHOD.apply(a_case([]), apply, a_run(tmp_path), model).many("boxes") == []  # type: ignore[arg-type]
    with pytest.raises(UserError, match=words):
        changed = replace(model, **{where: {**getattr(model, where), **changes}})
        METHOD.apply(a_case([]), apply, a_run(tmp_path), changed)  # type: ignore[arg-type]


@pytest.mark.alone
def test_a_figure_of_512_by_288_is_looked_at_within_half_a_second(tmp_path: Path) -> None:
    """Of a processor's time, with a network of the demo tier at that size and 300 boxes."""
    config = configured(TrainConfig, TRAIN, "demo", {"size": 512})
    ready = detector_model(METHOD.slug, make_network(config, 4, 0).state_dict(), config, list(figures.KINDS), {})
    image, run = as_image(figures.make(1, (512, 288))["image"]), a_run(tmp_path)
    drawn, image.data = image.data, torch.full((3, 512, 288), 255.0)  # the phantom is this large at the most
    image.data[:, : drawn.shape[1], : drawn.shape[2]] = drawn
    figure = Case({"image": image})
    every = APPLY.configure("demo", {"confidence": 0, "most": 300})
    assert len(METHOD.apply(figure, every, run, ready)["boxes"]) == 300
    assert least_seconds(lambda: METHOD.apply(figure, every, run, ready)) <= 0.5


def test_times_and_memory_are_estimated_by_the_real_network(tmp_path: Path) -> None:
    case, run = a_case([[0, 0, 60, 40]]), a_run(tmp_path)
    short = METHOD.estimate(TRAIN, [case], train_config(updates=100), run)
    long = METHOD.estimate(TRAIN, [case], train_config(updates=5000), run)
    assert 5 < short.seconds < long.seconds and short.memory_bytes > 2**29
    assert 0 < METHOD.estimate(CUT, [case], CUT.configure(None, {}), run).seconds < 60


@pytest.mark.parametrize("seed", range(6))
def test_the_phantoms_panels_lie_in_their_figure_and_not_on_each_other(seed: int) -> None:
    made = figures.make(seed, size=(320, 240))
    columns, rows = made["image"].GetSize()
    painted = np.zeros((rows, columns), int)
    for item in made["boxes"]["markups"]:
        (cx, cy, _), (width, height, _) = item["center"], item["size"]
        x1, y1 = round(cx - width / 2 + 0.5), round(cy - height / 2 + 0.5)
        assert x1 >= 0 and y1 >= 0 and x1 + width <= columns and y1 + height <= rows and item["name"] in figures.KINDS
        painted[y1 : y1 + round(height), x1 : x1 + round(width)] += 1
    assert painted.max() == 1 and painted.mean() > 0.5


@pytest.mark.skipif(not REAL.is_dir(), reason="the real figures are not here")
def test_real_figures_go_through(tmp_path: Path, cohort: Path) -> None:
    execute.perform(METHOD, TRAIN, train_config(), a_run(tmp_path / "run"), tmp_path / "model", collection=cohort)
    model = bundle.load(tmp_path / "model", "compound-figures")
    network = model.network("detector", lambda: make_network(train_config(), 4))
    for path in sorted(REAL.glob("*.jpg")):
        image = io.read_image(path)
        frame = frame_of(image)
        found = look(network, frame, 96, 96, a_run(tmp_path), least=0.0, most=8)
        assert 0 < len(found.boxes) <= 8
        assert float(found.boxes[:, 2].max()) <= image.shape[0] and float(found.boxes[:, 3].max()) <= image.shape[1]


def test_the_catalog_offers_it_among_the_boxes() -> None:
    entry = catalog.entry("compound-figures")
    assert (entry["module"], entry["group"]) == ("MedGenLandmarks", "Boxes")
    assert [operation["name"] for operation in entry["operations"]] == ["train", "apply", "cut-out"]
    assert (ROOT / "Testing/Claims/registrations/compound-figures.toml").is_file()
