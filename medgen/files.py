"""Files that strangers wrote, looked at before they are opened: plain files only (a pipe would hang, a device never
ends), of a bounded size, and JSON that says each thing once. Standard library only.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from medgen.errors import UserError

_FORMS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def printable(text: str) -> str:
    """The text on one line, without what would move a terminal's cursor or cannot be encoded."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def status(path: Path) -> os.stat_result:
    """What the system knows of a file or folder, links followed; UserError when there is none or it cannot be asked."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist; check the path.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from None
    except ValueError:
        raise UserError(f"{str(path)!r} is not a path (it holds a NUL character); check it.") from None


def regular(path: Path, most: int | None = None) -> os.stat_result:
    """The status of a plain file that can be read, of `most` bytes at the most; UserError for anything else."""
    found = status(path)
    form = stat.S_IFMT(found.st_mode)
    if form != stat.S_IFREG:
        raise UserError(f"{path} is {_FORMS.get(form, 'something else')}, not a file; choose a file.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read (permission denied); check its permissions.")
    if most is not None and found.st_size > most:
        raise UserError(
            f"{path} is larger than such a file may be ({found.st_size >> 20} of {most >> 20} MiB); check what it is."
        )
    return found


def read_bytes(path: Path, most: int) -> bytes:
    """All of a plain file; UserError when it is none, or larger than `most` bytes."""
    size = regular(path, most).st_size
    try:
        with path.open("rb") as stream:
            content = stream.read(size + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check it and its permissions.") from None
    if len(content) > size:  # as of those in /proc, whose size is not told
        raise UserError(f"{path} changes while it is read; copy it to a file first.")
    return content


def read_json(path: Path, most: int) -> Any:
    """The content of a JSON file in UTF-8. ValueError for what is no JSON, says a thing twice or is nested too deeply;
    UserError as `read_bytes`."""
    return parse_json(read_bytes(path, most).decode("utf-8-sig"))


def parse_json(text: str) -> Any:
    """As `read_json`, from text."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it says a thing twice")
    return found
