"""The panel's sections: widgets and how they are arranged. What they do is for the panel to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ctk
import qt

from MedGenLib import cards
from MedGenLib.i18n import _
from MedGenLib.selectors import node_selector

MARGINS = (8, 6, 8, 8)
NARROW = 300  # pixels: no narrower does Slicer make its module panel
Clicked = Callable[..., None]


def section(title: str, parent_layout: Any, collapsed: bool = False) -> tuple[Any, Any]:
    """A collapsible section and its layout."""
    button = ctk.ctkCollapsibleButton()
    button.text = title
    layout = qt.QVBoxLayout()
    layout.setContentsMargins(*MARGINS)
    layout.setSpacing(6)
    button.setLayout(layout)
    button.collapsed = collapsed
    parent_layout.addWidget(button)
    return button, layout


def text_label(text: str = "", rich: bool = False) -> Any:
    """A label that wraps."""
    label = qt.QLabel(text)
    label.wordWrap = True
    label.textFormat = qt.Qt.RichText if rich else qt.Qt.PlainText
    return label


def form(layout: Any) -> Any:
    """A form without margins of its own, in a section."""
    rows = qt.QFormLayout()
    rows.setContentsMargins(0, 0, 0, 0)
    layout.addLayout(rows)
    return rows


def fill(combo: Any, texts: list[str], current: int) -> None:
    """Put texts in a combo box, without telling anybody."""
    was_blocked = combo.blockSignals(True)
    combo.clear()
    for text in texts:
        combo.addItem(text)
    combo.currentIndex = current
    combo.blockSignals(was_blocked)


class MethodSection:
    """Which method: grouped by task, with its card."""

    def __init__(self, parent_layout: Any, entries: list[dict[str, Any]], on_choice: Callable[[str], None]) -> None:
        self._on_choice = on_choice
        self.button, layout = section(_("Method"), parent_layout)
        self.combo = qt.QComboBox()
        self.slugs: list[str | None] = []
        group = None
        for entry in entries:
            if group is not None and entry["group"] != group:
                self.combo.insertSeparator(len(self.slugs))
                self.slugs.append(None)
            group = entry["group"]
            self.combo.addItem(f"{group}: {entry['title']}")
            self.slugs.append(entry["slug"])
        self.combo.connect("currentIndexChanged(int)", self._chosen)
        frame = qt.QFrame()
        frame.setFrameShape(qt.QFrame.StyledPanel)
        inside = qt.QVBoxLayout(frame)
        inside.setContentsMargins(8, 8, 8, 8)
        self.card = text_label(rich=True)
        self.card.openExternalLinks = True
        inside.addWidget(self.card)
        layout.addWidget(self.combo)
        layout.addWidget(frame)

    def _chosen(self, index: int) -> None:
        if 0 <= index < len(self.slugs) and self.slugs[index]:
            self._on_choice(str(self.slugs[index]))

    def show(self, entry: dict[str, Any]) -> None:
        """Show a method's card."""
        was_blocked = self.combo.blockSignals(True)
        self.combo.currentIndex = self.slugs.index(entry["slug"])
        self.combo.blockSignals(was_blocked)
        self.card.text = cards.method_card(entry)
        # Nested layouts do not always ask a wrapped label how high it is at its width: say it.
        width = self.card.width if self.card.width > NARROW else NARROW
        self.card.minimumHeight = self.card.heightForWidth(width)


