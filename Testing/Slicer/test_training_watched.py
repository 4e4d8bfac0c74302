"""A training as one watches it: curves in a plot view, one preview replaced in place, and no view that moves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import qt
import slicer
import slicer_standin
import vtk
from panel_tools import ROOT, SLUG, home, node_count, stub_catalog, until  # noqa: F401
from window_tools import four_views, opened

from medgen import previews as smaller
from MedGenLib import choices, jobqueue, livecurve, previews
from MedGenLib.selftest import add_drawing, add_planes, add_volume

MODULE = ROOT / "MedGenSegmentation" / "MedGenSegmentation.py"
PLOT = int(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView)


@pytest.fixture
def panel(scene: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:  # noqa: F811
    """The panel with one drawn volume chosen, and a training of some seconds that shows previews often."""
    monkeypatch.setattr(choices, "PREVIEW_SECONDS", 0.2)
    monkeypatch.setattr(previews, "SECONDS", 0.3)
    monkeypatch.setattr(livecurve, "SECONDS", 0.2)
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: pytest.fail(text))
    with four_views(), opened(MODULE) as widget:
        volume = add_volume()
        other = add_volume("Other")
        slicer.util.setSliceViewerLayers(background=other, fit=True)
        shown = widget.panel
        shown.method.combo.currentIndex = shown.method.slugs.index(SLUG)
        widget.enter()
        for role, node in (("image", volume), ("mask", add_drawing(volume))):
            shown.selectors.selectors[role].setCurrentNode(node)
        for plane in add_planes(volume, (8, 12)):
            shown.slices.adder.setCurrentNode(plane)
        shown.parameters().set_setting("train", "steps", 60)
        shown.parameters().set_setting("train", "pause", 0.05)
        shown.train.name.text = "watched"
        yield shown


def watch_of(panel: Any) -> Any:
    (watch,) = [room for room in panel.rooms if hasattr(room, "curve_button")]
    return watch


def start(panel: Any) -> Any:
    """Press Train as soon as it can be pressed; the room that watches."""
    until(lambda: panel.train.train.enabled)
    panel.train.train.click()
    return watch_of(panel)


def slice_views() -> list[list[float]]:
    """Where every slice view looks, and how far."""
    found = []
    for name in slicer.app.layout_manager.sliceViewNames():
        node = slicer.app.layout_manager.sliceWidget(name).mrmlSliceNode()
        matrix = node.GetSliceToRAS()
        found.append([matrix.GetElement(i, j) for i in range(4) for j in range(4)] + list(node.GetFieldOfView()))
    return found


def backgrounds() -> set[str]:
    logics = [slicer.app.layout_manager.sliceWidget(name).sliceLogic() for name in ("Red", "Yellow", "Green")]
    return {
        slicer.mrmlScene.GetNodeByID(one.GetSliceCompositeNode().GetBackgroundVolumeID()).GetName() for one in logics
    }


def previews_in_scene() -> list[Any]:
    nodes = [slicer.mrmlScene.GetNthNode(index) for index in range(slicer.mrmlScene.GetNumberOfNodes())]
    return [node for node in nodes if node.GetAttribute(previews.PREVIEW)]


def test_a_training_shows_its_curve_and_one_preview_and_leaves_the_views_as_they_were(
    panel: Any, pictures: Path
) -> None:
    red = slicer.app.layout_manager.sliceWidget("Red").mrmlSliceNode()
    red.SetSliceOffset(-6)
    where = slice_views()
    watch = start(panel)
    assert watch.button.visible and not watch.keep.enabled
    until(lambda: watch.preview.shown is not None and watch.curve.chart is not None)
    assert backgrounds() == {"CT"} and slice_views() == where  # over its image, where the person looks
    (node,) = previews_in_scene()
    assert node.GetName() == "Preview of mask" and node.GetHideFromEditors() and not node.GetSaveWithScene()
    first = watch.preview.shown["step"]
    red.SetSliceOffset(3)
    where = slice_views()
    watch.curve_button.click()
    assert slicer.app.layout_manager.layout == PLOT and watch.curve_button.text == "Back to my layout"
    until(lambda: watch.preview.shown["step"] > first)
    assert previews_in_scene() == [node] and node.GetAttribute(previews.PREVIEW) == str(watch.preview.shown["step"])
    assert slice_views() == where
    assert "Loss: " in watch.figures.text and "Validation dice: " in watch.figures.text
    assert "step" in watch.preview_text.text and "on “CT”" in watch.preview_text.text
    plot = slicer.app.layout_manager.plotWidget(0).mrmlPlotViewNode().GetPlotChartNode()
    assert plot is watch.curve.chart and plot.GetNumberOfPlotSeriesNodes() == 2
    slicer.app.layout_manager.picture(panel.body, pictures / "training_watched.png")
    red.SetSliceOffset(3)
    until(lambda: not panel.poller.busy)
    assert previews_in_scene() == [] and backgrounds() == {"Other"}
    assert panel.apply.model.currentText == "watched"
    table = plot.GetNthPlotSeriesNode(0).GetTableNode().GetTable()
    steps = [table.GetColumnByName("step").GetValue(row) for row in range(table.GetNumberOfRows())]
    assert steps == list(range(60))  # the last points are there, too
    slicer.app.layout_manager.picture(panel.body, pictures / "training_done.png")
    watch.curve_button.click()
    assert slicer.app.layout_manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


def test_a_preview_can_be_kept_and_a_person_who_wants_none_gets_none(panel: Any) -> None:
    watch = start(panel)
    until(lambda: watch.preview.shown is not None)
    (node,) = previews_in_scene()
    watch.keep.click()
    assert not node.GetHideFromEditors() and node.GetSaveWithScene() and "of the training" in node.GetName()
    watch.previews.checked = False
    assert panel.previews() is None and previews_in_scene() == [node]
    until(lambda: not panel.poller.busy)
    assert previews_in_scene() == [node]
    panel.train.name.text = "unwatched"
    panel.parameters().set_setting("train", "steps", 10)
    start(panel)
    until(lambda: not panel.poller.busy)
    assert previews_in_scene() == [node]


def test_a_cancelled_training_leaves_no_preview_and_a_resumed_one_goes_on_in_its_curve(panel: Any) -> None:
    panel.parameters().set_setting("train", "steps", 200)
    watch = start(panel)
    until(lambda: watch.preview.shown is not None and watch.curve.chart is not None)
    panel.run.cancel.click()
    until(lambda: not panel.poller.busy)
    assert previews_in_scene() == []
    chart, before = watch.curve.chart, node_count()
    panel.train.resume.click()
    until(lambda: watch.preview.shown is not None)
    assert watch.curve.chart is chart
    charts = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode")
    panel.run.cancel.click()
    until(lambda: not panel.poller.busy)
    assert charts == 1 and node_count() == before
    job = jobqueue.line().jobs[-1]
    jobqueue.line().retry(job)
    until(lambda: job.run is not None)
    assert job.run.plan.resume and job.run.plan.previews == choices.PREVIEW_SECONDS


def test_two_trainings_at_once_keep_their_curves_apart_and_progress_is_of_the_first(panel: Any) -> None:
    jobqueue.line().at_once = 2
    panel.parameters().set_setting("train", "steps", 4000)
    watch = start(panel)
    panel.parameters().set_setting("train", "steps", 20)
    panel.train.name.text = "second"
    start(panel)
    first, second = (job.run for job in jobqueue.line().jobs)
    assert watch.button.text == "Training of second"
    curves, seen = dict(watch._curves), set[int]()
    until(lambda: seen.add(int(panel.run.bar.maximum)) or second.state == "done")
    assert 20 not in seen and first.running and watch.button.text == "Training of watched"
    assert rows_of(curves[second])[:, 0].tolist() == list(range(20))
    steps = rows_of(curves[first])[:, 0]
    assert watch.curve is curves[first] and steps.tolist() == list(range(len(steps)))
    panel.run.cancel.click()
    until(lambda: not panel.poller.busy)


def test_a_scene_that_is_closed_meanwhile_gets_no_preview_and_the_whole_curve_in_a_new_chart(panel: Any) -> None:
    watch = start(panel)
    until(lambda: watch.preview.shown is not None and watch.curve.chart is not None)
    old = watch.curve.chart
    slicer.mrmlScene.Clear(0)
    until(lambda: not panel.frozen)
    until(lambda: not panel.poller.busy)
    assert previews_in_scene() == []
    chart = watch.curve.chart
    assert chart is not old and slicer.mrmlScene.IsNodePresent(chart) and watch.curve_button.enabled
    table = chart.GetNthPlotSeriesNode(0).GetTableNode().GetTable()
    steps = [table.GetColumnByName("step").GetValue(row) for row in range(table.GetNumberOfRows())]
    assert steps == list(range(60))
    slicer.mrmlScene.Clear(0)  # nothing goes on in this one
    until(lambda: not panel.frozen)
    assert not watch.curve_button.enabled
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 0


def test_a_chart_that_a_person_deletes_stays_deleted_and_is_no_longer_offered(panel: Any) -> None:
    watch = start(panel)
    until(lambda: watch.curve.chart is not None and watch.curve_button.enabled)
    slicer.mrmlScene.RemoveNode(watch.curve.chart)
    panel.refresh()
    assert not watch.curve_button.enabled
    until(lambda: not panel.poller.busy)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 0


def test_loading_a_preview_of_the_largest_size_takes_less_than_100_ms(
    panel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that happens between two turns of the event loop, in processor time: the machine may be shared."""
    side = round(smaller.MOST_VOXELS ** (1 / 3))
    files = []
    for number in range(2):
        labels = np.random.default_rng(number).integers(0, 2, (side, side, side)).astype(np.uint8)
        files.append(tmp_path / f"preview_mask_{number}.seg.nrrd")
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(files[-1]), useCompression=True)
    monkeypatch.setattr(previews, "SECONDS", 0.0)
    preview, took = previews.Preview(), []
    for number in range(6):
        preview.offer({"role": "mask", "kind": "Mask", "path": str(files[number % 2]), "step": number, "files": {}})
        began = time.process_time()
        assert preview.load(None)
        slicer.app.processEvents()
        took.append(time.process_time() - began)
    preview.drop()
    assert sorted(took)[len(took) // 2] < 0.1, took


def test_previews_are_loaded_seconds_apart_and_only_the_newest(scene: Any, tmp_path: Path) -> None:
    slicer_standin.start()
    for number in range(3):
        image = sitk.GetImageFromArray(np.full((2, 3, 4), number, np.float32))
        sitk.WriteImage(image, str(tmp_path / f"{number}.nrrd"))
    preview = previews.Preview()
    events = [
        {"role": "ct", "kind": "Image", "path": str(tmp_path / f"{number}.nrrd"), "step": number, "measure": {}}
        for number in range(3)
    ]
    preview.offer(events[0])
    assert preview.load(None)
    for event in events[1:]:
        preview.offer(event)
        assert not preview.load(None)
    preview._loaded -= previews.SECONDS
    assert preview.load(None) and preview.shown["step"] == 2
    assert slicer.util.arrayFromVolume(preview.node).max() == 2


def curve_of(values: list[float], name: str = "loss") -> livecurve.LiveCurve:
    curve = livecurve.LiveCurve("my-model")
    for step, value in enumerate(values):
        curve.note({"event": "metric", "name": name, "value": value, "step": step})
    return curve


def rows_of(curve: livecurve.LiveCurve, index: int = 0) -> np.ndarray:
    table = curve.chart.GetNthPlotSeriesNode(index).GetTableNode().GetTable()
    return np.array([[table.GetColumn(c).GetValue(row) for c in range(2)] for row in range(table.GetNumberOfRows())])


def test_thousands_of_points_are_thinned_evenly_and_the_newest_is_shown(scene: Any) -> None:
    curve = curve_of([float(step) for step in range(10_001)])
    assert curve.show()
    rows = rows_of(curve)
    assert 500 <= len(rows) <= livecurve.MOST_POINTS + 1
    assert np.allclose(rows[:-1, 0], rows[:-1, 1])  # means of steps and values belong together
    assert np.ptp(np.diff(rows[:-1, 0])) < 1e-9
    assert tuple(rows[-1]) == (10_000, 10_000)


def test_nodes_are_brought_up_to_date_once_a_second_at_the_most(scene: Any) -> None:
    curve = curve_of([1.0, 0.9])
    assert curve.show()
    curve.note({"event": "metric", "name": "loss", "value": 0.8, "step": 2})
    assert not curve.show() and len(rows_of(curve)) == 2
    assert curve.show(at_once=True) and len(rows_of(curve)) == 3


def test_the_axis_is_logarithmic_where_values_are_positive_and_far_apart(scene: Any) -> None:
    for values, far in (([1.0, 0.5, 0.01], True), ([1.0, 0.5, 0.1], False), ([1.0, -0.5, 0.001], False)):
        curve = curve_of(values)
        curve.show()
        assert bool(curve.chart.GetYAxisLogScale()) == far
        for node in ("vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode"):
            slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetFirstNodeByClass(node))


