"""A result joins a segmentation: by each rule, and never at the cost of what a person or another tool made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin
from vtk.util.numpy_support import vtk_to_numpy

from MedGenLib import fingerprint, merge, provenance
from MedGenLib.errors import RunError
from MedGenLib.selftest import SHAPE, add_volume

SLUG = "some-method"


@pytest.fixture
def volume(scene: Any) -> Any:
    slicer_standin.start()
    return add_volume()


def box(*sides: tuple[int, int]) -> np.ndarray:
    """(k, j, i) uint8, 1 within the sides."""
    array = np.zeros(SHAPE, np.uint8)
    array[tuple(slice(*side) for side in sides)] = 1
    return array


LEFT, MIDDLE, ALL = box((4, 20), (4, 20), (4, 14)), box((4, 20), (4, 20), (10, 20)), box((2, 22), (2, 26), (2, 30))


def segmentation(volume: Any, segments: dict[str, np.ndarray], ours: bool = False, name: str = "S") -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for title, array in segments.items():
        node.GetSegmentation().AddEmptySegment(title, title, [0.9, 0.3, 0.2])
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, title, volume)
    if ours:
        merge.mark(node, SLUG)
        for key, value in {"MedGen.run": "2026-1", "MedGen.method": SLUG, "MedGen.seed": "3"}.items():
            node.SetAttribute(key, value)
    return node


def voxels(node: Any, segment: str, volume: Any) -> np.ndarray:
    return np.asarray(slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume))


def names(node: Any) -> list[str]:
    inside = node.GetSegmentation()
    return [inside.GetSegment(one).GetName() for one in inside.GetSegmentIDs()]


def colours(node: Any) -> list[tuple[float, ...]]:
    inside = node.GetSegmentation()
    return [inside.GetSegment(one).GetColor() for one in inside.GetSegmentIDs()]


def test_new_segments_stand_beside_those_that_are_there_with_names_and_colours_of_their_own(volume: Any) -> None:
    target = segmentation(volume, {"ball": LEFT})
    done = merge.merge(segmentation(volume, {"ball": MIDDLE}, ours=True), target)
    assert names(target) == ["ball", "ball 2"]
    assert np.array_equal(voxels(target, "ball", volume), LEFT)
    assert np.array_equal(voxels(target, done.added[0], volume), MIDDLE)
    one, other = colours(target)
    assert np.linalg.norm(np.subtract(one, other)) > 0.2
    assert [slicer.util.getNode("S")] == list(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationDisplayNode") == 1
    record = provenance.record_of_segment(target.GetSegmentation().GetSegment(done.added[0]))
    assert record == {"run": "2026-1", "method": SLUG, "seed": 3}


def test_only_empty_voxels_are_taken_whatever_grid_the_others_lie_on(volume: Any) -> None:
    finer = add_volume("Finer")
    finer.SetSpacing(1.0, 1.0, 1.5)
    target = segmentation(volume, {"theirs": LEFT})
    fine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Fine")
    fine.GetSegmentation().AddEmptySegment("ball", "ball")
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones(SHAPE, np.uint8), fine, "ball", finer)
    taken = voxels(target, "theirs", finer)
    (new,) = merge.merge(fine, target, merge.EMPTY).added
    assert np.array_equal(voxels(target, "theirs", volume), LEFT)
    assert taken.any() and not (voxels(target, new, finer)[taken > 0]).any()
    assert voxels(target, new, finer)[taken == 0].all()


def test_a_structure_of_which_nothing_is_left_is_said_not_added(volume: Any) -> None:
    target = segmentation(volume, {"all": ALL})
    done = merge.merge(segmentation(volume, {"ball": LEFT, "rest": box((0, 2), (0, 2), (0, 2))}), target, merge.EMPTY)
    assert names(target) == ["all", "rest"]
    assert done.said == ["Nothing is left of “ball”: other segments have all of its voxels."]


def test_ours_of_before_is_replaced_in_its_place_and_keeps_name_and_colour(volume: Any) -> None:
    target = segmentation(volume, {"first": ALL})
    (ours,) = merge.merge(segmentation(volume, {"ball": LEFT}, ours=True), target).added
    segmentation_ = target.GetSegmentation()
    segmentation_.AddEmptySegment("last", "last")
    slicer.util.updateSegmentBinaryLabelmapFromArray(MIDDLE, target, "last", volume)
    segmentation_.GetSegment(ours).SetName("My ball")
    segmentation_.GetSegment(ours).SetColor(0.1, 0.2, 0.3)
    done = merge.merge(segmentation(volume, {"ball": MIDDLE}, ours=True), target, merge.OURS)
    assert names(target) == ["first", "My ball", "last"] and done.added == [ours]
    assert np.allclose(colours(target)[1], (0.1, 0.2, 0.3))
    assert np.array_equal(voxels(target, ours, volume), MIDDLE)
    assert np.array_equal(voxels(target, "first", volume), ALL)
    assert np.array_equal(voxels(target, "last", volume), MIDDLE)
    merge.undo(done)
    assert names(target) == ["first", "My ball", "last"]
    assert np.array_equal(voxels(target, ours, volume), LEFT)


@pytest.mark.parametrize("why", ["edited", "Completed", "Flagged", "foreign", "of another method"])
def test_what_a_person_holds_dear_is_not_replaced(volume: Any, why: str) -> None:
    target = segmentation(volume, {"first": ALL})
    (old,) = merge.merge(segmentation(volume, {"ball": LEFT}, ours=why != "foreign"), target).added
    segment, logic = target.GetSegmentation().GetSegment(old), slicer.vtkSlicerSegmentationsModuleLogic
    kept = LEFT.copy()
    if why == "edited":
        kept[10, 10, 10] = 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(kept, target, old, volume)
    elif why == "of another method":
        segment.SetTag(merge.METHOD, "other")
    elif why != "foreign":
        logic.SetSegmentStatus(segment, getattr(logic, why))
    done = merge.merge(segmentation(volume, {"ball": MIDDLE}, ours=True), target, merge.OURS)
    assert names(target) == ["first", "ball", "ball 2"] and not done.replaced
    assert np.array_equal(voxels(target, old, volume), kept)
    assert bool(done.said) == (why in ("edited", "Completed", "Flagged"))


def test_segments_that_share_a_labelmap_lose_nothing_to_their_neighbour(volume: Any) -> None:
    """Segments that do not overlap lie in one array; one that is replaced must not take the others along."""
    target = segmentation(volume, {"ball": LEFT, "cube": box((4, 20), (4, 20), (20, 28))}, ours=True)
    inside = target.GetSegmentation()
    inside.CollapseBinaryLabelmaps(False)
    assert inside.GetNumberOfLayers() == 1
    done = merge.merge(segmentation(volume, {"ball": ALL}, ours=True), target, merge.OURS)
    assert done.added == ["ball"] and names(target) == ["ball", "cube"]
    assert np.array_equal(voxels(target, "cube", volume), box((4, 20), (4, 20), (20, 28)))
    assert np.array_equal(voxels(target, "ball", volume), ALL)
    merge.undo(done)
    assert np.array_equal(voxels(target, "ball", volume), LEFT)
    assert np.array_equal(voxels(target, "cube", volume), box((4, 20), (4, 20), (20, 28)))
    back = inside.GetSegment("ball")
    stored = vtk_to_numpy(back.GetRepresentation("Binary labelmap").GetPointData().GetScalars())
    assert set(np.unique(stored)) == {0, back.GetLabelValue()}  # nothing of the neighbour came along


def test_a_refused_merge_changes_nothing(volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = segmentation(volume, {"ball": LEFT}, ours=True)
    source = segmentation(volume, {"ball": MIDDLE, "cube": ALL}, ours=True)
    put, count = merge._insert, []

    def fail(*arguments: Any) -> bool:
        count.append(1)
        return len(count) != 2 and put(*arguments)

    monkeypatch.setattr(merge, "_insert", fail)
    with pytest.raises(RunError, match="cannot take more"):
        merge.merge(source, target, merge.OURS)
    assert names(target) == ["ball"] and np.array_equal(voxels(target, "ball", volume), LEFT)
    assert names(source) == ["ball", "cube"]
    with pytest.raises(RunError, match="no way to merge"):
        merge.merge(source, target, "all")


def test_ours_is_known_again_after_saving_and_loading(volume: Any, tmp_path: Path) -> None:
    target = segmentation(volume, {"a: b | c": LEFT}, ours=True, name="Target")
    prints = fingerprint.of_segments(target)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), {})
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), {})
    target, volume = slicer.util.getNode("Target"), slicer.util.getNode("CT")
    assert list(fingerprint.of_segments(target).values()) == list(prints.values())
    done = merge.merge(segmentation(volume, {"a: b | c": MIDDLE}, ours=True), target, merge.OURS)
    assert done.replaced and not done.said and names(target) == ["a: b | c"]
