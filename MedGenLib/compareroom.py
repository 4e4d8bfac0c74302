"""Compare: two results, or a result and a reference; side by side, as a difference map, and in numbers."""

from __future__ import annotations

import html
import math
import threading
from typing import Any

import qt
import slicer

from MedGenLib import compare, provenance
from MedGenLib.compareviews import Alone, SideBySide
from MedGenLib.errors import MedGenLibError
from MedGenLib.i18n import _
from MedGenLib.rooms import Room
from MedGenLib.scratch import node_ids
from MedGenLib.sections import NARROW, form, section, text_label
from MedGenLib.selectors import node_selector
from MedGenLib.takeback import history

_ROWS = 12  # shown in the panel; the table node has all


class CompareRoom(Room):
    """The section “Compare”. The numbers are computed in a thread and followed by a timer."""

    def __init__(self, panel: Any, layout: Any) -> None:
        super().__init__(panel)
        self.button, inside = section(_("Compare"), layout, collapsed=True)
        rows = form(inside)
        classes = [name for names in compare.KINDS.values() for name in names]
        self.first, self.second = node_selector(classes, _("None")), node_selector(classes, _("None"))
        self.first.setToolTip(_("A result: volume, segmentation or point list"))
        self.second.setToolTip(_("Another result, or the reference; it is brought onto the first one's grid"))
        for selector in (self.first, self.second):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self._on_choice)
        rows.addRow(qt.QLabel(_("This")), self.first)
        rows.addRow(qt.QLabel(_("With")), self.second)
        line = qt.QHBoxLayout()
        self.compare, self.side = qt.QPushButton(_("Compare")), qt.QPushButton(_("Side by side"))
        self.compare.connect("clicked(bool)", self._on_compare)
        self.side.checkable = True
        self.side.connect("toggled(bool)", self._on_side)
        line.addWidget(self.compare, 1)
        line.addWidget(self.side, 1)
        inside.addLayout(line)
        self.map = qt.QPushButton(_("Show the difference alone"))
        self.map.checkable = True
        self.map.connect("toggled(bool)", self._on_map)
        inside.addWidget(self.map)
        self.numbers = text_label(rich=True)
        inside.addWidget(self.numbers)
        self.numbers.setVisible(False)
        self.views, self.alone = SideBySide(), Alone()
        self.nodes: dict[str, Any] = {}
        self._case: compare.Case | None = None
        self._found: compare.Found | BaseException | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(50)
        self._timer.connect("timeout()", self._tick)
        self._show_what_is_possible()

    @property
    def busy(self) -> bool:
        """Whether numbers are being computed."""
        return self._case is not None

    def run_ended(self, run: Any) -> None:
        """A new result is what a person would compare."""
        outputs = provenance.outputs_of_run(run.context.get("run", "")) if run.state == "done" else []
        fitting = [one.node for one in outputs if compare.kind_of(one.node)]
        if fitting and fitting[0] is not self.second.currentNode():
            self.first.setCurrentNode(fitting[0])

    def _on_choice(self, node: Any = None) -> None:
        self._show_what_is_possible()

    def refresh(self) -> None:
        """Nodes may have come or gone."""
        self._show_what_is_possible()

    def _show_what_is_possible(self) -> None:
        words = compare.why_not(self.first.currentNode(), self.second.currentNode())
        self.compare.enabled = not words and not self.busy
        self.compare.setToolTip(words or _("Numbers, a table and a difference map"))
        self.side.enabled = not words or self.views.shown
        self.side.setToolTip(words or _("Both in linked slice views; press again to go back"))
        difference = self.nodes.get("difference")
        self.map.setVisible(difference is not None and difference.GetScene() is not None)

    # --- views

    def _on_side(self, shown: bool) -> None:
        if not shown:
            self.views.restore()
        else:
            first, second = self.first.currentNode(), self.second.currentNode()
            self.views.show(first, second, self._background(first) or self._background(second))
        self.side.text = _("Back to the views of before") if self.views.shown else _("Side by side")
        self._show_what_is_possible()

    def _on_map(self, shown: bool) -> None:
        difference = self.nodes.get("difference")
        if shown and difference is not None:
            pair = [self.first.currentNode(), self.second.currentNode()]
            self.alone.show(difference, [node for node in pair if node is not None])
        else:
            self.alone.restore()
        self.map.text = _("Hide the difference") if self.alone.shown else _("Show the difference alone")

    def _background(self, node: Any) -> Any:
        """The volume that a segmentation was drawn on, or that a result was made from."""
        if node.IsA("vtkMRMLSegmentationNode"):
            found = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
            if found is not None:
                return found
        for one in provenance.record_of(node).get("inputs", []):
            found = slicer.mrmlScene.GetNodeByID(one.get("node", ""))
            if found is not None and found.IsA("vtkMRMLVolumeNode"):
                return found
        return None

    # --- numbers

    def _on_compare(self, checked: bool = False) -> None:
        slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
        failed = ""
        try:
            self._case = compare.read(self.first.currentNode(), self.second.currentNode())
        except MedGenLibError as error:
            failed = str(error)
        finally:
            slicer.app.restoreOverrideCursor()
        if failed:
            self._say(html.escape(failed))
            return
        self._found = None
        self._say(_("Comparing…"))
        threading.Thread(target=self._measure, args=(self._case,), daemon=True, name="medgen-compare").start()
        self._timer.start()
        self._show_what_is_possible()

    def _measure(self, case: compare.Case) -> None:
        try:
            self._found = compare.measure(case)
        except BaseException as error:  # told on the main thread
            self._found = error

    def _tick(self) -> None:
        case, found = self._case, self._found
        if case is None or found is None:
            return
        self._timer.stop()
        self._case = None
        self.map.checked = False
        if isinstance(found, compare.Found):
            before = set(node_ids(slicer.mrmlScene))
            self.nodes = compare.publish(case, found)
            history.remember(_("Compare"), [one for one in node_ids(slicer.mrmlScene) if one not in before])
            self._say(self._text(case, found))
        else:
            words = _("The comparison failed ({error}); see the Python console.")
            self._say(html.escape(words.format(error=type(found).__name__)))
        self.panel.refresh()

    def _text(self, case: compare.Case, found: compare.Found) -> str:
        head = "".join(f"<th align='left'>{html.escape(title)}&nbsp;&nbsp;</th>" for title in found.columns)
        lines = [
            "<tr>" + "".join(f"<td>{html.escape(_cell(value))}&nbsp;&nbsp;</td>" for value in row) + "</tr>"
            for row in found.rows[:_ROWS]
        ]
        more = len(found.rows) - _ROWS
        notes = [*case.notes, *([_("{count} more in the table.").format(count=more)] if more > 0 else [])]
        names = ", ".join(f"“{node.GetName()}”" for node in self.nodes.values())
        notes.append(_("New in the scene: {names}.").format(names=names))
        below = "<br>".join(html.escape(note) for note in notes)
        table = f"<table><tr>{head}</tr>{''.join(lines)}</table>"
        return f"<p>{html.escape(found.headline)}</p>{table}<p>{below}</p>"

    def _say(self, text: str) -> None:
        self.numbers.text = text
        self.numbers.setVisible(True)
        # Nested layouts do not always ask a wrapped label how high it is at its width: say it.
        self.numbers.minimumHeight = self.numbers.heightForWidth(max(self.numbers.width, NARROW))

    def cleanup(self) -> None:
        """Nothing goes on."""
        self._timer.stop()
        self._case = None
        self.views.restore()
        self.alone.restore()


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "–" if math.isnan(value) else f"{value:.4g}"
