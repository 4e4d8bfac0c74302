"""What an operation will take, asked of `medgen check` in the background whenever what it depends on has changed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt

from MedGenLib import cards
from MedGenLib.changes import state
from MedGenLib.errors import MedGenLibError, plain
from MedGenLib.i18n import _
from MedGenLib.logic import MedGenLogic
from MedGenLib.plan import export_inputs
from MedGenLib.polling import Poller
from MedGenLib.runs import MedGenRun
from MedGenLib.trainingcases import CaseExport, TrainingCase

WAIT = 700  # ms without a change before the check starts
USER_FAULT = 2


class Estimator:
    """Asks one question at a time; `on_found()` is called when the answer is there.

    found: the "estimate" event, or None. refused: why the inputs are not fit, or empty. done: whether the question that
    was asked last has been answered.
    """

    def __init__(self, logic: MedGenLogic, on_found: Callable[[], None]) -> None:
        self._logic = logic
        self._on_found = on_found
        self._asked = ""
        self._question: tuple[str, str, dict[str, Any], str | None, dict[str, Any]] | None = None
        self._cases: list[TrainingCase] | None = None
        self._export: CaseExport | None = None
        self.found: dict[str, Any] | None = None
        self.refused = ""
        self.done = False
        # Written once for the nodes as they are: a changed setting asks again about the same files, or the same table.
        self._exported: tuple[str, Any, dict[str, list[str]] | Path] | None = None
        self._poller = Poller(self._on_end)
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(WAIT)
        self._timer.connect("timeout()", self._start)
        self._stepper = qt.QTimer()  # one case at a time: the panel answers between them
        self._stepper.setInterval(0)
        self._stepper.connect("timeout()", self._step)

    def ask(
        self,
        slug: str,
        inputs: dict[str, Any],
        cohort: str | None,
        options: dict[str, Any],
        operation: str = "train",
        cases: list[TrainingCase] | None = None,
        later: bool = False,
    ) -> bool:
        """Ask for the time of an operation, unless the same was asked last; whether it is another question.

        later: the computer is another's. An answer stays only where it is this question's, and nothing begins.
        """
        key = json.dumps([slug, operation, state(inputs), cohort, options, _states(cases)], sort_keys=True)
        if key == self._asked:
            return False
        self.forget()
        if later:
            return True
        self._asked = key
        self._question, self._cases = (slug, operation, inputs, cohort, options), cases
        self._timer.start()
        return True

    def forget(self) -> None:
        """Forget question and answer; a check that runs is ended."""
        self._timer.stop()
        self._stepper.stop()
        self._export = None
        self._poller.drop()
        self._asked, self._question = "", None
        self.found, self.refused, self.done = None, "", False

    def pause(self) -> None:
        """Leave the computer to a run: an answer stays, a question that is still open will be asked again."""
        if not self.done:
            self.forget()

    def drop(self) -> None:
        """Forget everything, with the files that were written."""
        self.forget()
        self._delete_files()

    def _delete_files(self) -> None:
        if self._exported is not None:
            self._exported[1].cleanup()
            self._exported = None

    def _start(self) -> None:
        if self._question is None:
            return
        slug, operation, inputs, cohort, options = self._question
        try:
            files = self._files(slug, operation, inputs)
            if files is None:
                self._stepper.start()
                return
            table, given = (files, {}) if isinstance(files, Path) else (cohort, files)
            run = self._logic.check(slug, operation, given, cohort=table, **options)
        except (MedGenLibError, OSError) as error:
            self._refuse(error)
            return
        self._poller.follow(run)

    def _refuse(self, error: MedGenLibError | OSError) -> None:
        words = plain(error, error.filename or tempfile.gettempdir()) if isinstance(error, OSError) else str(error)
        self.refused, self.done = words, True
        self._on_found()

    def _key(self, slug: str, operation: str, inputs: dict[str, Any]) -> str:
        return json.dumps([slug, operation, state(inputs), _states(self._cases)], sort_keys=True)

    def _files(self, slug: str, operation: str, inputs: dict[str, Any]) -> dict[str, list[str]] | Path | None:
        """The files of the inputs, or the table of the cases; None: cases that have yet to be written."""
        key = self._key(slug, operation, inputs)
        if self._exported is None or self._exported[0] != key:
            self._delete_files()
            if not inputs and self._cases is None:
                return {}
            folder: Any = tempfile.TemporaryDirectory(prefix="medgen-estimate-", ignore_cleanup_errors=True)
            declared = self._logic.operation(slug, operation)[1]
            if self._cases is not None:
                self._exported = "", folder, {}  # no question's answer yet
                self._export = CaseExport(declared, self._cases, Path(folder.name), lambda message: None)
                return None
            files = export_inputs(declared, inputs, Path(folder.name), lambda message: None)
            self._exported = key, folder, files
        return self._exported[2]

    def _step(self) -> None:
        """Write the next case, and after the last one start the check."""
        export = self._export
        if export is None or self._question is None or self._exported is None:
            self._stepper.stop()
            return
        try:
            if export.step():
                return
            self._stepper.stop()
            self._export, table = None, export.finish()
        except (MedGenLibError, OSError) as error:
            self._stepper.stop()
            self._refuse(error)
            return
        self._exported = self._key(*self._question[:3]), self._exported[1], table
        self._start()

    def _on_end(self, run: MedGenRun) -> None:
        self.done = True
        self.found = run.estimate if run.state == "done" else None
        self.refused = run.message if run.exit_code == USER_FAULT else ""
        self._on_found()

    def text(self) -> str:
        """What the panel says."""
        if self.refused:
            return self.refused
        if self.found is None:
            return _("The time cannot be estimated.") if self.done else ""
        where = self.found.get("device")
        words = _("Training takes about {time} on this computer").format(
            time=cards.duration(float(self.found["seconds"]))
        )
        words += f" ({where})." if where else "."
        return "\n".join([words, *map(str, self.found.get("notes", []))])


def _states(cases: list[TrainingCase] | None) -> list[Any] | None:
    """What cases hold, and when it last changed."""
    if cases is None:
        return None
    return [[one.pool, one.subject, one.split, one.task, one.domain, state(one.values)] for one in cases]
