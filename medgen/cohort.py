"""Tables of cases. A cohort is a CSV whose columns are role names plus the reserved ones below; a collection is several
named pools of such rows, either one plain CSV (one pool) or a `collection.json`: {"pools": {"NAME": "FILE.csv", …}}.

Paths in a CSV are relative to it; a role that takes many files separates them by `;` (or lists them as JSON). One
of the DICOM series of a folder is FOLDER#SERIES_UID.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from medgen import dicom, files, tables
from medgen.errors import UserError
from medgen.method import Kind, Operation, Pool
from medgen.splits import SPLITS
from medgen.splits import split_subjects as split_subjects

RESERVED = ("subject", "split", "domain", "task", "labelled")


@dataclass
class Row:
    """One case of a cohort: absolute paths (the text itself for a class) by role name, and the reserved columns."""

    files: dict[str, list[str]]
    subject: str
    split: str = ""
    domain: str = ""
    task: str = ""
    labelled: bool = True
    label: str = ""  # "cohort.csv, line 3", for messages
    refused: str = ""  # why the row cannot be a case (`read_cases` alone lets such rows pass)

    @property
    def named(self) -> bool:
        """Whether the table itself names the subject."""
        return not re.fullmatch(r"row\d+", self.subject)

    def columns(self) -> dict[str, str]:
        """The reserved columns that say something."""
        texts = {"subject": self.subject, "split": self.split, "domain": self.domain, "task": self.task}
        return {**{k: v for k, v in texts.items() if v}, **({} if self.labelled else {"labelled": "no"})}


@dataclass
class Collection:
    """Rows by pool name, and the roles each pool's rows carry."""

    pools: dict[str, list[Row]]
    declared: dict[str, Pool]
    path: Path

    def rows(self, pool: str | None = None, split: str | None = None) -> list[Row]:
        """The rows of a pool (default: the first), all or those of one split."""
        name = pool or next(iter(self.declared))
        return [row for row in self.pools.get(name, []) if split is None or row.split == split]

    def tasks(self, pool: str | None = None) -> list[str]:
        """The tasks of a pool's rows, in order of appearance."""
        return list(dict.fromkeys(row.task for row in self.rows(pool)))


def read_collection(path: Path, operation: Operation) -> Collection:
    """Read a CSV or a collection.json for an operation and check it whole: pools, columns, cells, files, splits.

    Raises UserError naming file, line and column.
    """
    declared = {pool.name: pool for pool in operation.pools}
    if os.path.isdir(path) and os.path.exists(path / "collection.json"):
        path = path / "collection.json"
    if path.suffix.lower() == ".json":
        files = _pool_files(path, declared)
    else:
        required = [pool for pool in operation.pools if not pool.optional] or list(operation.pools)
        if len(required) > 1:
            names = ", ".join(pool.name for pool in required)
            raise UserError(
                f"“{operation.name}” needs the pools {names}; name a collection.json that gives a CSV for each."
            )
        files = {required[0].name: path}
    pools = {name: read_pool(file, declared[name]) for name, file in files.items()}
    for name, pool in declared.items():
        if not pool.optional and not pools.get(name):
            raise UserError(f"{path} has no rows for pool “{name}”; add them.")
        if pool.one_case and len(pools.get(name, [])) > 1:
            count = len(pools[name])
            raise UserError(f"{files[name]} has {count} rows, but pool “{name}” takes one case; keep one of them.")
    return Collection(pools, declared, path)


def _pool_files(path: Path, declared: dict[str, Pool]) -> dict[str, Path]:
    try:
        content = files.read_json(path, tables.MAX_BYTES)
        named = {str(name): path.parent / str(file) for name, file in content["pools"].items()}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f'{path} is not a collection; write {{"pools": {{"NAME": "FILE.csv"}}}}.') from None
    for name in named:
        if name not in declared:
            raise UserError(
                f"{path} names pool “{name[:60]}”, which is not known; the pools are: {', '.join(declared)}."
            )
    return named


