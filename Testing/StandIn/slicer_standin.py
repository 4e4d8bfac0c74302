"""Stand-ins for the qMRML widgets and Slicer's application object, over PySide6 and the real MRML scene."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import ctk
import furtherwidgets
import headless
import qt
import slicer
import slicer.util
from PySide6 import QtWidgets
from PySide6.QtCore import Signal


class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows the scene."""

    mrmlSceneChanged = Signal(object)
    SIGNALS: ClassVar = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qSlicerWidget(qMRMLWidget):
    """A widget of a module's file; it knows the scene, too."""


class _NodeList(qMRMLWidget):
    """What both node combo boxes share: which nodes of the scene are offered, kept up to date by MRML events."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._types: list[str] = []
        self._children = True
        self._tags: list[tuple[Any, int]] = []
        self._named: dict[str, tuple[Any, int]] = {}
        # MRML observers outlive the widget unless they are dropped with it.
        tags, named = self._tags, self._named
        self.destroyed.connect(lambda: _drop(tags, named))

    def setMRMLScene(self, scene: Any) -> None:
        _drop(self._tags, self._named)
        super().setMRMLScene(scene)
        if scene is not None:
            for event in (
                scene.NodeAddedEvent,
                scene.NodeRemovedEvent,
                scene.EndBatchProcessEvent,
                scene.EndCloseEvent,
            ):
                self._tags.append((scene, scene.AddObserver(event, lambda *_: self._refresh())))
        self._refresh()

    def _accepts(self, node: Any) -> bool:
        fits = node.IsA if self._children else node.GetClassName().__eq__
        return any(fits(name) for name in self._types) and not node.GetHideFromEditors()

    def _nodes(self) -> list[Any]:
        scene = self._scene
        if scene is None or scene.IsBatchProcessing():
            return []
        nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
        return [node for node in nodes if self._accepts(node)]

    def _follow_names(self, nodes: list[Any]) -> None:
        for node in nodes:
            if node.GetID() not in self._named:
                self._named[node.GetID()] = (node, node.AddObserver("ModifiedEvent", lambda *_: self._rename()))

    def _refresh(self) -> None:
        raise NotImplementedError

    def _rename(self) -> None:
        raise NotImplementedError

    def _set_types(self, names: list[str]) -> None:
        self._types = list(names)
        self._refresh()

    def _set_children(self, shown: bool) -> None:
        self._children = shown
        self._refresh()


def _drop(tags: list[tuple[Any, int]], named: dict[str, tuple[Any, int]]) -> None:
    for owner, tag in [*tags, *named.values()]:
        owner.RemoveObserver(tag)
    tags.clear()
    named.clear()


class qMRMLNodeComboBox(_NodeList):
    """One node of the scene, or none."""

    currentNodeChanged = Signal(object)
    SIGNALS: ClassVar = {"currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged"}

    def __init__(self, parent: Any = None) -> None:
        self._box = QtWidgets.QComboBox()
        self._none = False
        self._none_text = "None"
        self._add = self._remove = True
        self._ids: list[str] = []
        self._current = ""
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.activated.connect(lambda index: self._select(self._ids[index]))

    def _refresh(self) -> None:
        nodes = self._nodes()
        self._follow_names(nodes)
        self._ids = ([""] if self._none else []) + [node.GetID() for node in nodes]
        self._box.clear()
        self._box.addItems(([self._none_text] if self._none else []) + [node.GetName() for node in nodes])
        # Only who loses its node gets another: nothing is chosen for a person who has chosen nothing.
        lost = self._current and self._current not in self._ids
        self._select(self._current if not lost else "" if self._none or not nodes else nodes[0].GetID())

    def _rename(self) -> None:
        for index, node_id in enumerate(self._ids):
            node = self._scene.GetNodeByID(node_id) if node_id and self._scene is not None else None
            if node is not None:
                self._box.setItemText(index, node.GetName())

    def _select(self, node_id: str) -> None:
        changed = node_id != self._current
        self._current = node_id
        self._box.setCurrentIndex(self._ids.index(node_id) if node_id in self._ids else -1)
        if changed:
            self.currentNodeChanged.emit(self.currentNode())

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        node_id = "" if node is None else node.GetID()
        if node_id not in self._ids:
            self._refresh()
        if node_id in self._ids or not node_id:
            self._select(node_id)

    def nodeCount(self) -> int:
        return len(self._nodes())

    def _set_none(self, enabled: bool) -> None:
        self._none = enabled
        self._refresh()

    def _set_none_text(self, text: str) -> None:
        self._none_text = text
        self._refresh()

    nodeTypes = property(lambda self: tuple(self._types), _NodeList._set_types)
    showChildNodeTypes = property(lambda self: self._children, _NodeList._set_children)
    noneEnabled = property(lambda self: self._none, _set_none)
    noneDisplay = property(lambda self: self._none_text, _set_none_text)
    addEnabled = property(lambda self: self._add, lambda self, value: setattr(self, "_add", value))
    removeEnabled = property(lambda self: self._remove, lambda self, value: setattr(self, "_remove", value))


class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """Any number of nodes of the scene; as Slicer's, it is a node combo box that has a current node besides."""

    checkedNodesChanged = Signal()

    def __init__(self, parent: Any = None) -> None:
        self._column = QtWidgets.QVBoxLayout()
        self._boxes: dict[str, Any] = {}
        super().__init__(parent)
        self._box.hide()
        self._column.setContentsMargins(0, 0, 0, 0)
        self.layout().addLayout(self._column)

    def _refresh(self) -> None:
        super()._refresh()
        nodes = {node.GetID(): node for node in self._nodes()}
        self._follow_names(list(nodes.values()))
        for node_id in [known for known in self._boxes if known not in nodes]:
            self._boxes.pop(node_id).deleteLater()
        for node_id, node in nodes.items():
            if node_id not in self._boxes:
                box = self._boxes[node_id] = QtWidgets.QCheckBox(node.GetName())
                box.toggled.connect(lambda on: self.checkedNodesChanged.emit())
                self._column.addWidget(box)

    def _rename(self) -> None:
        super()._rename()
        for node_id, box in self._boxes.items():
            node = self._scene.GetNodeByID(node_id)
            if node is not None:
                box.text = node.GetName()

    def checkedNodes(self) -> list[Any]:
        return [self._scene.GetNodeByID(node_id) for node_id, box in self._boxes.items() if box.checked]

    def setCheckState(self, node: Any, state: Any) -> None:
        self._boxes[node.GetID()].checked = state != qt.Qt.Unchecked


