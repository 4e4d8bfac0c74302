"""The room that shows the line of jobs: what waits, runs and is over; cancel, retry and log of each."""

from __future__ import annotations

from typing import Any

import qt

from MedGenLib import cards, jobqueue
from MedGenLib.i18n import _
from MedGenLib.jobqueue import CANCELLED, DONE, FAILED, RUNNING, WAITING, QueuedJob
from MedGenLib.rooms import Room
from MedGenLib.sections import MARGINS, NARROW, section, text_label

COLUMN_JOB, COLUMN_INPUT, COLUMN_STATE, COLUMN_LEFT = range(4)
ROWS_SHOWN = 6
HEADER, TWO_LINES = 32, 36  # pixels


def state_text(job: QueuedJob) -> str:
    """How a job stands, as a person reads it."""
    names = {
        WAITING: _("Waiting"),
        RUNNING: _("Running"),
        DONE: _("Done"),
        FAILED: _("Failed"),
        CANCELLED: _("Cancelled"),
    }
    words = names[job.state]
    if job.state == RUNNING and job.progress is not None and job.progress["total"]:
        words += _(", {percent} %").format(percent=round(100 * job.progress["done"] / job.progress["total"]))
    return words


def give_height(label: Any, around: Any) -> None:
    """Nested layouts do not always ask a wrapped label how high it is at the width of the section around it: say it."""
    width = max(NARROW, around.width - MARGINS[0] - MARGINS[2])
    label.minimumHeight = label.heightForWidth(width) if label.text else 0


