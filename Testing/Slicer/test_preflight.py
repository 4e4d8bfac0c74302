"""Checks before Apply: what is said of inputs, model and computer, and the buttons that mend it, inputs untouched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import qt
import slicer
import vtk
from panel_tools import SLUG, home, stub_catalog, until  # noqa: F401
from test_panel import case, widget  # noqa: F401

from medgen import resources
from MedGenLib import imagechecks, imagefacts, jobqueue, preflight, remedies, trainingcases
from MedGenLib.errors import RunError
from MedGenLib.geometry import ijk_to_ras, to_vtk
from MedGenLib.preflight import AMBER, GREEN, RED
from MedGenLib.selftest import add_planes, add_volume

CT = {"name": "ct", "kind": "Image", "dims": "3D", "modality": "CT", "units": "HU"}
MR = {**CT, "name": "mr", "modality": "MR", "units": None}
ANY = {**CT, "name": "image", "modality": None, "units": None}


def volume_of(array: np.ndarray, name: str = "V", spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Any:
    matrix = vtk.vtkMatrix4x4()
    for axis, size in enumerate(spacing):
        matrix.SetElement(axis, axis, size)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name=name)


def levels(node: Any, role: dict[str, Any], seen: dict[str, Any] | None = None) -> dict[str, str]:
    """Sentences that are not green, by their first remedy or their level."""
    return {words: level for level, words, _ in imagechecks.examine_image(node, role, seen) if level != GREEN}


def remedy_kinds(node: Any, role: dict[str, Any], seen: dict[str, Any] | None = None) -> list[str]:
    return [kind for _, _, wanted in imagechecks.examine_image(node, role, seen) for kind, _ in wanted]


@pytest.fixture
def noise(scene: Any) -> np.ndarray:
    return np.random.default_rng(0).normal(500, 100, (20, 24, 28)).astype(np.float32)


# --- rules


@pytest.mark.parametrize(
    ("low", "high", "level", "words", "kinds"),
    [
        (-1024, 1500, None, "", []),
        (0, 2500, RED, "without its offset", ["shift"]),
        (0, 255, RED, "not Hounsfield units", []),
        (-150, 900, AMBER, "no air or no bone", []),
        (-1000, 90, AMBER, "no air or no bone", []),
    ],
)
def test_whether_values_look_like_hounsfield_units(
    scene: Any, low: int, high: int, level: str | None, words: str, kinds: list[str]
) -> None:
    node = volume_of(np.linspace(low, high, 20 * 20 * 20).reshape(20, 20, 20).astype(np.int16))
    found = levels(node, CT)
    assert list(found.values()) == ([level] if level else []) and words in " ".join(found)
    assert remedy_kinds(node, CT) == kinds


def test_a_ct_given_as_mr_and_a_dicom_header_that_says_otherwise_are_red(scene: Any, noise: np.ndarray) -> None:
    ct = volume_of(np.where(noise > 480, noise, -1000).astype(np.int16))
    assert "values like a CT" in next(iter(levels(ct, MR)))
    mr = volume_of(noise)
    assert levels(mr, MR) == {}
    mr.SetAttribute("DICOM.Modality", "CT")
    assert levels(mr, MR) == {"“V” is CT by its DICOM header, but “mr” takes MR; choose another volume.": RED}
    mr.RemoveAttribute("DICOM.Modality")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), mr)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "PT")
    assert RED in levels(mr, MR).values() and levels(mr, ANY) == {}
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "OT")
    assert list(levels(mr, MR).values()) == [AMBER]


def test_form_finiteness_and_emptiness(scene: Any, noise: np.ndarray) -> None:
    assert "single slice" in next(iter(levels(volume_of(noise[:1]), ANY)))
    assert "takes a single slice" in next(iter(levels(volume_of(noise), {**ANY, "dims": "2D"})))
    noise[3, 4, 5] = np.nan
    assert remedy_kinds(volume_of(noise), ANY) == ["finite"]
    assert "every value is 7" in next(iter(levels(volume_of(np.full((5, 5, 5), 7, np.int16)), ANY)))
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
    assert "has no voxels" in next(iter(levels(empty, ANY)))


def test_voxel_sizes_field_of_view_and_values_are_compared_with_the_training(scene: Any, noise: np.ndarray) -> None:
    seen = {
        "spacing": [[1.0, 1.0], [1.0, 1.0], [2.0, 3.0]],
        "extent": [[20, 40], [20, 40], [40, 80]],
        "channels": [1, 1],
        "intensity": {"p1": [200, 300], "p50": [500, 500], "p99": [700, 800]},
    }
    assert levels(volume_of(noise, spacing=(1.0, 1.0, 2.5)), ANY, seen) == {}
    coarse = levels(volume_of(noise, spacing=(1.0, 1.0, 6.0)), ANY, seen)
    assert set(coarse.values()) == {AMBER} and "1.00 x 1.00 x 6.00 mm" in next(iter(coarse))
    wide = volume_of(np.zeros((20, 24, 100), np.int16) + np.arange(100, dtype=np.int16), spacing=(1.0, 1.0, 2.5))
    assert "trained on 20-40 x 20-40 x 40-80" in next(iter(levels(wide, ANY, seen)))
    units = {**ANY, "units": "mm"}
    assert "outside those in training" in next(iter(levels(volume_of(noise + 5000, spacing=(1, 1, 2.5)), units, seen)))
    turned = volume_of(noise)  # its first axis runs along the patient's third
    turn = np.eye(4)
    turn[:3, :3] = np.array([[0, 1, 0], [0, 0, 1], [2.5, 0, 0]], float)
    turned.SetIJKToRASMatrix(to_vtk(turn))
    facts = imagefacts.facts_of(turned)
    assert facts.spacing == (1.0, 1.0, 2.5) and facts.extent == (24.0, 20.0, 70.0)


def test_a_bent_volume_is_said_and_hardened_in_a_copy(scene: Any, noise: np.ndarray) -> None:
    node = volume_of(noise)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shear = np.eye(4)
    shear[0, 1] = 0.3
    transform.SetMatrixTransformToParent(to_vtk(shear))
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert remedy_kinds(node, ANY) == ["harden"]
    made = remedies.hardened(node)
    assert made.GetParentTransformNode() is None and levels(made, ANY) == {}
    assert node.GetParentTransformNode() is transform
    assert np.isclose(np.median(slicer.util.arrayFromVolume(made)), 500, atol=300)


# --- what mends


def _world(node: Any, ijk: np.ndarray) -> np.ndarray:
    return (ijk_to_ras(node) @ np.append(ijk, 1))[:3]


@pytest.mark.parametrize("spacing", [(1.5, 1.0, 1.0), (1.0, 3.0, 6.0), (0.5, 2.0, 3.0)])
def test_a_resampled_copy_shows_the_same_place_and_values(scene: Any, spacing: tuple[float, float, float]) -> None:
    k, j, i = np.meshgrid(np.arange(12), np.arange(14), np.arange(16), indexing="ij")
    node = volume_of((100.0 + 3 * i + 5 * j + 7 * k).astype(np.float32), spacing=(1.0, 2.0, 3.0))
    turn = ijk_to_ras(node) @ np.array([[0, 1, 0, 4], [-1, 0, 0, 7], [0, 0, 1, -2], [0, 0, 0, 1]], float)
    node.SetIJKToRASMatrix(to_vtk(turn))
    before = slicer.util.arrayFromVolume(node).copy()
    made = remedies.resampled(node, spacing)
    assert np.allclose(imagefacts.facts_of(made).extent, imagefacts.facts_of(node).extent)
    assert np.allclose(imagefacts.facts_of(made).spacing, spacing, rtol=0.25)
    array = slicer.util.arrayFromVolume(made)
    size = np.array(array.shape[::-1])
    inside = np.array([size // 2, size // 3, (2 * size) // 3])
    for ijk in inside:
        old = np.linalg.inv(ijk_to_ras(node)) @ np.append(_world(made, ijk), 1)
        assert np.isclose(array[tuple(ijk[::-1])], 100 + old[:3] @ [3, 5, 7], atol=0.5)
    corner = ijk_to_ras(made) @ np.array([-0.5, -0.5, -0.5, 1])
    assert np.allclose(corner, ijk_to_ras(node) @ np.array([-0.5, -0.5, -0.5, 1]))
    assert array.min() >= 100  # no background at the border
    assert np.array_equal(slicer.util.arrayFromVolume(node), before)


def test_a_cropped_copy_keeps_what_is_not_background_in_place(scene: Any) -> None:
    array = np.zeros((60, 60, 60), np.int16)
    array[20:30, 22:34, 25:40] = 900
    node = volume_of(array, spacing=(2.0, 2.0, 2.0))
    made = remedies.cropped(node)
    part = slicer.util.arrayFromVolume(made)
    assert (part > 0).sum() == (array > 0).sum() and part.size < array.size / 8
    first = np.argwhere(part)[0][::-1], np.argwhere(array)[0][::-1]
    assert np.allclose(_world(made, first[0]), _world(node, first[1]))
    assert remedies.cropped(made) is None or slicer.util.arrayFromVolume(remedies.cropped(made)).size <= part.size
    assert remedies.foreground(volume_of(np.arange(8000, dtype=np.int16).reshape(20, 20, 20))) is None


def test_colours_become_grey_and_values_are_shifted_in_copies(scene: Any) -> None:
    colours = np.zeros((4, 5, 6, 3), np.uint8)
    colours[..., 0], colours[0, ..., 1] = 100, 200
    node = slicer.util.addVolumeFromArray(colours, nodeClassName="vtkMRMLVectorVolumeNode")
    assert remedy_kinds(node, ANY) == ["grey"]
    made = remedies.grey(node)
    assert made.GetClassName() == "vtkMRMLScalarVolumeNode"
    assert slicer.util.arrayFromVolume(made)[0, 0, 0] == round(0.299 * 100 + 0.587 * 200)
    shifted = remedies.shifted(volume_of(np.full((3, 3, 3), 1024, np.uint16)), -1024)
    assert slicer.util.arrayFromVolume(shifted).max() == 0


# --- memory and disk


def _question(node: Any, **options: Any) -> preflight.Question:
    settings = [
        {"name": "window", "default": 64, "memory": {"role": "window", "least": 16, "step": 8, "at_zero": None}},
        {"name": "steps", "default": 3},
    ]
    role = {**ANY, "many": False, "optional": False, "reference": False, "may_be_empty": False}
    operation = {"name": "apply", "scope": "case", "inputs": [role], "pools": [], "settings": settings}
    return preflight.Question(operation, {"image": node}, **options)


def test_memory_is_compared_with_what_is_free_where_it_runs(
    scene: Any, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = volume_of(noise)
    monkeypatch.setattr(resources, "memory", lambda: resources.Memory(8 << 30, 4 << 30))

    def look(need: float, device: str = "cpu", free: float | None = None) -> preflight.Finding:
        event = {"seconds": 3, "memory_bytes": int(need * 2**30), "device": device, "disk_bytes": 0}
        event["memory_free_bytes"] = None if free is None else int(free * 2**30)
        found = preflight.examine(_question(node, estimate=event))
        return next(one for one in found if "Needs about" in one.words)

    assert look(1).level == GREEN and "4.0 GB are free" in look(1).words
    assert look(5).level == AMBER and [one.label for one in look(5).remedies] == ["Smaller windows", "Make coarser"]
    assert look(20).level == RED and "too little" in look(20).words
    on_gpu = look(20, "cuda", 6)
    assert on_gpu.level == AMBER
    assert [one.label for one in on_gpu.remedies] == ["Smaller windows", "Use the CPU", "Make coarser"]
    assert look(20, "cuda", 30).level == GREEN


def test_a_disk_too_small_for_the_files_is_red(scene: Any, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_disk", lambda path: 1000)
    found = preflight.examine(_question(volume_of(noise)))
    assert found[0].level == RED and "free some disk space" in found[0].words


def test_a_large_volume_is_looked_at_in_a_moment(scene: Any) -> None:
    node = volume_of(np.zeros((512, 512, 512), np.int16), "Large")
    slicer.util.arrayFromVolume(node)[::7] = 300
    taken = []
    for _ in range(3):
        node.Modified()
        began = time.perf_counter()
        preflight.examine(_question(node))
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.05, taken
    began = time.perf_counter()
    preflight.examine(_question(node))
    assert time.perf_counter() - began < 0.02  # kept until it changes


# --- by clicks


@pytest.fixture
def checks(widget: Any) -> Iterator[Any]:  # noqa: F811
    """The section, with an operation that needs no model in sight."""
    widget.panel.apply.operation.currentIndex = 1
    (room,) = [one for one in widget.panel.rooms if type(one).__name__ == "PreflightRoom"]
    yield room


def press(room: Any, label: str) -> None:
    next(button for button in room.buttons if button.text == label).click()


def test_good_inputs_pass_and_the_time_is_said(
    checks: Any,
    widget: Any,  # noqa: F811
    pictures: Path,
    layout: Any,
) -> None:
    until(lambda: checks.estimator.done)
    assert checks.summary.text.startswith("All ") and checks.buttons == [] and widget.panel.apply.apply.enabled
    assert not checks.rows.visible
    checks.all.click()
    words = [label.text for label in checks.rows.findChildren(qt.QLabel)]
    assert any("Takes about" in text for text in words) and any("free" in text for text in words)
    layout.picture(widget.parent, pictures / "preflight_green.png")


def test_red_closes_apply_until_a_mended_copy_is_chosen(
    checks: Any,
    widget: Any,  # noqa: F811
    case: dict[str, Any],  # noqa: F811
    pictures: Path,
    layout: Any,
) -> None:
    panel, old = widget.panel, case["image"]
    spoilt = slicer.util.arrayFromVolume(old).astype(np.float32)
    spoilt[2, 3, 4], spoilt[5, 5, 5] = np.nan, np.inf
    slicer.util.updateVolumeFromArray(old, spoilt)
    panel.refresh()
    assert not panel.apply.apply.enabled and "no numbers" in panel.apply.apply.toolTip
    assert "1 to mend first" in checks.summary.text
    layout.picture(widget.parent, pictures / "preflight_red.png")
    stamp = old.GetImageData().GetMTime()
    press(checks, "Replace")
    (new,) = panel.parameters().nodes("image")
    assert new is not old and old.GetImageData().GetMTime() == stamp
    assert np.isnan(slicer.util.arrayFromVolume(old)).sum() == 1
    assert np.isfinite(slicer.util.arrayFromVolume(new)).all() and np.allclose(ijk_to_ras(new), ijk_to_ras(old))
    assert panel.apply.apply.enabled and panel.selectors.selectors["image"].currentNode() is new


def test_what_the_background_check_refuses_closes_apply(
    checks: Any,
    widget: Any,  # noqa: F811
    case: dict[str, Any],  # noqa: F811
) -> None:
    panel = widget.panel
    widget.logic.process(SLUG, "train", {**case, "planes": add_planes(case["image"])}, in_process=True)
    widget.enter()
    panel.apply.operation.currentIndex = 0
    dark = add_volume("Dark")
    slicer.util.updateVolumeFromArray(dark, -1000 - slicer.util.arrayFromVolume(dark))
    panel.selectors.selectors["image"].setCurrentNode(dark)
    until(lambda: checks.estimator.done)
    assert not panel.apply.apply.enabled and "choose a brighter image" in panel.apply.apply.toolTip


def test_a_model_trained_on_other_voxels_offers_to_resample_and_little_memory_smaller_windows(
    checks: Any,
    widget: Any,  # noqa: F811
    case: dict[str, Any],  # noqa: F811
    pictures: Path,
    layout: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel, old = widget.panel, case["image"]
    monkeypatch.setattr(resources, "memory", lambda: resources.Memory(64 << 30, 3 << 30))
    widget.logic.process(SLUG, "train", {**case, "planes": add_planes(old)}, in_process=True)
    widget.enter()
    panel.apply.operation.currentIndex = 0
    trained = imagefacts.facts_of(old).spacing
    coarse = remedies.resampled(old, (trained[0], trained[1], 3 * trained[2]))
    coarse.SetName("Coarse")
    panel.selectors.selectors["image"].setCurrentNode(coarse)
    until(lambda: checks.estimator.done)
    labels = [button.text for button in checks.buttons]
    assert set(labels) == {"Resample", "Smaller windows", "Make coarser"} and panel.apply.apply.enabled
    assert "2 to think about" in checks.summary.text
    layout.picture(widget.parent, pictures / "preflight_amber.png")
    press(checks, "Smaller windows")
    assert panel.parameters().settings("apply") == {"window": 32}
    assert panel.settings.forms["apply"].fields["window"].widget.value == 32
    press(checks, "Resample")
    (new,) = panel.parameters().nodes("image")
    assert np.allclose(imagefacts.facts_of(new).spacing, trained, rtol=0.05)
    until(lambda: checks.estimator.done)
    assert checks.buttons == [] and checks.summary.text.startswith("All ")


def test_large_images_are_estimated_when_asked(
    checks: Any,
    widget: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("MedGenLib.preflightroom.SMALL", 1000)
    checks.estimator.forget()
    widget.panel.refresh()
    checks._show()
    assert [button.text for button in checks.buttons] == ["Estimate"] and widget.panel.apply.apply.enabled
    press(checks, "Estimate")
    until(lambda: checks.estimator.done)
    assert checks.estimator.found and checks.buttons == []


def test_a_run_that_had_to_make_do_with_less_memory_says_so_at_its_end(
    widget: Any,  # noqa: F811
    case: dict[str, Any],  # noqa: F811
    said: list[str],
) -> None:
    panel = widget.panel
    widget.logic.process(SLUG, "train", {**case, "planes": add_planes(case["image"])}, in_process=True)
    widget.enter()
    panel.parameters().set_setting("apply", "room", 20)
    panel.apply.apply.click()
    until(lambda: not panel.poller.busy)
    assert said == [] and "done" in panel.run.status.text and "“window” at 16" in panel.run.status.text
    result = slicer.util.getNode("CT mask")
    assert "“window” at 16" in result.GetAttribute("MedGen.changed_for_memory")


class Answered:
    """A background check that is over already and says that nearly all disks of the world are needed."""

    state, exit_code, running, message = "done", 0, False, ""
    estimate: ClassVar[dict[str, Any]] = {"seconds": 1.0, "memory_bytes": 1, "disk_bytes": 2**60, "device": "cpu"}

    def poll(self) -> list[Any]:
        return []

    def kill(self) -> None: ...

    def abandon(self) -> None: ...


def test_beside_a_job_an_answer_about_other_inputs_closes_nothing(
    checks: Any,
    widget: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel = widget.panel
    other = add_volume("Other")

    def refuse(*words: Any, **options: Any) -> None:
        raise RunError("These are not fit; choose others.")

    def both() -> list[str]:
        return [button.toolTip for button in (panel.apply.apply, panel.train.train) if not button.enabled]

    monkeypatch.setattr(widget.logic, "check", refuse)
    for estimator in (checks.estimator, panel.estimator):
        estimator.forget()
    panel.refresh()
    until(lambda: checks.estimator.done and panel.estimator.done)
    assert both() == ["These are not fit; choose others."] * 2
    with monkeypatch.context() as busy:
        busy.setattr(jobqueue.JobLine, "busy", True)
        panel.refresh()
        assert len(both()) == 2  # the same inputs still
        panel.selectors.selectors["image"].setCurrentNode(other)
        assert both() == [] and not panel.train.estimate.visible
        assert panel.estimator.found is None and not panel.estimator.done
    panel.refresh()
    until(lambda: checks.estimator.done and panel.estimator.done)
    assert len(both()) == 2


@pytest.mark.parametrize("source", ["file", "cases"])
def test_training_from_a_table_or_from_cases_is_closed_where_the_disk_is_too_small(
    source: str,
    checks: Any,
    widget: Any,  # noqa: F811
    case: dict[str, Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters = widget.panel.parameters()
    monkeypatch.setattr(widget.logic, "check", lambda *words, **options: Answered())
    trainingcases.write(parameters, [trainingcases.TrainingCase("cases", dict(case), "A", "train")])
    parameters.set_text("cohort", "/table.csv")
    parameters.set_text("source", source)
    until(lambda: widget.panel.estimator.done)
    assert not widget.panel.train.train.enabled and "free some disk space" in widget.panel.train.train.toolTip
    assert "1 to mend first" in checks.summary.text


def test_what_is_refused_of_a_table_closes_apply(
    checks: Any,
    widget: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel, asked = widget.panel, list[Any]()

    def check(slug: str, operation: str, given: dict[str, Any], cohort: Any = None, **options: Any) -> Any:
        if operation == "train":
            return Answered()
        asked.append((given, cohort))
        raise RunError("The table has no row; write one.")

    monkeypatch.setattr(widget.logic, "check", check)
    monkeypatch.setitem(panel.operation, "scope", "collection")
    panel.refresh()
    assert panel.apply.apply.toolTip == "Choose a table of cases."
    panel.apply.cohort.currentPath = "/table.csv"
    until(lambda: checks.estimator.done)
    assert asked == [({}, "/table.csv")]
    assert not panel.apply.apply.enabled and panel.apply.apply.toolTip == "The table has no row; write one."
