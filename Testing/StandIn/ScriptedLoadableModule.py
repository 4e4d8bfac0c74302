"""Stand-in for `slicer.ScriptedLoadableModule`, written from its documented interface. The Widget base needs Qt."""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

import slicer
import slicer.util


class ScriptedLoadableModule:
    """What Slicer reads about a module."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__
        texts = {"title": "", "categories": [], "dependencies": [], "contributors": []}
        for name, value in {**texts, "helpText": "", "acknowledgementText": "", "icon": None}.items():
            setattr(parent, name, value)

    def resourcePath(self, name: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / name)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        return ""


class ScriptedLoadableModuleWidget:
    """A module's panel."""

    def __init__(self, parent: Any = None) -> None:
        import qt

        self.moduleName = type(self).__name__.removesuffix("Widget")
        if parent is None:
            parent = slicer.qMRMLWidget()
            parent.setLayout(qt.QVBoxLayout())
            parent.setMRMLScene(slicer.mrmlScene)
        self.parent = parent
        self.layout = parent.layout()

    def resourcePath(self, name: str) -> str:
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / name)

    def setup(self) -> None:
        """Overridden."""

    def cleanup(self) -> None:
        """Overridden."""

    def enter(self) -> None:
        """Overridden."""

    def exit(self) -> None:
        """Overridden."""

    def onReload(self) -> None:
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """A module's logic, with its parameter node."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A module's self-test."""

    def delayDisplay(self, message: str, *arguments: Any, **options: Any) -> None:
        print(message)

    def runTest(self, **options: Any) -> None:
        """Overridden."""
