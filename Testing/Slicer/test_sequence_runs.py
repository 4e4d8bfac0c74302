"""Runs on every frame of a sequence: through Logic, and by clicks in the panel; each frame is a real process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from boundary_tools import go_to
from panel_tools import ROOT, SLUG, home, node_count, stub_catalog, until  # noqa: F401

from MedGenLib import again, frameruns, provenance, takeback
from MedGenLib.errors import BoundaryError, MedGenLibError, RunError
from MedGenLib.load import provenance_of
from MedGenLib.logic import MedGenLogic
from MedGenLib.plan import Plan
from MedGenLib.selftest import add_drawing, add_volume, ball, dice, labels_of
from MedGenLib.sequences import browser_of

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
TIMES = ["0", "0.5", "2"]


def frame(number: int) -> np.ndarray:
    """The self-test's ball, one voxel further along i in each frame: (k, j, i) int16."""
    return (np.roll(ball(), number, axis=2) * (300 + 10 * number)).astype(np.int16)


def add_sequence(name: str, frames: list[np.ndarray]) -> Any:
    """A sequence of volumes on the grid of the self-test's."""
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName("time")
    volume = add_volume(name)
    for array, time in zip(frames, TIMES, strict=False):
        slicer.util.updateVolumeFromArray(volume, array)
        sequence.SetDataNodeAtValue(volume, time)
    slicer.mrmlScene.RemoveNode(volume)
    return sequence


@pytest.fixture
def heart(scene: Any, home: Path) -> Any:  # noqa: F811
    """The node that shows the current frame, the second of three."""
    sequence = add_sequence("Heart", [frame(number) for number in range(3)])
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    go_to(browser, 1)
    return browser.GetProxyNode(sequence)


def scene_ids() -> list[str]:
    return [slicer.mrmlScene.GetNthNode(index).GetID() for index in range(node_count())]


def sequences_of(browser: Any) -> int:
    return int(browser.GetNumberOfSynchronizedSequenceNodes(True))


def test_every_frame_gives_a_frame_of_a_sequence_in_the_same_browser(heart: Any) -> None:
    events: list[dict[str, Any]] = []
    inputs = {"image": heart}
    found = MedGenLogic().process(SLUG, "invert", inputs, frames="all", wait=True, on_event=events.append)["inverted"]
    browser = browser_of(heart)
    assert found.GetName() == "Heart inverted" and browser_of(found) is browser
    sequence = browser.GetSequenceNode(found)
    assert [sequence.GetNthIndexValue(n) for n in range(sequence.GetNumberOfDataNodes())] == TIMES
    for number in (2, 0, 1):
        go_to(browser, number)
        assert np.array_equal(slicer.util.arrayFromVolume(found), frame(number).max() - frame(number))
        assert np.array_equal(slicer.util.arrayFromVolume(heart), frame(number))
    files = [provenance_of(sequence.GetNthDataNode(number))["inputs"] for number in range(3)]
    assert len(set(files)) == 3 and provenance_of(found)["method"] == SLUG
    assert [event["event"] for event in events].count("done") == 1


def test_masks_of_every_frame_inside_this_python(heart: Any) -> None:
    logic = MedGenLogic()
    go_to(browser_of(heart), 0)
    logic.process(SLUG, "train", {"image": heart, "mask": add_drawing(heart)}, name="ball", in_process=True)
    events: list[dict[str, Any]] = []
    options = {"model": "ball", "frames": "all", "in_process": True, "on_event": events.append}
    result = logic.process(SLUG, "apply", {"image": heart}, **options)["mask"]
    for number in (1, 2):
        go_to(browser_of(heart), number)
        assert dice(labels_of(result, heart), np.roll(ball(), number, axis=2)) == 1
    stages = [event["stage"] for event in events if event["event"] == "progress" and "segment" in event["stage"]]
    assert stages == [f"frame {number} of 3, segment" for number in (1, 2, 3)]
    shares = [event["done"] / event["total"] for event in events if "segment" in event.get("stage", "")]
    assert shares == [0, 1 / 3, 2 / 3]


def test_the_current_frame_gives_one_node(heart: Any) -> None:
    before = sequences_of(browser_of(heart))
    found = MedGenLogic().process(SLUG, "invert", {"image": heart}, in_process=True)["inverted"]
    assert np.array_equal(slicer.util.arrayFromVolume(found), frame(1).max() - frame(1))
    assert browser_of(found) is None and sequences_of(browser_of(heart)) == before


