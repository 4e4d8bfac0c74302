"""Slicer module MedGen Synthesis: images come out: translated, generated, edited, augmented.

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


class MedGenSynthesis(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MedGen Synthesis")
        parent.categories = ["MedGen"]
        parent.dependencies = []
        parent.contributors = ["The MedGen maintainers"]
        parent.helpText = _(
            "Published methods that make medical images from others: train on pairs of volumes (such as MR and CT of"
            " the same patients), then choose a volume, press Apply, and the synthetic one lies on the same grid."
            " Each method shows its paper, what it needs and where it fails. Research use only, not for clinical use."
        )
        parent.acknowledgementText = _(
            "Each method is the work of the authors of its paper, which its card names and links; please cite them."
        )
        slicer.app.connect("startupCompleted()", lambda: sampledata.register("MedGenSynthesis", __file__))


class MedGenSynthesisWidget(ModuleWidget):
    """The panel; made by MedGenLib from the methods' declarations."""

    def createLogic(self) -> MedGenLogic:
        """The module's Logic."""
        return MedGenSynthesisLogic()


class MedGenSynthesisLogic(ScriptedLoadableModuleLogic, MedGenLogic):
    """Runs methods from nodes; usable without a panel. See `MedGenLogic.process`."""


class MedGenSynthesisTest(ScriptedLoadableModuleTest):
    """Self-test, with the assertions that the tests without Slicer make too."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All tests."""
        self.setUp()
        self.test_panel_shows_its_methods()
        self.setUp()
        self.test_mr_to_synthetic_ct()
        self.delayDisplay("MedGenSynthesis: all tests passed")

    def test_panel_shows_its_methods(self) -> None:
        """Every method has its card; a module without methods says so."""
        from MedGenLib import selftest

        slicer.modules.medgensynthesis.widgetRepresentation()
        selftest.check_methods_are_shown("MedGenSynthesis", slicer.modules.MedGenSynthesisWidget.panel)

    def test_mr_to_synthetic_ct(self) -> None:
        """Train and Apply at the smoke tier, where the packages for it are installed."""
        from MedGenLib import selftest

        if not selftest.ready():
            self.delayDisplay("Skipped: MedGen's Python packages are not installed")
            return
        selftest.check_synthetic_volume(MedGenSynthesisLogic(), "frequency-mr-to-ct", "smoke")
