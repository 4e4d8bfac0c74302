"""One operation over a cohort: each case done once, whoever is killed meanwhile; see medgen.ledger for what is kept.

The process that shares out the cases reads tables and records only: torch is loaded by the workers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medgen import __version__, casereport, catalog, cohort, engine, ledger, models, privacy, record, worker
from medgen.errors import OUR_FAULT, OUT_OF_MEMORY, Cancelled, SomeFailed, UserError
from medgen.method import Kind, Operation, Pool, Role
from medgen.worker import Plan, Task

Event = dict[str, Any]
LOCK = "batch.lock"


@dataclass
class Batch:
    """A batch as asked for. target: a method's slug or a model. cohort: a CSV, or a folder of images and DICOM. redo:
    "changed" makes anew what was made from other inputs, settings or another model; "all" everything. patient_names:
    DICOM may be called after the patient."""

    target: str
    cohort: Path
    out: Path
    operation: str | None = None
    tier: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    redo: str | None = None
    patient_names: bool = False
    request: engine.Request = field(default_factory=engine.Request)
    emit: Callable[[Event], None] = lambda event: None

    def __post_init__(self) -> None:
        self._stopped = False

    def cancel(self) -> None:
        """Stop: what is being worked on is given up, what is finished is kept (any thread, a signal's handler)."""
        self._stopped = True

    def stopped(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._stopped

    def log(self, message: str) -> None:
        """One sentence for who follows."""
        self.emit({"event": "log", "message": message})

    def run(self) -> Path:
        """Do what is missing; the page that shows everything.

        Raises UserError when nothing can be done at all, SomeFailed when cases are left undone, Cancelled.
        """
        plan, entry = self._plan()
        tasks = self._tasks(entry)
        out = self.out
        if out.exists() and not out.is_dir():
            raise UserError(f"{out} is a file; name a folder for the batch.")
        out.mkdir(parents=True, exist_ok=True)
        _check_place(out)
        with _locked(out):
            self._check_same(plan)
            ledger.sweep(out)
            token = uuid.uuid4().hex
            (out / worker.TOKEN).write_text(token, "ascii")
            plan = replace(plan, token=token, since=(out / worker.TOKEN).stat().st_mtime_ns)
            try:
                left = self._go(plan, entry, tasks)
            except BaseException as error:
                with contextlib.suppress(Exception):  # that would be the second thing to go wrong
                    self._close()
                if isinstance(error, Cancelled):
                    left = sum(ledger.whole(out, task.name) is None for task in tasks)
                    words = f"The batch was cancelled; start the same command again to go on ({left} cases are left)."
                    raise Cancelled(words) from None
                raise
            page = self._close()
        assert page is not None
        self.emit({"event": "output", "role": "report", "path": str(page.resolve())})
        if left:
            verb = "case is" if left == 1 else "cases are"
            raise SomeFailed(f"{left} of {len(tasks)} {verb} not done; {out / 'failures.csv'} says why.")
        return page

    def _close(self) -> Path | None:
        """Leave nothing half-made; tables and page. A folder in which nothing was begun is removed."""
        ledger.sweep(self.out)
        (self.out / worker.TOKEN).unlink(missing_ok=True)  # who still works for this start has come too late
        if not (self.out / "batch.json").exists():
            (self.out / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.out.rmdir()
            return None
        ledger.write_tables(self.out)
        return casereport.write(self.out)

    def _go(self, plan: Plan, entry: dict[str, Any], tasks: list[Task]) -> int:
        """Do what is to do, with workers if anything is; how many cases are left undone."""
        plan = replace(plan, config=self._known(plan))
        todo = self._todo(plan, tasks) if plan.config else tasks
        if not todo and not plan.features:
            self._note(plan, entry, tasks)
            return 0
        scratch = ledger.stage(self.out, "workers")
        with engine.started(self.request, len(todo), len(tasks), scratch, self.stopped, self.log) as crew:
            if not plan.config:
                plan = replace(plan, config=crew.call(worker.configure, plan))
                todo = self._todo(plan, tasks)
            plan = self._note(plan, entry, tasks)
            left = self._work(crew, plan, todo, len(tasks))
            if plan.features and not left:
                self._together(crew, plan, tasks)
        return left

    # --- before -----------------------------------------------------------------------------------------------------

    def _plan(self) -> tuple[Plan, dict[str, Any]]:
        """What is meant, as far as catalog and model tell without torch; the operation's declarations."""
        model = None
        if self.target in catalog.entries() and not (Path(self.target) / "medgen.json").exists():
            slug = self.target
        else:
            if not os.path.exists(self.target) and not (models.folder() / self.target).exists():
                catalog.entry(self.target)  # says which slug is near
            folder = models.resolve(self.target)
            found = record.verify(folder)
            slug = found["slug"]
            model = {"name": found["name"], "digest": found["digest"], "folder": str(folder.resolve())}
        entry = catalog.operation_entry(slug, self.operation or "apply")
        if entry["scope"] not in ("case", "set") or (entry["scope"] == "set" and not entry["features"]):
            raise UserError(f"“{entry['name']}” does not work case by case; use medgen run {slug} {entry['name']}.")
        if entry["needs_model"] and model is None:
            raise UserError(
                f"“{entry['name']}” needs a trained model; name one, or train one with medgen train {slug}."
            )
        plan = Plan(
            out=str(self.out.resolve()),
            method=slug,
            operation=entry["name"],
            tier=self.tier or ("demo" if entry["tiers"] else None),
            settings=self.settings,
            device=self.device,
            precision=self.precision,
            seed=self.seed,
            model=model,
            patient_names=self.patient_names,
        )
        return plan, entry

    def _tasks(self, entry: dict[str, Any]) -> list[Task]:
        """The cohort's rows under the names they have in this batch."""
        roles = [_role(one) for one in entry["inputs"]]
        outputs = [_role(one) for one in entry["outputs"] if one["kind"] != Kind.MODEL.value]
        operation = Operation(entry["name"], "", "", None, inputs=tuple(roles), outputs=tuple(outputs))  # type: ignore[arg-type]
        if self.cohort.is_dir():
            from medgen import archive

            rows = archive.cohort_rows(self.cohort, operation, self.patient_names, self.log)
        else:
            rows = cohort.read_cases(self.cohort, Pool("cases", operation.columns()))
        if not rows:
            raise UserError(f"{self.cohort} has no rows; add a line for each case.")
        marks = [_mark(row, self.cohort) for row in rows]
        called = [_called(row, mark, self.patient_names) for row, mark in zip(rows, marks, strict=True)]
        names = ledger.case_names(called, marks)
        words = tuple(role.name for role in roles if role.kind is Kind.CLASS)
        return [
            Task(name, row.subject if row.named else name, row.files, row.columns(), row.label, words, row.refused)
            for name, row in zip(names, rows, strict=True)
        ]

    def _note(self, plan: Plan, entry: dict[str, Any], tasks: list[Task]) -> Plan:
        """Write batch.json; the plan with its recipe."""
        plan = replace(plan, recipe=recipe_of(plan))
        method = catalog.entry(plan.method)
        model = None if plan.model is None else {key: plan.model[key] for key in ("name", "digest")}
        batch = {
            "format": ledger.FORMAT,
            "method": plan.method,
            "operation": plan.operation,
            "title": f"{method['title']}: {entry['title']}",
            "citation": method["citation"],
            "url": method["url"],
            "tier": plan.tier,
            "config": plan.config,
            "seed": plan.seed,
            "device": plan.device,
            "precision": plan.precision,
            "model": model,
            "cohort": privacy.stand_in(self.cohort.resolve(), self.patient_names),
            "cases": len(tasks),
            "names": [task.name for task in tasks],
            "medgen": __version__,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "use": "Research use only. Not for clinical use.",
            "recipe": plan.recipe,
            "asked": {"tier": plan.tier, "settings": plan.settings},
        }
        ledger.write_json(batch, self.out / "batch.json")
        return plan

    def _known(self, plan: Plan) -> dict[str, Any]:
        """The settings in full where this batch has had the same ones checked before, so that a start that finds
        nothing to do needs no worker; else nothing."""
        with contextlib.suppress(UserError):
            before = ledger.read_batch(self.out)
            asked = {"tier": plan.tier, "settings": plan.settings}
            meant = (before["method"], before["operation"], before["device"], before["medgen"], before["asked"])
            if meant == (plan.method, plan.operation, plan.device, __version__, asked):
                return dict(before["config"])
        return {}

    def _todo(self, plan: Plan, tasks: list[Task]) -> list[Task]:
        """The cases that are not done, or are to be done again."""
        todo, other, recipe = [], 0, recipe_of(plan)
        for task in tasks:
            found = ledger.whole(self.out, task.name)
            if found is None or self.redo == "all" or ledger.has_failed(self.out, task.name):
                todo.append(task)
            elif found["recipe"] != recipe or not worker.unchanged(found, task):
                other += 1
                if self.redo == "changed":
                    todo.append(task)
        if other and self.redo is None:
            self.log(
                f"{other} of the finished cases were made from other inputs, settings or another model; they stay as "
                "they are: --redo changed makes them anew."
            )
        if len(todo) < len(tasks):
            self.log(f"{len(tasks) - len(todo)} of {len(tasks)} cases are done already.")
        return todo

    # --- the work ---------------------------------------------------------------------------------------------------

    def _work(self, crew: engine.Workers, plan: Plan, todo: list[Task], total: int) -> int:
        """Do the cases; how many of them are left undone."""
        if todo and (words := crew.fit(plan, todo[0])):
            self.log(words)
        plan = replace(plan, threads=crew.threads)
        began, done = time.monotonic(), 0
        before = total - len(todo)
        for ended, (task, outcome) in enumerate(crew.over(plan, todo), start=1):
            if isinstance(outcome, BaseException):
                outcome = worker.note(plan, task, *_reason(outcome, self.request))
            done += outcome["state"] == "done"
            if outcome["state"] == "failed":
                self.log(f"{task.name} failed: {outcome['reason']}")
            left = (time.monotonic() - began) / ended * (len(todo) - ended)
            event = {"event": "progress", "stage": "cases", "done": before + ended, "total": total}
            self.emit({**event, "seconds_left": round(left, 1)})
        return len(todo) - done

    def _together(self, crew: engine.Workers, plan: Plan, tasks: list[Task]) -> None:
        """The last step of an operation on a set, once each case's features are there, all made alike."""
        others = sum((ledger.whole(self.out, task.name) or {}).get("recipe") != plan.recipe for task in tasks)
        if others:
            raise UserError(f"The features of {others} cases were made otherwise; make them anew with --redo changed.")
        for path in crew.call(worker.together, plan, tasks):
            self.emit({"event": "output", "role": "result", "path": str((self.out / path).resolve())})

    def _check_same(self, plan: Plan) -> None:
        """UserError where the folder is a batch of another method or operation."""
        if not (self.out / "batch.json").exists():
            return
        before = ledger.read_batch(self.out)
        if (before.get("method"), before.get("operation")) != (plan.method, plan.operation):
            what = f"“{before.get('operation')}” of {before.get('method')}"
            raise UserError(f"{self.out} is a batch of {what}; choose another folder.")


def _role(declared: dict[str, Any]) -> Role:
    return Role(**{**declared, "kind": Kind(declared["kind"])})


def _called(row: cohort.Row, mark: str, patient_names: bool) -> str:
    """What a case is called: its subject, else what stands for its first file, without the ending, and the digits of
    its mark, so that it keeps its name when a file of the same name joins the table."""
    first = next((paths[0] for paths in row.files.values() if paths), None)
    if row.named or first is None:
        return row.subject
    return f"{privacy.stand_in(first, patient_names).partition('.')[0] or 'case'}-{ledger.digits(mark)}"


def recipe_of(plan: Plan) -> str:
    """The digest of what decides results, apart from the inputs."""
    model = None if plan.model is None else plan.model["digest"]
    return ledger.digest([plan.method, plan.operation, plan.config, plan.seed, plan.precision, model])


def _mark(row: cohort.Row, table: Path) -> str:
    """What tells apart cases that would be called alike: their inputs, as seen from the table, so that both may move
    together; where there are none, their line."""
    folder = table.parent.resolve()

    def seen(text: str) -> str:
        with contextlib.suppress(ValueError):  # another drive, on Windows
            return os.path.relpath(text, folder)
        return text

    files = {role: [seen(text) if os.sep in text else text for text in texts] for role, texts in row.files.items()}
    return repr(sorted(files.items())) if row.files else row.label


def _reason(error: BaseException, request: engine.Request) -> tuple[str, int, list[str]]:
    """The sentence for a case that ended without a record, its exit code, and what there is for a log."""
    if isinstance(error, worker.Trouble):
        return str(error.args[0]), OUR_FAULT, str(error.args[1]).splitlines()
    if type(error).__name__ == "KilledWorker":
        limit = f"the {request.memory / 2**30:.1f} GiB of --limit-memory" if request.memory else "what the machine has"
        words = (
            f"The worker was ended at this case, as happens when it needs more memory than {limit} or crashes in "
            "native code; raise the limit, use fewer workers, or look at the case."
        )
        return words, OUT_OF_MEMORY if request.memory else OUR_FAULT, []
    return f"MedGen failed through its own fault ({type(error).__name__}: {error}); please report this.", OUR_FAULT, []


# --- the place ----------------------------------------------------------------------------------------------------


def _check_place(out: Path) -> None:
    """UserError where OUT is something else: another's folder, or one that cannot be written to."""
    ours = {LOCK, worker.TOKEN}
    if not (out / "batch.json").exists() and any(
        not item.name.startswith(ledger.PARTIAL) and item.name not in ours for item in out.iterdir()
    ):
        raise UserError(f"{out} is a folder that no batch wrote; choose a new one.")


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Only one batch at a time writes to a folder; the system gives the lock back when a process dies."""
    with (out / LOCK).open("a+") as file:
        try:
            _lock(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise UserError(
                    f"The disk of {out} cannot keep two batches apart ({error.strerror}); choose a folder on another."
                ) from None
            raise UserError(f"Another batch is writing to {out}; wait for its end, or choose another folder.") from None
        yield


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
