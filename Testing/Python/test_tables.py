"""Tables: no cell that we write is a formula to a spreadsheet, and what we write reads back as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import SimpleITK as sitk
from backend_tools import PROPERTY, volume
from hypothesis import given
from hypothesis import strategies as st

from medgen import tables
from medgen.cohort import read_pool
from medgen.errors import UserError
from medgen.method import Kind, Pool, Role

FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "'=1",
    "''-x",
    " =1",
    "--3",
    "-inf",
    "=",
    "-",
]
NUMBERS = ["-3", "+3.5", "-1e-4", "-.5", "0", "-7."]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_written_as_text_and_reads_back_as_it_was(tmp_path: Path, text: str) -> None:
    tables.write_rows([{text: text, "n": -3.5}], tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        raw = list(csv.reader(file))
    assert [row[0][0] for row in raw] == ["'", "'"] and raw[1][1] == "-3.5"
    assert tables.read_rows(tmp_path / "t.csv") == [{text: text, "n": "-3.5"}]


@pytest.mark.parametrize("text", NUMBERS)
def test_plain_numbers_stay_numbers(text: str) -> None:
    assert tables.guarded(text) == text == tables.plain(text)


@PROPERTY
@given(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1, max_size=4))
def test_any_text_survives_but_for_blanks_at_its_end(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    tables.write_rows([{f"c{number}": text for number, text in enumerate(cells)}], path)
    assert tables.read_rows(path) == [{f"c{number}": text.rstrip() for number, text in enumerate(cells)}]
    with path.open(newline="", encoding="utf-8", errors="surrogatepass") as file:
        for cell in list(csv.reader(file))[1]:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or float(cell) is not None


@PROPERTY
@given(st.binary(max_size=400))
def test_any_bytes_are_rows_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.csv"
    path.write_bytes(content)
    try:
        rows = tables.read_rows(path)
    except UserError as error:
        assert "bytes.csv" in str(error)
    else:
        assert all(len(row) == len(rows[0]) for row in rows)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b,a\n1,2,3\n", "names the column “a” twice"),
        (b"a,b\n1,2,3\n", "line 2 has more cells than there are columns"),
        (b"a\n1\0\n", "not a readable CSV table"),
        ("a\n1\n".encode("utf-16"), "not a readable CSV table"),
        (b"a\n" + b"x" * 200_000, "not a readable CSV table"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_table_is_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        tables.read_rows(tmp_path / "t.csv")


def test_a_table_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_CELLS", 10)
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 6)
    with pytest.raises(UserError, match="more than 10 cells"):
        tables.read_rows(tmp_path / "t.csv")
    monkeypatch.setattr(tables, "MAX_BYTES", 20)
    with pytest.raises(UserError, match="larger than such a file may be"):
        tables.read_rows(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "name", ["-scan", "=scan", "@scan", "+scan", "'scan", "'=scan", "a b", "ä\nß", "5%#", "x" * 200]
)
def test_names_of_files_that_look_like_formulas_survive_a_cohort(tmp_path: Path, name: str) -> None:
    files = [f"{name}1.nrrd", f"{name}2.nrrd"]
    for file in files:
        sitk.WriteImage(volume((3, 3, 3)), str(tmp_path / "v.nrrd"))
        (tmp_path / "v.nrrd").rename(tmp_path / file)
    tables.write_rows([{"one": files[0], "many": ";".join(files)}], tmp_path / "cohort.csv")
    roles = (Role("one", Kind.IMAGE, "one"), Role("many", Kind.IMAGE, "many", many=True))
    (row,) = read_pool(tmp_path / "cohort.csv", Pool("cases", roles))
    paths = [str(tmp_path / file) for file in files]
    assert row.files == {"one": paths[:1], "many": paths}


def test_a_name_that_is_not_utf8_survives_a_table(tmp_path: Path) -> None:
    name = b"scan\xff.nrrd".decode("utf-8", "surrogateescape")
    tables.write_rows([{"image": name}], tmp_path / "t.csv")
    assert tables.read_rows(tmp_path / "t.csv") == [{"image": name}]
