"""What ITK's readers do not look at, or mend in silence, form by form: files that a header names, numbers that are
none, pixels that are missing, circles in which a reader would run for ever.

All raise UserError for what is refused with a reason of its own, and RuntimeError, as ITK, for what is damaged.
"""

from __future__ import annotations

import gzip
import io
import math
import mmap
import re
import struct
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import numpy as np

from medgen import files
from medgen.errors import UserError

_HEADER_BYTES = 4 * 2**20  # of an NRRD or MetaImage
_MAX_KEYS = 10_000  # of an NRRD: the time they take grows with their square
_TRAILING_BYTES = 4 * 2**20  # after a NIfTI's voxels
_MAX_PAGES = 10_000  # of a TIFF
_LARGEST_JPEG = 2**30  # bytes
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def check_before(path: Path, form: str) -> None:
    """Look at what must be right before ITK reads the header. form: the name of ITK's reader."""
    if form == "TIFFImageIO":
        _check_pages(path)
    elif form == "MetaImageIO":
        _check_meta(path)


def check_voxels(path: Path, form: str, found: Any) -> None:
    """Look for what is missing behind a header that ITK has read (`found`: its reader)."""
    if form == "NiftiImageIO":
        _check_nifti(path)
    elif form == "JPEGImageIO":
        _check_jpeg(path)
    elif form == "BMPImageIO":
        _check_bmp(path)
    elif form == "GDCMImageIO":
        _check_dicom(path, found)


# --- headers that name other files --------------------------------------------------------------------------------


def data_file(path: Path, form: str) -> Path | None:
    """The file that a detached NRRD or MetaImage header names; None where the voxels follow their header.

    Raises UserError for a name that leaves the header's folder, and for lists and patterns of names.
    """
    if form == "NrrdImageIO":
        names = _names_in_nrrd(_head(path), path)
    elif form == "MetaImageIO":
        found = re.findall(rb"ElementDataFile\s*[=:]([^\r\n]*)", _head(path))
        if not found:
            raise RuntimeError("no ElementDataFile")
        names = [name for name in map(_text, found) if name.upper() != "LOCAL"]
    else:
        return None
    for name in names:
        if name.upper().startswith("LIST") or "%" in name:
            raise UserError(f"{path} names several data files (“{name[:60]}”); save the image as one .nrrd file.")
        windows, posix = PureWindowsPath(name), PurePosixPath(name)
        away = posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts)
        if away or not _within(path.parent / name, path):
            raise UserError(
                f"{path} names a data file outside its own folder (“{name[:60]}”); put both into one folder."
            )
    return path.parent / names[0] if names else None


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEADER_BYTES)


def _names_in_nrrd(head: bytes, path: Path) -> list[str]:
    end = re.search(rb"\r?\n\r?\n", head)
    if end is None and len(head) == _HEADER_BYTES:
        raise UserError(f"{path} has a header of more than {_HEADER_BYTES >> 20} MiB; export the image again.")
    head = head[: end.start() if end else None]
    if head.count(b":=") > _MAX_KEYS:
        raise UserError(f"{path} has more than {_MAX_KEYS} remarks in its header; export the image again.")
    return [_text(name) for name in re.findall(rb"(?im)^[ \t]*data ?file[ \t]*:(?!=)([^\r\n]*)", head)]


def _text(name: bytes) -> str:
    return name.strip().decode("utf-8", "surrogateescape")


def _within(inside: Path, header: Path) -> bool:
    try:
        return inside.resolve().is_relative_to(header.parent.resolve())
    except (OSError, ValueError, RuntimeError):  # a name too long, with a NUL, a loop of links
        return False


