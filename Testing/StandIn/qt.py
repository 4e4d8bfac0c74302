"""Stand-in for Slicer's PythonQt module `qt` over PySide6: Qt's classes as PythonQt shows them.

- Properties are attributes: `button.text`, `button.enabled = False`; `button.text()` fails, as it does in PythonQt.
- `object.connect("clicked(bool)", f)` connects; a signal that is not there with those arguments raises.
- Writing an attribute that a class does not have raises.
- Only the names below exist: what the modules use must be named here, so that it is looked at once.

What this does not prove: PythonQt's own conversion, ownership and overloads.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

_EXPORTED = {
    QtCore: ["QObject", "QTimer", "Qt", "QSettings", "QSize", "QEvent", "QUrl", "QDir"],
    QtGui: [
        "QAction",
        "QBrush",
        "QIcon",
        "QImage",
        "QPainter",
        "QPixmap",
        "QFont",
        "QColor",
        "QDesktopServices",
        "QPalette",
    ],
    QtWidgets: [
        "QAbstractItemView",
        "QApplication",
        "QCheckBox",
        "QComboBox",
        "QDoubleSpinBox",
        "QFileDialog",
        "QFormLayout",
        "QFrame",
        "QHBoxLayout",
        "QHeaderView",
        "QLabel",
        "QLineEdit",
        "QListWidget",
        "QMessageBox",
        "QPlainTextEdit",
        "QProgressBar",
        "QPushButton",
        "QScrollArea",
        "QSizePolicy",
        "QSlider",
        "QSpinBox",
        "QTableWidget",
        "QTableWidgetItem",
        "QTextEdit",
        "QToolButton",
        "QVBoxLayout",
        "QWidget",
    ],
}
# Virtual functions that C++ calls by name, and a static function: as Python properties they would not be callable.
_METHODS = {"sizeHint", "minimumSizeHint", "singleShot"}


def _property(name: str) -> property:
    setter = "set" + name[0].upper() + name[1:]

    def read(self: Any) -> Any:
        return QtCore.QObject.property(self, name)

    def write(self: Any, value: Any) -> None:
        method = getattr(self, setter, None)
        if method is not None:
            method(value)
        else:
            QtCore.QObject.setProperty(self, name, value)

    return property(read, write)


def _show_properties(cls: Any) -> None:
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if name not in _METHODS:
            setattr(cls, name, _property(name))


def _signal(owner: Any, signature: str) -> Any:
    """The bound signal of "name(arguments)"; ValueError when the object has none of that form."""
    aliases = getattr(type(owner), "SIGNALS", {})
    if signature in aliases:
        return getattr(owner, aliases[signature])
    name, _, rest = signature.partition("(")
    normal = f"{name.strip()}({rest.rstrip(') ').replace(' ', '')})"
    if owner.metaObject().indexOfSignal(normal) < 0:
        raise ValueError(f"{type(owner).__name__} has no signal {signature}")
    signal = getattr(owner, name.strip())
    arguments = rest.rstrip(") ").replace(" ", "")
    return signal[arguments] if arguments else signal


def _connector(owner: Any, verb: str, original: Any) -> Callable[..., Any]:
    def connect(*arguments: Any) -> Any:
        if len(arguments) == 2 and isinstance(arguments[0], str) and callable(arguments[1]):
            getattr(_signal(owner, arguments[0]), verb)(arguments[1])
            return True
        return original(*arguments)

    return connect


def _patch_objects() -> None:
    """PySide6 looks `connect` up in a way of its own, so PythonQt's two-argument form is added at attribute look-up."""
    look_up = QtCore.QObject.__getattribute__

    def read(self: Any, name: str) -> Any:
        found = look_up(self, name)
        return _connector(self, name, found) if name in ("connect", "disconnect") else found

    QtCore.QObject.__getattribute__ = read  # type: ignore[method-assign,assignment]


def _refuse_unknown_attributes(cls: Any) -> None:
    """Only what the class knows, and what starts with an underscore (the stand-ins' own state), can be written.

    PySide6 gives each class a setter of its own that Python does not let us call, so descriptors are served here.
    """

    def guarded(self: Any, name: str, value: Any) -> None:
        found = getattr(type(self), name, None)
        descriptor = next((vars(c)[name] for c in type(self).__mro__ if name in vars(c)), None)
        if hasattr(type(descriptor), "__set__"):
            descriptor.__set__(self, value)
        elif name.startswith("_") or found is not None:
            self.__dict__[name] = value
        else:
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")

    cls.__setattr__ = guarded


def _layout(base: Any) -> Any:
    """A layout that, given a parent that folds its contents away, lays these out, as it does in CTK."""

    def construct(self: Any, parent: Any = None) -> None:
        base.__init__(self, *([] if parent is None else [getattr(parent, "_contents", parent)]))

    return type(base.__name__, (base,), {"__init__": construct})


class QMenu(QtWidgets.QMenu):
    """A menu; PythonQt makes its title of a first argument that is no widget (Slicer's developer section gives one)."""

    def __init__(self, first: Any = None, *rest: Any) -> None:
        given = [] if first is None else [first if isinstance(first, QtWidgets.QWidget) else str(first)]
        super().__init__(*given, *rest)


def _publish() -> None:
    here = sys.modules[__name__]
    # PythonQt's own additions to every object.
    QtCore.QObject.name = _property("objectName")  # type: ignore[attr-defined]
    QtCore.QObject.className = lambda self: self.metaObject().className()  # type: ignore[attr-defined]
    for module in (QtCore, QtGui, QtWidgets):
        for name in dir(module):  # getattr: PySide6 makes its classes when they are asked for
            value = getattr(module, name)
            if isinstance(value, type) and issubclass(value, QtCore.QObject):
                _show_properties(value)
                _refuse_unknown_attributes(value)
    for module, names in _EXPORTED.items():
        for name in names:
            value = getattr(module, name)
            setattr(here, name, _layout(value) if name.endswith("Layout") else value)
    _patch_objects()


def _keep_none_alive() -> None:
    """PySide6 6.12 takes a reference to None away with every call that returns nothing (measured: 1000 calls of
    `label.setText` on Python 3.11 lose 1000). Where None is not immortal that ends in an abort after some thousands.
    """
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


def _plain_file_dialogs() -> None:
    """PythonQt gives the chosen path (or paths) alone, PySide6 the chosen filter beside it."""
    for name in ("getOpenFileName", "getOpenFileNames", "getSaveFileName"):
        original = getattr(QtWidgets.QFileDialog, name)
        setattr(QtWidgets.QFileDialog, name, staticmethod(lambda *words, _ask=original: _ask(*words)[0]))


_keep_none_alive()
_publish()
_plain_file_dialogs()


def __getattr__(name: str) -> Any:
    raise AttributeError(f"qt.{name} is not modelled by the stand-in; add it to Testing/StandIn/qt.py")
