"""DICOM series: values in HU, geometry to a thousandth of a millimetre, and refusals where there is no regular grid."""

from __future__ import annotations

import locale
import os
from pathlib import Path
from typing import Any

import dicom_tools as make
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_tools import ROOT_UID

from medgen import dicom, dicomheader, io, worker
from medgen.errors import UserError
from medgen.method import Kind, Role

CT = Role("ct", Kind.IMAGE, "a CT", units="HU")
UID, OTHER = f"{ROOT_UID}.2.1", f"{ROOT_UID}.2.2"


def assert_is(path: Path | str, values: np.ndarray, affine: np.ndarray) -> None:
    """What is read has these values (k, j, i) and lies there (RAS)."""
    image = io.read_image(Path(path), CT)
    np.testing.assert_array_equal(image.data[0].numpy().T, values.astype(np.float32))
    np.testing.assert_allclose(image.affine, affine, rtol=0, atol=1e-3)


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT, make.BIG_ENDIAN])
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), make.OBLIQUE, (0, 1, 0, 0, 0, -1)])
def test_a_series_has_its_hounsfield_units_and_its_place(
    tmp_path: Path, syntax: str, orientation: tuple[float, ...]
) -> None:
    values, affine = make.stack(tmp_path / "a", syntax=syntax, orientation=orientation, rescale=(2, -1000))
    assert_is(tmp_path / "a", values, affine)
    # Numbered, and listed, the other way round.
    values, affine = make.stack(
        tmp_path / "b", syntax=syntax, orientation=orientation, rescale=(2, -1000), reverse=True
    )
    assert_is(tmp_path / "b", values, affine)


def test_fractional_slopes_that_differ_from_slice_to_slice_lose_nothing(tmp_path: Path) -> None:
    stored = np.arange(48, dtype=np.int16).reshape(6, 8)
    rescales = [(1, 0), (0.25, 0.5), (0.3, -0.5)]  # whole numbers in the first, which ITK would make of all
    for number, rescale in enumerate(rescales, start=1):
        make.write(tmp_path / f"{number}", make.slice_of(UID, number, stored, (0, 0, number), rescale=rescale))
    data = io.read_image(tmp_path, CT).data[0].numpy().T
    np.testing.assert_allclose(data, [stored * slope + intercept for slope, intercept in rescales], atol=1e-4)


