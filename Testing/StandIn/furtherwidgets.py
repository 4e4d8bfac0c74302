"""Stand-ins for CTK and qMRML widgets that Slicer's own tests use; MedGen's modules do without them.

Modelled are the properties, limits and signals that the real widgets' headers name. What a person would drag or browse
is there only where it is a line or two; `qMRMLSubjectHierarchy…` cannot be modelled, since slicer-core has no plugins
of the subject hierarchy.
"""

from __future__ import annotations

from typing import Any, ClassVar

import qt
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Signal

POSITIONS = 1000  # of the integer slider under a slider of real numbers


class ctkCheckBox(QtWidgets.QCheckBox):
    """A check box."""


class ctkComboBox(QtWidgets.QComboBox):
    """A combo box."""


class ctkDoubleSpinBox(QtWidgets.QDoubleSpinBox):
    """The spin box alone; CTK's has a zoom and options for the decimals around it."""


class ctkDoubleSlider(QtWidgets.QWidget):
    """A slider over real numbers: minimum <= value <= maximum, 0 to 99 at first."""

    valueChanged = Signal(float)
    rangeChanged = Signal(float, float)
    SIGNALS: ClassVar = {"valueChanged(double)": "valueChanged", "rangeChanged(double,double)": "rangeChanged"}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._minimum, self._maximum, self._value, self._step = 0.0, 99.0, 0.0, 1.0
        self._slider = QtWidgets.QSlider(qt.Qt.Horizontal)
        self._slider.setRange(0, POSITIONS)
        self._slider.valueChanged.connect(self._on_slider)
        _alone(self, self._slider)

    def _on_slider(self, position: int) -> None:
        self.setValue(self._minimum + (self._maximum - self._minimum) * position / POSITIONS)

    def _show(self) -> None:
        width = self._maximum - self._minimum
        if 0 < width < float("inf"):
            self._slider.blockSignals(True)
            self._slider.setValue(round(POSITIONS * (self._value - self._minimum) / width))
            self._slider.blockSignals(False)

    def setValue(self, value: float) -> None:
        value = min(max(float(value), self._minimum), self._maximum)
        changed, self._value = value != self._value, value
        self._show()
        if changed:
            self.valueChanged.emit(value)

    def setRange(self, minimum: float, maximum: float) -> None:
        self._minimum, self._maximum = float(minimum), float(maximum)
        self.rangeChanged.emit(self._minimum, self._maximum)
        self.setValue(self._value)

    def setMinimum(self, minimum: float) -> None:
        self.setRange(minimum, max(minimum, self._maximum))

    def setMaximum(self, maximum: float) -> None:
        self.setRange(min(self._minimum, maximum), maximum)

    def setSingleStep(self, step: float) -> None:
        self._step = float(step)

    value = property(lambda self: self._value, setValue)
    minimum = property(lambda self: self._minimum, setMinimum)
    maximum = property(lambda self: self._maximum, setMaximum)
    singleStep = property(lambda self: self._step, setSingleStep)


