"""What can be said of an operation before it runs: do the chosen inputs, the model and this computer suit it? No Qt.

Every finding is one plain sentence, green, amber or red, with what mends it. The quick ones come from declarations and
a sample of the voxels; what a background check has found out (`estimate`, `refused`) joins them when it is there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer

from medgen import models, resources, windows
from MedGenLib import cards, remedies
from MedGenLib.i18n import _
from MedGenLib.imagechecks import examine_image
from MedGenLib.imagefacts import facts_of
from MedGenLib.parameters import Parameters
from MedGenLib.plan import as_list, reference_role, roles_of

GREEN, AMBER, RED = "green", "amber", "red"
PLENTY = 0.8  # share of the free memory that an estimate may take without a word
_GIB = 2**30
_HALF = 2 ** (1 / 3)  # larger voxels, half as many


@dataclass(frozen=True)
class Remedy:
    """A button: its text, what it does in a sentence, and the doing; `do` changes what is chosen, never an input."""

    label: str
    help: str
    do: Callable[[Parameters], None] = field(compare=False)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: str
    words: str
    remedies: tuple[Remedy, ...] = ()


@dataclass
class Question:
    """What is about to run.

    inputs: role -> node, list of nodes or path. record: the model's record, or None. device, settings: as chosen, with
    the tier's values where nothing was. estimate: the "estimate" event of `medgen check`; refused: its sentence why the
    inputs are not fit, or empty.
    """

    operation: dict[str, Any]
    inputs: dict[str, Any]
    record: dict[str, Any] | None = None
    device: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)
    estimate: dict[str, Any] | None = None
    refused: str = ""


def examine(question: Question) -> list[Finding]:
    """Every finding, the red ones first."""
    found = [*_inputs(question), *_places(question), *_cost(question)]
    if question.refused and not any(one.level == RED for one in found):
        found.append(Finding(RED, question.refused))
    order = (RED, AMBER, GREEN)
    return sorted(found, key=lambda one: order.index(one.level))


def objection(findings: list[Finding]) -> str:
    """Why the operation should not start: the first red sentence, else empty."""
    return next((one.words for one in findings if one.level == RED), "")


# --- inputs


def _inputs(question: Question) -> list[Finding]:
    found: list[Finding] = []
    trained_on = (question.record or {}).get("trained_on") or {}
    for role in roles_of(question.operation):
        seen = trained_on.get(role["name"].rpartition(".")[2])
        for node in as_list(question.inputs.get(role["name"])):
            if not hasattr(node, "GetID"):
                continue
            if role["kind"] == "Image":
                found += [_with_remedies(said, role["name"], node) for said in examine_image(node, role, seen)]
            elif role["kind"] == "Mask" and not role["may_be_empty"] and _is_empty(node):
                found.append(
                    Finding(RED, _("“{name}” has no segment; draw the structure first.").format(name=node.GetName()))
                )
    return found


def _with_remedies(said: tuple[str, str, tuple[tuple[str, Any], ...]], role: str, node: Any) -> Finding:
    """A finding of an image with buttons that choose a mended copy in its place."""
    level, words, wanted = said
    helps = [(kind, value) for kind, value in wanted if kind != "crop" or remedies.foreground(node) is not None]
    return Finding(level, words, tuple(_image_remedy(kind, value, role, node) for kind, value in helps))


def _image_remedy(kind: str, value: Any, role: str, node: Any) -> Remedy:
    copy = _("A new volume is made and chosen; “{name}” stays as it is.").format(name=node.GetName())
    known: dict[str, tuple[str, Callable[[], Any]]] = {
        "resample": (_("Resample"), lambda: remedies.resampled(node, value)),
        "crop": (_("Crop"), lambda: remedies.cropped(node)),
        "finite": (_("Replace"), lambda: remedies.finite(node)),
        "coarser": (_("Make coarser"), lambda: remedies.resampled(node, value)),
        "grey": (_("Make grey"), lambda: remedies.grey(node)),
        "shift": (_("Subtract its offset"), lambda: remedies.shifted(node, value)),
        "harden": (_("Harden"), lambda: remedies.hardened(node)),
    }
    label, make = known[kind]

    def do(parameters: Parameters) -> None:
        made = make()
        if made is not None:
            nodes = [made if one is node else one for one in parameters.nodes(role)]
            parameters.set_nodes(role, nodes)

    return Remedy(label, copy, do)


def _is_empty(node: Any) -> bool:
    return bool(node.IsA("vtkMRMLSegmentationNode") and node.GetSegmentation().GetNumberOfSegments() == 0)


# --- one place in space


def _places(question: Question) -> list[Finding]:
    """Whether what belongs together lies together."""
    roles = roles_of(question.operation)
    name = reference_role(roles)
    reference = next((one for one in as_list(question.inputs.get(name or "")) if hasattr(one, "GetRASBounds")), None)
    if reference is None or "." in str(name):
        return []  # pools of one case each: every one is another patient's
    facts = facts_of(reference) if _is_volume(reference) else None
    if facts is not None and facts.flat:
        return []  # plain pictures have no space to share
    found = []
    for role in roles:
        for node in as_list(question.inputs.get(role["name"])):
            if node is reference or not hasattr(node, "GetRASBounds") or role["kind"] not in ("Image", "Mask"):
                continue
            if not _overlap(node, reference):
                words = _("“{name}” and “{other}” do not overlap in space; check that they are of the same patient.")
                found.append(Finding(RED, words.format(name=node.GetName(), other=reference.GetName())))
    return found


def _overlap(node: Any, other: Any) -> bool:
    ours, theirs = [0.0] * 6, [0.0] * 6
    node.GetRASBounds(ours)
    other.GetRASBounds(theirs)
    if ours[0] > ours[1] or theirs[0] > theirs[1]:  # nothing in it: another finding's
        return True
    return all(ours[2 * axis] < theirs[2 * axis + 1] and theirs[2 * axis] < ours[2 * axis + 1] for axis in range(3))


# --- memory, disk, time


def _cost(question: Question) -> list[Finding]:
    estimate = question.estimate
    free = resources.memory()
    found = []
    if estimate is None:
        if free.free is not None:
            words = _("{free:.1f} GB of memory are free.").format(free=free.free / _GIB)
            found.append(Finding(GREEN, words))
    else:
        found += [_time(estimate), _memory(question, estimate, free)]
    disk = _disk(question)
    return [*found, *([disk] if disk else [])]


def _time(estimate: dict[str, Any]) -> Finding:
    time, device = cards.duration(float(estimate["seconds"])), str(estimate.get("device", ""))
    where = _("the CPU") if device == "cpu" else _("the GPU")
    words = _("Takes about {time} on {where} of this computer.").format(time=time, where=where)
    return Finding(GREEN, words)


def _memory(question: Question, estimate: dict[str, Any], main: resources.Memory) -> Finding:
    """What the method says it needs against what is free where it will run."""
    need, device = int(estimate["memory_bytes"]), str(estimate.get("device") or "cpu")
    on_gpu = device != "cpu"
    free = estimate.get("memory_free_bytes") if on_gpu else main.free
    if free is None or need <= PLENTY * free:
        words = _("Needs about {need:.1f} GB of memory.").format(need=need / _GIB)
        if free is not None:
            words = _("Needs about {need:.1f} GB of memory; {free:.1f} GB are free.").format(
                need=need / _GIB, free=free / _GIB
            )
        return Finding(GREEN, words)
    what = _("GPU memory") if on_gpu else _("memory")
    words = _("Needs about {need:.1f} GB of {what}, but {free:.1f} GB are free; ").format(
        need=need / _GIB, what=what, free=free / _GIB
    )
    mends = [*_smaller_windows(question), *(_on_cpu() if on_gpu else []), *_smaller_images(question)]
    if on_gpu:
        words += _("if it does not fit, smaller windows and then the CPU are tried by themselves.")
        return Finding(AMBER, words, tuple(mends))
    if main.total is not None and need > 1.5 * main.total:
        return Finding(RED, words + _("this computer has too little for it."), tuple(mends))
    return Finding(AMBER, words + _("close other programs, or make it need less."), tuple(mends))


def _smaller_windows(question: Question) -> list[Remedy]:
    found = []
    trained = dict((question.record or {}).get("config") or {})
    for setting in question.operation["settings"]:
        mark = setting.get("memory") or {}
        if mark.get("role") != "window":
            continue
        name = setting["name"]
        now = windows.in_use(int(question.settings.get(name, setting["default"])), mark, trained)
        less = windows.halved(now, mark)
        if less < now:
            found.append(_setting_remedy(question.operation["name"], name, less))
    return found


def _setting_remedy(operation: str, name: str, value: int) -> Remedy:
    def do(parameters: Parameters) -> None:
        parameters.set_setting(operation, name, value)

    words = _("Sets “{name}” to {value}: the same result up to the tiling, with less memory and more time.")
    return Remedy(_("Smaller windows"), words.format(name=name.replace("_", " "), value=value), do)


def _on_cpu() -> list[Remedy]:
    def do(parameters: Parameters) -> None:
        parameters.set_text("device", "cpu")

    return [Remedy(_("Use the CPU"), _("Slower, with the computer's own memory."), do)]


def _smaller_images(question: Question) -> list[Remedy]:
    """Cropping where there is something to cut off, else half as many voxels, of the first volume."""
    for role in roles_of(question.operation):
        for node in as_list(question.inputs.get(role["name"])) if role["kind"] == "Image" else []:
            facts = facts_of(node) if _is_volume(node) else None
            if facts is None or facts.flat or facts.channels != 1 or not facts.straight:
                continue
            if remedies.foreground(node) is not None:
                return [_image_remedy("crop", None, role["name"], node)]
            return [_image_remedy("coarser", tuple(_HALF * size for size in facts.spacing), role["name"], node)]
    return []


def _disk(question: Question) -> Finding | None:
    """Space for the files a run is given and for what it gives."""
    sizes = [facts_of(node) for value in question.inputs.values() for node in as_list(value) if _is_volume(node)]
    need = 2 * sum(facts.bytes for facts in sizes if facts is not None)
    need += int((question.estimate or {}).get("disk_bytes", 0))
    temporary = getattr(getattr(slicer, "app", None), "temporaryPath", None) or tempfile.gettempdir()
    places = {Path(temporary), models.home()}
    for place in sorted(places):
        free = resources.free_disk(place)
        if free is not None and free < need:
            words = _("Needs about {need:.1f} GB of disk, but {free:.1f} GB are free in {place}; free some disk space.")
            return Finding(RED, words.format(need=need / _GIB, free=free / _GIB, place=place))
    return None


def _is_volume(node: Any) -> bool:
    return bool(hasattr(node, "IsA") and node.IsA("vtkMRMLVolumeNode"))
