"""A verb of medgen in a process of its own, followed by a `Poller` as runs are: the panel never waits. No Qt."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from medgen.errors import OUR_FAULT
from medgen.jobs import Job
from MedGenLib.errors import RunError, plain
from MedGenLib.i18n import _
from MedGenLib.runs import python_executable


class Task:
    """`medgen models …` or `medgen doctor`. state is running, done, failed or cancelled; message the sentence why.

    RunError when its folder cannot be made."""

    def __init__(self, arguments: list[str], title: str) -> None:
        self.title = title
        self.reports: list[dict[str, Any]] = []
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="medgen-"))
        except OSError as error:
            raise RunError(plain(error, error.filename or _("The temporary folder"))) from None
        self._job = Job(arguments, self._folder, python=python_executable(), title=title)

    def start(self) -> Task:
        """Start the process; RunError when it cannot be."""
        try:
            self._job.start()
        except OSError as error:
            self._clean_up()
            words = _("{title} could not be started ({error}); check the installation.")
            raise RunError(words.format(title=self.title, error=error.strerror or error), OUR_FAULT) from None
        return self

    @property
    def state(self) -> str:
        """How it stands."""
        return self._job.state

    @property
    def message(self) -> str:
        """Why it is not done."""
        return self._job.message

    @property
    def running(self) -> bool:
        """Whether its end has not been seen by `poll` yet."""
        return self._job.running

    def poll(self) -> list[dict[str, Any]]:
        """What it has said since the last call."""
        events = self._job.events()
        self.reports += [event for event in events if event["event"] == "report"]
        if not self._job.running:
            self._clean_up()
        return events

    def kill(self) -> None:
        """End the process tree at once."""
        self._job.kill()

    def abandon(self) -> None:
        """Forget a task that was killed; its folder goes when the process has."""

        def finish() -> None:
            with contextlib.suppress(TimeoutError):
                self._job.wait(20)
            self._clean_up()

        threading.Thread(target=finish, daemon=True, name="medgen-abandoned").start()

    def _clean_up(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
