"""What a network in training gives for a validation case: one node in the scene, replaced as new ones come. No Qt.

It is marked as a preview, chosen for nothing, saved with nothing, and taken away at the end unless it is kept. The
slice views are given the image it is of, and keep their place.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import slicer

from MedGenLib.errors import MedGenLibError
from MedGenLib.i18n import _
from MedGenLib.load import place_beside, read_nodes, show
from MedGenLib.scratch import scratch_scene

PREVIEW = "MedGen.preview"  # attribute of the node: the step it is of
SECONDS = 2.0  # from the end of one loading to the next


class Preview:
    """The preview of one training. `node` and `background` are None until the first has come."""

    def __init__(self) -> None:
        self.node: Any = None
        self.background: Any = None
        self.shown: dict[str, Any] | None = None  # the event of what is shown
        self.seconds = 0.0  # what the last loading took
        self._newest: dict[str, Any] | None = None
        self._loaded = float("-inf")
        self._views: list[tuple[Any, str | None, str | None, float]] = []

    def offer(self, event: dict[str, Any]) -> None:
        """Take a "preview" event; of several that wait, the newest is loaded."""
        self._newest = event

    def load(self, image: Any) -> bool:
        """Load what is new, when the last loading is long enough ago; whether it did. image: the node it is of."""
        if self._newest is None or time.monotonic() - self._loaded < SECONDS:
            return False
        event, self._newest = self._newest, None
        if self.node is not None and not slicer.mrmlScene.IsNodePresent(self.node):
            return False  # the person deleted it, or closed the scene
        began = time.monotonic()
        try:
            with scratch_scene() as scratch:
                self._replace(read_nodes(Path(event["path"]), event["kind"], scratch)[0], event, image)
        except (MedGenLibError, OSError):  # already replaced by the next one, or gone with the run
            return False
        finally:
            self._loaded = time.monotonic()
            self.seconds = self._loaded - began
        self.shown = event
        return True

    @property
    def waiting(self) -> dict[str, Any] | None:
        """The event that will be loaded next."""
        return self._newest

    def _replace(self, new: Any, event: dict[str, Any], image: Any) -> None:
        if self.node is not None and self.node.GetClassName() == new.GetClassName():
            self.node.CopyContent(new, True)
        else:
            self._take_away()
            self.node = new
            new.SetName(slicer.mrmlScene.GenerateUniqueName(_("Preview of {role}").format(role=event["role"])))
            new.SetHideFromEditors(True)
            new.SetSaveWithScene(False)
            slicer.mrmlScene.AddNode(new)
            show(new, image)
            self._see_through(new)
            self._into_views(image)
        self.node.SetAttribute(PREVIEW, str(event["step"]))

    def _see_through(self, node: Any) -> None:
        display = node.GetDisplayNode()
        if display is not None and node.IsA("vtkMRMLSegmentationNode"):
            display.SetOpacity2DFill(0.35)
        if display is not None:
            display.SetSaveWithScene(False)

    def _into_views(self, image: Any) -> None:
        """The image under the preview in every slice view; offset and field of view stay as the person has them."""
        self.background = image
        scene = slicer.mrmlScene
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode")):
            view = scene.GetNthNodeByClass(index, "vtkMRMLSliceCompositeNode")
            before = view.GetBackgroundVolumeID(), view.GetForegroundVolumeID(), view.GetForegroundOpacity()
            self._views.append((view, *before))
            if image is not None:
                view.SetBackgroundVolumeID(image.GetID())
            if self.node.IsA("vtkMRMLVolumeNode"):
                layer = view.SetForegroundVolumeID if image is not None else view.SetBackgroundVolumeID
                layer(self.node.GetID())
                view.SetForegroundOpacity(0.6)

    def _put_views_back(self) -> None:
        """What the views showed before, where the person has not chosen something else since."""
        ids = {node.GetID() for node in (self.node, self.background) if node is not None}
        for view, background, foreground, opacity in self._views:
            if not slicer.mrmlScene.IsNodePresent(view) or view.GetBackgroundVolumeID() not in ids:
                continue
            view.SetBackgroundVolumeID(background)
            if view.GetForegroundVolumeID() == self.node.GetID():
                view.SetForegroundVolumeID(foreground)
                view.SetForegroundOpacity(opacity)
        self._views = []

    # --- at the end

    def keep(self) -> Any:
        """Let the preview stay as an ordinary node that says which step it is of; the node."""
        node, event = self.node, self.shown
        if node is None or event is None or not slicer.mrmlScene.IsNodePresent(node):
            return None
        name = _("{role} at step {step} of the training").format(role=event["role"], step=event["step"])
        node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
        for one in (node, node.GetDisplayNode()):
            if one is not None:
                one.SetSaveWithScene(True)
        node.SetHideFromEditors(False)
        place_beside(node, self.background)
        self.node, self._views, self.shown = None, [], None
        return node

    def drop(self) -> None:
        """Take the preview out of the scene again, and give the views back what they showed."""
        self._newest = self.shown = None
        self._take_away()

    def _take_away(self) -> None:
        node = self.node
        if node is None:
            return
        self._put_views_back()
        self.node = None
        if slicer.mrmlScene.IsNodePresent(node):
            display, storage = node.GetDisplayNode(), node.GetStorageNode()
            slicer.mrmlScene.RemoveNode(node)
            for one in (display, storage):
                if one is not None and slicer.mrmlScene.IsNodePresent(one):
                    slicer.mrmlScene.RemoveNode(one)