def test_the_nodes_of_a_curve_stand_in_one_closed_folder_and_come_back_with_the_scene(
    scene: Any, tmp_path: Path
) -> None:
    slicer_standin.start()
    curve = curve_of([1.0, 0.9])
    curve.note({"event": "metric", "name": "validation_dice", "value": 0.5, "step": 1})
    curve.show()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.GetItemChildWithName(hierarchy.GetSceneItemID(), "MedGen trainings")
    inside = vtk.vtkIdList()
    hierarchy.GetItemChildren(folder, inside)
    assert inside.GetNumberOfIds() == 5 and not hierarchy.GetItemExpanded(folder)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), {})
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), {})
    again = livecurve.LiveCurve("my-model")
    again.note({"event": "metric", "name": "loss", "value": 0.7, "step": 1})  # done again after the resume
    again.show()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 1
    assert rows_of(again).tolist() == [[0.0, 1.0], [1.0, 0.7]]


def test_a_chart_goes_by_itself_into_a_plot_view_that_is_there(layout: Any) -> None:
    curve = curve_of([1.0])
    curve.show()
    assert not livecurve.show_where_plots_are(curve.chart)
    before = livecurve.show_in_layout(curve.chart)
    assert before == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    assert livecurve.show_in_layout(curve.chart) is None  # nothing to put back
    node = layout.plotWidget(0).mrmlPlotViewNode()
    node.SetPlotChartNodeID(None)
    assert livecurve.show_where_plots_are(curve.chart) and node.GetPlotChartNode() is curve.chart
    assert qt.QApplication.instance() is not None


