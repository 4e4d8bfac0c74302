"""Training from several cases of the scene, by clicks: pairing, splits, the model's card, stop and resume."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import slicer
import slicer_standin
from boot import subject_hierarchy_item
from boundary_tools import picture, roi
from panel_tools import ROOT, SLUG, home, stub_catalog, until  # noqa: F401
from window_tools import four_views, opened

from medgen import cohort, method
from MedGenLib import jobqueue, matching, trainingcases
from MedGenLib.asked import Asked
from MedGenLib.errors import BoundaryError, RunError
from MedGenLib.logic import MedGenLogic
from MedGenLib.parameters import Parameters
from MedGenLib.selftest import add_drawing, add_volume
from MedGenLib.trainingcases import TrainingCase

MODULE = ROOT / "MedGenSegmentation" / "MedGenSegmentation.py"
ROLE = {"dims": "3D", "modality": None, "units": None, "many": False, "optional": False, "same_grid": False}
IMAGE = {**ROLE, "name": "image", "kind": "Image", "help": "", "reference": False, "may_be_empty": False}
MASK = {**IMAGE, "name": "mask", "kind": "Mask"}


BOXES = {**ROLE, "name": "boxes", "kind": "Box", "dims": "2D", "help": "", "reference": False, "may_be_empty": True}
BOXES |= {"many": True}
FRAME = {**IMAGE, "dims": "2D"}


def pool(name: str, *roles: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {
        "name": name,
        "help": "",
        "optional": False,
        "one_case": False,
        "needs": [],
        "may": [],
        "roles": roles,
        **options,
    }


@pytest.fixture
def pairs(scene: Any, home: Path) -> list[tuple[Any, Any]]:  # noqa: F811
    """Four volumes, and what was drawn on them."""
    slicer_standin.start()
    volumes = [add_volume(f"CT {number}") for number in range(1, 5)]
    return [(volume, add_drawing(volume, name=f"Drawn {number}")) for number, volume in enumerate(volumes, start=1)]


@pytest.fixture
def panel(pairs: list[tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The panel, told to learn from several cases."""
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: pytest.fail(text))
    with four_views(), opened(MODULE) as widget:
        slicer.util.setSliceViewerLayers(background=pairs[0][0], fit=True)
        shown = widget.panel
        shown.method.combo.currentIndex = shown.method.slugs.index(SLUG)
        widget.enter()
        shown.train.source.currentIndex = shown.train.sources.index("cases")
        yield shown


def cases_of(panel: Any) -> list[TrainingCase]:
    return trainingcases.read(panel.parameters())


def add_all(panel: Any) -> Any:
    """Add what belongs together; the table."""
    (room,) = [room for room in panel.rooms if hasattr(room, "tables")]
    room.tables["cases"].match.click()
    room.accept.click()
    return room.tables["cases"]


def test_by_clicks_from_nodes_to_a_model_whose_card_says_what_it_learnt_from(
    panel: Any, pairs: list[tuple[Any, Any]], pictures: Path
) -> None:
    (room,) = [room for room in panel.rooms if hasattr(room, "tables")]
    assert room.widget.visible and "image" not in [role["name"] for role in panel.roles() if role["kind"] == "Mask"]
    assert not panel.train.train.enabled and panel.train.train.toolTip == "Add a case."
    table = room.tables["cases"]
    table.match.click()
    assert room.proposal.visible and "4 found" in room.proposal_text.text
    assert "“CT 2” + “Drawn 2” (drawn on it)" in room.proposal_text.text
    assert cases_of(panel) == []  # nothing is used unasked
    slicer.app.layout_manager.picture(panel.body, pictures / "cases_proposed.png")
    room.accept.click()
    assert not room.proposal.visible
    assert [(case.values["image"], case.values["mask"]) for case in cases_of(panel)] == [([a], [b]) for a, b in pairs]
    assert [case.subject for case in cases_of(panel)] == ["CT 1", "CT 2", "CT 3", "CT 4"]

    room.validation.value, room.test.value = 25, 25
    room.split_button.click()
    assert sorted(case.split for case in cases_of(panel)) == ["test", "train", "train", "validation"]
    assert table.rows[0]["split"].currentIndex == trainingcases.SPLITS.index(cases_of(panel)[0].split)
    panel.train.name.text = "from-scene"
    until(lambda: panel.estimator.done)
    assert panel.train.train.enabled, panel.train.train.toolTip
    slicer.app.layout_manager.picture(panel.body, pictures / "cases_ready.png")
    panel.train.train.click()
    until(lambda: not panel.poller.busy)
    assert panel.apply.model.currentText == "from-scene"
    card = panel.apply.card.text
    assert "3 cases of 3 subjects (image, mask), 1 for validation" in card
    assert "1 case of 1 subject" in card and "On held-out cases: dice" in card
    assert "CT" not in card  # whose they were stays here
    slicer.app.layout_manager.picture(panel.body, pictures / "cases_done.png")


