"""With a Slicer source tree at hand: the modules under Slicer's genuine base classes, and Slicer's own tests here.

MEDGEN_SLICER_SOURCE names the tree. The first proves the modules against code we did not write; the second proves the
stand-in: each of Slicer's tests that passes is something the stand-in does as Slicer does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from conformance import HERE, MODULES, NOT_MODELLED

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

# By file of Base/Python/slicer/tests, how many pass of how many tests. An older tree may have fewer tests, and as many
# that do not pass; a newer one may have more. Whatever else does not pass is a fault of the stand-in.
FLOORS = {
    "test_slicer_parameter_node_wrapper": (33, 33),
    "test_slicer_parameter_pack": (18, 18),
    "test_slicer_parameter_node_wrapper_gui_creation": (11, 11),
    "test_slicer_parameter_node_wrapper_guis": (30, 32),
    "test_slicer_util_VTKObservationMixin": (12, 12),
    "test_slicer_util_getNodes": (4, 4),
    "test_slicer_util_chdir": (3, 3),
    "test_slicer_util_childWidgetVariables": (1, 1),
}


@pytest.fixture(scope="session")
def source() -> Path:
    """The Slicer source tree."""
    named = os.environ.get("MEDGEN_SLICER_SOURCE")
    if not named:
        pytest.skip("MEDGEN_SLICER_SOURCE names no source tree of Slicer")
    folder = Path(named).resolve()
    if not (folder / "Base" / "Python" / "slicer" / "ScriptedLoadableModule.py").is_file():
        pytest.fail(f"MEDGEN_SLICER_SOURCE names {folder}, which is no source tree of Slicer")
    return folder


def conform(*words: object) -> Any:
    """What conformance.py reports."""
    command = [sys.executable, str(HERE / "conformance.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("developer", [False, True], ids=["user", "developer"])
def test_the_modules_live_under_slicers_genuine_base_classes(
    source: Path, developer: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    report = conform(source, "modules", *(["developer"] if developer else []))
    assert report["foreign"] == [], "not the tree's own files"
    assert report["raised"] == [], "raised inside a callback"
    assert set(report["modules"]) == set(MODULES)
    for name, seen in report["modules"].items():
        assert seen == {
            "module name": name,
            "icon": True,
            "self-test": "ScriptedLoadableModule.runTest",
            "widget's name": name,
            "developer section": developer,
            "same node": True,
            "ModuleName": name,
            "reloaded": True,
            "old panel closed": True,
            "new panel shown": True,
            "cleanups": 1,
            "closed": True,
        }, name
    # Slicer's tr takes the context of a translation from the file that calls it.
    assert {*MODULES, "MedGenLib.panel", "MedGenLib.sections"} <= set(report["contexts"])


@pytest.mark.parametrize("name", MODULES)
def test_reload_and_test_of_the_developer_section_passes(
    source: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    report = conform(source, "selftest", name)
    assert report["raised"] == []
    assert f"{name}: all tests passed" in report["said"]


@pytest.mark.parametrize("name", FLOORS)
def test_slicers_own_tests_pass_on_the_stand_in(source: Path, name: str) -> None:
    if not (source / "Base" / "Python" / "slicer" / "tests" / f"{name}.py").is_file():
        pytest.skip(f"{source} has no {name}.py")
    outcomes = conform(source, "tests", name)
    others = [f"{test}: {outcome}" for test, outcome in outcomes.items() if outcome != "passed"]
    passed = len(outcomes) - len(others)
    if others:  # named in pytest's summary, whether or not they are too many
        warnings.warn("\n".join([f"{name}: {passed} of {len(outcomes)} passed, not:", *others]), stacklevel=1)
    known_to_pass, known = FLOORS[name]
    assert passed >= min(known_to_pass, len(outcomes) - (known - known_to_pass)), "\n".join(
        [f"{passed} of {len(outcomes)} passed, not:", *others]
    )


OF_OUR_OWN = """
import unittest
import ctk, qt, slicer

class Tests(unittest.TestCase):
    def test_passes(self):
        self.assertIsNotNone(slicer.mrmlScene)
    def test_fails(self):
        self.assertEqual(1, 2)
    def test_needs_a_widget_that_is_not_modelled(self):
        ctk.ctkMatrixWidget()
    def test_raises_in_a_slot(self):
        button = qt.QPushButton("Press")
        button.connect("clicked()", lambda: 1 / 0)
        button.click()
    def test_is_skipped(self):
        self.skipTest("no network")
"""


def test_what_does_not_pass_is_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "Base" / "Python" / "slicer"
    (folder / "tests").mkdir(parents=True)
    (folder / "tests" / "test_own.py").write_text(OF_OUR_OWN)
    found = {test.partition(".")[2]: outcome for test, outcome in conform(tmp_path, "tests", "test_own").items()}
    assert found.pop("test_passes") == "passed"
    assert found.pop("test_fails").startswith("failed: AssertionError")
    assert NOT_MODELLED in found.pop("test_needs_a_widget_that_is_not_modelled")
    assert "ZeroDivisionError" in found.pop("test_raises_in_a_slot")
    assert found == {"test_is_skipped": "skipped: no network"}
