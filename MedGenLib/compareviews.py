"""What is compared in the views: two nodes beside each other in linked slices, or their difference alone; afterwards
everything is as it was. No Qt of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import slicer
import slicer.util
import vtk

LEFT, RIGHT = "Red", "Yellow"  # the views of Slicer's layout “Side by side”


@dataclass
class _Before:
    """How the views were: the layout, and for each view its volumes, links and direction; displays' views by id."""

    layout: int
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    displays: dict[str, tuple[str, ...]] = field(default_factory=dict)


class SideBySide:
    """Shows one pair at a time."""

    def __init__(self) -> None:
        self._before: _Before | None = None

    @property
    def shown(self) -> bool:
        """Whether a pair is shown."""
        return self._before is not None

    def show(self, first: Any, second: Any, background: Any = None) -> None:
        """Show the first node on the left and the second on the right, in one direction, linked.

        Args:
            background: the volume under nodes that are no volumes.
        """
        manager = slicer.app.layoutManager()
        if manager is None:
            return
        self.restore()
        self._before = before = _Before(manager.layout)
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
        for name, node in ((LEFT, first), (RIGHT, second)):
            logic = manager.sliceWidget(name).sliceLogic()
            composite, view = logic.GetSliceCompositeNode(), logic.GetSliceNode()
            direction = vtk.vtkMatrix4x4()
            direction.DeepCopy(view.GetSliceToRAS())
            before.views[name] = {
                "volumes": (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()),
                "linked": (composite.GetLinkedControl(), composite.GetHotLinkedControl()),
                "direction": direction,
            }
            shown = node if node.IsA("vtkMRMLVolumeNode") else background
            composite.SetBackgroundVolumeID(None if shown is None else shown.GetID())
            composite.SetForegroundVolumeID(None)
            self._keep_to(node, view)
        self._turn_alike(manager)
        manager.resetSliceViews()
        for name in (LEFT, RIGHT):
            composite = manager.sliceWidget(name).sliceLogic().GetSliceCompositeNode()
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)

    def restore(self) -> None:
        """Back to the layout, volumes, directions and displays of before."""
        manager, before = slicer.app.layoutManager(), self._before
        self._before = None
        if manager is None or before is None:
            return
        for identity, views in before.displays.items():
            display = slicer.mrmlScene.GetNodeByID(identity)
            if display is not None:
                display.RemoveAllViewNodeIDs()
                for view in views:
                    display.AddViewNodeID(view)
        for name, kept in before.views.items():
            logic = manager.sliceWidget(name).sliceLogic()
            composite, view = logic.GetSliceCompositeNode(), logic.GetSliceNode()
            composite.SetHotLinkedControl(kept["linked"][1])
            composite.SetLinkedControl(kept["linked"][0])
            left = [one if one and slicer.mrmlScene.GetNodeByID(one) else None for one in kept["volumes"]]
            background, foreground = left
            composite.SetBackgroundVolumeID(background)
            composite.SetForegroundVolumeID(foreground)
            view.GetSliceToRAS().DeepCopy(kept["direction"])
            view.UpdateMatrices()
        manager.setLayout(before.layout)

    def _keep_to(self, node: Any, view: Any) -> None:
        """Let a node that is drawn over slices be seen in one slice view alone, and in 3D as before."""
        if node.IsA("vtkMRMLVolumeNode") or self._before is None:
            return
        scene = slicer.mrmlScene
        count = scene.GetNumberOfNodesByClass("vtkMRMLViewNode")
        solid = [scene.GetNthNodeByClass(number, "vtkMRMLViewNode").GetID() for number in range(count)]
        for number in range(node.GetNumberOfDisplayNodes()):
            display = node.GetNthDisplayNode(number)
            known = tuple(display.GetNthViewNodeID(index) for index in range(display.GetNumberOfViewNodeIDs()))
            self._before.displays.setdefault(display.GetID(), known)
            display.RemoveAllViewNodeIDs()
            for identity in [view.GetID(), *(one for one in solid if not known or one in known)]:
                display.AddViewNodeID(identity)

    def _turn_alike(self, manager: Any) -> None:
        left, right = (manager.sliceWidget(name).mrmlSliceNode() for name in (LEFT, RIGHT))
        right.SetOrientation(left.GetOrientation())  # views are linked only where this is the same
        right.GetSliceToRAS().DeepCopy(left.GetSliceToRAS())
        right.UpdateMatrices()


class Alone:
    """Shows one node without the two that it was made of."""

    def __init__(self) -> None:
        self._visible: dict[str, int] = {}
        self._backgrounds: dict[str, str | None] = {}
        self._node: str = ""

    @property
    def shown(self) -> bool:
        """Whether a node is shown."""
        return bool(self._node)

    def show(self, node: Any, others: list[Any]) -> None:
        """Show a node and hide the others; a volume becomes the background of all slice views."""
        self.restore()
        self._node = node.GetID()
        for one in others:
            display = one.GetDisplayNode()
            if display is not None and not one.IsA("vtkMRMLVolumeNode"):
                self._visible[display.GetID()] = display.GetVisibility()
                display.SetVisibility(False)
        if not node.IsA("vtkMRMLVolumeNode"):
            node.SetDisplayVisibility(True)
            return
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            self._backgrounds[composite.GetID()] = composite.GetBackgroundVolumeID()
            composite.SetBackgroundVolumeID(node.GetID())

    def restore(self) -> None:
        """As it was before."""
        scene = slicer.mrmlScene
        for identity, visible in self._visible.items():
            display = scene.GetNodeByID(identity)
            if display is not None:
                display.SetVisibility(visible)
        for identity, background in self._backgrounds.items():
            composite = scene.GetNodeByID(identity)
            if composite is not None:
                composite.SetBackgroundVolumeID(background if background and scene.GetNodeByID(background) else None)
        node = scene.GetNodeByID(self._node) if self._node else None
        if node is not None and not node.IsA("vtkMRMLVolumeNode"):
            node.SetDisplayVisibility(False)
        self._visible, self._backgrounds, self._node = {}, {}, ""
