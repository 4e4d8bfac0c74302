"""Taking back what runs added to the scene, the last one first. No Qt.

What a run changed is remembered for as long as the scene is open: the nodes it added, the segments it put into a
segmentation that was there, and the segments that had to make room. Whatever a person has edited since is theirs: it
is named, and stays unless they say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import slicer

from MedGenLib import fingerprint, jobqueue, merge, provenance, scratch
from MedGenLib.errors import RunError
from MedGenLib.i18n import _
from MedGenLib.sequences import browser_of

DEPTH = 20  # runs remembered; a replaced segment keeps its voxels in memory as long


@dataclass
class Step:
    """What one run did.

    Attributes:
        title: how a person knows it.
        nodes: ids of the nodes it added; with their fingerprints where they hold results, None for displays and such.
        merged: what it did to a segmentation that was there, if it did, with its segments' fingerprints.
        run: which run it was, as the record on its results says; "" for what is no run, as a comparison.
    """

    title: str
    nodes: dict[str, str | None]
    merged: merge.Merged | None = None
    segments: dict[str, str] = field(default_factory=dict)
    run: str = ""


class History:
    """The steps of one scene. A person's edits are seen by comparing fingerprints, so nothing is observed.

    `shared`: that of the session, which the modules have in common and a module reload leaves as it is.
    """

    def __init__(self, shared: bool = False) -> None:
        self._own = None if shared else SimpleNamespace(steps=[], scene=None)

    @property
    def _kept(self) -> Any:
        if self._own is not None:
            return self._own
        return vars(jobqueue.session()).setdefault("history", SimpleNamespace(steps=[], scene=None))

    @property
    def steps(self) -> list[Step]:
        """What can be taken back, the last one last."""
        found: list[Step] = self._kept.steps if self._kept.scene is slicer.mrmlScene else []
        return found

    def remember(self, title: str, node_ids: list[str], merged: merge.Merged | None = None) -> None:
        """Note what a run added and changed, as it is now."""
        self._watch()
        scene = slicer.mrmlScene
        there = {identity: scene.GetNodeByID(identity) for identity in node_ids}
        # A colour table may serve other nodes by now.
        ours = {key: node for key, node in there.items() if node is not None and not node.IsA("vtkMRMLColorNode")}
        step = Step(title, {key: _print(node) for key, node in ours.items()}, merged)
        target = scene.GetNodeByID(merged.node) if merged is not None else None
        if merged is not None and target is not None:
            prints = fingerprint.of_segments(target)
            step.segments = {identity: prints[identity] for identity in merged.added if identity in prints}
            segments = [target.GetSegmentation().GetSegment(identity) for identity in step.segments]
            step.run = next((run for one in segments if (run := provenance.record_of_segment(one).get("run"))), "")
        step.run = step.run or next((run for node in ours.values() if (run := node.GetAttribute("MedGen.run"))), "")
        if step.nodes or step.segments:
            self._kept.steps = [*self.steps, step][-DEPTH:]

    @property
    def last(self) -> Step | None:
        """The step that would be taken back: the last of which anything is left."""
        while self.steps and not self._is_left(self.steps[-1]):
            self.steps.pop()
        return self.steps[-1] if self.steps else None

    @property
    def last_run(self) -> str:
        """Which run came last of those of which anything is left; "" where none is remembered."""
        left = (step.run for step in reversed(self.steps) if step.run and self._is_left(step))
        return next(left, "")

    def edited(self) -> list[str]:
        """Names of the results of the last step that somebody has edited since."""
        step = self.last
        return [] if step is None else [name for name, _identity in self._edits(step)]

    def take_back(self, leave_edited: bool = False) -> list[str]:
        """Undo the last step; the names of what was taken back.

        Args:
            leave_edited: leave what was edited since in the scene, and take back the rest.
        Raises:
            RunError: there is nothing to take back, or something was edited since and is not to be left; nothing has
                changed.
        """
        step = self.last
        if step is None:
            raise RunError(_("There is no run to take back."))
        edits = self._edits(step)
        if edits and not leave_edited:
            raise RunError(
                _("{names} was edited since that run; take back the rest, or save a copy first.").format(
                    names=", ".join(f"“{name}”" for name, _identity in edits)
                )
            )
        keep = frozenset(identity for _name, identity in edits)
        scene = slicer.mrmlScene
        self.steps.remove(step)  # first: nodes that go make a panel ask for `last`
        names = [*self._take_nodes(step, keep), *self._segment_names(step, keep)]
        if step.merged is not None and scene.GetNodeByID(step.merged.node) is not None:
            merge.undo(step.merged, keep)
        return names

    # --- inside

    def _watch(self) -> None:
        """A scene that is closed takes its history along."""
        scene, kept = slicer.mrmlScene, self._kept
        if scene is not kept.scene:
            kept.scene, kept.steps = scene, []
            scene.AddObserver(scene.EndCloseEvent, lambda *_: kept.steps.clear())

    def _is_left(self, step: Step) -> bool:
        scene = slicer.mrmlScene
        nodes = [identity for identity, known in step.nodes.items() if known is not None]
        if any(scene.GetNodeByID(identity) is not None for identity in nodes):
            return True
        target = scene.GetNodeByID(step.merged.node) if step.merged is not None else None
        return target is not None and (
            bool(step.merged and step.merged.replaced)
            or any(target.GetSegmentation().GetSegment(identity) is not None for identity in step.segments)
        )

    def _edits(self, step: Step) -> list[tuple[str, str]]:
        """Name and id of the nodes and segments that differ from what the run gave."""
        found = []
        for identity, known in step.nodes.items():
            node = slicer.mrmlScene.GetNodeByID(identity)
            if known is not None and node is not None and fingerprint.of(node) != known:
                found.append((node.GetName(), identity))
        target = slicer.mrmlScene.GetNodeByID(step.merged.node) if step.merged is not None else None
        if target is not None and step.segments:
            prints = fingerprint.of_segments(target)
            for identity, known in step.segments.items():
                if identity in prints and prints[identity] != known:
                    found.append((target.GetSegmentation().GetSegment(identity).GetName(), identity))
        return found

    def _take_nodes(self, step: Step, keep: frozenset[str]) -> list[str]:
        scene = slicer.mrmlScene
        left = keep | _belonging(keep)
        there = {identity: scene.GetNodeByID(identity) for identity in step.nodes if identity not in left}
        names = [node.GetName() for one, node in there.items() if node is not None and step.nodes[one] is not None]
        for node in there.values():  # first: a browser makes the node anew through which it plays a sequence
            if node is not None:
                _leave_browsers(node)
        for identity in reversed(there):
            node = scene.GetNodeByID(identity)
            if node is not None:
                scratch.remove(scene, node)
        return names

    def _segment_names(self, step: Step, keep: frozenset[str]) -> list[str]:
        target = slicer.mrmlScene.GetNodeByID(step.merged.node) if step.merged is not None else None
        if target is None:
            return []
        segments = [target.GetSegmentation().GetSegment(one) for one in step.segments if one not in keep]
        return [segment.GetName() for segment in segments if segment is not None]


def _print(node: Any) -> str | None:
    """A result's fingerprint; None for a node that is not one: a display, a storage, or the node through which a
    browser plays a sequence (it holds whichever frame is shown)."""
    kinds = ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode", "vtkMRMLTableNode")
    if node.IsA("vtkMRMLSequenceNode"):
        return fingerprint.of(node)
    return fingerprint.of(node) if any(map(node.IsA, kinds)) and browser_of(node) is None else None


def _belonging(keep: frozenset[str]) -> frozenset[str]:
    """Ids of the nodes that nodes refer to, directly or by others, and of those through which sequences are played."""
    found, waiting = set(keep), list(keep)
    while waiting:
        node = slicer.mrmlScene.GetNodeByID(waiting.pop())
        if node is None:  # a segment's id
            continue
        roles = [node.GetNthNodeReferenceRole(index) for index in range(node.GetNumberOfNodeReferenceRoles())]
        near = {
            node.GetNthNodeReferenceID(role, n) for role in roles for n in range(node.GetNumberOfNodeReferences(role))
        }
        if node.IsA("vtkMRMLSequenceNode"):
            near |= {proxy.GetID() for proxy in (one.GetProxyNode(node) for one in _browsers()) if proxy is not None}
        waiting += near - found
        found |= near
    return frozenset(found)


def _browsers() -> list[Any]:
    scene = slicer.mrmlScene
    count = scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")
    return [scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode") for number in range(count)]


def _leave_browsers(node: Any) -> None:
    """Take a sequence out of every browser: one that played it on would stumble over the gap."""
    if node.IsA("vtkMRMLSequenceNode"):
        for browser in _browsers():
            if browser.IsSynchronizedSequenceNode(node, True):
                browser.RemoveSynchronizedSequenceNode(node.GetID())


history = History(shared=True)
