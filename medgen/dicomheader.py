"""The header of a DICOM file: its series, its place in the patient, and whose it is. Standard library only.

GDCM reads pixels (medgen.dicom), and with them the whole file; what stands ahead of them is read here, so that a folder
of thousands of files can be searched. A header that ends early or contradicts itself is no header.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"DICM"
Dataset = dict[int, Any]  # by tag: bytes, or for a sequence a list of data sets
Numbers = tuple[float, ...]

_DEFLATED, _BIG_ENDIAN, _IMPLICIT = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2"
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNKNOWN_LENGTH = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_POSITIONS, _ORIENTATIONS, _MEASURES, _VALUES = 0x00209113, 0x00209116, 0x00289110, 0x00289145
_SEQUENCES = (_SHARED, _PER_FRAME, _POSITIONS, _ORIENTATIONS, _MEASURES, _VALUES)
_SYNTAX, _CHARACTERS, _SOP_UID, _STUDY_DATE, _MODALITY = 0x00020010, 0x00080005, 0x00080018, 0x00080020, 0x00080060
_DESCRIPTION, _PATIENT, _PATIENT_ID, _BIRTH, _OTHER_IDS = 0x0008103E, 0x00100010, 0x00100020, 0x00100030, 0x00101000
_THICKNESS, _BETWEEN, _SERIES_UID, _SERIES_NUMBER = 0x00180050, 0x00180088, 0x0020000E, 0x00200011
_INSTANCE, _POSITION, _ORIENTATION = 0x00200013, 0x00200032, 0x00200037
_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _SPACING = 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280030
_INTERCEPT, _SLOPE = 0x00281052, 0x00281053
_WANTED = {
    *(_SYNTAX, _CHARACTERS, _SOP_UID, _STUDY_DATE, _MODALITY, _DESCRIPTION, _PATIENT, _PATIENT_ID, _BIRTH, _OTHER_IDS),
    *(_THICKNESS, _BETWEEN, _SERIES_UID, _SERIES_NUMBER, _INSTANCE, _POSITION, _ORIENTATION),
    *(_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _SPACING, _INTERCEPT, _SLOPE),
}
_DEEPEST = 16  # sequences within sequences
_MOST = 500_000  # elements of a header
_LONGEST = 1 << 16  # bytes of a value that is wanted
_INFLATED = 1 << 26  # bytes of a deflated header
# Specific Character Set (PS3.3, C.12.1.1.2) and what Python calls it.
_CODECS = {"ISO_IR 13": "shift_jis", "ISO_IR 166": "tis_620", "ISO_IR 192": "utf_8", "ISO 2022 IR 87": "iso2022_jp"}
_CODECS |= {"ISO 2022 IR 149": "euc_kr", "ISO 2022 IR 58": "gb2312", "GB18030": "gb18030", "GBK": "gbk"}
_LATIN = {"100": 1, "101": 2, "109": 3, "110": 4, "144": 5, "127": 6, "126": 7, "138": 8, "148": 9, "203": 15}


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
    thickness: float | None
    frames: tuple[Frame, ...] = field(repr=False)  # one, or those of a file that holds several


def read(path: Path) -> Header | None:
    """The header of a file; None where the file is not DICOM. BadHeader, or OSError, where it cannot be read."""
    with path.open("rb") as stream:
        start = stream.read(132)
        if start[128:] == MAGIC:
            meta = _Reader(stream, "<", True).dataset(meta=True)
            syntax = _text(meta.get(_SYNTAX))
        elif path.suffix.lower() in ("", ".dcm", ".ima") and start[:2] == b"\x08\x00" and start[3:4] == b"\x00":
            stream.seek(0)  # as it was sent, before there were files
            syntax = "" if start[4:6].isalpha() and start[4:6].isupper() else _IMPLICIT
        else:
            return None
        body: BinaryIO = stream
        if syntax == _DEFLATED:
            try:
                body = io.BytesIO(zlib.decompressobj(-15).decompress(stream.read(_INFLATED), _INFLATED))
            except zlib.error:
                raise BadHeader(str(path)) from None
        order = ">" if syntax == _BIG_ENDIAN else "<"
        return _header(path, _Reader(body, order, syntax != _IMPLICIT).dataset(), order)


class _Reader:
    """Reads data elements in one transfer syntax."""

    def __init__(self, stream: BinaryIO, order: str, explicit: bool) -> None:
        self.stream = stream
        self.tag = struct.Struct(order + "HH")
        self.short = struct.Struct(order + "H")
        self.long = struct.Struct(order + "I")
        self.explicit = explicit
        self.count = 0

    def dataset(self, end: int | None = None, depth: int = 0, meta: bool = False) -> Dataset:
        """The wanted elements up to `end` (a place in the stream), an end mark, or the pixels."""
        found: Dataset = {}
        stream = self.stream
        while end is None or stream.tell() < end:
            before = stream.tell()
            head = stream.read(8)
            if len(head) < 8:
                if depth or head:
                    raise BadHeader("ends early")
                break
            self.count += 1
            if self.count > _MOST:
                raise BadHeader("endless")
            group, element = self.tag.unpack_from(head)
            tag = group << 16 | element
            if tag in (_ITEM_END, _SEQUENCE_END):
                break
            if not depth and ((group != 2) if meta else _past(tag, found)):
                stream.seek(before)
                break
            kind, length = self._kind_and_length(head, group)
            if length == _UNKNOWN_LENGTH or tag in _SEQUENCES:
                found[tag] = self._unknown(length, depth) if kind == b"UN" else self._items(length, depth)
            elif tag in _WANTED:
                value = stream.read(min(length, _LONGEST))
                if len(value) < min(length, _LONGEST):
                    raise BadHeader("ends early")
                stream.seek(length - len(value), 1)
                found[tag] = value
            else:
                stream.seek(length, 1)
        return found

    def _kind_and_length(self, head: bytes, group: int) -> tuple[bytes, int]:
        if not self.explicit or group == 0xFFFE:
            return b"", self.long.unpack_from(head, 4)[0]
        kind = head[4:6]
        if kind not in _LONG:
            return kind, self.short.unpack_from(head, 6)[0]
        more = self.stream.read(4)
        if len(more) < 4:
            raise BadHeader("ends early")
        return kind, self.long.unpack(more)[0]

    def _unknown(self, length: int, depth: int) -> list[Dataset]:
        """A sequence that whoever wrote it did not know as one: inside it is implicit (PS3.5, 6.2.2)."""
        explicit, self.explicit = self.explicit, False
        try:
            return self._items(length, depth)
        finally:
            self.explicit = explicit

    def _items(self, length: int, depth: int) -> list[Dataset]:
        if depth >= _DEEPEST:
            raise BadHeader("too deep")
        end = None if length == _UNKNOWN_LENGTH else self.stream.tell() + length
        items: list[Dataset] = []
        while end is None or self.stream.tell() < end:
            head = self.stream.read(8)
            if len(head) < 8:
                raise BadHeader("ends early")
            group, element = self.tag.unpack_from(head)
            if group << 16 | element == _SEQUENCE_END:
                break
            if group << 16 | element != _ITEM:
                raise BadHeader("no item")
            size = self.long.unpack_from(head, 4)[0]
            stop = None if size == _UNKNOWN_LENGTH else self.stream.tell() + size
            items.append(self.dataset(stop, depth + 1))
        return items


def _past(tag: int, found: Dataset) -> bool:
    """Whether nothing of interest follows: only a file of several frames says more behind its pixel format."""
    return tag > _PER_FRAME or (tag > _SLOPE and (_number(found.get(_FRAMES)) or 1) <= 1)


# --- values -------------------------------------------------------------------------------------------------------


def _header(path: Path, found: Dataset, order: str) -> Header:
    codec = _codec(_text(found.get(_CHARACTERS)))
    unsigned = struct.Struct(order + "H")

    def integer(tag: int) -> int:
        value = found.get(tag, b"")
        return int(unsigned.unpack_from(value)[0]) if len(value) >= 2 else 0

    rows, columns = integer(_ROWS), integer(_COLUMNS)
    identities = [_text(found.get(tag), codec) for tag in (_PATIENT_ID, _OTHER_IDS)]
    return Header(
        path=path,
        modality=_text(found.get(_MODALITY)),
        series_uid=_text(found.get(_SERIES_UID)),
        sop_uid=_text(found.get(_SOP_UID)),
        description=_text(found.get(_DESCRIPTION), codec),
        study_date=_text(found.get(_STUDY_DATE)),
        patient_name=_text(found.get(_PATIENT), codec),
        patient_ids=tuple(part for text in identities for part in text.split("\\") if part),
        birth_date=_text(found.get(_BIRTH)),
        instance=int(_number(found.get(_INSTANCE)) or 0),
        size=(rows, columns, (integer(_SAMPLES) or 1) if rows and columns else 0),
        thickness=_number(found.get(_BETWEEN)) or _number(found.get(_THICKNESS)),
        frames=_frames(found),
    )


def _frames(found: Dataset) -> tuple[Frame, ...]:
    """The place of each frame: its own, else what all share, else what the file says once."""
    count = _number(found.get(_FRAMES)) or 1
    own = found.get(_PER_FRAME) or [{}]
    shared = next(iter(found.get(_SHARED) or [{}]))
    if count > 1 and len(own) != count:  # a film: its frames have no place of their own
        return (Frame(None, None, None, (1.0, 0.0)),) * int(min(count, _MOST))
    return tuple(_frame(found, shared, one) for one in own)


def _frame(found: Dataset, shared: Dataset, own: Dataset) -> Frame:
    def value(sequence: int, tag: int) -> Any:
        for place in (own, shared):
            for item in place.get(sequence) or ():
                if tag in item:
                    return item[tag]
        return found.get(tag)

    slope, intercept = _number(value(_VALUES, _SLOPE)), _number(value(_VALUES, _INTERCEPT))
    return Frame(
        position=_numbers(value(_POSITIONS, _POSITION), 3),
        orientation=_numbers(value(_ORIENTATIONS, _ORIENTATION), 6),
        spacing=_numbers(value(_MEASURES, _SPACING), 2),
        rescale=(1.0 if slope is None else slope, intercept or 0.0),
    )


def _codec(text: str) -> str:
    """Python's name for the last character set that a file names (the first is for what is plain)."""
    term = next((part.strip() for part in reversed(text.split("\\")) if part.strip()), "")
    number = _LATIN.get(term.rpartition(" ")[2])
    return _CODECS.get(term) or (f"iso8859_{number}" if number else "latin_1")


def _text(value: bytes | None, codec: str = "latin_1") -> str:
    return (value or b"").decode(codec, errors="replace").strip(" \0")


def _number(value: bytes | None) -> float | None:
    numbers = _numbers(value, 1)
    return numbers[0] if numbers else None


def _numbers(value: bytes | None, count: int) -> Numbers | None:
    """The first `count` decimal numbers of a value; None where they are not there."""
    try:
        numbers = tuple(float(part) for part in _text(value).split("\\")[:count])
    except ValueError:
        return None
    finite = all(abs(number) < 1e9 for number in numbers)  # not for NaN either
    return numbers if len(numbers) == count and finite else None
