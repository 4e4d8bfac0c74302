"""CSV tables, read and written. Standard library only, so that whoever shares out cases needs no torch.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@` as a formula, some also behind a tab or another blank.
So a text (or column name) that begins so, and is not a plain number, is written with an apostrophe before it, which
spreadsheets take as "this is text"; a text that itself begins with apostrophes and then so gets one more. Reading
takes one such apostrophe away, so that what we write comes back as it was; blanks at the end of a cell do not.
Numbers, and texts that are plain numbers (-3.5, +1e-4), stay as they are.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from medgen import files
from medgen.errors import UserError
from medgen.whole import written_whole

MAX_BYTES = 64 * 2**20  # of a table that is read
MAX_CELLS = 2_000_000
_MAX_ROWS = 1_000_000
# Names of files that are not UTF-8 reach Python as lone surrogates; this keeps them through a table.
_ODD_NAMES = "surrogatepass"
_FORMULA = re.compile(r"'*[=+\-@\s]")
_GUARDED = re.compile(r"'+[=+\-@\s]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def guarded(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula, by the rule above; whatever is not text stays as it is."""
    if not isinstance(value, str):
        return value
    text = value.rstrip()
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain(text: str) -> str:
    """The text that `guarded` was given, from a cell."""
    text = text.strip()
    return text[1:] if text[:1] == "'" and _GUARDED.match(text) else text


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV's rows as dictionaries; a short row's missing cells are empty.

    Raises UserError for a file that is no such table, is too large, names a column twice or has too long a row.
    """
    files.regular(path, MAX_BYTES)
    try:
        with path.open(newline="", encoding="utf-8-sig", errors=_ODD_NAMES) as file:
            reader = csv.reader(_lines(file))
            names = [plain(name) for name in next(reader, [])]
            rows = _rows(reader, names, path)
    except (UnicodeDecodeError, csv.Error, OSError):
        raise UserError(f"{path} is not a readable CSV table; save it as CSV in UTF-8.") from None
    if not names:
        raise UserError(f"{path} is empty; its first line must name the columns.")
    return rows


def _lines(file: TextIO) -> Iterable[str]:
    for line in file:
        if "\0" in line:
            raise csv.Error("NUL")
        yield line


def _rows(reader: Any, names: list[str], path: Path) -> list[dict[str, str]]:
    counts = Counter(name for name in names if name)
    if counts and counts.most_common(1)[0][1] > 1:
        raise UserError(f"{path} names the column “{counts.most_common(1)[0][0][:60]}” twice; rename one of them.")
    rows: list[dict[str, str]] = []
    for cells in reader:
        if not cells:
            continue
        if any(cell.strip() for cell in cells[len(names) :]):
            raise UserError(f"{path}, line {reader.line_num} has more cells than there are columns; mend the line.")
        if len(rows) >= _MAX_ROWS or (len(rows) + 1) * len(names) > MAX_CELLS:
            raise UserError(f"{path} has more than {MAX_CELLS} cells or {_MAX_ROWS} rows; part it into several tables.")
        texts = [plain(cell) for cell in cells[: len(names)]]
        rows.append(dict(zip(names, texts + [""] * (len(names) - len(texts)), strict=True)))
    return rows


def write_rows(rows: list[dict[str, Any]], path: Path, columns: list[str] | None = None) -> None:
    """Write dictionaries as CSV; the columns are those asked for, then those of all rows in order of appearance."""
    names = list(dict.fromkeys([*(columns or []), *(key for row in rows for key in row)]))
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8", errors=_ODD_NAMES) as file:
        write_lines(file, [names, *([row.get(name, "") for name in names] for row in rows)])


def write_lines(file: TextIO, lines: Iterable[Iterable[Any]]) -> None:
    """Write lines of cells to a file opened with newline="", every cell guarded."""
    writer = csv.writer(file)
    writer.writerows([guarded(cell) for cell in line] for line in lines)
