"""The curves of a training as Slicer's own table, series and chart nodes, kept together in a folder. No Qt.

curve = LiveCurve("my-model")
curve.note({"event": "metric", "name": "loss", "value": 0.7, "step": 10})
curve.show()  # writes into the nodes, once a second at the most
before = show_in_layout(curve.chart)
"""

from __future__ import annotations

import math
import time
import weakref
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from MedGenLib.i18n import _

TRAINING = "MedGen.training"  # attribute of every node of a training's curves: the model's name
_METRIC = "MedGen.metric"
SECONDS = 1.0  # between two updates of the nodes
MOST_POINTS = 1000  # of a curve; beyond, neighbours are averaged
_FAR = 50.0  # ratio of values from which on a logarithmic axis shows more
_COLOURS = ((0.12, 0.47, 0.71), (0.84, 0.37, 0.0), (0.17, 0.63, 0.17), (0.58, 0.40, 0.74), (0.55, 0.34, 0.29))


class LiveCurve:
    """The curves of one training. One that is resumed goes on in the nodes it has, where they are still there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._points: dict[str, Points] = {}
        self._last: dict[str, tuple[int, float]] = {}
        self._changed: set[str] = set()
        self._shown = -math.inf
        self._series: dict[str, Any] = {}
        self.chart: Any = None
        self._find()
        _when_scene_closes(self)

    def note(self, event: dict[str, Any]) -> None:
        """Take a "metric" event; what a resumed training does again replaces what was noted of it."""
        name, step, value = str(event["name"]), int(event["step"]), float(event["value"])
        if not math.isfinite(value):
            return
        self._points.setdefault(name, Points()).add(step, value)
        self._last[name] = (step, value)
        self._changed.add(name)

    @property
    def last(self) -> dict[str, tuple[int, float]]:
        """The newest step and value of every curve."""
        return dict(self._last)

    def show(self, at_once: bool = False) -> bool:
        """Bring the nodes up to date where something is new, once a second at the most; whether it did.

        Curves whose nodes the person deleted are let go; those closed with the scene go on in new nodes.
        """
        if not self._changed or (not at_once and time.monotonic() - self._shown < SECONDS):
            return False
        scene = slicer.mrmlScene
        if self.chart is None:
            self._make_chart()
        elif not scene.IsNodePresent(self.chart):
            return False
        for name in sorted(self._changed):
            if name not in self._series:
                self._make_series(name)
            series = self._series[name]
            if scene.IsNodePresent(series) and (table := series.GetTableNode()) is not None:
                _fill(table, name, self._points[name].all())
        self._scale_axis()
        self._changed.clear()
        self._shown = time.monotonic()
        return True

    def scene_closed(self) -> None:
        """The nodes have gone with the scene: what comes next is shown, with all before it, in new ones."""
        self.chart, self._series, self._changed = None, {}, set(self._points)

    # --- the nodes

    def _find(self) -> None:
        """The nodes that an interrupted training of this name left."""
        scene = slicer.mrmlScene
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode")):
            chart = scene.GetNthNodeByClass(index, "vtkMRMLPlotChartNode")
            if chart.GetAttribute(TRAINING) == self.name:
                self.chart = chart
        for index in range(self.chart.GetNumberOfPlotSeriesNodes() if self.chart is not None else 0):
            series = self.chart.GetNthPlotSeriesNode(index)
            table = None if series is None else series.GetTableNode()
            if table is not None and series.GetAttribute(_METRIC):
                name = series.GetAttribute(_METRIC)
                self._series[name] = series
                values = [_column(table, column) for column in ("step", name)]
                points = self._points[name] = Points()
                for step, value in zip(*values, strict=True):
                    points.add(step, value)

    def _make_chart(self) -> None:
        self.chart = self._add("vtkMRMLPlotChartNode", _("{name}: training").format(name=self.name))
        self.chart.SetTitle(_("Training of {name}").format(name=self.name))
        self.chart.SetXAxisTitle(_("step"))
        self.chart.SetYAxisTitleVisibility(False)
        self.chart.SetLegendVisibility(True)

    def _make_series(self, name: str) -> None:
        words = name.replace("_", " ")
        table = self._add("vtkMRMLTableNode", f"{self.name}: {words}")
        series = self._add("vtkMRMLPlotSeriesNode", words)
        series.SetAttribute(_METRIC, name)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName("step")
        series.SetYColumnName(name)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetColor(*_COLOURS[len(self._series) % len(_COLOURS)])
        seldom = not words.endswith("loss") or "validation" in words
        kind = slicer.vtkMRMLPlotSeriesNode
        series.SetMarkerStyle(kind.MarkerStyleCircle if seldom else kind.MarkerStyleNone)
        series.SetLineWidth(2)
        self._series[name] = series
        self.chart.AddAndObservePlotSeriesNodeID(series.GetID())

    def _add(self, class_name: str, name: str) -> Any:
        node = slicer.mrmlScene.AddNewNodeByClass(class_name, slicer.mrmlScene.GenerateUniqueName(name))
        node.SetAttribute(TRAINING, self.name)
        _put_away(node)
        return node

    def _scale_axis(self) -> None:
        """A logarithmic axis where everything is above 0 and far apart."""
        values = [value for points in self._points.values() for _step, value in points.all()]
        far = bool(values) and min(values) > 0 and max(values) / min(values) > _FAR
        if bool(self.chart.GetYAxisLogScale()) != far:
            self.chart.SetYAxisLogScale(far)


class Points:
    """Points of a curve, steps rising; where there are too many, each stands for the mean of as many as every other."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, float]] = []
        self._waiting: list[tuple[float, float]] = []
        self._each = 1  # how many points one stands for

    def add(self, step: float, value: float) -> None:
        """Add a point; those at its step and beyond, of an earlier attempt, are forgotten."""
        while self._kept and self._kept[-1][0] >= step:
            self._kept.pop()
        self._waiting = [*(point for point in self._waiting if point[0] < step), (float(step), value)]
        if len(self._waiting) >= self._each:
            self._kept.append(_mean(self._waiting))
            self._waiting = []
        if len(self._kept) >= MOST_POINTS:
            self._kept = [_mean(self._kept[first : first + 2]) for first in range(0, len(self._kept), 2)]
            self._each *= 2

    def all(self) -> list[tuple[float, float]]:
        """(step, value) of what is shown, `MOST_POINTS` and the newest at the most."""
        return [*self._kept, *self._waiting[-1:]]


