"""Which cases lie in a folder, what they are called, and that no name of a patient gets out."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dicom_tools as make
import numpy as np
import pytest
import SimpleITK as sitk
from backend_tools import ROOT, picture, volume
from batch_tools import begun
from dicom_tools import ROOT_UID

from medgen import archive, catalog, cohort, dicom, dicomvolume, io, ledger, privacy, worker
from medgen.errors import UserError
from medgen.method import Kind, Operation, Pool, Role

UID, OTHER = f"{ROOT_UID}.2.1", f"{ROOT_UID}.2.2"
PRIVATE = (*make.NAME.split("^"), make.ID, make.BIRTH, "1953-04-12")
CT = Role("ct", Kind.IMAGE, "a CT")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An archive: two DICOM series of a patient in one folder, image files, and what is neither."""
    folder = tmp_path / "archive"
    dicoms = folder / make.NAME / "20240131"
    make.stack(dicoms, UID)
    make.stack(dicoms, OTHER, name="B{}", heights=(0, 1, 2), description=f"Head {make.NAME.partition('^')[0]}")
    make.objects(dicoms)
    sitk.WriteImage(volume(), str(folder / "head.nii.gz"))
    for name in ("s1/T1.nrrd", "s2/T1.nrrd", "s1/T1_mask.nrrd", "s1/T1.seg.nrrd", ".hidden.nrrd", "s1/done.nrrd"):
        (folder / name).parent.mkdir(exist_ok=True)
        sitk.WriteImage(volume(), str(folder / name))
    (folder / "s1" / "done.nrrd.provenance.json").write_text("{}")
    sitk.WriteImage(picture(), str(folder / "photo.png"))
    (folder / "notes.txt").write_text("not an image")
    (folder / "earlier" / "cases" / "a").mkdir(parents=True)
    (folder / "earlier" / "batch.json").write_text("{}")
    sitk.WriteImage(volume(), str(folder / "earlier" / "cases" / "a" / "ct.nii.gz"))
    (folder / "s2" / "loop").symlink_to(folder)
    return folder


def test_each_image_file_and_each_series_is_a_case_and_nothing_else(tree: Path) -> None:
    log: list[str] = []
    found = archive.find(tree, log=log.append)
    names = [one.name for one in found]
    assert names[:2] == ["head", "photo"]
    assert [name.partition("-")[0] for name in names[2:4]] == ["T1", "T1"] and names[2] != names[3]
    assert [name.rpartition("_")[0] for name in names[4:]] == ["CT", "CT_Thorax_1_0_B30f"]
    folder = tree / make.NAME / "20240131"
    assert [one.path_text for one in found[4:]] == [f"{folder}#{OTHER}", f"{folder}#{UID}"]
    for one in found:
        assert io.read_image(Path(one.path_text)).data.numel()
    said = " ".join(log)
    for words in ("2 label maps", "1 results of MedGen", "(RTSTRUCT)", "(SR)", "(SEG)", "(no pixels)"):
        assert words in said
    assert found == archive.find(tree)  # the order, and the names, stay


def test_names_tell_the_patient_only_when_asked(tree: Path) -> None:
    names = " ".join(one.name for one in archive.find(tree))
    assert not any(word in names for word in PRIVATE)
    asked = archive.find(tree, patient_names=True)[-1].name
    assert asked.startswith("PID_4711_X_Quastenflosser_Wendelin_20240131_CT_")


def test_a_series_over_sub_folders_is_one_case_and_single_views_are_one_each(tmp_path: Path) -> None:
    make.stack(tmp_path, UID, name="part{0}/IM{0}")
    for number in (1, 2):
        make.write(
            tmp_path / "views" / str(number), make.slice_of(OTHER, number, np.zeros((6, 8)), None, modality="CR")
        )
    found = archive.find(tmp_path)
    texts = {one.path_text for one in found}
    assert texts == {f"{tmp_path}#{UID}", str(tmp_path / "views" / "1"), str(tmp_path / "views" / "2")}
    assert sorted(one.name[-2:] for one in found if one.name.startswith("CR")) == ["_1", "_2"]