def test_cases_are_added_filled_and_removed_by_hand(panel: Any, pairs: list[tuple[Any, Any]]) -> None:
    (room,) = [room for room in panel.rooms if hasattr(room, "tables")]
    table = room.tables["cases"]
    table.add.click()
    table.add.click()
    assert panel.train.train.toolTip == "Case 1 lacks: image, mask."
    for row, (volume, drawing) in zip(table.rows, pairs, strict=False):
        row["image"].setCurrentNode(volume)
        row["mask"].setCurrentNode(drawing)
    assert [case.subject for case in cases_of(panel)] == ["CT 1", "CT 2"]  # read off the image
    table.rows[1]["image"].setCurrentNode(pairs[2][0])
    assert cases_of(panel)[1].subject == "CT 3"
    table.rows[1]["image"].setCurrentNode(pairs[0][0])
    assert "“CT 1” is in the cases 1 and 2" in panel.train.train.toolTip
    table.rows[0]["remove"].click()
    assert [case.values["mask"] for case in cases_of(panel)] == [[pairs[1][1]]]
    assert "planes" not in table.rows[0]
    table.optional.checked = True
    assert "planes" in table.rows[0]


def test_cases_of_one_subject_are_never_parted(panel: Any) -> None:
    table = add_all(panel)
    table.rows[0]["split"].currentIndex = 2
    for row in table.rows[1:3]:
        row["text subject"].text = "Somebody"
        row["text subject"].editingFinished.emit()
    table.rows[1]["split"].currentIndex = 1
    assert [case.split for case in cases_of(panel)] == ["test", "validation", "validation", "train"]
    table.rows[3]["text subject"].text = "CT 1"
    table.rows[3]["text subject"].editingFinished.emit()
    assert cases_of(panel)[3].split == "test"
    (room,) = [room for room in panel.rooms if hasattr(room, "tables")]
    room.split_button.click()
    splits = [(case.subject, case.split) for case in cases_of(panel)]
    assert len({subject for subject, _split in splits}) == len(set(splits)) == 2


def test_a_saved_scene_restores_the_cases(panel: Any, tmp_path: Path) -> None:
    table = add_all(panel)
    table.rows[2]["split"].currentIndex = 2
    panel.estimator.forget()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), {})
    slicer.mrmlScene.Clear(0)
    until(lambda: not panel.frozen)
    assert panel.parameters().text("source") == "" and cases_of(panel) == []
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), {})
    until(lambda: not panel.frozen)
    found = cases_of(panel)
    assert [case.values["mask"][0].GetName() for case in found] == ["Drawn 1", "Drawn 2", "Drawn 3", "Drawn 4"]
    assert found[2].split == "test" and panel.source == "cases"
    (room,) = [room for room in panel.rooms if hasattr(room, "tables")]
    assert room.tables["cases"].rows[3]["image"].currentNode().GetName() == "CT 4"


def test_a_stopped_training_of_cases_goes_on_by_a_click(panel: Any) -> None:
    add_all(panel)
    panel.parameters().set_setting("train", "steps", 300)
    panel.parameters().set_setting("train", "pause", 0.03)
    panel.train.name.text = "stopped"
    until(lambda: panel.train.train.enabled)
    panel.train.train.click()
    until(lambda: "left" in panel.run.status.text)
    panel.run.cancel.click()
    until(lambda: not panel.poller.busy)
    assert panel.train.interrupted.visible
    panel.parameters().set_setting("train", "pause", 0)  # a resumed training keeps its own settings
    panel.train.resume.click()
    until(lambda: "left" in panel.run.status.text)
    assert panel.run.bar.maximum == 300
    until(lambda: not panel.poller.busy, 60)
    assert panel.apply.model.currentText == "stopped" and "4 cases of 4 subjects" in panel.apply.card.text


