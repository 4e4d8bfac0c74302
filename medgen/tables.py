"""CSV tables, read and written. Standard library only, so that whoever shares out cases needs no torch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from medgen.errors import UserError
from medgen.whole import written_whole


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV's rows as dictionaries; UserError when it cannot be read or has no header."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; check the path.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [{str(k).strip(): (v or "").strip() for k, v in row.items() if k is not None} for row in reader]
    except (UnicodeDecodeError, csv.Error, OSError):
        raise UserError(f"{path} is not a readable CSV table; save it as CSV in UTF-8.") from None
    if not reader.fieldnames:
        raise UserError(f"{path} is empty; its first line must name the columns.")
    return rows


def write_rows(rows: list[dict[str, Any]], path: Path, columns: list[str] | None = None) -> None:
    """Write dictionaries as CSV; the columns are those asked for, then those of all rows in order of appearance."""
    names = list(dict.fromkeys([*(columns or []), *(key for row in rows for key in row)]))
    with written_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
