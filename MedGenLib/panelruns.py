"""What the panel does with runs: packages that are missing, the line, how a run goes, what it gave."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import qt
import slicer
import slicer.util

from MedGenLib import install, merge, results
from MedGenLib.asked import Asked
from MedGenLib.choices import Choices
from MedGenLib.errors import MedGenLibError, plain
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
    _shown: Any

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
        failed, slug = "", options.pop("slug")
        fits = gives_one_mask(operation) and not apart and options.get("frames") != "all"
        into = next(iter(self.parameters().nodes("output") if fits else []), None)
        rule = self.parameters().text("merge") or merge.NEW
        asked = Asked(self.logic, slug, operation["name"], given, options, notes=notes, into=into, rule=rule)
        slicer.app.setOverrideCursor(qt.Qt.WaitCursor)  # nodes are written to files here
        try:
            run = asked.run()
        except MedGenLibError as error:
            failed = str(error)
        except OSError as error:
            failed = plain(error, error.filename or _("The run's folder"))
        finally:
            slicer.app.restoreOverrideCursor()
        if failed:  # said only now: no wait cursor over a message that waits for the person
            self._say_failed(failed)
            return
        self._follow(run, asked.again, asked.names, expected)

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
        again = functools.partial(self.logic.resume, name, previews=self.previews(), start=False)
        try:
            run = again()
        except MedGenLibError as error:
            self._say_failed(str(error))
            return
        self._follow(run, again, [name])

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
        if self.poller.running is run:  # else another goes on, and its progress is shown
            self._show_progress_of(run)
        for room in self.rooms:
            room.run_started(run)

    def _show_progress_of(self, run: MedGenRun) -> None:
        self._shown = run
        self.run.begin(_title_of(run))
        for message in run.log:
            self.run.log.appendPlainText(message)

    def _on_run_events(self, run: MedGenRun, events: list[dict[str, Any]]) -> None:
        for room in self.rooms:
            room.run_events(run, events)
        for event in events if run is self._shown else []:
            if event["event"] == "progress":
                self.run.progress(_title_of(run), event)
            elif event["event"] in ("log", "error"):
                self.run.log.appendPlainText(str(event["message"]))

    def _give_way(self, words: str) -> None:
        """Show how another run goes on, if one does, and in its log how this one ended."""
        other = self.poller.running
        if other is None:
            return
        if other is not self._shown:
            self._show_progress_of(other)
        self.run.log.appendPlainText(words)

    def _on_run_end(self, run: MedGenRun) -> None:
        self._on_disk.clear()
        if run.state == "done":
            self._take(run)
        elif run.state == "cancelled":
            dropped = run.message if run.message == run.outlived else ""
            self._say_cancelled(dropped)
            self._give_way(dropped or _("{title}: cancelled.").format(title=_title_of(run)))
        else:
            self._say_failed(run.message)
            self._give_way(run.message)
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
        for words in run.merged.said if run.merged is not None else []:
            self.run.log.appendPlainText(words)
        words = results.end_of(_title_of(run), [f"“{name}”" for name in said], found)
        words = " ".join([words, *run.changes])
        self.run.end(words)
        self._give_way(words)

    def _say_failed(self, message: str) -> None:
        """One plain message, in the panel and as Slicer shows errors."""
        self.run.end(message, failed=True)
        slicer.util.errorDisplay(message, windowTitle="MedGen")

    def _say_cancelled(self, words: str = "") -> None:
        self.run.end(words or _("Cancelled."))
        self.run.bar.value = 0

    def _on_cancel(self, checked: bool = False) -> None:
        running = self.poller.running
        if running is not None:
            self.run.status.text = _("{title}: cancelling…").format(title=_title_of(running))
        self.poller.cancel()


def _title_of(run: MedGenRun) -> str:
    return str(run.plan.operation["title"])
