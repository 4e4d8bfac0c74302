"""Runs in a Python of its own: the modules, or Slicer's own tests, on the stand-in with a source tree's genuine files.

    python Testing/Slicer/conformance.py SOURCE modules [developer]
    python Testing/Slicer/conformance.py SOURCE selftest MedGenSegmentation
    python Testing/Slicer/conformance.py SOURCE tests test_slicer_util_getNodes

SOURCE is a Slicer source tree, of which Base/Python/slicer is used. The last line printed is a report in JSON.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import types
import unittest
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODULES = ("MedGenSynthesis", "MedGenSegmentation", "MedGenLandmarks")
NOT_MODELLED = "not modelled by the stand-in"


class NoImp:
    """Python 3.12, which Slicer has, knows no module `imp`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "imp":
            raise ModuleNotFoundError("No module named 'imp'")


def use_genuine(source: Path) -> Path:
    """Put the tree's Python files before those of slicer-core and start the stand-in; the folder of the files."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="slicer-conformance-")  # settings of nobody else
    sys.path[:0] = [str(ROOT / "Testing" / "StandIn")]
    sys.meta_path.insert(0, NoImp())  # type: ignore[arg-type]
    import slicer

    folder = source / "Base" / "Python" / "slicer"
    slicer.__path__.insert(0, str(folder))
    sys.modules.pop("slicer.util", None)
    importlib.import_module("slicer.util")
    import slicer_standin

    slicer_standin.start()
    return folder


def where(name: str) -> str:
    """The file a module of the package `slicer` came from."""
    return str(importlib.import_module(name).__file__)


def settings_for(developer: bool) -> None:
    """What Slicer's application settings say."""
    import qt

    qt.QApplication.setOrganizationName("MedGen")
    qt.QApplication.setApplicationName("conformance")
    qt.QSettings.setDefaultFormat(qt.QSettings.IniFormat)
    qt.QSettings().setValue("Developer/DeveloperMode", developer)
    qt.QSettings().setValue("Developer/SelfTestDisplayMessageDelay", 10)


def picture(widget: Any, name: str) -> None:
    """Save a picture where MEDGEN_PICTURES says."""
    import views

    if folder := os.environ.get("MEDGEN_PICTURES"):
        widget.resize(470, 900)
        views.save(widget, Path(folder) / f"conformance_{name}.png")


def exercise(name: str, developer: bool) -> dict[str, Any]:
    """Load, open, close the scene, reload and unload one module; what was seen."""
    import slicer
    import slicer_standin

    seen: dict[str, Any] = {}
    module = slicer_standin.load_module(ROOT / name / f"{name}.py")
    instance = getattr(slicer.modules, f"{name}Instance")
    seen["module name"] = instance.moduleName
    seen["icon"] = module.icon is not None and not module.icon.isNull()
    seen["self-test"] = getattr(slicer.selfTests[name], "__qualname__", "")
    outer = module.widgetRepresentation()
    outer.show()
    widget = outer.self()
    seen["widget's name"] = widget.moduleName
    seen["developer section"] = hasattr(widget, "reloadCollapsibleButton")
    widget.enter()
    widget.exit()
    node = widget.logic.getParameterNode()
    slicer.mrmlScene.Clear(0)
    slicer.app.processEvents()
    seen["same node"] = widget.logic.getParameterNode() is node
    seen["ModuleName"] = node.GetAttribute("ModuleName")
    widget.enter()
    picture(outer, f"{name}{'_developer' if developer else ''}")
    library = sys.modules["MedGenLib.panel"]
    if developer:
        widget.reloadButton.click()
    else:
        widget.onReload()
    slicer.app.processEvents()
    again = outer.self()
    picture(outer, f"{name}{'_developer' if developer else ''}_reloaded")
    seen["reloaded"] = again is not widget and sys.modules["MedGenLib.panel"] is not library
    seen["old panel closed"] = widget.panel._closed and not again.panel._closed
    seen["new panel shown"] = bool(again.panel.body.visible or again.panel.empty.visible)
    case = getattr(sys.modules[name], f"{name}Test")()
    case.setUp()
    case.test_panel_shows_its_methods()
    counted: list[str] = []
    cleanup = again.cleanup
    again.cleanup = lambda: (counted.append(name), cleanup())
    for _time in range(2):  # the second time nobody listens any more
        slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(name)
    seen["cleanups"] = len(counted)
    seen["closed"] = again.panel._closed
    outer.hide()
    return seen