class ModuleManager(qt.QObject):
    """Only what reloading asks for."""

    moduleAboutToBeUnloaded = Signal(str)


class App(headless.App):
    """`slicer.app` with a Qt event loop and the views of a test."""

    def __init__(self, runtime: Any) -> None:
        super().__init__(runtime)
        self._qt = qt.QApplication.instance() or qt.QApplication(["Slicer"])
        self._qt.setStyle("Fusion")
        self._modules = ModuleManager()
        self.layout_manager: Any = None

    def layoutManager(self) -> Any:
        return self.layout_manager

    def moduleManager(self) -> ModuleManager:
        return self._modules

    def processEvents(self) -> None:
        self._qt.processEvents()

    def settings(self) -> Any:
        return qt.QSettings()

    def userSettings(self) -> Any:
        return qt.QSettings()

    def restart(self) -> None:
        """There is nothing to start again."""

    def __getattr__(self, name: str) -> Any:
        """The rest is a QApplication's; Slicer's application is one."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._qt, name)


class Module:
    """A loaded scripted module, as `slicer.modules.NAME` gives it."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.path = str(path)
        self._representation: Any = None
        self._widget_class: Callable[..., Any] | None = None

    def widgetRepresentation(self) -> Any:
        if self._representation is None:
            self._representation = ModuleWidget(self)
            self._representation.setLayout(qt.QVBoxLayout())
            self._representation.setMRMLScene(slicer.mrmlScene)
            self._representation.make()
        return self._representation


class ModuleWidget(qMRMLWidget):
    """The outer widget of a scripted module, which makes its Python widget."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self._module = module
        self._python: Any = None

    isEntered = property(lambda self: self.visible)

    def make(self) -> None:
        """Instantiate the Widget class of the module's file, as it is now, and set it up."""
        name = self._module.name + "Widget"
        self._python = getattr(sys.modules[self._module.name], name)(self)
        setattr(slicer.modules, name, self._python)
        self._python.setup()

    def reload(self) -> None:
        self.make()

    def self(self) -> Any:
        return self._python


def load_module(path: Path) -> Module:
    """Load a module file as Slicer's module factory does; only the file's own folder joins the path."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = Module(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = code
    spec.loader.exec_module(code)
    setattr(slicer.modules, path.stem.lower(), module)
    setattr(slicer.modules, path.stem + "Instance", getattr(code, path.stem)(module))
    return module


_started = False


def start() -> Any:
    """Boot the runtime with Qt, once a process; `slicer.app`."""
    global _started
    if not _started:
        runtime = headless.start(App(headless.boot.boot()))
        if isinstance(slicer.modules, types.SimpleNamespace):
            further = (furtherwidgets.qMRMLSliderWidget, furtherwidgets.qMRMLSpinBox, furtherwidgets.qMRMLRangeWidget)
            for widget in (qMRMLWidget, qSlicerWidget, qMRMLNodeComboBox, qMRMLCheckableNodeComboBox, *further):
                setattr(slicer, widget.__name__, widget)
        assert runtime is not None and ctk is not None
        _started = True
    return slicer.app
