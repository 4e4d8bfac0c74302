"""Which nodes of the scene belong together as cases: by their study, by what a segmentation was drawn on, by name.

What is found is proposed with its reason, never used unasked. No Qt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import slicer

from MedGenLib.export import NODE_CLASSES
from MedGenLib.i18n import _
from MedGenLib.load import provenance_of
from MedGenLib.plan import as_list, reference_role
from MedGenLib.trainingcases import TrainingCase, subject_of

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
    """Complete cases of a pool among the nodes of the scene that are in no case yet, by name of the leading image."""
    roles = [role for role in pool["roles"] if role["kind"] in NODE_CLASSES and not role["many"]]
    leading = next((role for role in roles if role["name"] == reference_role(pool["roles"])), None)
    if leading is None:
        return []
    used = {id(node) for case in taken for value in case.values.values() for node in as_list(value)}
    free = [node for node in candidates(leading, pool["roles"]) if id(node) not in used]
    partners: dict[int, dict[str, tuple[Any, str]]] = {id(node): {} for node in free}
    for role in roles:
        if role is leading:
            continue
        others = [node for node in candidates(role, pool["roles"]) if id(node) not in used]
        for node, other, reason in _pairs(free, others):
            partners[id(node)][role["name"]] = (other, reason)
    needed = {role["name"] for role in pool["roles"] if not role["optional"]} - {leading["name"]}
    found = []
    for node in free:
        own = partners[id(node)]
        if needed <= set(own):
            values = {leading["name"]: node} | {name: other for name, (other, _reason) in own.items()}
            reason = ", ".join(dict.fromkeys(reason for _other, reason in own.values()))
            found.append(Proposal(TrainingCase(pool["name"], values, subject_of(node)), reason))
    return found


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


def _pairs(nodes: list[Any], others: list[Any]) -> list[tuple[Any, Any, str]]:
    """Each node with at most one of the others, the surest pairs first."""
    scored = [(*_evidence(node, other), node, other) for node in nodes for other in others]
    scored = sorted((one for one in scored if one[0] > 0), key=lambda one: -one[0])
    pairs, taken = [], set()
    for _score, reason, node, other in scored:
        if id(node) not in taken and id(other) not in taken:
            taken |= {id(node), id(other)}
            pairs.append((node, other, reason))
    return pairs


def _evidence(node: Any, other: Any) -> tuple[float, str]:
    """How sure it is that two nodes are of one case, 0 for not at all, and why."""
    alike = similarity(node.GetName(), other.GetName())
    if other.IsA("vtkMRMLSegmentationNode"):
        drawn_on = other.GetNodeReference(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())
        if drawn_on is node:
            return 3 + alike, _("drawn on it")
    if _folder(node) and _folder(node) == _folder(other):
        return 2 + alike, _("same study or folder")
    return (alike, _("names alike")) if alike >= _ALIKE else (0.0, "")


def _folder(node: Any) -> int:
    """The subject hierarchy item that a node stands under; 0 for none of its own."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    parent = hierarchy.GetItemParent(item) if item else 0
    return 0 if not parent or parent == hierarchy.GetSceneItemID() else int(parent)


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


def _tokens(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+", name.lower())