class QueueRoom(Room):
    """Made for one panel; shows the line of the whole session. Hidden while the line is empty."""

    def __init__(self, panel: Any, layout: Any) -> None:
        super().__init__(panel)
        self.button, inside = section(_("Jobs"), layout)
        self.summary = text_label()
        inside.addWidget(self.summary)
        self.table = self._make_table()
        inside.addWidget(self.table)
        self.message = text_label()
        self.message.minimumHeight = TWO_LINES
        inside.addWidget(self.message)
        inside.addLayout(self._make_buttons())
        self.log = qt.QPlainTextEdit()
        self.log.readOnly = True
        self.log.setFixedHeight(110)
        self.copy = qt.QPushButton(_("Copy log"))
        self.copy.connect("clicked(bool)", self._on_copy)
        inside.addWidget(self.log)
        below = qt.QHBoxLayout()
        self._at_once_label = qt.QLabel(_("At once"))
        self.at_once = qt.QSpinBox()
        self.at_once.minimum, self.at_once.maximum = 1, 8
        self.at_once.setToolTip(_("How many jobs run at the same time; each needs its own memory"))
        self.at_once.connect("valueChanged(int)", self._on_at_once)
        below.addWidget(self._at_once_label)
        below.addWidget(self.at_once)
        below.addStretch(1)
        below.addWidget(self.copy)
        inside.addLayout(below)
        self._jobs: list[QueuedJob] = []
        self._shown: list[tuple[str, ...]] = []  # texts, tooltip and colour of each row
        self._was_busy = (False, False)
        jobqueue.line().listen(self._on_line)
        self._show()

    def _make_table(self) -> Any:
        table = qt.QTableWidget(0, 4)
        table.setHorizontalHeaderLabels([_("Job"), _("Input"), _("State"), _("Time left")])
        header = table.horizontalHeader()
        header.setSectionResizeMode(COLUMN_INPUT, qt.QHeaderView.Stretch)
        for column in (COLUMN_JOB, COLUMN_STATE, COLUMN_LEFT):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        header.setResizeContentsPrecision(0)  # else each text that changes has Qt measure hundreds of rows
        table.verticalHeader().setVisible(False)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        table.setWordWrap(False)
        table.connect("itemSelectionChanged()", self._show_chosen)
        return table

    def _make_buttons(self) -> Any:
        row = qt.QHBoxLayout()
        self.cancel = qt.QPushButton(_("Cancel"))
        self.retry = qt.QPushButton(_("Retry"))
        self.show_log = qt.QPushButton(_("Log"))
        self.show_log.checkable = True
        self.clear = qt.QPushButton(_("Clear finished"))
        self.cancel.connect("clicked(bool)", self._on_cancel)
        self.retry.connect("clicked(bool)", self._on_retry)
        self.show_log.connect("toggled(bool)", self._show_chosen)
        self.clear.connect("clicked(bool)", self._on_clear)
        for button in (self.cancel, self.retry, self.show_log, self.clear):
            row.addWidget(button)
        return row

    # --- showing it

    def refresh(self) -> None:
        """The line may have been changed by another panel."""
        self._show()

    def _on_line(self, job: QueuedJob | None) -> None:
        self._show(job)
        busy = (jobqueue.line().busy, self.panel.poller.busy)
        if busy != self._was_busy:  # what the buttons of the panel say depends on it
            self._was_busy = busy
            self.panel.refresh_if_settled()

    def _show(self, changed: QueuedJob | None = None) -> None:
        """All rows; only that of `changed` where the others are as they were."""
        line = jobqueue.line()
        jobs = line.jobs
        self.button.setVisible(bool(jobs))
        same = jobs == self._jobs
        if not same:
            self._give_rows(jobs)
        for row, job in enumerate(jobs):
            # What has ended tells how long those that wait will take.
            if job is changed or not same or changed is None or (changed.finished and not job.finished):
                self._show_row(row, job, line)
        self._show_summary(line)
        self._show_chosen()

    def _give_rows(self, jobs: list[QueuedJob]) -> None:
        """A row a job, empty where it is new; the chosen job stays chosen."""
        chosen, before = self.chosen, len(self._shown)
        self._jobs = jobs
        was_blocked = self.table.blockSignals(True)
        self.table.setRowCount(len(jobs))
        self._shown = self._shown[: len(jobs)] + [()] * (len(jobs) - before)
        for row in range(before, len(jobs)):
            for column in range(4):
                self.table.setItem(row, column, qt.QTableWidgetItem(""))
        self.table.clearSelection()
        if chosen in jobs:
            self.table.selectRow(jobs.index(chosen))
        self.table.blockSignals(was_blocked)
        height = self.table.verticalHeader().defaultSectionSize * min(len(jobs), ROWS_SHOWN)
        self.table.setFixedHeight(height + HEADER)

    def _show_row(self, row: int, job: QueuedJob, line: jobqueue.JobLine) -> None:
        left = line.seconds_left(job)
        time = "" if left is None else cards.duration(left)
        tip = job.message or (str(job.progress["stage"]).replace("_", " ") if job.progress else "")
        texts = (job.title, ", ".join(job.names), state_text(job), time)
        colour = {FAILED: "#b02020", CANCELLED: "#777777"}.get(job.state, "#000000")
        if self._shown[row] == (*texts, tip, colour):
            return
        self._shown[row] = (*texts, tip, colour)
        for column, text in enumerate(texts):
            item = self.table.item(row, column)
            if item.text() != text:
                item.setText(text)
            item.setToolTip(tip or text)
        self.table.item(row, COLUMN_STATE).setForeground(qt.QBrush(qt.QColor(colour)))

    def _show_summary(self, line: jobqueue.JobLine) -> None:
        count = len(line.unfinished)
        if not count:
            self.summary.text = _("All jobs are over.")
            return
        seconds, complete = line.total_left()
        words = _("{count} to do").format(count=count)
        if seconds:
            pattern = _("{words}, about {time} left.") if complete else _("{words}, at least {time} left.")
            self.summary.text = pattern.format(words=words, time=cards.duration(seconds))
        else:
            self.summary.text = words + "."

    @property
    def chosen(self) -> QueuedJob | None:
        """The job whose row is chosen."""
        rows = self.table.selectionModel().selectedRows()
        return self._jobs[rows[0].row()] if rows and rows[0].row() < len(self._jobs) else None

    def _show_chosen(self, checked: bool = False) -> None:
        job = self.chosen
        self.message.text = job.message if job is not None else _("Choose a job to see more of it.")
        unfinished = job is not None and not job.finished
        for button, ready, why_not in (
            (self.cancel, unfinished, _("Choose a job that waits or runs.")),
            (self.retry, job is not None and job.can_retry, _("Choose a job that failed or was cancelled.")),
            (self.show_log, job is not None, _("Choose a job.")),
            (self.clear, any(one.finished for one in self._jobs), _("No job is over yet.")),
        ):
            button.enabled = bool(ready)
            button.setToolTip("" if ready else why_not)
        shown = bool(self.show_log.checked and job is not None)
        self.log.setVisible(shown)
        self.copy.setVisible(shown)
        if shown and job is not None:
            text = "\n".join(job.log)
            if self.log.plainText != text:
                self.log.plainText = text
        was_blocked = self.at_once.blockSignals(True)
        self.at_once.value = jobqueue.line().at_once
        self.at_once.blockSignals(was_blocked)

    # --- what a person does

    def _on_cancel(self, checked: bool = False) -> None:
        if self.chosen is not None:
            jobqueue.line().cancel(self.chosen)

    def _on_retry(self, checked: bool = False) -> None:
        if self.chosen is not None:
            jobqueue.line().retry(self.chosen)

    def _on_clear(self, checked: bool = False) -> None:
        jobqueue.line().clear_finished()

    def _on_at_once(self, count: int) -> None:
        jobqueue.line().at_once = count

    def _on_copy(self, checked: bool = False) -> None:
        qt.QApplication.clipboard().setText(self.log.plainText)

    def cleanup(self) -> None:
        """The panel is closed."""
        jobqueue.line().leave(self._on_line)
