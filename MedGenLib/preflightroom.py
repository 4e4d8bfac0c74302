"""The section of checks before Apply: a sentence each, with a button that mends what can be mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
import slicer.util

from MedGenLib import jobqueue, preflight
from MedGenLib.cards import model_name
from MedGenLib.errors import MedGenLibError, plain
from MedGenLib.estimate import Estimator
from MedGenLib.i18n import _
from MedGenLib.imagefacts import facts_of
from MedGenLib.logic import missing_inputs
from MedGenLib.plan import as_list
from MedGenLib.preflight import AMBER, GREEN, RED, Finding, Question, Remedy
from MedGenLib.rooms import Room
from MedGenLib.sections import section, text_label

SMALL = 64 * 2**20  # bytes of voxels that are written for a background check without being asked
_MARKS = {GREEN: ("✓", "#1e7d32"), AMBER: ("!", "#b36b00"), RED: ("✕", "#b02020")}


class PreflightRoom(Room):
    """What speaks for and against the run that Apply would start. Red keeps Apply closed."""

    def __init__(self, panel: Any, layout: Any) -> None:
        super().__init__(panel)
        self.findings: dict[str, list[Finding]] = {}  # by operation: the one of Apply, and train
        self.buttons: list[Any] = []
        self.estimator = Estimator(panel.logic, self._on_found)
        self._wanted = ""  # the large images that a check was asked for by hand
        self._active = self._built = False
        self.button, inner = section(_("Checks"), layout)
        row = qt.QHBoxLayout()
        self.summary = text_label()
        self.all = qt.QToolButton()
        self.all.text = _("Show all")
        self.all.checkable = True
        self.all.connect("toggled(bool)", self._on_show_all)
        row.addWidget(self.summary, 1)
        row.addWidget(self.all)
        inner.addLayout(row)
        self.rows = qt.QWidget()
        self._rows = qt.QVBoxLayout(self.rows)
        self._rows.setContentsMargins(0, 0, 0, 0)
        self._shown: list[Any] = []
        inner.addWidget(self.rows)

    # --- what the panel tells

    def refresh(self) -> None:
        """Look again at what is chosen."""
        operation = self.panel.operation
        looked_at = [one for one in (self.panel.training, operation) if one is not None]
        self.button.setVisible(bool(looked_at))
        if operation is not None:
            self._ask(operation)
        found = {one["name"]: self.look(one) for one in looked_at}
        if found != self.findings or not self._built:
            self.findings, self._built = found, True
            self._show()

    def objection(self, operation: dict[str, Any]) -> str:
        """The first red sentence on what an operation would run with."""
        return preflight.objection(self.findings.get(operation["name"], []))

    def run_started(self, run: Any) -> None:
        """The computer is the run's."""
        self.estimator.pause()

    def enter(self) -> None:
        """Seen again: a question left open is asked again."""
        self._active = True

    def exit(self) -> None:
        """Nobody looks."""
        self._active = False
        self.estimator.pause()

    def cleanup(self) -> None:
        """Nothing goes on running."""
        self._active = False
        self.estimator.drop()

    # --- looking

    def look(self, operation: dict[str, Any]) -> list[Finding]:
        """What there is to say now; of a training only what speaks against it, as Train says the rest."""
        trains = operation is self.panel.training
        if self._from_nodes(operation) and missing_inputs(operation, self.panel.inputs(operation)):
            return []
        found = preflight.examine(self._question(operation, trains))
        return [one for one in found if one.level != GREEN] if trains else found

    def _from_nodes(self, operation: dict[str, Any]) -> bool:
        """Whether it takes the chosen nodes; of a table and of several cases only the estimate knows anything."""
        if operation is self.panel.training:
            return bool(self.panel.trains_from_nodes())
        return bool(operation["scope"] != "collection")

    def _question(self, operation: dict[str, Any], trains: bool) -> Question:
        form = self.panel.settings.forms.get(operation["name"])
        options = self.panel.run_options(operation)
        settings = {**(form.values(self.panel.tier) if form else {}), **options["settings"]}
        asked = self.panel.estimator if trains else self.estimator
        return Question(
            operation,
            self.panel.inputs(operation) if self._from_nodes(operation) else {},
            None if trains else self.record(operation),
            options["device"],
            settings,
            asked.found if asked.done else None,
            asked.refused if asked.done and not trains else "",
        )

    def shown(self) -> list[Finding]:
        """Findings of every operation, each sentence once, the red ones first."""
        found = {one.words: one for name in self.findings for one in self.findings[name]}
        order = (RED, AMBER, GREEN)
        return sorted(found.values(), key=lambda one: order.index(one.level))

    def record(self, operation: dict[str, Any]) -> dict[str, Any] | None:
        """The record of the model that would be used: the chosen one, else the newest."""
        records = self.panel.models()[0] if operation["needs_model"] else []
        chosen = self.panel.parameters().text("model")
        return next((one for one in records if model_name(one) == chosen), records[0] if records else None)

    def _ask(self, operation: dict[str, Any]) -> None:
        """Start a check in the background when what it depends on has changed, and it costs little to begin."""
        panel, record = self.panel, self.record(operation)
        given = panel.inputs(operation) if self._from_nodes(operation) else {}
        cohort = None if self._from_nodes(operation) else panel.parameters().text("apply cohort")
        unready = cohort == "" or (cohort is None and missing_inputs(operation, given))
        if unready or (operation["needs_model"] and record is None) or not self._may_write(given):
            self.estimator.forget()
            return
        later = not self._active or jobqueue.line().busy or panel.lacks_packages
        options = {**panel.run_options(operation), "model": None if record is None else record["folder"]}
        self.estimator.ask(panel.entry["slug"], given, cohort, options, operation["name"], later=later)

    def _may_write(self, given: dict[str, Any]) -> bool:
        """Whether writing the images for a check goes unnoticed, or was asked for."""
        return not self.large(given) or self._wanted == self._key(given)

    def large(self, given: dict[str, Any]) -> bool:
        """Whether writing the images for a check would make itself felt."""
        nodes = [node for value in given.values() for node in as_list(value) if hasattr(node, "GetImageData")]
        return sum(facts.bytes for facts in map(facts_of, nodes) if facts is not None) > SMALL

    def _key(self, given: dict[str, Any]) -> str:
        return " ".join(node.GetID() for value in given.values() for node in as_list(value) if hasattr(node, "GetID"))

    def _on_found(self) -> None:
        self.refresh()
        self.panel.show_what_is_possible()

    # --- showing

    def _on_show_all(self, checked: bool = False) -> None:
        self._show()

    def _show(self) -> None:
        """Rows for what is amber or red, for everything where that is asked for."""
        for old in self._shown:
            self._rows.removeWidget(old)
            old.hide()
            old.deleteLater()
        self._shown, self.buttons = [], []
        found = self.shown()
        worst = next((level for level in (RED, AMBER) if any(one.level == level for one in found)), GREEN)
        self.summary.text = _summary(found, worst)
        self.summary.setStyleSheet(f"color: {_MARKS[worst][1]};" if found else "")
        self.all.setVisible(any(one.level == GREEN for one in found))
        for finding in found:
            if finding.level != GREEN or self.all.checked:
                self._add(self._row(finding.level, finding.words, [self._press(one) for one in finding.remedies]))
        if self._waits_to_be_asked():
            words = _("Time and memory are not estimated by themselves for images as large as these.")
            self._add(self._row(GREEN, words, [(_("Estimate"), words, self._on_estimate)]))
        self.rows.setVisible(bool(self._shown))

    def _waits_to_be_asked(self) -> bool:
        operation = self.panel.operation
        if operation is None or operation["scope"] == "collection":
            return False
        given = self.panel.inputs(operation)
        if missing_inputs(operation, given) or (operation["needs_model"] and self.record(operation) is None):
            return False
        return not self._may_write(given)

    def _add(self, row: Any) -> None:
        self._rows.addWidget(row)
        self._shown.append(row)

    def _row(self, level: str, words: str, presses: list[tuple[str, str, Callable[..., None]]]) -> Any:
        mark, colour = _MARKS[level]
        row = qt.QWidget()
        layout = qt.QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        sign = qt.QLabel(mark)
        sign.setStyleSheet(f"color: {colour}; font-weight: bold;")
        sign.setFixedWidth(14)
        text = text_label(words)
        layout.addWidget(sign)
        layout.addWidget(text, 1)
        column = qt.QVBoxLayout()
        column.setSpacing(2)
        for label, tip, do in presses:
            button = qt.QPushButton(label)
            button.setToolTip(tip)
            button.connect("clicked(bool)", do)
            column.addWidget(button)
            self.buttons.append(button)
        layout.addLayout(column)
        return row

    # --- mending

    def _press(self, remedy: Remedy) -> tuple[str, str, Callable[..., None]]:
        def press(checked: bool = False) -> None:
            self.mend(remedy)

        return remedy.label, remedy.help, press

    def mend(self, remedy: Remedy) -> None:
        """Do what a button says; an error is one sentence."""
        failed = ""
        slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            remedy.do(self.panel.parameters())
        except MedGenLibError as error:
            failed = str(error)
        except OSError as error:
            failed = plain(error, error.filename or _("The temporary folder"))
        finally:
            slicer.app.restoreOverrideCursor()
        if failed:
            slicer.util.errorDisplay(failed, windowTitle="MedGen")

    def _on_estimate(self, checked: bool = False) -> None:
        operation = self.panel.operation
        if operation is not None:
            self._wanted = self._key(self.panel.inputs(operation))
            self.refresh()
            self._show()


def _summary(found: list[Finding], worst: str) -> str:
    if not found:
        return _("Checked as soon as the inputs are chosen.")
    counts = {level: sum(one.level == level for one in found) for level in (RED, AMBER, GREEN)}
    if worst == GREEN:
        return _("All {n} checks passed.").format(n=counts[GREEN])
    words = [_("{n} to mend first").format(n=counts[RED])] if counts[RED] else []
    words += [_("{n} to think about").format(n=counts[AMBER])] if counts[AMBER] else []
    words += [_("{n} passed").format(n=counts[GREEN])] if counts[GREEN] else []
    return ", ".join(words) + "."
