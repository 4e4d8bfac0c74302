"""MedGenBatch.py as Slicer runs it: scenes, folders and DICOM in; `medgen batch`'s results, and its exit code, out."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headless
import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
from boot import fresh_scene, subject_hierarchy_item
from panel_tools import ROOT, SLUG, home, stub_catalog, until  # noqa: F401

from medgen import catalog
from MedGenLib import scenebatch
from MedGenLib.errors import RunError
from MedGenLib.headless import finish
from MedGenLib.selftest import add_drawing, add_volume

sys.path.append(str(ROOT / "Testing" / "Python"))

import dicom_tools as make

WORDS = [sys.executable, str(ROOT / "Testing" / "StandIn" / "headless.py"), str(ROOT / "MedGenLib" / "MedGenBatch.py")]
PRIVATE = (*make.NAME.split("^"), make.ID, make.BIRTH)
INVERT = ("--operation", "invert", "--workers", 1)
IMAGE = {"name": "image", "kind": "Image", "dims": None, "many": False, "optional": False, "reference": False}
IMAGE |= {"modality": None, "may_be_empty": False}
MASK = {**IMAGE, "name": "mask", "kind": "Mask"}
OPERATION = {"name": "apply", "title": "Apply", "scope": "case", "inputs": [IMAGE]}


def script(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The script as `Slicer --no-main-window --python-script` runs it."""
    command = [*WORDS, "--", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=300)


