"""Which nodes of the scene belong together as cases: by their study, by what a segmentation was drawn on, by name.

What is found is proposed with its reason, never used unasked. No Qt.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import slicer

from MedGenLib.export import NODE_CLASSES
from MedGenLib.i18n import _
from MedGenLib.load import MARKUP_KINDS, provenance_of
from MedGenLib.plan import as_list, reference_role
from MedGenLib.trainingcases import TrainingCase, can_be_none, labels, subject_of, takes_unlabelled

Crowd = dict[int, list[list[int]]]  # item of the subject hierarchy -> the numbers in the name of each image under it

_ALIKE = 0.6  # names that share less are of different cases
# Words that say what a node is, not whose it is.
_WORDS = {"image", "volume", "mask", "seg", "segmentation", "label", "labels", "labelmap", "drawn", "drawing", "points"}
_WORDS |= {"point", "landmark", "landmarks", "markups", "fiducials", "truth", "manual", "ct", "mr", "mri", "us", "pet"}


@dataclass
class Proposal:
    """A case that was found, and why its nodes belong together."""

    case: TrainingCase
    reason: str

    def text(self) -> str:
        """The nodes' names and the reason."""
        names = " + ".join(f"“{node.GetName()}”" for value in self.case.values.values() for node in as_list(value))
        return f"{names} ({self.reason})" if self.reason else names


def proposals(pool: dict[str, Any], taken: list[TrainingCase]) -> list[Proposal]:
    """Cases of a pool among the nodes of the scene that are in no case yet, by name of the leading image.

    Complete ones; behind them, where the pool takes cases without labels, the images for which none were found.
    """
    roles = [role for role in pool["roles"] if role["kind"] in NODE_CLASSES]
    roles = [role for role in roles if not role["many"] or role["kind"] in MARKUP_KINDS]
    leading = next((role for role in roles if role["name"] == reference_role(pool["roles"])), None)
    if leading is None:
        return []
    used = {id(node) for case in taken for value in case.values.values() for node in as_list(value)}
    images = candidates(leading, pool["roles"])
    free = [node for node in images if id(node) not in used]
    if leading["dims"] == "2D":  # where no label is needed, nothing else would keep a CT from being one
        free = [node for node in free if _is_single_slice(node)]
    partners: dict[int, dict[str, tuple[Any, str]]] = {id(node): {} for node in free}
    for role in roles:
        if role is leading:
            continue
        others = [node for node in candidates(role, pool["roles"]) if id(node) not in used]
        places = _places(images, others)
        crowd: Crowd = defaultdict(list)
        for image in images:
            crowd[places[id(image)].above].append(_numbers(image.GetName()))
        pairs = _groups(images, others, places) if role["many"] else _pairs(free, others, places, crowd)
        for node, other, reason in pairs:
            if id(node) in partners:
                partners[id(node)][role["name"]] = (other, reason)
    needed = {role["name"] for role in labels(pool)}
    complete, unlabelled = [], []
    for node in free:
        own = partners[id(node)]
        if needed <= set(own):
            none = [role["name"] for role in roles if role["name"] not in own and can_be_none(role)]
            complete.append(_proposal(pool, node, own, *(_("without {role}").format(role=name) for name in none)))
        elif takes_unlabelled(pool):  # what is half labelled is not learnt from
            rest = {name: pair for name, pair in own.items() if name not in needed}
            unlabelled.append(_proposal(pool, node, rest, _("without labels")))
    return complete + unlabelled


def _proposal(pool: dict[str, Any], image: Any, own: dict[str, tuple[Any, str]], *reasons: str) -> Proposal:
    values = {str(reference_role(pool["roles"])): image} | {name: other for name, (other, _reason) in own.items()}
    reason = ", ".join(dict.fromkeys([*(reason for _other, reason in own.values()), *reasons]))
    return Proposal(TrainingCase(pool["name"], values, subject_of(image)), reason)


def candidates(role: dict[str, Any], roles: list[dict[str, Any]]) -> list[Any]:
    """Nodes that may fill a role, by name: neither hidden nor made by MedGen, and of the modality where several roles
    are images."""
    scene = slicer.mrmlScene
    nodes = []
    for name in NODE_CLASSES[role["kind"]]:
        found = [scene.GetNthNodeByClass(index, name) for index in range(scene.GetNumberOfNodesByClass(name))]
        nodes += [node for node in found if node.GetClassName() == name and not node.GetHideFromEditors()]
    nodes = [node for node in nodes if not provenance_of(node)]
    if role["kind"] == "Image" and sum(other["kind"] == "Image" for other in roles) > 1:
        words = {str(word).lower() for word in (role["name"], role["modality"]) if word}
        nodes = [node for node in nodes if words & set(_tokens(node.GetName()))]
    return sorted(nodes, key=lambda node: [(int(t), "") if t.isdigit() else (-1, t) for t in _tokens(node.GetName())])


