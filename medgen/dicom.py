"""DICOM series: which there are, which files are of one, and a series as one volume that lies where the header says.

A series is named by a text, `FOLDER#SERIES_UID`, wherever a path may stand; FOLDER alone will do where it holds only
one, and a single file is its own. Headers are read by medgen.dicomheader, pixels by GDCM through SimpleITK (with
rescale slope and intercept applied, so that CT is in HU). What no regular grid can hold is refused.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medgen import dicomheader, folders
from medgen.dicomheader import Frame, Header
from medgen.errors import UserError

if TYPE_CHECKING:
    import SimpleITK as sitk

MARK = "#"
NAME = "MedGen name"  # of the metadata of an image that was read: what it is called, in place of whose it is
# What has no picture of its own, or one that is no image: structures, plans, doses, reports, masks, registrations.
NOT_IMAGES = {"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "DOC", "REG", "FID", "RWV", "AU"}
UNEVEN = 0.01  # how much of the slice distance a slice may be out of its place
_TILTED = 2e-3  # of the way along the normal, how far slices may shift within their plane
_ROUNDED = 2e-3  # mm: what two positions written with three decimals may differ by
_SAME_DIRECTION = 1e-3
_CACHED = 50_000  # headers

Vector = NDArray[np.float64]


# --- which there are ----------------------------------------------------------------------------------------------


def split(text: str | Path) -> tuple[Path, str | None]:
    """A path, and the Series Instance UID where the text names a series; an existing path is just a path."""
    folder, mark, uid = str(text).rpartition(MARK)
    if mark and re.fullmatch(r"[0-9.]{1,64}", uid) and not Path(text).exists():
        return Path(folder or "."), uid
    return Path(text), None


def exists(text: str | Path) -> bool:
    """Whether there is such a file or folder; of a series, whether its folder is there."""
    path, uid = split(text)
    return path.exists() if uid is None else path.is_dir()


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


def in_order(headers: list[Header]) -> list[Header]:
    """The files of a series from its first slice to its last: along the normal of its planes, else as numbered."""
    numbered = sorted(headers, key=lambda one: (one.instance, one.path.as_posix()))
    frames = [one.frames[0] for one in numbered]
    if len(frames) < 2 or any(frame.position is None or frame.orientation is None for frame in frames):
        return numbered
    normal = _axes(frames[0])[2]
    heights = [round(float(np.dot(normal, frame.position or ())), 4) for frame in frames]
    return [numbered[index] for index in sorted(range(len(frames)), key=heights.__getitem__)]


def named(text: str | Path) -> list[Header]:
    """The headers of what a text names, in order: a series, the only series of a folder, or a file. Empty where it is
    no DICOM; UserError where it is not one series."""
    path, uid = split(text)
    if uid is None and path.is_file():
        one = header(path)
        return [] if one is None else [one]
    if not path.is_dir():
        return []
    if uid is not None:
        own = series(folders.files(path)).get(uid)
        if own is None:
            raise UserError(f"Folder {path} holds no DICOM series {uid}; check the text behind “{MARK}”.")
        return own
    found = series(file for file in folders.files(path) if file.parent == path) or series(folders.files(path))
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
    if uid is not None or not path.exists():
        return []
    return sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]


def name(headers: list[Header], with_patient: bool = False) -> str:
    """What a series is called: modality, description and eight digits that stand for its Series Instance UID.

    The description is left out where it holds a part of the patient's name, an ID or the birth date. with_patient: ID,
    name and study date come first.
    """
    first = headers[0]
    own = first.series_uid or first.sop_uid or first.path.name
    digits = hashlib.sha256(own.encode()).hexdigest()[:8]
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


# --- one volume ---------------------------------------------------------------------------------------------------


def read(text: str | Path, headers: list[Header]) -> sitk.Image:
    """A series, or a file that holds a picture or several slices, without any of its header.

    text: what it is called in messages. headers: as `named` gives them.
    Raises UserError where it has no regular grid, RuntimeError where GDCM cannot read it.
    """
    import SimpleITK as sitk

    usable = [one for one in headers if is_image(one)]
    if not usable:
        raise UserError(f"{text} is DICOM but no image ({headers[0].modality or 'no pixels'}); choose an image series.")
    if len({one.size for one in usable}) > 1:
        raise UserError(f"{text} holds pictures of different sizes; split it into series of one size each.")
    if len(usable) > 1 and any(len(one.frames) > 1 for one in usable):
        raise UserError(f"{text} holds {len(usable)} files of several frames each; name one file of it.")
    frames = [frame for one in usable for frame in one.frames]
    if len(frames) > 1 or frames[0].position is not None:
        order, grid = _grid(text, frames, usable[0].thickness)
    else:
        order, grid = [0], None
    rescales = {frame.rescale for frame in frames}
    if len(usable) == 1:
        if len(rescales) > 1:
            raise UserError(f"{text} has frames of different rescale slopes; export it as single slices or as NIfTI.")
        image = _in_order(sitk.ReadImage(str(usable[0].path), imageIO="GDCMImageIO"), order)
    else:
        reader = sitk.ImageSeriesReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileNames([str(usable[index].path) for index in order])
        if len(rescales) > 1:  # ITK gives every slice the type of the first, and would cut off what that cannot hold
            reader.SetOutputPixelType(sitk.sitkFloat32)
        image = reader.Execute()
    for key in image.GetMetaDataKeys():  # patient's name and all
        image.EraseMetaData(key)
    image.SetMetaData(NAME, name(usable))
    if grid is not None and image.GetDimension() == 3 and image.GetSize()[2] == len(frames):
        image.SetOrigin(grid[:3, 3].tolist())
        image.SetSpacing(np.linalg.norm(grid[:3, :3], axis=0).tolist())
        image.SetDirection((grid[:3, :3] / np.linalg.norm(grid[:3, :3], axis=0)).ravel().tolist())
    elif grid is not None:
        raise UserError(f"{text} does not hold the {len(frames)} slices that its header tells of; export it again.")
    return image


def _in_order(image: sitk.Image, order: list[int]) -> sitk.Image:
    """A volume with its slices in another order."""
    if order == sorted(order) or image.GetSize()[2] != len(order):
        return image
    import SimpleITK as sitk

    return sitk.GetImageFromArray(sitk.GetArrayFromImage(image)[order], image.GetNumberOfComponentsPerPixel() > 1)


def _axes(frame: Frame) -> tuple[Vector, Vector, Vector]:
    """Unit vectors along a row, down a column, and normal to both (LPS)."""
    given = np.array(frame.orientation or (1, 0, 0, 0, 1, 0))
    row = given[:3] / max(float(np.linalg.norm(given[:3])), 1e-9)
    column = given[3:] - np.dot(given[3:], row) * row
    column /= max(float(np.linalg.norm(column)), 1e-9)
    return row, column, np.cross(row, column)


def _grid(text: str | Path, frames: list[Frame], thickness: float | None) -> tuple[list[int], Vector]:
    """The order of frames along their normal, and the 4x4 voxel index -> LPS mm of the volume they make."""
    first = frames[0]
    if any(frame.position is None or frame.orientation is None for frame in frames):
        raise UserError(
            f"{text} holds {len(frames)} pictures without a place in space (a film, or single views); give one as a file "
            "of its own."
        )
    for frame in frames:
        if not np.allclose(frame.orientation or (), first.orientation or (), rtol=0, atol=_SAME_DIRECTION):
            raise UserError(
                f"{text} holds slices of different orientations (as a scout does); split it by orientation."
            )
        if not np.allclose(frame.spacing or (1, 1), first.spacing or (1, 1), rtol=1e-4):
            raise UserError(f"{text} holds slices of different pixel sizes; split it into series of one size each.")
    given = np.array(first.orientation).reshape(2, 3)
    if abs(np.dot(*given)) > _SAME_DIRECTION or not np.allclose(np.linalg.norm(given, axis=1), 1, rtol=0, atol=0.01):
        raise UserError(
            f"{text} has rows and columns that are not at right angles; resample it to a right-angled grid."
        )
    row, column, normal = _axes(first)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    between = _slice_distance(text, heights[order], positions[order], normal, thickness)
    down, across = first.spacing or (1.0, 1.0)
    if min(down, across) <= 0:
        raise UserError(f"{text} has a pixel size of zero or less; correct its header or export it again.")
    grid = np.eye(4)
    grid[:3, :3] = np.stack([row * across, column * down, normal * between], axis=1)
    grid[:3, 3] = positions[order[0]]
    return order.tolist(), grid


def _slice_distance(
    text: str | Path, heights: Vector, positions: Vector, normal: Vector, thickness: float | None
) -> float:
    """mm from slice to slice; UserError where they are not stacked evenly and straight."""
    count = len(heights)
    if count == 1:
        return thickness if thickness and thickness > 0 else 1.0
    gaps = np.diff(heights)
    same = int((gaps < _ROUNDED).sum())
    if same:
        times = count / (count - same)
        if times == int(times) and count > same + 1 or count == same + 1:
            what = f"{times:g} pictures at every place (times, echoes or phases)"
        else:
            what = f"{same} slices twice"
        raise UserError(f"{text} holds {what}, which is not one volume; split it or remove what is there twice.")
    usual = float(np.median(gaps))
    out = np.abs(gaps - usual)
    if float(out.max()) > max(UNEVEN * usual, _ROUNDED):
        missing = int(np.rint(gaps / usual - 1).clip(0).sum())
        even = np.abs(gaps / usual - np.rint(gaps / usual)).max() < 0.1
        what = f"lacks {missing} slice{'s' * (missing != 1)}" if missing and even else "has slices at uneven distances"
        raise UserError(
            f"{text} {what} ({gaps.min():.4g} to {gaps.max():.4g} mm apart); complete it or resample it to even slices."
        )
    shift = positions - positions[0] - np.outer(heights - heights[0], normal)
    farthest = float(np.linalg.norm(shift, axis=1).max())
    length = float(heights[-1] - heights[0])
    if farthest > max(_TILTED * length, 2 * UNEVEN * usual, _ROUNDED):
        angle = np.degrees(np.arctan2(farthest, length))
        raise UserError(
            f"{text} has slices that are shifted against each other (a gantry tilted by {angle:.1f}°); resample it to a "
            "right-angled grid first."
        )
    return length / (count - 1)
