"""Images that are damaged, lie or are made to hurt."""

from __future__ import annotations

import gzip
import os
import socket
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from corpus import Corpus

NAN, INF = float("nan"), float("inf")
GIB = 2**30
# The place of each field of a NIfTI-1 header, and its form.
NIFTI = {
    "dim": (40, "8h"),
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    "pixdim": (76, "8f"),
    "vox_offset": (108, "f"),
    "scl_slope": (112, "f"),
    "scl_inter": (116, "f"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    "quatern": (256, "3f"),
    "qoffset": (268, "3f"),
    "srow": (280, "12f"),
    "magic": (344, "4s"),
}


def fill(corpus: Corpus) -> None:
    """Put all of them into the corpus."""
    _damaged(corpus)
    _nifti(corpus)
    _nrrd(corpus)
    _segments(corpus)
    _meta(corpus)
    _pictures(corpus)
    _dicom(corpus)
    _no_files(corpus)


def volume(form: str = "<f4", shape: tuple[int, int, int] = (8, 10, 12)) -> np.ndarray:
    """A volume (k, j, i) of noise."""
    return np.random.default_rng(0).normal(100, 20, shape).astype(form)


def written(array: np.ndarray, name: str, vector: bool = False, compress: bool = False) -> bytes:
    """The bytes of an image file as SimpleITK writes it."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing([1.0, 1.5, 2.0][: image.GetDimension()] + [1.0] * max(0, image.GetDimension() - 3))
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(image, f"{folder}/{name}", useCompression=compress)
        return Path(folder, name).read_bytes()


def _damaged(corpus: Corpus) -> None:
    grey = np.random.default_rng(1).integers(0, 255, (32, 24), dtype=np.uint8)
    colour = np.random.default_rng(2).integers(0, 255, (32, 24, 3), dtype=np.uint8)
    corpus.damage("image", "a.nii", written(volume(), "a.nii"), 352)
    corpus.damage("image", "a.nii.gz", written(volume("<i2"), "a.nii.gz"), 100)
    corpus.damage("image", "a.nrrd", written(volume(), "a.nrrd"), 300)
    corpus.damage("image", "packed.nrrd", written(volume("<i2"), "a.nrrd", compress=True), 300)
    corpus.damage("image", "a.mha", written(volume("<i2"), "a.mha"), 300)
    corpus.damage("image", "packed.mha", written(volume("<i2"), "a.mha", compress=True), 300)
    corpus.damage("picture", "a.png", written(colour, "a.png", vector=True), 60)
    corpus.damage("picture", "a.jpg", written(grey, "a.jpg"), 200)
    corpus.damage("picture", "a.tif", written(colour, "a.tif", vector=True), 200)
    corpus.damage("picture", "a.bmp", written(grey, "a.bmp"), 60)
    corpus.damage("picture", "a.dcm", dicom(), 800)


# --- NIfTI --------------------------------------------------------------------------------------------------------


def nifti(array: np.ndarray, **fields: Any) -> bytes:
    """A NIfTI-1 file whose header fields are as given."""
    content = bytearray(written(array, "a.nii"))
    for name, value in fields.items():
        place, form = NIFTI[name]
        struct.pack_into("<" + form, content, place, *(value if isinstance(value, (list, tuple)) else [value]))
    return bytes(content)


def _nifti(corpus: Corpus) -> None:
    good = volume()
    for why, fields in {
        "claims 30000^3 voxels": {"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]},
        "negative sizes": {"dim": [3, -12, 10, 8, 1, 1, 1, 1]},
        "no voxels": {"dim": [3, 0, 10, 8, 1, 1, 1, 1]},
        "nine axes": {"dim": [9, 12, 10, 8, 1, 1, 1, 1]},
        "axes minus one": {"dim": [-1, 12, 10, 8, 1, 1, 1, 1]},
        "four axes": {"dim": [4, 12, 10, 4, 2, 1, 1, 1]},
        "seven axes": {"dim": [7, 12, 10, 2, 1, 1, 1, 4]},
        "five axes, a vector": {"dim": [5, 12, 10, 4, 1, 2, 1, 1]},
        "no datatype": {"datatype": 0},
        "datatype of one bit": {"datatype": 1, "bitpix": 1},
        "datatype nobody knows": {"datatype": 2048, "bitpix": 256},
        "complex numbers": {"datatype": 32, "bitpix": 64},
        "voxels before the file": {"vox_offset": -1.0},
        "voxels at no number": {"vox_offset": NAN},
        "voxels at infinity": {"vox_offset": INF},
        "voxels far away": {"vox_offset": 1e30},
        "a spacing of no number": {"pixdim": [1, NAN, 1, 1, 1, 1, 1, 1], "sform_code": 0},
        "a spacing of infinity": {"pixdim": [1, INF, 1, 1, 1, 1, 1, 1], "sform_code": 0},
        "a huge spacing": {"pixdim": [1, 1e30, 1, 1, 1, 1, 1, 1], "sform_code": 0},
        "a tiny spacing": {"pixdim": [1, 1e-30, 1, 1, 1, 1, 1, 1], "sform_code": 0},
        "singular axes": {"srow": [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0], "qform_code": 0},
        "axes of zeros": {"srow": [0] * 12, "qform_code": 0},
        "axes of no numbers": {"srow": [NAN] * 12, "qform_code": 0},
        "sheared axes": {"srow": [1, 0.7, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], "qform_code": 0},
        "an origin of infinity": {"qoffset": [INF, 0, 0], "sform_code": 0},
        "an origin of 1e20 mm": {"qoffset": [1e20, 0, 0], "sform_code": 0},
        "scaled by infinity": {"scl_slope": INF},
        "shifted by infinity": {"scl_slope": 1.0, "scl_inter": INF},
        "no magic word": {"magic": b"abcd"},
    }.items():
        corpus.add("image", "a.nii", nifti(good, **fields), f"NIfTI: {why}")
    for why, fields in {
        "a spacing of zero": {"pixdim": [1, 0, 1, 1, 1, 1, 1, 1], "sform_code": 0},
        "a negative spacing": {"pixdim": [1, -1, 1, 1, 1, 1, 1, 1], "sform_code": 0},
        "quaternions of no number": {"quatern": [NAN, 0, 0], "sform_code": 0, "qform_code": 1},
        "quaternions beyond one": {"quatern": [9, 9, 9], "sform_code": 0, "qform_code": 1},
        "scaled by no number": {"scl_slope": NAN},
        "bits that are not the datatype's": {"bitpix": 8},
        "scaled by 1e38": {"scl_slope": 1e38},
    }.items():
        corpus.add("image", "a.nii", nifti(good, **fields), f"NIfTI: {why}", valid=True)
    for why, value in {"a NaN": NAN, "an infinity": INF}.items():
        for form, names in {"<f4": ("a.nii", "a.nii.gz", "a.nrrd", "a.mha"), "<f8": ("a.nii.gz", "a.nrrd")}.items():
            for name in names:
                array = volume(form)
                array[3, 4, 5] = value
                corpus.add("image", name, written(array, name), f"{why} among its voxels")
    corpus.add("image", "a.nii.gz", written(np.full((8, 10, 12), 7, np.int16), "a.nii.gz"), "constant")
    corpus.add("image", "a.nii.gz", written(volume("<i2", (3, 8, 120)).reshape(2, 3, 8, 60), "a.nii.gz"), "4D")
    colour = np.random.default_rng(0).integers(0, 255, (8, 10, 12, 3), dtype=np.uint8)
    corpus.add("image", "a.nii.gz", written(colour, "a.nii.gz", vector=True), "a volume in colour", valid=True)
    corpus.add("image", "a.nii", gzip.compress(written(good, "a.nii")), "compressed, and named as if not", valid=True)
    corpus.add("image", "a.nii.gz", written(good, "a.nii"), "not compressed, and named as if", valid=True)
    for why, content in {
        "text": b"hello",
        "a script": b"#!/bin/sh\ntouch /tmp/owned\n",
        "a pickle": b"cos\nsystem\n(S'true'\ntR.",
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(600),
        "a zip": b"PK\x03\x04" + bytes(600),
        "ELF": b"\x7fELF" + bytes(600),
        "an NRRD": written(good, "a.nrrd"),
        "VTK": b"# vtk DataFile Version 2.0\nx\nBINARY\nDATASET STRUCTURED_POINTS\n",
    }.items():
        corpus.add("image", "a.nii", content, f"{why}, named as NIfTI")
        corpus.add("image", "b.nii.gz", gzip.compress(content), f"{why}, compressed, named as NIfTI")
    header = nifti(good, dim=[3, 1500, 1500, 1200, 1, 1, 1, 1], datatype=2, bitpix=8)[:352]
    corpus.add("image", "bomb.nii.gz", _gzip_zeros(header, 1500 * 1500 * 1200), "unpacks to 2.5 GiB from 3 MB")
    corpus.add("mask", "bomb.nii.gz", _gzip_zeros(header, 1500 * 1500 * 1200), "the same as a mask")
    corpus.add("image", "endless.nii.gz", _gzip_zeros(written(good, "a.nii"), 3 * GIB), "3 GiB after its voxels")
    corpus.add(
        "image", "claims.nii.gz", gzip.compress(nifti(good, dim=[3, *[32767] * 3, 1, 1, 1, 1])), "claims 32767^3"
    )
    second = bytearray(540)
    struct.pack_into("<i8shh8q", second, 0, 540, b"n+2\0\r\n\x1a\n", 16, 32, 3, *[2**40] * 3, 1, 1, 1, 1)
    corpus.add("image", "two.nii", bytes(second), "NIfTI-2 of 2^120 voxels")


def _gzip_zeros(head: bytes, count: int) -> bytes:
    """A gzip of a head and so many zeros, of members that are the same: written in no time."""
    block = gzip.compress(bytes(2**26), mtime=0)
    return gzip.compress(head, mtime=0) + block * (count // 2**26) + gzip.compress(bytes(count % 2**26), mtime=0)


# --- NRRD and MetaImage -------------------------------------------------------------------------------------------


def nrrd(data: bytes = bytes(range(128)), lines: str = "", **fields: Any) -> bytes:
    """An NRRD of 4 x 4 x 4 shorts whose header fields are as given; None leaves one out."""
    known: dict[str, Any] = {
        "type": "short",
        "dimension": 3,
        "space": "left-posterior-superior",
        "sizes": "4 4 4",
        "space directions": "(1,0,0) (0,1,0) (0,0,1)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(0,0,0)",
    }
    known |= {name.replace("_", " "): value for name, value in fields.items()}
    head = "".join(f"{name}: {value}\n" for name, value in known.items() if value is not None)
    return b"NRRD0005\n" + (head + lines).encode() + b"\n" + data


def _nrrd(corpus: Corpus) -> None:
    plain = {"space": None, "space_directions": None, "space_origin": None}
    for why, fields in {
        "claims terabytes": {"sizes": "100000 100000 100000"},
        "claims more than there are numbers": {"sizes": "5000000000 " * 3},
        "claims terabytes, compressed": {
            "sizes": "100000 100000 100000",
            "encoding": "gzip",
            "data": gzip.compress(bytes(99)),
        },
        "negative sizes": {"sizes": "-4 4 4"},
        "no voxels": {"sizes": "0 4 4"},
        "sizes of words": {"sizes": "a b c"},
        "too few sizes": {"sizes": "4 4"},
        "seventeen axes": {"dimension": 17},
        "blocks": {"type": "block", "block_size": 99},
        "a type nobody knows": {"type": "quaternion"},
        "an encoding nobody knows": {"encoding": "rot13"},
        "axes of zeros": {"space_directions": "(0,0,0) (0,1,0) (0,0,1)"},
        "singular axes": {"space_directions": "(1,0,0) (1,0,0) (0,0,1)"},
        "sheared axes": {"space_directions": "(1,0,0) (0.5,1,0) (0,0,1)"},
        "axes of no number": {"space_directions": "(nan,0,0) (0,1,0) (0,0,1)"},
        "huge axes": {"space_directions": "(1e30,0,0) (0,1,0) (0,0,1)"},
        "tiny axes": {"space_directions": "(1e-30,0,0) (0,1,0) (0,0,1)"},
        "an origin of 1e30": {"space_origin": "(1e30,0,0)"},
        "a spacing of zero": {**plain, "spacings": "1 0 1"},
        "a spacing of 1e300": {**plain, "spacings": "1 1e300 1"},
        "an infinite spacing": {**plain, "spacings": "1 inf 1"},
        "data in /etc/passwd": {"data_file": "/etc/passwd"},
        "data above": {"data_file": "../../../../etc/passwd"},
        "data in a list": {"data_file": "LIST"},
        "data in a pattern": {"data_file": "a%03d.raw 1 4 1"},
        "data that are not there": {"data_file": "none.raw"},
        "data on a network": {"data_file": "http://x/y"},
        "data in a drive": {"data_file": "C:\\x.raw"},
        "data in a pipe's folder": {"datafile": "/dev/zero"},
        "lines to skip, very many": {"line_skip": 10**12},
        "bytes to skip, very many": {"byte_skip": 10**15},
        "too few bytes": {"sizes": "4 4 40"},
    }.items():
        corpus.add("image", "a.nrrd", nrrd(**fields), f"NRRD: {why}")
    for why, fields in {
        "text": {"encoding": "ascii", "data": b"1 2 3"},
    }.items():
        corpus.add("image", "a.nrrd", nrrd(**fields), f"NRRD: {why}")
    for why, fields in {
        "an axis without direction": {"space_directions": "none (0,1,0) (0,0,1)"},
        "skipped from the end": {"byte_skip": -1},
        "two numbers a voxel, listed last": {
            "sizes": "2 4 4 2",
            "dimension": 4,
            "kinds": "domain domain domain list",
            "space": None,
            "space_directions": None,
            "space_origin": None,
        },
        "a negative spacing": {**plain, "spacings": "1 -1 1"},
        "a spacing of no number": {**plain, "spacings": "nan 1 1"},
        "three numbers a voxel": {
            "sizes": "3 4 4 2",
            "dimension": 4,
            "kinds": "vector domain domain domain",
            "space_directions": "none (1,0,0) (0,1,0) (0,0,1)",
        },
    }.items():
        corpus.add("image", "a.nrrd", nrrd(**fields), f"NRRD: {why}", valid=True)
    corpus.add("image", "a.nrrd", nrrd(lines="sizes: 4 4 4\nsizes: 9 9 9\n"), "NRRD: sizes twice", valid=True)
    corpus.add("image", "a.nrrd", b"NRRD0005\n" + b"# and so on\n" * 500_000, "NRRD: a header without end")
    linked = corpus.add("image", "a.nhdr", nrrd(data_file="b.raw"), "NRRD: a link to /etc/passwd")
    (linked.parent / "b.raw").symlink_to("/etc/passwd")
    corpus.add("image", "a.nhdr", nrrd(data_file="a.nhdr"), "NRRD: itself for data", valid=True)
    block = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = block.compress(bytes(2**26)) + block.flush()
    bomb = nrrd(packed * 48, sizes="1600 1600 1258", type="uchar", encoding="gzip")
    corpus.add("image", "bomb.nrrd", bomb, "NRRD: unpacks to 3 GiB from 3 MB")


def _segments(corpus: Corpus) -> None:
    labels = np.zeros(64, "<i2")
    labels[:9] = 1
    for why, keys in {
        "a layer that is not there": {"Layer": 7},
        "a negative layer": {"Layer": -1},
        "a layer of words": {"Layer": "x"},
        "a label of words": {"LabelValue": "liver"},
        "a negative label": {"LabelValue": -4},
        "a huge label": {"LabelValue": 10**30},
        "a colour of words": {"Color": "red green blue"},
        "a colour of no number": {"Color": "nan 0 0"},
        "half a colour": {"Color": "1"},
    }.items():
        told = {"LabelValue": 1, "Layer": 0, "Name": "x", **keys}
        lines = "".join(f"Segment0_{key}:={value}\n" for key, value in told.items())
        corpus.add("mask", "a.seg.nrrd", nrrd(labels.tobytes(), lines), f"segments: {why}")
    many = "".join(f"Segment{index}_LabelValue:=1\n" for index in range(20_000))
    corpus.add("mask", "a.seg.nrrd", nrrd(labels.tobytes(), many), "segments: 20 000 of them")
    corpus.add("mask", "a.seg.nrrd", nrrd(bytes(128)), "segments: nothing drawn")
    corpus.add("mask", "a.nrrd", nrrd(np.full(64, -3, "<i2").tobytes()), "labels below zero")
    for why, value in {
        "fractions": 1.5,
        "labels of 1e30": 1e30,
        "labels of no number": NAN,
        "infinite labels": INF,
    }.items():
        for name in ("a.nrrd", "a.nii.gz"):
            array = np.zeros((4, 4, 4), np.float32)
            array[1, 1, 1] = value
            corpus.add("mask", name, written(array, name), why)


def meta(data: bytes = bytes(range(128)), **fields: Any) -> bytes:
    """A MetaImage of 4 x 4 x 4 shorts whose header fields are as given; the file of its voxels comes last."""
    known: dict[str, Any] = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "DimSize": "4 4 4",
        "ElementSpacing": "1 1 1",
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    }
    known |= fields
    known["ElementDataFile"] = known.pop("ElementDataFile")
    return "".join(f"{name} = {value}\n" for name, value in known.items()).encode() + data


def _meta(corpus: Corpus) -> None:
    for why, fields in {
        "claims terabytes": {"DimSize": "100000 100000 100000"},
        "negative sizes": {"DimSize": "-4 4 4"},
        "no voxels": {"DimSize": "0 4 4"},
        "no axes": {"NDims": 0},
        "300 axes": {"NDims": 300},
        "axes minus one": {"NDims": -1},
        "a spacing of zero": {"ElementSpacing": "1 0 1"},
        "a negative spacing": {"ElementSpacing": "1 -1 1"},
        "a spacing of no number": {"ElementSpacing": "1 nan 1"},
        "a huge spacing": {"ElementSpacing": "1 1e30 1"},
        "singular axes": {"TransformMatrix": "1 0 0 1 0 0 0 0 1"},
        "sheared axes": {"TransformMatrix": "1 0 0 0.7 1 0 0 0 1"},
        "axes of no number": {"TransformMatrix": "nan 0 0 0 1 0 0 0 1"},
        "an origin of no number": {"Offset": "nan 0 0"},
        "data in /etc/passwd": {"ElementDataFile": "/etc/passwd"},
        "data above": {"ElementDataFile": "../../../etc/passwd"},
        "data in a list": {"ElementDataFile": "LIST\n/etc/passwd"},
        "data in a pattern": {"ElementDataFile": "a%03d.raw 1 4 1"},
        "data that are not there": {"ElementDataFile": "none.raw"},
        "data in a device": {"ElementDataFile": "/dev/zero"},
        "a type nobody knows": {"ElementType": "MET_OTHER"},
        "too few bytes": {"DimSize": "4 4 40"},
        "very many numbers a voxel": {"ElementNumberOfChannels": 10**9},
        "compressed, and very long": {"CompressedData": "True", "CompressedDataSize": 10**15},
        "compressed, and of negative length": {"CompressedData": "True", "CompressedDataSize": -5},
    }.items():
        corpus.add("image", "a.mha", meta(**fields), f"MetaImage: {why}")
    for why, fields in {
        "numbers a voxel below zero": {"ElementNumberOfChannels": -2},
        "a header of 10^12 bytes": {"HeaderSize": 10**12},
        "a comment that names a file": {"Comment": "ElementDataFile = LOCAL"},
    }.items():
        corpus.add("image", "a.mha", meta(**fields), f"MetaImage: {why}", valid=True)
    corpus.add("image", "a.mhd", meta(b"", ElementDataFile="a.mhd"), "MetaImage: itself for data", valid=True)


# --- pictures and DICOM -------------------------------------------------------------------------------------------


def png(columns: int, rows: int, data: bytes, colour: int = 2) -> bytes:
    """A PNG that claims such a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", columns, rows, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _pictures(corpus: Corpus) -> None:
    packed = zlib.compress(bytes(2**26), 9)
    corpus.add("picture", "a.png", png(2**31 - 1, 2**31 - 1, packed), "PNG: claims 2^62 pixels")
    corpus.add("picture", "a.png", png(40_000, 40_000, packed * 72), "PNG: unpacks to 4.8 GB")
    corpus.add("picture", "a.png", png(0, 4, packed[:99]), "PNG: no pixels")
    corpus.add("picture", "a.png", png(9, 9, b"nothing"), "PNG: no data")
    corpus.add("picture", "a.png", written(np.zeros((9, 9), np.uint8), "a.jpg"), "JPEG, named as PNG")
    jpeg = bytearray(written(np.arange(1024, dtype=np.uint8).reshape(32, 32), "a.jpg"))
    at = next(jpeg.index(bytes([0xFF, frame])) for frame in (0xC0, 0xC1, 0xC2) if bytes([0xFF, frame]) in jpeg)
    struct.pack_into(">HH", jpeg, at + 5, 65500, 65500)
    corpus.add("picture", "a.jpg", bytes(jpeg), "JPEG: claims 65500^2 pixels")
    tiff = written(np.arange(1024, dtype=np.uint8).reshape(32, 32), "a.tif")
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    for why, tag, value in (
        ("claims 2^31 columns", 256, 2**31 - 1),
        ("claims 2^31 rows", 257, 2**31 - 1),
        ("no columns", 256, 0),
        ("99 bits", 258, 99),
        ("a compression nobody knows", 259, 9999),
        ("65535 numbers a pixel", 277, 65535),
        ("pixels far away", 273, 2**31),
        ("very many bytes", 279, 2**31),
        ("no rows a strip", 278, 0),
    ):
        content = bytearray(tiff)
        for entry in range(count):
            place = start + 2 + 12 * entry
            if struct.unpack_from("<H", content, place)[0] == tag:
                struct.pack_into("<HII", content, place + 2, 4, 1, value)
        corpus.add("picture", "a.tif", bytes(content), f"TIFF: {why}", valid=True)
    loop = bytearray(tiff)
    struct.pack_into("<I", loop, start + 2 + 12 * count, start)
    corpus.add("picture", "a.tif", bytes(loop), "TIFF: a circle of directories", valid=True)
    bmp = bytearray(written(np.zeros((9, 9), np.uint8), "a.bmp"))
    struct.pack_into("<ii", bmp, 18, 2**30, 2**30)
    corpus.add("picture", "a.bmp", bytes(bmp), "BMP: claims 2^60 pixels")


def dicom(**tags: str) -> bytes:
    """A DICOM picture of shorts, as ITK writes it."""
    image = sitk.GetImageFromArray(np.random.default_rng(3).integers(0, 999, (1, 32, 24)).astype(np.int16))[:, :, 0]
    for tag, value in tags.items():
        image.SetMetaData(tag.strip("_").replace("_", "|"), value)
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(image, f"{folder}/a.dcm")
        return Path(folder, "a.dcm").read_bytes()


def _dicom(corpus: Corpus) -> None:
    good = dicom()
    for why, tag, value in (
        ("65535 rows", b"\x28\x00\x10\x00", b"\xff\xff"),
        ("no columns", b"\x28\x00\x11\x00", b"\0\0"),
        ("255 bits", b"\x28\x00\x00\x01", b"\xff\0"),
        ("9999 samples", b"\x28\x00\x02\x00", b"\x0f\x27"),
    ):
        at = good.index(tag) + 8  # after the tag, and its form and length
        content = good[:at] + value + good[at + 2 :]
        corpus.add("picture", "a.dcm", content, f"DICOM: {why}", valid=why in ("255 bits", "9999 samples"))
    pixels = good.index(b"\xe0\x7f\x10\x00")
    corpus.add("picture", "a.dcm", good[:pixels], "DICOM: no pixels")
    corpus.add(
        "picture",
        "a.dcm",
        good[: pixels + 8] + b"\xf0\xff\xff\xff" + good[pixels + 12 :],
        "DICOM: 4 GiB of pixels",
        valid=True,
    )
    name = good.index(b"\x08\x00\x60\x00")
    huge = good[:name] + b"\x10\x00\x10\x00UN\0\0\xf0\xff\xff\xff" + good[name:]
    corpus.add("picture", "a.dcm", huge, "DICOM: a name of 4 GiB")
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    corpus.add("picture", "a.dcm", good[:name] + nested + good[name:], "DICOM: 20 000 sequences in one another")
    corpus.add("picture", "a.dcm", good[132:], "DICOM: no preamble", valid=True)
    corpus.add("picture", "IM0001", good[:200], "DICOM: no ending, cut")


# --- what is no file ----------------------------------------------------------------------------------------------


def _no_files(corpus: Corpus) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(corpus.place("image", "a.nii.gz", "a pipe"))
        os.mkfifo(corpus.place("points", "a.mrk.json", "a pipe"))
        os.mkfifo(corpus.place("table", "a.csv", "a pipe"))
        os.mkfifo(corpus.place("latent", "a.safetensors", "a pipe"))
        series = corpus.place("image", "series", "a folder with a pipe in it")
        series.mkdir()
        os.mkfifo(series / "slice.dcm")
    for kind, name in (("image", "a.nrrd"), ("table", "a.csv"), ("latent", "a.safetensors"), ("planes", "a.mrk.json")):
        corpus.place(kind, name, "a device that never ends").symlink_to("/dev/zero")
        loop = corpus.place(kind, name, "a link to itself")
        loop.symlink_to(loop)
    folder = corpus.place("image", "a.nii.gz", "a folder, named as an image")
    folder.mkdir()
    corpus.place("image", "a.nii.gz", "nothing there")
    corpus.place("image", "x" * 5000 + ".nii.gz", "a name that is too long")
    corpus.add("image", "a.exe", written(volume(), "a.nrrd"), "an ending that is no image's")
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{short}/s")
        os.rename(f"{short}/s", corpus.place("image", "a.mha", "a socket"))
        listener.close()
