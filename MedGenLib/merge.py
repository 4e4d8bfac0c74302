"""A result goes into a segmentation that a person chose, by the rule that they chose. No Qt.

Whatever the rule, no segment is changed that a person or another tool made: new segments get voxels of their own. Only
a segment that an earlier run of the same method put there may be replaced, and that only while nobody has edited it
and it is not marked as done. Slicer 5.12 has no lock on a segment; the nearest thing that a person can set is its
status in the Segment Editor, and Completed and Flagged are taken as "hands off".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from MedGenLib import fingerprint, provenance, scratch
from MedGenLib.errors import BoundaryError, RunError
from MedGenLib.geometry import Grid, ijk_to_ras, placement_of, resample
from MedGenLib.i18n import _
from MedGenLib.segmentations import LABELMAP, MaskOptions, in_world, label_colour, layers_of, painted

NEW, OURS, EMPTY = "new", "ours", "empty"
POLICIES = (NEW, OURS, EMPTY)

# Tags of a segment: which method made it, what the method calls it, and what it held then.
METHOD, STRUCTURE, CONTENT = "MedGen.Method", "MedGen.Structure", "MedGen.Content"
_ALIKE = 0.12  # distance of two colours in the unit cube that are hard to tell apart


@dataclass(frozen=True)
class Into:
    """Where a result is to go: a segmentation by its id ("" once it is gone) and name, and the rule."""

    node: str
    name: str
    rule: str = NEW


@dataclass
class Replaced:
    """A segment that had to make room: its place in the list and a copy of it."""

    segment: str
    place: int
    copy: Any


@dataclass
class Merged:
    """What a merge did.

    Attributes:
        node: id of the segmentation.
        added: segments of the result, by their ids in it.
        replaced: those of an earlier run whose ids are used again.
        said: a sentence for each segment that was not treated as the rule alone would have it.
    """

    node: str
    added: list[str] = field(default_factory=list)
    replaced: list[Replaced] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def mark(node: Any, slug: str) -> None:
    """Note in the tags of a new result's segments who made them and what they hold."""
    segmentation, prints = node.GetSegmentation(), fingerprint.of_segments(node)
    for identity in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(identity)
        segment.SetTag(METHOD, slug)
        segment.SetTag(STRUCTURE, quote(segment.GetName()))
        segment.SetTag(CONTENT, prints[identity])