class ctkSliderWidget(ctkDoubleSlider):
    """A slider with a spin box beside it."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._spin = QtWidgets.QDoubleSpinBox()
        self.layout().addWidget(self._spin)
        self.rangeChanged.connect(self._spin.setRange)
        self.valueChanged.connect(self._spin.setValue)
        self._spin.valueChanged.connect(self._on_spin)

    def _on_spin(self, value: float) -> None:
        if value != round(self._value, self._spin.decimals):
            self.setValue(value)

    def setDecimals(self, decimals: int) -> None:
        self._spin.decimals = decimals

    def setSuffix(self, suffix: str) -> None:
        self._spin.suffix = suffix

    decimals = property(lambda self: self._spin.decimals, setDecimals)
    suffix = property(lambda self: self._spin.suffix, setSuffix)


class ctkDoubleRangeSlider(QtWidgets.QWidget):
    """Two values on one scale: minimum <= minimumValue <= maximumValue <= maximum."""

    valuesChanged = Signal(float, float)
    rangeChanged = Signal(float, float)
    minimumValueChanged = Signal(float)
    maximumValueChanged = Signal(float)
    SIGNALS: ClassVar = {
        "valuesChanged(double,double)": "valuesChanged",
        "rangeChanged(double,double)": "rangeChanged",
        "minimumValueChanged(double)": "minimumValueChanged",
        "maximumValueChanged(double)": "maximumValueChanged",
    }

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._range = self._values = (0.0, 99.0)
        self._step = 1.0

    def setRange(self, minimum: float, maximum: float) -> None:
        self._range = (float(minimum), float(maximum))
        self.rangeChanged.emit(*self._range)
        self.setValues(*self._values)

    def setValues(self, low: float, high: float) -> None:
        low, high = (min(max(float(value), self._range[0]), self._range[1]) for value in sorted((low, high)))
        before, self._values = self._values, (low, high)
        if before[0] != low:
            self.minimumValueChanged.emit(low)
        if before[1] != high:
            self.maximumValueChanged.emit(high)
        if before != self._values:
            self.valuesChanged.emit(low, high)

    def setMinimum(self, minimum: float) -> None:
        self.setRange(minimum, max(minimum, self._range[1]))

    def setMaximum(self, maximum: float) -> None:
        self.setRange(min(self._range[0], maximum), maximum)

    def setMinimumValue(self, value: float) -> None:
        self.setValues(min(value, self._values[1]), self._values[1])

    def setMaximumValue(self, value: float) -> None:
        self.setValues(self._values[0], max(value, self._values[0]))

    def setSingleStep(self, step: float) -> None:
        self._step = float(step)

    minimum = property(lambda self: self._range[0], setMinimum)
    maximum = property(lambda self: self._range[1], setMaximum)
    minimumValue = property(lambda self: self._values[0], setMinimumValue)
    maximumValue = property(lambda self: self._values[1], setMaximumValue)
    singleStep = property(lambda self: self._step, setSingleStep)


class ctkRangeWidget(ctkDoubleRangeSlider):
    """Two values, with a number of decimals."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._decimals = 2

    def setDecimals(self, decimals: int) -> None:
        self._decimals = int(decimals)

    decimals = property(lambda self: self._decimals, setDecimals)


class ctkDirectoryButton(QtWidgets.QWidget):
    """A button that shows a folder; `directory` is the path as it was given."""

    directoryChanged = Signal(str)
    SIGNALS: ClassVar = {"directoryChanged(QString)": "directoryChanged"}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._directory = QtCore.QDir()
        self._button = QtWidgets.QPushButton(self._directory.absolutePath())
        _alone(self, self._button)

    def setDirectory(self, path: str) -> None:
        new = QtCore.QDir(path)
        if new != self._directory:
            self._directory = new
            self._button.setText(new.absolutePath())
            self.directoryChanged.emit(new.path())

    directory = property(lambda self: self._directory.path(), setDirectory)


class ctkColorPickerButton(QtWidgets.QPushButton):
    """A button that shows a colour, black at first."""

    colorChanged = Signal(QtGui.QColor)
    SIGNALS: ClassVar = {"colorChanged(QColor)": "colorChanged"}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._color = QtGui.QColor("#000000")

    def setColor(self, color: Any) -> None:
        if color != self._color:
            self._color = QtGui.QColor(color)
            self.setText(self._color.name())
            self.colorChanged.emit(self._color)

    color = property(lambda self: self._color, setColor)


class _WithScene:
    """What makes a CTK widget a qMRML widget: it knows the scene, for its units."""

    _scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene


class qMRMLSliderWidget(ctkSliderWidget, _WithScene):
    """A slider with units."""


class qMRMLSpinBox(ctkDoubleSpinBox, _WithScene):
    """A spin box with units."""


class qMRMLRangeWidget(ctkRangeWidget, _WithScene):
    """Two values with units."""


class _NotModelled:
    """A name that must be importable; making one says why there is none."""

    def __init__(self, *arguments: Any) -> None:
        raise NotImplementedError(
            f"{type(self).__name__} is not modelled by the stand-in: slicer-core has no subject hierarchy plugins"
        )


class qMRMLSubjectHierarchyTreeView(_NotModelled):
    """Not modelled."""


class qMRMLSubjectHierarchyComboBox(_NotModelled):
    """Not modelled."""


def _alone(owner: Any, child: Any) -> None:
    layout = QtWidgets.QHBoxLayout(owner)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.addWidget(child)