class TrainSection:
    """Where training takes its cases from, what the model is called, the estimated time, Train and Resume."""

    def __init__(self, parent_layout: Any) -> None:
        self.button, layout = section(_("Train"), parent_layout)
        rows = form(layout)
        self.source = qt.QComboBox()
        self.sources: list[str] = []
        self.cohort = ctk.ctkPathLineEdit()
        self.cohort.nameFilters = ["*.csv *.json"]
        self.cohort.setToolTip(
            _("A cohort: one row a case, one column a role; or a collection.json that names several")
        )
        self.name = qt.QLineEdit()
        self.name.setToolTip(_("How the trained model is called: letters, digits, - and _"))
        self._source_label, self._cohort_label = qt.QLabel(_("Learn from")), qt.QLabel(_("Table"))
        rows.addRow(self._source_label, self.source)
        rows.addRow(self._cohort_label, self.cohort)
        rows.addRow(qt.QLabel(_("Name of the model")), self.name)
        self.cases = qt.QVBoxLayout()
        layout.addLayout(self.cases)
        self.estimate = text_label()
        layout.addWidget(self.estimate)
        self.estimate.setVisible(False)
        self.train = qt.QPushButton(_("Train"))
        layout.addWidget(self.train)
        self.interrupted = qt.QWidget()
        row = qt.QHBoxLayout(self.interrupted)
        row.setContentsMargins(0, 0, 0, 0)
        self.interrupted_text = text_label()
        self.resume = qt.QPushButton(_("Resume"))
        self.discard = qt.QPushButton(_("Discard"))
        row.addWidget(self.interrupted_text, 1)
        row.addWidget(self.resume)
        row.addWidget(self.discard)
        layout.addWidget(self.interrupted)

    def show_source(self, source: str, offered: list[str]) -> None:
        """Show where the cases come from, and the path of a table only where it is asked for."""
        names = {
            "nodes": _("The inputs chosen above"),
            "cases": _("Several cases of the scene"),
            "file": _("A table of cases (CSV or collection.json)"),
        }
        self.sources = offered
        fill(self.source, [names[one] for one in offered], offered.index(source))
        self.source.setVisible(len(offered) > 1)
        self._source_label.setVisible(len(offered) > 1)
        self.cohort.setVisible(source == "file")
        self._cohort_label.setVisible(source == "file")


class ApplySection:
    """Which operation, with which model, into which node; Apply."""

    def __init__(self, parent_layout: Any) -> None:
        self.button, layout = section(_("Apply"), parent_layout)
        rows = form(layout)
        self.operation, self._operation_label = qt.QComboBox(), qt.QLabel(_("Operation"))
        self.model, self._model_label = qt.QComboBox(), qt.QLabel(_("Model"))
        self.delete = qt.QToolButton()
        self.delete.text = _("Delete…")
        self.delete.setToolTip(_("Delete this model from the computer"))
        self.models = qt.QWidget()
        chooser = qt.QHBoxLayout(self.models)
        chooser.setContentsMargins(0, 0, 0, 0)
        chooser.addWidget(self.model, 1)
        chooser.addWidget(self.delete)
        self.card, self._card_label = text_label(rich=True), qt.QLabel("")
        self.card.setStyleSheet("color: #555555;")
        self.cohort, self._cohort_label = ctk.ctkPathLineEdit(), qt.QLabel(_("Table"))
        self.frames, self._frames_label = qt.QComboBox(), qt.QLabel(_("Frames"))
        fill(self.frames, [_("Current frame"), _("All frames")], 0)
        self.frames.setToolTip(_("All frames: one run a frame; the results play in the browser of the image."))
        self.output = node_selector(["vtkMRMLSegmentationNode"], _("Create new segmentation"))
        self.output.setToolTip(_("Results are new segments, here or in a new segmentation; nothing is overwritten."))
        self.new_output, self._output_label = qt.QLabel(_("Create new")), qt.QLabel(_("Result"))
        outputs = qt.QWidget()
        self.result_rows = qt.QVBoxLayout(outputs)
        self.result_rows.setContentsMargins(0, 0, 0, 0)
        self.result_rows.addWidget(self.output)
        self.result_rows.addWidget(self.new_output)
        rows.addRow(self._operation_label, self.operation)
        rows.addRow(self._model_label, self.models)
        rows.addRow(self._card_label, self.card)
        rows.addRow(self._cohort_label, self.cohort)
        rows.addRow(self._frames_label, self.frames)
        rows.addRow(self._output_label, outputs)
        self.apply = qt.QPushButton(_("Apply"))
        layout.addWidget(self.apply)

    def show_operation(self, operation: dict[str, Any], alone: bool, has_model: bool, frames: str | None) -> None:
        """Show what an operation asks for. frames: "current", "all", or None for images that are no sequence."""
        for widget in (self.operation, self._operation_label):
            widget.setVisible(not alone)
        for widget in (self.models, self._model_label):
            widget.setVisible(operation["needs_model"])
        for widget in (self.card, self._card_label):
            widget.setVisible(operation["needs_model"] and has_model)
        for widget in (self.cohort, self._cohort_label):
            widget.setVisible(operation["scope"] == "collection")
        for widget in (self.frames, self._frames_label):
            widget.setVisible(frames is not None)
        was_blocked = self.frames.blockSignals(True)
        self.frames.currentIndex = 1 if frames == "all" else 0
        self.frames.blockSignals(was_blocked)
        into_segmentation = gives_one_mask(operation) and frames != "all"
        self.output.setVisible(into_segmentation)
        self.new_output.setVisible(not into_segmentation)
        names = ", ".join(str(role["name"]) for role in operation["outputs"])
        self.new_output.text = _("Create new: {names}").format(names=names)
        self.button.text = operation["title"]
        self.apply.text = operation["title"]