@pytest.mark.parametrize("compressor", ["", "RLE", "JPEG2000"])
def test_what_gdcm_itself_wrote_is_read_back(tmp_path: Path, compressor: str) -> None:
    values = np.random.default_rng(0).integers(-1000, 2000, (4, 16, 12)).astype(np.int16)
    direction, spacing, origin = np.array(make.OBLIQUE).reshape(2, 3), (0.6, 0.8), np.array([10.0, -20.0, 30.0])
    normal = np.cross(*direction)
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    if compressor:
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
    for index, plane in enumerate(values):
        image = sitk.GetImageFromArray(plane)
        image.SetSpacing(spacing)
        place = {"0020|0032": origin + 3.0 * index * normal, "0020|0037": direction.ravel()}
        words = {"0008|0060": "CT", "0020|000e": UID, "0008|0018": f"{UID}.{index}", "0020|0013": str(index + 1)}
        words |= {key: "\\".join(f"{one:.8f}" for one in numbers) for key, numbers in place.items()}
        for key, text in {**words, "0028|1052": "-1024", "0028|1053": "1"}.items():
            image.SetMetaData(key, text)
        writer.SetFileName(str(tmp_path / f"{index}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # writing DICOM (which MedGen does not) leaves the process with “C”
    affine = np.eye(4)
    affine[:3, :3] = np.stack([direction[0] * 0.6, direction[1] * 0.8, normal * 3.0], axis=1)
    affine[:3, 3] = origin
    assert dicom.named(tmp_path)[0].frames[0].rescale == (1.0, -1024.0)
    assert_is(tmp_path, values, make.LPS_RAS @ affine)


def test_one_series_of_a_folder_is_named_by_its_uid(tmp_path: Path) -> None:
    folder = tmp_path / "archive #1;2"
    first = make.stack(folder, UID)
    second = make.stack(folder, OTHER, name="B{}", heights=(0, 1, 2))
    make.objects(folder)
    assert_is(f"{folder}#{UID}", *first)
    assert_is(f"{folder}#{OTHER}", *second)
    with pytest.raises(UserError, match=f"2 DICOM series.*#{UID}, #{OTHER}"):
        io.read_image(folder, CT)
    with pytest.raises(UserError, match="no DICOM series 1.2.3"):
        io.read_image(Path(f"{folder}#1.2.3"), CT)
    assert dicom.exists(f"{folder}#{UID}") and dicom.exists(folder) and not dicom.exists(f"{folder}/no#{UID}")


def test_an_ordinary_path_may_look_like_a_series(tmp_path: Path) -> None:
    values, affine = make.stack(tmp_path / f"scan#{UID}")
    assert_is(tmp_path / f"scan#{UID}", values, affine)
    assert dicom.split(tmp_path / "a#b.nii") == (tmp_path / "a#b.nii", None)


def test_a_series_may_be_spread_over_folders(tmp_path: Path) -> None:
    values, affine = make.stack(tmp_path, name="part{0}/IM{0}")
    assert_is(f"{tmp_path}#{UID}", values, affine)
    assert_is(tmp_path, values, affine)


def test_the_digest_of_a_series_is_of_its_files_in_order(tmp_path: Path) -> None:
    make.stack(tmp_path, UID, reverse=True)
    text = f"{tmp_path}#{UID}"
    before = worker.digest_of(text, *worker.stamp(text))
    assert [path.name for path in dicom.files_of(text)] == [f"IM{number:04d}" for number in (5, 4, 3, 2, 1)]
    make.stack(tmp_path, OTHER, name="B{}")
    (tmp_path / "notes.txt").write_text("not of the series")
    assert worker.digest_of(text, *worker.stamp(text)) == before
    changed = tmp_path / "IM0003"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\1")
    assert worker.digest_of(text, *worker.stamp(text)) != before


def test_what_is_remembered_of_a_folder_is_forgotten_when_files_come_or_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.stack(tmp_path / "a", UID)
    text = f"{tmp_path}#{UID}"
    for place in (tmp_path, tmp_path / "a"):
        os.utime(place, (1, 1))
    assert len(dicom.files_of(text)) == 5
    monkeypatch.setattr(dicom.folders, "files", lambda *_, **__: pytest.fail("searched again"))
    assert len(dicom.files_of(text)) == 5
    monkeypatch.undo()
    (tmp_path / "a" / "IM0005").unlink()
    assert len(dicom.files_of(text)) == 4
    make.write(tmp_path / "a" / "IM0004", make.patient(OTHER))
    assert len(dicom.files_of(text)) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heights": (0, 2.5, 5, 10, 12.5)}, "lacks 1 slice "),
        ({"heights": (0, 2.5, 5, 7.6, 10.1)}, "uneven distances"),
        ({"heights": (0, 2.5, 2.5, 5, 7.5)}, "1 slices twice"),
        ({"heights": (0, 0, 2.5, 2.5, 5, 5)}, "2 pictures at every place"),
        ({"tilt": (0, 0.2, 0)}, "tilted by 11.3°"),
    ],
)
def test_what_makes_no_regular_grid_is_refused_with_a_sentence(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    make.stack(tmp_path, **change)
    with pytest.raises(UserError, match=words) as caught:
        io.read_image(tmp_path, CT)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_slices_within_a_hundredth_of_their_place_are_even(tmp_path: Path) -> None:
    make.stack(tmp_path, heights=(0, 2.51, 5.0, 7.5, 10.01))
    assert io.read_image(tmp_path, CT).spacing[2] == pytest.approx(2.5025)


def test_a_scout_of_three_orientations_and_two_sizes_are_refused(tmp_path: Path) -> None:
    for number, orientation in enumerate(((1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1))):
        one = make.slice_of(UID, number, np.zeros((6, 8)), (0, 0, number), orientation)
        make.write(tmp_path / "scout" / str(number), one)
        other = make.slice_of(UID, number, np.zeros((6, 8 + 2 * number)), (0, 0, number))
        make.write(tmp_path / "sizes" / str(number), other)
        apart = make.slice_of(UID, number, np.zeros((6, 8)), (0, 0, number), spacing=(1, 1 + 0.1 * number))
        make.write(tmp_path / "pixels" / str(number), apart)
    for folder, words in (("scout", "orientations"), ("sizes", "different sizes"), ("pixels", "pixel sizes")):
        with pytest.raises(UserError, match=words):
            io.read_image(tmp_path / folder, CT)


def frames_of(heights: list[float], rescale: float = 1) -> list[make.Element]:
    """An enhanced CT: several slices in one file, each with its place."""
    own = [
        [
            (0x00209113, "SQ", [[(0x00200032, "DS", (5, 6, height))]]),
            (0x00289145, "SQ", [[(0x00281052, "DS", 0), (0x00281053, "DS", 1 + index * (rescale - 1))]]),
        ]
        for index, height in enumerate(heights)
    ]
    shared = [
        (0x00209116, "SQ", [[(0x00200037, "DS", (1, 0, 0, 0, 1, 0))]]),
        (0x00289110, "SQ", [[(0x00180050, "DS", 9), (0x00280030, "DS", (0.7, 0.9))]]),
    ]
    stored = np.arange(len(heights) * 48, dtype=np.int16).reshape(len(heights), 6, 8)
    return [
        *make.patient(UID),
        (0x00080016, "UI", make.ENHANCED_CT),
        (0x00280008, "IS", str(len(heights))),
        *make.pixels(stored),
        (0x52009229, "SQ", [shared]),
        (0x52009230, "SQ", own),
    ]


def test_the_frames_of_one_file_lie_where_each_says(tmp_path: Path) -> None:
    affine = make.LPS_RAS @ np.array([[0.9, 0, 0, 5], [0, 0.7, 0, 6], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    stored = np.arange(4 * 48).reshape(4, 6, 8)
    make.write(tmp_path / "up", frames_of([0, 2, 4, 6]), storage=make.ENHANCED_CT)
    make.write(tmp_path / "down", frames_of([6, 4, 2, 0]), storage=make.ENHANCED_CT)
    assert_is(tmp_path / "up", stored, affine)
    assert_is(tmp_path / "down", stored[::-1], affine)
    make.write(tmp_path / "twice", frames_of([0, 2, 0, 2]), storage=make.ENHANCED_CT)
    make.write(tmp_path / "slopes", frames_of([0, 2], rescale=3), storage=make.ENHANCED_CT)
    for name, words in (("twice", "2 pictures at every place"), ("slopes", "different rescale")):
        with pytest.raises(UserError, match=words):
            io.read_image(tmp_path / name, CT)


def test_a_film_and_an_object_without_image_are_refused(tmp_path: Path) -> None:
    film = [*make.patient(UID, "US"), (0x00280008, "IS", "3"), *make.pixels(np.zeros((3, 6, 8)))]
    make.write(tmp_path / "film", film)
    with pytest.raises(UserError, match="3 pictures without a place"):
        io.read_image(tmp_path / "film", CT)
    make.objects(tmp_path)
    with pytest.raises(UserError, match="DICOM but no image \\(RTSTRUCT\\)"):
        io.read_image(tmp_path / "RS0001", CT)


def test_a_damaged_file_is_a_sentence_wherever_it_ends(tmp_path: Path) -> None:
    make.stack(tmp_path / "whole", heights=(0, 1))
    whole = (tmp_path / "whole" / "IM0001").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.dcm").write_bytes(whole[:length])
        with pytest.raises(UserError):
            io.read_image(tmp_path / "cut.dcm", CT)


@pytest.mark.parametrize("count", [1, 3])
def test_pixels_that_are_missing_behind_a_sound_header_are_not_made_up(tmp_path: Path, count: int) -> None:
    for number in range(count):
        stored = np.ones((6, 8), np.int16)
        elements = make.slice_of(f"{make.ROOT_UID}.7", number, stored, (0.0, 0.0, 2.5 * number))
        tall = [(tag, kind, 4000 if tag == 0x00280010 else value) for tag, kind, value in elements]
        make.write(tmp_path / "series" / f"IM{number}.dcm", tall)
    with pytest.raises(UserError, match=r"IM0.dcm lacks pixels that its header tells of"):
        io.read_image(tmp_path / "series" if count > 1 else tmp_path / "series" / "IM0.dcm", CT)


def test_a_header_that_lies_ends_soon(tmp_path: Path) -> None:
    nested = b"".join(
        make.element(0x00081140, "SQ", [])[:8] + b"\xff" * 4 + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" for _ in range(500)
    )
    make.write(tmp_path / "deep", [])
    (tmp_path / "deep").write_bytes((tmp_path / "deep").read_bytes() + nested)
    with pytest.raises(dicomheader.BadHeader):
        dicomheader.read(tmp_path / "deep")
    assert dicom.header(tmp_path / "deep") is None
    with pytest.raises(UserError):
        io.read_image(tmp_path / "deep", CT)


def test_real_files_are_read_as_gdcm_places_them(data: Path) -> None:
    series = data / "mr_head_studyforrest" / "dicom_slices"
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    theirs = reader.Execute()
    assert_is(series, sitk.GetArrayFromImage(theirs), io.affine_of(theirs))
    for name in ("CT_small.dcm", "MR_small.dcm"):
        theirs = sitk.ReadImage(str(data / "dicom_pydicom_small" / name))
        image = io.read_image(data / "dicom_pydicom_small" / name)
        np.testing.assert_array_equal(image.data[0].numpy().T, sitk.GetArrayFromImage(theirs))
        np.testing.assert_allclose(image.affine[:, [0, 1, 3]], io.affine_of(theirs)[:, [0, 1, 3]], atol=1e-5)
