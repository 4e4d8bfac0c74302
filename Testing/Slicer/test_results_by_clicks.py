"""What a run gave, by clicks: shown, taken back, repeated exactly, copied as commands, saved as JSON."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import qt
import slicer
import slicer.util
import views
from boot import subject_hierarchy_item
from panel_tools import ROOT, SLUG, home, node_count, stub_catalog, until  # noqa: F401
from results_tools import apply, image, room, widget  # noqa: F401

from medgen import cli
from medgen import words as options
from MedGenLib import again, jobqueue, provenance
from MedGenLib.errors import RunError
from MedGenLib.selftest import add_drawing, labels_of
from MedGenLib.takeback import history

INVERT = 1


def ids() -> list[str]:
    return [slicer.mrmlScene.GetNthNode(number).GetID() for number in range(node_count())]


def test_results_are_listed_shown_and_taken_back_run_by_run(
    widget: Any,  # noqa: F811
    image: Any,  # noqa: F811
    layout: views.LayoutManager,
    pictures: Path,
) -> None:
    panel, results = widget.panel, room(widget.panel, "ResultsRoom")
    assert results.nothing.visible and not results.take_back.enabled and not results.again.enabled
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Study")
    subject_hierarchy_item(image, study)
    before = ids()
    apply(panel, INVERT)
    after_first = ids()
    inverted = slicer.util.getNode("CT inverted")
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(inverted)) == study
    window, level = inverted.GetDisplayNode().GetWindow(), inverted.GetDisplayNode().GetLevel()
    shown = slicer.util.arrayFromVolume(inverted)
    assert level - window / 2 <= np.percentile(shown, 2) and level + window / 2 >= np.percentile(shown, 98)

    apply(panel)
    assert not results.nothing.visible and len(results.row_buttons) == 1
    mask = slicer.util.getNode("CT mask")
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(mask)) == study
    results.surfaces.checked = True
    assert mask.GetSegmentation().ContainsRepresentation("Closed surface")
    slices = layout.sliceWidget("Red").mrmlSliceNode()
    slices.SetSliceOffset(30)
    results.row_buttons[0].click()
    assert abs(slices.GetSliceOffset()) < 3  # the middle of the ball
    assert "Model ball" in results.details.text and "CT" in results.details.text
    layout.resetThreeDViews()
    layout.picture(widget.parent, pictures / "results.png")

    results.take_back.click()
    assert panel.run.status.text == "Taken back: “CT mask”." and ids() == after_first
    assert hierarchy.GetItemByDataNode(mask) == 0
    results.take_back.click()
    assert ids() == before and not results.take_back.enabled and results.nothing.visible
    composite = layout.sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == image.GetID()  # and not nothing, where the result was
    apply(panel)
    (mask,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert mask.GetSegmentation().ContainsRepresentation("Closed surface")  # remembered


def test_what_was_edited_since_is_left_after_a_question(
    widget: Any,  # noqa: F811
    image: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel, results = widget.panel, room(widget.panel, "ResultsRoom")
    apply(panel)
    mask = slicer.util.getNode("CT mask")
    mask.SetName("Renamed")  # that is no edit
    mask.GetDisplayNode().SetOpacity(0.5)
    assert history.edited() == []
    first = mask.GetSegmentation().GetNthSegmentID(0)
    edited = labels_of(mask, image).copy()
    edited[12, 14, 16] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(edited, mask, first, image)
    with pytest.raises(RunError, match="“Renamed” was edited since"):
        history.take_back()
    asked: list[str] = []
    answers = iter([False, True])
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, **options: asked.append(text) or next(answers))
    before = ids()
    results.take_back.click()
    assert len(asked) == 1 and "“Renamed” was edited" in asked[0] and ids() == before
    results.take_back.click()
    assert (
        mask.GetScene() is not None
        and mask.GetDisplayNode() is not None
        and np.array_equal(labels_of(mask, image), edited)
    )
    assert "Left as edited: “Renamed”" in panel.run.status.text and not results.take_back.enabled


def test_a_merge_is_taken_back_and_the_replaced_segment_returns(
    widget: Any,  # noqa: F811
    image: Any,  # noqa: F811
    layout: views.LayoutManager,
    pictures: Path,
) -> None:
    panel, results, merging = widget.panel, room(widget.panel, "ResultsRoom"), room(widget.panel, "MergeRoom")
    target = add_drawing(image, name="Mine")
    drawn = labels_of(target, image).copy()
    assert not merging.policy.visible
    panel.apply.output.setCurrentNode(target)
    assert merging.policy.visible and merging.policy.currentIndex == 0
    apply(panel)
    inside = target.GetSegmentation()
    (new,) = [one for one in inside.GetSegmentIDs() if one != "ball"]
    before = np.array(slicer.util.arrayFromSegmentBinaryLabelmap(target, new, image))
    assert results._shown == [(target.GetID(), new, "structure in Mine")]
    merging.policy.currentIndex = 1
    assert panel.parameters().text("merge") == "ours"
    panel.parameters().set_setting("apply", "shift", 100.0)
    apply(panel)
    layout.picture(widget.parent, pictures / "merged.png")
    assert inside.GetNumberOfSegments() == 2
    assert not np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(target, new, image), before)
    assert np.array_equal(labels_of(target, image), drawn)
    results.take_back.click()
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(target, new, image), before)
    results.take_back.click()
    assert list(inside.GetSegmentIDs()) == ["ball"] and np.array_equal(labels_of(target, image), drawn)
    assert not results.take_back.enabled


@pytest.mark.parametrize("how", ["tried again", "panel closed", "deleted meanwhile"])
def test_the_chosen_segmentation_is_remembered_with_the_job(
    how: str,
    widget: Any,  # noqa: F811
    image: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel, line, told = widget.panel, jobqueue.line(), list[str]()
    monkeypatch.setattr(slicer.util, "showStatusMessage", lambda text, duration=0: told.append(text))
    target = add_drawing(image, name="Mine")
    panel.apply.output.setCurrentNode(target)
    panel.apply.apply.click()
    (job,) = line.jobs
    if how == "tried again":
        line.cancel(job)
        until(lambda: job.finished)
        panel.apply.output.setCurrentNode(None)  # what is chosen now does not matter
        line.retry(job)
    elif how == "panel closed":
        widget.cleanup()
    else:
        slicer.mrmlScene.RemoveNode(target)
    until(lambda: job.finished)
    assert job.state == "done"
    masks = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    if how == "deleted meanwhile":
        words = "“Mine” is no longer in the scene, so the result is a node of its own."
        assert [node.GetName() for node in masks] == ["CT mask"]
        assert words in panel.run.status.text and words in job.log
        return
    assert masks == [target] and target.GetSegmentation().GetNumberOfSegments() == 2
    if how == "panel closed":
        assert told == ["MedGen, Apply: done, see Mine."]
    history.take_back()
    assert list(target.GetSegmentation().GetSegmentIDs()) == ["ball"]


def test_the_list_and_take_back_speak_of_the_run_that_ended_last(
    widget: Any,  # noqa: F811
    image: Any,  # noqa: F811
) -> None:
    panel, results, line = widget.panel, room(widget.panel, "ResultsRoom"), jobqueue.line()
    slow, quick = (widget.logic.process(SLUG, "invert", {"image": image}, name=name, start=False) for name in "sq")
    for run in (quick, slow):  # begun last, the one whose inputs were written first ends last
        panel.poller.follow(run)
        until(lambda: not panel.poller.busy)
    assert slow.context["run"] < quick.context["run"]
    assert [key[2] for key in results._shown] == ["s"]
    results.take_back.click()
    assert panel.run.status.text == "Taken back: “s”." and [key[2] for key in results._shown] == ["q"]
    before = ids()
    made = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "Numbers")
    history.remember("Compare", [made.GetID()])
    panel.refresh()
    assert results.take_back.text == "Take back “Compare”" and [key[2] for key in results._shown] == ["q"]
    results.take_back.click()
    assert ids() == before and results.take_back.text == "Take back the last run"
    assert [key[2] for key in results._shown] == ["q"] and line.unfinished == []


def test_a_reloaded_module_takes_back_what_another_gave(
    widget: Any,  # noqa: F811
    image: Any,  # noqa: F811
) -> None:
    results = room(widget.panel, "ResultsRoom")
    apply(widget.panel, INVERT)
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "MedGenLib"}
    try:
        for name in kept:
            del sys.modules[name]
        from MedGenLib import takeback

        assert takeback.history is not history and takeback.history.last.title == "Invert"
        takeback.history.take_back()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "MedGenLib"]:
            del sys.modules[name]
        sys.modules.update(kept)
    widget.panel.refresh()
    assert not results.take_back.enabled and results.nothing.visible


def test_a_repeated_run_that_is_tried_again_keeps_its_notes_and_its_results_apart(
    widget: Any,  # noqa: F811
    image: Any,  # noqa: F811
) -> None:
    panel, line = widget.panel, jobqueue.line()
    target = add_drawing(image, name="Mine")
    panel.apply.output.setCurrentNode(target)
    panel.repeat(panel.operation, {"image": image}, ["This may differ."], model="ball")
    (job,) = line.jobs
    line.cancel(job)
    until(lambda: job.finished)
    line.retry(job)
    until(lambda: job.finished)
    assert job.log.count("This may differ.") == 2 and target.GetSegmentation().GetNumberOfSegments() == 1


def test_how_a_result_came_to_be_survives_a_saved_scene_and_runs_again_exactly(
    widget: Any,  # noqa: F811
    image: Any,  # noqa: F811
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel, results = widget.panel, room(widget.panel, "ResultsRoom")
    panel.parameters().set_setting("apply", "shift", 60.0)
    apply(panel)
    first = slicer.util.getNode("CT mask")
    wanted = labels_of(first, image).copy()
    record = provenance.record_of(first)
    assert record["config"]["shift"] == 60.0 and record["settings"] == {"shift": 60.0} and record["seed"] == 0
    assert record["device"] == "cpu" and record["model"]["name"] == "ball" and len(record["model"]["digest"]) == 64
    (given,) = record["inputs"]
    assert given["node"] == image.GetID() and given["name"] == "CT" and len(given["sha256"]) == 64

    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), {})
    slicer.mrmlScene.Clear(0)
    until(lambda: not panel._frozen)
    assert not results.take_back.enabled and results.nothing.visible
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), {})
    until(lambda: not panel._frozen)
    loaded, volume = slicer.util.getNode("CT mask"), slicer.util.getNode("CT")
    assert provenance.record_of(loaded) == record
    assert [key[2] for key in results._shown] == ["CT mask"]

    saved = tmp_path / "how.json"
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", lambda *arguments: str(saved))
    results.save.click()
    (written,) = json.loads(saved.read_text("utf-8"))["results"]
    assert written["result"] == "CT mask" and {key: written[key] for key in record} == record

    panel.parameters().set_setting("apply", "shift", -100.0)  # what is chosen now does not matter
    panel.apply.output.setCurrentNode(add_drawing(volume, name="Chosen"))
    results.again.click()
    until(lambda: not panel.poller.busy)
    assert said == [] and "done" in panel.run.status.text
    (new,) = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if "CT mask_" in node.GetName()]
    assert np.array_equal(labels_of(new, volume), wanted)
    again_record = provenance.record_of(new)
    assert again_record["config"] == record["config"] and again_record["run"] > record["run"]

    slicer.util.arrayFromVolume(volume)[0, 0, 0] += 1
    slicer.util.arrayFromVolumeModified(volume)
    before = ids()
    results.again.click()
    assert "“CT”, has changed since" in panel.run.status.text and not panel.poller.busy and ids() == before
    slicer.mrmlScene.RemoveNode(volume)
    results.again.click()
    assert "“CT”, is not in the scene" in panel.run.status.text
    widget.logic.remove_model("ball")
    with pytest.raises(RunError, match="not on this computer"):
        again._model(record)


def test_the_copied_commands_say_the_same_as_the_click(
    widget: Any,  # noqa: F811
    image: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    panel, results = widget.panel, room(widget.panel, "ResultsRoom")
    file = tmp_path / "a scan's volume.nrrd"
    assert slicer.util.saveNode(image, str(file), {})
    panel.parameters().set_setting("apply", "shift", 60.0)
    started: list[Any] = []
    follow = panel._follow
    monkeypatch.setattr(panel, "_follow", lambda run, *about: (started.append(run.plan), follow(run, *about)))
    apply(panel)
    results.copy_medgen.click()
    comments, *words = _words(str(qt.QApplication.clipboard().text()))
    assert words[:2] == ["medgen", "run"] and comments == []
    monkeypatch.setattr(sys, "argv", words)
    plan, args = started[0], cli._parser().parse_args(words[1:])
    assert (args.slug, args.operation, args.model) == (SLUG, "apply", "ball")
    assert options.inputs(args) == plan.files == {"image": [str(file)]}
    assert options.settings(args) == plan.settings and args.tier == plan.tier
    assert args.seed == plan.seed and args.device == "cpu" and args.output.name == "CT_mask.seg.nrrd"

    monkeypatch.chdir(tmp_path)
    assert cli.main(words[1:]) == 0
    found = slicer.util.loadSegmentation(str(tmp_path / "CT_mask.seg.nrrd"))
    assert np.array_equal(labels_of(found, image), labels_of(slicer.util.getNode("CT mask"), image))

    results.copy_slicer.click()
    _comments, *words = _words(str(qt.QApplication.clipboard().text()))
    script = Path(words[3])
    assert words[:3] == ["Slicer", "--no-main-window", "--python-script"] and words[4] == "--" and script.is_file()
    assert script == ROOT / "Examples" / "run_method.py"
    sys.path.insert(0, str(script.parent))
    import run_method

    parsed = run_method.parse(words[5:])
    assert (parsed.method, parsed.operation, parsed.model) == (SLUG, "apply", "ball")
    assert run_method.pairs(parsed.input) == [("image", str(file))] and parsed.set == ["shift=60.0"]


def test_an_input_without_a_file_is_named_in_a_comment(widget: Any, image: Any) -> None:  # noqa: F811
    image.SetName("CT; rm -rf 'x'")
    apply(widget.panel)
    room(widget.panel, "ResultsRoom").copy_medgen.click()
    comments, *words = _words(str(qt.QApplication.clipboard().text()))
    assert len(comments) == 1 and comments[0].startswith("# image: save “CT; rm")
    assert "-i" in words and words[words.index("-i") + 1] == "image=CT_rm_-rf_x_.nrrd"


def _words(text: str) -> tuple[Any, ...]:
    """Comment lines, and the words of the command as a shell reads them."""
    lines = text.split("\n")
    return [line for line in lines[:-1] if line.startswith("#")], *shlex.split(lines[-1])