def test_a_folder_fills_the_image_role_and_says_when_that_is_not_enough(tree: Path) -> None:
    mask = Role("mask", Kind.MASK, "a mask", optional=True)
    operation = Operation("apply", "Apply", "…", None, inputs=(mask, CT))  # type: ignore[arg-type]
    rows = archive.cohort_rows(tree, operation)
    assert [list(row.files) for row in rows] == [["ct"]] * 5  # not the picture
    assert next(row.subject for row in rows) == "head"
    with pytest.raises(UserError, match="needs mask, ct for every case"):
        archive.cohort_rows(tree, replace(operation, inputs=(replace(mask, optional=False), CT)))
    with pytest.raises(UserError, match="takes no image"):
        archive.cohort_rows(tree, replace(operation, inputs=(mask,)))
    with pytest.raises(UserError, match="holds no image for “ct”"):
        archive.cohort_rows(tree / "earlier", operation)
    with pytest.raises(UserError, match="does not exist"):
        archive.cohort_rows(tree / "nowhere", operation)


def test_a_cohort_names_series_of_a_folder(tree: Path) -> None:
    folder = Path(make.NAME) / "20240131"
    table = tree / "cohort.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["subject", "ct"], ["a", f"{folder}#{UID}"], ["b", f"{folder}#{OTHER}"]])
    rows = cohort.read_pool(table, Pool("cases", (CT,)))
    assert [dicom.split(row.files["ct"][0])[1] for row in rows] == [UID, OTHER]
    table.write_text(f"ct\nnowhere#{UID}\n")
    with pytest.raises(UserError, match="does not exist"):
        cohort.read_pool(table, Pool("cases", (CT,)))


# --- privacy ------------------------------------------------------------------------------------------------------


def test_sentences_are_repeated_without_folders_and_without_the_patient(tree: Path) -> None:
    folder = tree / make.NAME / "20240131"
    text, file = f"{folder}#{UID}", str(tree / "s1" / "T1.nrrd")
    say = privacy.Discreet([text, file])
    name = privacy.stand_in(text)
    assert say(f"{text} has no voxels.") == f"{name} has no voxels."
    assert say(f"{file} and {folder / 'IM0001'} differ.") == f"T1.nrrd and {name} differ."
    assert say(f"Folder {folder} is full, {tree}/other.nii too.") == f"Folder {name} is full, other.nii too."
    heard = say(f"“20240131” of {make.NAME} (wendelin, {make.ID}, born {make.BIRTH}, 1953-04-12) cannot.")
    assert heard.endswith("cannot.") and name in heard
    assert not any(word.lower() in heard.lower() for word in PRIVATE)
    assert privacy.Discreet([text], patient_names=True)(f"{text} of {make.NAME}") == f"{text} of {make.NAME}"


def test_what_stands_for_an_input(tree: Path) -> None:
    folder = tree / make.NAME / "20240131"
    assert privacy.stand_in(tree / "s1" / "T1.nrrd") == "T1.nrrd"
    assert privacy.stand_in("male") == "male"  # a class
    assert privacy.stand_in(folder / "IM0001") == privacy.stand_in(f"{folder}#{UID}")
    assert privacy.stand_in(folder).startswith("folder_")  # several series: no name of its own
    assert privacy.stand_in(f"{tree}/{make.NAME}/gone").startswith("folder_")
    assert privacy.stand_in(f"{folder}#1.2.3").startswith("DICOM_")
    assert privacy.stand_in(f"{folder}#{UID}", patient_names=True).startswith("PID_4711_X")