def _is_single_slice(image: Any) -> bool:
    voxels = image.GetImageData()
    return voxels is not None and voxels.GetDimensions()[2] == 1


@dataclass(frozen=True)
class _Place:
    """Where a node stands in the subject hierarchy: its own item and the one above it, 0 for none.

    of_image: the one above is an image that may be a case; what stands there is that image's and no other's.
    """

    item: int
    above: int
    of_image: bool


def _places(images: list[Any], others: list[Any]) -> dict[int, _Place]:
    """By id of the node. The scene itself counts as no place."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return {id(node): _Place(0, 0, False) for node in [*images, *others]}
    items = {id(node): int(hierarchy.GetItemByDataNode(node)) for node in [*images, *others]}
    cases = {items[id(image)] for image in images} - {0}
    found = {}
    for node, item in items.items():
        above = int(hierarchy.GetItemParent(item)) if item else 0
        found[node] = _Place(item, 0 if above == hierarchy.GetSceneItemID() else above, above in cases)
    return found


def _pairs(images: list[Any], others: list[Any], places: dict[int, _Place], crowd: Crowd) -> list[tuple[Any, Any, str]]:
    """Each image with at most one of the others, the surest pairs first."""
    scored = [(*_evidence(image, other, places, crowd), image, other) for image in images for other in others]
    scored = sorted((one for one in scored if one[0] > 0), key=lambda one: -one[0])
    pairs, taken = [], set()
    for _score, reason, image, other in scored:
        if id(image) not in taken and id(other) not in taken:
            taken |= {id(image), id(other)}
            pairs.append((image, other, reason))
    return pairs


def _groups(images: list[Any], others: list[Any], places: dict[int, _Place]) -> list[tuple[Any, list[Any], str]]:
    """Each image with all of the others that are its own. What may be of several images is of none."""
    under = {places[id(image)].item: image for image in images}
    beside: dict[int, list[Any]] = {}
    for image in images:
        beside.setdefault(places[id(image)].above, []).append(image)
    groups: dict[int, list[tuple[Any, str]]] = {id(image): [] for image in images}
    for other in others:
        place = places[id(other)]
        near = beside.get(place.above, []) if place.above else []
        if place.of_image:
            owner, reason = under[place.above], _("placed under it")
        elif len(near) == 1:
            owner, reason = near[0], _("same study or folder")
        else:
            owner, reason = _namesake(other, near or images), _("names alike")
        if owner is not None:
            groups[id(owner)].append((other, reason))
    return [
        (image, [other for other, _reason in own], ", ".join(dict.fromkeys(reason for _other, reason in own)))
        for image in images
        if (own := groups[id(image)])
    ]


def _namesake(other: Any, images: list[Any]) -> Any:
    """The one image that is called most alike; None where there is none, or more than one."""
    scored = [(similarity(image.GetName(), other.GetName()), image) for image in images]
    most = max((score for score, _image in scored), default=0.0)
    likest = [image for score, image in scored if score == most]
    return likest[0] if most >= _ALIKE and len(likest) == 1 else None


def _evidence(node: Any, other: Any, places: dict[int, _Place], crowd: Crowd) -> tuple[float, str]:
    """How sure it is that an image and another node are of one case, 0 for not at all, and why. crowd: the numbers in
    the names of the images under an item; where there are several, standing beside one says nothing: a name that is
    alike must, or a number that only one of them has."""
    alike = similarity(node.GetName(), other.GetName())
    if other.IsA("vtkMRMLSegmentationNode"):
        drawn_on = other.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())
        if drawn_on is node:
            return 4 + alike, _("drawn on it")
    mine, its = places[id(node)], places[id(other)]
    if its.of_image:
        return (3 + alike, _("placed under it")) if its.above == mine.item else (0.0, "")
    if mine.above and mine.above == its.above:
        near, numbers = crowd[mine.above], _numbers(node.GetName())
        numbered = numbers and numbers == _numbers(other.GetName()) and near.count(numbers) == 1
        if len(near) == 1 or alike >= _ALIKE or numbered:
            return 2 + alike, _("same study or folder")
    return (alike, _("names alike")) if alike >= _ALIKE else (0.0, "")


def similarity(one: str, other: str) -> float:
    """How alike two names are, 0..1, leaving out words that say what a node is. Numbers must be the same."""
    mine, theirs = ([token for token in _tokens(name) if token not in _WORDS] for name in (one, other))
    numbers = [[int(token) for token in tokens if token.isdigit()] for tokens in (mine, theirs)]
    if numbers[0] != numbers[1]:
        return 0.0
    words = [" ".join(token for token in tokens if not token.isdigit()) for tokens in (mine, theirs)]
    if not any(words):
        return 1.0 if numbers[0] else 0.0
    return SequenceMatcher(None, *words).ratio()


def _numbers(name: str) -> list[int]:
    return [int(token) for token in _tokens(name) if token.isdigit()]


def _tokens(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+", name.lower())
