"""One line of jobs for the whole Slicer session, shared by the modules. No Qt: an open panel calls `tick` from a timer
(`MedGenLib.attendant`), a script calls `wait`.

What is in the line belongs to the session, not to a panel: it stands in `slicer`, so that it survives a closed panel
and a module reload, which makes every class of MedGenLib anew. A job keeps the code that it was made with.
"""

from __future__ import annotations

import atexit
import logging
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import vtk

from MedGenLib.errors import MedGenLibError, RunError, plain
from MedGenLib.i18n import _
from MedGenLib.plan import as_list
from MedGenLib.runs import Event, MedGenRun

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"


class Remembered:
    """What was chosen or made, by role; nodes are not kept alive by it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = {role: [_Kept(one) for one in as_list(value)] for role, value in values.items()}
        self._lists = {role for role, value in values.items() if isinstance(value, (list, tuple))}

    @property
    def names(self) -> list[str]:
        """Nodes and files by name, each once."""
        return list(dict.fromkeys(kept.name for kept in self._all()))

    def _all(self) -> list[_Kept]:
        return [kept for several in self._values.values() for kept in several]

    def get(self) -> dict[str, Any]:
        """The values; RunError when a node is no longer in the scene."""
        for kept in self._all():
            if kept.value() is None:
                raise RunError(_("“{name}” is no longer in the scene; choose it again.").format(name=kept.name))
        return self.left()

    def left(self) -> dict[str, Any]:
        """As `get`, without what is no longer there."""
        found = {role: [kept.value() for kept in several] for role, several in self._values.items()}
        there = {role: [value for value in values if value is not None] for role, values in found.items()}
        return {role: values if role in self._lists else values[0] for role, values in there.items() if values}


class _Kept:
    def __init__(self, value: Any) -> None:
        self._value, self._node = value, None
        self.name = Path(value).name if isinstance(value, (str, Path)) else str(value)
        if hasattr(value, "GetScene"):
            self._value, self._node = None, vtk.vtkWeakReference()
            self._node.Set(value)
            self.name = value.GetName()

    def value(self) -> Any:
        if self._node is None:
            return self._value
        node = self._node.Get()
        return node if node is not None and node.GetScene() is slicer.mrmlScene else None


class QueuedJob:
    """A place in the line.

    title: what is done. names: of the inputs. key: jobs of the same key are expected to last equally long. prepare:
    makes a run that is not started yet; called soon for a job without a run, and again for a retry. owner: whoever
    has `job_changed(job, events)` and tells the person; None leaves that to the session. expected: seconds, where they
    were estimated. state: waiting, running, done, failed or cancelled. message: the sentence when not done.
    """

    def __init__(
        self,
        title: str,
        names: list[str],
        key: str,
        prepare: Callable[[], MedGenRun] | None,
        *,
        run: MedGenRun | None = None,
        owner: Any = None,
        expected: float | None = None,
    ) -> None:
        self.title, self.names, self.key = title, names, key
        self.owner, self.expected = owner, expected
        self.run = run
        self._prepare = prepare
        self._earlier: list[str] = []
        self._results = Remembered({})
        self._reset()

    def _reset(self) -> None:
        self.state = WAITING if self.run is None else self.run.state
        self.message = ""
        self.progress: Event | None = None
        self.seconds = 0.0  # how long it ran
        self._begin = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether it is over, well or not."""
        return self.state not in (WAITING, RUNNING)

    @property
    def can_retry(self) -> bool:
        """Whether it did not end well and is known well enough to be tried again."""
        return self.state in (FAILED, CANCELLED) and self._prepare is not None

    @property
    def log(self) -> list[str]:
        """What it said, over all its tries."""
        return self._earlier + (self.run.log if self.run is not None else [])

    @property
    def results(self) -> dict[str, Any]:
        """What it gave and is still there, by role: nodes, lists of nodes, or paths."""
        return self._results.left()

    # --- for the line

    def prepare(self) -> None:
        """Write the inputs; the state is failed when they cannot be written."""
        assert self._prepare is not None
        try:
            self.run = self._prepare()
        except Exception as error:
            self._fail(error)

    def begin(self) -> None:
        """Start the run; the state is failed when it cannot be started."""
        assert self.run is not None
        self._begin = time.monotonic()
        try:
            self.run.start()
            self.state = RUNNING
        except Exception as error:
            self._fail(error)

    def poll(self) -> list[Event]:
        """What has happened since the last call."""
        assert self.run is not None
        events = self.run.poll()
        self.progress = self.run.progress
        self.seconds = time.monotonic() - self._begin
        if not self.run.running:
            self._results = Remembered(self.run.results)
            self._over(self.run.state, self.run.message)
        return events

    def cancel(self, message: str = "") -> None:
        """Ask a running job to stop; a waiting one is over at once and its files are gone."""
        if self.state == RUNNING and self.run is not None:
            self.run.cancel()
        elif self.state == WAITING:
            if self.run is not None:
                self.run.discard()
            self._over(CANCELLED, message or _("Cancelled."))

    def end_now(self) -> None:
        """End it with its whole process tree, and wait until its files are gone."""
        if self.state == RUNNING and self.run is not None:
            self.run.kill()
            self.run.abandon(wait=True)
            self._over(CANCELLED, _("Cancelled."))
        else:
            self.cancel()

    def forget_run(self) -> None:
        """Let go of the nodes that it gave, once everybody has been told."""
        self._earlier, self.run = self.log, None

    def again(self) -> None:
        """Back to waiting; inputs are written anew."""
        self._earlier = [*self.log, _("Tried again.")] if self.log else []
        self.run = None
        self._results = Remembered({})
        self._reset()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, MedGenLibError):
            message = str(error)
        elif isinstance(error, OSError):
            message = plain(error, error.filename or _("The run's folder"))
        else:
            logging.exception("MedGen: a job could not be started")
            message = _("The job could not be started ({error}); see the Python console.").format(
                error=type(error).__name__
            )
        if self.run is not None:
            self.run.discard(FAILED, message)
        self._over(FAILED, message)

    def _over(self, state: str, message: str) -> None:
        self.state, self.message = state, message
        if message and message not in self.log:
            (self._earlier if self.run is None else self.run.log).append(message)


