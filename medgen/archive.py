"""The cases that lie in a folder: one for each image file, and one for each DICOM series, whatever their folders."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from medgen import dicom, folders, io
from medgen.cohort import Row
from medgen.dicomheader import Header
from medgen.errors import UserError
from medgen.method import Kind, Operation, Role

Log = Callable[[str], None]

PLAIN = tuple(ending for ending in (*io.VOLUMES, *io.PICTURES) if ending != ".dcm")
_LABELS = re.compile(r"(?:^|[-_. ])(?:labels?|labelmap|seg|dseg|segmentation|mask|roi)$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A case: what it is called, and the path, or the text that names a DICOM series (medgen.dicom)."""

    name: str
    path_text: str


def find(folder: Path, patient_names: bool = False, log: Log = lambda message: None) -> list[Found]:
    """The cases below a folder, image files by path first, then DICOM series by name.

    Left out, and counted in the log: label maps, DICOM objects without an image, what MedGen wrote. A file is called by
    its own name, with digits for its folder where that is not `folder` itself; a series as `dicom.name` says.
    patient_names: folders and patients are named.
    Raises UserError where the folder is not there.
    """
    if not folder.is_dir():
        raise UserError(f"Folder {folder} does not exist; check the path.")
    images: list[Path] = []
    headers: list[Header] = []
    left_out: Counter[str] = Counter()
    for path in folders.files(folder, skip=_is_ours):
        if _has_provenance(path):
            left_out["results of MedGen"] += 1
        elif io.extension(path) == ".seg.nrrd" or (io.extension(path) in PLAIN and _LABELS.search(_stem(path))):
            left_out["label maps"] += 1
        elif io.extension(path) in PLAIN:
            images.append(path)
        elif (one := dicom.header(path)) is not None:
            if dicom.is_image(one):
                headers.append(one)
            else:
                left_out[f"DICOM objects that are no images ({one.modality or 'no pixels'})"] += 1
        elif io.extension(path) == ".dcm":
            left_out["damaged DICOM files"] += 1
    for what, count in left_out.items():
        log(f"Left out: {count} {what}.")
    return [
        *(Found(_file_name(path, folder, patient_names), str(path)) for path in images),
        *sorted(_series(headers, patient_names), key=lambda found: (found.name, found.path_text)),
    ]


def cohort_rows(
    folder: Path, operation: Operation, patient_names: bool = False, log: Log = lambda message: None
) -> list[Row]:
    """The cases below a folder as the rows of a cohort: each image goes to the operation's image role.

    Raises UserError where the operation needs more than one input, or nothing is found.
    """
    role = _image_role(operation)
    found = find(folder, patient_names, log)
    if role.dims == "3D":
        pictures = tuple(ending for ending in io.PICTURES if ending not in (".tif", ".tiff"))
        usable = [one for one in found if io.extension(Path(one.path_text)) not in pictures]
        if len(usable) < len(found):
            log(f"{len(found) - len(usable)} pictures left out: “{role.name}” takes volumes.")
        found = usable
    if not found:
        raise UserError(
            f"Folder {folder} holds no image for “{role.name}”; name a folder of image files or DICOM series."
        )
    return [Row({role.name: [one.path_text]}, subject=one.name, label=one.name) for one in found]


def _image_role(operation: Operation) -> Role:
    needed = [role for role in operation.inputs if not role.optional]
    if len(needed) > 1:
        names = ", ".join(role.name for role in needed)
        raise UserError(
            f"“{operation.name}” needs {names} for every case, which a folder cannot tell; name a CSV of them."
        )
    images = [role for role in needed or operation.inputs if role.kind is Kind.IMAGE]
    if not images:
        raise UserError(f"“{operation.name}” takes no image alone, so a folder will not do; name a CSV of its cases.")
    return next((role for role in images if role.reference), images[0])


# --- files --------------------------------------------------------------------------------------------------------


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a batch's, a model's, or the result of a run."""
    return any((folder / name).exists() for name in ("batch.json", "medgen.json", "provenance.json"))


def _has_provenance(path: Path) -> bool:
    return path.with_name(path.name + ".provenance.json").exists()


def _stem(path: Path) -> str:
    return path.name[: -len(io.extension(path))]


def _file_name(path: Path, folder: Path, patient_names: bool) -> str:
    inside = path.relative_to(folder)
    if patient_names:
        return "_".join([*inside.parts[:-1], _stem(path)])
    if len(inside.parts) == 1:
        return _stem(path)
    return f"{_stem(path)}-{hashlib.sha256(os.fsencode(inside.parent.as_posix())).hexdigest()[:8]}"


# --- DICOM --------------------------------------------------------------------------------------------------------


def _series(headers: Iterable[Header], patient_names: bool) -> list[Found]:
    """A case for each series, and for each file of what has no place in space (views, films) or no series."""
    by_uid: dict[str, list[Header]] = {}
    for one in headers:
        by_uid.setdefault(one.series_uid, []).append(one)
    found = []
    for uid, own in by_uid.items():
        placed = any(one.frames[0].position is not None for one in own)
        if uid and (placed or len(own) == 1):
            folder = Path(os.path.commonpath([one.path.parent for one in own]))
            found.append(Found(dicom.name(own, patient_names), f"{folder}{dicom.MARK}{uid}"))
            continue
        for number, one in enumerate(dicom.in_order(own), start=1):
            name = dicom.name([one], patient_names)
            found.append(Found(f"{name}_{number}" if len(own) > 1 else name, str(one.path)))
    return found
