"""What has become of every case of a batch: a record each, whole or absent, which all tables and pages are made from.

    OUT/batch.json         what it is a batch of
    OUT/cases/NAME/        what came out of a case with its provenance, preview.jpg and record.json; one rename puts it
                           there, so that a case is finished, with its record, or has not been done
    OUT/failed/NAME.json   the record of a case that could not be done
    OUT/ledger.csv, OUT/failures.csv, OUT/results.csv, OUT/report.html    made from the records, for people
    OUT/.partial-…         what is being written; swept when a batch starts

A record of a finished case: case, subject, state ("done"), inputs (role, file, sha256, bytes, mtime_ns), outputs (role,
kind, file), recipe, measures (name -> number), log (sentences), changed_for_memory, preview, time, seconds, host. Of
one that failed: case, subject, state ("failed"), inputs (role, file), recipe, reason (a sentence), code (exit code),
log, time, seconds, host. `recipe` is the digest of what decides a result apart from its inputs: method, operation,
settings, seed, precision, and the model's own digest. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medgen.errors import UserError
from medgen.tables import write_rows
from medgen.whole import written_whole

Record = dict[str, Any]
FORMAT = 1
PARTIAL = ".partial-"
REPLACED = "replaced"  # in a partial folder: the result that a new one is about to take the place of
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def digest(value: Any) -> str:
    """SHA-256 of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def safe_name(text: str) -> str:
    """A file name for a case, the same on every system: letters, digits, `-`, `_` and `.` stay; whatever had to be
    changed or is long gets eight hexadecimal digits of the whole at its end, so that two do not meet."""
    name = re.sub(r"[^\w.-]+", "_", text).strip("._") or "case"
    name = "_" + name if name[0] == "-" else name
    if name == text and len(name.encode()) <= 80 and name.partition(".")[0].lower() not in _RESERVED:
        return name
    short = name.encode()[:80].decode(errors="ignore").rstrip("._")
    return f"{short}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def case_names(texts: list[str]) -> list[str]:
    """Names of cases, in order, none twice (not on a disk that ignores case either): repeated ones are numbered."""
    seen: set[str] = set()
    names = []
    for text in texts:
        name, number = safe_name(text), 1
        while name.casefold() in seen:
            number += 1
            name = f"{safe_name(text)}_{number}"
        seen.add(name.casefold())
        names.append(name)
    return names


# --- reading ------------------------------------------------------------------------------------------------------


def read_batch(out: Path) -> Record:
    """batch.json; UserError where the folder is not a batch's."""
    try:
        batch = json.loads((out / "batch.json").read_text("utf-8"))
        if batch["format"] != FORMAT:
            raise ValueError
    except OSError:
        raise UserError(
            f"{out} is not a batch's folder (it has no batch.json); name one that medgen batch wrote."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{out / 'batch.json'} is damaged or of another version; start the batch in a new folder."
        ) from None
    return dict(batch)


def read_case(out: Path, name: str) -> Record | None:
    """The record of a finished case, else of its failure, else None."""
    return _read(out / "cases" / name / "record.json") or _read(out / "failed" / f"{name}.json")


def _read(path: Path) -> Record | None:
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("state") in ("done", "failed") else None


def records(out: Path) -> Iterator[Record]:
    """Every record there is, those of failed cases first, each group by name; one at a time, for there may be many."""
    failed = sorted((out / "failed").glob("*.json"))
    done = sorted(path for path in (out / "cases").glob("*/record.json"))
    finished = {path.parent.name for path in done}
    for path in [*(one for one in failed if one.stem not in finished), *done]:
        record = _read(path)
        if record is not None:
            yield record


# --- writing ------------------------------------------------------------------------------------------------------


def write_json(value: Any, path: Path) -> None:
    """Write a record, or batch.json, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def stage(out: Path, name: str) -> Path:
    """A new folder, on the same disk, in which a case is worked on."""
    staging = out / f"{PARTIAL}{uuid.uuid4().hex[:8]}-{name}"
    staging.mkdir(parents=True)
    return staging


def finish(out: Path, name: str, staging: Path, folder: Path) -> bool:
    """Put a finished case's `folder` (in `staging`, with its record.json) into its place; whether it was put there.

    It is not when somebody else has finished the same case by the same recipe meanwhile: then that one stays.
    """
    target = out / "cases" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    record = _read(folder / "record.json")
    there = _read(target / "record.json")
    if record is None:
        raise RuntimeError(f"{folder} has no record")
    if there is not None and (there["recipe"], _digests(there)) == (record["recipe"], _digests(record)):
        return False
    if target.exists():
        os.replace(target, staging / REPLACED)
    try:
        os.replace(folder, target)
    except OSError:
        if _read(target / "record.json") is None:
            raise
        return False
    (out / "failed" / f"{name}.json").unlink(missing_ok=True)
    return True


def _digests(record: Record) -> list[tuple[str, str]]:
    return [(one["role"], one.get("sha256", "")) for one in record["inputs"]]


def fail(out: Path, record: Record) -> None:
    """Note that a case could not be done; a result of it from before stays."""
    write_json(record, out / "failed" / f"{record['case']}.json")


def sweep(out: Path, name: str | None = None) -> int:
    """Remove what killed runs (of one case, or of all) have left behind; how many pieces.

    A finished case that was caught between two renames is put back.
    """
    swept = 0
    ours = [one for one in out.glob(f"{PARTIAL}*") if name is None or _case_of(one) == name]
    for staging in [*ours, *((out / "failed").glob(f"{PARTIAL}*") if name is None else [])]:
        if not staging.is_dir():
            staging.unlink(missing_ok=True)
        else:
            before = staging / REPLACED
            place = out / "cases" / _case_of(staging)
            if before.exists() and not place.exists():
                os.replace(before, place)
            shutil.rmtree(staging, ignore_errors=True)
        swept += 1
    return swept


def _case_of(staging: Path) -> str:
    return staging.name.removeprefix(PARTIAL).partition("-")[2]


def write_tables(out: Path) -> None:
    """ledger.csv, failures.csv and results.csv, made from the records."""
    ledger, failures, results = [], [], []
    for record in records(out):
        line = {"case": record["case"], "subject": record.get("subject", ""), "state": record["state"]}
        timing = {key: record.get(key, "") for key in ("seconds", "time", "host")}
        ledger.append({**line, "reason": record.get("reason", ""), **timing, "recipe": record["recipe"]})
        if record["state"] == "failed":
            failures.append({"case": record["case"], "reason": record["reason"], "code": record["code"]})
        else:
            files = {one["role"]: f"cases/{record['case']}/{one['file']}" for one in record["outputs"]}
            results.append(
                {"subject": record.get("subject", ""), "case": record["case"], **files, **record["measures"]}
            )
    for rows, name, columns in (
        (ledger, "ledger.csv", "case subject state reason seconds time host recipe"),
        (failures, "failures.csv", "case reason code"),
        (results, "results.csv", "subject case"),
    ):
        write_rows(rows, out / name, columns.split())
