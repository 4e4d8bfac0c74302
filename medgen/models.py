"""The folder where trained models live: outside the extension, shared by all Slicer versions (`MEDGEN_HOME`).

Standard library at import, so that the panel can list models before torch is installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medgen import files, record, unpacking
from medgen.errors import UserError
from medgen.whole import written_whole


def home() -> Path:
    """`MEDGEN_HOME`, else the user's data folder."""
    if os.environ.get("MEDGEN_HOME"):
        return Path(os.environ["MEDGEN_HOME"])
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "MedGen"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "MedGen"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "medgen"


def folder() -> Path:
    """Where the models of this user are."""
    return home() / "models"


def listed() -> list[dict[str, Any]]:
    """Every readable model: medgen.json's record with "folder" and "bytes" added, newest first."""
    return surveyed()[0]


def unreadable() -> list[tuple[Path, str]]:
    """Folders in the models folder that cannot be used as models, each with the sentence why."""
    return surveyed()[1]


def surveyed() -> tuple[list[dict[str, Any]], list[tuple[Path, str]]]:
    """What `listed` and `unreadable` give, the folder read once."""
    found: list[dict[str, Any]] = []
    bad: list[tuple[Path, str]] = []
    for place in sorted(folder().iterdir()) if folder().is_dir() else []:
        if place.name.startswith(".") or place.name.endswith(".training") or not place.is_dir():
            continue  # what is being written, interrupted trainings
        try:
            read = record.read(place)
            size = sum(part.stat().st_size for part in place.rglob("*") if part.is_file())
        except UserError as error:
            bad.append((place, str(error)))
        except OSError as error:
            bad.append((place, f"{place} cannot be read ({error.strerror}); check its permissions."))
        else:
            found.append({**read, "folder": str(place), "bytes": size})
    return sorted(found, key=lambda one: str(one.get("created", "")), reverse=True), bad


def resolve(name: str) -> Path:
    """A model by path, or by name in the models folder; UserError lists what there is."""
    path = Path(name)
    if os.path.exists(path / "medgen.json") or path.is_absolute() or os.sep in name:
        return path
    inside = folder() / name
    if os.path.isdir(inside):
        return inside
    if os.path.exists(path):
        return path
    names = ", ".join(Path(record["folder"]).name for record in listed()) or "none"
    raise UserError(f"There is no model “{name[:200]}”; the models are: {names}.")


def free_name(name: str) -> str:
    """A name that no model and no training has: the one wanted, else numbered."""
    free, number = name, 1
    while (folder() / free).exists() or (folder() / f"{free}.training").exists():
        number += 1
        free = f"{name}-{number}"
    return free


def import_model(source: Path, name: str | None = None) -> Path:
    """Copy a bundle (folder or zip) into the models folder after verifying it; whole or not at all."""
    files.status(source)
    name = source.name.removesuffix(".zip") if name is None else name
    if not _usable(name):
        raise UserError(f"“{name}” is not a usable model name; give one of letters, digits, - and _ with --name.")
    target = folder() / name
    if target.exists():
        raise UserError(f"A model “{target.name}” exists already; choose another name with --name or remove it first.")
    with written_whole(target) as partial, _named(partial, source):
        unpacking.copy_model(source, partial)
        record.verify(partial)
    return target


def _usable(name: str) -> bool:
    """Whether a name is a folder's of its own, is shown in the list, and means the same in every terminal."""
    hidden = name.startswith(".") or name.endswith(".training")
    return name != "" and Path(name).name == name and name.isprintable() and not hidden and len(name.encode()) <= 200


@contextlib.contextmanager
def _named(partial: Path, source: Path) -> Iterator[None]:
    """The user knows what was given, not the folder it is copied to first."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(partial), str(source))) from None


def remove(name: str) -> Path:
    """Delete a model of the models folder; OSError where that is not allowed."""
    path = resolve(name)
    if path.resolve().parent != folder().resolve():
        raise UserError(f"{path} is not in the models folder {folder()}; delete it yourself if you want to.")
    away = Path(tempfile.mkdtemp(prefix=".removed-", dir=folder()))
    try:
        path.rename(away / path.name)  # gone at once: half a model never stands in the list
    except OSError:
        away.rmdir()
        raise
    shutil.rmtree(away)
    return path
