"""The room that runs the operation of the section Apply on many cases, and says how each went."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
import slicer.util

from MedGenLib import cases, jobqueue
from MedGenLib.attendant import in_line_tip, tell_of_cases
from MedGenLib.errors import MedGenLibError
from MedGenLib.i18n import _
from MedGenLib.queueroom import give_height
from MedGenLib.rooms import Room
from MedGenLib.sections import fill, form, section, text_label
from MedGenLib.selectors import role_help, role_label

FOLDER, TABLE, HIERARCHY = "folder", "table", "hierarchy"
SOURCES = (FOLDER, TABLE, HIERARCHY)
NAMES_SHOWN = 6


class CaseRoom(Room):
    """What is chosen here stands in the parameter node under keys that begin with "cases"."""

    def __init__(self, panel: Any, layout: Any) -> None:
        super().__init__(panel)
        self.button, inside = section(_("Many cases"), layout, collapsed=True)
        self._make_choices(form(inside))
        self.found_text = text_label()
        inside.addWidget(self.found_text)
        self.start = qt.QPushButton(_("Apply to all"))
        self.start.connect("clicked(bool)", self._on_start)
        inside.addWidget(self.start)
        self.which = qt.QComboBox()
        self.which.setToolTip(_("Whose cases are shown, cancelled, tried again and saved here"))
        self.which.connect("currentIndexChanged(int)", self._on_which)
        inside.addWidget(self.which)
        self.status = text_label()
        inside.addWidget(self.status)
        row = qt.QHBoxLayout()
        self.cancel = qt.QPushButton(_("Cancel all"))
        self.retry = qt.QPushButton(_("Retry failed"))
        self.save = qt.QPushButton(_("Save table…"))
        for button, act in ((self.cancel, self._on_cancel), (self.retry, self._on_retry), (self.save, self._on_save)):
            button.connect("clicked(bool)", act)
            row.addWidget(button)
        inside.addLayout(row)
        self.found: list[cases.Case] = []
        self._problem = ""
        self._found_for: tuple[Any, ...] = ()
        self._patterns_for: tuple[str, str] | None = None
        self._branches: list[int] = []
        self.batches: list[cases.CaseBatch] = []
        self.batch: cases.CaseBatch | None = None
        for known in jobqueue.session().batches:  # the panel was closed meanwhile
            if known.slug in panel.entries:
                self._take(known)
        jobqueue.line().listen(self._on_line)

    def _make_choices(self, rows: Any) -> None:
        self.source = qt.QComboBox()
        fill(self.source, [_("Files of a folder"), _("A table of cases (CSV)"), _("The subject hierarchy")], 0)
        self.source.connect("currentIndexChanged(int)", lambda index: self._write("source", SOURCES[index]))
        self.folder = ctk.ctkPathLineEdit()
        self.folder.filters = ctk.ctkPathLineEdit.Dirs
        self.folder.connect("currentPathChanged(QString)", self._writer("folder"))
        self.patterns = qt.QWidget()
        self._pattern_rows = qt.QFormLayout(self.patterns)
        self._pattern_rows.setContentsMargins(0, 0, 0, 0)
        self.pattern_edits: dict[str, Any] = {}
        self.table = ctk.ctkPathLineEdit()
        self.table.nameFilters = ["*.csv"]
        self.table.connect("currentPathChanged(QString)", self._writer("table"))
        self.branch = qt.QComboBox()
        self.branch.setToolTip(_("Every image under it is a case; every branch where an operation needs more"))
        self.branch.connect("currentIndexChanged(int)", self._on_branch)
        self.into = qt.QComboBox()
        fill(self.into, [_("Load into the scene"), _("Write to a folder, one folder a case")], 0)
        self.into.connect("currentIndexChanged(int)", lambda index: self._write("into", "files" if index else ""))
        self.output = ctk.ctkPathLineEdit()
        self.output.filters = ctk.ctkPathLineEdit.Dirs
        self.output.connect("currentPathChanged(QString)", self._writer("output"))
        self._labels = {
            name: qt.QLabel(text)
            for name, text in (
                ("folder", _("Folder")),
                ("patterns", _("Called")),
                ("table", _("Table")),
                ("branch", _("Under")),
                ("output", _("Into folder")),
            )
        }
        rows.addRow(qt.QLabel(_("Cases from")), self.source)
        for name in ("folder", "patterns", "table", "branch"):
            rows.addRow(self._labels[name], getattr(self, name))
        rows.addRow(qt.QLabel(_("Results")), self.into)
        rows.addRow(self._labels["output"], self.output)

    # --- what is chosen

    def _read(self, key: str) -> str:
        return str(self.panel.parameters().text(f"cases {key}"))

    def _write(self, key: str, text: str) -> None:
        self.panel.parameters().set_text(f"cases {key}", text)

    def _writer(self, key: str) -> Callable[[str], None]:
        def write(text: str) -> None:
            self._write(key, str(text))

        return write

    @property
    def _source(self) -> str:
        return self._read("source") or FOLDER

    def _chosen_patterns(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._read("patterns") or "{}"))
        except (ValueError, TypeError):
            return {}

    def _pattern_writer(self, role: str) -> Callable[[str], None]:
        def write(text: str) -> None:
            self._write("patterns", json.dumps({**self._chosen_patterns(), role: str(text)}, sort_keys=True))

        return write

    def _on_branch(self, index: int) -> None:
        if 0 <= index < len(self._branches):
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
            item = self._branches[index]
            self._write("branch", "" if item == hierarchy.GetSceneItemID() else hierarchy.GetItemName(item))
            self._look_again()

    # --- showing it

    def refresh(self) -> None:
        """Show what is chosen, and the cases that are found there."""
        operation = self.panel.operation
        fits = operation is not None and operation["scope"] == "case"
        self.button.setVisible(fits)
        if not fits:
            return
        source, into_folder = self._source, self._read("into") == "files"
        for widget, index in ((self.source, SOURCES.index(source)), (self.into, int(into_folder))):
            was_blocked = widget.blockSignals(True)
            widget.currentIndex = index
            widget.blockSignals(was_blocked)
        for key in ("folder", "table", "output"):
            edit = getattr(self, key)
            if edit.currentPath != self._read(key):
                edit.currentPath = self._read(key)
        shown = {"folder": source == FOLDER, "patterns": source == FOLDER, "table": source == TABLE}
        shown |= {"branch": source == HIERARCHY, "output": into_folder}
        for name, visible in shown.items():
            getattr(self, name).setVisible(visible)
            self._labels[name].setVisible(visible)
        self._show_patterns(operation)
        if source == HIERARCHY:
            self._show_branches()
        self._find(operation)
        self._show_found(operation)
        self._show_batch()

    def _show_patterns(self, operation: dict[str, Any]) -> None:
        wanted = (self.panel.entry["slug"], operation["name"])
        if wanted != self._patterns_for:
            self._patterns_for = wanted
            while self._pattern_rows.rowCount():
                self._pattern_rows.removeRow(0)
            self.pattern_edits = {}
            for role in operation["inputs"]:
                edit = self.pattern_edits[role["name"]] = qt.QLineEdit()
                alone = role is cases.leading_role(operation)
                edit.placeholderText = _("all images") if alone else f"*_{role['name']}.nii.gz"
                edit.setToolTip(_("What the first * stands for is the case.") + "\n" + role_help(role))
                edit.connect("textChanged(QString)", self._pattern_writer(role["name"]))
                self._pattern_rows.addRow(qt.QLabel(role_label(role)), edit)
        for name, edit in self.pattern_edits.items():
            text = self._chosen_patterns().get(name, "")
            if edit.text != text:
                edit.text = text

    def _show_branches(self) -> None:
        found = cases.branches()
        self._branches = [item for item, _name, _depth in found]
        names = [name for _item, name, _depth in found]
        wanted = self._read("branch")
        texts = ["\u2003" * depth + name for _item, name, depth in found]
        fill(self.branch, texts, names.index(wanted) if wanted in names[1:] else 0)

    def _find(self, operation: dict[str, Any]) -> None:
        keys = [self._read(key) for key in ("source", "folder", "patterns", "table", "branch")]
        wanted = (self.panel.entry["slug"], operation["name"], *keys)
        if wanted == self._found_for and self._source != HIERARCHY:
            return
        self._found_for = wanted
        self.found, self._problem = [], ""
        try:
            if self._source == FOLDER:
                if not self._read("folder"):
                    self._problem = _("Choose a folder.")
                else:
                    patterns = {name: self._chosen_patterns().get(name, "") for name in self.pattern_edits}
                    self.found = cases.from_folder(operation, Path(self._read("folder")), patterns)
            elif self._source == TABLE:
                if not self._read("table"):
                    self._problem = _("Choose a table.")
                else:
                    self.found = cases.from_table(operation, Path(self._read("table")))
            else:
                self.found = cases.from_hierarchy(operation, self._branches[max(0, int(self.branch.currentIndex))])
        except MedGenLibError as error:
            self._problem = str(error)

    def _look_again(self) -> None:
        self._found_for = ()
        self.panel.refresh()

    def _show_found(self, operation: dict[str, Any]) -> None:
        names = [case.name for case in self.found]
        words = [self._problem]
        if names:
            more = _(" and {count} more").format(count=len(names) - NAMES_SHOWN) if len(names) > NAMES_SHOWN else ""
            listed = ", ".join(names[:NAMES_SHOWN]) + more
            words = [_("{count} cases: {names}.").format(count=len(names), names=listed)]
            if len(names) == 1:
                words = [_("1 case: {names}.").format(names=listed)]
        broken = [case for case in self.found if case.problem]
        if broken:
            pattern = _("{count} cannot be run: “{name}”: {problem}")
            words.append(pattern.format(count=len(broken), name=broken[0].name, problem=broken[0].problem))
        self.found_text.text = "\n".join(words)
        give_height(self.found_text, self.button)
        self.found_text.setStyleSheet("color: #9a5b00;" if broken or self._problem else "")
        reason = self._why_not(operation)
        self.start.text = _("{title}: {count} cases").format(title=operation["title"], count=len(names))
        self.start.enabled = not reason
        self.start.setToolTip(reason or in_line_tip(_("Runs the operation on one case after the other")))

    def _why_not(self, operation: dict[str, Any]) -> str:
        if not self.found:
            return self._problem
        if operation["needs_model"] and not self.panel.apply.model.enabled:
            return _("There is no model yet: train one first.")
        if self._read("into") == "files" and not Path(self._read("output") or "/nowhere").is_dir():
            return _("Choose the folder for the results.")
        return ""

    # --- the batch

    def _on_start(self, checked: bool = False) -> None:
        panel, operation = self.panel, self.panel.operation
        if operation is None or not panel._have_packages():
            return
        self._look_again()
        if self._why_not(operation):
            return
        options = panel.run_options(operation)
        if operation["needs_model"]:
            options["model"] = str(panel.apply.model.currentText)
        output = self._read("output") if self._read("into") == "files" else None
        try:
            batch = panel.logic.process_cases(
                panel.entry["slug"], operation["name"], self.found, output=output, **options
            )
        except MedGenLibError as error:
            slicer.util.errorDisplay(str(error), windowTitle="MedGen")
            return
        jobqueue.session().batches.append(batch)
        self._take(batch)
        panel.refresh()

    def _take(self, batch: cases.CaseBatch) -> None:
        self.batch = batch
        self.batches.append(batch)
        batch.on_end = tell_of_cases

    def _on_which(self, index: int) -> None:
        if 0 <= index < len(self.batches):
            self.batch = self.batches[index]
            self._show_batch()

    def _on_line(self, job: jobqueue.QueuedJob | None) -> None:
        if job is None:  # jobs may have been cleared
            self._forget_cleared()
        if job is None or job.owner is self.batch:
            self._show_batch()

    def _forget_cleared(self) -> None:
        """What has left the line is needed no more, but for the batch that is shown."""
        session, there = jobqueue.session(), {id(job.owner) for job in jobqueue.line().jobs}
        gone = [one for one in self.batches if one is not self.batch and id(one) not in there]
        self.batches = [one for one in self.batches if one not in gone]
        session.batches = [one for one in session.batches if one not in gone]

    def _show_which(self, index: int) -> None:
        texts = [f"{number}. {batch.name}" for number, batch in enumerate(self.batches, start=1)]
        shown = [self.which.itemText(row) for row in range(self.which.count)]
        if (texts, index) != (shown, self.which.currentIndex):  # not under an open list
            fill(self.which, texts, index)

    def _show_batch(self) -> None:
        batch = self.batch
        self.which.setVisible(len(self.batches) > 1)
        if batch is not None:
            self._show_which(self.batches.index(batch))
        for widget in (self.status, self.cancel, self.retry, self.save):
            widget.setVisible(batch is not None)
        if batch is None:
            return
        self.status.text = batch.summary() + "."
        give_height(self.status, self.button)
        self.status.setStyleSheet("color: #b02020;" if batch.failed else "")
        for button, ready, why_not in (
            (self.cancel, not batch.finished, _("No case waits or runs.")),
            (self.retry, batch.finished and bool(batch.failed), _("No case has failed, or some still run.")),
            (self.save, any(job.finished for job in batch.jobs), _("No case is over yet.")),
        ):
            button.enabled = bool(ready)
            button.setToolTip("" if ready else why_not)

    def _on_cancel(self, checked: bool = False) -> None:
        if self.batch is not None:
            self.batch.cancel()

    def _on_retry(self, checked: bool = False) -> None:
        if self.batch is not None:
            self.batch.retry_failed()

    def _on_save(self, checked: bool = False) -> None:
        path = qt.QFileDialog.getSaveFileName(None, _("Save table of cases"), "cases.csv", "CSV (*.csv)")
        if not path or self.batch is None:
            return
        try:
            self.batch.save(Path(str(path)))
        except MedGenLibError as error:
            slicer.util.errorDisplay(str(error), windowTitle="MedGen")

    # --- coming and going

    def enter(self) -> None:
        """Files may have come meanwhile."""
        self._found_for = ()

    def cleanup(self) -> None:
        """The panel is closed; its cases go on."""
        jobqueue.line().leave(self._on_line)
