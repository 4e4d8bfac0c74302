"""Many cases without a panel: how they are found, that one failure stops no other, and what is left of each."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import slicer
import slicer.util
from panel_tools import SLUG, home, node_count, stub_catalog  # noqa: F401
from queue_tools import names_in_scene, put, quick, save_volume, ticked  # noqa: F401

from MedGenLib import cases, casetable, jobqueue
from MedGenLib.errors import RunError
from MedGenLib.load import provenance_of
from MedGenLib.logic import MedGenLogic
from MedGenLib.selftest import add_drawing, add_volume


def role(name: str, kind: str = "Image", optional: bool = False, many: bool = False) -> dict[str, Any]:
    """A role as the catalog declares it."""
    return {"name": name, "kind": kind, "optional": optional, "many": many}


ONE = {"inputs": [role("image"), role("mask", "Mask", optional=True)]}
TWO = {"inputs": [role("mr"), role("ct"), role("planes", "Plane", optional=True, many=True)]}


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Empty files of two patients, in the ways that people call them."""
    for name in ("anna_mr.nii.gz", "anna_ct.nii.gz", "bert_mr.nii.gz", "notes.txt", ".hidden.nrrd", "anna.seg.nrrd"):
        (tmp_path / name).touch()
    return tmp_path


def test_every_image_of_a_folder_is_a_case_where_one_image_is_needed(scans: Path) -> None:
    found = cases.from_folder(ONE, scans)
    assert [case.name for case in found] == ["anna_ct", "anna_mr", "bert_mr"]
    assert found[0].inputs == {"image": scans / "anna_ct.nii.gz"}


def test_names_of_files_say_which_role_and_case_they_are(scans: Path) -> None:
    anna, bert = cases.from_folder(TWO, scans, {"mr": "*_mr.nii.gz", "ct": "*_ct.nii.gz"})
    assert anna == cases.Case("anna", {"mr": scans / "anna_mr.nii.gz", "ct": scans / "anna_ct.nii.gz"})
    assert bert.name == "bert" and "no file for “ct”" in bert.problem
    with pytest.raises(RunError, match="how the files of “ct” are called"):
        cases.from_folder(TWO, scans, {"mr": "*_mr.nii.gz"})
    with pytest.raises(RunError, match="No case was found"):
        cases.from_folder(ONE, scans, {"image": "*.dcm"})


def test_a_folder_a_case_and_one_file_for_all_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "atlas.nrrd").touch()
    for case in ("a", "b"):
        (tmp_path / case).mkdir()
        for name in ("mr.nrrd", "p1.mrk.json", "p2.mrk.json"):
            (tmp_path / case / name).touch()
    found = cases.from_folder(TWO, tmp_path, {"mr": "*/mr.nrrd", "ct": "atlas.nrrd", "planes": "*/p*.mrk.json"})
    assert [case.name for case in found] == ["a", "b"] and not any(case.problem for case in found)
    assert found[1].inputs["ct"] == tmp_path / "atlas.nrrd"
    assert [path.name for path in found[1].inputs["planes"]] == ["p1.mrk.json", "p2.mrk.json"]
    double = cases.from_folder(TWO, tmp_path, {"mr": "*/p*.mrk.json", "ct": "atlas.nrrd"})
    assert "Several files" in double[0].problem


def test_a_table_of_cases_is_read_by_the_rules_of_cohorts(scans: Path) -> None:
    table = scans / "cohort.csv"
    rows = [
        "subject,mr,ct,planes",
        "anna,anna_mr.nii.gz,anna_ct.nii.gz,a;b",
        "bert,bert_mr.nii.gz,missing.nrrd,",
        "bert,,,",
    ]
    table.write_text("\n".join(rows))
    (scans / "a").touch()
    (scans / "b").touch()
    anna, bert, again = cases.from_table(TWO, table)
    assert anna.inputs["planes"] == [scans / "a", scans / "b"] and not anna.problem
    assert bert.problem.startswith("cohort.csv, line 3:") and "missing.nrrd" in bert.problem
    assert again.name == "bert (2)" and "column “ct” is empty" in again.problem
    with pytest.raises(RunError, match="no column “image”"):
        cases.from_table(ONE, table)
    with pytest.raises(RunError, match=r"nothing.csv does not exist"):
        cases.from_table(ONE, scans / "nothing.csv")


