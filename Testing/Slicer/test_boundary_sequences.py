"""Sequences across the boundary: all frames or the current one out, results back into the same browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
from boundary_tools import OBLIQUE, assert_same_voxels_in_world, go_to, noise, rotation, scene_state, translation

from MedGenLib.errors import BoundaryError
from MedGenLib.export import export_node
from MedGenLib.sequences import browser_of, export_sequence, join_sequence

TIMES = ["0", "0.5", "2"]


def detached_volume(array: np.ndarray, matrix: np.ndarray) -> Any:
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    slicer.util.updateVolumeFromArray(node, array)
    node.SetName("frame")
    return node


def sequence(name: str, nodes: list[Any]) -> Any:
    result = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    result.SetIndexName("time")
    result.SetIndexUnit("s")
    for node, time in zip(nodes, TIMES, strict=True):
        result.SetDataNodeAtValue(node, time)
    return result


def arrays() -> list[np.ndarray]:
    return [noise((3, 4, 5), seed=number) for number in range(3)]


@pytest.fixture()
def proxy(scene: Any) -> Any:
    """The proxy of a sequence of three volumes."""
    master = sequence("Heart", [detached_volume(array, OBLIQUE) for array in arrays()])
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(master.GetID())
    go_to(browser, 0)
    return browser.GetProxyNode(master)


def test_all_frames_come_out_in_order(scene: Any, tmp_path: Path, proxy: Any) -> None:
    go_to(browser_of(proxy), 1)
    before = scene_state(scene)
    frames = export_sequence(proxy, tmp_path, "image", "Image", log=pytest.fail)
    assert scene_state(scene) == before
    assert [frame.index_value for frame in frames] == TIMES
    assert [frame.path for frame in frames] == [tmp_path / f"image_000{number}.nrrd" for number in range(3)]
    for frame, array in zip(frames, arrays(), strict=True):
        assert_same_voxels_in_world(frame.path, array, OBLIQUE)


@pytest.mark.parametrize("number", [0, 2])
def test_current_frame_is_the_one_the_browser_shows(scene: Any, tmp_path: Path, proxy: Any, number: int) -> None:
    go_to(browser_of(proxy), number)
    (frame,) = export_sequence(proxy, tmp_path, "image", "Image", frames="current", log=pytest.fail)
    assert frame.index_value == TIMES[number]
    assert_same_voxels_in_world(frame.path, arrays()[number], OBLIQUE)
    plain = export_node(proxy, tmp_path, "plain", "Image", log=pytest.fail)
    assert_same_voxels_in_world(plain, arrays()[number], OBLIQUE)


def test_each_frame_has_the_parent_transform_of_its_own_time(scene: Any, tmp_path: Path, proxy: Any) -> None:
    matrices = [translation(10 * number, 0, 0) @ rotation(z=10 * number) for number in range(3)]
    transforms = []
    for matrix in matrices:
        node = slicer.vtkMRMLLinearTransformNode()
        node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        transforms.append(node)
    moving = sequence("Tracker", transforms)
    browser = browser_of(proxy)
    browser.AddSynchronizedSequenceNode(moving)
    go_to(browser, 1)
    outer = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Table")
    outer.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(rotation(x=90)))
    browser.GetProxyNode(moving).SetAndObserveTransformNodeID(outer.GetID())
    proxy.SetAndObserveTransformNodeID(browser.GetProxyNode(moving).GetID())
    frames = export_sequence(proxy, tmp_path, "image", "Image", log=pytest.fail)
    for frame, array, matrix in zip(frames, arrays(), matrices, strict=True):
        assert_same_voxels_in_world(frame.path, array, rotation(x=90) @ matrix @ OBLIQUE)


def write_results(folder: Path, number: int = 3) -> list[Path]:
    paths = []
    for index in range(number):
        image = sitk.GetImageFromArray((arrays()[index] > 100).astype(np.int16))
        paths.append(folder / f"mask_{index}.nrrd")
        sitk.WriteImage(image, str(paths[-1]))
    return paths


@pytest.mark.parametrize("kind", ["Image", "Mask"])
def test_results_play_in_the_browser_of_their_input(scene: Any, tmp_path: Path, proxy: Any, kind: str) -> None:
    browser = browser_of(proxy)
    result = join_sequence(
        write_results(tmp_path), TIMES, kind, "Result", proxy=proxy, provenance={"method": "m", "seed": 7}
    )
    wanted = {"Image": "vtkMRMLScalarVolumeNode", "Mask": "vtkMRMLSegmentationNode"}[kind]
    assert result.GetClassName() == wanted
    assert browser.IsProxyNodeID(result.GetID()) and browser_of(result) is browser
    joined = browser.GetSequenceNode(result)
    assert [joined.GetNthIndexValue(n) for n in range(3)] == TIMES
    assert (joined.GetIndexName(), joined.GetIndexUnit()) == ("time", "s")
    assert result.GetAttribute("MedGen.method") == "m" and joined.GetAttribute("MedGen.seed") == "7"
    for number in (2, 0, 1):
        go_to(browser, number)
        expected = arrays()[number] > 100
        if kind == "Image":
            found = slicer.util.arrayFromVolume(result) > 0
        else:
            identity = result.GetSegmentation().GetNthSegmentID(0)
            found = slicer.util.arrayFromSegmentInternalBinaryLabelmap(result, identity) > 0
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["Image", "Mask"])
def test_joined_result_has_a_display_of_its_own(scene: Any, tmp_path: Path, proxy: Any, kind: str) -> None:
    others = [scene.AddNewNodeByClass(f"vtkMRML{name}Node", "other") for name in ("ScalarVolume", "Segmentation")]
    for other in [*others, proxy]:
        other.CreateDefaultDisplayNodes()
    result = join_sequence(write_results(tmp_path), TIMES, kind, "Result", proxy=proxy)
    displays = [node.GetDisplayNode() for node in (*others, proxy, result)]
    assert len({display.GetID() for display in displays}) == 4
    assert result.GetNumberOfDisplayNodes() == 1


def test_result_of_one_frame_shows_at_its_own_time_only(scene: Any, tmp_path: Path, proxy: Any) -> None:
    browser = browser_of(proxy)
    go_to(browser, 1)
    result = join_sequence(write_results(tmp_path, 1), TIMES[1:2], "Mask", "Result", proxy=proxy)
    assert result.GetSegmentation().GetNumberOfSegments() == 1
    go_to(browser, 2)
    assert result.GetSegmentation().GetNumberOfSegments() == 0
    go_to(browser, 1)
    assert result.GetSegmentation().GetNumberOfSegments() == 1


def test_unreadable_frame_leaves_scene_and_browser_as_they_were(scene: Any, tmp_path: Path, proxy: Any) -> None:
    paths = write_results(tmp_path)
    paths[2].write_bytes(b"broken")
    before = scene_state(scene)
    with pytest.raises(BoundaryError, match="mask_2"):
        join_sequence(paths, TIMES, "Mask", "Result", proxy=proxy)
    assert scene_state(scene) == before


def test_a_bad_frame_leaves_no_file(scene: Any, tmp_path: Path, proxy: Any) -> None:
    browser_of(proxy).GetSequenceNode(proxy).GetNthDataNode(2).SetAndObserveImageData(None)
    with pytest.raises(BoundaryError, match="Heart.*no image data"):
        export_sequence(proxy, tmp_path / "run", "image", "Image", log=pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_a_node_outside_any_sequence_is_refused_by_name(scene: Any, tmp_path: Path) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Alone")
    with pytest.raises(BoundaryError, match="Alone"):
        export_sequence(node, tmp_path, "image", "Image", log=pytest.fail)
    with pytest.raises(BoundaryError, match="Alone"):
        join_sequence([], [], "Image", "Result", proxy=node)
