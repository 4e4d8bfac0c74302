"""What the last run gave: show it, go through what is uncertain, take it back, repeat it, say how it came to be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util

from MedGenLib import again, halos, provenance, results
from MedGenLib.errors import MedGenLibError
from MedGenLib.i18n import _
from MedGenLib.rooms import Room
from MedGenLib.sections import section, text_label
from MedGenLib.takeback import history


class ResultsRoom(Room, slicer.util.VTKObservationMixin):
    """The section “Results”."""

    def __init__(self, panel: Any, layout: Any) -> None:
        slicer.util.VTKObservationMixin.__init__(self)
        Room.__init__(self, panel)
        self.button, inside = section(_("Results"), layout)
        self.nothing = text_label(_("What a run gives is listed here."))
        inside.addWidget(self.nothing)
        self._rows = qt.QVBoxLayout()
        self._rows.setSpacing(2)
        inside.addLayout(self._rows)
        self.row_buttons: list[Any] = []
        self._shown: list[tuple[str, str, str]] = []
        self._step = -1
        inside.addWidget(self._make_doubt())
        self.surfaces = qt.QCheckBox(_("Show segments as surfaces in 3D"))
        self.surfaces.connect("toggled(bool)", self._on_surfaces)
        inside.addWidget(self.surfaces)
        self.details = text_label()
        self.details.setStyleSheet("color: #555555;")
        inside.addWidget(self.details)
        self.take_back, self.again, self.save, self.copy_medgen, self.copy_slicer = self._make_buttons(inside)

    def _make_doubt(self) -> Any:
        self.doubt = qt.QWidget()
        layout = qt.QVBoxLayout(self.doubt)
        layout.setContentsMargins(0, 0, 0, 0)
        self.jump = qt.QPushButton(_("Jump to the least certain"))
        self.jump.setToolTip(_("Moves the slices to the point the method was least sure of, then to the next one"))
        self.jump.connect("clicked(bool)", self._on_jump)
        self.doubt_text = text_label()
        layout.addWidget(self.jump)
        layout.addWidget(self.doubt_text)
        return self.doubt

    def _make_buttons(self, inside: Any) -> list[Any]:
        rows = (
            (
                (_("Take back the last run"), "", self._on_take_back),
                (_("Run again exactly"), "", self._on_again),
            ),
            (
                (
                    _("Save as JSON…"),
                    _("How they came to be, as a file; it holds the names of nodes"),
                    self._on_save,
                ),
                (_("Copy medgen command"), _("The command line that repeats this run"), self._on_copy_medgen),
            ),
            ((_("Copy Slicer command"), _("The same through Slicer without a window"), self._on_copy_slicer),),
        )
        made = []
        for row in rows:
            line = qt.QHBoxLayout()
            for text, tip, on_click in row:
                button = qt.QPushButton(text)
                button.setToolTip(tip)
                button.connect("clicked(bool)", on_click)
                line.addWidget(button, 1)
                made.append(button)
            inside.addLayout(line)
        return made

    # --- what is shown

    def refresh(self) -> None:
        """Show the last run's results that are still in the scene."""
        self._follow_points()
        outputs = _outputs()
        wanted = [(one.node.GetID(), one.segment, one.name) for one in outputs]
        if wanted != self._shown:
            if [key[:2] for key in wanted] != [key[:2] for key in self._shown]:
                self._step = -1
            self._shown = wanted
            self._fill(outputs)
        self.nothing.setVisible(not outputs)
        record = outputs[0].record if outputs else {}
        self.details.setVisible(bool(outputs))
        self.details.text = provenance.summary(record) if outputs else ""
        self._show_doubt(outputs)
        masks = [one for one in outputs if one.node.IsA("vtkMRMLSegmentationNode")]
        self.surfaces.setVisible(bool(masks))
        was_blocked = self.surfaces.blockSignals(True)
        self.surfaces.checked = self.panel.parameters().text("surfaces") == "yes"
        self.surfaces.blockSignals(was_blocked)
        for button in (self.save, self.copy_medgen, self.copy_slicer):
            button.enabled = bool(outputs)
        busy = self.panel.poller.busy
        mine = record.get("method") in self.panel.entries
        self.again.enabled = bool(outputs) and mine and not busy
        self.again.setToolTip(
            _("The same method, model, settings, seed and inputs; the result is a new node")
            if mine or not outputs
            else _("Another module made these results; run them again there.")
        )
        last = history.last
        of_another = last is not None and last.run != record.get("run", "")
        self.take_back.text = (
            _("Take back “{title}”").format(title=last.title)
            if last is not None and of_another
            else _("Take back the last run")
        )
        self.take_back.enabled = last is not None
        self.take_back.setToolTip(
            _("There is no run to take back.")
            if last is None
            else _("Removes what “{title}” added, and restores what it replaced").format(title=last.title)
        )

    def _fill(self, outputs: list[provenance.Output]) -> None:
        for button in self.row_buttons:
            row = button.parentWidget()
            self._rows.removeWidget(row)
            row.hide()
            row.deleteLater()
        self.row_buttons = []
        for one in outputs:
            row = qt.QWidget()
            layout = qt.QHBoxLayout(row)
            layout.setContentsMargins(8, 0, 0, 0)
            button = qt.QToolButton()
            button.text = _("Show")
            button.setToolTip(_("Bring it into the views"))
            button.connect("clicked(bool)", self._shower(one))
            layout.addWidget(text_label(one.name), 1)
            layout.addWidget(button)
            self._rows.addWidget(row)
            self.row_buttons.append(button)

    def _shower(self, output: provenance.Output) -> Callable[..., None]:
        def show(checked: bool = False) -> None:
            if output.node.GetScene() is not None:
                results.show_one(output.node, output.segment)

        return show

    # --- doubt

    def _doubtful(self) -> list[tuple[Any, int]]:
        """Points of the last run with a confidence, the least certain first."""
        lists = [one.node for one in _outputs() if one.node.IsA("vtkMRMLMarkupsFiducialNode")]
        pairs = [(place, number) for place, node in enumerate(lists) for number in halos.placed(node)]
        found = [(halos.confidence_of(lists[place], number), place, number) for place, number in pairs]
        return [(lists[place], number) for _value, place, number in sorted(one for one in found if one[0] is not None)]

    def _show_doubt(self, outputs: list[provenance.Output]) -> None:
        lists = [one.node for one in outputs if one.node.IsA("vtkMRMLMarkupsFiducialNode")]
        doubtful = self._doubtful()
        gone = [name for node in lists for name in halos.missing(node)]
        self.doubt.setVisible(bool(doubtful or gone))
        self.jump.setVisible(bool(doubtful))
        words = []
        if 0 <= self._step < len(doubtful):
            node, number = doubtful[self._step]
            words.append(
                _("{name}, confidence {value:.2f} ({place} of {count}).").format(
                    name=node.GetNthControlPointLabel(number),
                    value=halos.confidence_of(node, number) or 0.0,
                    place=self._step + 1,
                    count=len(doubtful),
                )
            )
        if gone:
            words.append(_("Not found: {names}.").format(names=", ".join(gone)))
        self.doubt_text.text = " ".join(words)
        self.doubt_text.setVisible(bool(words))

    def _on_jump(self, checked: bool = False) -> None:
        doubtful = self._doubtful()
        if doubtful:
            self._step = (self._step + 1) % len(doubtful)
            node, number = doubtful[self._step]
            results.jump_to(node.GetNthControlPointPositionWorld(number))
            self._show_doubt(_outputs())

    def _follow_points(self) -> None:
        """Halos move and go with their points, those of a loaded scene too."""
        halos.forget_orphans(slicer.mrmlScene)
        events = slicer.vtkMRMLMarkupsNode
        for node in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode"):
            if halos.of(node) is None:
                continue
            for event in (events.PointModifiedEvent, events.PointRemovedEvent):
                if not self.hasObserver(node, event, self._on_points):
                    self.addObserver(node, event, self._on_points)

    def _on_points(self, node: Any, event: Any = None) -> None:
        if not slicer.mrmlScene.IsBatchProcessing():
            halos.update(node)

    # --- surfaces

    def _on_surfaces(self, shown: bool) -> None:
        self.panel.parameters().set_text("surfaces", "yes" if shown else "")
        self._make_surfaces(shown)

    def _make_surfaces(self, shown: bool) -> None:
        for one in _outputs():
            if one.node.IsA("vtkMRMLSegmentationNode"):
                if shown:
                    one.node.CreateClosedSurfaceRepresentation()
                else:
                    one.node.RemoveClosedSurfaceRepresentation()

    # --- runs

    def run_ended(self, run: Any) -> None:
        """Remember what can be taken back; surfaces where they are wanted."""
        if run.state != "done":
            return
        history.remember(str(run.plan.operation["title"]), run.added, run.merged)
        self._step = -1
        if self.panel.parameters().text("surfaces") == "yes":
            self._make_surfaces(True)

    def _on_take_back(self, checked: bool = False) -> None:
        edited = ", ".join(f"“{name}”" for name in history.edited())
        if edited and not slicer.util.confirmYesNoDisplay(
            _("{names} was edited since that run. Take back the rest, and leave what was edited as it is?").format(
                names=edited
            ),
            windowTitle="MedGen",
        ):
            return
        shown = self._background()
        try:
            gone = ", ".join(f"“{name}”" for name in history.take_back(leave_edited=bool(edited)))
        except MedGenLibError as error:
            self._say(str(error))
            return
        words = _("Taken back: {names}.").format(names=gone) if gone else _("Nothing was taken back.")
        self._say(words + (_(" Left as edited: {names}.").format(names=edited) if edited else ""))
        if shown is not None:
            results.show_where_empty(shown)
        self.panel.refresh()

    def _background(self) -> Any:
        """The volume that the last run was made from."""
        for one in _outputs()[:1]:
            for given in one.record.get("inputs", []):
                node = slicer.mrmlScene.GetNodeByID(given.get("node", ""))
                if node is not None and node.IsA("vtkMRMLVolumeNode"):
                    return node
        return None

    def _on_again(self, checked: bool = False) -> None:
        outputs = _outputs()
        if not outputs:
            return
        try:
            wanted, notes = again.request(outputs[0].record)
            operation = self.panel.logic.operation(wanted["slug"], wanted["operation"])[1]
        except MedGenLibError as error:
            self._say(str(error))
            return
        inputs, _name = wanted.pop("inputs"), wanted.pop("operation")
        self.panel.repeat(operation, inputs, notes, **wanted)

    def _say(self, words: str) -> None:
        self.panel.run.status.text = words
        self.panel.run.status.setStyleSheet("")

    # --- as text

    def _on_save(self, checked: bool = False) -> None:
        outputs = _outputs()
        name = f"{outputs[0].node.GetName()} provenance.json" if outputs else ""
        path = qt.QFileDialog.getSaveFileName(None, _("Save how the results came to be"), name, "JSON (*.json)")
        if not path or not outputs:
            return
        try:
            written = provenance.export(outputs, Path(str(path)))
        except MedGenLibError as error:
            slicer.util.errorDisplay(str(error), windowTitle="MedGen")
            return
        self._say(_("Saved as {path}.").format(path=written))

    def _on_copy_medgen(self, checked: bool = False) -> None:
        self._copy(0)

    def _on_copy_slicer(self, checked: bool = False) -> None:
        self._copy(1)

    def _copy(self, which: int) -> None:
        outputs = _outputs()
        if not outputs:
            return
        try:
            text = again.commands(outputs[0].record, [one.node.GetName() for one in outputs])[which]
        except MedGenLibError as error:
            self._say(str(error))
            return
        qt.QApplication.clipboard().setText(text)
        self._say(_("The command is on the clipboard."))

    def cleanup(self) -> None:
        """Nothing follows the points any more."""
        self.removeObservers()


def _outputs() -> list[provenance.Output]:
    """What is left of the run that came last: which that is, only the history knows, where it knows of any."""
    return provenance.outputs_of_run(history.last_run)
