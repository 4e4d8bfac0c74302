"""Cards as rich text: what a method is, and what a model was trained on. Made from declarations alone; no Qt."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from MedGenLib.i18n import _


def method_card(entry: dict[str, Any]) -> str:
    """Sentence, badge, citation with its link, what it needs and where it fails."""
    rows = [f"<p style='margin-top:0; margin-bottom:8px'>{html.escape(entry['sentence'])}</p>"]
    details = [(_("Needs"), entry["needs"]), (_("Limits"), entry["limits"])]
    if entry["carries_patient_data"]:
        details.append((_("Privacy"), _("Its models carry a reference image: treat them as patient data.")))
    citation = f"<a href='{html.escape(entry['url'], quote=True)}'>{html.escape(entry['citation'])}</a>"
    cells = [(label, html.escape(text)) for label, text in details if text] + [(_("Paper"), citation)]
    table = "".join(
        f"<tr><td style='padding:1px 10px 1px 0'><b>{html.escape(label)}</b></td><td>{text}</td></tr>"
        for label, text in cells
    )
    rows.append(f"<table cellspacing='0' cellpadding='0' style='margin-top:6px'>{table}</table>")
    rows.append(_badge())
    return "".join(rows)


def model_card(record: dict[str, Any]) -> str:
    """When a model was trained, on what, how well, and whether it carries patient data."""
    when = str(record.get("created", "")).replace("T", " ").removesuffix("Z")
    lines = [_("Trained {when} (UTC), {size}").format(when=when, size=file_size(record["bytes"]))]
    lines += [f"{sentence(key.replace('_', ' '))}: {plain(value)}" for key, value in record.get("facts", {}).items()]
    if record.get("patient_data"):
        lines.append(_("Contains patient data: do not pass it on without consent."))
    return "<br>".join(html.escape(line) for line in lines)


def bundle_card(record: dict[str, Any], title: str) -> str:
    """A model's whole card: method, badge, what it was trained on, digest, privacy."""
    when = str(record.get("created", "")).replace("T", " ").removesuffix("Z")
    rows = [(_("Method"), title), (_("Trained"), _("{when} (UTC), MedGen {version}").format(
        when=when, version=record.get("medgen", "?")
    ))]  # fmt: skip
    rows += [(key.replace("_", " ").capitalize(), plain(value)) for key, value in record.get("facts", {}).items()]
    rows += [
        (_("Seen: {role}").format(role=role), _seen(seen)) for role, seen in (record.get("trained_on") or {}).items()
    ]
    rows.append((_("Size"), file_size(record["bytes"])))
    rows.append((_("Digest"), str(record["digest"])[:12]))
    table = "".join(
        f"<tr><td style='padding:1px 10px 1px 0'><b>{html.escape(label)}</b></td><td>{html.escape(str(text))}</td></tr>"
        for label, text in rows
    )
    privacy = (
        fault(_("Contains patient data: do not pass it on without consent."))
        if record.get("patient_data")
        else html.escape(_("Contains no images of its training data."))
    )
    return f"<table cellspacing='0' cellpadding='0'>{table}</table><p>{privacy}</p>{_badge()}"


def file_size(count: int) -> str:
    """Bytes as a person says them."""
    if count < 2**20:
        return _("{n:.0f} kB").format(n=max(1, count / 2**10))
    return _("{n:.1f} MB").format(n=count / 2**20)


def fault(words: str) -> str:
    """A sentence that warns."""
    return f"<span style='color:#b02020'>{html.escape(words)}</span>"


def _seen(seen: dict[str, Any]) -> str:
    """What a training saw of a role."""
    try:
        voxels = " x ".join(_between(pair, 2) for pair in seen["spacing"])
        extent = " x ".join(_between(pair, 0) for pair in seen["extent"])
        words = _("{n} in all, voxels of {voxels} mm, fields of view of {extent} mm")
        words = words.format(n=seen["cases"], voxels=voxels, extent=extent)
        return f"{seen['modality']}: {words}" if seen.get("modality") else words
    except (KeyError, TypeError, ValueError):  # another version's
        return plain(seen)


def _between(pair: list[float], digits: int) -> str:
    low, high = (f"{value:.{digits}f}" for value in pair)
    return low if low == high else f"{low}-{high}"


def _badge() -> str:
    badge = _("Research use only. Not for clinical use.")
    return (
        "<p style='margin-top:8px; margin-bottom:0'><span style='background-color:#7a4b00; color:#ffffff'>"
        f"&nbsp;{html.escape(badge)}&nbsp;</span></p>"
    )


def model_name(record: dict[str, Any]) -> str:
    """The name of a model's folder."""
    return Path(record["folder"]).name


def sentence(words: str) -> str:
    """Words as a sentence begins, with names and units (MAE, HU) as they are."""
    return words[:1].upper() + words[1:]


def plain(value: Any) -> str:
    """A fact as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Time as a person says it."""
    if seconds < 90:
        return _("{n} s").format(n=max(1, round(seconds)))
    if seconds < 5400:
        return _("{n} min").format(n=round(seconds / 60))
    return _("{n:.1f} h").format(n=seconds / 3600)