def _mean(points: list[tuple[float, float]]) -> tuple[float, float]:
    steps, values = zip(*points, strict=True)
    return sum(steps) / len(steps), sum(values) / len(values)


def _fill(table: Any, name: str, points: list[tuple[float, float]]) -> None:
    was_modifying = table.StartModify()
    table.RemoveAllColumns()
    for column, values in zip(("step", name), np.array(points).T, strict=True):
        array = numpy_to_vtk(np.ascontiguousarray(values), deep=True, array_type=vtk.VTK_DOUBLE)
        array.SetName(column)
        table.AddColumn(array)
    table.EndModify(was_modifying)


def _column(table: Any, name: str) -> list[float]:
    array = table.GetTable().GetColumnByName(name)
    return [] if array is None else [float(array.GetValue(row)) for row in range(array.GetNumberOfTuples())]


def _put_away(node: Any) -> None:
    """Into a folder of the subject hierarchy that is closed when it is made."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is None:
        return
    top, name = hierarchy.GetSceneItemID(), _("MedGen trainings")
    folder = hierarchy.GetItemChildWithName(top, name)
    if not folder:
        folder = hierarchy.CreateFolderItem(top, name)
        hierarchy.SetItemExpanded(folder, False)
    hierarchy.CreateItem(folder, node)  # moves the item that Slicer's plugins have made already


def _when_scene_closes(curve: LiveCurve) -> None:
    """Tell a curve, as long as somebody has it."""
    scene, known = slicer.mrmlScene, weakref.ref(curve)

    def tell(caller: Any, event: str) -> None:
        if (there := known()) is not None:
            there.scene_closed()

    weakref.finalize(curve, scene.RemoveObserver, scene.AddObserver(scene.EndCloseEvent, tell)).atexit = False


# --- in the views


def show_where_plots_are(chart: Any) -> bool:
    """Put the chart into the plot view of the layout in use, where it has one; whether it has."""
    manager = slicer.app.layoutManager()
    if manager is None or not _has_plot(manager.layout) or not manager.plotViewCount:
        return False
    manager.plotWidget(0).mrmlPlotViewNode().SetPlotChartNodeID(chart.GetID())
    return True


def show_in_layout(chart: Any) -> int | None:
    """Show the chart, in a layout with a plot view; the layout before where it had to change, to be put back."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return None
    before = int(manager.layout)
    if not _has_plot(before):
        manager.setLayout(slicer.modules.plots.logic().GetLayoutWithPlot(before))
    show_where_plots_are(chart)
    return None if int(manager.layout) == before else before


def _has_plot(layout: int) -> bool:
    """Whether a layout is one of Slicer's own with a plot view."""
    kinds = slicer.vtkMRMLLayoutNode
    names = ("ConventionalPlot", "FourUpPlot", "FourUpPlotTable", "OneUpPlot", "ThreeOverThreePlot")
    return int(layout) in {getattr(kinds, f"SlicerLayout{name}View") for name in names}
