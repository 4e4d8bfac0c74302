"""Segmentations and label maps across the boundary: own geometry, layers, names, colours, parents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
import slicerio
import vtk
from boundary_tools import (
    LINEAR_PARENTS,
    OBLIQUE,
    TOLERANCE,
    bend,
    file_matrix,
    noise,
    parent,
    rotation,
    scene_state,
    shear,
    translation,
    volume,
)

from MedGenLib.errors import BoundaryError
from MedGenLib.export import export_node
from MedGenLib.load import load_result

SHAPE = (10, 12, 14)  # k, j, i
COLOURS = {"liver": (0.9, 0.4, 0.2), "tumour": (0.1, 0.8, 0.3), "vessel": (0.2, 0.3, 0.7)}


def box(low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    """uint8 [k, j, i], 1 where low <= (i, j, k) < high."""
    array = np.zeros(SHAPE, np.uint8)
    array[low[2] : high[2], low[1] : high[1], low[0] : high[0]] = 1
    return array


BOXES = {
    "liver": box((2, 3, 1), (7, 8, 5)),
    "tumour": box((5, 3, 1), (10, 8, 5)),
    "vessel": box((11, 9, 6), (13, 11, 9)),
}


def segmentation(names: list[str], matrix: np.ndarray = OBLIQUE) -> Any:
    """A segmentation drawn on a grid of its own: "liver" and "tumour" overlap, "vessel" stands apart."""
    grid = volume(np.zeros(SHAPE, np.uint8), matrix, "grid")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Seg")
    node.SetReferenceImageGeometryParameterFromVolumeNode(grid)
    for name in names:
        identity = node.GetSegmentation().AddEmptySegment(name, name, COLOURS.get(name, (1.0, 1.0, 0.0)))
        if name in BOXES:
            slicer.util.updateSegmentBinaryLabelmapFromArray(BOXES[name], node, identity, grid)
    slicer.mrmlScene.RemoveNode(grid)
    return node


def positions(array: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """World RAS of the voxels of `array` [k, j, i] that are set, sorted."""
    index = np.argwhere(array)[:, ::-1]
    found = index @ matrix[:3, :3].T + matrix[:3, 3]
    return found[np.lexsort(np.round(found, 2).T)]


def segments_of(path: Path) -> dict[str, np.ndarray]:
    """By segment name, the world positions of its voxels: header read by slicerio, geometry by SimpleITK."""
    header = slicerio.read_segmentation(str(path))
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    array = array[..., None] if image.GetNumberOfComponentsPerPixel() == 1 else array
    return {
        segment["name"]: positions(array[..., segment["layer"]] == segment["labelValue"], file_matrix(image))
        for segment in header["segments"]
    }


def assert_same_places(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    if not len(expected):
        return
    nearest = np.linalg.norm(found[:, None] - expected[None], axis=2).min(axis=0)
    assert nearest.max() < TOLERANCE


@pytest.mark.parametrize("name", ["none", *LINEAR_PARENTS])
def test_own_grid_and_overlapping_segments_come_out_in_world(scene: Any, tmp_path: Path, name: str) -> None:
    node = segmentation(["liver", "tumour", "vessel"])
    above = LINEAR_PARENTS.get(name, np.eye(4))
    if name != "none":
        parent(node, above)
    assert node.GetSegmentation().GetNumberOfLayers() > 1
    path = export_node(node, tmp_path, "mask", "Mask", log=pytest.fail)
    assert path.name == "mask.seg.nrrd"
    found = segments_of(path)
    assert list(found) == ["liver", "tumour", "vessel"]
    for segment, array in BOXES.items():
        assert_same_places(found[segment], positions(array, above @ OBLIQUE))


def test_names_and_colours_are_in_the_file(scene: Any, tmp_path: Path) -> None:
    path = export_node(segmentation(["liver", "vessel"]), tmp_path, "mask", "Mask", log=pytest.fail)
    segments = slicerio.read_segmentation(str(path))["segments"]
    for segment in segments:
        np.testing.assert_allclose(segment["color"], COLOURS[segment["name"]], atol=1e-3)


def test_empty_segment_keeps_its_name(scene: Any, tmp_path: Path) -> None:
    found = segments_of(export_node(segmentation(["liver", "nothing yet"]), tmp_path, "mask", "Mask", log=pytest.fail))
    assert {name: len(places) for name, places in found.items()} == {"liver": 100, "nothing yet": 0}


def test_only_the_chosen_segments_are_written(scene: Any, tmp_path: Path) -> None:
    node = segmentation(["liver", "tumour", "vessel"])
    before = scene_state(scene)
    path = export_node(node, tmp_path, "mask", "Mask", segments=["tumour", "vessel"], log=pytest.fail)
    found = segments_of(path)
    assert list(found) == ["tumour", "vessel"]
    assert_same_places(found["tumour"], positions(BOXES["tumour"], OBLIQUE))
    assert scene_state(scene) == before
    with pytest.raises(BoundaryError, match="Seg.*spleen.*liver, tumour, vessel"):
        export_node(node, tmp_path, "mask", "Mask", segments=["spleen"], log=pytest.fail)


def overlap(found: np.ndarray, expected: np.ndarray, size: float) -> float:
    """Share of expected positions that have a found one within `size` mm."""
    return float((np.linalg.norm(found[None] - expected[:, None], axis=2).min(axis=1) < size).mean())


@pytest.mark.parametrize("kind", ["shear", "spline", "grid"])
def test_sheared_and_warped_segments_are_resampled_in_all_layers(scene: Any, tmp_path: Path, kind: str) -> None:
    matrix = translation(1, 2, 3) @ rotation(5, 10, 15) @ np.diag([2.0, 2.0, 2.0, 1.0])
    node = segmentation(["liver", "tumour", "nothing yet"], matrix)
    if kind == "shear":
        above = translation(40, 0, 0) @ shear(0.6)
        parent(node, above)
        moved = {name: positions(BOXES[name], above @ matrix) for name in ("liver", "tumour")}
    else:
        warp = bend(node, (matrix @ [6, 6, 4, 1])[:3], 20.0, kind)
        moved = {name: np.array([warp(p) for p in positions(BOXES[name], matrix)]) for name in ("liver", "tumour")}
    before = scene_state(scene)
    logged: list[str] = []
    path = export_node(node, tmp_path, "mask", "Mask", log=logged.append)
    assert scene_state(scene) == before
    assert len(logged) == 1 and "Seg" in logged[0]
    direction = np.array(sitk.ReadImage(str(path)).GetDirection()).reshape(3, 3)
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-9)
    found = segments_of(path)
    assert list(found) == ["liver", "tumour", "nothing yet"]
    for name, expected in moved.items():
        assert overlap(found[name], expected, 2.0) == 1.0
        # nearest neighbour moves an edge by up to half a voxel (1 mm)
        np.testing.assert_allclose(found[name].mean(axis=0), expected.mean(axis=0), atol=1.0)
        assert len(found[name]) == pytest.approx(len(expected), rel=0.15)


def surfaces_only(matrix: np.ndarray) -> Any:
    """A segmentation of one sphere of 10 mm at (5, 6, 7) that holds no labelmap."""
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(5, 6, 7)
    sphere.SetRadius(10)
    sphere.SetThetaResolution(40)
    sphere.SetPhiResolution(40)
    sphere.Update()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Surface")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", [1.0, 0.0, 0.0])
    return node


def test_surfaces_become_voxels_on_the_grid_of_the_reference(scene: Any, tmp_path: Path) -> None:
    reference = volume(np.zeros((30, 35, 40), np.int16), translation(-15, -11, -8) @ rotation(z=20), "CT")
    parent(reference, translation(0, 0, 3))
    node = surfaces_only(np.eye(4))
    parent(node, translation(0, 0, 3))
    before = scene_state(scene)
    logged: list[str] = []
    path = export_node(node, tmp_path, "mask", "Mask", reference=reference, log=logged.append)
    assert scene_state(scene) == before
    places = segments_of(path)["ball"]
    np.testing.assert_allclose(places.mean(axis=0), [5, 6, 10], atol=0.1)
    assert len(places) == pytest.approx(4 / 3 * np.pi * 1000, rel=0.03)
    expected = translation(0, 0, 3) @ translation(-15, -11, -8) @ rotation(z=20)
    offset = np.linalg.inv(expected) @ file_matrix(sitk.ReadImage(str(path)))
    np.testing.assert_allclose(offset[:3, :3], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(offset[:3, 3], np.rint(offset[:3, 3]), atol=1e-4)
    assert len(logged) == 1 and "surface" in logged[0]


@pytest.mark.parametrize("spacing", [0.5, 10.0])
def test_referring_to_another_volume_moves_no_voxel(scene: Any, tmp_path: Path, spacing: float) -> None:
    node = segmentation(["liver", "tumour", "vessel"])
    matrix = translation(-40, -60, -40) @ rotation(5, 6, 7) @ np.diag([spacing] * 3 + [1.0])
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume(noise((20, 20, 20)), matrix, "other"))
    parent(node, LINEAR_PARENTS["translated"])
    found = segments_of(export_node(node, tmp_path, "mask", "Mask", log=pytest.fail))
    for name, array in BOXES.items():
        assert_same_places(found[name], positions(array, LINEAR_PARENTS["translated"] @ OBLIQUE))


def test_segments_on_different_grids_are_brought_together_and_reported(scene: Any, tmp_path: Path) -> None:
    node = segmentation(["liver"])
    other = translation(8, 0, 0) @ rotation(z=30) @ np.diag([1.5, 1.5, 1.5, 1.0])
    image = slicer.vtkSlicerSegmentationsModuleLogic.CreateOrientedImageDataFromVolumeNode(
        volume(BOXES["vessel"], other, "other")
    )
    segment = slicer.vtkSegment()
    segment.SetName("vessel")
    segment.AddRepresentation("Binary labelmap", image)
    node.GetSegmentation().AddSegment(segment, "vessel")
    before = scene_state(scene)
    logged: list[str] = []
    found = segments_of(export_node(node, tmp_path, "mask", "Mask", log=logged.append))
    assert scene_state(scene) == before
    assert len(logged) == 1 and "different grids" in logged[0]
    expected = positions(BOXES["vessel"], other)
    np.testing.assert_allclose(found["vessel"].mean(axis=0), expected.mean(axis=0), atol=1.0)
    assert overlap(found["vessel"], expected, 2.0) == 1.0  # voxels are 0.7 x 1.3 x 2.9 mm
    assert overlap(found["liver"], positions(BOXES["liver"], OBLIQUE), 2.0) == 1.0


def test_mask_without_a_voxel_is_written_where_that_is_allowed(scene: Any, tmp_path: Path) -> None:
    reference = volume(noise((5, 6, 7)), OBLIQUE, "CT")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Untouched")
    node.GetSegmentation().AddEmptySegment("liver", "liver")
    parent(node, LINEAR_PARENTS["rotated"])
    parent(reference, LINEAR_PARENTS["rotated"])
    with pytest.raises(BoundaryError, match="Untouched.*empty"):
        export_node(node, tmp_path, "mask", "Mask", reference=reference, log=pytest.fail)
    path = export_node(node, tmp_path, "mask", "Mask", reference=reference, may_be_empty=True, log=pytest.fail)
    assert {name: len(places) for name, places in segments_of(path).items()} == {"liver": 0}
    np.testing.assert_allclose(file_matrix(sitk.ReadImage(str(path))), LINEAR_PARENTS["rotated"] @ OBLIQUE, atol=1e-6)


def test_segments_left_out_leave_no_voxel_in_the_file(scene: Any, tmp_path: Path) -> None:
    node = segmentation(["liver", "vessel", "nothing yet"])
    path = export_node(node, tmp_path, "mask", "Mask", segments=["vessel"], log=pytest.fail)
    assert np.count_nonzero(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))) == BOXES["vessel"].sum()
    with pytest.raises(BoundaryError, match="empty"):
        export_node(node, tmp_path, "mask", "Mask", segments=["nothing yet"], log=pytest.fail)


def test_label_map_comes_out_with_the_names_of_its_colours(scene: Any, tmp_path: Path) -> None:
    array = BOXES["liver"] + 7 * BOXES["vessel"]
    node = volume(array.astype(np.int16), OBLIQUE, "Labels", "vtkMRMLLabelMapVolumeNode")
    table = scene.AddNewNodeByClass("vtkMRMLColorTableNode", "organs")
    table.SetTypeToUser()
    table.SetNumberOfColors(8)
    table.SetColor(1, "liver", 0.9, 0.4, 0.2, 1.0)
    table.SetColor(7, "vessel", 0.2, 0.3, 0.7, 1.0)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
    parent(node, LINEAR_PARENTS["rotated"])
    before = scene_state(scene)
    path = export_node(node, tmp_path, "mask", "Mask", log=pytest.fail)
    assert scene_state(scene) == before
    found = segments_of(path)
    assert list(found) == ["liver", "vessel"]
    for name, places in found.items():
        assert_same_places(places, positions(BOXES[name], LINEAR_PARENTS["rotated"] @ OBLIQUE))
    colours = {s["name"]: s["color"] for s in slicerio.read_segmentation(str(path))["segments"]}
    np.testing.assert_allclose(colours["vessel"], [0.2, 0.3, 0.7], atol=0.01)


def test_empty_masks_are_refused_by_name(scene: Any, tmp_path: Path) -> None:
    nothing = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "No segments")
    unpainted = segmentation(["unpainted"])
    stray = segmentation(["liver"])
    stray.SetName("Stray")
    stray.GetSegmentation().GetSegment("liver").SetLabelValue(9)  # what is painted there belongs to no segment
    labels = volume(np.zeros(SHAPE, np.int16), OBLIQUE, "Zeros", "vtkMRMLLabelMapVolumeNode")
    fractions = volume(np.full(SHAPE, 0.5, np.float32), OBLIQUE, "Halves", "vtkMRMLLabelMapVolumeNode")
    for node, words in (
        (nothing, "no segments"),
        (unpainted, "empty"),
        (stray, "empty"),
        (labels, "empty"),
        (fractions, "fractions"),
    ):
        with pytest.raises(BoundaryError, match=words) as raised:
            export_node(node, tmp_path / "run", "mask", "Mask", log=pytest.fail)
        assert node.GetName() in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_unmodified_segmentation_is_handed_over_as_its_own_file(scene: Any, tmp_path: Path) -> None:
    path = export_node(segmentation(["liver", "tumour"]), tmp_path, "mask", "Mask", log=pytest.fail)
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "from file")
    assert storage.ReadData(node)
    node.SetAndObserveStorageNodeID(storage.GetID())
    run = tmp_path / "run"
    assert export_node(node, run, "mask", "Mask", log=pytest.fail) == path
    assert export_node(node, run, "mask", "Mask", segments=["liver"], log=pytest.fail).parent == run
    node.GetSegmentation().GetSegment("liver").SetName("hepar")
    changed = export_node(node, run, "renamed", "Mask", log=pytest.fail)
    assert changed.parent == run and list(segments_of(changed)) == ["hepar", "tumour"]


def test_file_that_slicer_resampled_on_saving_is_not_handed_over(scene: Any, tmp_path: Path) -> None:
    node = segmentation(["liver"])
    other = translation(-40, -60, -40) @ np.diag([4.0, 4.0, 4.0, 1.0])
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume(noise((30, 30, 30)), other, "other"))
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "saved.seg.nrrd"))
    node.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.WriteData(node) and not node.GetModifiedSinceRead()
    path = export_node(node, tmp_path / "run", "mask", "Mask", log=pytest.fail)
    assert_same_places(segments_of(path)["liver"], positions(BOXES["liver"], OBLIQUE))


def test_segmentation_comes_in_with_layers_names_and_colours(scene: Any, tmp_path: Path) -> None:
    path = export_node(segmentation(["liver", "tumour", "nothing yet"]), tmp_path, "mask", "Mask", log=pytest.fail)
    reference = volume(noise(SHAPE), OBLIQUE, "CT")
    parent(reference, LINEAR_PARENTS["rotated"])
    node = load_result(path, "Mask", "result", reference=reference, provenance={"method": "m"})
    content = node.GetSegmentation()
    assert [content.GetSegment(i).GetName() for i in content.GetSegmentIDs()] == ["liver", "tumour", "nothing yet"]
    assert node.GetParentTransformNode() is None and node.GetStorageNode() is None
    assert node.GetAttribute("MedGen.method") == "m"
    for name in ("liver", "tumour"):
        identity = content.GetSegmentIdBySegmentName(name)
        np.testing.assert_allclose(content.GetSegment(identity).GetColor(), COLOURS[name], atol=1e-3)
        assert_same_places(places_in_node(node, identity), positions(BOXES[name], OBLIQUE))


def places_in_node(node: Any, identity: str) -> np.ndarray:
    """World positions of a segment's voxels, by Slicer's representation."""
    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(identity, image)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    low = np.array(image.GetExtent()[::2])
    scalars = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    array = scalars.reshape(image.GetDimensions()[::-1])
    index = np.argwhere(array)[:, ::-1] + low
    full = slicer.util.arrayFromVTKMatrix(matrix)
    return index @ full[:3, :3].T + full[:3, 3]


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz"])
def test_label_image_comes_in_as_a_segmentation(scene: Any, tmp_path: Path, ending: str) -> None:
    image = sitk.GetImageFromArray((BOXES["liver"] + 5 * BOXES["vessel"]).astype(np.int16))
    lps = np.diag([-1, -1, 1, 1]) @ OBLIQUE
    image.SetSpacing([0.7, 1.3, 2.9])
    image.SetDirection((lps[:3, :3] / [0.7, 1.3, 2.9]).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(tmp_path / f"labels{ending}"))
    node = load_result(tmp_path / f"labels{ending}", "Mask", "result")
    content = node.GetSegmentation()
    assert content.GetNumberOfSegments() == 2
    for identity, name in zip(content.GetSegmentIDs(), ("liver", "vessel"), strict=True):
        assert_same_places(places_in_node(node, identity), positions(BOXES[name], OBLIQUE))


def stored_grid(node: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """4x4 index -> RAS and size of a segmentation's reference geometry."""
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    grid, found = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    text = node.GetSegmentation().GetConversionParameter(parameter)
    assert slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, grid, False)
    grid.GetImageToWorldMatrix(found)
    return slicer.util.arrayFromVTKMatrix(found), grid.GetDimensions()


