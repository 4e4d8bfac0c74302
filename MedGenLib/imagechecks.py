"""What an image node tells of itself against what its role asks for and what the model was trained on. No Qt.

The rules for Hounsfield units are those of `medgen.hounsfield`; what that refuses in a run is red here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from MedGenLib.i18n import _
from MedGenLib.imagefacts import ImageFacts, exact_range, facts_of, modality_of

# (level, sentence, what mends it: (kind, value) as MedGenLib.preflight knows them)
Said = tuple[str, str, tuple[tuple[str, Any], ...]]
GREEN, AMBER, RED = "green", "amber", "red"

AIR_SEEN, BONE_SEEN = -200.0, 200.0  # HU that a CT with any air, and with any bone, goes beyond
CT_LIKE = -400.0  # what one in a hundred voxels of a CT is below, and none of an MR
SPACING_RATIO = 1.5  # how far from the trained voxel sizes is worth a word
EXTENT_RATIO = 1.5
OFFSET = 1024.0  # what scanners add to keep CT values positive
# What a role calls its modality, and DICOM's codes for it.
_CODES = {"CT": ("CT",), "MR": ("MR",), "PET": ("PT",), "PT": ("PT",), "US": ("US", "IVUS"), "CBCT": ("CT",)}
_ACQUIRED = ("CT", "MR", "PT", "NM", "US", "IVUS", "XA", "CR", "DX", "MG")  # others say little: OT, SC, …


def examine_image(node: Any, role: dict[str, Any], seen: dict[str, Any] | None) -> list[Said]:
    """Findings on an image for a role; `seen`: what the model's record says of this role's images in training."""
    facts = facts_of(node)
    name = node.GetName()
    if facts is None:
        return [(RED, _("“{name}” has no voxels; choose another volume.").format(name=name), ())]
    checks = (_form, _values, _modality, _orientation, _spacing, _field_of_view)
    return [said for check in checks for said in check(node, facts, role, seen or {})]


def _form(node: Any, facts: ImageFacts, role: dict[str, Any], seen: dict[str, Any]) -> Iterator[Said]:
    """Dimensions and channels."""
    name, size = node.GetName(), " x ".join(map(str, facts.shape))
    if facts.flat and role["dims"] == "3D":
        words = _("“{name}” is a single slice, but “{role}” takes a volume; choose a volume.")
        yield RED, words.format(name=name, role=role["name"]), ()
    elif not facts.flat and role["dims"] == "2D":
        words = _("“{name}” is a volume of {size} voxels, but “{role}” takes a single slice; choose one.")
        yield RED, words.format(name=name, role=role["name"], size=size), ()
    else:
        yield GREEN, _("“{name}”: {size} voxels.").format(name=name, size=size), ()
    most = (seen.get("channels") or [1, facts.channels])[1]
    if facts.channels > 1 and (role["dims"] == "3D" or facts.channels > most):
        words = _("“{name}” has {n} values a voxel, but “{role}” takes one.")
        yield RED, words.format(name=name, n=facts.channels, role=role["name"]), (("grey", None),)


def _values(node: Any, facts: ImageFacts, role: dict[str, Any], seen: dict[str, Any]) -> Iterator[Said]:
    """Finite, and not all the same."""
    name = node.GetName()
    if not facts.finite:
        words = _("“{name}” has values that are no numbers (NaN or infinite).").format(name=name)
        yield RED, words, (("finite", None),)
    elif facts.low == facts.high and len(set(exact_range(node))) == 1:
        words = _("“{name}” is empty: every value is {value:g}; choose an image with content.")
        yield RED, words.format(name=name, value=facts.low), ()
    else:
        yield GREEN, _("“{name}”: every value is a number.").format(name=name), ()


def _modality(node: Any, facts: ImageFacts, role: dict[str, Any], seen: dict[str, Any]) -> Iterator[Said]:
    """What DICOM says it is, and whether its values look like it."""
    wanted, said = role["modality"], modality_of(node)
    if wanted and said and said not in _CODES.get(wanted, (wanted,)):
        words = _("“{name}” is {said} by its DICOM header, but “{role}” takes {wanted}; choose another volume.")
        level = RED if said in _ACQUIRED else AMBER
        yield level, words.format(name=node.GetName(), said=said, role=role["name"], wanted=wanted), ()
        return
    if role["units"] == "HU":
        yield from _hounsfield(node, facts)
    elif wanted and wanted != "CT" and facts.p1 < CT_LIKE and facts.low > -5000:
        words = _(
            "“{name}” has values like a CT (down to {low:g}), but “{role}” takes {wanted}; choose another volume."
        )
        yield RED, words.format(name=node.GetName(), low=facts.low, role=role["name"], wanted=wanted), ()
    elif wanted:
        words = _("“{name}”: nothing speaks against its being {wanted}.").format(name=node.GetName(), wanted=wanted)
        yield GREEN, words, ()


def _hounsfield(node: Any, facts: ImageFacts) -> Iterator[Said]:
    low, high = facts.low, facts.high
    if low > AIR_SEEN or high < BONE_SEEN:
        low, high = exact_range(node)
    given = {"name": node.GetName(), "low": low, "high": high}
    if low >= 0 and high > 1000:
        words = _("“{name}” has values from {low:g} to {high:g}: a CT without its offset, not Hounsfield units.")
        yield RED, words.format(**given), (("shift", -OFFSET),)
    elif low >= 0 or high <= 1:
        words = _("“{name}” has values from {low:g} to {high:g}, which are not Hounsfield units; convert it first.")
        yield RED, words.format(**given), ()
    elif low > AIR_SEEN or high < BONE_SEEN:
        words = _("“{name}” has values from {low:g} to {high:g}: no air or no bone; are these Hounsfield units?")
        yield AMBER, words.format(**given), ()
    else:
        words = _("“{name}”: values from {low:g} to {high:g} look like Hounsfield units.")
        yield GREEN, words.format(**given), ()


def _orientation(node: Any, facts: ImageFacts, role: dict[str, Any], seen: dict[str, Any]) -> Iterator[Said]:
    name = node.GetName()
    if not facts.usable:
        words = _("The axes of “{name}” do not span a volume; load it again or mend its geometry in Volumes.")
        yield RED, words.format(name=name), ()
    elif not facts.straight:
        words = _("“{name}” is bent or sheared by a transform; the run takes a copy on a straight grid.")
        yield AMBER, words.format(name=name), (("harden", None),)
    elif facts.oblique > 0.5:
        words = _("“{name}” lies oblique by {n:.0f} degrees; the result will too.").format(name=name, n=facts.oblique)
        yield GREEN, words, ()
    else:
        yield GREEN, _("“{name}” lies along the patient's axes.").format(name=name), ()


def _spacing(node: Any, facts: ImageFacts, role: dict[str, Any], seen: dict[str, Any]) -> Iterator[Said]:
    """Voxel sizes against those of the training; of pictures there is none to compare."""
    known = seen.get("spacing") or []
    if facts.flat or len(known) != 3 or not facts.usable:
        return
    wanted = tuple(min(max(own, low), high) for own, (low, high) in zip(facts.spacing, known, strict=True))
    ratios = [max(own / near, near / own) for own, near in zip(facts.spacing, wanted, strict=True)]
    given = {"name": node.GetName(), "own": _sizes(facts.spacing), "known": _ranges(known)}
    if max(ratios) > SPACING_RATIO:
        words = _("“{name}” has voxels of {own} mm; the model was trained on {known} mm.").format(**given)
        yield AMBER, words, (("resample", wanted),) if facts.channels == 1 and facts.straight else ()
    else:
        yield GREEN, _("“{name}”: voxels of {own} mm, as in training.").format(**given), ()


def _field_of_view(node: Any, facts: ImageFacts, role: dict[str, Any], seen: dict[str, Any]) -> Iterator[Said]:
    known = seen.get("extent") or []
    if facts.flat or len(known) != 3 or not facts.usable:
        return
    larger = any(own > EXTENT_RATIO * high for own, (_low, high) in zip(facts.extent, known, strict=True))
    smaller = any(EXTENT_RATIO * own < low for own, (low, _high) in zip(facts.extent, known, strict=True))
    given = {"name": node.GetName(), "own": _sizes(facts.extent, 0), "known": _ranges(known, 0)}
    if larger or smaller:
        words = _("“{name}” shows {own} mm of the patient; the model was trained on {known} mm.").format(**given)
        yield AMBER, words, (("crop", None),) if larger and facts.channels == 1 else ()
    else:
        yield GREEN, _("“{name}”: a field of view of {own} mm, as in training.").format(**given), ()
    yield from _intensities(node, facts, role, seen)


def _intensities(node: Any, facts: ImageFacts, role: dict[str, Any], seen: dict[str, Any]) -> Iterator[Said]:
    """Only where values have a unit: without one, methods scale them."""
    known = seen.get("intensity") or {}
    if not role["units"] or not {"p1", "p99"} <= set(known):
        return
    low, high = known["p1"][0], known["p99"][1]
    if facts.p99 < low or facts.p1 > high:
        words = _(
            "The values of “{name}” ({a:.4g} to {b:.4g}) are outside those in training ({low:.4g} to {high:.4g})."
        )
        yield AMBER, words.format(name=node.GetName(), a=facts.p1, b=facts.p99, low=low, high=high), ()


def _sizes(values: tuple[float, ...], digits: int = 2) -> str:
    return " x ".join(f"{value:.{digits}f}" for value in values)


def _ranges(pairs: list[list[float]], digits: int = 2) -> str:
    texts = [(f"{low:.{digits}f}", f"{high:.{digits}f}") for low, high in pairs]
    return " x ".join(low if low == high else f"{low}-{high}" for low, high in texts)
