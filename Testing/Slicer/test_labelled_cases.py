"""Cases that somebody looked at and found nothing in, and cases that nobody looked at, told apart by clicks."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import qt
import slicer
import slicer_standin
from boot import subject_hierarchy_item
from boundary_tools import picture, roi
from panel_tools import ROOT
from window_tools import four_views, opened

from medgen import catalog, cohort, frames, pointframes, prepare
from medgen.jobs import Run
from MedGenLib import jobqueue, trainingcases
from MedGenLib.errors import RunError
from MedGenLib.logic import MedGenLogic
from MedGenLib.parameters import Parameters
from MedGenLib.selftest import add_volume
from MedGenLib.trainingcases import TrainingCase

TINY = {"updates": 2, "short_edge": 48, "long_edge": 64, "width": 8, "validate_every": 2, "regions": 20}


@pytest.fixture
def table_of(scene: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Opens a method's panel with cases of these images; the panel and the pool's table."""
    monkeypatch.delenv("MEDGEN_CATALOG", raising=False)
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    slicer_standin.start()
    with four_views(), opened(ROOT / "MedGenLandmarks" / "MedGenLandmarks.py") as widget:

        def open_table(slug: str, pool: str, *images: Any) -> tuple[Any, Any]:
            panel = widget.panel
            panel.method.combo.currentIndex = panel.method.slugs.index(slug)
            widget.enter()
            panel.train.source.currentIndex = panel.train.sources.index("cases")
            (room,) = [room for room in panel.rooms if hasattr(room, "tables")]
            table = room.tables[pool]
            for number, image in enumerate(images):
                table.add.click()
                table.rows[number]["image"].setCurrentNode(image)
            return panel, table

        yield open_table
    jobqueue.line().close()


def cases_of(panel: Any) -> list[TrainingCase]:
    return trainingcases.read(panel.parameters())


def exported(panel: Any, folder: Path) -> cohort.Collection:
    """What a training is given, read as it reads it."""
    path = trainingcases.export_cases(panel.training, cases_of(panel), folder, lambda message: None)
    return cohort.read_collection(path, catalog.load(panel.entry["slug"]).operation("train"))


def frames_of(collection: cohort.Collection, folder: Path) -> list[frames.Frame]:
    (declared,) = collection.declared.values()
    cases: list[Any] = [prepare.load_row(row, declared.roles, lambda message: None) for row in collection.rows()]
    return frames.frames_of(cases, 48, 64, Run(folder, device="cpu"))[0]