@pytest.fixture
def plain(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    """The backend tests' method without torch stands in the catalog; its slug."""
    stubs = ROOT / "Testing" / "Python"
    (tmp_path / "home").mkdir()
    path = tmp_path / "home" / "catalog.json"
    path.write_text(catalog.build(["stubs.plain"]), encoding="utf-8")
    monkeypatch.setenv("MEDGEN_CATALOG", str(path))
    monkeypatch.setenv("PYTHONPATH", f"{stubs}{os.pathsep}{ROOT}")
    return "stub-plain"


def table(path: Path) -> list[dict[str, str]]:
    """A table of the batch's."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def save_scene(path: Path, *, moved: float = 0.0, empty: bool = False) -> np.ndarray:
    """A scene with one volume under a transform; its voxels."""
    headless.start()
    fresh_scene()
    volume = add_volume()
    if moved:
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Shift")
        matrix = np.eye(4)
        matrix[0, 3] = moved
        slicer.util.updateTransformMatrixFromArray(transform, matrix)
        volume.SetAndObserveTransformNodeID(transform.GetID())
    if empty:
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Hollow")
    voxels = slicer.util.arrayFromVolume(volume).copy()
    assert slicer.util.saveScene(str(path), {})
    return voxels


# --- from scenes to a table ---------------------------------------------------------------------------------------


def test_every_volume_of_a_scene_is_a_case_with_what_belongs_to_it(scene: Any, tmp_path: Path) -> None:
    first, second = add_volume(), add_volume()
    first.SetName("Head 1")
    second.SetName("Head 2")
    drawn = add_drawing(second, name="Head 2 drawing")
    found = scenebatch.cases_of({**OPERATION, "inputs": [IMAGE, {**MASK, "optional": True}]})
    assert found == [{"image": first}, {"image": second, "mask": drawn}]
    # A case that lacks what it needs is there all the same, for the batch to note.
    assert {"image": first} in scenebatch.cases_of({**OPERATION, "inputs": [IMAGE, MASK]})
    # Of roles that take any number of markups, nobody has said which are a case's.
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Head 1")
    boxes = {**IMAGE, "name": "boxes", "kind": "Box", "many": True, "optional": True}
    assert {"image": first} in scenebatch.cases_of({**OPERATION, "inputs": [IMAGE, boxes]})


def test_a_scene_that_cannot_be_read_and_a_hollow_volume_do_not_stop_the_others(tmp_path: Path) -> None:
    scenes = [tmp_path / f"{name}.mrb" for name in "abc"]
    save_scene(scenes[0], moved=5)
    scenes[1].write_bytes(b"not a scene")
    save_scene(scenes[2], empty=True)
    (tmp_path / "out").mkdir()
    said: list[str] = []
    path, lost = scenebatch.export_scenes(scenes, OPERATION, tmp_path / "out", False, said.append)
    rows = table(path)
    assert lost == 1 and [row["subject"] for row in rows] == ["a CT", "c CT", "c Hollow"]
    assert [bool(row["image"]) for row in rows] == [True, True, False]
    assert all(Path(row["image"]).is_file() for row in rows[:2])
    assert any("b.mrb cannot be read as a scene" in one for one in said)
    assert any("“Hollow” has no image data" in one for one in said)
    # Slicer's own place for what it unpacked is emptied: the files lie with the others.
    assert all((tmp_path / "out") in Path(row["image"]).parents for row in rows[:2])
    scenes[0].unlink()
    with pytest.raises(RunError, match="No scene holds a volume for “image”"):
        scenebatch.export_scenes([scenes[1]], OPERATION, tmp_path / "out", False, said.append)


def test_a_node_called_after_its_patient_gets_a_plain_name(scene: Any, tmp_path: Path) -> None:
    volume = add_volume()
    volume.SetName("Quastenflosser T1")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "somebody")
    hierarchy.SetItemAttribute(patient, "DICOM.PatientName", make.NAME)
    subject_hierarchy_item(volume, patient)
    said: list[str] = []
    name, log = scenebatch._names(volume, False, said.append)
    log(f"“{volume.GetName()}” was resampled.")
    assert name == "volume" and said == ["“volume” was resampled."]
    assert scenebatch._names(volume, True, said.append)[0] == "Quastenflosser T1"
    volume.SetName("T1")
    assert scenebatch._names(volume, False, said.append)[0] == "T1"


def test_the_table_takes_the_place_of_the_scene_and_of_nothing_else() -> None:
    words = ["-o", "a.mrb", "--workers", "2", "model", "a.mrb", "--set", "x=a.mrb"]
    expected = ["-o", "a.mrb", "--workers", "2", "model", "t.csv", "--set", "x=a.mrb"]
    assert scenebatch.with_cohort(words, Path("t.csv")) == expected


def test_a_scene_written_again_is_the_same_to_the_byte(tmp_path: Path) -> None:
    save_scene(tmp_path / "a.mrb", moved=5)
    written = []
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        path, _ = scenebatch.export_scenes([tmp_path / "a.mrb"], OPERATION, tmp_path / name, False, print)
        written.append(Path(table(path)[0]["image"]).read_bytes())
    assert written[0] == written[1]  # so that a second start finds the case done


# --- the script ---------------------------------------------------------------------------------------------------


def test_a_scene_gives_the_results_of_a_batch_in_world_coordinates(plain: str, tmp_path: Path) -> None:
    voxels = save_scene(tmp_path / "one scene.mrb", moved=5)
    left = slicer.mrmlScene.GetFirstNodeByName("CT").GetOrigin()[0]
    done = script("--workers", 1, plain, "one scene.mrb", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 cases" in done.stdout and "report: " in done.stdout
    (row,) = table(tmp_path / "out" / "results.csv")
    assert row["case"] == "CT"
    result = sitk.ReadImage(str(tmp_path / "out" / row["product"]))
    np.testing.assert_allclose(sitk.GetArrayFromImage(result), 2.0 * voxels)
    assert result.GetOrigin()[0] == pytest.approx(-(left + 5))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".medgen-")]


def test_a_folder_of_dicom_with_a_bad_series_ends_with_5_and_names_nobody(home: Path, tmp_path: Path) -> None:  # noqa: F811
    archive = tmp_path / "archive"
    make.stack(archive / make.NAME, f"{make.ROOT_UID}.2.1")
    make.stack(archive / make.NAME, f"{make.ROOT_UID}.2.3", name="C{}", heights=(0, 1, 2, 4))
    make.objects(archive / make.NAME)
    done = script(SLUG, archive, "-o", tmp_path / "out", *INVERT, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert len(table(tmp_path / "out" / "results.csv")) == 1
    (failure,) = table(tmp_path / "out" / "failures.csv")
    assert failure["reason"].startswith(f"{failure['case']} lacks 1 slice")
    said = (done.stdout + done.stderr).lower()
    assert "(rtstruct)" in said and not any(word.lower() in said for word in PRIVATE)
    kept = b"".join(str(path).encode() + path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert not any(word.lower().encode() in kept.lower() for word in PRIVATE)


def test_what_the_batch_refuses_ends_with_2_and_its_sentence(plain: str, tmp_path: Path) -> None:
    done = script(plain, "nowhere.csv", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "nowhere.csv" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "cases").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([SLUG, "cohort.csv"], "-o"),
        ([SLUG, "cohort.csv", "-o", "out", "--fly"], "--fly"),
        (["fly", "bad.mrb", "-o", "out"], "fly"),
        ([SLUG, "bad.mrb", "-o", "out", "--operation", "invert"], "No scene holds a volume"),
    ],
)
def test_nonsense_is_refused_before_anything_is_started(
    home: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    headless.start()
    ended: list[int] = []
    monkeypatch.setattr(slicer.util, "exit", ended.append)
    monkeypatch.setattr(sys, "argv", ["MedGenBatch.py", *words])
    monkeypatch.chdir(tmp_path)
    complaints = io.StringIO()
    monkeypatch.setattr(sys, "stderr", complaints)
    (tmp_path / "bad.mrb").write_bytes(b"not a scene")
    finish(scenebatch.main)
    assert ended == [2]
    assert said in complaints.getvalue() and "Traceback" not in complaints.getvalue()
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["bad.mrb"]


def test_help_is_that_of_medgen_batch_and_scenes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        scenebatch.main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "folder of scenes" in said and "--redo" in said


def test_a_broken_installation_does_not_leave_slicer_open(tmp_path: Path) -> None:
    lonely = tmp_path / "MedGenBatch.py"
    lonely.write_text((ROOT / "MedGenLib" / "MedGenBatch.py").read_text().replace("MedGenLib.", "Nowhere."))
    done = subprocess.run([*WORDS[:2], str(lonely)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1 and "Nowhere" in done.stderr


@pytest.fixture
def slow_batch(plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """The script at work on three cases that each take a minute, with two workers; all its processes carry a mark."""
    monkeypatch.setenv("MEDGEN_TEST_MARK", str(tmp_path))
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 4, 4), np.float32)), str(tmp_path / "a.nrrd"))
    (tmp_path / "cohort.csv").write_text("subject,image\n" + "".join(f"{name},a.nrrd\n" for name in "abc"))
    words = ["--", plain, "cohort.csv", "-o", "out", "--set", "seconds=60", "--workers", "2"]
    with subprocess.Popen(
        [*WORDS, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    ) as p:
        until(lambda: len(list((tmp_path / "out").glob(".partial-*-[abc]"))) == 2)
        yield p
        p.kill()


def marked(mark: str) -> list[int]:
    """Processes that inherited the mark, this one left out."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes()
        except OSError:
            continue
        if f"MEDGEN_TEST_MARK={mark}".encode() in environment and int(place.name) != os.getpid():
            found.append(int(place.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_an_ended_slicer_leaves_no_worker(
    slow_batch: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    assert len(marked(str(tmp_path))) >= 4  # Slicer, the batch, two workers
    began = time.monotonic()
    slow_batch.send_signal(number)
    code = slow_batch.wait(timeout=60)
    assert code == (4 if number == signal.SIGTERM else -number)
    until(lambda: not marked(str(tmp_path)), 30)
    assert time.monotonic() - began < 40