def test_inputs_without_frames_serve_every_frame(heart: Any, tmp_path: Path) -> None:
    image = {"name": "image", "kind": "Image", "optional": False, "many": False, "reference": False}
    roles = [{**image, "name": "fixed"}, image, {**image, "name": "slow"}]
    operation = {"name": "register", "title": "Register", "scope": "case", "inputs": roles, "outputs": []}
    browser = browser_of(heart)
    slow = add_sequence("Slow", [frame(5), frame(6)])
    browser.AddSynchronizedSequenceNode(slow)
    go_to(browser, 1)
    inputs = {"fixed": add_volume("Fixed"), "image": heart, "slow": browser.GetProxyNode(slow)}
    assert frameruns.leading_image(operation, inputs) is heart
    plan = Plan({"slug": SLUG}, operation, tmp_path / "out", {role: [f"{role}.nrrd"] for role in inputs})
    run = frameruns.prepare(plan, tmp_path, inputs, name="", reference=None, log=pytest.fail, on_event=None)
    given = [{role: Path(path).name for role, (path,) in one.files.items()} for one in run._plans]
    assert given == [
        {"fixed": "fixed.nrrd", "image": f"image_000{number}.nrrd", "slow": f"slow_000{min(number, 1)}.nrrd"}
        for number in range(3)
    ]
    assert len({one.out for one in run._plans}) == 3
    browser.SetMissingItemMode(slow, browser.MissingItemSetToDefault)  # the browser shows none there: as we join ours
    with pytest.raises(RunError, match="Frame 3 has no “Slow”; choose what every frame has"):
        frameruns.prepare(plan, tmp_path / "2", inputs, name="", reference=None, log=pytest.fail, on_event=None)