def test_cases_are_named_in_the_line_and_not_tried_again_with_nodes_that_are_gone(
    panel: Any, pairs: list[tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: said.append(text))
    add_all(panel)
    until(lambda: panel.train.train.enabled)
    panel.train.train.click()
    (job,) = jobqueue.line().jobs
    assert sorted(job.names) == sorted(node.GetName() for pair in pairs for node in pair)
    jobqueue.line().cancel(job)
    until(lambda: job.finished)
    for name in panel.logic.interrupted(SLUG):  # else trying again goes on where it stopped, with the files of then
        panel.logic.discard(name)
    slicer.mrmlScene.RemoveNode(pairs[0][0])
    jobqueue.line().retry(job)
    until(lambda: job.finished)
    assert job.state == "failed" and said == ["“CT 1” is no longer in the scene; choose it again."]
    of_table = Asked(panel.logic, SLUG, "train", {}, {"cohort": str(tmp_path / "patients.csv")})
    assert of_table.names == ["patients.csv"]


def test_a_script_trains_from_cases(pairs: list[tuple[Any, Any]]) -> None:
    cases = [{"image": image, "mask": mask, "subject": "A"} for image, mask in pairs[:2]]
    cases.append({"image": pairs[2][0], "mask": pairs[2][1], "subject": "B", "split": "test"})
    model = MedGenLogic().process(SLUG, "train", cases=cases, name="scripted", wait=True)["model"]
    card = (model / "docs" / "README.md").read_text()
    assert "2 cases of 1 subject (image, mask)" in card and "On held-out cases: dice" in card


def test_mistakes_name_the_case(pairs: list[tuple[Any, Any]], tmp_path: Path) -> None:
    logic = MedGenLogic()
    whole = [{"image": image, "mask": mask} for image, mask in pairs]
    with pytest.raises(RunError, match="Case 2 lacks: mask"):
        logic.process(SLUG, "train", cases=[whole[0], {"image": pairs[1][0]}])
    with pytest.raises(RunError, match="Case 1: there is no role “picture”"):
        logic.process(SLUG, "train", cases=[{**whole[0], "picture": pairs[0][0]}])
    with pytest.raises(BoundaryError, match="Case 2: “CT 2” is a scalar volume"):
        logic.process(SLUG, "train", cases=[whole[0], {"image": pairs[2][0], "mask": pairs[1][0]}])
    with pytest.raises(RunError, match="Every case is held out"):
        logic.process(SLUG, "train", cases=[{**whole[0], "split": "test"}])
    with pytest.raises(RunError, match="takes no list of cases"):
        logic.process(SLUG, "invert", cases=whole)
    assert not list((tmp_path / "home" / "runs").glob("*"))


def test_each_case_has_its_own_grid_and_several_pools_become_a_collection(
    pairs: list[tuple[Any, Any]], tmp_path: Path
) -> None:
    pools = [pool("drawn", IMAGE, MASK), pool("plain", IMAGE, optional=True), pool("tasks", IMAGE, needs=["task"])]
    operation = {"scope": "collection", "pools": pools, "title": "Train"}
    pairs[1][0].SetSpacing(1, 1, 1)
    cases = [
        TrainingCase("drawn", {"image": pairs[0][0], "mask": pairs[0][1]}, "A", "train"),
        TrainingCase("plain", {"image": pairs[1][0]}, "B", "test"),
        TrainingCase("tasks", {"image": pairs[2][0]}, "C", "train", task="liver"),
    ]
    assert "Case 3 lacks: task" in trainingcases.why_not(
        operation, [*cases[:2], TrainingCase("tasks", cases[2].values)]
    )
    path = trainingcases.export_cases(operation, cases, tmp_path, lambda message: None)
    assert path.name == "collection.json"
    image, mask = (method.Role(name, method.Kind(kind), "") for name, kind in (("image", "Image"), ("mask", "Mask")))
    declared = tuple(
        method.Pool(one["name"], (image, mask) if one["name"] == "drawn" else (image,), optional=one["optional"])
        for one in pools
    )
    found = cohort.read_collection(path, method.Operation("train", "", "", method.Config, "collection", pools=declared))
    assert [(name, rows[0].subject, rows[0].split) for name, rows in found.pools.items()] == [
        ("drawn", "A", "train"),
        ("plain", "B", "test"),
        ("tasks", "C", "train"),
    ]
    assert found.pools["tasks"][0].task == "liver"
    assert trainingcases.node_of(found.pools["plain"][0].files["image"], tmp_path) is pairs[1][0]
    with (tmp_path / "plain.csv").open() as file:
        assert "mask" not in next(csv.reader(file))


def test_cases_without_labels_are_said_to_be_so(pairs: list[tuple[Any, Any]], tmp_path: Path) -> None:
    operation = {"scope": "collection", "pools": [pool("cases", IMAGE, MASK, needs=["labelled"])], "title": "Train"}
    cases = [TrainingCase("cases", {"image": pairs[0][0], "mask": pairs[0][1]}, "A")]
    cases.append(TrainingCase("cases", {"image": pairs[1][0]}, "B"))
    with trainingcases.export_cases(operation, cases, tmp_path, lambda message: None).open() as file:
        assert [row["labelled"] for row in csv.DictReader(file)] == ["yes", "no"]


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("CT 7", "Segmentation_7", True),
        ("CT 7", "CT 17 seg", False),
        ("patient_003_image", "patient_3-label", True),
        ("Miller CT", "Miller mask", True),
        ("Miller CT", "Smith mask", False),
        ("CT", "mask", False),
    ],
)
def test_names_are_alike_but_for_what_a_node_is(one: str, other: str, alike: bool) -> None:
    assert (matching.similarity(one, other) >= 0.6) == alike


