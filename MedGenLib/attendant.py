"""The line of jobs in a Slicer with a window: a timer that keeps it going, what each panel hears of its own jobs, and
what a person hears of jobs whose panel is closed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util

from MedGenLib import cards, jobqueue, results, takeback
from MedGenLib.i18n import _
from MedGenLib.jobqueue import CANCELLED, DONE, FAILED, RUNNING, QueuedJob
from MedGenLib.runs import Event, MedGenRun

INTERVAL = 150  # ms


def attend() -> None:
    """Keep the session's line going, whichever panels are open; after a reload with the code as it is then."""
    session = jobqueue.session()
    if session.timer is not None:
        session.timer.stop()
    else:
        slicer.app.connect("aboutToQuit()", jobqueue.line().close)
    session.orphan_changed = _tell_person
    session.timer = qt.QTimer()
    session.timer.setInterval(INTERVAL)
    session.attended = jobqueue.line()  # a connection alone does not keep it
    session.timer.connect("timeout()", session.attended.tick)
    session.timer.start()


def _tell_person(job: QueuedJob, events: list[Event]) -> None:
    """One message for a job whose panel is closed."""
    if job.state == FAILED:
        slicer.util.errorDisplay(job.message, windowTitle="MedGen")
    elif job.state == CANCELLED and job.run is not None and job.message == job.run.outlived:
        words = _("MedGen, {title}: {message}").format(title=job.title, message=job.message)
        slicer.util.showStatusMessage(words, 5000)
    elif job.state == DONE:
        if job.run is not None:
            takeback.history.remember(job.title, job.run.added, job.run.merged)
        made = job.results
        names = [node.GetName() for node in results.nodes_of(made)]
        names += [value.name for value in made.values() if isinstance(value, Path)]
        words = results.end_of(_("MedGen, {title}").format(title=job.title), names, made)
        changes = job.run.changes if job.run is not None else []
        slicer.util.showStatusMessage(" ".join([words, *changes]), 5000)


def tell_of_cases(batch: Any) -> None:
    """One message for many cases."""
    if batch.failed:
        slicer.util.errorDisplay(batch.summary() + ".", windowTitle="MedGen")
    else:
        slicer.util.showStatusMessage("MedGen, " + batch.summary() + ".", 5000)


class PanelJobs:
    """The jobs that one panel has put in the line.

    on_begin(run): it starts. on_events(run, events): what it says. on_end(run): it is over. For those that never begin:
    on_refused(message): it could not be started; on_withdrawn(message): it was taken out of the line, and none is left.
    """

    def __init__(
        self,
        on_begin: Callable[[MedGenRun], None],
        on_events: Callable[[MedGenRun, list[Event]], None],
        on_end: Callable[[MedGenRun], None],
        on_refused: Callable[[str], None],
        on_withdrawn: Callable[[str], None],
    ) -> None:
        self._on_begin, self._on_events, self._on_end = on_begin, on_events, on_end
        self._on_refused, self._on_withdrawn = on_refused, on_withdrawn
        self._begun: weakref.WeakSet[MedGenRun] = weakref.WeakSet()

    @property
    def jobs(self) -> list[Any]:
        """This panel's jobs that are not over, in their order."""
        return [job for job in jobqueue.line().unfinished if job.owner is self]

    @property
    def busy(self) -> bool:
        """Whether one of them waits or runs."""
        return bool(self.jobs)

    @property
    def only_waits(self) -> bool:
        """Whether none of them runs yet."""
        return self.busy and all(job.state != RUNNING for job in self.jobs)

    @property
    def run(self) -> MedGenRun | None:
        """The run that goes on (of several, the first), or the next; None without one."""
        return next((job.run for job in self._by_turn), None)

    @property
    def _by_turn(self) -> list[Any]:
        return sorted(self.jobs, key=lambda job: job.state != RUNNING)

    @property
    def running(self) -> MedGenRun | None:
        """The first of its runs that goes on now."""
        return next((job.run for job in self.jobs if job.state == RUNNING), None)

    def follow(
        self,
        run: MedGenRun,
        prepare: Callable[[], MedGenRun] | None = None,
        names: Sequence[str] = (),
        expected: float | None = None,
    ) -> QueuedJob:
        """Put a run in the line; `prepare` makes another of its kind for a retry."""
        plan = run.plan
        key = f"{plan.entry['slug']} {plan.operation['name']}"
        job = QueuedJob(str(plan.operation["title"]), list(names), key, prepare, run=run, owner=self, expected=expected)
        return jobqueue.line().put(job)

    def cancel(self) -> None:
        """End the one that goes on (of several, the first), or the next."""
        for job in self._by_turn[:1]:
            jobqueue.line().cancel(job)

    def adopt(self, slugs: Collection[str]) -> None:
        """The panel is open again: jobs of these methods that nobody owns are followed from here."""
        for job in jobqueue.line().unfinished:
            if job.owner is None and job.key.partition(" ")[0] in slugs:
                job.owner = self
                self.job_changed(job, [])

    def leave(self) -> None:
        """The panel is closed: its jobs go on without it."""
        for job in jobqueue.line().jobs:
            if job.owner is self:
                job.owner = None

    def job_changed(self, job: QueuedJob, events: list[Event]) -> None:
        """Called by the line."""
        run = job.run
        if run is not None and job.state == RUNNING and run not in self._begun:
            self._begun.add(run)
            self._on_begin(run)
        if run is not None and events:
            self._on_events(run, events)
        if not job.finished:
            return
        if run is not None and run in self._begun:
            self._on_end(run)
        elif job.state == FAILED:
            self._on_refused(job.message)
        elif not self.busy:
            self._on_withdrawn(job.message)


def in_line_title(title: str) -> str:
    """The text of a button that puts a job in the line."""
    return _("{title} (waits in line)").format(title=title) if jobqueue.line().busy else title


def in_line_tip(help_text: str) -> str:
    """Its tooltip."""
    line = jobqueue.line()
    if not line.busy:
        return help_text
    seconds, _known = line.total_left()
    waits = _("Something runs already: this will wait in line, with its inputs as they are now.")
    if seconds:
        waits += " " + _("About {time} until then.").format(time=cards.duration(seconds))
    return f"{help_text}\n{waits}"
