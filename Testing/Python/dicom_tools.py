"""DICOM files for tests, written element by element, so that a test says itself what stands in them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
CT_STORAGE, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
ROOT_UID = "1.2.826.0.1.3680043.8.498"
LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# A patient who must not be found anywhere else.
NAME, ID, BIRTH = "Quastenflosser^Wendelin", "PID-4711-X", "19530412"
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)

Element = tuple[int, str, Any]


def element(tag: int, kind: str, value: Any, order: str = "<", explicit: bool = True) -> bytes:
    """One data element; the value of a sequence (SQ) is a list of lists of elements."""
    if kind == "SQ":
        items = [b"".join(element(*one, order=order, explicit=explicit) for one in item) for item in value]
        heads = [struct.pack(order + "HHI", 0xFFFE, 0xE000, len(item)) for item in items]
        body = b"".join(head + item for head, item in zip(heads, items, strict=True))
    elif isinstance(value, bytes):
        body = value
    elif kind == "US":
        body = struct.pack(order + "H", value)
    else:
        body = (value if isinstance(value, str) else "\\".join(f"{one:.10g}" for one in np.atleast_1d(value))).encode()
    if len(body) % 2:
        body += b"\0" if kind in ("UI", "OW") else b" "
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if not explicit:
        return head + struct.pack(order + "I", len(body)) + body
    if kind in ("SQ", "OW", "UN"):
        return head + kind.encode() + b"\0\0" + struct.pack(order + "I", len(body)) + body
    return head + kind.encode() + struct.pack(order + "H", len(body)) + body


def write(path: Path, elements: Sequence[Element], syntax: str = EXPLICIT, storage: str = CT_STORAGE) -> None:
    """A DICOM file with its preamble."""
    order, explicit = ">" if syntax == BIG_ENDIAN else "<", syntax != IMPLICIT
    meta = element(0x00020002, "UI", storage) + element(0x00020003, "UI", f"{ROOT_UID}.9")
    meta += element(0x00020010, "UI", syntax)
    meta = element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    body = b"".join(element(*one, order=order, explicit=explicit) for one in sorted(elements, key=lambda one: one[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM" + meta + body)


def patient(uid: str, modality: str = "CT", description: str = "Thorax 1.0 B30f") -> list[Element]:
    """Whose it is and of which series."""
    return [
        (0x00080005, "CS", "ISO_IR 100"),
        (0x00080020, "DA", "20240131"),
        (0x00080060, "CS", modality),
        (0x0008103E, "LO", description),
        (0x00100010, "PN", NAME),
        (0x00100020, "LO", ID),
        (0x00100030, "DA", BIRTH),
        (0x0020000D, "UI", f"{ROOT_UID}.1"),
        (0x0020000E, "UI", uid),
    ]


def pixels(stored: np.ndarray, order: str = "<") -> list[Element]:
    """(rows, columns) or (frames, rows, columns) of int16."""
    return [
        (0x00280002, "US", 1),
        (0x00280004, "CS", "MONOCHROME2"),
        (0x00280010, "US", stored.shape[-2]),
        (0x00280011, "US", stored.shape[-1]),
        (0x00280100, "US", 16),
        (0x00280101, "US", 16),
        (0x00280102, "US", 15),
        (0x00280103, "US", 1),
        (0x7FE00010, "OW", stored.astype(order + "i2").tobytes()),
    ]


def slice_of(
    uid: str,
    number: int,
    stored: np.ndarray,
    position: Sequence[float] | np.ndarray | None,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    spacing: Sequence[float] = (0.7, 0.9),
    rescale: tuple[float, float] = (1, -1024),
    order: str = "<",
    **words: str,
) -> list[Element]:
    """The elements of one CT slice; position None leaves out where it lies."""
    place: list[Element] = [] if position is None else [(0x00200032, "DS", position), (0x00200037, "DS", orientation)]
    return [
        *patient(uid, **words),
        (0x00080016, "UI", CT_STORAGE),
        (0x00080018, "UI", f"{uid}.{number}"),
        (0x00180050, "DS", 2.5),
        (0x00200013, "IS", str(number)),
        *place,
        (0x00280030, "DS", spacing),
        (0x00281052, "DS", rescale[1]),
        (0x00281053, "DS", rescale[0]),
        *pixels(stored, order),
    ]


def stack(
    folder: Path,
    uid: str = f"{ROOT_UID}.2.1",
    heights: Sequence[float] = (0, 2.5, 5, 7.5, 10),
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    tilt: Sequence[float] = (0, 0, 0),
    reverse: bool = False,
    syntax: str = EXPLICIT,
    name: str = "IM{:04d}",
    **words: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """A series of slices at heights along their normal, `tilt` mm apart besides for each mm; (k, j, i) HU, and the
    affine of voxel index -> RAS mm that it has."""
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(row, column)
    origin = np.array([-31.5, 12.25, 100.0])
    order = ">" if syntax == BIG_ENDIAN else "<"
    stored = np.random.default_rng(3).integers(0, 3000, (len(heights), 6, 8)).astype(np.int16)
    numbers = range(len(heights), 0, -1) if reverse else range(1, len(heights) + 1)
    for number, height, plane in zip(numbers, heights, stored, strict=True):
        position = origin + (normal + np.array(tilt)) * height
        one = slice_of(uid, number, plane, position, orientation, order=order, **words)
        write(folder / name.format(number), one, syntax)
    affine = np.eye(4)
    between = heights[1] - heights[0] if len(heights) > 1 else 2.5
    affine[:3, :3] = np.stack([row * 0.9, column * 0.7, normal * between], axis=1)
    affine[:3, 3] = origin
    slope, intercept = words.get("rescale", (1, -1024))
    return stored * slope + intercept, LPS_RAS @ affine


def objects(folder: Path) -> None:
    """What lies among images in an archive and is none: a directory, structures, a report, a mask."""
    write(folder / "DICOMDIR", patient(f"{ROOT_UID}.3.1", ""), storage="1.2.840.10008.1.3.10")
    write(folder / "RS0001", patient(f"{ROOT_UID}.3.2", "RTSTRUCT"), storage="1.2.840.10008.5.1.4.1.1.481.3")
    write(folder / "SR0001", patient(f"{ROOT_UID}.3.3", "SR"), storage="1.2.840.10008.5.1.4.1.1.88.11")
    mask = [*patient(f"{ROOT_UID}.3.4", "SEG"), *pixels(np.zeros((6, 8)))]
    write(folder / "SEG0001", mask, storage="1.2.840.10008.5.1.4.1.1.66.4")
