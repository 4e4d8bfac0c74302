"""One case of a batch, as an engine calls it on a worker: worked on beside its place, put there whole, and noted.

Standard library only. What knows of images is the module that a method names as its `worker` (medgen.casework, if it
names none), of which this asks:

    configure(plan) -> the settings in full; UserError for what is wrong with them
    memory(plan, task) -> bytes that the case will take, or None where that cannot be told
    perform(plan, task, folder, scratch, log) -> writes the results into `folder`; outputs, measures, changed_for_memory
    together(plan, out, tasks) -> for an operation on a set: what comes out of all cases' features; names of files
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import platform
import shutil
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen import catalog, dicom, files, ledger, privacy, record
from medgen.errors import USER_FAULT, MedGenError, UserError

TOKEN = "batch.token"  # in a batch's folder: which start of it is going on


@dataclass(frozen=True)
class Plan:
    """What all cases of a batch have in common; it travels with each."""

    out: str
    method: str
    operation: str
    tier: str | None
    settings: dict[str, Any]
    device: str
    precision: str
    seed: int
    model: dict[str, str] | None  # name, digest, folder
    config: dict[str, Any] = field(default_factory=dict)  # the settings in full, once configured
    recipe: str = ""
    patient_names: bool = False
    threads: int | None = None  # processors that a case may use; None leaves it to the worker
    token: str = ""  # of this start of the batch, as it stands in the batch's folder
    since: int = 0  # when it began (ns, by the clock of the folder's disk)

    @property
    def features(self) -> str | None:
        """The function that does one case's part of an operation on a set, or None."""
        name: str | None = catalog.operation_entry(self.method, self.operation)["features"]
        return name


@dataclass(frozen=True)
class Task:
    """One case: its name in the batch, files by role (absolute paths), and the table's other columns."""

    name: str
    subject: str
    files: dict[str, list[str]]
    columns: dict[str, str] = field(default_factory=dict)
    label: str = ""
    words: tuple[str, ...] = ()  # roles whose texts name no file
    refused: str = ""  # why it cannot be done, where the table itself says so


class Trouble(Exception):
    """MedGen's own failure at one case, as a sentence; worth another try, on another worker."""


def specialist(plan: Plan) -> Any:
    """The module that does the work."""
    return importlib.import_module(catalog.entry(plan.method)["worker"])


def configure(plan: Plan) -> dict[str, Any]:
    """The settings in full, checked where the packages are."""
    if not here(plan):
        raise UserError(_elsewhere(plan))
    found: dict[str, Any] = specialist(plan).configure(plan)
    return found


def here(plan: Plan) -> bool:
    """Whether this worker sees the folder of the batch that calls it, and no later start has taken over there."""
    try:
        return (Path(plan.out) / TOKEN).read_text("ascii") == plan.token
    except OSError:
        return False


def _elsewhere(plan: Plan) -> str:
    who = f"The worker on {platform.node()}"
    return f"{who} does not see this batch in {plan.out}; choose a folder that all machines share."


def memory(plan: Plan, task: Task) -> int | None:
    """Bytes one case will take, as the method estimates it; None where that cannot be told."""
    with contextlib.suppress(Exception):  # whatever is wrong with this case is said when its turn comes
        found: int | None = specialist(plan).memory(plan, task)
        return found
    return None


def together(plan: Plan, tasks: list[Task]) -> list[str]:
    """The last step of an operation on a set."""
    found: list[str] = specialist(plan).together(plan, Path(plan.out), tasks)
    return found


