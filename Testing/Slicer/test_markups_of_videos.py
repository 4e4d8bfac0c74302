"""Videos through methods that find any number of things in a frame: boxes and points that play along, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
import torch
from boundary_tools import go_to, picture, video
from test_boxes_on_pictures import home, model  # noqa: F401

from medgen import bundle, io, models
from medgen.case import Box
from medgen.landmarks import suture_heatmap
from medgen.method import Kind
from MedGenLib import again, frameruns, halos, inprocess, provenance, results, takeback
from MedGenLib.errors import BoundaryError, MedGenLibError
from MedGenLib.logic import MedGenLogic
from MedGenLib.scratch import node_ids
from MedGenLib.sequences import browser_of

SLUG = "tool-detection"
Found = list[list[tuple[str, float]]]  # name and confidence of each box of each frame
FOUND: Found = [[("hook", 0.9), ("forceps", 0.8), ("forceps", 0.7)], [], [("forceps", 0.6)],
                [("forceps", 0.5), ("hook", 0.4)]]  # fmt: skip
TRACKS = {"hook": (0.9, None, None, 0.4), "forceps": (0.8, None, 0.6, 0.5), "forceps_1": (0.7, None, None, None)}


def frames(count: int) -> list[np.ndarray]:
    """Colour noise, each frame darker than the one before."""
    arrays = np.random.default_rng(3).integers(0, 256, (count, 60, 80, 3))
    return [(array * 0.4**number).astype(np.uint8) for number, array in enumerate(arrays)]


def centre_of(confidence: float) -> np.ndarray:
    """Where the box of a confidence lies, RAS mm."""
    return np.array([-100 * confidence, -20.0, 0.0])


@pytest.fixture
def frame(scene: Any, home: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    """A video of four frames that is at its second, in which a method finds what FOUND says, or the parameter."""
    found: Found = getattr(request, "param", FOUND)
    done: list[Path] = []

    def perform(plan: Any, on_event: Any) -> list[dict[str, Any]]:
        number = len(done) % len(found)
        boxes = [Box(centre_of(sure), np.eye(3), np.array([8.0, 6, 1]), name, sure) for name, sure in found[number]]
        path = plan.out.with_name(plan.out.name + ".mrk.json")
        io.write(boxes, Kind.BOX, path)
        record = {"method": SLUG, "operation": "apply", "time": f"frame {number}", "inputs": []}
        path.with_name(path.name + ".provenance.json").write_text(json.dumps(record))
        done.append(path)
        return [{"event": "output", "role": "boxes", "path": str(path)}]

    monkeypatch.setattr(inprocess, "perform", perform)
    shown = video(frames(4))
    go_to(browser_of(shown), 1)
    return shown


def prepared(image: Any) -> Any:
    """A run on every frame that is yet to be done."""
    return MedGenLogic().process(SLUG, "apply", {"image": image}, frames="all", start=False)


def boxes_in(image: Any) -> list[Any]:
    return prepared(image).perform_here()["boxes"]


def test_each_kind_and_how_many_th_of_it_is_a_sequence_of_the_frames_that_have_it(frame: Any) -> None:
    nodes, browser = boxes_in(frame), browser_of(frame)
    assert [node.GetName() for node in nodes] == list(TRACKS)
    for node, track in zip(nodes, TRACKS.values(), strict=True):
        assert node.GetClassName() == "vtkMRMLMarkupsROINode" and browser_of(node) is browser
        sequence = browser.GetSequenceNode(node)
        there = [str(number) for number, sure in enumerate(track) if sure is not None]
        assert [sequence.GetNthIndexValue(n) for n in range(sequence.GetNumberOfDataNodes())] == there
        kind = node.GetName().split("_")[0]
        for second in there:
            data, sure = sequence.GetDataNodeAtValue(second), track[int(second)]
            assert data.GetName().split("_")[0] == kind and data.GetNthControlPointLabel(0) == kind
            assert data.GetDescription() == f"{kind}, confidence {sure:.2f}"
            assert provenance.record_of(data)["time"] == f"frame {second}"
        assert node.GetDisplayNode().GetPropertiesLabelVisibility()  # though the frame at hand has nothing to dress


def test_a_frame_shows_its_own_boxes_and_no_other(frame: Any) -> None:
    nodes, browser = boxes_in(frame), browser_of(frame)
    for number in (1, 0, 1, 2, 3, 0):  # the first is where the results came in
        go_to(browser, number)
        for node, track in zip(nodes, TRACKS.values(), strict=True):
            sure = track[number]
            if sure is None:  # a ROI without its point is drawn nowhere
                assert node.GetNumberOfControlPoints() == 0 and max(node.GetSize()) == 0
                assert node.GetAttribute("MedGen.confidence") is None and node.GetDescription() in (None, "")
                assert results._place_of(node, "") is None
            else:
                np.testing.assert_allclose(node.GetCenterWorld(), centre_of(sure), atol=1e-3)
                np.testing.assert_allclose(node.GetSize(), (8, 6, 1), atol=1e-3)
                assert float(node.GetAttribute("MedGen.confidence")) == pytest.approx(sure)
                assert node.GetNthControlPointDescription(0).startswith("confidence")


def test_nothing_is_drawn_of_boxes_that_a_frame_lacks(layout: Any, frame: Any) -> None:
    views = [layout.sliceWidget("Red"), layout.threeDWidget(0).threeDView()]
    views[1].resetFocalPoint()
    before = [view.picture() for view in views]
    boxes_in(frame)
    for number in (1, 0, 1, 3, 2, 1):
        go_to(browser_of(frame), number)
        changed = [bool((view.picture() != old).any()) for view, old in zip(views, before, strict=True)]
        assert changed == ([False] * 2 if FOUND[number] == [] else [True] * 2)


def test_boxes_of_a_saved_scene_play_on(layout: Any, frame: Any, tmp_path: Path) -> None:
    boxes_in(frame)
    assert slicer.util.saveScene(str(tmp_path / "video.mrb"), {})
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "video.mrb"), {})
    nodes = {node.GetName(): node for node in slicer.util.getNodesByClass("vtkMRMLMarkupsROINode")}
    for number in (0, 1, 2, 3):
        go_to(browser_of(nodes["hook"]), number)
        shown = {name: node.GetAttribute("MedGen.confidence") for name, node in nodes.items()}
        assert shown == {name: None if (sure := track[number]) is None else str(sure) for name, track in TRACKS.items()}
        assert [node.GetNumberOfControlPoints() for node in nodes.values()] == [
            one is not None for one in shown.values()
        ]


def test_names_that_are_taken_are_numbered(frame: Any) -> None:
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "hook")
    names = [node.GetName() for node in [*boxes_in(frame), *boxes_in(frame)]]
    assert names[0] == "hook_1" and len(set(names)) == 6
    everyone = [slicer.mrmlScene.GetNthNode(n) for n in range(slicer.mrmlScene.GetNumberOfNodes())]
    shown = [node.GetName() for node in everyone if not node.IsA("vtkMRMLSequenceNode")]
    assert all(shown.count(name) == 1 for name in names)


@pytest.mark.parametrize("frame", [[[("", 0.9), ("", 0.8)], [], [], [("", 0.4)]]], indirect=True)
def test_what_has_no_name_is_called_as_a_single_images_result(frame: Any) -> None:
    assert [node.GetName() for node in boxes_in(frame)] == ["Video boxes", "Video boxes_1"]


@pytest.mark.parametrize("frame", [[[], [], [], []]], indirect=True)
def test_a_video_without_any_gives_an_empty_list_and_says_so(frame: Any) -> None:
    before, run = node_ids(slicer.mrmlScene), prepared(frame)
    assert run.perform_here() == {"boxes": []} and run.state == "done"
    assert node_ids(slicer.mrmlScene) == before
    assert results.end_of("Apply", [], run.results) == "Apply: done, nothing was found."


def test_boxes_that_cannot_all_join_leave_none(frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, join = node_ids(slicer.mrmlScene), frameruns.join_nodes
    joined: list[Any] = []

    def join_and_fail(*arguments: Any, **options: Any) -> Any:
        if len(joined) == 2:
            raise BoundaryError("The third cannot join.")
        joined.append(join(*arguments, **options))
        return joined[-1]

    monkeypatch.setattr(frameruns, "join_nodes", join_and_fail)
    with pytest.raises(MedGenLibError, match="third"):
        boxes_in(frame)
    assert len(joined) == 2 and node_ids(slicer.mrmlScene) == before
    assert browser_of(frame).GetNumberOfSynchronizedSequenceNodes(True) == 1


def test_a_file_that_is_broken_leaves_the_scene_as_it_was(frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, perform = node_ids(slicer.mrmlScene), inprocess.perform

    def break_it(plan: Any, on_event: Any) -> Any:
        outputs = perform(plan, on_event)
        Path(outputs[0]["path"]).write_text('{"markups": [{"type": "Teapot"}]}')
        return outputs

    monkeypatch.setattr(inprocess, "perform", break_it)
    with pytest.raises(MedGenLibError, match="not a readable Slicer markups file"):
        boxes_in(frame)
    assert node_ids(slicer.mrmlScene) == before


def test_boxes_of_a_video_are_listed_repeated_and_taken_back_whichever_frame_is_shown(frame: Any) -> None:
    before, browser, run = node_ids(slicer.mrmlScene), browser_of(frame), prepared(frame)
    nodes = run.perform_here()["boxes"]
    history = takeback.History()
    history.remember("Apply", run.added)
    for number in (1, 2, 0):  # none of the boxes is there, one, all
        go_to(browser, number)
        assert history.edited() == []
        outputs = provenance.outputs_of_run(history.last_run)
        assert [one.node for one in outputs] == nodes
        wanted, _notes = again.request(outputs[0].record)
        assert wanted["frames"] == "all" and wanted["inputs"] == {"image": frame}
    sequence = browser.GetSequenceNode(nodes[1])
    sequence.GetNthDataNode(0).SetCenter([1.0, 2, 3])
    assert history.edited() == ["forceps"]
    assert set(history.take_back(leave_edited=True)) == {"hook", "forceps_1"}
    assert browser.GetProxyNode(sequence) is nodes[1]
    history.remember("Apply", run.added)
    assert history.take_back() == ["forceps"] and node_ids(slicer.mrmlScene) == before
    assert browser.GetNumberOfSynchronizedSequenceNodes(True) == 1


def test_a_detector_finds_in_a_video_what_it_finds_in_each_frame(scene: Any, home: Path) -> None:  # noqa: F811
    model(SLUG, models.folder() / "tools")
    options: dict[str, Any] = {"model": "tools", "in_process": True, "settings": {"confidence": 0.0, "most": 3}}
    single = []
    for array in frames(3):
        image = picture()
        slicer.util.updateVolumeFromArray(image, array[None])
        single.append(MedGenLogic().process(SLUG, "apply", {"image": image}, **options)["boxes"])
    sure = [[float(node.GetAttribute("MedGen.confidence")) for node in nodes] for nodes in single]
    tops = sorted(max(one) for one in sure)
    options["settings"] = {"confidence": (tops[0] + tops[1]) / 2, "most": 3}  # nothing in the frame of the lowest
    wanted = [[n for n, c in zip(*pair, strict=True) if c >= options["settings"]["confidence"]]
              for pair in zip(single, sure, strict=True)]  # fmt: skip
    assert len({len(one) for one in wanted}) > 1 and [] in wanted
    shown = video(frames(3))
    nodes = MedGenLogic().process(SLUG, "apply", {"image": shown}, frames="all", **options)["boxes"]
    for _once_more in range(2):
        for number, boxes in enumerate(wanted):
            go_to(browser_of(shown), number)
            there = [node for node in nodes if node.GetNumberOfControlPoints()]
            assert {tuple(np.round(node.GetCenterWorld(), 2)) for node in there} == {
                tuple(np.round(node.GetCenterWorld(), 2)) for node in boxes
            }
        request, _notes = again.request(provenance.record_of(nodes[0]))
        nodes = MedGenLogic().process(**request, in_process=True)["boxes"]


def test_sutures_of_a_video_are_one_list_that_may_be_empty(scene: Any, home: Path) -> None:  # noqa: F811
    method = suture_heatmap.SutureHeatmap()
    config = method.operation("train").configure("smoke", {"rows": 64, "columns": 96})
    torch.manual_seed(0)
    network = suture_heatmap.make_network(config)
    with torch.no_grad():
        network.head.weight *= 300  # untrained, a map is the same nearly everywhere: no blob stands out
    weights = {"unet": network.state_dict()}
    bundle.save(bundle.Model(method.slug, weights, config.model_dump(mode="json"), {}), models.folder() / "sutures")
    options: dict[str, Any] = {"model": "sutures", "in_process": True}

    def scores(node: Any) -> list[float | None]:
        return [halos.confidence_of(node, number) for number in range(node.GetNumberOfControlPoints())]

    single, settings = [], {"opening": 0, "cut_above": 100, "least_score": 0.0}
    for array in frames(3):
        image = picture()
        slicer.util.updateVolumeFromArray(image, array[None])
        node = MedGenLogic().process(method.slug, "apply", {"image": image}, settings, **options)["points"]
        single.append(scores(node))
    tops = sorted(max(one) for one in single)
    least = (tops[0] + tops[1]) / 2
    wanted = [[score for score in one if score >= least] for one in single]
    assert len({len(one) for one in wanted}) > 1 and [] in wanted
    shown = video(frames(3))
    empty = wanted.index([])
    go_to(browser_of(shown), empty)
    settings["least_score"] = least
    found = MedGenLogic().process(method.slug, "apply", {"image": shown}, settings, frames="all", **options)["points"]
    assert found.GetClassName() == "vtkMRMLMarkupsFiducialNode"
    assert browser_of(shown).GetSequenceNode(found).GetNumberOfDataNodes() == 3
    for number in (0, 1, 2, empty):
        go_to(browser_of(shown), number)
        halos.update(found)  # as a panel does when points change
        assert scores(found) == wanted[number]
        assert (halos.of(found).GetPolyData().GetNumberOfPoints() > 0) == bool(wanted[number])
        assert provenance.record_of(found)["method"] == method.slug


def test_the_halos_of_played_points_keep_their_size(scene: Any, home: Path) -> None:  # noqa: F811
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "P")
    points.AddControlPoint(0, 0, 0)
    points.SetNthControlPointDescription(0, "confidence 1.0")
    halos.add(points, 4.0)
    wide = halos.of(points).GetPolyData().GetLength()
    for name in list(points.GetAttributeNames() or ()):
        points.RemoveAttribute(name)  # as a browser does with those that the next frame lacks
    halos.update(points)
    assert halos.of(points).GetPolyData().GetLength() == pytest.approx(wide)