def test_branches_of_the_subject_hierarchy_are_cases_where_more_is_needed(scene: Any) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    for patient, names in (("anna", ("MR brain", "anna_ct")), ("bert", ("MR",))):
        item = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), patient)
        for name in names:
            hierarchy.CreateItem(item, add_volume(name))
    anna, bert = cases.from_hierarchy(TWO, hierarchy.GetSceneItemID())
    assert anna.inputs == {"mr": slicer.util.getNode("MR brain"), "ct": slicer.util.getNode("anna_ct")}
    assert bert.name == "bert" and "No node is called “ct”" in bert.problem
    assert [name for _item, name, _depth in cases.branches()] == ["Scene", "anna", "bert"]
    with pytest.raises(RunError, match="No case"):
        cases.from_hierarchy(TWO, hierarchy.GetItemByDataNode(slicer.util.getNode("MR")))


def test_a_failed_case_stops_no_other_and_the_table_says_why(quick: Path, tmp_path: Path) -> None:  # noqa: F811
    for name in ("anna", "broken", "carl"):
        save_volume(tmp_path / "scans" / f"{name}.nrrd")
    logic, out = MedGenLogic(), tmp_path / "out"
    (out / "carl").mkdir(parents=True)
    (out / "carl" / "mine.txt").write_text("kept")
    given = cases.from_folder(logic.operation(SLUG, "invert")[1], tmp_path / "scans")
    before = names_in_scene()
    batch = logic.process_cases(SLUG, "invert", given, output=out, wait=True)
    rows = batch.rows()
    assert [(row["case"], row["state"]) for row in rows] == [("anna", "done"), ("broken", "failed"), ("carl", "failed")]
    assert "broken.nrrd cannot be worked on" in rows[1]["reason"] and "exists already" in rows[2]["reason"]
    assert rows[0]["output"] == str(out / "anna" / "inverted.nrrd") and rows[0]["seconds"] > 0
    assert (out / "anna" / "inverted.nrrd").is_file() and list((out / "carl").iterdir()) == [out / "carl" / "mine.txt"]
    assert sorted(path.name for path in out.iterdir()) == ["anna", "carl"]  # and nothing hidden
    assert names_in_scene() == before | {batch.table.GetName()}
    assert batch.table.GetCellText(1, 2) == rows[1]["reason"]

    (tmp_path / "scans" / "broken.nrrd.mended").touch()
    (out / "carl").rename(tmp_path / "away")
    batch.retry_failed()
    batch.wait()
    assert {row["state"] for row in batch.rows()} == {"done"}
    assert batch.table.GetCellText(1, 1) == "done"
    batch.save(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["anna", "broken", "carl"]
    assert list(quick.iterdir()) == []


def test_a_real_method_goes_through_the_nodes_of_a_study_one_by_one(home: Path, scene: Any) -> None:  # noqa: F811
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Study")
    for name in ("A", "B"):
        hierarchy.CreateItem(study, add_volume(name))
    logic = MedGenLogic()
    given = cases.from_hierarchy(logic.operation(SLUG, "invert")[1], study)
    batch = logic.process_cases(SLUG, "invert", given, wait=True)
    assert [row["output"] for row in batch.rows()] == ["A inverted", "B inverted"]
    assert provenance_of(slicer.util.getNode("B inverted"))["method"] == SLUG


def test_a_case_whose_volume_was_deleted_meanwhile_fails_alone(quick: Path) -> None:  # noqa: F811
    volumes = [add_volume(name) for name in ("A", "B")]
    put(volumes[1], "slow")
    given = [cases.Case(volume.GetName(), {"image": volume}) for volume in volumes]
    batch = MedGenLogic().process_cases(SLUG, "invert", given)
    slicer.mrmlScene.RemoveNode(volumes[0])
    batch.wait()
    assert [row["state"] for row in batch.rows()] == ["failed", "done"]
    assert "“A” is no longer in the scene" in batch.rows()[0]["reason"]


def test_cancelled_cases_leave_no_table_no_file_and_the_scene_as_it_was(quick: Path, tmp_path: Path) -> None:  # noqa: F811
    volume = add_volume()
    before, out = node_count(), tmp_path / "out"
    out.mkdir()
    given = [cases.Case(name, {"image": volume}) for name in "abc"]
    batch = MedGenLogic().process_cases(SLUG, "invert", given, {"act": "polite"}, output=out)
    ticked(lambda: batch.jobs[0].progress is not None and batch.jobs[1].run is not None)
    assert len(list(out.iterdir())) >= 2
    batch.cancel()
    batch.wait()
    assert {row["state"] for row in batch.rows()} == {"cancelled"}
    assert node_count() == before and list(out.iterdir()) == [] and list(quick.iterdir()) == []


def test_a_closed_scene_ends_the_cases_that_were_to_be_loaded_into_it(quick: Path) -> None:  # noqa: F811
    volume = add_volume()
    given = [cases.Case(name, {"image": volume}) for name in "abc"]
    batch = MedGenLogic().process_cases(SLUG, "invert", given, {"act": "slow"})
    ticked(lambda: batch.jobs[0].state == "running")
    slicer.mrmlScene.Clear(0)
    before = node_count()
    batch.wait()
    assert {row["state"] for row in batch.rows()} == {"cancelled"}
    assert node_count() == before and list(quick.iterdir()) == [] and jobqueue.line().unfinished == []


def test_a_case_tried_again_after_the_scene_was_closed_has_its_table(quick: Path, tmp_path: Path) -> None:  # noqa: F811
    for name in ("broken", "late"):
        save_volume(tmp_path / f"{name}.nrrd")
    given = [cases.Case(name, {"image": tmp_path / f"{name}.nrrd"}) for name in ("broken", "late")]
    batch = MedGenLogic().process_cases(SLUG, "invert", given, {"act": "slow"})
    ticked(lambda: batch.jobs[1].state == "running")
    slicer.mrmlScene.Clear(0)
    batch.wait()
    assert [row["state"] for row in batch.rows()] == ["failed", "cancelled"] and batch.table is None
    (tmp_path / "broken.nrrd.mended").touch()
    batch.retry_failed()
    batch.wait()
    assert [batch.table.GetCellText(row, 1) for row in range(2)] == ["done", "cancelled"]


def test_the_table_speaks_the_persons_language_and_rows_do_not(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(casetable, "_", lambda text: f"«{text}»")
    batch = MedGenLogic().process_cases(SLUG, "invert", [cases.Case("a", problem="No file."), cases.Case("b")])
    jobqueue.line().tick()
    table = batch.table
    names = [table.GetColumnName(column) for column in range(table.GetNumberOfColumns())]
    assert names == [f"«{name}»" for name in casetable.COLUMNS]
    assert [table.GetCellText(row, 1) for row in range(2)] == ["«failed»", "«waiting»"]
    assert batch.rows()[0]["state"] == "failed"
    table.RemoveColumn(0)  # by a person
    batch.cancel()
    assert table.GetColumnName(0) == "«case»" and table.GetCellText(1, 1) == "«cancelled»"


def test_cases_of_files_go_on_when_the_scene_is_closed(quick: Path, tmp_path: Path) -> None:  # noqa: F811
    for name in ("a", "b"):
        save_volume(tmp_path / f"{name}.nrrd")
    given = [cases.Case(name, {"image": tmp_path / f"{name}.nrrd"}) for name in "ab"]
    (tmp_path / "out").mkdir()
    batch = MedGenLogic().process_cases(SLUG, "invert", given, {"act": "slow"}, output=tmp_path / "out")
    ticked(lambda: batch.jobs[0].state == "running")
    slicer.mrmlScene.Clear(0)
    batch.wait()
    assert {row["state"] for row in batch.rows()} == {"done"}


def test_what_cannot_go_case_by_case_is_said_before_anything_runs(quick: Path, tmp_path: Path) -> None:  # noqa: F811
    volume, logic = add_volume(), MedGenLogic()
    case = [cases.Case("a", {"image": volume, "mask": add_drawing(volume)})]
    with pytest.raises(RunError, match="does not work case by case"):
        logic.process_cases(SLUG, "train", case)
    with pytest.raises(RunError, match="no case"):
        logic.process_cases(SLUG, "invert", [])
    with pytest.raises(RunError, match="does not exist"):
        logic.process_cases(SLUG, "invert", case, output=tmp_path / "nowhere")
    assert jobqueue.line().jobs == []
