"""The section on the installation: the doctor's report, made in a process of its own, to be read and copied."""

from __future__ import annotations

from typing import Any

import qt

from MedGenLib.background import Task
from MedGenLib.errors import MedGenLibError
from MedGenLib.i18n import _
from MedGenLib.modelsroom import ModelsRoom
from MedGenLib.polling import Poller
from MedGenLib.rooms import Room
from MedGenLib.sections import section, text_label


class DoctorRoom(Room):
    """Folded until somebody wants to know."""

    def __init__(self, panel: Any, layout: Any, models: ModelsRoom) -> None:
        super().__init__(panel)
        self.models = models
        self.poller = Poller(self._on_end)
        self.button, inner = section(_("Installation"), layout, collapsed=True)
        self.button.connect("contentsCollapsed(bool)", self._on_fold)
        self.summary = text_label()
        self.report = qt.QPlainTextEdit()
        self.report.readOnly = True
        self.report.setFixedHeight(150)
        self.report.placeholderText = _("Versions, torch, GPU, disk, conflicts and models of this computer.")
        inner.addWidget(self.summary)
        inner.addWidget(self.report)
        row = qt.QHBoxLayout()
        self.examine = qt.QPushButton(_("Examine"))
        self.copy = qt.QPushButton(_("Copy report"))
        self.copy.setToolTip(_("It names no patient, no user and no model."))
        self.import_model = qt.QPushButton(_("Import a model…"))
        self.import_model.setToolTip(_("From a zip file, or the medgen.json of a model's folder; no network is asked."))
        for button, do in (
            (self.examine, self._on_examine),
            (self.copy, self._on_copy),
            (self.import_model, self._on_import),
        ):
            button.connect("clicked(bool)", do)
            row.addWidget(button)
        inner.addLayout(row)
        self.copy.enabled = False

    def cleanup(self) -> None:
        """Nothing goes on running."""
        self.poller.drop()

    def _on_fold(self, collapsed: bool) -> None:
        if not collapsed and not self.report.plainText and not self.poller.busy:
            self._on_examine()

    def _on_examine(self, checked: bool = False) -> None:
        if self.poller.busy:
            return
        try:
            task = Task(["doctor"], _("The examination")).start()
        except MedGenLibError as error:
            self._say(str(error), failed=True)
            return
        self.examine.enabled = False
        self._say(_("Examining… Slicer can be used meanwhile."))
        self.poller.follow(task)

    def _on_end(self, task: Any) -> None:
        self.examine.enabled = True
        if task.state != "done" or not task.reports:
            self._say(task.message or _("The examination gave no report."), failed=True)
            return
        found = task.reports[-1]
        self.report.plainText = str(found["text"])
        self.copy.enabled = True
        words = _("All is well.") if found["ok"] else _("Something needs mending: see the end of the report.")
        self._say(words, failed=not found["ok"])

    def _say(self, words: str, failed: bool = False) -> None:
        self.summary.text = words
        self.summary.setStyleSheet("color: #b02020;" if failed else "")

    def _on_copy(self, checked: bool = False) -> None:
        qt.QApplication.clipboard().setText(self.report.plainText)
        self._say(_("The report is on the clipboard."))

    def _on_import(self, checked: bool = False) -> None:
        self.models.button.collapsed = False
        self.models.import_zip.click()
