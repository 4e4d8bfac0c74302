"""Volumes across the boundary: what SimpleITK reads from the file lies where Slicer shows it, and back."""

from __future__ import annotations

import contextlib
import itertools
import signal
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
from boundary_tools import (
    LINEAR_PARENTS,
    OBLIQUE,
    assert_node_same_in_world,
    assert_same_voxels_in_world,
    bend,
    corners,
    file_matrix,
    noise,
    parent,
    rotation,
    scene_state,
    shear,
    translation,
    volume,
    world_matrix,
)

from MedGenLib import export
from MedGenLib.errors import BoundaryError
from MedGenLib.export import export_node
from MedGenLib.load import load_result, provenance_of


def blob(shape: tuple[int, int, int], index: tuple[float, float, float], sigma: float = 2.0) -> np.ndarray:
    """A float Gaussian [k, j, i] of height 1000 at an index (i, j, k)."""
    k, j, i = np.mgrid[: shape[0], : shape[1], : shape[2]]
    square = (i - index[0]) ** 2 + (j - index[1]) ** 2 + (k - index[2]) ** 2
    return (1000 * np.exp(-square / 2 / sigma**2)).astype(np.float32)


def centre_of_mass(path: Path) -> np.ndarray:
    """World RAS of a file's intensity centroid, by SimpleITK."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image).astype(float)
    weights = array / array.sum()
    index = [float((weights * axis).sum()) for axis in np.mgrid[tuple(slice(n) for n in array.shape)]][::-1]
    return (file_matrix(image) @ [*index, 1])[:3]


@pytest.mark.parametrize("name", ["none", *LINEAR_PARENTS])
def test_linear_parents_go_into_the_axes_and_change_no_voxel(scene: Any, tmp_path: Path, name: str) -> None:
    array = noise((4, 5, 6))
    node = volume(array, translation(1, 2, 3) @ np.diag([1.5, 1.5, 1.5, 1.0]) if name == "scaled" else OBLIQUE)
    if name != "none":
        parent(node, LINEAR_PARENTS[name])
    logged: list[str] = []
    path = export_node(node, tmp_path, "image", "Image", log=logged.append)
    assert path == tmp_path / "image.nrrd"
    assert_same_voxels_in_world(path, array, world_matrix(node))
    assert logged == []


def test_anisotropic_scaling_along_the_axes_changes_no_voxel(scene: Any, tmp_path: Path) -> None:
    array = noise((4, 5, 6))
    node = volume(array, translation(9, 8, 7) @ np.diag([-1.0, 2.0, 3.0, 1.0]))
    parent(node, rotation(30, 0, 10) @ np.diag([0.5, 3.0, 1.25, 1.0]))
    assert_same_voxels_in_world(
        export_node(node, tmp_path, "image", "Image", log=pytest.fail), array, world_matrix(node)
    )


def test_nested_parents_are_multiplied_outermost_last(scene: Any, tmp_path: Path) -> None:
    array = noise((4, 5, 6))
    node = volume(array)
    inner = parent(node, translation(50, 0, 0))
    outer = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "outer")
    outer.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(rotation(z=90)))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    path = export_node(node, tmp_path, "image", "Image", log=pytest.fail)
    assert_same_voxels_in_world(path, array, rotation(z=90) @ translation(50, 0, 0) @ OBLIQUE)


@pytest.mark.parametrize("number", range(48))
def test_every_axis_order_comes_out_and_back_where_it_lay(scene: Any, tmp_path: Path, number: int) -> None:
    order = list(itertools.permutations(range(3)))[number // 8]
    signs = [(-1.0) ** (number >> bit & 1) for bit in range(3)]
    matrix = translation(-11, 22, 33) @ np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, list(order)] * signs * [0.9, 1.7, 2.6]
    array = noise((4, 5, 6), seed=number)
    path = export_node(volume(array, matrix), tmp_path, "image", "Image", log=pytest.fail)
    assert_same_voxels_in_world(path, array, matrix)
    back = load_result(path, "Image", "back")
    assert_node_same_in_world(back, array, matrix)


def test_sheared_parent_is_resampled_onto_right_angles_and_reported(scene: Any, tmp_path: Path) -> None:
    node = volume(blob((24, 26, 28), (14, 12, 11)), translation(5, 6, 7) @ np.diag([1.0, 1.2, 1.5, 1.0]))
    parent(node, translation(100, 0, 0) @ shear(0.5))
    logged: list[str] = []
    path = export_node(node, tmp_path, "image", "Image", log=logged.append)
    direction = np.array(sitk.ReadImage(str(path)).GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(centre_of_mass(path), (world_matrix(node) @ [14, 12, 11, 1])[:3], atol=0.05)
    assert len(logged) == 1 and "CT" in logged[0] and "shear" in logged[0]


def test_resampling_keeps_the_whole_sheared_volume(scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_background", lambda node: 0.0)
    node = volume(np.full((6, 40, 20), 7, np.int16), np.eye(4))
    parent(node, shear(0.8))
    image = sitk.ReadImage(str(export_node(node, tmp_path, "image", "Image", log=lambda _: None)))
    inside = np.argwhere(sitk.GetArrayFromImage(image) > 3)[:, ::-1]
    lie = inside @ file_matrix(image)[:3, :3].T + file_matrix(image)[:3, 3]
    expected = corners(world_matrix(node), (20, 40, 6))
    np.testing.assert_allclose(lie.min(axis=0), expected.min(axis=0), atol=1.0)
    np.testing.assert_allclose(lie.max(axis=0), expected.max(axis=0), atol=1.0)


@pytest.mark.parametrize("kind", ["spline", "grid"])
def test_warped_parent_is_hardened_on_a_copy_and_reported(scene: Any, tmp_path: Path, kind: str) -> None:
    matrix = translation(5, 6, 7) @ rotation(10, 20, 30) @ np.diag([1.0, 1.2, 1.5, 1.0])
    node = volume(blob((24, 26, 28), (14, 12, 11)), matrix)
    middle = (matrix @ [14, 12, 11, 1])[:3]
    warp = bend(node, middle, 20.0, kind)
    logged: list[str] = []
    path = export_node(node, tmp_path, "image", "Image", log=logged.append)
    # a warp bends the blob too, so its centroid is compared with the warped blob's own
    samples = np.random.default_rng(0).normal((14, 12, 11), 2.0, (4000, 3))
    expected = np.mean([warp(p) for p in samples @ matrix[:3, :3].T + matrix[:3, 3]], axis=0)
    np.testing.assert_allclose(centre_of_mass(path), expected, atol=0.3)
    assert np.linalg.norm(expected - middle) > 1.0
    assert len(logged) == 1 and "CT" in logged[0] and "non-linear" in logged[0]


def test_transform_that_would_blow_a_volume_up_is_refused_by_name(scene: Any, tmp_path: Path) -> None:
    node = volume(noise((100, 100, 100)), np.eye(4))
    parent(node, shear(30.0))
    with pytest.raises(BoundaryError, match="CT.*stretches it to .* voxels"):
        export_node(node, tmp_path / "run", "image", "Image", log=pytest.fail)
    assert not (tmp_path / "run").exists()


def test_own_sheared_axes_are_resampled_but_rounding_of_dicom_is_not(scene: Any, tmp_path: Path) -> None:
    array = noise((4, 5, 6))
    logged: list[str] = []
    export_node(volume(array, shear(0.3) @ OBLIQUE), tmp_path, "sheared", "Image", log=logged.append)
    assert len(logged) == 1
    rounded = OBLIQUE.copy()
    rounded[:3, :3] = np.round(rotation(20, -35, 50)[:3, :3], 5) * [0.7, 1.3, 2.9]
    path = export_node(volume(array, rounded), tmp_path, "rounded", "Image", log=pytest.fail)
    assert_same_voxels_in_world(path, array, rounded)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.uint64, np.float32, np.float64]
)
def test_voxel_types_and_values_are_kept(scene: Any, tmp_path: Path, dtype: Any) -> None:
    array = noise((3, 4, 5)).astype(dtype) if dtype is not np.int8 else (noise((3, 4, 5)) - 100).astype(dtype)
    path = export_node(volume(array), tmp_path, "image", "Image", log=pytest.fail)
    refused = {np.int8: np.int16, np.uint64: np.float64}  # by Slicer's writers
    written = refused.get(dtype, dtype)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).dtype == written
    assert_same_voxels_in_world(path, array, OBLIQUE)


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
def test_oblique_file_comes_in_where_it_lies(scene: Any, tmp_path: Path, ending: str) -> None:
    array = noise((4, 5, 6)).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    lps = np.diag([-1, -1, 1, 1]) @ OBLIQUE
    image.SetSpacing([0.7, 1.3, 2.9])
    image.SetDirection((lps[:3, :3] / [0.7, 1.3, 2.9]).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(tmp_path / f"out{ending}"))
    reference = volume(array, OBLIQUE)
    parent(reference, translation(1, 0, 0))
    node = load_result(tmp_path / f"out{ending}", "Image", "result", reference=reference, provenance={"seed": 3})
    assert_node_same_in_world(node, array, OBLIQUE)
    assert node.GetParentTransformNode() is None
    assert node.GetStorageNode() is None, "a saved scene must not point into the run's folder"
    assert node.GetDisplayNode() is not None
    assert provenance_of(node) == {"seed": "3"}


def test_export_leaves_the_scene_as_it_was(scene: Any, tmp_path: Path) -> None:
    straight, sheared, warped = (volume(noise((6, 7, 8)), np.eye(4), name) for name in ("a", "b", "c"))
    parent(straight, LINEAR_PARENTS["rotated"])
    parent(sheared, shear(0.4))
    bend(warped, np.array([4.0, 3.0, 3.0]), 8.0)
    before = scene_state(scene)
    for node in (straight, sheared, warped):
        export_node(node, tmp_path, "image", "Image", log=lambda _: None)
    assert scene_state(scene) == before


def read_as_slicer_does(path: Path) -> Any:
    """A volume node with its storage node, as File > Add data leaves it."""
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "from file")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    node.SetAndObserveStorageNodeID(storage.GetID())
    return node


@pytest.mark.parametrize("ending", [".nrrd", ".nii", ".nii.gz", ".mha"])
def test_unmodified_volume_is_handed_over_as_its_own_file(scene: Any, tmp_path: Path, ending: str) -> None:
    source = tmp_path / f"scan{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(noise((4, 5, 6))), str(source))
    folder = tmp_path / "run"
    assert export_node(read_as_slicer_does(source), folder, "image", "Image", log=pytest.fail) == source
    assert not folder.exists()


def change_voxels(node: Any) -> None:
    slicer.util.arrayFromVolume(node)[0, 0, 0] = 99
    slicer.util.arrayFromVolumeModified(node)


@pytest.mark.parametrize(
    "change",
    [
        change_voxels,
        lambda node: node.SetSpacing(2, 2, 2),
        lambda node: node.SetOrigin(5, 0, 0),
        lambda node: node.SetIJKToRASDirections(0, 1, 0, 1, 0, 0, 0, 0, 1),
        lambda node: parent(node, translation(0, 0, 9)),
        lambda node: node.GetStorageNode().SetCenterImage(1),
        lambda node: Path(node.GetStorageNode().GetFileName()).unlink(),
    ],
    ids=["voxels", "spacing", "origin", "axes", "parent", "centred", "file gone"],
)
def test_changed_volume_is_written_again(scene: Any, tmp_path: Path, change: Any) -> None:
    source = tmp_path / "scan.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(noise((4, 5, 6))), str(source))
    node = read_as_slicer_does(source)
    change(node)
    path = export_node(node, tmp_path / "run", "image", "Image", log=pytest.fail)
    assert path == tmp_path / "run" / "image.nrrd"
    assert_same_voxels_in_world(path, slicer.util.arrayFromVolume(node), world_matrix(node))


@pytest.mark.parametrize("name", ["series.nii", "series.nii.gz", "series.nrrd", "series.mha"])
def test_one_frame_of_a_4d_file_is_not_handed_over_as_the_4d_file(tmp_path: Path, name: str) -> None:
    frames = [sitk.GetImageFromArray(noise((4, 5, 6), seed=seed)) for seed in (0, 1)]
    sitk.WriteImage(sitk.JoinSeries(frames), str(tmp_path / name))
    assert export._axes_of(tmp_path / name) == 4


def test_nifti_with_sheared_axes_is_not_handed_over(scene: Any, tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    sitk.WriteImage(sitk.GetImageFromArray(noise((4, 5, 6))), str(path))
    assert export._axes_of(path) == 3
    header = bytearray(path.read_bytes())
    struct.pack_into("<f", header, 284, 0.3)  # the first row's second element of the sform
    path.write_bytes(header)
    assert export._axes_of(path) is None


def test_messages_name_the_node_and_leave_nothing_behind(scene: Any, tmp_path: Path) -> None:
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
    vectors = volume(noise((3, 4, 5, 3)).astype(np.float32), name="Field")
    labels = volume(noise((3, 4, 5)), name="Labels", class_name="vtkMRMLLabelMapVolumeNode")
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "P")
    run = tmp_path / "run"
    for node, kind, word in (
        (empty, "Image", "no image data"),
        (vectors, "Image", "3 values"),
        (labels, "Image", "label map"),
        (points, "Image", "choose a scalar or colour volume"),
        (empty, "Points", "choose a point list"),
        (None, "Mask", "choose a segmentation"),
    ):
        with pytest.raises(BoundaryError, match=word) as raised:
            export_node(node, run, "image", kind, log=pytest.fail)
        assert node is None or node.GetName() in str(raised.value)
        assert not run.exists()


def test_unwritable_folder_is_one_sentence(scene: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BoundaryError, match="CT.*cannot be written"):
        export_node(volume(noise((3, 4, 5))), tmp_path / "file" / "run", "image", "Image", log=pytest.fail)


def test_failed_write_leaves_folder_and_scene_as_they_were(
    scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = volume(noise((3, 4, 5)))
    before = scene_state(scene)
    monkeypatch.setattr(slicer, "vtkMRMLVolumeArchetypeStorageNode", slicer.vtkMRMLTableStorageNode)
    with pytest.raises(BoundaryError, match="CT.*could not be written"):
        export_node(node, tmp_path / "new" / "run", "image", "Image", log=pytest.fail)
    assert list(tmp_path.iterdir()) == []
    assert scene_state(scene) == before


def test_full_disk_is_one_sentence_and_leaves_no_file(scene: Any, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits stand in for a full disk on Unix only")
    points = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Many")
    for number in range(300):
        points.AddControlPoint([number, number, number])
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "Long")
    slicer.util.updateTableFromArray(table, np.random.default_rng(0).random((5000, 2)), ["a", "b"])
    picture = np.random.default_rng(0).integers(0, 255, (1, 200, 200, 3)).astype(np.uint8)
    many = {
        "Image": volume(noise((50, 50, 50)), name="Volume"),
        "Mask": volume(noise((50, 50, 50)), name="Labels", class_name="vtkMRMLLabelMapVolumeNode"),
        "Points": points,
        "Table": table,
    }
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    cases = [*many.items(), ("Image", volume(picture, np.diag([-1.0, -1.0, 1.0, 1.0]), "Picture"))]
    written = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (32768, limits[1]))
    try:
        for kind, node in cases:
            with contextlib.suppress(BoundaryError):
                written.append(export_node(node, tmp_path / "run", "role", kind, log=pytest.fail))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert written == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folder_is_never_replaced(scene: Any, tmp_path: Path) -> None:
    node = volume(noise((3, 4, 5)))
    paths = [export_node(node, tmp_path, "image", "Image", log=pytest.fail) for _ in range(2)]
    assert [path.name for path in paths] == ["image.nrrd", "image-2.nrrd"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image-2.nrrd", "image.nrrd"]


@pytest.mark.parametrize("content", [None, b"", b"not an image"])
def test_unreadable_result_leaves_the_scene_as_it_was(scene: Any, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "out.nrrd"
    if content is not None:
        path.write_bytes(content)
    before = scene_state(scene)
    for kind in ("Image", "Mask"):
        with pytest.raises(BoundaryError, match="out.nrrd"):
            load_result(path, kind, "result")
    assert scene_state(scene) == before


def test_loading_never_overwrites_a_node(scene: Any, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(noise((3, 4, 5))), str(tmp_path / "a.nrrd"))
    first = load_result(tmp_path / "a.nrrd", "Image", "result")
    second = load_result(tmp_path / "a.nrrd", "Image", "result")
    assert first is not second and first.GetName() != second.GetName()
