"""The folder where trained models live: outside the extension, shared by all Slicer versions (`MEDGEN_HOME`).

Standard library at import, so that the panel can list models before torch is installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from medgen import record
from medgen.errors import UserError
from medgen.whole import written_whole

MAX_BYTES = 8 * 2**30  # an imported archive may unpack to no more
MAX_FILES = 1000


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
    if (path / "medgen.json").exists() or path.is_absolute() or os.sep in name:
        return path
    inside = folder() / name
    if inside.is_dir():
        return inside
    if path.exists():
        return path
    names = ", ".join(Path(record["folder"]).name for record in listed()) or "none"
    raise UserError(f"There is no model “{name}”; the models are: {names}.")


def free_name(name: str) -> str:
    """A name that no model and no training has: the one wanted, else numbered."""
    free, number = name, 1
    while (folder() / free).exists() or (folder() / f"{free}.training").exists():
        number += 1
        free = f"{name}-{number}"
    return free


def import_model(source: Path, name: str | None = None) -> Path:
    """Copy a bundle (folder or zip) into the models folder after verifying it; whole or not at all."""
    if not source.exists():
        raise UserError(f"{source} does not exist; check the path.")
    target = folder() / (name or source.name.removesuffix(".zip"))
    if target.parent != folder() or target.name in ("", ".", ".."):
        raise UserError(f"“{name}” is not a usable model name; use letters, digits, - and _.")
    if target.exists():
        raise UserError(f"A model “{target.name}” exists already; choose another name with --name or remove it first.")
    with written_whole(target) as partial, _named(partial, source):
        if source.is_dir():
            _copy_folder(source, partial)
        else:
            _unpack(source, partial)
        inner = [item for item in partial.iterdir() if item.is_dir()]
        if not (partial / "medgen.json").exists() and len(inner) == 1:  # zipped with its folder around it
            for item in list(inner[0].iterdir()):
                item.rename(partial / item.name)
            inner[0].rmdir()
        record.verify(partial)
    return target


@contextlib.contextmanager
def _named(partial: Path, source: Path) -> Iterator[None]:
    """The user knows what was given, not the folder it is copied to first."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(partial), str(source))) from None


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of plain files; refuses links, anything else, and folders too large to be a model."""
    files = size = 0
    for item in source.rglob("*"):
        if item.is_symlink():
            raise UserError(f"{source} contains links, which are not followed; copy the real files into it.")
        if item.is_dir():
            continue
        if not item.is_file():
            raise UserError(f"{source} contains more than files and folders; copy the model's own files out of it.")
        files, size = files + 1, size + item.stat().st_size
        if files > MAX_FILES or size > MAX_BYTES:
            raise UserError(
                f"{source} holds more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB; choose the model's own folder."
            )
    shutil.copytree(source, target)


def _unpack(source: Path, target: Path) -> None:
    """Unpack a zip whose members all stay inside; refuses links, absolute names, `..`, and archives that swell."""
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError):
        raise UserError(f"{source} is not a model folder or a zip of one; choose another file.") from None
    with archive:
        members = archive.infolist()
        for member in members:
            path = PurePosixPath(member.filename.replace("\\", "/"))
            link = stat.S_ISLNK(member.external_attr >> 16)
            if path.is_absolute() or ".." in path.parts or ":" in member.filename or link:
                raise UserError(
                    f"{source} has an entry that leaves its folder ({member.filename[:60]!r}); do not use this archive."
                )
        if len(members) > MAX_FILES or sum(member.file_size for member in members) > MAX_BYTES:
            raise UserError(
                f"{source} would unpack to more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB; do not use it."
            )
        target.mkdir(parents=True)
        try:
            archive.extractall(target)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError) as error:
            raise UserError(f"{source} is damaged ({error}); fetch it again.") from None


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
