"""Logic without a panel: nodes in, a real child process, nodes out."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
import slicer
from panel_tools import ROOT, SLUG, home, node_count, stub_catalog, until  # noqa: F401

from MedGenLib import install
from MedGenLib.errors import MedGenLibError, RunError
from MedGenLib.load import provenance_of
from MedGenLib.logic import MedGenLogic
from MedGenLib.plan import export_inputs, write_cohort
from MedGenLib.runs import MedGenRun, python_executable
from MedGenLib.selftest import add_drawing, add_planes, add_volume, ball, check_train_and_apply, dice, labels_of


@pytest.fixture
def nodes(scene: Any, home: Path) -> dict[str, Any]:  # noqa: F811
    """A volume and its drawing."""
    volume = add_volume()
    return {"image": volume, "mask": add_drawing(volume)}


def test_train_then_apply_gives_a_segmentation_of_the_whole_volume(nodes: dict[str, Any], home: Path) -> None:  # noqa: F811
    events: list[dict[str, Any]] = []
    logic = MedGenLogic()
    model = logic.process(SLUG, "train", nodes, tier="smoke", name="ball", wait=True, on_event=events.append)["model"]
    assert model == home / "models" / "ball"
    assert [record["name"] for record in logic.models(SLUG)] == ["ball"]
    assert {"progress", "output", "done"} <= {event["event"] for event in events}
    assert not (home / "runs" / "ball").exists()

    result = logic.process(SLUG, "apply", {"image": nodes["image"]}, model="ball", wait=True)["mask"]
    assert result.IsA("vtkMRMLSegmentationNode") and result.GetName() == "CT mask"
    assert dice(labels_of(result, nodes["image"]), ball()) > 0.95
    record = provenance_of(result)
    assert record["method"] == SLUG and json.loads(record["model"])["name"] == "ball"


def test_the_self_test_of_the_modules_passes(scene: Any, home: Path) -> None:  # noqa: F811
    check_train_and_apply(MedGenLogic(), SLUG, "smoke", at_least=0.95, in_process=True)


def test_a_result_has_a_display_of_its_own(nodes: dict[str, Any]) -> None:
    logic = MedGenLogic()
    planes = add_planes(nodes["image"], (8,))
    inverted = logic.process(SLUG, "invert", {"image": nodes["image"]}, in_process=True)["inverted"]
    model = logic.process(SLUG, "train", {**nodes, "planes": planes}, in_process=True)["model"]
    result = logic.process(SLUG, "apply", {"image": nodes["image"]}, model=model, in_process=True)["mask"]
    assert inverted.GetDisplayNode() is not nodes["image"].GetDisplayNode()
    assert result.GetDisplayNode() is not nodes["mask"].GetDisplayNode()
    first = result.GetSegmentation().GetNthSegmentID(0)
    assert result.GetDisplayNode().GetSegmentOpacity2DFill(first) > 0


def test_a_run_inside_this_python_gives_the_same(nodes: dict[str, Any]) -> None:
    logic = MedGenLogic()
    here = logic.process(SLUG, "train", nodes, tier="smoke", name="here", in_process=True)["model"]
    there = logic.process(SLUG, "train", nodes, tier="smoke", name="there", wait=True)["model"]
    assert (
        json.loads((here / "medgen.json").read_text())["digest"]
        == json.loads((there / "medgen.json").read_text())["digest"]
    )
    result = logic.process(SLUG, "apply", {"image": nodes["image"]}, model=here, in_process=True, name="Whole")["mask"]
    assert result.GetName() == "Whole"
    assert dice(labels_of(result, nodes["image"]), ball()) > 0.95


def test_a_failed_run_is_one_sentence_and_leaves_the_scene_alone(nodes: dict[str, Any], home: Path) -> None:  # noqa: F811
    empty = add_drawing(nodes["image"], slices=(), name="Nothing")
    before = node_count()
    with pytest.raises(MedGenLibError, match="empty") as caught:
        MedGenLogic().process(SLUG, "train", {"image": nodes["image"], "mask": empty}, wait=True)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    assert node_count() == before
    assert not list((home / "models").glob("*")) if (home / "models").exists() else True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {"steps": 0}}, "steps"),
        ({"settings": {"stepps": 3}}, "stepps"),
        ({"tier": "huge"}, "huge"),
        ({"name": "no/name"}, "no/name"),
        ({"inputs": {"picture": None}}, "picture"),
        ({"inputs": {}}, "image"),
    ],
)
def test_what_is_wrong_is_named(nodes: dict[str, Any], change: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"inputs": nodes, "in_process": True, **change}
    before = node_count()
    with pytest.raises(MedGenLibError, match=words):
        MedGenLogic().process(SLUG, "train", **arguments)
    assert node_count() == before


def test_missing_packages_are_named_before_anything_is_written(
    nodes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    home: Path,  # noqa: F811
) -> None:
    monkeypatch.setattr(install, "missing", lambda: ["torch>=2.8"])
    with pytest.raises(RunError, match="torch>=2.8.*Install"):
        MedGenLogic().process(SLUG, "train", nodes)
    assert not home.exists()


def test_an_unknown_method_or_model_is_named(nodes: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="stub-treshold.*stub-threshold"):
        MedGenLogic().process("stub-treshold", "train", nodes)
    with pytest.raises(RunError, match="no model “nobody”"):
        MedGenLogic().process(SLUG, "apply", {"image": nodes["image"]}, model="nobody", wait=True)


def test_a_check_estimates_the_time_and_suggests_the_drawn_slices(nodes: dict[str, Any]) -> None:
    run = MedGenLogic().check(SLUG, "train", nodes, tier="smoke")
    run.wait()
    assert run.estimate is not None and run.estimate["seconds"] == 240.0
    assert len(run.estimate["suggested"]["planes"]["markups"]) == 7
    assert not run.folder.exists()


def test_cancelling_ends_the_process_and_the_training_can_go_on(nodes: dict[str, Any], home: Path) -> None:  # noqa: F811
    logic = MedGenLogic()
    settings = {"steps": 600, "pause": 0.05}
    run = logic.process(SLUG, "train", nodes, settings, name="long")
    until(lambda: run.poll() is not None and run.progress is not None)
    assert logic.interrupted(SLUG) == ["long"]
    run.cancel()
    until(lambda: run.poll() is not None and not run.running)
    assert run.state == "cancelled" and run.exit_code != 0
    assert not (home / "models" / "long").exists()
    with pytest.raises(RunError) as caught:
        run.wait()
    assert caught.value.exit_code == 4
    assert logic.interrupted(SLUG) == ["long"]
    again = logic.resume("long")
    assert again.plan.settings["steps"] == 600 and again.plan.resume
    again.kill()
    until(lambda: again.poll() is not None and not again.running)
    logic.discard("long")
    assert logic.interrupted(SLUG) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [(OSError(errno.ENOSPC, "No space left on device"), "No space is left"), (ValueError("x"), "could not be loaded")],
)
def test_whatever_goes_wrong_with_the_results_ends_the_run(
    nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(self: MedGenRun, outputs: list[Any]) -> None:
        raise error

    monkeypatch.setattr(MedGenRun, "_load", fail)
    run = MedGenLogic().process(SLUG, "invert", {"image": nodes["image"]})
    until(lambda: run.poll() is not None and not run.running)
    assert run.state == "failed" and words in run.message and "\n" not in run.message
    assert not run.folder.exists()


def test_a_table_that_cannot_be_written_is_said_in_a_sentence(scene: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cohort\.csv cannot be written"):
        write_cohort({"image": ["a.nrrd"]}, tmp_path / "file")


def test_a_run_that_outlives_its_scene_adds_nothing_to_the_next(nodes: dict[str, Any]) -> None:
    run = MedGenLogic().process(SLUG, "invert", {"image": nodes["image"]})
    slicer.mrmlScene.Clear(0)
    before = node_count()
    with pytest.raises(RunError, match="scene was closed") as caught:
        run.wait()
    assert caught.value.exit_code == 4 and node_count() == before


def test_a_killed_process_that_does_not_end_is_left_quietly(
    nodes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    run = MedGenLogic().process(SLUG, "invert", {"image": nodes["image"]})
    job = run._job
    assert job is not None
    run.kill()

    def never(timeout: float) -> int:
        raise TimeoutError

    monkeypatch.setattr(job, "wait", never)
    run.abandon()
    until(lambda: not run.folder.exists())
    assert raised == []


def test_logic_loads_without_qt_and_without_torch() -> None:
    code = (
        "import sys, importlib.abc\n"
        "class Forbidden(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('qt', 'ctk', 'torch', 'monai', 'pydantic', 'SimpleITK'):\n"
        "            raise ImportError(name + ' is forbidden')\n"
        "sys.meta_path.insert(0, Forbidden())\n"
        "import MedGenLib.logic, MedGenLib.install, MedGenLib.annotation, MedGenLib.parameters, MedGenLib.cards\n"
        "print(MedGenLib.logic.MedGenLogic().methods('MedGenSegmentation')[:0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_runs_use_pythonslicer_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slicer, "app", types.SimpleNamespace(slicerHome=str(tmp_path)), raising=False)
    assert python_executable() == sys.executable
    launcher = tmp_path / "bin" / "PythonSlicer"
    launcher.parent.mkdir()
    launcher.touch(0o755)
    assert python_executable() == str(launcher)
    found = tmp_path / "PythonSlicer"
    found.touch(0o755)
    assert python_executable() == str(found)


def test_a_table_of_cases_trains_without_nodes(nodes: dict[str, Any], tmp_path: Path) -> None:
    log: list[str] = []
    files = export_inputs(MedGenLogic().operation(SLUG, "train")[1], nodes, tmp_path / "files", log.append)
    cohort = write_cohort(files, tmp_path)
    run = MedGenLogic().process(SLUG, "train", cohort=cohort, tier="smoke", in_process=True)
    assert (run["model"] / "medgen.json").is_file()
    assert cohort.is_file() and Path(files["mask"][0]).is_file()  # what a person brought stays


def test_files_in_a_folder_with_a_semicolon_stay_two_files(tmp_path: Path) -> None:
    from medgen.cohort import read_pool
    from medgen.method import Kind, Pool, Role
    from MedGenLib.plan import write_cohort

    files = [str(tmp_path / "a;b" / name) for name in ("p1.mrk.json", "p2.mrk.json")]
    (tmp_path / "a;b").mkdir()
    for file in files:
        Path(file).write_text("{}")
    table = write_cohort({"planes": files}, tmp_path / "run")
    rows = read_pool(table, Pool("cases", (Role("planes", Kind.PLANE, "planes", many=True),)))
    assert rows[0].files["planes"] == files