def _check_meta(path: Path) -> None:
    """MetaIO hangs on a number of axes below zero, and takes what is no number for zero."""
    head = _head(path)
    head = head[: head.index(b"ElementDataFile")]
    axes = re.findall(rb"NDims\s*[=:]\s*([^\s]*)", head)
    if not axes or any(one not in (b"2", b"3", b"4", b"5") for one in axes):
        raise RuntimeError("NDims")
    numeric = rb"(?m)^\s*(?:Offset|Position|Origin|TransformMatrix|Rotation|Orientation|Element(?:Spacing|Size))"
    for values in re.findall(numeric + rb"\s*[=:]([^\r\n]*)", head):
        if not all(_NUMBER.fullmatch(value) for value in values.split()):
            raise RuntimeError("a number that is none")


# --- NIfTI --------------------------------------------------------------------------------------------------------

# Bytes a voxel by datatype; what the header says of bits is not looked at, as ITK does not.
_NIFTI_BYTES = {
    2: 1,
    4: 2,
    8: 4,
    16: 4,
    32: 8,
    64: 8,
    128: 3,
    256: 1,
    512: 2,
    768: 4,
    1024: 8,
    1280: 8,
    1792: 16,
    2304: 4,
}


def _check_nifti(path: Path) -> None:
    """ITK fills what a truncated NIfTI lacks with zeros, turns NaN into zero, mends a geometry that is none, and says
    nothing of it: so count the bytes and the values that are no numbers first."""
    wrong = 0
    try:
        with _unpacked(path) as stream:
            offset, expected, form = _nifti_layout(stream.read(544), path)
            stream.seek(offset)
            found, rest = offset, b""
            while found <= expected + _TRAILING_BYTES and (block := stream.read(1 << 22)):
                if form is not None:
                    rest += block[: max(0, expected - found)]
                    whole = len(rest) // form.itemsize * form.itemsize
                    wrong += int((~np.isfinite(np.frombuffer(rest[:whole], form))).sum())
                    rest = rest[whole:]
                found += len(block)
    except (OSError, EOFError, zlib.error, struct.error, OverflowError) as error:
        raise RuntimeError(str(error)) from None
    if found < expected:
        raise RuntimeError(f"{found} of {expected} bytes")
    if found > expected + _TRAILING_BYTES:
        raise UserError(f"{path} goes on for long after its voxels; its header is wrong: export the image again.")
    if wrong:
        raise UserError(f"{path} has {wrong} values that are not numbers (NaN or infinite); replace them first.")


