"""Cards as rich text: what a method is, and what a model was trained on. Made from declarations alone; no Qt."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from MedGenLib.i18n import _


def method_card(entry: dict[str, Any]) -> str:
    """Sentence, badge, citation with its link, what it needs and where it fails."""
    badge = _("Research use only. Not for clinical use.")
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
    rows.append(
        "<p style='margin-top:8px; margin-bottom:0'><span style='background-color:#7a4b00; color:#ffffff'>"
        f"&nbsp;{html.escape(badge)}&nbsp;</span></p>"
    )
    return "".join(rows)


def model_card(record: dict[str, Any]) -> str:
    """When a model was trained, on what, how well, and whether it carries patient data."""
    when = str(record.get("created", "")).replace("T", " ").removesuffix("Z")
    lines = [_("Trained {when} (UTC), {size:.1f} MB").format(when=when, size=record["bytes"] / 2**20)]
    lines += [f"{sentence(key.replace('_', ' '))}: {plain(value)}" for key, value in record.get("facts", {}).items()]
    if record.get("patient_data"):
        lines.append(_("Contains patient data: do not pass it on without consent."))
    return "<br>".join(html.escape(line) for line in lines)


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
