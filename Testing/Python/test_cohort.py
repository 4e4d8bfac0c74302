"""Cohorts and collections: every mistake in a table is named by file, line and column; splits never part a subject."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import SimpleITK as sitk
from backend_tools import volume

from medgen import catalog, io
from medgen.cohort import Row, read_collection, read_pool, split_subjects
from medgen.errors import UserError
from medgen.method import Config, Kind, Operation, Pool, Role

ROLES = (
    Role("image", Kind.IMAGE, "a volume"),
    Role("planes", Kind.PLANE, "planes", many=True, optional=True),
    Role("kind", Kind.CLASS, "a class", optional=True),
)
TRAIN = Operation("train", "Train", "Learn.", Config, "collection", pools=(Pool("cases", ROLES),))


def _table(folder: Path, rows: list[dict[str, str]]) -> Path:
    sitk.WriteImage(volume(), str(folder / "a.nrrd"))
    io.write_rows(rows, folder / "cohort.csv")
    return folder / "cohort.csv"


def test_paths_are_relative_to_the_table_and_many_files_are_split(tmp_path: Path) -> None:
    for name in ("p1.mrk.json", "p2.mrk.json"):
        (tmp_path / name).write_text("{}")
    table = _table(tmp_path, [{"image": "a.nrrd", "planes": "p1.mrk.json; p2.mrk.json", "kind": "old", "age": "90"}])
    row = read_collection(table, TRAIN).rows()[0]
    assert row.files["planes"] == [str(tmp_path / "p1.mrk.json"), str(tmp_path / "p2.mrk.json")]
    assert row.files["kind"] == ["old"] and row.subject == "row2"


def test_a_name_with_a_semicolon_is_listed_as_json(tmp_path: Path) -> None:
    (tmp_path / "p;1.mrk.json").write_text("{}")
    table = _table(tmp_path, [{"image": "a.nrrd", "planes": json.dumps(["p;1.mrk.json"])}])
    assert read_collection(table, TRAIN).rows()[0].files["planes"] == [str(tmp_path / "p;1.mrk.json")]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"scan": "a.nrrd"}], "has no column “image” .it has: scan"),
        ([{"image": "a.nrrd"}, {"image": ""}], "line 3: column “image” is empty"),
        ([{"image": "lost.nrrd"}], "line 2 .column “image”.: .*lost.nrrd does not exist"),
        ([{"image": "a.nrrd", "split": "tets"}], "line 2: split “tets” is not known"),
        (
            [
                {"image": "a.nrrd", "subject": "s", "split": "train"},
                {"image": "a.nrrd", "subject": "s", "split": "test"},
            ],
            "line 3: subject “s” stands in split “test” and in “train”",
        ),
        ([], "is empty|no rows"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, rows: list[dict[str, str]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_collection(_table(tmp_path, rows), TRAIN)


def test_an_unknown_pool_is_named_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "collection.json").write_text(json.dumps({"pools": {"patients": "cohort.csv"}}))
    with pytest.raises(UserError, match="names pool “patients”.*cases"):
        read_collection(tmp_path / "collection.json", TRAIN)


def test_splits_never_part_a_subject_and_repeat_with_the_seed() -> None:
    def rows() -> list[Row]:
        return [Row({}, subject=f"s{index % 20}") for index in range(100)]

    first, second, other = rows(), rows(), rows()
    split_subjects(first, 1)
    split_subjects(second, 1)
    split_subjects(other, 2)
    assert [row.split for row in first] == [row.split for row in second] != [row.split for row in other]
    by_subject = {row.subject: {r.split for r in first if r.subject == row.subject} for row in first}
    assert all(len(splits) == 1 for splits in by_subject.values())
    counts = {split: len({r.subject for r in first if r.split == split}) for split in ("train", "validation", "test")}
    assert counts == {"train": 14, "validation": 3, "test": 3}


def test_given_splits_are_kept() -> None:
    rows = [Row({}, "a", split="test"), Row({}, "b"), Row({}, "c")]
    split_subjects(rows, 0, (0.5, 0.5, 0.0))
    assert rows[0].split == "test" and {rows[1].split, rows[2].split} == {"train", "validation"}


def test_a_pool_of_one_case_takes_one_row(tmp_path: Path) -> None:
    pools = (Pool("reference", ROLES, one_case=True), Pool("others", ROLES))
    train = Operation("train", "Train", "Learn.", Config, "collection", pools=pools)
    _table(tmp_path, [{"image": "a.nrrd"}, {"image": "a.nrrd"}])
    (tmp_path / "one.csv").write_text("image\na.nrrd\n")
    collection = tmp_path / "collection.json"
    collection.write_text(json.dumps({"pools": {"reference": "one.csv", "others": "cohort.csv"}}))
    assert len(read_collection(collection, train).rows("others")) == 2
    collection.write_text(json.dumps({"pools": {"reference": "cohort.csv", "others": "cohort.csv"}}))
    with pytest.raises(UserError, match=r"cohort.csv has 2 rows, but pool “reference” takes one case; keep one"):
        read_collection(collection, train)


def test_a_reserved_column_that_a_row_may_fill_can_be_left_out(tmp_path: Path) -> None:
    table = _table(tmp_path, [{"image": "a.nrrd"}])
    points = Role("points", Kind.POINTS, "points")
    (row,) = read_pool(table, Pool("cases", ROLES, may=("labelled",)))
    assert row.labelled
    with pytest.raises(UserError, match="column “labelled” is empty, but pool “cases” needs it"):
        read_pool(table, Pool("cases", ROLES, needs=("labelled",)))
    for word in ("no", "No", "FALSE"):
        io.write_rows([{"image": "a.nrrd", "points": "", "labelled": word}], table)
        (row,) = read_pool(table, Pool("cases", (*ROLES, points), may=("labelled",)))
        assert not row.labelled and "points" not in row.files


def test_the_catalog_says_what_rows_must_and_may_fill() -> None:
    (frames,) = catalog.operation_entry("tool-detection", "train")["pools"]
    assert (frames["needs"], frames["may"]) == (["labelled"], [])
    for slug in ("suture-heatmap", "suture-cross-domain"):
        for pool in catalog.operation_entry(slug, "train")["pools"]:
            assert (pool["needs"], pool["may"]) == ([], ["labelled"])
