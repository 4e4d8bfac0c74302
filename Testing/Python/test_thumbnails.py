"""The small picture of a finished case: what is seen where, in which colour, and how fast."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from backend_tools import ROOT
from numpy.typing import NDArray

from medgen import thumbnails
from medgen.case import Box, Case, Image, Mask, Points, Segment, Table
from medgen.errors import UserError
from medgen.method import Config, Kind, Operation, Role

IMAGE, MASK = Role("image", Kind.IMAGE, "A volume"), Role("mask", Kind.MASK, "Its structures")
RED, GREEN = Segment(1, "one", (1.0, 0.0, 0.0)), Segment(2, "two", (0.0, 1.0, 0.0))
CUBE = (60, 60, 60)


def operation(inputs: tuple[Role, ...], *outputs: Role) -> Operation:
    return Operation("apply", "Apply", "", Config, inputs=inputs, outputs=outputs)


def an_image(data: torch.Tensor, spacing: tuple[float, ...] = (2.0, 2.0, 2.0), **facts: Any) -> Image:
    return Image(data[None].float(), np.diag([*spacing, 1.0]), **facts)


def grey(shape: tuple[int, ...] = CUBE) -> torch.Tensor:
    """Values that no view shows as black: the lowest one stands in a corner."""
    data = torch.full(shape, 50.0)
    data[0, 0] = 0.0
    data[-1, -1] = 100.0
    return data


def drawn(path: Path, given: dict[str, Any], result: dict[str, Any], what: Operation) -> NDArray[np.float64]:
    """(height, width, 3) of the thumbnail that is written, 0..1."""
    assert thumbnails.write(Case(given), Case(result), what, path)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(float) / 255


def views(picture: NDArray[np.float64], columns: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """The three views beside each other; columns: their widths."""
    found, left = [], 0
    for width in columns:
        found.append(picture[:, left : left + width])
        left += width + 2
    assert left - 2 == picture.shape[1]
    return found


def middle(seen: NDArray[np.bool_]) -> tuple[float, float]:
    """(down, across) of what is seen, as parts of the view's height and width."""
    assert seen.any()
    down, across = np.nonzero(seen)
    return float(down.mean() / seen.shape[0]), float(across.mean() / seen.shape[1])


