"""What the panel does with runs: packages that are missing, the line, how a run goes, what it gave."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import qt
import slicer
import slicer.util

from MedGenLib import install, jobqueue, merge, results
from MedGenLib.choices import Choices
from MedGenLib.errors import MedGenLibError, plain
from MedGenLib.frameruns import FramesRun
from MedGenLib.i18n import _
from MedGenLib.runs import MedGenRun
from MedGenLib.sections import gives_one_mask


class PanelRuns(Choices):
    """A part of `MedGenPanel`, which makes the widgets and the rooms that are spoken of here."""

    logic: Any
    poller: Any
    estimator: Any
    rooms: list[Any]
    train: Any
    apply: Any
    run: Any

    def _on_install(self, checked: bool = False) -> None:
        self._have_packages()

    def _have_packages(self) -> bool:
        """Ask once for everything that is missing, and install it; whether a run can start."""
        self._missing_packages = install.missing()
        if self._missing_packages:
            if not slicer.util.confirmYesNoDisplay(install.question(self._missing_packages), windowTitle="MedGen"):
                return False
            try:
                install.install(self._missing_packages)
            except MedGenLibError as error:
                self._say_failed(str(error))
            self._missing_packages = install.missing()
        self.refresh()
        return not self._missing_packages

    def _on_train(self, checked: bool = False) -> None:
        training = self.training
        if training is None or not self._have_packages():
            return
        parameters = self.parameters()
        cohort = parameters.text("cohort") if self.source == "file" else None
        given = self.inputs(training) if self.trains_from_nodes() else {}
        name = parameters.text("name") or self.logic.free_model_name(self.entry["slug"])
        watched = {"cases": self.training_cases(), "previews": self.previews()}
        self._start(training, given, name=name, cohort=cohort, **watched)

    def _on_apply(self, checked: bool = False) -> None:
        operation = self.operation
        if operation is None or not self._have_packages():
            return
        of_collection = operation["scope"] == "collection"
        cohort = self.parameters().text("apply cohort") if of_collection else None
        model = str(self.apply.model.currentText) if operation["needs_model"] else None
        given = {} if of_collection else self.inputs(operation)
        self._start(operation, given, model=model, cohort=cohort, frames=self.frames() or "current")

    def _start(
        self,
        operation: dict[str, Any],
        given: dict[str, Any],
        notes: Sequence[str] = (),
        apart: bool = False,
        **options: Any,
    ) -> None:
        """Write the inputs and put a run in the line. notes: for its log. apart: its results are nodes of their own."""
        expected = (self.estimator.found or {}).get("seconds") if operation["name"] == "train" else None
        self.estimator.pause()
        options = {"slug": self.entry["slug"], **self.run_options(operation), **options}
        failed, slug, remembered = "", options.pop("slug"), jobqueue.Remembered(given)
        slicer.app.setOverrideCursor(qt.Qt.WaitCursor)  # nodes are written to files here
        try:
            run = self.logic.process(slug, operation["name"], given, start=False, **options)
        except MedGenLibError as error:
            failed = str(error)
        except OSError as error:
            failed = plain(error, error.filename or _("The run's folder"))
        finally:
            slicer.app.restoreOverrideCursor()
        if failed:  # said only now: no wait cursor over a message that waits for the person
            self._say_failed(failed)
            return
        run.log.extend(notes)
        chosen = [] if apart or isinstance(run, FramesRun) else self.parameters().nodes("output")
        if chosen and gives_one_mask(operation):  # as chosen now: the run may begin much later
            run.into = chosen[0].GetID(), self.parameters().text("merge") or merge.NEW
        again = functools.partial(self.logic.again, slug, operation["name"], remembered, options)
        self._follow(run, again, remembered.names, expected)

    def repeat(self, operation: dict[str, Any], given: dict[str, Any], notes: list[str], **options: Any) -> None:
        """Start a run with options of its own instead of those chosen, its results apart; `notes` go into its log."""
        if self._have_packages():
            self._start(operation, given, notes, apart=True, **options)

    def _on_resume(self, checked: bool = False) -> None:
        names = self.logic.interrupted(self.entry["slug"])
        if not names or not self._have_packages():
            return
        self.estimator.pause()
        name = names[-1]
        try:
            run = self.logic.resume(name, previews=self.previews(), start=False)
        except MedGenLibError as error:
            self._say_failed(str(error))
            return
        self._follow(run, functools.partial(self.logic.resume, name, start=False), [name])

    def _on_discard(self, checked: bool = False) -> None:
        for name in self.logic.interrupted(self.entry["slug"])[-1:]:
            question = _("Discard the interrupted training “{name}”? What it has learnt is deleted.").format(name=name)
            if slicer.util.confirmYesNoDisplay(question, windowTitle="MedGen"):
                self.logic.discard(name)
        self._on_disk.clear()
        self.refresh()

    def _follow(self, run: MedGenRun, *about: Any) -> None:
        """Put a run in the line; `about`: what makes another, names of inputs and expected seconds."""
        self.poller.follow(run, *about)
        if self.poller.only_waits:
            self.run.say(_("{title}: waits in line.").format(title=run.plan.operation["title"]))
        self.refresh()

    def _on_run_begin(self, run: MedGenRun) -> None:
        self._title = str(run.plan.operation["title"])
        self.run.begin(self._title)
        for message in run.log:
            self.run.log.appendPlainText(message)
        for room in self.rooms:
            room.run_started(run)

    def _on_run_events(self, events: list[dict[str, Any]]) -> None:
        for room in self.rooms:
            room.run_events(events)
        for event in events:
            if event["event"] == "progress":
                self.run.progress(self._title, event)
            elif event["event"] in ("log", "error"):
                self.run.log.appendPlainText(str(event["message"]))

    def _on_run_end(self, run: MedGenRun) -> None:
        self._on_disk.clear()
        if run.state == "done":
            self._take(run)
        elif run.state == "cancelled":
            self._say_cancelled()
        else:
            self._say_failed(run.message)
        for room in self.rooms:
            room.run_ended(run)
        self.refresh()

    def _take(self, run: MedGenRun) -> None:
        """Show what a run gave."""
        parameters, found = self.parameters(), run.results
        said = [node.GetName() for node in results.nodes_of(found)]
        if "model" in found and not hasattr(found["model"], "GetID"):
            if run.plan.entry["slug"] == self.entry["slug"]:  # another may have been chosen meanwhile
                parameters.set_text("model", found["model"].name)
                if parameters.text("name") == found["model"].name:
                    parameters.set_text("name", "")
            said.append(found["model"].name)
        results.show(found, run.reference)
        into = slicer.mrmlScene.GetNodeByID(run.into[0]) if run.into is not None else None
        if run.into is not None and into is not None and results.nodes_of(found):
            try:
                run.merged = merge.merge(results.nodes_of(found)[0], into, run.into[1])
                self._on_run_events([{"event": "log", "message": words} for words in run.merged.said])
                said = [into.GetName()]
            except MedGenLibError as error:
                self._say_failed(str(error))
                return
        names = ", ".join(f"“{name}”" for name in said)
        words = _("{title}: done, see {names}.").format(title=self._title, names=names)
        self.run.end(" ".join([words, *run.changes]))

    def _say_failed(self, message: str) -> None:
        """One plain message, in the panel and as Slicer shows errors."""
        self.run.end(message, failed=True)
        slicer.util.errorDisplay(message, windowTitle="MedGen")

    def _say_cancelled(self) -> None:
        self.run.end(_("Cancelled."))
        self.run.bar.value = 0

    def _on_cancel(self, checked: bool = False) -> None:
        if not self.poller.only_waits:
            self.run.status.text = _("{title}: cancelling…").format(title=self._title)
        self.poller.cancel()
