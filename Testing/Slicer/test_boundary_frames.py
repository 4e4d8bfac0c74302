"""Plain pictures across the boundary: an asymmetric one shows which way is up and which way is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
from boundary_tools import (
    OBLIQUE,
    assert_same_voxels_in_world,
    file_matrix,
    noise,
    parent,
    translation,
    volume,
    world_matrix,
)

from MedGenLib.errors import BoundaryError
from MedGenLib.export import export_node
from MedGenLib.load import load_result

PICTURE = np.diag([-1.0, -1.0, 1.0, 1.0])


def asymmetric(channels: int) -> np.ndarray:
    """(6, 9, channels) uint8: red falls from the top row down, green rises to the right, one bright corner top left."""
    rows, columns = np.mgrid[:6, :9]
    array = np.stack([200 - 30 * rows, 20 * columns, 7 * rows + columns, 255 - rows], axis=-1)[..., :channels]
    array[0, 0] = 255
    return array.astype(np.uint8)


def frame(array: np.ndarray, matrix: np.ndarray = PICTURE, name: str = "Frame") -> Any:
    """A volume node of one slice whose row j = 0 is the top row of `array`."""
    single = array.shape[-1] == 1
    return volume(array[None, ..., 0] if single else array[None], matrix, name)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_frame_becomes_a_png_the_right_way_up_and_comes_back(scene: Any, tmp_path: Path, channels: int) -> None:
    array = asymmetric(channels)
    node = frame(array)
    path = export_node(node, tmp_path, "image", "Image", log=pytest.fail)
    assert path.name == "image.png"
    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))  # row 0 is the top of the picture
    np.testing.assert_array_equal(seen.reshape(array.shape), array)
    back = load_result(path, "Image", "back", reference=node)
    assert back.GetClassName() == ("vtkMRMLScalarVolumeNode" if channels == 1 else "vtkMRMLVectorVolumeNode")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(back).reshape(array.shape), array)
    np.testing.assert_array_equal(world_matrix(back), PICTURE)


def test_picture_written_elsewhere_comes_in_the_right_way_up(scene: Any, tmp_path: Path) -> None:
    array = asymmetric(3)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "out.png"))
    node = load_result(tmp_path / "out.png", "Image", "result")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node)[0], array)
    # Slicer's axial view has anterior on top and the patient's right on the left
    assert (world_matrix(node) @ [0, 0, 0, 1])[1] > (world_matrix(node) @ [0, 5, 0, 1])[1]
    assert (world_matrix(node) @ [0, 0, 0, 1])[0] > (world_matrix(node) @ [8, 0, 0, 1])[0]


def test_sixteen_bit_and_half_transparent_pictures_come_in(scene: Any, tmp_path: Path) -> None:
    grey = (asymmetric(1)[..., 0].astype(np.uint16)) * 250
    sitk.WriteImage(sitk.GetImageFromArray(grey), str(tmp_path / "grey16.png"))
    node = load_result(tmp_path / "grey16.png", "Image", "result")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node)[0], grey)
    both = asymmetric(2)
    sitk.WriteImage(sitk.GetImageFromArray(both, isVector=True), str(tmp_path / "greyalpha.png"))
    node = load_result(tmp_path / "greyalpha.png", "Image", "result")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node)[0], both[..., 0])


def test_picture_is_put_where_the_slice_of_its_size_lies(scene: Any, tmp_path: Path) -> None:
    reference = volume(noise((1, 6, 9)), OBLIQUE, "US")
    parent(reference, translation(0, 0, 50))
    array = asymmetric(3)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), str(tmp_path / "out.png"))
    node = load_result(tmp_path / "out.png", "Image", "result", reference=reference)
    np.testing.assert_allclose(world_matrix(node), translation(0, 0, 50) @ OBLIQUE, atol=1e-9)
    assert node.GetParentTransformNode() is None
    other = volume(noise((1, 6, 8)), OBLIQUE, "other size")
    node = load_result(tmp_path / "out.png", "Image", "result", reference=other)
    np.testing.assert_array_equal(world_matrix(node), PICTURE)


@pytest.mark.parametrize("channels", [1, 3])
def test_frame_with_a_place_in_the_patient_keeps_it(scene: Any, tmp_path: Path, channels: int) -> None:
    array = asymmetric(channels)
    path = export_node(frame(array, OBLIQUE), tmp_path, "image", "Image", log=pytest.fail)
    assert path.name == "image.nrrd"
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).reshape(array.shape), array)
    np.testing.assert_allclose(file_matrix(image), OBLIQUE, atol=1e-6)
    back = load_result(path, "Image", "back")
    assert back.GetImageData().GetNumberOfScalarComponents() == channels
    np.testing.assert_allclose(world_matrix(back), OBLIQUE, atol=1e-6)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(back).reshape(array.shape), array)


def test_frame_under_a_transform_is_no_plain_picture(scene: Any, tmp_path: Path) -> None:
    node = frame(asymmetric(3))
    parent(node, translation(5, 0, 0))
    path = export_node(node, tmp_path, "image", "Image", log=pytest.fail)
    assert path.name == "image.nrrd"
    np.testing.assert_allclose(file_matrix(sitk.ReadImage(str(path))), translation(5, 0, 0) @ PICTURE, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_grey_slice_of_more_than_8_bit_becomes_a_nrrd(scene: Any, tmp_path: Path, dtype: Any) -> None:
    array = noise((1, 6, 9)).astype(dtype) * 100
    path = export_node(volume(array, PICTURE), tmp_path, "image", "Image", log=pytest.fail)
    assert path.name == "image.nrrd"
    assert_same_voxels_in_world(path, array, PICTURE)


def test_colour_volume_keeps_its_slices(scene: Any, tmp_path: Path) -> None:
    array = noise((4, 5, 6, 3)).astype(np.uint8)
    path = export_node(volume(array), tmp_path, "image", "Image", log=pytest.fail)
    assert_same_voxels_in_world(path, array, OBLIQUE)
    back = load_result(path, "Image", "back")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(back), array)


def test_damaged_picture_leaves_the_scene_as_it_was(scene: Any, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(asymmetric(3), isVector=True), str(tmp_path / "whole.png"))
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(whole[:20])
    (tmp_path / "cut in the pixels.png").write_bytes(whole[:-20])
    (tmp_path / "scrambled.png").write_bytes(whole[:60] + bytes(4) + whole[64:])
    count = scene.GetNumberOfNodes()
    for name in ("text.png", "cut.png", "cut in the pixels.png", "scrambled.png", "absent.png"):
        with pytest.raises(BoundaryError, match=name):
            load_result(tmp_path / name, "Image", "result")
    assert scene.GetNumberOfNodes() == count