def test_whatever_a_disk_or_a_table_holds_has_a_name(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    sitk.WriteImage(volume(), str(tmp_path / "a.nrrd"))
    (tmp_path / "a.nrrd").rename(odd / "a.nrrd")
    os.mkfifo(tmp_path / "pipe.dcm")  # opened, it would wait for ever
    make.stack(odd / "dicom", UID)
    assert [one.name[:2] for one in archive.find(tmp_path)] == ["a-", "CT"]
    (tmp_path / "round").symlink_to("round")
    for text in (
        str(tmp_path / "round"),
        "x" * 5000,
        "/" + "x" * 5000,
        "/a\0b",
        str(odd / "nothing"),
        f"{'x' * 5000}#1.2",
    ):
        assert privacy.stand_in(text) and not dicom.exists(text) and dicom.files_of(text) == []
        assert privacy.Discreet([text])("Nothing.") == "Nothing."


def test_names_written_in_other_character_sets_are_known(tmp_path: Path) -> None:
    one = make.slice_of(UID, 1, np.zeros((6, 8)), (0, 0, 0))
    for charset, codec, name in (("ISO_IR 144", "iso8859_5", "Иванов^Иван"), ("ISO_IR 192", "utf-8", "Müller^Zoë")):
        own = [(tag, kind, value) for tag, kind, value in one if tag not in (0x00080005, 0x00100010)]
        own += [(0x00080005, "CS", charset), (0x00100010, "PN", name.encode(codec))]
        make.write(tmp_path / charset, own)
        assert privacy.Discreet([tmp_path / charset])(f"Of {name.partition('^')[0]}.") == "Of …."


def contents(path: Path) -> bytes:
    """A file's bytes, unpacked where it is packed; those of a NRRD whose header is text with its voxels unpacked."""
    data = path.read_bytes()
    if path.name.endswith(".gz"):
        return gzip.decompress(data)
    head, _blank, body = data.partition(b"\n\n")
    return head + gzip.decompress(body) if b"encoding: gzip" in head else data


def leaks(folder: Path, words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Which files below a folder hold which of the words, in their names or bytes."""
    found = []
    for path in folder.rglob("*"):
        data = path.name.lower().encode() + (contents(path).lower() if path.is_file() else b"")
        found += [(path.name, word) for word in words if word.lower().encode() in data]
    return found


def test_images_written_from_dicom_hold_nothing_of_its_header(tree: Path) -> None:
    text = Path(f"{tree / make.NAME / '20240131'}#{UID}")
    assert list(io.read_itk(text).GetMetaDataKeys()) == [dicomvolume.NAME]
    assert list(io.read_itk(text.parent / "20240131" / "IM0001").GetMetaDataKeys()) == [dicomvolume.NAME]
    image = io.read_image(text)
    for ending in (".nii.gz", ".nii", ".nrrd", ".mha"):
        io.write_image(image, tree.parent / "written" / f"a{ending}")
    assert len(list((tree.parent / "written").iterdir())) == 4
    assert not leaks(tree.parent / "written", (*PRIVATE, "20240131", UID, "B30f"))


@pytest.mark.parametrize("patient_names", [False, True])
def test_a_batch_over_an_archive_names_the_patient_only_when_asked(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patient_names: bool
) -> None:
    stubs = ROOT / "Testing" / "Slicer"
    monkeypatch.syspath_prepend(str(stubs))
    (tmp_path / "catalog.json").write_text(catalog.build(["panel_stubs.threshold"]), encoding="utf-8")
    monkeypatch.setenv("MEDGEN_CATALOG", str(tmp_path / "catalog.json"))
    dicoms, out = tree / make.NAME, tmp_path / "out"
    make.stack(dicoms, f"{ROOT_UID}.2.3", name="C{}", heights=(0, 1, 2, 4))  # one slice is missing
    operation = catalog.load("stub-threshold").operation("invert")
    plan = worker.Plan(
        str(out), "stub-threshold", "invert", None, {}, "cpu", "32", 0, None, {}, "r", patient_names, token="this start"
    )
    rows = archive.cohort_rows(dicoms, operation, patient_names)
    tasks = [worker.Task(row.subject, row.subject, row.files, label=row.label) for row in rows]
    begun(out, [task.name for task in tasks])
    ended = [worker.work(plan, task) for task in tasks]
    ledger.write_tables(out)
    (failure,) = [one for one in ended if one["state"] == "failed"]
    assert "lacks 1 slice" in failure["reason"] and len(ended) == 3
    told = {word for _, word in leaks(out, PRIVATE)}
    if patient_names:
        assert set(make.NAME.split("^")) <= told
        return
    assert not told
    assert failure["reason"].startswith(failure["case"] + " lacks 1 slice")
    (done,) = out.glob("cases/CT_Thorax*")
    record = json.loads((done / "inverted.nii.gz.provenance.json").read_text())
    assert [one["file"] for one in record["inputs"]] == [done.name] and record["inputs"][0]["sha256"]
    number = [task.name for task in tasks].index(done.name)
    assert worker.unchanged(ended[number], tasks[number]) and not worker.unchanged(ended[number], tasks[number - 1])


def test_what_a_method_says_of_a_case_is_kept_without_the_patient(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{tree / make.NAME / '20240131'}#{UID}"

    def perform(plan: object, task: object, folder: Path, scratch: Path, log: Callable[[str], None]) -> dict[str, Any]:
        log(f"{text} of {make.NAME} was smoothed.")
        return {"outputs": [], "measures": {}, "changed_for_memory": []}

    monkeypatch.setattr(worker, "specialist", lambda plan: SimpleNamespace(perform=perform))
    out = begun(tmp_path / "out", ["a"])
    plan = worker.Plan(str(out), "any", "apply", None, {}, "cpu", "32", 0, None, token="this start")
    done = worker.work(plan, worker.Task("a", "a", {"ct": [text]}))
    assert done["log"] == [f"{privacy.stand_in(text)} of … was smoothed."]