def read_pool(path: Path, pool: Pool) -> list[Row]:
    """The rows of a table, checked; UserError naming file, line and column for the first that is at fault."""
    raw = _read_table(path, pool)
    rows = [_read_row(cells, pool, path, line) for line, cells in enumerate(raw, start=2)]
    for row in rows:
        for name, texts in row.files.items():
            for text in texts if _is_file(pool, name) else []:
                _check_there(text, row.label, name)
    splits: dict[str, str] = {}
    for row in rows:
        if row.split and splits.setdefault(row.subject, row.split) != row.split:
            raise UserError(
                f"{row.label}: subject “{row.subject}” stands in split “{row.split}” and in “{splits[row.subject]}”; "
                "keep every subject in one split."
            )
    return rows


def _check_there(text: str, label: str, column: str) -> None:
    try:
        files.status(dicom.split(text)[0])
    except UserError as error:
        raise UserError(f"{label} (column “{column}”): {error}") from None


def read_cases(path: Path, pool: Pool) -> list[Row]:
    """The rows of a table, each a case by itself: one at fault is there with its sentence in `refused`, and whether its
    files exist is left to who reads them. UserError for what is wrong with the table as a whole."""
    rows = []
    for line, cells in enumerate(_read_table(path, pool), start=2):
        try:
            rows.append(_read_row(cells, pool, path, line))
        except UserError as error:
            subject = cells.get("subject") or f"row{line}"
            rows.append(Row({}, subject, label=f"{path.name}, line {line}", refused=str(error)))
    return rows


def _read_table(path: Path, pool: Pool) -> list[dict[str, str]]:
    raw = tables.read_rows(path)
    columns = set(raw[0]) if raw else set()
    for role in pool.roles:
        if not role.optional and raw and role.name not in columns:
            has = ", ".join(sorted(columns))
            raise UserError(f"{path} has no column “{role.name}” (it has: {has}); add it or rename a column.")
    return raw


def _is_file(pool: Pool, name: str) -> bool:
    return all(role.kind is not Kind.CLASS for role in pool.roles if role.name == name)


def _read_row(cells: dict[str, str], pool: Pool, path: Path, line: int) -> Row:
    label = f"{path.name}, line {line}"
    labelled = cells.get("labelled", "yes").lower() not in ("no", "0", "false")
    found: dict[str, list[str]] = {}
    for role in pool.roles:
        text = cells.get(role.name, "")
        if not text:
            if role.optional or not labelled:
                continue
            raise UserError(f"{label}: column “{role.name}” is empty; fill it in or remove the row.")
        if role.kind is Kind.CLASS:
            found[role.name] = [text]
            continue
        parts = _parts(text, label) if role.many else [text]
        found[role.name] = [_path(path.parent / part, label, role.name) for part in parts if part]
    for column in pool.needs:
        if not cells.get(column):
            raise UserError(f"{label}: column “{column}” is empty, but pool “{pool.name}” needs it; fill it in.")
    split = cells.get("split", "")
    if split and split not in SPLITS:
        raise UserError(f"{label}: split “{split}” is not known; use {', '.join(SPLITS)} or leave it empty.")
    return Row(
        found,
        subject=cells.get("subject") or f"row{line}",
        split=split,
        domain=cells.get("domain", ""),
        task=cells.get("task", ""),
        labelled=labelled,
        label=label,
    )


def _path(path: Path, label: str, column: str) -> str:
    """The absolute path, or the text that names a DICOM series; UserError for what can be neither."""
    if dicom.split(path)[1] is not None:
        folder, uid = dicom.split(path)
        return f"{folder.resolve()}{dicom.MARK}{uid}"
    try:
        return str(path.resolve())
    except (OSError, RuntimeError, ValueError):
        raise UserError(f"{label} (column “{column}”): {path.name!r} cannot be a file's name; correct it.") from None


def _parts(text: str, label: str) -> list[str]:
    """The files of a cell: separated by `;`, or a JSON list where a name itself has one."""
    if not text.startswith("["):
        return [part.strip() for part in text.split(";")]
    try:
        return [str(part) for part in files.parse_json(text)]
    except ValueError:
        raise UserError(f"{label}: {text[:60]!r} is not a list of files; separate them with “;”.") from None
