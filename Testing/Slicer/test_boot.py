"""The runtime under the other tests: real logics, an empty scene each time, no error unseen."""

from __future__ import annotations

from typing import Any

import boot
import slicer


def test_each_scene_starts_empty_and_is_the_published_one(scene: Any) -> None:
    assert slicer.mrmlScene is scene
    count = scene.GetNumberOfNodes()
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "left over")
    assert boot.fresh_scene() is scene
    assert scene.GetNumberOfNodes() == count and scene.GetFirstNodeByName("left over") is None


def test_module_logics_are_slicers_own_and_know_the_scene(scene: Any) -> None:
    for name, class_name in boot.LOGIC_CLASSES.items():
        logic = getattr(slicer.modules, name.lower()).logic()
        assert logic.GetClassName() == class_name
        assert logic.GetMRMLScene() is scene


def test_an_error_in_an_observer_is_seen(scene: Any, errors_in_callbacks_fail: list[BaseException]) -> None:
    def observer(*_: Any) -> None:
        raise ValueError("in an observer")

    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "watched")
    node.AddObserver("ModifiedEvent", observer)
    node.Modified()
    assert [str(error) for error in errors_in_callbacks_fail] == ["in an observer"]
    errors_in_callbacks_fail.clear()


def test_a_node_gets_its_item_by_hand(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert hierarchy.GetItemByDataNode(node) == 0, "slicer-core makes no items; if it does now, drop the helper"
    item = boot.subject_hierarchy_item(node)
    assert item and hierarchy.GetItemByDataNode(node) == item
