"""Slicer module MedGen Landmarks: points and boxes come out.

Thin on purpose: what the three modules share is in MedGenLib, and what is particular to a method in medgen. Nothing
beyond the standard library and Slicer is imported, so that the module appears whatever else is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
)

try:
    import MedGenLib  # noqa: F401
except ImportError:  # a checkout: Slicer has put only this file's own folder on the path
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from MedGenLib import sampledata
from MedGenLib.logic import MedGenLogic
from MedGenLib.triplet import ModuleWidget


class MedGenLandmarks(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MedGen Landmarks")
        parent.categories = ["MedGen"]
        parent.dependencies = []
        parent.contributors = ["The MedGen maintainers"]
        parent.helpText = _(
            "Published methods that mark points in medical images: place landmarks in one example, press Train, then"
            " choose another volume of the same anatomy and press Apply; each point comes with a confidence."
            " Each method shows its paper, what it needs and where it fails. Research use only, not for clinical use."
        )
        parent.acknowledgementText = _(
            "Each method is the work of the authors of its paper, which its card names and links; please cite them."
        )
        slicer.app.connect("startupCompleted()", lambda: sampledata.register("MedGenLandmarks", __file__))


class MedGenLandmarksWidget(ModuleWidget):
    """The panel; made by MedGenLib from the methods' declarations."""

    def createLogic(self) -> MedGenLogic:
        """The module's Logic."""
        return MedGenLandmarksLogic()


class MedGenLandmarksLogic(ScriptedLoadableModuleLogic, MedGenLogic):
    """Runs methods from nodes; usable without a panel. See `MedGenLogic.process`."""


class MedGenLandmarksTest(ScriptedLoadableModuleTest):
    """Self-test, with the assertions that the tests without Slicer make too."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All tests."""
        self.setUp()
        self.test_panel_shows_its_methods()
        self.setUp()
        self.test_landmarks_from_one_example()
        self.delayDisplay("MedGenLandmarks: all tests passed")

    def test_panel_shows_its_methods(self) -> None:
        """Every method has its card; a module without methods says so."""
        from MedGenLib import selftest

        slicer.modules.medgenlandmarks.widgetRepresentation()
        selftest.check_methods_are_shown("MedGenLandmarks", slicer.modules.MedGenLandmarksWidget.panel)

    def test_landmarks_from_one_example(self) -> None:
        """Train and Apply at the smoke tier, where the packages for it are installed."""
        from MedGenLib import selftest

        if not selftest.ready():
            self.delayDisplay("Skipped: MedGen's Python packages are not installed")
            return
        selftest.check_landmarks(MedGenLandmarksLogic(), "one-shot-landmarks", "smoke", within=1.0)