class JobLine:
    """The jobs of the session in their order."""

    def __init__(self, session: Any) -> None:
        self._session = session

    @property
    def jobs(self) -> list[QueuedJob]:
        """All jobs, finished ones too, until they are cleared."""
        return list(self._session.jobs)

    @property
    def unfinished(self) -> list[QueuedJob]:
        """Those that wait or run."""
        return [job for job in self._session.jobs if not job.finished]

    @property
    def busy(self) -> bool:
        """Whether a job that is put in the line now has to wait."""
        return len(self.unfinished) >= self.at_once

    @property
    def at_once(self) -> int:
        """How many jobs run at the same time."""
        return int(self._session.at_once)

    @at_once.setter
    def at_once(self, count: int) -> None:
        self._session.at_once = max(1, int(count))
        self._start_waiting()

    def put(self, job: QueuedJob) -> QueuedJob:
        """A new job at the end; it starts at once when its inputs are written and nothing is before it."""
        self.put_all([job])
        return job

    def put_all(self, jobs: list[QueuedJob]) -> None:
        """New jobs at the end, in their order; whoever listens hears of them once."""
        self._session.jobs += jobs
        for job in jobs:
            self._tell_owner(job, [])
        self._tell_listeners(jobs)
        self._start_waiting()

    def tick(self) -> None:
        """Follow what runs, start what waits. One job's inputs are written and one job's results loaded a call, so that
        the panel answers in between."""
        for job in [one for one in self._session.jobs if one.state == RUNNING]:
            events = job.poll()
            if events or job.finished:
                self._tell(job, events)
            if job.finished:
                break
        waiting = [job for job in self._session.jobs if job.state == WAITING]
        outlived = [job.run.outlived for job in waiting if job.run is not None and job.run.outlived]
        for why in dict.fromkeys(outlived):
            self.cancel_all([job for job in waiting if job.run is not None and job.run.outlived == why], why)
        unwritten = next((job for job in waiting if job.run is None and job.state == WAITING), None)
        if unwritten is not None:
            unwritten.prepare()
            self._tell(unwritten, [])
        self._start_waiting()

    def _start_waiting(self) -> None:
        for job in self.unfinished[: self.at_once]:
            if job.state == WAITING and job.run is not None:
                job.begin()
                self._tell(job, [])

    def wait(self, jobs: list[QueuedJob] | None = None) -> None:
        """Until these jobs (or all) are over, without any event loop."""
        while any(not job.finished for job in (self.jobs if jobs is None else jobs)):
            self.tick()
            time.sleep(0.02)

    def cancel(self, job: QueuedJob, message: str = "") -> None:
        """End a job; a running one is over when its whole process tree is."""
        self.cancel_all([job], message)

    def cancel_all(self, jobs: list[QueuedJob], message: str = "") -> None:
        """End those that are not over, the last first; whoever listens hears of them once."""
        ended = [job for job in reversed(jobs) if not job.finished]
        for job in ended:
            job.cancel(message)
            self._tell_owner(job, [])
        self._tell_listeners(ended)

    def retry(self, job: QueuedJob) -> None:
        """Put a failed or cancelled job at the end of the line; its inputs are written as they are then."""
        self.retry_all([job])

    def retry_all(self, jobs: list[QueuedJob]) -> None:
        """As `retry`, in their order; whoever listens hears of them once."""
        tried = [job for job in jobs if job.can_retry]
        for job in tried:
            job.again()
        moved = {id(job) for job in tried}
        self._session.jobs = [one for one in self._session.jobs if id(one) not in moved]
        self.put_all(tried)

    def clear_finished(self) -> None:
        """Forget what is over."""
        self._session.jobs = self.unfinished
        for listener in list(self._session.listeners):
            self._call(listener, None)

    def close(self) -> None:
        """End everything and delete its files: Slicer quits."""
        for job in reversed(self.unfinished):
            job.end_now()
        self._session.jobs = []

    def holds(self, folder: Path) -> bool:
        """Whether a job that is not over works in this folder."""
        return any(job.run is not None and job.run.folder == folder for job in self.unfinished)

    # --- time

    def seconds_left(self, job: QueuedJob) -> float | None:
        """How long a job will still run once it runs; None when nothing is known."""
        if job.finished:
            return None
        expected = job.expected or self._session.pace.get(job.key)
        if job.state == WAITING:
            return expected
        left = (job.progress or {}).get("seconds_left")
        rest = None if expected is None else max(0.0, expected - job.seconds)
        return rest if left is None else max(float(left), rest or 0.0)

    def total_left(self) -> tuple[float, bool]:
        """Seconds until the line is empty, and whether those of every job are known."""
        found = [self.seconds_left(job) for job in self.unfinished]
        known = [seconds for seconds in found if seconds is not None]
        return max([sum(known) / self.at_once, *known], default=0.0), len(known) == len(found)

    # --- telling

    def listen(self, listener: Callable[[QueuedJob | None], None]) -> None:
        """Call `listener(job)` whenever a job changes, `listener(None)` when several do at once."""
        self._session.listeners.append(listener)

    def leave(self, listener: Callable[[QueuedJob | None], None]) -> None:
        """Call it no more."""
        self._session.listeners = [one for one in self._session.listeners if one != listener]

    def _tell(self, job: QueuedJob, events: list[Event]) -> None:
        self._tell_owner(job, events)
        self._tell_listeners([job])

    def _tell_owner(self, job: QueuedJob, events: list[Event]) -> None:
        if job.state == DONE:
            self._session.pace[job.key] = job.seconds
        told = job.owner.job_changed if job.owner is not None else self._session.orphan_changed
        self._call(told, job, events)

    def _tell_listeners(self, jobs: list[QueuedJob]) -> None:
        for listener in list(self._session.listeners) if jobs else ():
            self._call(listener, jobs[0] if len(jobs) == 1 else None)
        for job in jobs:
            if job.finished:
                job.forget_run()

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:  # what one listener does wrong is reported and stops no job
            sys.excepthook(*sys.exc_info())


def session() -> Any:
    """What the whole Slicer session shares: jobs, at_once, listeners, pace (seconds by key), orphan_changed (told of
    jobs without an owner), timer, batches (of cases, the newest last)."""
    found = getattr(slicer, "medgenSession", None)
    if found is None:
        found = types.SimpleNamespace(
            jobs=[], at_once=1, listeners=[], pace={}, orphan_changed=_nobody, timer=None, batches=[]
        )
        slicer.medgenSession = found
        atexit.register(line().close)
    return found


def _nobody(job: QueuedJob, events: list[Event]) -> None:
    """A script looks at its jobs itself."""


def line() -> JobLine:
    """The session's line."""
    return JobLine(session())