@pytest.mark.parametrize("above", ["none", "rotated"])
def test_loaded_segmentation_is_edited_on_the_grid_of_its_input(scene: Any, tmp_path: Path, above: str) -> None:
    path = export_node(segmentation(["liver"]), tmp_path, "mask", "Mask", log=pytest.fail)
    matrix = translation(3, 4, 5) @ np.diag([1.0, 2.0, 3.0, 1.0])
    reference = volume(noise((5, 6, 7)), matrix, "CT")
    if above != "none":
        parent(reference, LINEAR_PARENTS[above])
    node = load_result(path, "Mask", "result", reference=reference)
    found, size = stored_grid(node)
    expected = LINEAR_PARENTS.get(above, np.eye(4)) @ matrix
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert size == (7, 6, 5)
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is reference


def test_loaded_segmentation_keeps_its_own_grid_beside_a_bent_input(scene: Any, tmp_path: Path) -> None:
    path = export_node(segmentation(["liver"]), tmp_path, "mask", "Mask", log=pytest.fail)
    sheared, warped = volume(noise((5, 6, 7)), OBLIQUE, "sheared"), volume(noise((5, 6, 7)), OBLIQUE, "warped")
    parent(sheared, shear(0.4))
    bend(warped, OBLIQUE[:3, 3], 20.0)
    for reference in (sheared, warped):
        node = load_result(path, "Mask", "result", reference=reference)
        np.testing.assert_allclose(stored_grid(node)[0], OBLIQUE, atol=1e-6)
