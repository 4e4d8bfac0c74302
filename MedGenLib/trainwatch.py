"""A training as one watches it: its curve in a plot view, previews in the slice views. Under Train, while one runs."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from MedGenLib import cards, livecurve, previews, trainingcases
from MedGenLib.i18n import _
from MedGenLib.rooms import Room
from MedGenLib.sections import section, text_label

_TICK = 300  # ms


class TrainWatch(Room):
    """Shows the training that the panel started last; the curve stays when it is over. The curves of others that go on
    at the same time are drawn, too."""

    def __init__(self, panel: Any, layout: Any) -> None:
        super().__init__(panel)
        self.button, inside = section(_("Training in progress"), layout)
        self.button.setVisible(False)
        self.figures, self.preview_text = text_label(), text_label()
        self.curve_button = qt.QPushButton(_("Show curve"))
        self.previews = qt.QCheckBox(_("Previews"))
        self.previews.setToolTip(
            _("Now and then show what the network gives for a validation case, over its image in the slice views")
        )
        self.keep = qt.QPushButton(_("Keep preview"))
        self.keep.setToolTip(_("Let the preview stay in the scene as a node of its own"))
        row = qt.QHBoxLayout()
        row.addWidget(self.curve_button)
        row.addStretch(1)
        row.addWidget(self.previews)
        row.addWidget(self.keep)
        for part in (self.figures, self.preview_text):
            inside.addWidget(part)
        inside.addLayout(row)
        self.curve_button.connect("clicked(bool)", self._on_curve)
        self.previews.connect("toggled(bool)", self._on_previews)
        self.keep.connect("clicked(bool)", self._on_keep)
        self.curve: livecurve.LiveCurve | None = None
        self.preview = previews.Preview()
        self._run: Any = None
        self._curves: dict[Any, livecurve.LiveCurve] = {}  # of the runs that go on
        self._layout_before: int | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK)
        self._timer.connect("timeout()", self._tick)

    def refresh(self) -> None:
        """Show whether previews are wanted, and what can be pressed."""
        wanted = self.panel.previews() is not None
        if self.previews.checked != wanted:
            self.previews.checked = wanted
        self.keep.enabled = self.preview.shown is not None
        self.curve_button.enabled = self._has_chart
        self.curve_button.text = _("Show curve") if self._layout_before is None else _("Back to my layout")

    @property
    def _has_chart(self) -> bool:
        chart = None if self.curve is None else self.curve.chart
        return chart is not None and bool(slicer.mrmlScene.IsNodePresent(chart))

    # --- a run

    def run_started(self, run: Any) -> None:
        """A training: begin a new curve, or go on with the one it has."""
        if [role["kind"] for role in run.plan.operation["outputs"]] != ["Model"]:
            return
        self._curves[run] = livecurve.LiveCurve(run.plan.out.name)
        self._watch(run)
        self._timer.start()

    def _watch(self, run: Any) -> None:
        self.preview.drop()
        self._run, self.curve = run, self._curves[run]
        self.button.setVisible(True)
        self.button.text = _("Training of {name}").format(name=run.plan.out.name)
        self._say()

    def run_events(self, run: Any, events: list[dict[str, Any]]) -> None:
        """Note what is new; nodes are brought up to date from the timer."""
        curve = self._curves.get(run)
        if curve is None:
            return
        for event in events:
            if event["event"] == "metric":
                curve.note(event)
            elif event["event"] == "preview" and self.previews.checked and run is self._run:
                self.preview.offer(event)

    def _tick(self) -> None:
        for curve in self._curves.values():
            if curve is not self.curve:
                curve.show()
        if self.curve is not None:
            self._show_curve()
        waiting = self.preview.waiting
        if waiting is not None and self._run is not None:
            paths = [path for files in waiting["files"].values() for path in files]
            self.preview.load(trainingcases.node_of(paths, self._run.folder / "inputs"))
        self._say()

    def _show_curve(self, at_once: bool = False) -> None:
        assert self.curve is not None
        first = self.curve.chart is None
        if self.curve.show(at_once) and first:
            livecurve.show_where_plots_are(self.curve.chart)
            self.refresh()

    def run_ended(self, run: Any) -> None:
        """Over: the last points, and no preview left but what was kept."""
        curve = self._curves.pop(run, None)
        if curve is None:
            return
        if run is not self._run:
            curve.show(at_once=True)
            return
        self._show_curve(at_once=True)
        self.preview.drop()
        if self._curves:
            self._watch(next(reversed(self._curves)))
            return
        self._timer.stop()
        self._run = None
        self._say()

    def _say(self) -> None:
        lines = []
        for name, (step, value) in (self.curve.last if self.curve is not None else {}).items():
            words = cards.sentence(name.replace("_", " "))
            lines.append(_("{name}: {value:.4g} at step {step}").format(name=words, value=value, step=step))
        self.figures.text = "\n".join(lines) or _("The first figures come in a moment.")
        shown = self.preview.shown
        self.preview_text.setVisible(shown is not None)
        self.keep.enabled = shown is not None
        if shown is not None:
            measure = "".join(f", {name} {value:.4g}" for name, value in shown["measure"].items())
            image = self.preview.background
            words = _("Preview, not a result: step {step}{measure}")
            words += "." if image is None else _(", on “{name}”.")
            name = "" if image is None else image.GetName()
            self.preview_text.text = words.format(step=shown["step"], measure=measure, name=name)

    # --- what a person does

    def _on_curve(self, checked: bool = False) -> None:
        if self._layout_before is not None:
            slicer.app.layoutManager().setLayout(self._layout_before)
            self._layout_before = None
        elif self.curve is not None and self._has_chart:
            self._layout_before = livecurve.show_in_layout(self.curve.chart)
        self.refresh()

    def _on_previews(self, checked: bool) -> None:
        self.panel.parameters().set_text("previews", "" if checked else "no")
        if not checked:
            self.preview.drop()
            self._say()

    def _on_keep(self, checked: bool = False) -> None:
        self.preview.keep()
        self._say()

    def cleanup(self) -> None:
        """Nothing of a preview stays behind."""
        self._timer.stop()
        self.preview.drop()
