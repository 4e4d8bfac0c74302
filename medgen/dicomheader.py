"""The header of a DICOM file: its series, its place in the patient, and whose it is; pydicom reads it.

GDCM reads pixels (medgen.dicomvolume), and with them the whole file; what stands ahead of them is read here, and only
what is wanted of it, so that a folder of thousands of files can be searched. pydicom is imported by the first file.
"""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

Numbers = tuple[float, ...]

_DEFLATED = "1.2.840.10008.1.2.1.99"
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")  # pixels as they are
_INFLATED = 1 << 28  # bytes of a deflated file
_MOST = 500_000  # frames of a file
_BY_FRAME = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_WANTED = [
    *("SpecificCharacterSet", "SOPInstanceUID", "StudyDate", "Modality", "SeriesDescription"),
    *("PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs"),
    *("SliceThickness", "SpacingBetweenSlices", "SeriesInstanceUID", "InstanceNumber"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SamplesPerPixel", "BitsAllocated", "NumberOfFrames", "Rows", "Columns"),
    *("RescaleIntercept", "RescaleSlope", *_BY_FRAME),
]


class BadHeader(ValueError):
    """What looked like a DICOM file is damaged."""


@dataclass(frozen=True)
class Frame:
    """Where one slice lies: position of its first pixel, directions along a row and down a column (LPS mm)."""

    position: Numbers | None
    orientation: Numbers | None
    spacing: Numbers | None  # mm between rows, and between columns
    rescale: Numbers  # slope, intercept


@dataclass(frozen=True)
class Header:
    """What is read of a file. Texts are empty, and numbers None, where the file does not say."""

    path: Path
    modality: str
    series_uid: str
    sop_uid: str
    description: str
    study_date: str
    patient_name: str
    patient_ids: tuple[str, ...]
    birth_date: str
    instance: int
    size: tuple[int, int, int]  # rows, columns, values a pixel; 0 where there is no picture
    pixels: int  # bytes that they take in the file; 0 where they are compressed
    thickness: float | None
    frames: tuple[Frame, ...] = field(repr=False)  # one, or those of a file that holds several


def read(path: Path) -> Header | None:
    """The header of a file; None where the file is not DICOM. BadHeader, or OSError, where it cannot be read."""
    with path.open("rb") as stream:
        start = stream.read(132)
    # What was stored as it was sent has no mark; it begins with an element of group 8.
    bare = path.suffix.lower() in ("", ".dcm", ".ima") and start[:2] == b"\x08\x00" and start[3:4] == b"\x00"
    if start[128:] != b"DICM" and not bare:
        return None
    import pydicom

    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")  # what is odd about a file is said by who needs it
        try:
            if not bare:
                _check_inflated(path)
            return _header(path, pydicom.dcmread(path, stop_before_pixels=True, force=bare, specific_tags=_WANTED))
        except OSError:
            raise
        except (Exception, RecursionError):  # pydicom has no class for what a damaged file does to it
            raise BadHeader(str(path)) from None


def _check_inflated(path: Path) -> None:
    """BadHeader where a deflated file is larger than any that we take, before it takes memory."""
    from pydicom.filereader import read_file_meta_info

    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != _DEFLATED:
        return
    with path.open("rb") as stream:
        stream.seek(132 + 12 + int(meta.get("FileMetaInformationGroupLength", 0)))
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while block := inflate.unconsumed_tail or stream.read(1 << 16):
            size += len(inflate.decompress(block, 1 << 20))
            if size > _INFLATED:
                raise BadHeader(str(path))


# --- values -------------------------------------------------------------------------------------------------------


def _header(path: Path, found: Dataset) -> Header:
    rows, columns = _integer(found, "Rows"), _integer(found, "Columns")
    identities = [part for key in ("PatientID", "OtherPatientIDs") for part in _texts(found, key)]
    return Header(
        path=path,
        modality=_text(found, "Modality"),
        series_uid=_text(found, "SeriesInstanceUID"),
        sop_uid=_text(found, "SOPInstanceUID"),
        description=_text(found, "SeriesDescription"),
        study_date=_text(found, "StudyDate"),
        patient_name=_text(found, "PatientName"),
        patient_ids=tuple(identities),
        birth_date=_text(found, "PatientBirthDate"),
        instance=_integer(found, "InstanceNumber"),
        size=(rows, columns, (_integer(found, "SamplesPerPixel") or 1) if rows and columns else 0),
        pixels=_pixels(found, rows * columns),
        thickness=_number(found, "SpacingBetweenSlices") or _number(found, "SliceThickness"),
        frames=_frames(found),
    )


def _pixels(found: Dataset, count: int) -> int:
    syntax = found.file_meta.get("TransferSyntaxUID", _PLAIN[0]) if hasattr(found, "file_meta") else _PLAIN[0]
    if syntax not in _PLAIN:
        return 0
    samples, frames = (_integer(found, key) or 1 for key in ("SamplesPerPixel", "NumberOfFrames"))
    return count * samples * frames * _integer(found, "BitsAllocated") // 8


def _frames(found: Dataset) -> tuple[Frame, ...]:
    """The place of each frame: its own, else what all share, else what the file says once."""
    count = _number(found, "NumberOfFrames") or 1
    shared, own = (found.get(key) or [] for key in _BY_FRAME)
    if count > 1 and len(own) != count:  # a film: its frames have no place of their own
        return (Frame(None, None, None, (1.0, 0.0)),) * int(min(count, _MOST))
    return tuple(_frame([*([one] if one else []), *shared[:1]], found) for one in own or [None])


def _frame(places: list[Dataset], found: Dataset) -> Frame:
    def holder(sequence: str, key: str) -> Dataset:
        for place in places:
            for item in place.get(sequence) or []:
                if key in item:
                    return item
        return found

    slope = _number(holder("PixelValueTransformationSequence", "RescaleSlope"), "RescaleSlope")
    intercept = _number(holder("PixelValueTransformationSequence", "RescaleIntercept"), "RescaleIntercept")
    key = "ImagePositionPatient"
    return Frame(
        position=_numbers(holder("PlanePositionSequence", key), key, 3),
        orientation=_numbers(
            holder("PlaneOrientationSequence", "ImageOrientationPatient"), "ImageOrientationPatient", 6
        ),
        spacing=_numbers(holder("PixelMeasuresSequence", "PixelSpacing"), "PixelSpacing", 2),
        rescale=(1.0 if slope is None else slope, intercept or 0.0),
    )


def _values(found: Dataset, key: str) -> list[Any]:
    value = found.get(key)
    if value is None or isinstance(value, str):
        return [] if value is None else [value]
    try:
        return list(value)
    except TypeError:
        return [value]


def _texts(found: Dataset, key: str) -> list[str]:
    return [text for value in _values(found, key) if (text := str(value).strip(" \0"))]


def _text(found: Dataset, key: str) -> str:
    return str(found.get(key) or "").strip(" \0")


def _integer(found: Dataset, key: str) -> int:
    return int(_number(found, key) or 0)


def _number(found: Dataset, key: str) -> float | None:
    numbers = _numbers(found, key, 1)
    return numbers[0] if numbers else None


def _numbers(found: Dataset, key: str, count: int) -> Numbers | None:
    """The first `count` numbers of a value; None where they are not there."""
    try:
        numbers = tuple(float(value) for value in _values(found, key)[:count])
    except (TypeError, ValueError):
        return None
    finite = all(abs(number) < 1e9 for number in numbers)  # not for NaN either
    return numbers if len(numbers) == count and finite else None
