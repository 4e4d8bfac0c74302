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