def red(view: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (view[..., 0] - view[..., 2] > 0.2) & (view[..., 0] - view[..., 1] > 0.2)


def green(view: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (view[..., 1] - view[..., 0] > 0.15) & (view[..., 1] - view[..., 2] > 0.15)


def orange(view: NDArray[np.float64]) -> NDArray[np.bool_]:
    return view[..., 0] - view[..., 2] > 0.2


def blue(view: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (view[..., 2] - view[..., 0] > 0.2) & (view[..., 2] > 0.4)


def test_the_planes_are_laid_through_the_mask_with_the_patients_right_on_the_viewers_left(tmp_path: Path) -> None:
    labels = torch.zeros(CUBE, dtype=torch.int16)
    labels[44:54, 40:50, 46:56] = 1  # right, front and up; seen only in planes through it
    image = an_image(grey())
    mask = Mask(labels, image.affine, [RED])
    picture = drawn(tmp_path / "a.jpg", {"image": image}, {"mask": mask}, operation((IMAGE,), MASK))
    axial, coronal, sagittal = (middle(red(view)) for view in views(picture, (130, 130, 130)))
    assert axial == pytest.approx((1 - 45 / 60, 1 - 49 / 60), abs=0.03)
    assert coronal == pytest.approx((1 - 51 / 60, 1 - 49 / 60), abs=0.03)
    assert sagittal == pytest.approx((1 - 51 / 60, 45 / 60), abs=0.03)  # the face to the viewer's right


def test_a_case_that_is_not_on_canonical_axes_is_seen_as_the_same_patient(tmp_path: Path) -> None:
    labels = torch.zeros(CUBE, dtype=torch.int16)
    labels[44:54, 40:50, 46:56] = 1
    image = an_image(grey())
    flipped = np.diag([-2.0, -2.0, 2.0, 1.0])
    flipped[:2, 3] = 2.0 * 59
    other = Image(image.data.flip(1, 2), flipped)
    what = operation((IMAGE,), MASK)
    one = drawn(tmp_path / "a.jpg", {"image": image}, {"mask": Mask(labels, image.affine, [RED])}, what)
    two = drawn(tmp_path / "b.jpg", {"image": other}, {"mask": Mask(labels.flip(0, 1), flipped, [RED])}, what)
    assert np.abs(one - two).max() < 0.02


def test_every_segment_has_its_own_colour_and_the_reference_is_a_white_outline(tmp_path: Path) -> None:
    labels = torch.zeros(CUBE, dtype=torch.int16)
    labels[10:30, 20:40, 20:40] = 1
    labels[32:50, 20:40, 20:40] = 2
    image = an_image(grey())
    what = operation((IMAGE,), MASK)
    result = {"mask": Mask(labels, image.affine, [RED, GREEN])}
    plain = drawn(tmp_path / "a.jpg", {"image": image}, result, what)
    axial = views(plain, (130, 130, 130))[0]
    assert middle(green(axial))[1] < 0.5 < middle(red(axial))[1]
    assert not (axial > 0.85).all(axis=2)[20:110, 20:110].any()
    truth = Mask((labels == 1).to(torch.int16), image.affine, [RED])
    outlined = views(drawn(tmp_path / "b.jpg", {"image": image, "truth_mask": truth}, result, what), (130, 130, 130))[0]
    white = (outlined > 0.8).all(axis=2)[10:120, 10:120]
    assert white.any() and red(outlined)[65, 80] and not white[55, 70]  # an outline, its inside stays seen


def test_a_structure_of_one_voxel_is_found_and_shown(tmp_path: Path) -> None:
    labels = torch.zeros((256, 256, 64), dtype=torch.int16)
    labels[200, 31, 9] = 1
    image = an_image(grey((256, 256, 64)), (1.0, 1.0, 4.0))
    result = {"mask": Mask(labels, image.affine, [RED])}
    picture = drawn(tmp_path / "a.jpg", {"image": image}, result, operation((IMAGE,), MASK))
    reddish = picture[..., 0] - picture[..., 1:].max(axis=2) > 0.05
    assert reddish[:, :130].any() and reddish[:, 132:262].any() and reddish[:, 264:].any()


def test_the_views_share_one_scale_in_millimetres(tmp_path: Path) -> None:
    image = an_image(grey((80, 50, 10)), (1.0, 1.0, 8.0))  # 80 x 50 x 80 mm
    result = {"mask": Mask(torch.zeros(80, 50, 10, dtype=torch.int16), image.affine)}
    picture = drawn(tmp_path / "a.jpg", {"image": image}, result, operation((IMAGE,), MASK))
    axial, coronal, sagittal = views(picture, (130, 130, 81))  # 130 pixels for 80 mm
    assert len(picture) == 130
    # A view that is not so high has black above and below.
    assert (axial[:22].max(), axial[-22:].max()) < (0.2, 0.2) and axial[30:100].mean() > 0.3
    assert min(coronal[5, 5:-20].min(), sagittal[5, 30:-30].min()) > 0.3


def test_an_image_that_came_out_stands_beneath_what_it_was_made_from(tmp_path: Path) -> None:
    before, after = grey(), grey()
    before[:, :, 30:] = 90.0
    after[:, :, :30] = 90.0
    roles = (Role("mr", Kind.IMAGE, "", modality="MR"),), Role("ct", Kind.IMAGE, "", modality="CT")
    picture = drawn(
        tmp_path / "a.jpg", {"mr": an_image(before)}, {"ct": an_image(after)}, operation(roles[0], roles[1])
    )
    assert picture.shape[:2] == (194, 3 * 96 + 4)
    coronal = picture[:, 98:194]
    assert coronal[10:40].mean() > coronal[55:90].mean() and coronal[105:140].mean() < coronal[150:190].mean()


def test_with_a_reference_the_difference_is_red_where_higher_and_blue_where_lower(tmp_path: Path) -> None:
    truth = torch.zeros(CUBE)
    made = truth.clone()
    made[40:50, 20:40, 20:40] = 300.0
    made[10:20, 20:40, 20:40] = -300.0
    role = Role("ct", Kind.IMAGE, "", units="HU")
    what = operation((Role("mr", Kind.IMAGE, ""),), role)
    given = {"mr": an_image(grey()), "truth_ct": an_image(truth)}
    axial = drawn(tmp_path / "a.jpg", given, {"ct": an_image(made)}, what)[98:, :96]
    assert middle(red(axial))[1] < 0.35 and middle(blue(axial))[1] > 0.65
    assert np.ptp(axial[30:60, 44:52], axis=2).max() < 0.1  # no difference, no colour
    half = an_image(truth + 0.5 * made)
    paler = drawn(tmp_path / "b.jpg", given, {"ct": half}, what)[98:, :96]
    assert paler[48, 22, 0] < axial[48, 22, 0] - 0.15


def test_hounsfield_units_have_a_fixed_window_and_other_values_their_own(tmp_path: Path) -> None:
    data = torch.full(CUBE, 200.0)
    data[:30] = -400.0
    mask = Mask(torch.zeros(CUBE, dtype=torch.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
    shown = {}
    for units in ("HU", None):
        role = Role("image", Kind.IMAGE, "", units=units)
        picture = drawn(tmp_path / f"{units}.jpg", {"image": an_image(data)}, {"mask": mask}, operation((role,), MASK))
        shown[units] = picture[65, 30].mean()
    assert shown["HU"] == pytest.approx(0.5, abs=0.03)  # halfway between -400 and 800
    assert shown[None] == pytest.approx(1.0, abs=0.03)  # the highest there is


def test_points_are_dots_where_they_lie_and_those_not_found_are_left_out(tmp_path: Path) -> None:
    image = an_image(grey())
    places = np.array([[2.0 * 50, 2.0 * 30, 2.0 * 10], [np.nan, np.nan, np.nan]])
    what = operation((IMAGE,), Role("points", Kind.POINTS, ""))
    points = Points(places, ["a", "b"])
    picture = drawn(tmp_path / "a.jpg", {"image": image}, {"points": points}, what)
    expected = ((0.5, 1 - 50 / 60), (1 - 10 / 60, 1 - 50 / 60), (1 - 10 / 60, 0.5))
    for view, place in zip(views(picture, (130, 130, 130)), expected, strict=True):
        assert middle(orange(view)) == pytest.approx(place, abs=0.03)
        assert orange(view).sum() < 60
    given = {"image": image, "truth_points": Points(np.array([[20.0, 60.0, 100.0]]), ["a"])}
    assert green(drawn(tmp_path / "b.jpg", given, {"points": points}, what)).any()


def test_boxes_are_frames(tmp_path: Path) -> None:
    image = an_image(grey())
    box = Box(np.array([60.0, 60.0, 60.0]), np.eye(3), np.array([40.0, 40.0, 40.0]), "nodule")
    what = operation((IMAGE,), Role("boxes", Kind.BOX, "", many=True))
    axial = views(drawn(tmp_path / "a.jpg", {"image": image}, {"boxes": [box]}, what), (130, 130, 130))[0]
    frame = orange(axial)
    assert middle(frame) == pytest.approx((0.5, 0.5), abs=0.03)
    assert not frame[55:75, 55:75].any() and frame[:, 40:50].any() and frame[:, 82:92].any()


def test_a_colour_picture_keeps_its_colours_and_its_way_up(tmp_path: Path) -> None:
    pixels = torch.full((3, 80, 40), 30.0)
    pixels[1, :20, :10] = 255.0  # green where a picture begins: at its top left
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    labels = torch.zeros(80, 40, dtype=torch.int16)
    labels[60:, 30:] = 1
    what = operation((Role("image", Kind.IMAGE, "", dims="2D"),), Role("mask", Kind.MASK, "", dims="2D"))
    given = {"image": Image(pixels, affine, colour=True)}
    picture = drawn(tmp_path / "a.jpg", given, {"mask": Mask(labels, affine, [RED])}, what)
    assert picture.shape[:2] == (130, 260)
    assert middle(green(picture)) == pytest.approx((0.125, 0.125), abs=0.02)
    assert middle(red(picture)) == pytest.approx((0.875, 0.875), abs=0.02)


def test_images_made_from_nothing_are_shown_alone(tmp_path: Path) -> None:
    picture = drawn(
        tmp_path / "a.jpg", {}, {"images": [an_image(grey())]}, operation((), Role("images", Kind.IMAGE, ""))
    )
    assert len(picture) == 130


def test_where_nothing_can_be_drawn_nothing_is_written(tmp_path: Path) -> None:
    what = operation((IMAGE,), Role("table", Kind.TABLE, ""), MASK)
    given = Case({"image": an_image(grey())})
    assert not thumbnails.write(given, Case({"table": Table({"a": [1]})}), what, tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    image = an_image(grey())
    with pytest.raises(UserError, match="a.jpg"):
        drawn(tmp_path / "a.jpg", {"image": image}, {"image": image}, operation((IMAGE,), IMAGE))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_a_thumbnail_of_a_usual_volume_is_small_and_takes_less_than_150_ms(tmp_path: Path) -> None:
    shape = (256, 256, 128)
    values = torch.linspace(-1000, 1000, 256)[:, None, None] + 20 * torch.randn(shape)
    image = an_image(values, (0.9, 0.9, 1.5))
    labels = torch.zeros(shape, dtype=torch.int16)
    labels[60:160, 60:160, 30:90], labels[180:220, 60:160, 30:90] = 1, 2
    empty = torch.zeros(shape, dtype=torch.int16)  # looked through twice
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for data in (labels, empty):
            result = {"mask": Mask(data, image.affine, [RED, GREEN])}
            took = []
            for _ in range(5):
                began = time.process_time()
                drawn(tmp_path / "a.jpg", {"image": image}, result, operation((IMAGE,), MASK))
                took.append(time.process_time() - began)
            print(f"{min(took) * 1000:.0f} ms of a processor, {(tmp_path / 'a.jpg').stat().st_size} bytes")
            assert min(took) < 0.15
            assert (tmp_path / "a.jpg").stat().st_size < 13_000
    finally:
        torch.set_num_threads(threads)


def test_a_worker_does_not_load_matplotlib_for_it() -> None:
    code = "import sys, medgen.thumbnails; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 0