def test_a_failure_half_way_leaves_the_scene_as_it_was(heart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scene_ids()
    run = MedGenLogic().process(SLUG, "invert", {"image": heart}, frames="all")
    Path(run._plans[1].files["image"][0]).write_bytes(b"broken")
    with pytest.raises(RunError, match="Frame 2 of 3: ") as caught:
        run.wait()
    assert "\n" not in str(caught.value) and run.state == "failed"
    assert scene_ids() == before and sequences_of(browser_of(heart)) == 1 and not run.folder.exists()


def test_results_that_cannot_all_join_leave_none(heart: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scene_ids()
    join = frameruns.join_sequence

    def join_and_fail(paths: list[Path], *arguments: Any, **options: Any) -> Any:
        if joined:
            raise BoundaryError("The second cannot join.")
        joined.append(join(paths, *arguments, **options))
        return joined[0]

    joined: list[Any] = []
    monkeypatch.setattr(frameruns, "join_sequence", join_and_fail)
    monkeypatch.setattr(frameruns.FramesRun, "_files_of", lambda self, role: [files_of(self, role)[0]] * 2)
    with pytest.raises(MedGenLibError, match="second"):
        MedGenLogic().process(SLUG, "invert", {"image": heart}, frames="all", in_process=True)
    assert joined and scene_ids() == before and sequences_of(browser_of(heart)) == 1


files_of = frameruns.FramesRun._files_of


def test_cancelling_ends_all_frames(heart: Any) -> None:
    before = scene_ids()
    run = MedGenLogic().process(SLUG, "invert", {"image": heart}, frames="all")
    until(lambda: run.poll() is not None and len(run._given) == 1)
    run.cancel()
    until(lambda: run.poll() is not None and not run.running)
    assert run.state == "cancelled" and run.exit_code != 0 and len(run._given) < 3
    assert scene_ids() == before and not run.folder.exists()


def test_a_browser_that_is_gone_at_the_end_is_named(heart: Any) -> None:
    run = MedGenLogic().process(SLUG, "invert", {"image": heart}, frames="all")
    slicer.mrmlScene.RemoveNode(browser_of(heart))
    before = scene_ids()
    with pytest.raises(RunError, match="Heart.*browser"):
        run.wait()
    assert scene_ids() == before


def test_what_has_no_frames_is_refused_before_anything_is_written(heart: Any, home: Path) -> None:  # noqa: F811
    logic, volume = MedGenLogic(), add_volume()
    with pytest.raises(RunError, match="sequence browser"):
        logic.process(SLUG, "invert", {"image": volume}, frames="all")
    with pytest.raises(RunError, match="Train.*frame"):
        logic.process(SLUG, "train", {"image": heart, "mask": add_drawing(volume)}, frames="all")
    with pytest.raises(RunError, match="every.*current or all"):
        logic.process(SLUG, "invert", {"image": heart}, frames="every")
    assert not home.exists()


@pytest.fixture
def panel(heart: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The panel of the segmentation module with the stub method."""
    pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")
    import slicer_standin

    app = slicer_standin.start()
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: pytest.fail(text))
    outer = slicer_standin.load_module(ROOT / "MedGenSegmentation" / "MedGenSegmentation.py").widgetRepresentation()
    outer.show()
    panel = outer.self().panel
    panel.method.combo.currentIndex = panel.method.slugs.index(SLUG)
    panel.apply.operation.currentIndex = 1
    yield panel
    outer.self().cleanup()
    outer.close()
    outer.deleteLater()
    app.processEvents()


def test_frames_are_offered_for_sequences_only(panel: Any, heart: Any) -> None:
    selector = panel.selectors.selectors["image"]
    selector.setCurrentNode(add_volume())
    assert not panel.apply.frames.visible
    selector.setCurrentNode(heart)
    assert panel.apply.frames.visible and panel.apply.frames.currentIndex == 0
    panel.apply.frames.currentIndex = 1
    assert panel.parameters().text("frames") == "all"
    selector.setCurrentNode(None)
    assert not panel.apply.frames.visible


def test_all_frames_by_clicks(panel: Any, heart: Any) -> None:
    panel.selectors.selectors["image"].setCurrentNode(heart)
    panel.apply.frames.currentIndex = 1
    assert panel.apply.apply.enabled
    panel.apply.apply.click()
    said: list[str] = []
    until(lambda: said.append(panel.run.status.text) or not panel.poller.busy)
    assert any("frame 2 of 3" in text for text in said)
    browser = browser_of(heart)
    found = slicer.util.getNode("Heart inverted")
    assert browser.GetSequenceNode(found).GetNumberOfDataNodes() == 3
    assert "Heart inverted" in panel.run.status.text


def test_masks_of_all_frames_do_not_go_into_one_segmentation(panel: Any, heart: Any) -> None:
    chosen = add_drawing(heart)
    MedGenLogic().process(SLUG, "train", {"image": heart, "mask": chosen}, name="ball", in_process=True)
    panel.apply.operation.currentIndex = 0
    panel.selectors.selectors["image"].setCurrentNode(heart)
    panel.apply.output.setCurrentNode(chosen)
    panel.apply.frames.currentIndex = 1
    assert not panel.apply.output.visible and panel.apply.new_output.visible
    panel.apply.apply.click()
    until(lambda: not panel.poller.busy)
    assert chosen.GetSegmentation().GetNumberOfSegments() == 1
    assert browser_of(slicer.util.getNode("Heart mask")) is browser_of(heart)


def test_a_run_of_all_frames_is_taken_back_whole_and_repeated_exactly(heart: Any) -> None:
    before, browser = scene_ids(), browser_of(heart)
    run = MedGenLogic().process(SLUG, "invert", {"image": heart}, frames="all")
    found = run.wait()["inverted"]
    record = provenance.record_of(found)
    assert record["frames"] == "all" and [one["name"] for one in record["inputs"]] == ["Heart"]
    frames = browser.GetSequenceNode(found)
    assert "sha256" in provenance.record_of(frames.GetNthDataNode(0))["inputs"][0]

    history = takeback.History()
    history.remember("Invert", run.added)
    go_to(browser, 2)  # another frame in the node that shows it is no edit
    assert history.edited() == []
    frames.GetNthDataNode(0).GetImageData().GetPointData().GetScalars().SetComponent(0, 0, -5)
    assert history.edited() == ["Heart inverted"]
    assert history.take_back(leave_edited=True) == [] and found.GetScene() is not None
    history.remember("Invert", run.added)
    assert history.take_back() and scene_ids() == before
    assert sequences_of(browser) == 1 and browser.GetProxyNode(browser.GetMasterSequenceNode()) is heart

    wanted, notes = again.request(record)
    assert wanted["frames"] == "all" and wanted["inputs"] == {"image": heart} and notes == []
    go_to(browser, 0)  # which frame is shown does not matter
    assert again.request(record)[0]["inputs"] == {"image": heart}
    browser.GetMasterSequenceNode().GetNthDataNode(2).SetOrigin(1, 2, 3)
    with pytest.raises(RunError, match="“Heart”, has changed"):
        again.request(record)
