"""What the widgets of the three module files share."""

from __future__ import annotations

import sys

from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget


class ModuleWidget(ScriptedLoadableModuleWidget):
    """A module's panel, made by MedGenLib from the methods' declarations. A module says which Logic it has."""

    def createLogic(self) -> object:
        """The module's Logic."""
        raise NotImplementedError

    def setup(self) -> None:
        """Called once, when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        from MedGenLib.panel import MedGenPanel

        self.logic = self.createLogic()
        self.panel = MedGenPanel(self.layout, self.moduleName, self.logic, self.logic.getParameterNode)

    def enter(self) -> None:
        """The module is shown."""
        self.panel.enter()

    def exit(self) -> None:
        """Another module is shown."""
        self.panel.exit()

    def cleanup(self) -> None:
        """The module is unloaded or reloaded."""
        self.panel.cleanup()

    def onReload(self) -> None:
        """Slicer reloads the module's own file only: forget the library, so that it is read anew with it."""
        for name in [name for name in sys.modules if name.partition(".")[0] == "MedGenLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)
