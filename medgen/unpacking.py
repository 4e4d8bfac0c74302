"""A model as a stranger hands it over, a folder or a zip, copied so that nothing but a model's own files arrives.

What arrives is what a bundle is made of (`_PARTS`), by names that we know; whatever else lies there (programs, pickles,
what a system adds) stays behind. An archive that tries to write outside its folder, or is not made as ours are, is
refused whole. Standard library only.
"""

from __future__ import annotations

import io
import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from medgen import files
from medgen.errors import UserError

MAX_BYTES = 8 * 2**30  # an imported model may hold no more
MAX_FILES = 1000
_PARTS = re.compile(
    r"(medgen|provenance)\.json|LICENSE|configs/(metadata|inference)\.json|docs/[A-Za-z0-9_-]{1,64}\.md"
    r"|models/[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.safetensors",
    re.ASCII,
)
_MOST_AT_ONCE = 4 * 2**20  # bytes that zipfile may ask for in one go: its list of entries is one
_BLOCK = 2**20


def copy_model(source: Path, target: Path) -> None:
    """Copy a model's own files from a folder or a zip into the new folder `target`.

    Raises UserError for links, for entries that leave their folder or come twice, for what is damaged, and for more
    than MAX_FILES files or MAX_BYTES bytes, counted as they are written.
    """
    if stat.S_ISDIR(files.status(source).st_mode):
        _copy_folder(source, target)
    else:
        _unpack(source, target)


def _copy_folder(source: Path, target: Path) -> None:
    found: dict[str, Callable[[], IO[bytes]]] = {}
    size = count = 0
    for folder, folders, names in os.walk(source):
        for name in (*folders, *names):
            place = Path(folder, name)
            mode = place.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise UserError(f"{source} contains links, which are not followed; copy the real files into it.")
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{source} contains more than files and folders; copy the model's own files out of it.")
            if stat.S_ISREG(mode):
                count, size = count + 1, size + place.lstat().st_size
                found[place.relative_to(source).as_posix()] = _opener(place)
            if count > MAX_FILES or size > MAX_BYTES:
                raise UserError(
                    f"{source} holds more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB; "
                    "choose the model's own folder."
                )
    _write(found, source, target)


def _opener(place: Path) -> Callable[[], IO[bytes]]:
    return lambda: place.open("rb")


def _unpack(source: Path, target: Path) -> None:
    files.regular(source, MAX_BYTES)
    try:
        with _Bounded(source) as stream, zipfile.ZipFile(stream) as archive:
            _write(_entries(archive, source), source, target)
    except zipfile.BadZipFile as error:
        if "not a zip" in str(error):
            raise UserError(f"{source} is not a model folder or a zip of one; choose another file.") from None
        raise _damaged(source, error) from None
    except (zlib.error, RuntimeError, EOFError, ValueError, NotImplementedError, MemoryError) as error:
        raise _damaged(source, error) from None


def _damaged(source: Path, error: Exception) -> UserError:
    return UserError(f"{source} is damaged ({str(error)[:90] or type(error).__name__}); fetch it again.")


class _Bounded(io.FileIO):
    """A file of which never more than a little is read at once, whatever its own fields say."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = _MOST_AT_ONCE + 1 if size is None or size < 0 else size
        if left > _MOST_AT_ONCE + 1:
            raise ValueError("its list of entries is too long")
        found = super().read(left)
        if len(found) > _MOST_AT_ONCE:
            raise ValueError("its list of entries is too long")
        return found


def _entries(archive: zipfile.ZipFile, source: Path) -> dict[str, Callable[[], IO[bytes]]]:
    """What opens each file of an archive, by its name; UserError for an archive that is not to be trusted."""
    members = archive.infolist()
    size = sum(member.file_size for member in members)
    if len(members) > MAX_FILES or size > MAX_BYTES:
        raise UserError(
            f"{source} would unpack to more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB; do not use it."
        )
    if sum(member.compress_size for member in members) > source.stat().st_size:
        raise UserError(f"{source} has entries that lie over one another, as bombs do; do not use this archive.")
    found: dict[str, Callable[[], IO[bytes]]] = {}
    seen: set[str] = set()
    for member in members:
        name = member.orig_filename.replace("\\", "/")
        shown = files.printable(name[:60])
        path = PurePosixPath(name)
        form = stat.S_IFMT(member.external_attr >> 16)
        odd = form not in (0, stat.S_IFREG, stat.S_IFDIR)
        if path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name or odd:
            raise UserError(f"{source} has an entry that leaves its folder (“{shown}”); do not use this archive.")
        alike = unicodedata.normalize("NFKC", name).casefold()
        if alike in seen:
            raise UserError(f"{source} has an entry twice (“{shown}”); do not use this archive.")
        seen.add(alike)
        if member.is_dir():
            continue
        if member.flag_bits & 1:
            raise UserError(f"{source} is encrypted; unpack it yourself and import the folder.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{source} is packed in an unusual way; unpack it yourself and import the folder.")
        found[name] = _member_opener(archive, member)
    return found


def _member_opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], Any]:
    return lambda: archive.open(member)


def _write(found: dict[str, Callable[[], IO[bytes]]], source: Path, target: Path) -> None:
    """Write those of the files that a bundle is made of, by the names we know; bytes are counted as they come."""
    around = _folder_around(found)
    target.mkdir(parents=True)
    left = MAX_BYTES
    for name, opened in found.items():
        inner = name.removeprefix(around)
        if not name.startswith(around) or not _PARTS.fullmatch(inner):
            continue
        place = target / inner
        place.parent.mkdir(exist_ok=True)
        with opened() as stream, place.open("xb") as out:
            while block := stream.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise UserError(f"{source} holds more than {MAX_BYTES >> 30} GiB; do not use it.")
                out.write(block)


def _folder_around(found: dict[str, Any]) -> str:
    """The one folder that a model was packed with, as "NAME/"; "" where medgen.json lies on top."""
    if "medgen.json" in found:
        return ""
    tops = [
        name.removesuffix("medgen.json") for name in found if name.endswith("/medgen.json") and name.count("/") == 1
    ]
    return tops[0] if len(tops) == 1 else ""