def test_nodes_of_one_study_belong_together_and_results_of_ours_do_not_count(scene: Any) -> None:
    slicer_standin.start()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    for patient in ("Ada", "Bob"):
        study = hierarchy.CreateStudyItem(hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), patient), "Study")
        volume = add_volume(f"Scan of {len(patient)}{patient[0]}")
        made = add_drawing(volume, name="AI result")
        made.SetAttribute("MedGen.method", "some")
        drawing = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Thing")
        for node in (volume, made, drawing):
            subject_hierarchy_item(node, study)
    found = matching.proposals(pool("cases", IMAGE, MASK), [])
    assert [one.case.subject for one in found] == ["Ada", "Bob"]
    assert all(one.case.values["mask"].GetName().startswith("Thing") for one in found)
    assert found[0].reason == "same study or folder"
    assert matching.proposals(pool("cases", IMAGE, MASK), [one.case for one in found]) == []


def boxed(*names: str) -> list[Any]:
    """ROIs of these names, at the top of the subject hierarchy."""
    rois = [roi(name, (5, 5, 40, 40)) for name in names]
    for node in rois:
        subject_hierarchy_item(node)
    return rois


def folder(name: str, *nodes: Any) -> int:
    """A folder of the subject hierarchy with these nodes."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), name)
    for node in nodes:
        subject_hierarchy_item(node, item)
    return int(item)


def test_all_boxes_in_the_folder_of_one_image_are_its_own(scene: Any) -> None:
    slicer_standin.start()
    frames, forceps = (
        [picture("Frame 1"), picture("Frame 2"), picture("Alone 3")],
        boxed("forceps", "forceps_1", "knife"),
    )
    folder("A", frames[0], forceps[0], forceps[2])
    folder("B", frames[1], forceps[1])
    found = matching.proposals(pool("frames", FRAME, BOXES), [])
    assert [(one.case.values["image"], one.case.values["boxes"]) for one in found] == [
        (frames[0], [forceps[0], forceps[2]]),
        (frames[1], [forceps[1]]),
    ]
    assert found[0].text() == "“Frame 1” + “forceps” + “knife” (same study or folder)"
    assert [one.case.values["image"] for one in matching.proposals(pool("frames", FRAME, BOXES), [found[0].case])] == [
        frames[1]
    ]


def test_boxes_in_a_folder_of_several_images_are_told_apart_by_nothing_but_their_names(scene: Any) -> None:
    slicer_standin.start()
    frames, boxes = [picture("Frame 1"), picture("Frame 2")], boxed("forceps", "Frame 2", "Frame 1 label")
    picture("forceps")
    folder("A", *frames, *boxes)
    needs = pool("frames", FRAME, BOXES)
    found = matching.proposals(needs, [])
    assert [(one.case.values["image"], one.case.values["boxes"], one.reason) for one in found] == [
        (frames[0], [boxes[2]], "names alike"),
        (frames[1], [boxes[1]], "names alike"),
    ]  # and not “forceps” for the image of that name, which stands elsewhere
    frames[1].SetName("Frame 1")
    assert [one.case.values["image"] for one in matching.proposals(needs, [])] == []  # both are called so
    # A frame that is in a case already counts all the same: the boxes may be that one's.
    frames[1].SetName("Frame 2")
    used = TrainingCase("frames", {"image": [frames[0]], "boxes": [boxes[2]]})
    assert [one.case.values["boxes"] for one in matching.proposals(needs, [used])] == [[boxes[1]]]


def test_boxes_in_no_folder_go_by_name(scene: Any) -> None:
    slicer_standin.start()
    frame, boxes = picture("Frame 1"), boxed("Frame 1", "forceps")
    picture("Frame 2")
    (found,) = matching.proposals(pool("frames", FRAME, BOXES), [])
    assert found.case.values == {"image": frame, "boxes": [boxes[0]]} and found.reason == "names alike"


def test_what_stands_under_an_image_is_that_images_and_no_others(scene: Any) -> None:
    slicer_standin.start()
    frames, boxes = [picture("Frame 1"), picture("Frame 2")], boxed("forceps", "forceps_1", "Frame 2")
    study = folder("Study", *frames, boxes[2])
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    items = [hierarchy.GetItemByDataNode(node) for node in frames]
    for node in boxes[:2]:
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), items[1])
    (found,) = matching.proposals(pool("frames", FRAME, BOXES), [])
    assert found.case.values == {"image": frames[1], "boxes": boxes}
    assert found.reason == "placed under it, names alike"

    points = {**BOXES, "name": "points", "kind": "Points", "many": False}
    lists = [scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in ("List 2", "Frame 1", "Frame 2")]
    for node, parent in zip(lists, (items[0], items[1], study), strict=True):
        subject_hierarchy_item(node, parent)
    found_points = matching.proposals(pool("frames", FRAME, points), [])
    assert [(one.case.values["points"], one.reason) for one in found_points] == [
        (lists[0], "placed under it"),
        (lists[1], "placed under it"),
    ]
    taken = TrainingCase("frames", {"image": [frames[1]]})
    scene.RemoveNode(lists[0])
    scene.RemoveNode(lists[2])
    assert (
        matching.proposals(pool("frames", FRAME, points), [taken]) == []
    )  # “Frame 1” is the other's, whatever its name


def test_in_a_folder_of_several_images_a_list_goes_by_its_name_or_number(scene: Any) -> None:
    slicer_standin.start()
    frames = [picture("Frame 1"), picture("Frame 2"), picture("Evening")]
    points = {**BOXES, "name": "points", "kind": "Points", "many": False}
    lists = [scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in ("Sutures 2", "Evening", "Others")]
    folder("Surgery", *frames, *lists)
    found = matching.proposals(pool("frames", FRAME, points), [])
    assert [(one.case.values["image"], one.case.values["points"]) for one in found] == [
        (frames[2], lists[1]),
        (frames[1], lists[0]),
    ]
    frames += [picture("Morning 2")]
    folder("Surgery", *frames, *lists)  # the number is of two of them now
    found = matching.proposals(pool("frames", FRAME, points), [])
    assert [one.case.values["image"] for one in found] == [frames[2]]
    alone = picture("Noon")
    folder("Another", alone, lists[2])
    assert {"image": alone, "points": lists[2]} in [
        one.case.values for one in matching.proposals(pool("frames", FRAME, points), [])
    ]


def test_what_a_segmentation_was_drawn_on_is_surer_than_where_it_stands(scene: Any) -> None:
    slicer_standin.start()
    volumes = [add_volume("CT 1"), add_volume("CT 2")]
    drawings = [add_drawing(volumes[0], name="CT 1 mask"), add_drawing(volumes[0], name="CT 2 mask")]
    drawings[0].RemoveNodeReferenceIDs(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())
    items = [subject_hierarchy_item(volume) for volume in volumes]
    for drawing in drawings:
        subject_hierarchy_item(drawing, items[1])
    found = matching.proposals(pool("cases", IMAGE, MASK), [])
    assert [(one.case.values["image"], one.case.values["mask"], one.reason) for one in found] == [
        (volumes[0], drawings[1], "drawn on it"),
        (volumes[1], drawings[0], "placed under it"),
    ]


def test_boxes_beside_a_frame_and_a_volume_are_not_taken_for_the_frames(scene: Any) -> None:
    slicer_standin.start()
    frame, (box,) = picture("Frame 1"), boxed("forceps")
    folder("A", frame, add_volume("CT"), box)
    (found,) = matching.proposals(pool("frames", FRAME, BOXES, needs=["labelled"]), [])
    assert found.case.values == {"image": frame} and found.reason == "without labels"


def test_optional_boxes_are_found_and_images_without_them_are_complete(scene: Any) -> None:
    slicer_standin.start()
    frames, (box,) = [picture("Frame 1"), picture("Frame 2")], boxed("panel")
    folder("A", frames[1], box)
    found = matching.proposals(pool("pictures", FRAME, {**BOXES, "optional": True}), [])
    assert [(one.case.values, one.reason) for one in found] == [
        ({"image": frames[0]}, "without boxes"),
        ({"image": frames[1], "boxes": [box]}, "same study or folder"),
    ]
    add_volume("CT")
    assert len(matching.proposals(pool("pictures", FRAME, {**BOXES, "optional": True}), [])) == 2


def test_images_without_labels_are_found_where_a_pool_takes_them_and_no_volume_as_a_frame(scene: Any) -> None:
    slicer_standin.start()
    first, bare, drawn = picture("Frame 1"), picture("Frame 2"), boxed("forceps")
    grey = add_volume("Frame 3")
    slicer.util.updateVolumeFromArray(grey, slicer.util.arrayFromVolume(grey)[:1].copy())
    folder("A", first, *drawn)
    ct = add_volume("CT 4")
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Hollow")
    found = matching.proposals(pool("frames", FRAME, BOXES, may=["labelled"]), [])
    assert [(one.case.values["image"], one.reason) for one in found] == [
        (first, "same study or folder"),
        (bare, "without labels"),
        (grey, "without labels"),
    ]
    assert found[1].case.values == {"image": bare} and found[1].case.labelled == ""
    assert [one.case.values["image"] for one in matching.proposals(pool("frames", FRAME, BOXES), [])] == [first]
    volumes = matching.proposals(pool("volumes", IMAGE, MASK, needs=["labelled"]), [])
    assert ct in [one.case.values["image"] for one in volumes]


def test_what_is_half_labelled_counts_as_without_labels(scene: Any) -> None:
    slicer_standin.start()
    volume = add_volume("CT 1")
    add_drawing(volume)
    (found,) = matching.proposals(pool("cases", IMAGE, MASK, BOXES, needs=["labelled"]), [])
    assert found.case.values == {"image": volume} and found.reason == "without labels"


def test_two_image_roles_are_told_apart_by_their_modality(scene: Any) -> None:
    slicer_standin.start()
    for number in (1, 2):
        for modality in ("MR", "CT"):
            add_volume(f"{modality} head {number}")
    mr, ct = ({**IMAGE, "name": name, "modality": name.upper()} for name in ("mr", "ct"))
    found = matching.proposals(pool("pairs", mr, ct), [])
    assert [(one.case.values["mr"].GetName(), one.case.values["ct"].GetName()) for one in found] == [
        ("MR head 1", "CT head 1"),
        ("MR head 2", "CT head 2"),
    ]


def test_parameters_forget_what_was_removed(scene: Any, pairs: list[tuple[Any, Any]]) -> None:
    parameters = Parameters(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    cases = [TrainingCase("cases", {"image": image, "mask": mask}, "A") for image, mask in pairs]
    trainingcases.write(parameters, cases)
    trainingcases.write(parameters, cases[2:])
    found = trainingcases.read(parameters)
    assert [case.values["image"] for case in found] == [[pairs[2][0]], [pairs[3][0]]]
    slicer.mrmlScene.RemoveNode(pairs[2][1])
    assert "mask" not in trainingcases.read(parameters)[0].values