def work(plan: Plan, task: Task) -> ledger.Record:
    """Do one case; its record, of a finished case or of one that cannot be done.

    Raises Trouble for a failure that another try may mend.
    """
    began = time.monotonic()
    out = Path(plan.out)
    log: list[str] = []
    staging: Path | None = None
    if not here(plan):  # nothing may be written, not even that it failed
        raise Trouble(_elsewhere(plan), "")
    try:
        if task.refused:
            raise UserError(task.refused)
        inputs = digests(task, plan.patient_names)
        staging = ledger.stage(out, task.name)
        folder = staging / "case"
        folder.mkdir()
        made = specialist(plan).perform(plan, task, folder, staging / "run", log.append)
        said = list(map(_discreet(plan, task), log))
        done = {**about(plan, task, "done", began), "inputs": inputs, "place": place(task), "log": said, **made}
        ledger.write_json(done, folder / "record.json")
        if not here(plan):
            raise Trouble(_elsewhere(plan), "")
        ledger.finish(out, task.name, staging, folder, plan.since)
        return done
    except Trouble:
        raise
    except MedGenError as error:
        return note(plan, task, str(error), error.exit_code, log, began)
    except MemoryError:
        return note(plan, task, "There was not enough memory; use fewer workers or smaller windows.", 3, log, began)
    except Exception as error:
        if "CUDA error" in str(error):
            os._exit(1)  # from then on every case would fail in this process; its nanny starts another
        words = f"MedGen failed through its own fault ({type(error).__name__}: {error}); please report this."
        raise Trouble(_discreet(plan, task)(words), traceback.format_exc()) from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def note(
    plan: Plan,
    task: Task,
    reason: str,
    code: int = USER_FAULT,
    log: list[str] | None = None,
    began: float | None = None,
) -> ledger.Record:
    """Write and give the record of a case that could not be done."""
    say = _discreet(plan, task)
    named = [
        {"role": role, "file": privacy.stand_in(text, plan.patient_names)}
        for role, texts in task.files.items()
        for text in texts
    ]
    failed = {**about(plan, task, "failed", began), "inputs": named, "reason": say(reason), "code": code}
    failed["log"] = list(map(say, log or []))
    ledger.fail(Path(plan.out), failed)
    return failed


def about(plan: Plan, task: Task, state: str, began: float | None) -> ledger.Record:
    """The fields that every record begins with."""
    return {
        "case": task.name,
        "subject": task.subject,
        "state": state,
        "recipe": plan.recipe,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": None if began is None else round(time.monotonic() - began, 3),
        "host": platform.node(),
    }


def _discreet(plan: Plan, task: Task) -> privacy.Discreet:
    texts = [text for texts in task.files.values() for text in texts]
    return privacy.Discreet(texts, plan.patient_names)


# --- what has been read -------------------------------------------------------------------------------------------


def digests(task: Task, patient_names: bool = False) -> list[dict[str, Any]]:
    """Name, digest, size and time of every input that is a file, a folder or a DICOM series.

    Raises UserError where one does not exist, is no plain file, or cannot be read.
    """
    found = []
    for role, text in _read_by(task):
        try:
            files.status(dicom.split(text)[0])
            for file in dicom.files_of(text):
                files.regular(file)
            size, changed = stamp(text)
            digest = digest_of(text, size, changed)
        except OSError as error:
            raise UserError(f"{text} (role “{role}”) cannot be read ({error.strerror}); check it.") from None
        one = {"role": role, "file": privacy.stand_in(text, patient_names)}
        found.append({**one, "sha256": digest, "bytes": size, "mtime_ns": changed})
    return found


def _read_by(task: Task) -> list[tuple[str, str]]:
    """Role and text of every input that is read from a disk."""
    return [(role, text) for role, texts in task.files.items() if role not in task.words for text in texts]


def place(task: Task) -> str:
    """A digest of where the inputs are: two images of one name, size and time in two folders are not the same."""
    return ledger.digest(_read_by(task))


def stamp(text: str | Path) -> tuple[int, int]:
    """Size and time of the last change of a file, or of a series' or folder's files together: cheap to compare."""
    stats = [one.stat() for one in dicom.files_of(text)]
    return sum(one.st_size for one in stats), max((one.st_mtime_ns for one in stats), default=0)


@functools.lru_cache(maxsize=256)
def digest_of(text: str | Path, size: int, changed: int) -> str:
    """SHA-256 of a file, or of a series' or folder's files in order, computed once as long as size and time stay."""
    return record.sha256_of_all(dicom.files_of(text))


def unchanged(done: ledger.Record, task: Task) -> bool:
    """Whether a finished case was made from the inputs that are there now. What lies where it lay, with its former size
    and time, is taken as it was; anything else is read."""
    now, before = _read_by(task), done["inputs"]
    if [role for role, _ in now] != [one["role"] for one in before]:
        return False
    same_place = done.get("place") == place(task)
    try:
        for (_, text), one in zip(now, before, strict=True):
            size, changed = stamp(text)
            if same_place and (size, changed) == (one["bytes"], one["mtime_ns"]):
                continue
            if size != one["bytes"] or digest_of(text, size, changed) != one["sha256"]:
                return False
    except (OSError, KeyError, UserError):  # what cannot be read is not what it was
        return False
    return True
