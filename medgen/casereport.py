"""The page of a batch: OUT/report.html, one file that opens offline, with every case's picture and figures.

Failures come first, then how each measure is distributed, then the cases, a page of them at a time; their thumbnails
lie in the file as text and become images when their page is shown. Nothing is fetched, and a policy in the page allows
no script but its own, so that a name that looks like HTML stays a name. Standard library only: made from the records
(medgen.ledger), case by case, so that its memory does not grow with the pictures.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Iterator
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from medgen import __version__, ledger
from medgen.distributions import drawn, statistics_of
from medgen.ledger import Record
from medgen.whole import written_whole

TEMPLATE = Path(__file__).with_name("casereport.html")
NAME = "report.html"
A_PAGE, A_BLOCK = 24, 48  # cases shown at a time, and thumbnails in one element of the file
FAILURES_SHOWN = 200
_LARGEST = 400_000  # bytes; what is larger is no thumbnail of ours
_IN_HEADER = {"format", "title", "citation", "url", "use", "cases", "names", "asked", "model", "recipe", "config"}


def renew(out: Path) -> Path:
    """Make a batch's tables and page anew from its records; the page. UserError where `out` is not a batch's folder."""
    ledger.read_batch(out)
    ledger.write_tables(out)
    return write(out)


def write(out: Path) -> Path:
    """Write OUT/report.html whole; its path. UserError where `out` is not a batch's folder or cannot be written to."""
    batch = ledger.read_batch(out)
    recipe = str(batch["recipe"])
    failures: list[Record] = []
    rows: list[Record] = []
    pictures: list[tuple[str, str]] = []
    failed = 0
    for record in ledger.records(out, batch):
        if record["state"] == "done":
            rows.append(_row(record, len(rows), record["recipe"] != recipe))
            pictures.append((record["case"], record.get("preview") or ""))
        else:
            failed += 1
            failures += [record] if failed <= FAILURES_SHOWN else []
    measures = list(dict.fromkeys(name for row in rows for name in row["measures"]))
    template = TEMPLATE.read_text("utf-8")
    parts = {
        "title": escape(_title(batch)),
        "about": _about(batch),
        "counts": _counts(int(batch["cases"]), rows, failed),
        "failures": _failures(failures, failed),
        "measures": _measures(measures, rows),
        "provenance": _provenance(batch, recipe),
        "footer": escape(f"Written {_now()} by MedGen {__version__} from the records in this folder."),
        "script_digest": _script_digest(template),
    }
    path = out / NAME
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        for number, piece in enumerate(re.split(r"{{(\w+)}}", template)):
            if number % 2 == 0:
                file.write(piece)
            elif piece == "data":
                file.writelines(_data(measures, rows))
            elif piece == "thumbnails":
                file.writelines(_thumbnails(out, pictures))
            else:
                file.write(parts[piece])
    return path


def _script_digest(template: str) -> str:
    """What the page's policy knows its one script by."""
    found = re.search(r"<script>(.*?)</script>", template, re.DOTALL)
    assert found is not None
    return "sha256-" + base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def _moment(time: Any) -> str:
    """2026-11-27T12:10:00Z as people write it."""
    return str(time or "").replace("T", " ").replace("Z", " UTC")


# --- cases --------------------------------------------------------------------------------------------------------


def _row(record: Record, index: int, other: bool) -> Record:
    """What the page keeps of a finished case. Files without their folders, which may name a patient."""
    measures = {name: value for name, value in record.get("measures", {}).items() if _finite(value)}
    return {
        "index": index,
        "case": record["case"],
        "subject": record.get("subject") or "",
        "measures": measures,
        "seconds": record["seconds"] if _finite(record.get("seconds")) else None,
        "other": other,
        "changed": _sentences(record.get("changed_for_memory")),
        "log": _sentences(record.get("log")),
        "inputs": [[one["role"], re.split(r"[\\/]", one["file"])[-1]] for one in record.get("inputs", [])],
        "outputs": [[one["role"], f"cases/{record['case']}/{one['file']}"] for one in record.get("outputs", [])],
        "time": _moment(record.get("time")),
        "host": str(record.get("host") or ""),
    }


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _sentences(value: Any) -> list[str]:
    return [str(one) for one in (value if isinstance(value, list) else [value] if value else [])]