def choose_boxes(table: Any, number: int, *boxes: Any) -> None:
    """Choose these boxes and no others."""
    for index in range(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsROINode")):
        node = slicer.mrmlScene.GetNthNodeByClass(index, "vtkMRMLMarkupsROINode")
        wanted = node in boxes
        if wanted != (node in table.rows[number]["boxes"].checkedNodes()):
            table.rows[number]["boxes"].setCheckState(node, qt.Qt.Checked if wanted else qt.Qt.Unchecked)


def test_a_frame_that_was_looked_at_and_shows_no_tool_is_learnt_from_as_such(
    table_of: Callable[..., tuple[Any, Any]], tmp_path: Path, pictures: Path
) -> None:
    box, half_drawn = roi("knife", (5, 5, 40, 40)), roi("hook", (10, 10, 30, 30))
    images = [picture(f"Frame {number}", number) for number in range(1, 5)]
    panel, table = table_of("tool-detection", "frames", *images)
    assert [row["labelled"].checked for row in table.rows] == [False] * 4
    choose_boxes(table, 0, box)
    table.rows[1]["labelled"].click()
    choose_boxes(table, 3, half_drawn)
    table.rows[3]["labelled"].click()
    assert [row["labelled"].checked for row in table.rows] == [True, True, False, False]
    assert [case.labelled for case in cases_of(panel)] == ["", "yes", "", "no"]
    slicer.app.layout_manager.picture(panel.body, pictures / "cases_labelled.png")

    collection = exported(panel, tmp_path / "inputs")
    assert [row.labelled for row in collection.rows()] == [True, True, False, False]
    assert json.loads(Path(collection.rows()[1].files["boxes"][0]).read_text()) == {"markups": []}
    assert "boxes" not in collection.rows()[3].files
    found = frames_of(collection, tmp_path / "run")
    assert [(frame.labelled, len(frame.boxes)) for frame in found] == [(True, 1), (True, 0), (False, 0), (False, 0)]
    options: dict[str, Any] = {"settings": TINY, "tier": "smoke", "name": "tools", "in_process": True}
    model = panel.logic.process("tool-detection", "train", cases=cases_of(panel), **options)["model"]
    assert "Labelled frames: 2" in (model / "docs" / "README.md").read_text()


def test_frames_with_and_without_boxes_are_added_by_two_clicks(
    table_of: Callable[..., tuple[Any, Any]], tmp_path: Path, pictures: Path
) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    images = [picture(f"Frame {number}", number) for number in range(1, 6)]
    names = (["forceps", "knife"], ["forceps_1"], ["forceps_2", "hook", "hook_1"])
    boxes = [[roi(name, (5, 5, 40, 40)) for name in own] for own in names]
    for image, own in zip(images, boxes, strict=False):
        folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), f"Folder of {image.GetName()}")
        for node in (image, *own):
            subject_hierarchy_item(node, folder)
    add_volume("CT")
    panel, table = table_of("tool-detection", "frames")
    (room,) = [room for room in panel.rooms if hasattr(room, "tables")]
    table.match.click()
    assert room.proposal_text.text.splitlines() == [
        "5 found, 3 with labels and 2 without:",
        "• “Frame 1” + “forceps” + “knife” (same study or folder)",
        "• “Frame 2” + “forceps_1” (same study or folder)",
        "• “Frame 3” + “forceps_2” + “hook” + “hook_1” (same study or folder)",
        "• “Frame 4” (without labels)",
        "• “Frame 5” (without labels)",
    ]
    assert cases_of(panel) == []  # nothing is used unasked
    slicer.app.layout_manager.picture(panel.body, pictures / "frames_proposed.png")
    room.accept.click()
    assert [case.values["image"] for case in cases_of(panel)] == [[image] for image in images]
    assert [case.values.get("boxes") for case in cases_of(panel)] == [*boxes, None, None]
    assert [row["labelled"].checked for row in table.rows] == [True, True, True, False, False]
    assert [table.rows[number]["boxes"].checkedNodes() for number in range(3)] == boxes
    slicer.app.layout_manager.picture(panel.body, pictures / "frames_added.png")
    found = frames_of(exported(panel, tmp_path / "inputs"), tmp_path / "run")
    assert [(frame.labelled, len(frame.boxes)) for frame in found] == [
        (True, 2),
        (True, 1),
        (True, 3),
        (False, 0),
        (False, 0),
    ]
    table.match.click()
    assert "Nothing more was found" in room.proposal_text.text and not room.accept.visible


def test_many_frames_without_labels_are_counted_and_not_all_listed(table_of: Callable[..., tuple[Any, Any]]) -> None:
    for number in range(1, 13):
        picture(f"Frame {number}", number)
    panel, table = table_of("few-shot-dag", "radiographs")
    (room,) = [room for room in panel.rooms if hasattr(room, "tables")]
    table.match.click()
    lines = room.proposal_text.text.splitlines()
    assert lines[0] == "12 found:" and lines[-1] == "… and 4 more" and len(lines) == 10
    assert "Images for which no labels are found" in table.match.toolTip
    room.accept.click()
    assert len(cases_of(panel)) == 12 and trainingcases.why_not(panel.training, cases_of(panel)) == ""


def test_the_tick_says_what_it_means(table_of: Callable[..., tuple[Any, Any]]) -> None:
    _panel, table = table_of("tool-detection", "frames", picture())
    assert table.rows[0]["labelled"].toolTip == (
        "Ticked without any boxes: somebody looked, and there are none. Not ticked: nobody looked, whatever it has."
    )
    _panel, table = table_of("few-shot-dag", "radiographs", picture("Hand"))
    assert "it needs landmarks. Not ticked: nobody looked" in table.rows[0]["labelled"].toolTip


def test_what_was_said_by_hand_is_forgotten_with_what_it_was_said_of(table_of: Callable[..., tuple[Any, Any]]) -> None:
    box = roi("knife", (5, 5, 40, 40))
    panel, table = table_of("tool-detection", "frames")
    table.add.click()
    row = table.rows[0]
    row["labelled"].click()
    row["image"].setCurrentNode(picture())
    assert cases_of(panel)[0].labelled == "yes"  # the first image: nothing was said of another
    row["labelled"].click()
    assert cases_of(panel)[0].labelled == "" and not row["labelled"].checked  # what it is without a word
    row["labelled"].click()
    choose_boxes(table, 0, box)
    assert cases_of(panel)[0].labelled == "" and row["labelled"].checked
    row["labelled"].click()
    assert cases_of(panel)[0].labelled == "no"
    trainingcases.write(panel.parameters(), cases_of(panel))
    assert cases_of(panel)[0].labelled == "no" and not row["labelled"].checked
    second = roi("hook", (10, 10, 30, 30))
    choose_boxes(table, 0, box, second)
    assert cases_of(panel)[0].labelled == "no"  # one box more makes nothing finished
    choose_boxes(table, 0, roi("fork", (20, 20, 30, 30)))
    assert cases_of(panel)[0].labelled == ""  # nothing is left of what it was said of
    row["labelled"].click()
    row["image"].setCurrentNode(picture("Another"))
    assert cases_of(panel)[0].labelled == "" and row["labelled"].checked