def is_locked(segment: Any) -> bool:
    """Whether a person has marked a segment as done (Completed or Flagged)."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    return logic.GetSegmentStatus(segment) in (logic.Completed, logic.Flagged)


def merge(source: Any, target: Any, policy: str = NEW) -> Merged:
    """Move the segments of a result (a segmentation node in the scene, which goes) into another segmentation node.

    Args:
        policy: `NEW`: new segments beside those that are there, whatever they cover; `OURS`: in place of those that the
            same method made there under the same name, else new ones; `EMPTY`: new ones, of the voxels only that
            belong to no segment yet.
    Raises:
        RunError: the target has a parent transform, so that its segments lie elsewhere than they are drawn, or cannot
            hold voxels; nothing has changed.
    """
    if policy not in POLICIES:
        raise RunError(
            _("“{policy}” is no way to merge; choose among {names}.").format(policy=policy, names=", ".join(POLICIES))
        )
    if target.GetParentTransformNode() is not None:
        raise RunError(
            _("Segmentation “{name}” has a parent transform; harden it, or let the result be created new.").format(
                name=target.GetName()
            )
        )
    done = Merged(target.GetID())
    segmentation, wanted = source.GetSegmentation(), target.GetSegmentation()
    if policy == EMPTY:
        _cut(source, target)
    record = provenance.record_of(source)
    before = fingerprint.of_segments(target) if policy == OURS else {}
    was_modifying = target.StartModify()
    try:
        for identity in list(segmentation.GetSegmentIDs()):
            segment = _copy(segmentation, identity)
            if policy == EMPTY and not _has_voxels(segment):
                words = _("Nothing is left of “{name}”: other segments have all of its voxels.")
                done.said.append(words.format(name=segment.GetName()))
                continue
            old = _ours(segment, wanted, before, done) if policy == OURS else None
            if record:
                provenance.tag_segment(segment, record)
            _put(segment, target, old, done)
    except BaseException:
        undo(done)
        raise
    finally:
        target.EndModify(was_modifying)
    prints = fingerprint.of_segments(target)
    for identity in done.added:
        wanted.GetSegment(identity).SetTag(CONTENT, prints[identity])
    for number in range(source.GetNumberOfDisplayNodes()):
        scratch.remove(slicer.mrmlScene, source.GetNthDisplayNode(number))
    scratch.remove(slicer.mrmlScene, source)
    return done


def undo(done: Merged, keep: frozenset[str] = frozenset()) -> None:
    """Take a merge back: its segments go and those that they replaced return; `keep`: ids that stay as they are."""
    node = slicer.mrmlScene.GetNodeByID(done.node)
    if node is None:
        return
    segmentation = node.GetSegmentation()
    for identity in done.added:
        if identity not in keep:
            segmentation.RemoveSegment(identity)
    for old in done.replaced:
        if old.segment not in keep and segmentation.GetSegment(old.segment) is None:
            _insert(segmentation, old.copy, old.segment, old.place)


def _ours(segment: Any, wanted: Any, before: dict[str, str], done: Merged) -> str | None:
    """The id of the segment that may be replaced, or None; says why where one would have been."""
    for identity in wanted.GetSegmentIDs():
        known = wanted.GetSegment(identity)
        if identity in done.added or any(_tag(known, tag) != _tag(segment, tag) for tag in (METHOD, STRUCTURE)):
            continue
        if not _tag(known, METHOD):
            continue
        if is_locked(known):
            words = _("“{name}” is marked as {status} and was kept.")
            status = slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatusAsHumanReadableString(
                slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(known)
            )
            done.said.append(words.format(name=known.GetName(), status=status.lower()))
        elif _tag(known, CONTENT) != before[identity]:
            done.said.append(_("“{name}” was edited since and was kept.").format(name=known.GetName()))
        else:
            return str(identity)
    return None


def _put(segment: Any, target: Any, old: str | None, done: Merged) -> None:
    """Add a segment to the target: in place of an old one, whose name, colour and terminology it keeps, or at the end
    under a name and in a colour that no other has."""
    wanted = target.GetSegmentation()
    if old is None:
        segment.SetName(_free_name(wanted, segment.GetName()))
        _give_colour(segment, wanted)
        identity, place = wanted.GenerateUniqueSegmentID(segment.GetName()), -1
    else:
        former, place, identity = wanted.GetSegment(old), wanted.GetSegmentIndex(old), old
        segment.SetName(former.GetName())
        segment.SetColor(former.GetColor())
        entry = slicer.vtkSegment.GetTerminologyEntryTagName()
        segment.SetTag(entry, provenance.raw_tag(former, entry))
        done.replaced.append(Replaced(old, place, _copy(wanted, old)))
        wanted.RemoveSegment(old)
    if not _insert(wanted, segment, identity, place):
        raise RunError(_("Segmentation “{name}” cannot take more segments.").format(name=target.GetName()))
    done.added.append(identity)


def _insert(segmentation: Any, segment: Any, identity: str, place: int) -> bool:
    behind = segmentation.GetNthSegmentID(place) if 0 <= place < segmentation.GetNumberOfSegments() else ""
    return bool(segmentation.AddSegment(segment, identity, behind))


def _copy(segmentation: Any, identity: str) -> Any:
    """A segment with a labelmap of its own that holds no other segment's voxels."""
    alone = slicer.vtkSegmentation()
    alone.SetSourceRepresentationName(segmentation.GetSourceRepresentationName())
    alone.CopySegmentFromSegmentation(segmentation, identity)
    segment = alone.GetSegment(identity)
    image = segment.GetRepresentation(LABELMAP)
    if image is not None and image.GetPointData().GetScalars() is not None:
        labels = vtk_to_numpy(image.GetPointData().GetScalars())
        labels[labels != segment.GetLabelValue()] = 0
        image.Modified()
    return segment


def _has_voxels(segment: Any) -> bool:
    image = segment.GetRepresentation(LABELMAP)
    scalars = image.GetPointData().GetScalars() if image is not None else None
    return scalars is not None and bool((vtk_to_numpy(scalars) == segment.GetLabelValue()).any())


def _tag(segment: Any, name: str) -> str:
    return provenance.tag_of(segment, name)


def _free_name(segmentation: Any, name: str) -> str:
    """A name that no segment of a segmentation has yet."""
    known = {segmentation.GetSegment(one).GetName() for one in segmentation.GetSegmentIDs()}
    free, number = name, 1
    while free in known:
        number += 1
        free = f"{name} {number}"
    return free


def _give_colour(segment: Any, wanted: Any) -> None:
    """Another colour where a segment that is there already could not be told apart from it."""
    known = np.array([wanted.GetSegment(one).GetColor() for one in wanted.GetSegmentIDs()]).reshape(-1, 3)
    colour, number = np.array(segment.GetColor()), len(known)
    while len(known) and np.linalg.norm(known - colour, axis=1).min() < _ALIKE and number < len(known) + 20:
        number += 1
        colour = np.array(label_colour(number))
    segment.SetColor(*colour)


def _cut(source: Any, target: Any) -> None:
    """Take from the result's voxels those that any segment of the target has."""
    if target.GetSegmentation().GetNumberOfSegments() == 0:
        return
    with scratch.scratch_scene() as scene:
        try:
            options = MaskOptions(source, None, False)
            there = in_world(target, target.GetName(), placement_of(target), scene, options, lambda message: None)
        except BoundaryError:  # nothing painted
            return
        if not painted(there.GetSegmentation()):
            return
        for layer in layers_of(source.GetSegmentation()):
            labels = vtk_to_numpy(layer.GetPointData().GetScalars())
            extent, matrix = layer.GetExtent(), ijk_to_ras(layer)
            matrix[:3, 3] += matrix[:3, :3] @ np.array(extent[::2])
            grid = Grid(matrix, layer.GetDimensions())
            for covering in layers_of(there.GetSegmentation()):
                taken = resample(covering, ijk_to_ras(covering), placement_of(there), grid, nearest=True)
                labels[vtk_to_numpy(taken.GetPointData().GetScalars()) > 0] = 0
            layer.Modified()
