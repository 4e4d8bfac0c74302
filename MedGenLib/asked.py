"""What a run was asked for, as the line of jobs remembers it: it makes the run and, on Retry, another. No Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from MedGenLib import merge
from MedGenLib.jobqueue import Remembered
from MedGenLib.runs import MedGenRun


class Asked:
    """One request. No node is kept alive by it.

    slug, operation, given, options: as for `MedGenLogic.process`. notes: for the log of each try. into: the
    segmentation that the result joins by the rule (`MedGenLib.merge`); None lets it be a node of its own.
    """

    def __init__(
        self,
        logic: Any,
        slug: str,
        operation: str,
        given: dict[str, Any],
        options: dict[str, Any],
        *,
        notes: Sequence[str] = (),
        into: Any = None,
        rule: str = merge.NEW,
    ) -> None:
        self._logic, self._slug, self._operation = logic, slug, operation
        self._inputs = Remembered(given)
        self._options = dict(options)
        cases = self._options.pop("cases", None)
        self._cases = None if cases is None else [(replace(one, values={}), Remembered(one.values)) for one in cases]
        self._notes = list(notes)
        self._into, self._rule = Remembered({} if into is None else {"into": into}), rule

    @property
    def names(self) -> list[str]:
        """The inputs by name: nodes and files, those of cases too, else the table of cases."""
        several = [self._inputs, *(kept for _case, kept in self._cases or [])]
        names = [name for kept in several for name in kept.names]
        cohort = self._options.get("cohort")
        return list(dict.fromkeys(names)) or ([] if cohort is None else [Path(cohort).name])

    def run(self) -> MedGenRun:
        """The run, with its inputs written; it is not started. MedGenLibError as `MedGenLogic.process`."""
        cases = None
        if self._cases is not None:
            cases = [replace(one, values=kept.get()) for one, kept in self._cases]
        run: MedGenRun = self._logic.process(
            self._slug, self._operation, self._inputs.get(), cases=cases, start=False, **self._options
        )
        run.log.extend(self._notes)
        for name in self._into.names:  # as chosen then: the run may begin much later
            node = self._into.left().get("into")
            run.into = merge.Into("" if node is None else node.GetID(), name, self._rule)
        return run

    def again(self) -> MedGenRun:
        """As `run`; but an interrupted training goes on."""
        name = self._options.get("name")
        if self._operation == "train" and name in self._logic.interrupted(self._slug):
            resumed: MedGenRun = self._logic.resume(name, previews=self._options.get("previews"), start=False)
            return resumed
        return self.run()
