"""Results stand beside their input in the subject hierarchy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from boot import subject_hierarchy_item
from boundary_tools import noise, parent, translation, volume

from MedGenLib import load
from MedGenLib.load import load_result, place_beside


@pytest.fixture()
def hierarchy(scene: Any) -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def result_file(folder: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(noise((3, 4, 5))), str(folder / "out.nrrd"))
    return folder / "out.nrrd"


@pytest.mark.parametrize("kind", ["Image", "Mask"])
def test_result_goes_under_the_study_of_its_input(scene: Any, hierarchy: Any, tmp_path: Path, kind: str) -> None:
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    scan = volume(noise((3, 4, 5)), name="CT")
    subject_hierarchy_item(scan, study)
    node = load_result(result_file(tmp_path), kind, "result", reference=scan)
    item = hierarchy.GetItemByDataNode(node)
    assert item and hierarchy.GetItemParent(item) == study
    assert hierarchy.GetItemName(item) == "result"


def test_item_that_exists_already_is_moved_not_doubled(scene: Any, hierarchy: Any) -> None:
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Folder")
    scan, result = volume(noise((3, 4, 5)), name="CT"), volume(noise((3, 4, 5)), name="result")
    subject_hierarchy_item(scan, folder)
    own = subject_hierarchy_item(result)
    place_beside(result, scan)
    assert hierarchy.GetItemByDataNode(result) == own
    assert hierarchy.GetItemParent(own) == folder


def test_result_never_goes_under_a_transform(scene: Any, hierarchy: Any, tmp_path: Path) -> None:
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    scan = volume(noise((3, 4, 5)), name="CT")
    above = subject_hierarchy_item(parent(scan, translation(1, 2, 3)), study)
    subject_hierarchy_item(scan, above)
    node = load_result(result_file(tmp_path), "Image", "result", reference=scan)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert node.GetParentTransformNode() is None
    assert np.allclose(node.GetOrigin(), (0, 0, 0))


def test_input_without_an_item_is_no_error(scene: Any, hierarchy: Any, tmp_path: Path) -> None:
    scan = volume(noise((3, 4, 5)), name="CT")
    assert load_result(result_file(tmp_path), "Image", "result", reference=scan).GetName() == "result"
    assert load_result(result_file(tmp_path), "Image", "result").GetName() != "result"


@pytest.mark.parametrize("kind", ["Image", "Mask"])
def test_failure_after_the_node_is_made_takes_it_back(
    scene: Any, hierarchy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def fail(node: Any, reference: Any) -> None:
        place_beside(node, reference)
        raise RuntimeError("half-way")

    scan = volume(noise((3, 4, 5)), name="CT")
    subject_hierarchy_item(scan)
    before = [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())]
    items = hierarchy.GetNumberOfItems()
    monkeypatch.setattr(load, "place_beside", fail)
    with pytest.raises(RuntimeError, match="half-way"):
        load_result(result_file(tmp_path), kind, "result", reference=scan)
    assert [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())] == before
    assert hierarchy.GetNumberOfItems() == items