def _json(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _data(measures: list[str], rows: Iterable[Record]) -> Iterator[str]:
    """The list of cases as JSON, piece by piece."""
    head = _json({"measures": measures, "a_page": A_PAGE, "a_block": A_BLOCK})
    yield head[:-1] + ',"cases":['
    for row in rows:
        values = [row["measures"].get(name) for name in measures]
        yield ("," if row["index"] else "") + _json({**row, "measures": values})
    yield "]}"


def _thumbnails(out: Path, pictures: list[tuple[str, str]]) -> Iterator[str]:
    """The thumbnails in the order of the cases, a line of base64 each, empty where there is none."""
    remaining = iter(pictures)
    while block := list(islice(remaining, A_BLOCK)):
        yield '<script type="text/plain" class="thumbnails">\n'
        for case, preview in block:
            yield _encoded(out / "cases" / case / preview) + "\n" if preview else "\n"
        yield "</script>\n"


def _encoded(path: Path) -> str:
    """A JPEG as base64; empty where it is missing or is none."""
    try:
        if path.stat().st_size > _LARGEST:
            return ""
        content = path.read_bytes()
    except OSError:
        return ""
    return base64.b64encode(content).decode() if content.startswith(b"\xff\xd8") else ""


# --- what stands around them --------------------------------------------------------------------------------------


def _title(batch: Record) -> str:
    return str(batch.get("title") or f"{batch['method']}: {batch['operation']}")


def _about(batch: Record) -> str:
    lines = []
    model = batch.get("model")
    if model:
        digest = str(model.get("digest") or "")[:12]
        lines.append(f"Model <b>{escape(str(model.get('name') or 'without a name'))}</b> ({escape(digest)})")
    if batch.get("cohort"):
        lines.append(f"Cohort {escape(str(batch['cohort']))}, started {escape(_moment(batch.get('started')))}")
    paper = str(batch.get("citation") or "").rstrip(".")
    where = str(batch.get("url") or "").partition("://")[
        2
    ]  # to be read, not followed: the page works without a network
    lines.append(escape(". ".join(part for part in (paper, where.replace("doi.org/", "doi:")) if part)))
    return "".join(f'<p class="quiet name">{line}</p>' for line in lines if line)


def _counts(cases: int, rows: list[Record], failed: int) -> str:
    waiting = max(0, cases - len(rows) - failed)
    others = sum(row["other"] for row in rows)
    changed = sum(bool(row["changed"]) for row in rows)
    told = [
        ("done", len(rows), "done"),
        ("failed", failed, "failed"),
        ("waiting", waiting, "not done yet"),
        ("other", others, "made by another recipe"),
        ("other", changed, "changed for memory"),
    ]
    items = [
        f'<li class="{kind if count else "none"}" data-count="{words}"><b>{count}</b>{words}</li>'
        for kind, count, words in told
        if count or kind != "other"
    ]
    total = max(1, len(rows) + failed + waiting)
    bar = "".join(f'<span style="width:{100 * count / total:.2f}%"></span>' for count in (len(rows), failed))
    note = ""
    if others:
        note = (
            '<p class="quiet">Cases made by another recipe come from another model, other settings or another seed '
            "than this batch's; medgen batch makes them anew with --redo changed.</p>"
        )
    return f'<ul class="counts">{"".join(items)}</ul><div class="share" aria-hidden="true">{bar}</div>{note}'


def _section(name: str, title: str, note: str, content: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{title} <small>{note}</small></h2>{content}</section>'
    )


def _failures(failures: list[Record], failed: int) -> str:
    if not failed:
        return ""
    rows = "".join(
        f'<tr><td class="name">{escape(str(one["case"]))}</td>'
        f'<td class="name">{escape(str(one.get("reason", "")))}</td></tr>'
        for one in failures
    )
    table = f"<table><thead><tr><th>Case</th><th>Why</th></tr></thead><tbody>{rows}</tbody></table>"
    more = f"<p>And {failed - len(failures)} more; failures.csv has all of them.</p>" if failed > len(failures) else ""
    panel = f'<div class="panel" tabindex="0" role="region" aria-labelledby="failures-title">{table}</div>'
    return _section("failures", "Failures", str(failed), panel + more)


def _measures(measures: list[str], rows: list[Record]) -> str:
    shown = [(name, [row["measures"][name] for row in rows if name in row["measures"]]) for name in measures]
    shown.append(("seconds", [row["seconds"] for row in rows if row["seconds"] is not None]))
    figures = "".join(_figure(name, values) for name, values in shown if values)
    if not figures:
        return ""
    return _section("measures", "Measures", "over the cases that are done", f'<div class="measures">{figures}</div>')


def _figure(name: str, values: list[float]) -> str:
    pairs = "".join(f"<dt>{label}</dt><dd>{escape(text)}</dd>" for label, text in statistics_of(values))
    return (
        f'<figure class="panel" data-measure="{escape(name)}"><figcaption class="name">{escape(name)}</figcaption>'
        f"{drawn(values)}<dl>{pairs}</dl></figure>"
    )


def _provenance(batch: Record, recipe: str) -> str:
    model = batch.get("model") or {}
    rows = [(f"model {key}", model[key]) for key in model]
    rows += [(key, batch[key]) for key in batch if key not in _IN_HEADER]
    rows += [("recipe", recipe), *((f"setting {key}", value) for key, value in (batch.get("config") or {}).items())]
    cells = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td class="name">{_told(v)}</td></tr>' for key, v in rows
    )
    return f"<table>{cells}</table>"


def _told(value: Any) -> str:
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
