"""Frames with points: there and back, fitted in their proportions, changed alike with their pixels, and measured."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from method_tools import a_run
from suture_tools import AFFINE, case, points_at

from medgen import phantoms, pointframes
from medgen.case import Case, Image
from medgen.errors import UserError
from medgen.phantoms import annulus
from medgen.pointframes import (
    Fitting,
    Limits,
    PointFrame,
    Variation,
    compared,
    frames_of,
    marked_frames,
    measures,
    over_all,
    points_from,
    positions_in,
    random_variation,
    recoloured,
    varied,
)

STILL = Variation((False, False), 0.0, 1.0, (1.0, 1.0, 1.0), 0.0)


# --- there and back


def test_positions_are_rows_and_columns_of_a_picture_and_come_back_surest_first() -> None:
    image = Image(torch.rand(3, 64, 36), AFFINE, "frame")
    places = positions_in(image, points_at([(10, 3), (60, 35)]))
    assert places.tolist() == [[3, 10], [35, 60]]
    found = points_from(places, [0.2, 0.9], image, "suture")
    assert found.names == ["suture 1", "suture 2"] and found.confidence is not None
    np.testing.assert_allclose(found.positions, [[-60, -35, 0], [-10, -3, 0]])
    assert found.confidence.tolist() == [0.9, 0.2]
    assert len(points_from(np.empty((0, 2)), [], image, "suture").positions) == 0


def test_points_that_are_not_placed_are_left_out_and_one_outside_is_named() -> None:
    image, points = Image(torch.rand(3, 64, 36), AFFINE, "frame"), points_at([(10, 3), (20, 5)])
    points.positions[0] = np.nan
    assert positions_in(image, points).tolist() == [[5, 20]]
    with pytest.raises(UserError, match=r"Point “p1” of frame 7 lies outside its image \(64 x 36 px\); move or remove"):
        positions_in(image, points_at([(10, 3), (64, 5)]), "frame 7")


@pytest.mark.parametrize("own", [(36, 64), (100, 60), (288, 512), (31, 33)])
def test_a_picture_is_fitted_in_its_proportions_and_positions_go_there_and_back(own: tuple[int, int]) -> None:
    fitting = Fitting.of(own, (64, 96))
    assert max(np.array(fitting.inner) / (64, 96)) == 1 and max(fitting.inner[0] - 64, fitting.inner[1] - 96) <= 0
    assert fitting.inner[0] / fitting.inner[1] == pytest.approx(own[0] / own[1], rel=0.03)
    corners = np.array([[-0.5, -0.5], [own[0] - 0.5, own[1] - 0.5], [3.2, 7.9]])
    there = fitting.into(corners)
    np.testing.assert_allclose(there[:2], [[-0.5, -0.5], np.array(fitting.inner) - 0.5])
    np.testing.assert_allclose(fitting.back(there), corners)


def test_a_bright_dot_lies_where_its_point_goes() -> None:
    frame = frames_of([case(3, count=1)], (96, 160), lambda message: None)[0]
    assert frame.inner == (90, 160) and not frame.pixels[:, 90:].any()
    row, column = divmod(int(frame.pixels.float().mean(0).argmax()), 160)
    np.testing.assert_allclose([row, column], frame.points[0], atol=1.5)


# --- random changes


def dot(row: float, column: float) -> PointFrame:
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    bright = 200 * torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 8)
    return PointFrame(bright.expand(3, -1, -1).round().to(torch.uint8), torch.tensor([[row, column]]), inner=(48, 64))


@pytest.mark.parametrize("seed", range(10))
def test_points_move_with_what_they_mark(seed: int) -> None:
    variation = random_variation(Limits(40.0, 0.1, 0.0), np.random.default_rng(seed))
    pixels, points = varied(dot(20.0, 38.0), variation)
    row, column = divmod(int(pixels.mean(0)[2:-2, 2:-2].argmax()), 60)
    np.testing.assert_allclose(points[0], [row + 2, column + 2], atol=1.01)


def test_no_change_changes_nothing_and_points_that_leave_are_gone() -> None:
    frame = dot(1.0, 2.0)
    pixels, points = varied(frame, STILL)
    torch.testing.assert_close(pixels, frame.pixels.float(), atol=1e-3, rtol=0)
    assert points.tolist() == [[1.0, 2.0]]
    assert len(varied(frame, Variation((False, False), math.pi / 4, 1.2, (1, 1, 1), 0.0))[1]) == 0


def test_colours_change_as_they_are_told() -> None:
    frame = torch.rand(3, 6, 8) * 100 + 50

    def changed(*factors: float, hue: float = 0.0) -> torch.Tensor:
        return recoloured(frame, Variation((False, False), 0.0, 1.0, factors, hue))  # type: ignore[arg-type]

    torch.testing.assert_close(changed(1.2, 1.0, 1.0), frame * 1.2)
    grey = changed(1.0, 1.0, 0.0)
    torch.testing.assert_close(grey[0], grey[2])
    torch.testing.assert_close(changed(1.0, 1.0, 1.0, hue=2 * math.pi / 3), torch.roll(frame, -1, 0), atol=1e-3, rtol=0)
    mean = (frame * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0).mean()
    torch.testing.assert_close(changed(1.0, 0.5, 1.0), mean + 0.5 * (frame - mean))


def test_half_of_the_frames_keep_their_colours_of_each_kind() -> None:
    random = np.random.default_rng(0)
    drawn = [random_variation(Limits(40.0, 0.0, 0.2), random) for _ in range(400)]
    assert 0.4 < np.mean([one.hue == 0 for one in drawn]) < 0.6
    assert 0.15 < np.mean([one.factors == (1.0, 1.0, 1.0) for one in drawn]) < 0.35
    assert max(abs(one.angle) for one in drawn) <= math.radians(40)
    assert 0.4 < np.mean([one.flips[0] for one in drawn]) < 0.6


# --- measures


def test_measures_count_strictly_within_6_pixels_of_512() -> None:
    image = Image(torch.rand(3, 512, 288), AFFINE)
    meant, found = points_at([(100, 100), (200, 100), (300, 100)]), points_at([(105.9, 100), (206, 100)])
    values = measures(Case({"points": found}), Case({"points": meant, "image": image}))
    assert (values["TP"], values["FP"], values["FN"]) == (1, 1, 2)
    assert values["sensitivity"] == pytest.approx(1 / 3) and values["precision"] == 0.5
    assert values["F1"] == pytest.approx(2 / 5)
    half = Image(torch.rand(3, 256, 144), AFFINE)
    assert compared(points_at([(103.1, 100)]), points_at([(100, 100)]), half).hits == 0
    assert compared(points_at([(102.9, 100)]), points_at([(100, 100)]), half).hits == 1


def test_an_empty_frame_is_right_where_nothing_was_found_and_leaves_shares_that_are_none_out() -> None:
    empty = Case({"points": points_at([]), "image": Image(torch.rand(3, 512, 288), AFFINE)})
    assert measures(empty, empty) == {"sensitivity": 1, "precision": 1, "F1": 1, "TP": 0, "FP": 0, "FN": 0}
    wrong = measures(Case({"points": points_at([(5, 5)])}), empty)
    assert "sensitivity" not in wrong and (wrong["precision"], wrong["F1"], wrong["FP"]) == (0, 0, 1)


def test_measures_over_all_points_pool_the_counts() -> None:
    image = Image(torch.rand(3, 512, 288), AFFINE)
    pairs = [
        compared(points_at([(10, 10)]), points_at([(10, 10), (50, 50), (90, 90)]), image),
        compared(points_at([(10, 10), (40, 40)]), points_at([(10, 10)]), image),
    ]
    total = over_all(pairs)
    assert (total.hits, total.found, total.meant) == (2, 3, 4)
    assert total.recall == 0.5 and total.precision == pytest.approx(2 / 3) and total.f1 == pytest.approx(4 / 7)


# --- what is learnt from


def test_rows_without_labels_are_not_marked_and_the_test_split_is_left_out() -> None:
    cases = [case(0), case(1, marked=False), case(2, split="test"), case(3, count=0), case(4, split="validation")]
    frames = frames_of(cases, (64, 64), lambda message: None)
    assert [one.marked for one in frames] == [True, False, True, True]
    learnt, shown = marked_frames(frames, "theatre")
    assert [len(one.points) for one in learnt] == [4, 0] and len(shown) == 1
    with pytest.raises(UserError, match="No training frame of pool “theatre” has a point to learn from; place points"):
        marked_frames([frames[2], frames[3]], "theatre")


def test_cases_that_name_no_pool_are_the_theatres(tmp_path: Path) -> None:
    cases = [case(0), case(1)]
    cases[1].row["pool"] = "simulator"
    theatre, simulator = pointframes.of_pools(cases, a_run(tmp_path))
    assert len(theatre) == len(simulator) == 1


# --- the phantom


def fiducials(made: dict[str, object]) -> np.ndarray:
    items = made["points"]["markups"][0]["controlPoints"]  # type: ignore[index]
    return np.array([item["position"][:2] for item in items]).reshape(-1, 2)


def test_threads_enter_where_the_points_lie() -> None:
    """With and without threads a frame differs at every point, in both looks."""
    for domain in annulus.DOMAINS:
        made, bare = (annulus.make(5, (256, 144), domain, most, noise=0.0) for most in (annulus.MOST, 0))
        one, other = (sitk.GetArrayFromImage(m["image"]).astype(float) for m in (made, bare))  # type: ignore[call-overload]
        assert len(fiducials(made)) > 3 and len(fiducials(bare)) == 0
        changed = np.abs(one - other).max(axis=2) > 12
        for x, y in fiducials(made):
            assert changed[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].any()


def test_both_looks_of_a_seed_have_the_same_sutures_and_other_colours() -> None:
    looks = [annulus.make(5, (128, 72), domain) for domain in annulus.DOMAINS]
    np.testing.assert_array_equal(fiducials(looks[0]), fiducials(looks[1]))
    theatre, simulator = (sitk.GetArrayFromImage(m["image"]).mean(axis=(0, 1)) for m in looks)
    assert theatre[0] / theatre[2] > 1.5 * simulator[0] / simulator[2]  # blood


def test_the_number_of_sutures_varies_and_some_frames_have_none() -> None:
    counts = [len(fiducials(annulus.make(seed, (32, 18)))) for seed in range(60)]
    assert min(counts) == 0 and max(counts) >= 12 and len(set(counts)) > 6
    assert 0.03 < np.mean(np.array(counts) == 0) < 0.3
    inside = np.concatenate([fiducials(annulus.make(seed, (64, 36))) for seed in range(20)])
    assert ((inside >= 0) & (inside <= (63, 35))).all()


@pytest.mark.parametrize("options", [{"domain": "ward"}, {"most": 17}, {"size": (15, 20)}])
def test_what_cannot_be_drawn_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a frame"):
        annulus.make(0, **{"size": (32, 18), **options})  # type: ignore[arg-type]


def test_a_cohort_has_both_domains_in_every_split_and_a_pool_for_each(tmp_path: Path) -> None:
    table = phantoms.write(phantoms.PHANTOMS["annulus"], 12, 0, tmp_path / "frames", size=(32, 18))
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert {(row["split"], row["domain"]) for row in rows} == {
        (split, domain) for split in ("train", "validation", "test") for domain in annulus.DOMAINS
    }
    theatre = list(csv.DictReader((tmp_path / "frames" / "theatre.csv").open(encoding="utf-8")))
    assert theatre == [row for row in rows if row["domain"] == "theatre"]
