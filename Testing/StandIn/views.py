"""Off-screen slice and 3D views with Slicer's own displayable managers, and a picture of panel and views together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

_SLICE_MANAGERS = (
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
)
_3D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
)


class View:
    """A render window off the screen with a group of displayable managers."""

    def __init__(self, factory: Any, managers: tuple[str, ...], size: tuple[int, int]) -> None:
        self.renderer = vtk.vtkRenderer()
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()
        instance = factory.GetInstance()
        instance.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for name in managers:
            if not instance.IsDisplayableManagerRegistered(name):
                instance.RegisterDisplayableManager(name)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        self.group.Initialize(instance, self.renderer)
        self.node: Any = None

    def show(self, node: Any) -> None:
        """Show a view node."""
        self.node = node
        node.SetMappedInLayout(1)
        self.group.SetMRMLDisplayableNode(node)

    def resize(self, columns: int, rows: int) -> None:
        """Another size for a picture."""
        self.window.SetSize(columns, rows)

    def picture(self) -> np.ndarray:
        """(rows, columns, 3) uint8, first row on top."""
        self.window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        columns, rows, _depth = image.GetDimensions()
        array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, 3)
        return np.ascontiguousarray(array[::-1])


class SliceView(View):
    """A slice view: `slicer.app.layoutManager().sliceWidget(name)`."""

    def __init__(self, name: str, orientation: str, size: tuple[int, int]) -> None:
        super().__init__(slicer.vtkMRMLSliceViewDisplayableManagerFactory, _SLICE_MANAGERS, size)
        self.renderer.GetActiveCamera().ParallelProjectionOn()
        application = slicer.app.applicationLogic()
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        application.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        node = self.logic.AddSliceNode(name)
        node.SetOrientation(orientation)
        self.show(node)
        self.logic.ResizeSliceNode(*size)
        # The application's light-box manager, which puts the slice's image in, is not in slicer-core.
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(self._actor)
        self._connect()
        self.logic.AddObserver("ModifiedEvent", lambda *_: self._connect())

    def _connect(self) -> None:
        connection = self.logic.GetImageDataConnection()
        self._mapper.SetInputConnection(connection)
        self._actor.SetVisibility(connection is not None)

    def resize(self, columns: int, rows: int) -> None:
        """Fit the volume into the new size, at the same offset."""
        super().resize(columns, rows)
        offset = self.node.GetSliceOffset()
        self.logic.ResizeSliceNode(columns, rows)
        self.logic.FitSliceToBackground()
        self.node.SetSliceOffset(offset)

    def sliceLogic(self) -> Any:
        return self.logic

    def mrmlSliceNode(self) -> Any:
        return self.node


class ThreeDView(View):
    """A 3D view."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(slicer.vtkMRMLThreeDViewDisplayableManagerFactory, _3D_MANAGERS, size)
        self.show(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLViewNode", "View1"))

    def threeDView(self) -> ThreeDView:
        return self

    def resetFocalPoint(self) -> None:
        """Look at the visible segmentations, or everything, from the front; without the box, which is elsewhere."""
        self.node.SetBoxVisible(0)
        self.node.SetAxisLabelsVisible(0)
        box = vtk.vtkBoundingBox()
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            if node.GetDisplayVisibility():
                bounds = [0.0] * 6
                node.GetRASBounds(bounds)
                box.AddBounds(bounds)
        camera = self.renderer.GetActiveCamera()
        camera.SetPosition(0, 500, 100)
        camera.SetFocalPoint(0, 0, 0)
        camera.SetViewUp(0, 0, 1)
        bounds = [0.0] * 6
        if box.IsValid():
            box.GetBounds(bounds)
            self.renderer.ResetCamera(bounds)
        else:
            self.renderer.ResetCamera()
        camera.Zoom(1.3)
        self.renderer.ResetCameraClippingRange()


class PlotView:
    """A plot view: `slicer.app.layoutManager().plotWidget(0)`. Draws the chart of its node when a picture is taken."""

    def __init__(self) -> None:
        self.node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotViewNode", "PlotView1")

    def mrmlPlotViewNode(self) -> Any:
        return self.node

    def picture(self, columns: int, rows: int) -> np.ndarray:
        """(rows, columns, 3) uint8, first row on top."""
        view = vtk.vtkContextView()
        window = view.GetRenderWindow()
        window.SetOffScreenRendering(1)
        window.SetMultiSamples(0)
        window.SetSize(columns, rows)
        view.GetRenderer().SetBackground(1, 1, 1)
        chart = vtk.vtkChartXY()
        view.GetScene().AddItem(chart)
        if self.node.GetPlotChartNode() is not None:
            _draw_chart(chart, self.node.GetPlotChartNode())
        window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(window)
        grab.ReadFrontBufferOff()
        grab.Update()
        array = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(rows, columns, 3)
        found = np.ascontiguousarray(array[::-1])
        window.Finalize()
        return found


def _draw_chart(chart: Any, node: Any) -> None:
    """What Slicer's plot view makes of a chart node: its series as lines with markers, titles, axes, legend."""
    chart.SetTitle(node.GetTitle() or "")
    chart.SetShowLegend(node.GetLegendVisibility())
    for number, visible, title, log in (
        (vtk.vtkAxis.BOTTOM, node.GetXAxisTitleVisibility(), node.GetXAxisTitle(), node.GetXAxisLogScale()),
        (vtk.vtkAxis.LEFT, node.GetYAxisTitleVisibility(), node.GetYAxisTitle(), node.GetYAxisLogScale()),
    ):
        axis = chart.GetAxis(number)
        axis.SetTitle(title if visible and title else "")
        axis.SetLogScale(bool(log))
    for index in range(node.GetNumberOfPlotSeriesNodes()):
        series = node.GetNthPlotSeriesNode(index)
        if series is None or series.GetTableNode() is None or not series.GetTableNode().GetNumberOfRows():
            continue
        plot = chart.AddPlot(vtk.vtkChart.LINE)
        table = series.GetTableNode().GetTable()
        plot.SetInputData(table, series.GetXColumnName(), series.GetYColumnName())
        plot.SetLabel(series.GetName())
        plot.SetColorF(*series.GetColor())
        plot.SetWidth(series.GetLineWidth())
        plot.SetMarkerStyle(series.GetMarkerStyle())
    chart.RecalculateBounds()


class LayoutManager:
    """Red, Yellow, Green, one 3D view, and in its place, in the layout that has one, a plot view."""

    threeDViewCount = 1

    def __init__(self, size: tuple[int, int] = (360, 330)) -> None:
        names = (("Red", "Axial"), ("Yellow", "Sagittal"), ("Green", "Coronal"))
        self._slices = {name: SliceView(name, orientation, size) for name, orientation in names}
        self._view = ThreeDView(size)
        self._plot: PlotView | None = None
        self._layout = int(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    layout = property(lambda self: self._layout)
    plotViewCount = property(lambda self: 0 if self._plot is None else 1)

    def setLayout(self, layout: int) -> None:
        """Which views a picture shows; a plot view is made when a layout first needs it, as in the application."""
        self._layout = int(layout)
        if self._layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView and self._plot is None:
            self._plot = PlotView()
        side_by_side = self._is_side_by_side()
        for name, view in self._slices.items():
            view.node.SetMappedInLayout(1 if name != "Green" or not side_by_side else 0)

    def plotWidget(self, index: int) -> PlotView | None:
        return self._plot

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(self._slices)

    def sliceWidget(self, name: str) -> SliceView:
        return self._slices[name]

    def threeDWidget(self, index: int) -> ThreeDView:
        return self._view

    def mrmlSliceLogics(self) -> Any:
        return slicer.app.applicationLogic().GetSliceLogics()

    def resetSliceViews(self) -> None:
        for view in self._slices.values():
            view.logic.FitSliceToBackground()

    def resetThreeDViews(self) -> None:
        self._view.resetFocalPoint()

    def close(self) -> None:
        """Take the views' logics out of the application again, for the next test."""
        logics = slicer.app.applicationLogic().GetSliceLogics()
        for view in self._slices.values():
            logics.RemoveItem(view.logic)
            view.group.SetMRMLDisplayableNode(None)
            composite = view.logic.GetSliceCompositeNode()
            view.logic.SetMRMLScene(None)
            view.window.Finalize()
            for node in (composite, view.node):
                slicer.mrmlScene.RemoveNode(node)
        self._view.group.SetMRMLDisplayableNode(None)
        self._view.window.Finalize()
        if self._plot is not None:
            slicer.mrmlScene.RemoveNode(self._plot.node)

    def picture(self, panel: Any, path: Path) -> None:
        """Panel on the left, views on the right, as the desktop shows them."""
        left = _whole(panel)
        views = self._side_by_side(left.height()) if self._is_side_by_side() else self._four_up(left.height())
        right = qt.QImage(views.data, views.shape[1], views.shape[0], 3 * views.shape[1], qt.QImage.Format_RGB888)
        size = (left.width() + right.width(), max(left.height(), right.height()))
        whole = qt.QImage(*size, qt.QImage.Format_RGB888)
        whole.fill(qt.QColor(255, 255, 255))
        painter = qt.QPainter(whole)
        painter.drawPixmap(0, 0, left)
        painter.drawImage(left.width(), 0, right)
        painter.end()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not whole.save(str(path)):
            raise OSError(f"{path} could not be written")

    def _is_side_by_side(self) -> bool:
        return self._layout == slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView

    def _four_up(self, height: int) -> np.ndarray:
        rows = height // 2
        for view in (*self._slices.values(), self._view):
            view.resize(int(rows * 0.95), rows)
        self._view.resetFocalPoint()
        plotted = self._plot is not None and self._layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView
        corner = self._plot.picture(int(rows * 0.95), rows) if plotted and self._plot else self._view.picture()
        shown = [self._slices["Red"].picture(), corner]
        below = [self._slices["Green"].picture(), self._slices["Yellow"].picture()]
        return np.ascontiguousarray(np.vstack([np.hstack(shown), np.hstack(below)]))

    def _side_by_side(self, height: int) -> np.ndarray:
        pair = [self._slices["Red"], self._slices["Yellow"]]
        for view in pair:
            view.resize(height // 2, height // 2)
        return np.ascontiguousarray(np.hstack([view.picture() for view in pair]))


def _whole(panel: Any) -> Any:
    """A panel as high as it wants to be."""
    qt.QApplication.processEvents()
    panel.resize(panel.width, max(panel.sizeHint().height(), panel.heightForWidth(panel.width)))
    qt.QApplication.processEvents()
    return panel.grab()


def save(panel: Any, path: Path) -> None:
    """A picture of a panel alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _whole(panel).save(str(path)):
        raise OSError(f"{path} could not be written")