def exercise_modules(source: Path, developer: bool) -> dict[str, Any]:
    """All three modules under the genuine base classes."""
    folder = use_genuine(source)
    settings_for(developer)
    import slicer

    raised: list[str] = []
    sys.excepthook = lambda kind, value, trace: raised.append(repr(value))
    contexts: dict[str, str] = {}

    def translate(context: str, text: str) -> str:
        contexts.setdefault(context, text)
        return text

    slicer.app.translate = translate
    modules = {name: exercise(name, developer) for name in MODULES}
    files = [where(f"slicer.{name}") for name in ("ScriptedLoadableModule", "i18n", "util")]
    return {
        "modules": modules,
        "foreign": [path for path in files if not path.startswith(str(folder))],
        "raised": raised,
        "contexts": sorted(contexts),
    }


class Said(logging.Handler):
    """What was logged; Slicer's self-tests log what they display."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def reload_and_test(source: Path, name: str) -> dict[str, Any]:
    """Choose "Reload and Test" in a module's developer section; what the self-test said, and what was raised."""
    use_genuine(source)
    settings_for(True)
    import slicer_standin

    raised: list[str] = []
    sys.excepthook = lambda kind, value, trace: raised.append(repr(value))
    said = Said()
    logging.getLogger().addHandler(said)
    logging.getLogger().setLevel(logging.INFO)
    outer = slicer_standin.load_module(ROOT / name / f"{name}.py").widgetRepresentation()
    outer.show()
    widget = outer.self()
    if hasattr(widget, "reloadTestAction"):
        widget.reloadTestAction.trigger()
    else:  # a button in older Slicers, an entry of a menu in newer ones
        widget.reloadAndTestButton.click()
    return {"said": said.messages, "raised": raised}


class Result(unittest.TestResult):
    """Outcome by test; an exception in a slot or an observer, which its caller only prints, is a failure too."""

    def __init__(self) -> None:
        super().__init__()
        self.raised: list[BaseException] = []
        self.outcomes: dict[str, str] = {}

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.raised.clear()
        self._note(test, "passed")

    def _note(self, test: Any, outcome: str) -> None:
        self.outcomes[_short(test)] = outcome

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        if self.raised and self.outcomes[_short(test)] == "passed":
            self._note(test, f"failed: in a callback: {self.raised[0]!r}")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self._note(test, _words(err[1]))

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._note(test, _words(err[1]))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._note(test, f"skipped: {reason}")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self._note(test, "failed: passed, and was expected to fail")


def _short(test: Any) -> str:
    return ".".join(test.id().split(".")[-2:])


def _words(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    return text if NOT_MODELLED in text else f"failed: {text}"


def run_tests(source: Path, name: str) -> dict[str, str]:
    """One file of Slicer's own tests, unmodified; by test "passed", or why not."""
    folder = use_genuine(source)
    settings_for(False)
    import furtherwidgets
    import slicer

    for widget in (furtherwidgets.qMRMLSubjectHierarchyTreeView, furtherwidgets.qMRMLSubjectHierarchyComboBox):
        setattr(slicer, widget.__name__, widget)
    # The compiled modules of the application, whose classes all are in `slicer` here.
    for alias in ("MRMLCorePython", "qSlicerSubjectHierarchyModuleWidgetsPythonQt"):
        sys.modules[alias] = types.ModuleType(alias)
        sys.modules[alias].__dict__.update(vars(slicer))
    path = folder / "tests" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    result = Result()
    sys.excepthook = lambda kind, value, trace: result.raised.append(value)
    spec.loader.exec_module(module)
    for case in vars(module).values():  # not the base class that a file may import
        if isinstance(case, type) and issubclass(case, unittest.TestCase) and case.__module__ == name:
            unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    return result.outcomes


if __name__ == "__main__":
    tree, what, *more = sys.argv[1:]
    if what == "modules":
        report: dict[str, Any] = exercise_modules(Path(tree), more == ["developer"])
    elif what == "selftest":
        report = reload_and_test(Path(tree), more[0])
    else:
        report = run_tests(Path(tree), more[0])
    print("\n" + json.dumps(report))
    sys.stdout.flush()
    shutil.rmtree(os.environ["XDG_CONFIG_HOME"])
    os._exit(0)  # Slicer's tests leave widgets behind whose observers outlive Qt