def test_landmarks_that_every_marked_image_has_cannot_be_none(table_of: Callable[..., tuple[Any, Any]]) -> None:
    panel, table = table_of("few-shot-dag", "radiographs", picture("Hand 1"), picture("Hand 2"))
    assert trainingcases.why_not(panel.training, cases_of(panel)) == ""
    table.rows[1]["labelled"].click()
    assert panel.train.train.toolTip == (
        "Case 2 is said to be labelled but lacks: landmarks; choose it or untick “Labelled”."
    )
    table.rows[1]["labelled"].click()
    assert trainingcases.why_not(panel.training, cases_of(panel)) == ""


@pytest.mark.parametrize("slug", ["suture-heatmap", "suture-cross-domain"])
def test_unmarked_frames_join_a_pool_of_sutures_and_a_tick_says_that_there_is_none(
    slug: str, table_of: Callable[..., tuple[Any, Any]], tmp_path: Path, pictures: Path
) -> None:
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Sutures")
    points.AddControlPoint([-20.0, -30.0, 0.0], "a")
    images = [picture(f"Frame {number}", number) for number in range(1, 5)]
    panel, table = table_of(slug, "theatre", *images[:3])
    table.rows[0]["points"].setCurrentNode(points)
    table.rows[1]["labelled"].click()
    (room,) = [room for room in panel.rooms if hasattr(room, "tables")]
    room.tables["simulator"].add.click()
    room.tables["simulator"].rows[0]["image"].setCurrentNode(images[3])
    slicer.app.layout_manager.picture(panel.body, pictures / f"cases_{slug}.png")
    theatre, simulator = pointframes.read_pools(exported(panel, tmp_path), (60, 80), Run(tmp_path, device="cpu"))
    assert [(frame.marked, len(frame.points)) for frame in theatre] == [(True, 1), (True, 0), (False, 0)]
    assert [frame.marked for frame in simulator] == [False]


def test_other_pools_have_no_such_column_and_take_no_case_without_labels(
    table_of: Callable[..., tuple[Any, Any]],
) -> None:
    _panel, table = table_of("compound-figures", "pictures", picture())
    assert "labelled" not in table.rows[0]
    operation = catalog.operation_entry("compound-figures", "train")
    with pytest.raises(RunError, match="Case 1 is not labelled, but every case of “pictures” must be"):
        trainingcases.as_cases(operation, [{"image": picture(), "labelled": False}])


def test_a_script_says_it_by_a_word_or_a_bool(scene: Any, tmp_path: Path) -> None:
    operation = catalog.operation_entry("tool-detection", "train")
    box = roi("knife", (5, 5, 40, 40))
    said: list[dict[str, Any]] = [{}, {"labelled": "yes"}, {"labelled": True}, {"labelled": "no"}, {"labelled": False}]
    given = [{"image": picture(f"Frame {number}"), **words} for number, words in enumerate(said)]
    cases = trainingcases.as_cases(operation, [*given, {"image": picture(), "boxes": [box], "labelled": "no"}])
    assert [case.labelled for case in cases] == ["", "yes", "yes", "no", "no", "no"]
    with trainingcases.export_cases(operation, cases, tmp_path, lambda message: None).open() as file:
        assert [row["labelled"] for row in csv.DictReader(file)] == ["no", "yes", "yes", "no", "no", "no"]
    with pytest.raises(RunError, match="Case 1: “labelled” cannot be “perhaps”; write “yes” or “no”, or leave it out"):
        MedGenLogic().process("tool-detection", "train", cases=[{**given[0], "labelled": "perhaps"}])


def test_cases_kept_before_there_was_such_a_word_are_read(table_of: Callable[..., tuple[Any, Any]]) -> None:
    panel, _table = table_of("tool-detection", "frames", picture())
    parameters: Parameters = panel.parameters()
    (record,) = json.loads(parameters.text("training cases"))
    assert record.pop("labelled") == ""
    parameters.set_text("training cases", json.dumps([record]))
    (case,) = cases_of(panel)
    assert case.subject == "Figure" and case.labelled == ""
