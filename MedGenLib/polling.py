"""Follows a run from a timer, so that Slicer stays usable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

from MedGenLib.runs import MedGenRun


class Poller:
    """Asks one run at a time for its events; `on_events(events)`, then `on_end(run)` once."""

    def __init__(
        self,
        on_end: Callable[[MedGenRun], None],
        on_events: Callable[[list[dict[str, Any]]], None] = lambda events: None,
        milliseconds: int = 150,
    ) -> None:
        self.run: MedGenRun | None = None
        self._on_events = on_events
        self._on_end = on_end
        self._timer = qt.QTimer()
        self._timer.setInterval(milliseconds)
        self._timer.connect("timeout()", self._tick)

    @property
    def busy(self) -> bool:
        """Whether a run is followed."""
        return self.run is not None

    def follow(self, run: MedGenRun) -> None:
        """Follow a run that has been started."""
        self.run = run
        self._timer.start()

    def drop(self) -> None:
        """End the run's processes at once and forget it; nobody is told."""
        self._timer.stop()
        run, self.run = self.run, None
        if run is not None:
            run.kill()
            run.abandon()

    def _tick(self) -> None:
        run = self.run
        if run is None:
            return
        events = run.poll()
        if events:
            self._on_events(events)
        if not run.running:
            self._timer.stop()
            self.run = None
            self._on_end(run)
