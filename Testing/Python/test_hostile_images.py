"""Images from strangers: looked at before memory is taken, opened by their ending, never led elsewhere."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from backend_tools import ROOT, volume

from medgen import headers, io, resources
from medgen.errors import UserError

sys.path.insert(0, str(ROOT / "Testing" / "fuzz"))

import bad_images as bad


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No voxel may be read."""
    monkeypatch.setattr(sitk.ImageFileReader, "Execute", lambda self: pytest.fail("voxels were read"))


def test_an_image_that_does_not_fit_into_the_free_memory_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unread: None
) -> None:
    sitk.WriteImage(sitk.Image(300, 300, 300, sitk.sitkUInt8), str(tmp_path / "v.nrrd"))
    monkeypatch.setattr(resources, "memory", lambda: resources.Memory(2**33, 2**28))
    with pytest.raises(
        UserError, match=r"v.nrrd \(300 x 300 x 300 voxels\) needs about 257.5 MiB .* 256.0 MiB are free"
    ):
        io.read_image(tmp_path / "v.nrrd")


def test_a_bomb_is_refused_unread_and_the_same_voxels_uncompressed_are_not(tmp_path: Path, unread: None) -> None:
    shape = "sizes: 1024 1024 160\n"
    packed = bad.nrrd(zlib.compress(bytes(99)), encoding="gzip", type="uchar").replace(
        b"sizes: 4 4 4\n", shape.encode()
    )
    (tmp_path / "bomb.nrrd").write_bytes(packed)
    with pytest.raises(UserError, match="hardly hold; if the image is genuine, save it uncompressed"):
        io.read_image(tmp_path / "bomb.nrrd")
    (tmp_path / "plain.nrrd").write_bytes(bad.nrrd(b"", type="uchar").replace(b"sizes: 4 4 4\n", shape.encode()))
    with (tmp_path / "plain.nrrd").open("ab") as file:
        file.truncate(file.tell() + 1024 * 1024 * 160)
    assert headers.reader(tmp_path / "plain.nrrd", ".nrrd").GetSize() == (1024, 1024, 160)


def test_a_jpeg_without_end_or_without_bounds_is_refused(tmp_path: Path, unread: None) -> None:
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), str(tmp_path / "p.jpg"))
    whole = (tmp_path / "p.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-2])
    with pytest.raises(UserError, match="damaged, truncated"):
        io.read_image(tmp_path / "cut.jpg")
    with (tmp_path / "p.jpg").open("ab") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(UserError, match="larger than such a file may be"):
        io.read_image(tmp_path / "p.jpg")


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha", ".png", ".jpg", ".tif", ".bmp", ".dcm"])
def test_the_ending_decides_who_reads(tmp_path: Path, ending: str) -> None:
    others = {".nrrd": sitk.Image(3, 3, 3, sitk.sitkInt16), ".png": sitk.Image(3, 3, sitk.sitkUInt8)}
    for other, image in others.items():
        if other == ending:
            continue
        sitk.WriteImage(image, str(tmp_path / f"a{other}"))
        (tmp_path / f"a{other}").rename(tmp_path / f"b{ending}")
        with pytest.raises(UserError, match="not what its ending says|has no voxels"):
            io.read_itk(tmp_path / f"b{ending}")


def test_a_detached_header_reads_its_own_folder_only(tmp_path: Path) -> None:
    source = volume((4, 4, 4))
    (tmp_path / "in").mkdir()
    for ending, key in ((".nhdr", "data file: "), (".mhd", "ElementDataFile = ")):
        header = tmp_path / "in" / f"{ending[1:]}{ending}"
        sitk.WriteImage(source, str(header))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(io.read_itk(header)), sitk.GetArrayFromImage(source))
        text = header.read_text()
        name = next(line for line in text.splitlines() if line.startswith(key)).removeprefix(key)
        (tmp_path / name).write_bytes((tmp_path / "in" / name).read_bytes())
        for away in (f"../{name}", str(tmp_path / name)):
            header.write_text(text.replace(key + name, key + away))
            with pytest.raises(UserError, match="names a data file outside its own folder"):
                io.read_itk(header)
        header.write_text(text)
        (tmp_path / "in" / name).unlink()
        (tmp_path / "in" / name).symlink_to(tmp_path / name)
        with pytest.raises(UserError, match="names a data file outside its own folder"):
            io.read_itk(header)


def test_names_of_segments_that_are_not_utf8_are_read_and_written(tmp_path: Path) -> None:
    labels = np.zeros(64, "<i2")
    labels[:9] = 1
    content = bad.nrrd(labels.tobytes(), "Segment0_LabelValue:=1\nSegment0_Name:=Leber?\n").replace(b"?", b"\xfc")
    (tmp_path / "m.seg.nrrd").write_bytes(content)
    mask = io.read_mask(tmp_path / "m.seg.nrrd")
    io.write_mask(mask, tmp_path / "n.seg.nrrd")
    assert [one.name for one in io.read_mask(tmp_path / "n.seg.nrrd").segments] == ["Leberü"]


def test_a_limit_of_the_process_counts_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    (tmp_path / "status").write_text("Name:\tpython\nVmSize:\t  1048576 kB\n")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (3 * 2**30, resource.RLIM_INFINITY))
    assert resources._left_to_process(tmp_path / "status") == 2 * 2**30
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert resources._left_to_process(tmp_path / "status") is None