@pytest.mark.parametrize("kind", ["Image", "Points"])
def test_previews_of_other_kinds_are_replaced_in_place_too(kind: str, layout: Any, tmp_path: Path) -> None:
    under = add_volume()
    preview = previews.Preview()
    for step in range(2):
        if kind == "Image":
            path = tmp_path / f"preview_{step}.nrrd"
            image = sitk.GetImageFromArray(np.random.default_rng(step).normal(size=(4, 5, 6)).astype(np.float32))
            sitk.WriteImage(image, str(path))
        else:
            points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Found")
            points.AddControlPoint((1, 2, 3 + step), "apex")
            path = tmp_path / f"preview_{step}.mrk.json"
            slicer.util.saveNode(points, str(path), {})
            slicer.mrmlScene.RemoveNode(points)
        preview._loaded = float("-inf")
        preview.offer({"role": "found", "kind": kind, "path": str(path), "step": step, "files": {}, "measure": {}})
        assert preview.load(under)
        (node,) = previews_in_scene()
        assert node is preview.node
    composite = layout.sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == under.GetID()
    if kind == "Image":
        assert composite.GetForegroundVolumeID() == node.GetID()
        assert np.allclose(slicer.util.arrayFromVolume(node), sitk.GetArrayFromImage(image))
    else:
        assert node.GetNthControlPointPosition(0)[2] == 4 and node.GetNumberOfControlPoints() == 1
    preview.drop()
    assert previews_in_scene() == [] and composite.GetForegroundVolumeID() is None
