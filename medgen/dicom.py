"""DICOM series: which there are, which files are of one, and what it is called.

A series is named by a text, `FOLDER#SERIES_UID`, wherever a path may stand; FOLDER alone will do where it holds only
one, and a single file is its own. medgen.dicomvolume reads what such a text names.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from medgen import dicomheader, folders
from medgen.dicomheader import Header
from medgen.errors import UserError

MARK = "#"
# What has no picture of its own, or one that is no image: structures, plans, doses, reports, masks, registrations.
NOT_IMAGES = {"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "DOC", "REG", "FID", "RWV", "AU"}
_CACHED = 50_000  # headers
_FOLDERS = 8
_SETTLED = 10**9  # ns: what changed less long ago may change again without another time
_remembered: dict[Path, tuple[dict[Path, int], dict[str, list[Path]]]] = {}  # by folder: times of those below; series


# --- which there are ----------------------------------------------------------------------------------------------


def split(text: str | Path) -> tuple[Path, str | None]:
    """A path, and the Series Instance UID where the text names a series; an existing path is just a path."""
    folder, mark, uid = str(text).rpartition(MARK)
    if mark and re.fullmatch(r"[0-9.]{1,64}", uid) and not os.path.exists(text):
        return Path(folder or "."), uid
    return Path(text), None


def exists(text: str | Path) -> bool:
    """Whether there is such a file or folder; of a series, whether its folder is there."""
    path, uid = split(text)
    return os.path.exists(path) if uid is None else os.path.isdir(path)


def header(path: Path) -> Header | None:
    """The header of a DICOM file; None where it is none, or damaged."""
    try:
        status = path.stat()
        return _cached(str(path), status.st_size, status.st_mtime_ns)
    except (OSError, dicomheader.BadHeader):
        return None


@functools.lru_cache(_CACHED)
def _cached(path: str, size: int, changed: int) -> Header | None:
    return dicomheader.read(Path(path))


def is_image(one: Header) -> bool:
    """Whether a DICOM file holds an image, and not a plan, a report, a mask or a directory."""
    return all(one.size) and one.modality not in NOT_IMAGES


def series(files: Iterable[Path]) -> dict[str, list[Header]]:
    """The headers of the images among files, by Series Instance UID, each series in order of its slices."""
    found: dict[str, list[Header]] = {}
    for path in files:
        one = header(path)
        if one is not None and is_image(one):
            found.setdefault(one.series_uid, []).append(one)
    return {uid: in_order(headers) for uid, headers in found.items()}


def _below(folder: Path) -> dict[str, list[Path]]:
    """The files of each series below a folder. That is remembered until something is put into a folder or taken
    out, so that the cases of a large archive do not each search it all."""
    known = _remembered.pop(folder, None)
    if known is None or any(_changed(place) != when for place, when in known[0].items()):
        places: dict[Path, int] = {}

        def note(place: Path) -> bool:
            places[place] = _changed(place)
            return False

        found = series(folders.files(folder, skip=note))
        known = places, {uid: [one.path for one in headers] for uid, headers in found.items()}
        if time.time_ns() - max(places.values(), default=0) < _SETTLED:
            return known[1]
    _remembered[folder] = known
    while len(_remembered) > _FOLDERS:
        del _remembered[next(iter(_remembered))]
    return known[1]


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return -1


def in_order(headers: list[Header]) -> list[Header]:
    """The files of a series from its first slice to its last: along the normal of its planes, else as numbered."""
    numbered = sorted(headers, key=lambda one: (one.instance, one.path.as_posix()))
    frames = [one.frames[0] for one in numbered]
    if len(frames) < 2 or any(frame.position is None or frame.orientation is None for frame in frames):
        return numbered
    a, b, c, d, e, f = frames[0].orientation or ()
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    heights = [
        round(sum(one * other for one, other in zip(normal, frame.position or (), strict=True)), 4) for frame in frames
    ]
    return [numbered[index] for index in sorted(range(len(frames)), key=heights.__getitem__)]


def named(text: str | Path) -> list[Header]:
    """The headers of what a text names, in order: a series, the only series of a folder, or a file. Empty where it is
    no DICOM; UserError where it is not one series."""
    path, uid = split(text)
    if uid is None and os.path.isfile(path):
        one = header(path)
        return [] if one is None else [one]
    if not os.path.isdir(path):
        return []
    if uid is not None:
        own = series(_below(path).get(uid, ())).get(uid)
        if own is None:
            raise UserError(f"Folder {path} holds no DICOM series {uid}; check the text behind “{MARK}”.")
        return own
    below = _below(path)
    own_files = (file for files in below.values() for file in files if file.parent == path)
    found = series(own_files) or series(file for files in below.values() for file in files)
    if len(found) > 1:
        texts = ", ".join(f"{MARK}{uid}" for uid in sorted(found)[:3]) + (", …" if len(found) > 3 else "")
        raise UserError(
            f"Folder {path} holds {len(found)} DICOM series; name one of them by adding one of {texts} to the folder, "
            "or put it into a folder of its own."
        )
    return next(iter(found.values()), [])


def files_of(text: str | Path) -> list[Path]:
    """The files that a text stands for, in a fixed order: those of a series by slice, a file itself, else (a folder
    that is no series) all below it. Empty where there are none."""
    try:
        headers = named(text)
    except UserError:
        headers = []
    if headers:
        return [one.path for one in headers]
    path, uid = split(text)
    if uid is not None or not os.path.exists(path):
        return []
    return sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]


def name(headers: list[Header], with_patient: bool = False) -> str:
    """What a series is called: modality, description and eight digits that stand for its Series Instance UID.

    The description is left out where it holds a part of the patient's name, an ID or the birth date. with_patient: ID,
    name and study date come first.
    """
    first = headers[0]
    own = first.series_uid or first.sop_uid or first.path.name
    digits = hashlib.sha256(own.encode(errors="backslashreplace")).hexdigest()[:8]
    private = personal(headers)
    words = [word for word in (first.modality, first.description) if not tells(word, private)]
    if with_patient:
        words = [*first.patient_ids[:1], first.patient_name, first.study_date, first.modality, first.description]
    cleaned = (re.sub(r"\W+", "_", word)[:40].strip("_") for word in words)
    return "_".join([*(word for word in cleaned if word), digits])


def personal(headers: Iterable[Header]) -> set[str]:
    """What in the headers says whose the images are: name and its parts, IDs, birth date in several spellings."""
    found: set[str] = set()
    for one in headers:
        found |= {one.patient_name, *one.patient_ids, *re.split(r"[\W_]+", one.patient_name)}
        year, month, day = one.birth_date[:4], one.birth_date[4:6], one.birth_date[6:8]
        if len(one.birth_date) == 8:
            found |= {one.birth_date, f"{year}-{month}-{day}", f"{day}.{month}.{year}", f"{month}/{day}/{year}"}
    return {text for text in found if len(text) > 1}


def tells(text: str, private: set[str]) -> bool:
    """Whether a text holds one of the private ones: anywhere in it, or as a word where it is just two letters."""
    folded = text.casefold()
    words = set(re.split(r"[\W_]+", folded))
    return any(one.casefold() in (folded if len(one) > 2 else words) for one in private)
