"""The folder where trained models live: outside the extension, shared by all Slicer versions (`MEDGEN_HOME`).

Standard library at import, so that the panel can list models before torch is installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from medgen.errors import UserError

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
    found = []
    for file in sorted(folder().glob("*/medgen.json")):
        try:
            record = json.loads(file.read_text("utf-8"))
            size = sum(part.stat().st_size for part in file.parent.rglob("*") if part.is_file())
            found.append({**record, "folder": str(file.parent), "bytes": size, "slug": str(record["slug"])})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # `verify` names what is wrong with it
    return sorted(found, key=lambda record: str(record.get("created", "")), reverse=True)


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


def import_model(source: Path, name: str | None = None) -> Path:
    """Copy a bundle (folder or zip) into the models folder after verifying it; whole or not at all."""
    from medgen import bundle, io

    if not source.exists():
        raise UserError(f"{source} does not exist; check the path.")
    target = folder() / (name or source.name.removesuffix(".zip"))
    if target.parent != folder() or target.name in ("", ".", ".."):
        raise UserError(f"“{name}” is not a usable model name; use letters, digits, - and _.")
    if target.exists():
        raise UserError(f"A model “{target.name}” exists already; choose another name with --name or remove it first.")
    with io.written_whole(target) as partial, _named(partial, source):
        if source.is_dir():
            _copy_folder(source, partial)
        else:
            _unpack(source, partial)
        inner = [item for item in partial.iterdir() if item.is_dir()]
        if not (partial / "medgen.json").exists() and len(inner) == 1:  # zipped with its folder around it
            for item in list(inner[0].iterdir()):
                item.rename(partial / item.name)
            inner[0].rmdir()
        bundle.load(partial)
    return target


@contextlib.contextmanager
def _named(partial: Path, source: Path) -> Iterator[None]:
    """The user knows what was given, not the folder it is copied to first."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(partial), str(source))) from None


def _copy_folder(source: Path, target: Path) -> None:
    if any(item.is_symlink() for item in source.rglob("*")):
        raise UserError(f"{source} contains links, which are not followed; copy the real files into it.")
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
        except (zipfile.BadZipFile, OSError, RuntimeError, EOFError) as error:
            raise UserError(f"{source} is damaged ({error}); fetch it again.") from None


def remove(name: str) -> Path:
    """Delete a model of the models folder."""
    path = resolve(name)
    if path.resolve().parent != folder().resolve():
        raise UserError(f"{path} is not in the models folder {folder()}; delete it yourself if you want to.")
    shutil.rmtree(path)
    return path