def gives_one_mask(operation: dict[str, Any]) -> bool:
    """Whether the result can go into a segmentation that is there already."""
    outputs = operation["outputs"]
    return len(outputs) == 1 and outputs[0]["kind"] == "Mask" and not outputs[0]["many"]


class RunSection:
    """How a run goes: stage and time left, Cancel, what it said."""

    def __init__(self, parent_layout: Any) -> None:
        self.button, layout = section(_("Progress"), parent_layout)
        self.status = text_label(_("Ready."))
        layout.addWidget(self.status)
        row = qt.QHBoxLayout()
        self.bar = qt.QProgressBar()
        self.bar.setRange(0, 1)
        self.bar.value = 0
        self.bar.textVisible = False
        self.cancel = qt.QPushButton(_("Cancel"))
        row.addWidget(self.bar, 1)
        row.addWidget(self.cancel)
        layout.addLayout(row)
        self.log = qt.QPlainTextEdit()
        self.log.readOnly = True
        self.log.placeholderText = _("What the run says appears here.")
        self.log.setFixedHeight(90)
        layout.addWidget(self.log)
        self.copy = qt.QPushButton(_("Copy log"))
        below = qt.QHBoxLayout()
        below.addStretch(1)
        below.addWidget(self.copy)
        layout.addLayout(below)
        self.copy.connect("clicked(bool)", self._copy)

    def _copy(self, checked: bool = False) -> None:
        qt.QApplication.clipboard().setText(self.log.plainText)

    def begin(self, title: str) -> None:
        """A run starts: the bar moves without knowing how far."""
        self.say(_("{title}: starting…").format(title=title))
        self.bar.setRange(0, 0)
        self.log.clear()

    def progress(self, title: str, event: dict[str, Any]) -> None:
        """How far a stage is."""
        self.bar.setRange(0, max(1, int(event["total"])))
        self.bar.value = int(event["done"])
        left = event.get("seconds_left")
        words = _("{title}: {stage}").format(title=title, stage=str(event["stage"]).replace("_", " "))
        if left is not None and event["done"] < event["total"]:
            words += _(", about {time} left").format(time=cards.duration(left))
        self.say(words)

    def end(self, message: str, failed: bool = False) -> None:
        """A run is over."""
        self.bar.setRange(0, 1)
        self.bar.value = 0 if failed else 1
        self.say(message, failed)

    def say(self, message: str, failed: bool = False) -> None:
        """Say how it goes; red only what failed."""
        self.status.text = message
        self.status.setStyleSheet("color: #b02020;" if failed else "")