def _unpacked(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _nifti_layout(head: bytes, path: Path) -> tuple[int, int, np.dtype[Any] | None]:
    """Where the voxels of a NIfTI-1 or -2 file begin, how many bytes it must have, and its type if floating."""
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", head)
        if size == 348 and head[344:348] == b"n+1\0":
            dims, code = struct.unpack_from(order + "8h", head, 40), struct.unpack_from(order + "h", head, 70)[0]
            pixdim, scale = struct.unpack_from(order + "8f", head, 76), struct.unpack_from(order + "2f", head, 112)
            offset, codes = struct.unpack_from(order + "f", head, 108)[0], struct.unpack_from(order + "2h", head, 252)
            place = struct.unpack_from(order + "18f", head, 256)
        elif size == 540 and head[4:8] == b"n+2\0":
            dims, code = struct.unpack_from(order + "8q", head, 16), struct.unpack_from(order + "h", head, 12)[0]
            pixdim, scale = struct.unpack_from(order + "8d", head, 104), struct.unpack_from(order + "2d", head, 176)
            offset, codes = struct.unpack_from(order + "q", head, 168)[0], struct.unpack_from(order + "2i", head, 344)
            place = struct.unpack_from(order + "18d", head, 352)
        else:
            continue
        if not size <= offset <= _HEADER_BYTES or code not in _NIFTI_BYTES:
            raise RuntimeError(f"voxels of type {code} at byte {offset}")
        sizes = [max(1, dim) for dim in dims[1 : 1 + max(0, min(7, dims[0]))]]
        used = [*(place[:6] if codes[0] > 0 else ()), *(place[6:] if codes[1] > 0 else ())]
        spacing = [pixdim[axis + 1] for axis, count in enumerate(sizes[:3]) if count > 1]
        if not all(math.isfinite(one) for one in (*used, *spacing)) or 0 in spacing:
            raise UserError(
                f"{path} has no usable geometry (a spacing or an origin that is zero or not a number); "
                "set it and export the image again."
            )
        if any(math.isinf(one) for one in scale):
            raise UserError(f"{path} scales its values by infinity; export the image again.")
        form = {16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}.get(code)
        return int(offset), int(offset) + math.prod(sizes) * _NIFTI_BYTES[code], form
    raise RuntimeError("no NIfTI header")


# --- pictures and DICOM -------------------------------------------------------------------------------------------


def _check_jpeg(path: Path) -> None:
    """The JPEG reader fills what a cut file lacks with grey: an end must follow where the pixels start."""
    files.regular(path, _LARGEST_JPEG)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        whole = content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")
    if not whole:
        raise RuntimeError("no end of the image")


def is_palette_bmp(path: Path) -> bool:
    """Whether a file is a BMP whose pixels are places in a list of colours, as grey pictures are written."""
    with path.open("rb") as stream:
        head = stream.read(30)
    return head[:2] == b"BM" and len(head) == 30 and struct.unpack_from("<H", head, 28)[0] <= 8


def _check_bmp(path: Path) -> None:
    """The BMP reader fills what a cut file lacks with whatever lies in memory."""
    with path.open("rb") as stream:
        head = stream.read(54)
    if len(head) < 54:
        raise RuntimeError("no BMP header")
    (offset,), (columns, rows) = struct.unpack_from("<I", head, 10), struct.unpack_from("<ii", head, 18)
    bits, packed = struct.unpack_from("<HI", head, 28)
    if packed == 0 and offset + (abs(columns) * bits + 31) // 32 * 4 * abs(rows) > path.stat().st_size:
        raise RuntimeError("pixels are missing")


def _check_pages(path: Path) -> None:
    """UserError for a TIFF whose list of pages runs in a circle or is very long."""
    with path.open("rb") as stream:
        head = stream.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            raise RuntimeError("no TIFF header")
        big = struct.unpack_from(order + "H", head, 2)[0] == 43
        count_form, link_form, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
        (place,) = struct.unpack_from(order + link_form, head, 8 if big else 4)
        seen: set[int] = set()
        while place:
            if place in seen or len(seen) >= _MAX_PAGES:
                raise UserError(f"{path} has pages in a circle, or very many; save the picture again as one page.")
            seen.add(place)
            place = _next_page(stream, place, order + count_form, order + link_form, entry)


def _next_page(stream: io.BufferedIOBase | IO[bytes], place: int, count_form: str, link_form: str, entry: int) -> int:
    """Where the list of pages goes on after the one at `place`; 0 at its end, also where that is cut off."""
    try:
        stream.seek(place)
        (count,) = struct.unpack(count_form, stream.read(struct.calcsize(count_form)))
        stream.seek(place + struct.calcsize(count_form) + entry * count)
        return int(struct.unpack(link_form, stream.read(struct.calcsize(link_form)))[0])
    except (struct.error, OSError, OverflowError, ValueError):
        return 0


def _check_dicom(path: Path, found: Any) -> None:
    """GDCM fills what is missing of pixels that are not compressed."""
    with path.open("rb") as stream:
        head = stream.read(4096)
    said = re.search(rb"\x02\x00\x10\x00UI..([0-9.]*)", head, re.DOTALL)
    if said is not None and said[1] not in (b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2"):
        return
    bits = [found.GetMetaData(key) for key in ("0028|0100", "0028|0002") if found.HasMetaDataKey(key)]
    allocated, samples = [int(value) for value in bits] if len(bits) == 2 else (8, 1)
    if math.prod(found.GetSize()) * samples * allocated // 8 > path.stat().st_size:
        raise RuntimeError("pixels are missing")
