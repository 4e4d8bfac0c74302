"""Files in, files out: images, masks with overlapping segments, markups, tables; and files that are none of these."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from backend_tools import DATA, picture, volume

from medgen import io
from medgen.case import Box, Image, Mask, Plane, Points, Segment, Sphere
from medgen.errors import UserError
from medgen.method import Kind, Role

VOLUME = Role("image", Kind.IMAGE, "a volume")
PICTURE = Role("image", Kind.IMAGE, "a picture", dims="2D")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_volume_round_trip_keeps_values_and_place(tmp_path: Path, ending: str) -> None:
    source = volume()
    sitk.WriteImage(source, str(tmp_path / f"a{ending}"))
    image = io.read_image(tmp_path / f"a{ending}", VOLUME)
    io.write_image(image, tmp_path / f"b{ending}")
    again = sitk.ReadImage(str(tmp_path / f"b{ending}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(source))
    np.testing.assert_allclose(again.GetOrigin(), source.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(again.GetSpacing(), source.GetSpacing(), atol=1e-5)


def test_a_colour_picture_keeps_channels_and_stands_the_right_way_up(tmp_path: Path) -> None:
    source = picture()
    sitk.WriteImage(source, str(tmp_path / "a.png"))
    image = io.read_image(tmp_path / "a.png", PICTURE)
    assert image.colour and tuple(image.data.shape) == (3, 24, 16)
    assert image.data[:, 5, 2].tolist() == list(source[5, 2])
    io.write_image(image, tmp_path / "b.png")
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "b.png"))), sitk.GetArrayFromImage(source)
    )


def test_a_mask_round_trip_keeps_names_colours_and_terminology(tmp_path: Path) -> None:
    import slicerio

    labels = torch.zeros(6, 5, 4, dtype=torch.int16)
    labels[1:3, 1:3, 1:3] = 1
    labels[4, 4, 3] = 2
    liver = (
        "Segmentation category and type~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~Anatomic codes~^^~^^"
    )
    segments = [Segment(1, "liver", (0.8, 0.5, 0.3), liver), Segment(2, "β-cell", (0.0, 1.0, 0.0))]
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    io.write_mask(Mask(labels, affine, segments), tmp_path / "m.seg.nrrd")
    mask = io.read_mask(tmp_path / "m.seg.nrrd")
    assert torch.equal(mask.data, labels) and mask.segments == segments
    np.testing.assert_allclose(mask.affine, affine, atol=1e-9)
    theirs = slicerio.read_segmentation(str(tmp_path / "m.seg.nrrd"))
    # pynrrd, on which slicerio stands, drops what is not ASCII; Slicer does not.
    assert [segment["name"] for segment in theirs["segments"]] == ["liver", "-cell"]
    np.testing.assert_array_equal(theirs["voxels"], labels.numpy())


def test_overlapping_segments_become_one_map_by_the_stated_rule_and_are_counted(tmp_path: Path) -> None:
    layers = np.zeros((4, 5, 6, 2), np.uint8)
    layers[1:3, 1:4, 1:4, 0] = 1
    layers[2:4, 2:4, 2:4, 1] = 1
    overlap = int((layers[..., 0] & layers[..., 1]).sum())
    image = sitk.GetImageFromArray(layers, isVector=True)
    for index, name in enumerate(("first", "second")):
        for key, value in (("LabelValue", "1"), ("Layer", str(index)), ("Name", name), ("ID", name)):
            image.SetMetaData(f"Segment{index}_{key}", value)
    sitk.WriteImage(image, str(tmp_path / "o.seg.nrrd"))
    said: list[str] = []
    mask = io.read_mask(tmp_path / "o.seg.nrrd", log=said.append)
    assert [segment.name for segment in mask.segments] == ["first", "second"]
    assert int((mask.data == 2).sum()) == int(layers[..., 1].sum())
    assert int((mask.data == 1).sum()) == int(layers[..., 0].sum()) - overlap
    assert len(said) == 1 and f"{overlap} voxels" in said[0] and "later wins" in said[0]


def test_a_label_map_without_names_gets_a_segment_for_each_value(tmp_path: Path) -> None:
    array = np.zeros((3, 4, 5), np.uint8)
    array[0, 0, :2] = 7
    array[1, 1, 1] = 3
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "l.nii.gz"))
    mask = io.read_mask(tmp_path / "l.nii.gz")
    assert [(segment.value, segment.name) for segment in mask.segments] == [(3, "label_3"), (7, "label_7")]


def test_an_image_is_no_mask(tmp_path: Path) -> None:
    sitk.WriteImage(volume(), str(tmp_path / "v.nrrd"))
    with pytest.raises(UserError, match="fractions, not labels"):
        io.read_mask(tmp_path / "v.nrrd")


def test_markups_round_trip_in_ras_whatever_the_file_says(tmp_path: Path) -> None:
    rotation = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    points = Points(np.array([[1.0, 2, 3], [np.nan] * 3]), ["sella", "lost"], np.array([0.9, np.nan]), "P")
    values = {
        Kind.POINTS: points,
        Kind.PLANE: Plane(np.array([1.0, -2, 3]), rotation, "plane"),
        Kind.BOX: Box(np.array([4.0, 5, 6]), rotation, np.array([10.0, 20, 30]), "box", 0.5),
        Kind.SPHERE: Sphere(np.array([4.0, 5, 6]), 2.5, "ball"),
    }
    for kind, value in values.items():
        file = tmp_path / f"{kind.value}.mrk.json"
        io.write(value, kind, file)
        role = Role("r", kind, "markups")
        back = io.read(file, role)[0]
        for key, expected in vars(value).items():
            np.testing.assert_equal(getattr(back, key), expected, err_msg=f"{kind} {key}")
    form = json.loads((tmp_path / "Points.mrk.json").read_text())
    assert form["markups"][0]["controlPoints"][0]["position"] == [-1.0, -2.0, 3.0]
    form["markups"][0]["coordinateSystem"] = "RAS"
    (tmp_path / "ras.mrk.json").write_text(json.dumps(form))
    np.testing.assert_allclose(
        io.read(tmp_path / "ras.mrk.json", Role("r", Kind.POINTS, ""))[0].positions[0], [-1, -2, 3]
    )


def test_markups_of_another_kind_are_named(tmp_path: Path) -> None:
    io.write(Sphere(np.zeros(3), 1.0), Kind.SPHERE, tmp_path / "s.mrk.json")
    with pytest.raises(UserError, match="holds ROI, but role “line” needs a line"):
        io.read(tmp_path / "s.mrk.json", Role("line", Kind.LINE, ""))


@pytest.mark.parametrize("content", ["", "{}", '{"markups": 3}', '{"markups": [{"type": "Plane"}]}', "\x00"])
def test_a_damaged_markups_file_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "d.mrk.json").write_text(content)
    with pytest.raises(UserError, match="d.mrk.json is not a readable Slicer markups file"):
        io.read(tmp_path / "d.mrk.json", Role("planes", Kind.PLANE, ""))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.97])
def test_a_truncated_file_is_a_sentence_that_names_it(tmp_path: Path, ending: str, share: float) -> None:
    file = tmp_path / f"cut{ending}"
    sitk.WriteImage(picture() if ending == ".png" else volume((30, 30, 30)), str(file))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=f"cut{ending}"):
        io.read_image(file)


def test_a_damaged_byte_in_a_compressed_file_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "flipped.nii.gz"
    sitk.WriteImage(volume((30, 30, 30)), str(file))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x55
    file.write_bytes(content)
    with pytest.raises(UserError, match="flipped.nii.gz"):
        io.read_image(file)


@pytest.mark.parametrize(
    ("make", "role", "words"),
    [
        (lambda: picture(), VOLUME, "2D picture, but role “image” needs a 3D volume"),
        (lambda: volume(), PICTURE, "3D volume, but role “image” needs a 2D picture"),
        (lambda: sitk.Image((4, 4, 4, 3), sitk.sitkFloat32), VOLUME, "4 axes"),
    ],
)
def test_wrong_dimensions_are_named(tmp_path: Path, make: object, role: Role, words: str) -> None:
    sitk.WriteImage(make(), str(tmp_path / "x.nrrd"))  # type: ignore[operator]
    with pytest.raises(UserError, match=words):
        io.read_image(tmp_path / "x.nrrd", role)


def test_a_missing_file_and_a_folder_without_dicom_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.nrrd does not exist"):
        io.read_image(tmp_path / "nowhere.nrrd")
    with pytest.raises(UserError, match="holds no DICOM series"):
        io.read_image(tmp_path)


def test_a_dicom_series_is_read_as_one_volume(data: Path) -> None:
    image = io.read_image(data / "mr_head_studyforrest" / "dicom_slices", VOLUME)
    assert image.shape[2] > 1 and torch.isfinite(image.data).all()


def test_an_output_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    image = Image(torch.zeros(1, 2, 2, 2), np.eye(4))
    with pytest.raises(UserError, match="cannot be written"):
        io.write_image(image, tmp_path / "file" / "out.nii.gz")


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not on this system")
    with pytest.raises(UserError, match="no space left"), io.written_whole(tmp_path / "a.bin") as partial:
        partial.symlink_to("/dev/full")
        with partial.open("wb", buffering=0) as file:
            file.write(b"x" * 10)
    assert list(tmp_path.iterdir()) == []


def test_a_gzip_that_is_not_an_image_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(UserError, match="text.nii.gz"):
        io.read_image(tmp_path / "text.nii.gz")


@pytest.mark.parametrize(("system", "expected"), [("0", (1.0, 2.0, 3.0)), ("LPS", (-1.0, -2.0, 3.0))])
def test_points_of_slicers_former_file_are_read_in_ras(
    tmp_path: Path, system: str, expected: tuple[float, ...]
) -> None:
    (tmp_path / "old.fcsv").write_text(
        f"# Markups fiducial file version = 4.6\n# CoordinateSystem = {system}\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "n_1,1,2,3,0,0,0,1,1,1,0,AC,a point,\nn_2,4,5,6,0,0,0,1,1,1,0,,,\n"
    )
    (points,) = io.read(tmp_path / "old.fcsv", Role("landmarks", Kind.POINTS, ""))
    assert points.names == ["AC", "n_2"]
    np.testing.assert_array_equal(points.positions[0], expected)
    (tmp_path / "bad.fcsv").write_text("n_1,x,2,3\n")
    with pytest.raises(UserError, match=r"bad\.fcsv is not a readable \.fcsv file"):
        io.read(tmp_path / "bad.fcsv", Role("landmarks", Kind.POINTS, ""))
    with pytest.raises(UserError, match="holds points, but role “plane” needs a plane"):
        io.read(tmp_path / "old.fcsv", Role("plane", Kind.PLANE, ""))


def test_real_fiducials_lie_in_their_template() -> None:
    folder = DATA / "mr_template_afids_landmarks"
    if not folder.is_dir():
        pytest.skip("the shared data are not at hand")
    (points,) = io.read(folder / "mni152_2009_sym_afids.fcsv", Role("landmarks", Kind.POINTS, ""))
    image = io.read_image(folder / "mni152_2009a_sym_t1_1mm.nii.gz")
    index = np.linalg.solve(image.affine, np.column_stack([points.positions, np.ones(32)]).T)[:3]
    assert points.positions.shape == (32, 3) and (index > 0).all()
    assert (np.array(image.shape) - 1 > index.T).all()
    assert points.names[0] == "1" and np.linalg.norm(points.positions[0]) < 6.0  # the anterior commissure
