"""A run started from the scene: a process of its own, followed from a timer or waited for; its results become nodes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from medgen import models
from medgen.cli import CHECKPOINT
from medgen.errors import CANCELLED, OUR_FAULT
from medgen.jobs import Job
from MedGenLib import inprocess, looks, merge, provenance
from MedGenLib.errors import MedGenLibError, RunError, plain
from MedGenLib.i18n import _
from MedGenLib.load import load_results
from MedGenLib.plan import WITHOUT_NODE, Plan
from MedGenLib.scratch import all_or_nothing, node_ids

Event = dict[str, Any]


def python_executable() -> str:
    """PythonSlicer where there is one (inside Slicer), else this interpreter."""
    found = shutil.which("PythonSlicer")
    if found:
        return found
    home = getattr(getattr(slicer, "app", None), "slicerHome", None)
    if home:
        launcher = Path(home) / "bin" / ("PythonSlicer.exe" if os.name == "nt" else "PythonSlicer")
        if launcher.is_file():
            return str(launcher)
    return sys.executable


class MedGenRun:
    """One run. `state` is running, done, failed or cancelled; `message` is the sentence for the user when not done.

    Call `poll()` from a timer on the main thread, or `wait()`. Once it is done, `results` holds by role the new node,
    the list of new nodes, or the path of what no node holds (a model, a cohort).
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        check: bool = False,
        name: str = "",
        reference: Any = None,
        keep: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.check = check
        self.name = name
        self.results: dict[str, Any] = {}
        self.context: dict[str, Any] = {}  # what Slicer adds to the record of each result (MedGenLib.provenance)
        self.added: list[str] = []  # ids of the nodes that came with the results
        self.merged: merge.Merged | None = None  # what was done to a segmentation that was there
        self.into: merge.Into | None = None  # the segmentation that its result joins
        self.estimate: Event | None = None
        self.progress: Event | None = None
        self.state = "waiting"
        self.message = ""
        self.exit_code: int | None = None
        self.log: list[str] = []
        self.changes: list[str] = []  # steps away from what was asked, where memory did not suffice
        self.load_seconds = 0.0  # how long the scene stood still for the results
        self._reference_id = reference.GetID() if reference is not None and reference.GetScene() else None
        self._keep = keep
        self._on_event = on_event
        self._job: Job | None = None
        self._scene_closed = False
        self._closing = slicer.mrmlScene.AddObserver(slicer.mrmlScene.EndCloseEvent, self._on_scene_closed)

    def _on_scene_closed(self, caller: Any, event: str) -> None:
        self._scene_closed = True

    # --- in a process of its own

    def start(self) -> MedGenRun:
        """Start the process."""
        arguments = self.plan.check_arguments() if self.check else self.plan.arguments()
        job = Job(arguments, self.folder, python=python_executable(), title=self.plan.operation["title"])
        try:
            job.start()
        except OSError as error:
            self._clean_up()
            raise RunError(
                _("The run could not be started ({error}); check the folder {folder}.").format(
                    error=error.strerror or error, folder=self.folder
                ),
                OUR_FAULT,
            ) from None
        self._job = job
        self.state = "running"
        return self

    @property
    def reference(self) -> Any:
        """The input beside which the results are put; None where it is none, or no longer in the scene."""
        return slicer.mrmlScene.GetNodeByID(self._reference_id) if self._reference_id else None

    @property
    def makes_nodes(self) -> bool:
        """Whether any of its results is a node."""
        return any(role["kind"] not in WITHOUT_NODE for role in self.plan.operation["outputs"])

    @property
    def running(self) -> bool:
        """Whether its end has not been seen yet."""
        return self.state == "running"

    def poll(self) -> list[Event]:
        """What has happened since the last call; at the end, loads the results into the scene."""
        if self._job is None or not self.running:
            return []
        events = self._job.events()
        for event in events:
            self._note(event)
        if not self._job.running:
            self._end(self._job.state, self._job.message, self._job.exit_code, self._job.outputs)
        return events

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """Until it ends, without any dialog; the results.

        Raises:
            RunError: with the run's own sentence, when it did not end well.
            TimeoutError: it still runs.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self._job is not None and self.running:  # more than once where a process a frame is needed
            self._job.wait(None if end is None else end - time.monotonic(), self._note)
            self._end(self._job.state, self._job.message, self._job.exit_code, self._job.outputs)
        if self.state != "done":
            raise RunError(self.message, OUR_FAULT if self.exit_code is None else self.exit_code)
        return self.results

    def cancel(self) -> None:
        """Ask the run to stop; its whole process tree is ended when it does not react in a few seconds."""
        if self._job is not None and self.running:
            self._job.cancel()

    def discard(self, state: str = "cancelled", message: str = "") -> None:
        """End a run that was never started, or could not be; its files go."""
        if self._job is None and self.state == "waiting":
            self.state, self.message = state, message
            self.exit_code = CANCELLED if state == "cancelled" else OUR_FAULT
            self._clean_up()

    def kill(self) -> None:
        """End the process tree at once."""
        if self._job is not None and self.running:
            self._job.kill()

    def abandon(self, wait: bool = False) -> None:
        """Forget a run that was killed: nothing is loaded, and its files go as soon as the process has ended; with
        `wait`, that is seen to before this returns."""
        if self._job is not None and self.running:
            job, self.state = self._job, "cancelled"
            slicer.mrmlScene.RemoveObserver(self._closing)  # here, as the scene is the main thread's

            def finish() -> None:
                with contextlib.suppress(TimeoutError):  # a process that cannot be ended; its files may still go
                    job.wait(20)
                self._delete_files()

            thread = threading.Thread(target=finish, daemon=True, name="medgen-abandoned")
            thread.start()
            if wait:
                thread.join()

    # --- in this process

    def perform_here(self) -> dict[str, Any]:
        """Do the work inside this Python; the results. RunError as `wait`."""
        self.state = "running"
        while self.running:
            try:
                outputs = inprocess.perform(self.plan, self._note)
            except RunError as error:
                self._end("cancelled" if error.exit_code == CANCELLED else "failed", str(error), error.exit_code, [])
                raise
            except BaseException:
                self._end("failed", _("MedGen failed through its own fault."), OUR_FAULT, [])
                raise
            self._end("done", "", 0, outputs)
        return self.wait()

    # --- both

    def _note(self, event: Event) -> None:
        kind = event["event"]
        if kind in ("log", "error"):
            self.log.append(str(event["message"]))
            self.changes += [str(event["message"])] if event.get("changed") else []
        elif kind == "estimate":
            self.estimate = event
        elif kind == "progress":
            self.progress = event
        if self._on_event is not None:
            self._on_event(event)

    @property
    def outlived(self) -> str:
        """A sentence when the scene that the results were meant for is closed; else empty."""
        if self._scene_closed and self.makes_nodes and not self.check:
            return _("The scene was closed before the run ended, so its results were not loaded.")
        return ""

    def _end(self, state: str, message: str, exit_code: int | None, outputs: list[Event]) -> None:
        if state == "done" and self.outlived:
            state, message, exit_code = "cancelled", self.outlived, CANCELLED
        try:
            if state == "done" and not self.check:
                begin, before = time.monotonic(), node_ids(slicer.mrmlScene)
                self.results = self._load(outputs)
                self._dress()
                self._join_segmentation()
                self.added = [identity for identity in node_ids(slicer.mrmlScene) if identity not in before]
                self.load_seconds = time.monotonic() - begin
                self._note(said(_("Results loaded in {seconds:.2f} s.").format(seconds=self.load_seconds)))
        except MedGenLibError as error:
            state, message, exit_code = "failed", str(error), OUR_FAULT
        except OSError as error:
            state, message, exit_code = "failed", plain(error, error.filename or models.home()), OUR_FAULT
        except Exception as error:  # a timer polls: whatever it is must end the run, not come back at every tick
            logging.exception("MedGen: the results could not be loaded")
            words = _("The results could not be loaded ({error}); see the Python console.")
            state, message, exit_code = "failed", words.format(error=type(error).__name__), OUR_FAULT
        self.state, self.message, self.exit_code = state, message, exit_code
        self._clean_up()

    def _clean_up(self) -> None:
        slicer.mrmlScene.RemoveObserver(self._closing)
        self._delete_files()

    def _delete_files(self) -> None:
        if not (self._keep and self.state != "done" and can_resume(self.plan.out)):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self, outputs: list[Event]) -> dict[str, Any]:
        roles = {role["name"]: role for role in self.plan.operation["outputs"]}
        reference = self.reference
        results: dict[str, Any] = {}
        with all_or_nothing(slicer.mrmlScene):
            for event in outputs:
                role, path = roles[event["role"]], Path(event["path"])
                if role["kind"] in WITHOUT_NODE:
                    results[role["name"]] = self._keep_outside(path, role["kind"])
                    continue
                nodes = self._load_role(path, role, reference)
                results[role["name"]] = nodes if role["many"] else nodes[0]
        return results

    def _dress(self) -> None:
        """Make the results readable."""
        reference = slicer.mrmlScene.GetNodeByID(self._reference_id) if self._reference_id else None
        for role in self.plan.operation["outputs"]:
            found = self.results.get(role["name"])
            for node in found if isinstance(found, list) else [found]:
                if hasattr(node, "GetID"):
                    looks.dress(node, role, reference, self.plan.entry["slug"])

    def _join_segmentation(self) -> None:
        """Move the result into the segmentation that was chosen for it; where that cannot be, it stays a node of its
        own, and the run says so."""
        made = [role for role, value in self.results.items() if hasattr(value, "GetSegmentation")]
        if self.into is None or not made:
            return
        target = slicer.mrmlScene.GetNodeByID(self.into.node) if self.into.node else None
        words = ""
        if target is None:
            words = _("“{name}” is no longer in the scene, so the result is a node of its own.")
            words = words.format(name=self.into.name)
        else:
            try:
                self.merged = merge.merge(self.results[made[0]], target, self.into.rule)
                self.results[made[0]] = target
            except MedGenLibError as error:
                words = str(error)
        for sentence in self.merged.said if self.merged is not None else []:
            self._note(said(sentence))
        if words:
            self._note({**said(words), "changed": True})

    def _load_role(self, path: Path, role: dict[str, Any], reference: Any) -> list[Any]:
        record = provenance.complete(provenance_at(path), self.context)
        name, may_be_empty = self._node_name(role, reference), role["many"] and role["may_be_empty"]
        nodes: list[Any] = []
        for file in result_files(path, role):
            nodes += load_results(
                file, role["kind"], name, reference=reference, provenance=record, may_be_empty=may_be_empty
            )
        return nodes

    def _node_name(self, role: dict[str, Any], reference: Any) -> str:
        if self.name and len(self.plan.operation["outputs"]) == 1:
            return self.name
        base = self.name or (reference.GetName() if reference is not None else self.plan.entry["slug"])
        return f"{base} {role['name']}"

    def _keep_outside(self, path: Path, kind: str) -> Path:
        """Results that no node holds leave the run's folder for MedGen's own."""
        if self.folder not in path.parents:
            return path
        where = models.folder() if kind == "Model" else models.home() / "results"
        target = where / free_name(self.name or self.plan.entry["slug"], where)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(str(path), str(target))
        return target


def said(message: str) -> Event:
    """A sentence for the log, as a run says it."""
    return {"event": "log", "message": message}


def can_resume(model: Path) -> bool:
    """Whether an interrupted training of a model left something to go on from."""
    return (model.with_name(model.name + ".training") / CHECKPOINT).is_file()


def free_name(stem: str, folder: Path, taken: Callable[[str], bool] = lambda name: False) -> str:
    """`stem` made of letters, digits, - and _, numbered so that neither it nor a training of it is in the folder, and
    that it is not `taken` otherwise."""
    clean = "".join(
        character if character.isascii() and (character.isalnum() or character in "-_") else "-" for character in stem
    )
    clean = clean.strip("-_") or "model"
    number = 1
    while any((folder / f"{clean}-{number}{end}").exists() for end in ("", ".training")) or taken(f"{clean}-{number}"):
        number += 1
    return f"{clean}-{number}"


def result_files(path: Path, role: dict[str, Any]) -> list[Path]:
    """The files of an output: those of a role in a folder, or the one file."""
    return sorted(path.glob(f"{role['name']}_*")) if path.is_dir() else [path]


def provenance_at(path: Path) -> dict[str, Any]:
    """How an output came to be, from the record beside it; empty when there is none."""
    file = path / "provenance.json" if path.is_dir() else path.with_name(path.name + ".provenance.json")
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(file.read_text("utf-8")))
    return {}
