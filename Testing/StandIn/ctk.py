"""Stand-ins for the CTK widgets the modules use; any other raises."""

from __future__ import annotations

from typing import Any, ClassVar

import qt
from furtherwidgets import (  # noqa: F401
    ctkCheckBox,
    ctkColorPickerButton,
    ctkComboBox,
    ctkDirectoryButton,
    ctkDoubleRangeSlider,
    ctkDoubleSlider,
    ctkDoubleSpinBox,
    ctkRangeWidget,
    ctkSliderWidget,
)
from PySide6 import QtWidgets
from PySide6.QtCore import Signal


class ctkCollapsibleButton(QtWidgets.QWidget):
    """A titled section that folds."""

    contentsCollapsed = Signal(bool)

    def __init__(self, *arguments: Any) -> None:
        words = [item for item in arguments if isinstance(item, str)]
        parents = [item for item in arguments if not isinstance(item, str)]
        super().__init__(*parents)
        self._collapsed = False
        self._button = QtWidgets.QToolButton()
        self._button.setToolButtonStyle(qt.Qt.ToolButtonTextBesideIcon)
        self._button.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self._button.setStyleSheet("QToolButton { font-weight: bold; border: 0; background: #d5dae3; padding: 4px; }")
        self._button.setText(words[0] if words else "")
        self._button.clicked.connect(lambda: self.setCollapsed(not self._collapsed))
        self._contents = QtWidgets.QWidget()
        outer = QtWidgets.QVBoxLayout()
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addWidget(self._button)
        outer.addWidget(self._contents)
        super().setLayout(outer)
        self._show_state()

    def _show_state(self) -> None:
        self._button.setArrowType(qt.Qt.RightArrow if self._collapsed else qt.Qt.DownArrow)
        self._contents.setVisible(not self._collapsed)

    def setLayout(self, layout: Any) -> None:
        self._contents.setLayout(layout)

    def setText(self, text: str) -> None:
        self._button.setText(text)

    def setCollapsed(self, collapsed: bool) -> None:
        if bool(collapsed) != self._collapsed:
            self._collapsed = bool(collapsed)
            self._show_state()
            self.contentsCollapsed.emit(self._collapsed)

    text = property(lambda self: self._button.text, setText)
    collapsed = property(lambda self: self._collapsed, setCollapsed)


class ctkPathLineEdit(QtWidgets.QWidget):
    """A line for a path with a button that browses."""

    currentPathChanged = Signal(str)
    Files = 1
    Dirs = 2

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._filters = self.Files
        self._name_filters: list[str] = []
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._edit = QtWidgets.QLineEdit()
        self._browse = QtWidgets.QToolButton()
        self._browse.setText("…")
        layout.addWidget(self._edit)
        layout.addWidget(self._browse)
        self._edit.textChanged.connect(self.currentPathChanged)

    def setCurrentPath(self, path: str) -> None:
        self._edit.setText(path)

    currentPath = property(lambda self: self._edit.text, setCurrentPath)
    filters = property(lambda self: self._filters, lambda self, value: setattr(self, "_filters", value))
    nameFilters = property(
        lambda self: self._name_filters, lambda self, value: setattr(self, "_name_filters", list(value))
    )

    SIGNALS: ClassVar = {"currentPathChanged(QString)": "currentPathChanged"}


def __getattr__(name: str) -> Any:
    raise AttributeError(f"ctk.{name} is not modelled by the stand-in; add it to Testing/StandIn/ctk.py")
