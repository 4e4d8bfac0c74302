"""What has become of every case of a batch: a record each, whole or absent, which all tables and pages are made from.

    OUT/batch.json         what it is a batch of, and the names of its cases in the order of the cohort
    OUT/cases/NAME/        what came out of a case with its provenance, preview.jpg and record.json; one rename puts it
                           there, so that a case is finished, with its record, or has not been done
    OUT/failed/NAME.json   the record of a case that could not be done
    OUT/ledger.csv, OUT/failures.csv, OUT/results.csv, OUT/report.html    made from the records, for people
    OUT/.partial-…         what is being written; swept when a batch starts and when it ends
    OUT/batch.lock, OUT/batch.token    that a batch is writing here, and which start of it (medgen.worker.here)

A record of a finished case: case, subject, state ("done"), inputs (role, file, sha256, bytes, mtime_ns), place (a
digest of where they are), outputs (role, kind, file), recipe, measures (name -> number), log (sentences),
changed_for_memory, preview, time, seconds, host. Of one that failed: case, subject, state ("failed"), inputs (role,
file), recipe, reason (a sentence), code (exit code), log, time, seconds, host. `recipe` is the digest of what decides a
result apart from its inputs: method, operation, settings, seed, precision, and the model's own digest. Standard library
only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections import Counter
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
    if name == text and len(name.encode(errors="replace")) <= 80 and name.partition(".")[0].lower() not in _RESERVED:
        return name
    short = name.encode(errors="replace")[:80].decode(errors="ignore").rstrip("._")
    return f"{short}-{digits(text)}"


def digits(text: str) -> str:
    """Eight hexadecimal digits that stand for a text (a path, a name), the same every time."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


def case_names(texts: list[str], marks: list[str]) -> list[str]:
    """Names of cases, in order, none twice (not on a disk that ignores case either). Where several would be called
    alike, each gets the digits of its mark, so that their order does not matter.

    marks: what tells such cases apart, their inputs.
    """
    plain = [safe_name(text) for text in texts]
    counts = Counter(name.casefold() for name in plain)
    seen: set[str] = set()
    names = []
    for name, mark in zip(plain, marks, strict=True):
        first = wanted = name if counts[name.casefold()] == 1 else f"{name}-{digits(mark)}"
        number = 1
        while wanted.casefold() in seen:  # the same inputs twice
            number += 1
            wanted = f"{first}_{number}"
        seen.add(wanted.casefold())
        names.append(wanted)
    return names


# --- reading ------------------------------------------------------------------------------------------------------


def read_batch(out: Path) -> Record:
    """batch.json; UserError where the folder is not a batch's."""
    try:
        batch = json.loads((out / "batch.json").read_text("utf-8"))
        if batch["format"] != FORMAT or not isinstance(batch["names"], list):
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


def has_failed(out: Path, name: str) -> bool:
    """Whether the last try of a case failed (a former result may stand beside it)."""
    return (out / "failed" / f"{name}.json").exists()


def whole(out: Path, name: str) -> Record | None:
    """The record of a finished case whose results are all there; else None."""
    record = _read(out / "cases" / name / "record.json")
    return record if record is not None and _complete(record, out / "cases" / name) else None


def _complete(record: Record, folder: Path) -> bool:
    named = [one["file"] for one in record["outputs"]]
    return all((folder / name).exists() for name in [*named, *filter(None, [record.get("preview")])])


_FORMS: dict[str, dict[str, type]] = {
    "done": {"case": str, "inputs": list, "outputs": list, "recipe": str, "measures": dict},
    "failed": {"case": str, "inputs": list, "recipe": str, "reason": str, "code": int},
}


def _read(path: Path) -> Record | None:
    """A record of the right form; a file that is none counts as missing."""
    try:
        record = json.loads(path.read_text("utf-8"))
        forms = _FORMS[record["state"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if all(isinstance(record.get(key), form) for key, form in forms.items()) else None


def records(out: Path, batch: Record) -> Iterator[Record]:
    """The records of a batch's cases, failures first, each group in the order of the cohort; one at a time, for there
    may be many. A case whose former result stays beside a failure is in both."""
    for folder, ending in (("failed", ".json"), ("cases", "/record.json")):
        for name in batch["names"]:
            record = _read(out / folder / f"{name}{ending}")
            if record is not None:
                yield record


# --- writing ------------------------------------------------------------------------------------------------------


def write_json(value: Any, path: Path) -> None:
    """Write a record, or batch.json, whole or not at all."""
    with written_whole(path) as partial:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def stage(out: Path, name: str) -> Path:
    """A new folder, on the same disk, in which a case is worked on."""
    staging = out / f"{PARTIAL}{uuid.uuid4().hex[:8]}-{name}"
    staging.mkdir()
    return staging


def finish(out: Path, name: str, staging: Path, folder: Path, since: int = 0) -> bool:
    """Put a finished case's `folder` (in `staging`, with its record.json) into its place; whether it was put there.

    It is not when another worker has finished the same case, by the same recipe, since this batch began (`since`, ns):
    then that one stays. Whatever goes wrong, a former result is in its place again.
    """
    target = out / "cases" / name
    target.parent.mkdir(exist_ok=True)
    record = _read(folder / "record.json")
    if record is None or not _complete(record, folder):
        raise RuntimeError(f"{name} is not whole")
    there = whole(out, name)
    alike = there is not None and (there["recipe"], _digests(there)) == (record["recipe"], _digests(record))
    if alike and (target / "record.json").stat().st_mtime_ns >= since:
        return False
    replaced = staging / REPLACED
    try:
        if target.exists():
            os.replace(target, replaced)
        os.replace(folder, target)
    except BaseException:
        if replaced.exists() and not target.exists():
            os.replace(replaced, target)
        raise
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
    """ledger.csv, failures.csv and results.csv, made from the records of the batch's cases."""
    failures: dict[str, dict[str, Any]] = {}
    ledger, results = [], []
    for record in records(out, read_batch(out)):
        line = {"case": record["case"], "subject": record.get("subject", ""), "state": record["state"]}
        timing = {key: record.get(key, "") for key in ("seconds", "time", "host")}
        if record["state"] == "failed":
            failures[record["case"]] = {"case": record["case"], "reason": record["reason"], "code": record["code"]}
            ledger.append({**line, "reason": record["reason"], **timing, "recipe": record["recipe"]})
            continue
        files = {one["role"]: f"cases/{record['case']}/{one['file']}" for one in record["outputs"]}
        results.append({"subject": record.get("subject", ""), "case": record["case"], **files, **record["measures"]})
        if record["case"] in failures:
            failures[record["case"]]["reason"] += " The former result stays."
        else:
            ledger.append({**line, "reason": "", **timing, "recipe": record["recipe"]})
    for rows, name, columns in (
        (ledger, "ledger.csv", "case subject state reason seconds time host recipe"),
        (list(failures.values()), "failures.csv", "case reason code"),
        (results, "results.csv", "subject case"),
    ):
        write_rows(rows, out / name, columns.split())
