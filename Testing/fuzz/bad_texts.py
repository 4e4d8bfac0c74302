"""Markups, tables and latents that are damaged, lie or are made to hurt."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import bad_images
import numpy as np
from corpus import Corpus

_KINDS = {"points": "Fiducial", "line": "Line", "curve": "Curve", "planes": "Plane", "box": "ROI", "sphere": "ROI"}
_IDENTITY = [1, 0, 0, 0, 1, 0, 0, 0, 1]


def fill(corpus: Corpus) -> None:
    """Put all of them into the corpus."""
    _markups(corpus)
    _fcsv(corpus)
    _tables(corpus)
    _cohorts(corpus)
    _latents(corpus)


def markup(kind: str, **fields: Any) -> dict[str, Any]:
    """One markup of a kind as Slicer writes it, its fields as given."""
    point = {"id": "1", "label": "P", "position": [1.0, 2.0, 3.0], "positionStatus": "defined"}
    form = {"type": _KINDS[kind], "coordinateSystem": "LPS", "controlPoints": [point, {**point, "id": "2"}]}
    if kind in ("planes", "box", "sphere"):
        form |= {"center": [1, 2, 3], "orientation": _IDENTITY, "size": [4, 5, 6]}
    return {**form, **fields}


def text_of(*items: Any) -> str:
    """The text of a markups file."""
    return json.dumps({"markups": list(items)})


def _markups(corpus: Corpus) -> None:
    for kind in _KINDS:
        corpus.damage(kind, "a.mrk.json", text_of(markup(kind)).encode(), 60)
    point: dict[str, Any] = {"label": "P", "position": [1, 2, 3]}
    for why, value in {
        "a position of words": ["a", "b", "c"],
        "a position of NaN": ["NaN", "NaN", "NaN"],
        "four numbers": [1, 2, 3, 4],
        "a position of lists": [[1], [2], [3]],
        "nothing for a number": [None, 1, 2],
        "a number for a position": 7,
    }.items():
        form = markup("points", controlPoints=[{**point, "position": value}])
        corpus.add("points", "a.mrk.json", text_of(form), f"markups: {why}", valid=why == "four numbers")
    for why, number in {
        "1e400": "1e400",
        "NaN": "NaN",
        "Infinity": "-Infinity",
        "400 digits": "9" * 400,
        "1e300": "1e300",
    }.items():
        text = text_of(markup("points", controlPoints=[{**point, "position": [1, 2, 31337]}]))
        corpus.add("points", "a.mrk.json", text.replace("31337", number), f"markups: a position of {why}")
    for why, fields in {
        "singular axes": {"orientation": [1, 0, 0, 1, 0, 0, 0, 0, 1]},
        "axes of zeros": {"orientation": [0] * 9},
        "eight numbers for axes": {"orientation": [1] * 8},
        "axes of words": {"orientation": "identity"},
        "no centre": {"center": None},
        "a centre of two numbers": {"center": [1, 2]},
        "a centre far off": {"center": [1e30, 0, 0]},
    }.items():
        for kind in ("planes", "box"):
            corpus.add(kind, "a.mrk.json", text_of(markup(kind, **fields)), f"markups: {why}")
    for why, size in {
        "negative": [-1, 2, 3],
        "zero": [0, 0, 0],
        "one number": [5],
        "words": "big",
        "none": None,
    }.items():
        for kind in ("box", "sphere"):
            corpus.add(kind, "a.mrk.json", text_of(markup(kind, size=size)), f"markups: a size that is {why}")
    whole = text_of(markup("points"))
    for why, content in {
        "nested without end": "[" * 200_000,
        "nested in a point": whole.replace("1.0", "[" * 50_000 + "]" * 50_000),
        "objects without end": '{"markups":' * 50_000,
        "a key twice": '{"markups": [], ' + whole[1:],
        "no list": '{"markups": 3}',
        "an empty list": text_of(),
        "a list of numbers": text_of(1, 2),
        "no markups": "{}",
        "of UTF-16": whole.encode("utf-16"),
        "a NUL": whole + "\0",
        "a string": '"markups"',
        "a type that is a list": text_of(markup("points", type=["Fiducial"])),
        "another kind": text_of(markup("line")),
        "points that are words": text_of(markup("points", controlPoints="many")),
    }.items():
        corpus.add("points", "a.mrk.json", content, f"markups: {why}")
    named = {**point, "description": "confidence high"}
    corpus.add("points", "a.mrk.json", text_of(markup("points", controlPoints=[named])), "markups: confidence in words")
    corpus.add("points", "a.mrk.json", b"\xef\xbb\xbf" + whole.encode(), "markups: a byte order mark", valid=True)
    long = corpus.place("points", "a.mrk.json", "markups: 200 MB, most of them a hole")
    long.write_bytes(whole.encode())
    os.truncate(long, 200_000_000)
    many = text_of(markup("points", controlPoints=[point] * 100_000))
    corpus.add("points", "a.mrk.json", many, "markups: 100 000 points", valid=True)


def _fcsv(corpus: Corpus) -> None:
    head = "# CoordinateSystem = 0\n# columns = id,x,y,z,label\n"
    corpus.damage("points", "a.fcsv", (head + "n,1,2,3,A\nm,4,5,6,B\n").encode(), 50)
    for why, line in {
        "no number": "n,x,2,3,A",
        "NaN": "n,nan,2,3,A",
        "infinity": "n,inf,2,3,A",
        "1e400": "n,1e400,2,3,A",
        "too few cells": "n,1",
        "a NUL": "n,1,2,3,\0",
        "a long cell": "n,1,2,3," + "x" * 500_000,
    }.items():
        corpus.add("points", "a.fcsv", head + line + "\n", f".fcsv: {why}", valid=why == "a NUL")


# --- tables -------------------------------------------------------------------------------------------------------


def _tables(corpus: Corpus) -> None:
    for why, content in {
        "a NUL": b"a,b\n1,\0\n",
        "of UTF-16": "a,b\n1,2\n".encode("utf-16"),
        "of another encoding": b"a,b\n1,\xe9\n",
        "a cell of 500 kB": b"a,b\n1," + b"x" * 500_000 + b"\n",
        "a name twice": b"a,a\n1,2\n",
        "more cells than columns": b"a,b\n1,2,3\n",
        "nothing": b"",
        "an empty line": b"\n",
        "a picture": b"\x89PNG\r\n\x1a\n\0",
        "a million columns and rows": b"a" + b",b" * 1_000_000 + b"\n" + b"1,2\n" * 1000,
        "six million cells": b",".join(b"c%d" % n for n in range(3000)) + b"\n" + (b"," * 2999 + b"\n") * 2000,
    }.items():
        corpus.add("table", "a.csv", content, f"table: {why}")
    for why, content in {
        "fewer cells than columns": b"a,b\n1\n",
        "a quote that is not closed": b'a,b\n"1,2\n',
        "formulas": b"a,b\n=1+1,@x\n",
        "a name for columns only": b"a,b\n",
        "a cell in which a line ends": b'a,b\n"1\n2",3\n',
    }.items():
        corpus.add("table", "a.csv", content, f"table: {why}", valid=True)
    line = corpus.place("table", "a.csv", "table: one line of 1 GB, most of it a hole")
    line.write_bytes(b"a,b\n")
    os.truncate(line, 10**9)
    good = b"region,a,b\na,1,2\nb,3,4\n"
    corpus.damage("matrix", "a.csv", good, 11)
    for why, content in {
        "not square": b"region,a,b\na,1,2\n",
        "words": b"region,a\na,much\n",
        "NaN": b"region,a\na,nan\n",
        "1e400": b"region,a\na,1e400\n",
        "a region twice": b"region,a,a\na,1,2\na,1,2\n",
        "no rows": b"region,a\n",
        "an empty cell": b"region,a,b\na,1\nb,2,3\n",
    }.items():
        corpus.add("matrix", "a.csv", content, f"matrix: {why}")
    corpus.add("class", "a.txt", b"\xff\xfe\0", "class: no text")
    corpus.add("class", "b.txt", b"x" * 10**6, "class: a text of 1 MB")


def _cohorts(corpus: Corpus) -> None:
    image = bad_images.written(bad_images.volume(), "a.nrrd")
    for why, table in {
        "a file that is not there": "image\nlost.nrrd\n",
        "a name with a NUL": "image\na\0.nrrd\n",
        "a name too long": "image\n" + "x" * 3000 + ".nrrd\n",
        "a device": "image\n/dev/zero\n",
        "a pipe": "image\npipe\n",
        "a link to itself": "image\nloop\n",
        "a folder": "image\n.\n",
        "itself": "image\ncohort.csv\n",
        "a column twice": "image,image\na.nrrd,a.nrrd\n",
        "no such column": "scan\na.nrrd\n",
        "an empty cell": "image,x\n,1\n",
        "a split nobody knows": "image,split\na.nrrd,all\n",
        "lists in lists": 'image,planes\na.nrrd,"' + "[" * 9999 + '"\n',
        "a list of numbers": 'image,planes\na.nrrd,"[1, 2]"\n',
        "one subject in two splits": "image,subject,split\na.nrrd,s,train\na.nrrd,s,test\n",
    }.items():
        path = corpus.add("cohort", "cohort.csv", table, f"cohort: {why}")
        (path.parent / "a.nrrd").write_bytes(image)
        (path.parent / "loop").symlink_to("loop")
        if hasattr(os, "mkfifo"):
            os.mkfifo(path.parent / "pipe")
    for why, text in {
        "nested without end": "[" * 99_999,
        "no pools": "{}",
        "pools of numbers": '{"pools": {"cases": 3}}',
        "a pool nobody knows": '{"pools": {"others": "cohort.csv"}}',
        "a pool twice": '{"pools": {"cases": "a", "cases": "b"}}',
        "itself for a pool": '{"pools": {"cases": "collection.json"}}',
        "of UTF-16": '{"pools": {}}',
    }.items():
        content = text.encode("utf-16" if why == "of UTF-16" else "utf-8")
        corpus.add("cohort", "collection.json", content, f"collection: {why}")


# --- latents ------------------------------------------------------------------------------------------------------


def safetensors(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    """A safetensors file with such a header, which says that it is so long."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def bad_tensors() -> dict[str, bytes]:
    """safetensors files that must not be read, by what is wrong with them."""
    w = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return {
        "a header of 2^63 bytes": safetensors({"w": w}, length=2**63),
        "a header of 10 GB": safetensors({"w": w}, length=10**10),
        "no header": b"",
        "half a length": b"\x10\0\0",
        "a header of words": safetensors(b"hello there, you"),
        "tensors over one another": safetensors({"w": w, "v": w}),
        "a hole": safetensors({"w": w}, bytes(32)),
        "tensors beyond its end": safetensors({"w": {**w, "data_offsets": [0, 2**40]}}),
        "shapes that do not fit": safetensors({"w": {**w, "shape": [10**9, 10**9]}}),
        "shapes beyond numbers": safetensors({"w": {**w, "shape": [2**40, 2**40]}}),
        "a type nobody knows": safetensors({"w": {**w, "dtype": "PICKLE"}}),
        "a pickle": b"cos\nsystem\n(S'touch owned'\ntR.",
        "offsets backwards": safetensors({"w": {**w, "data_offsets": [16, 0]}}),
        "nested without end": safetensors(b"[" * 99_999),
    }


def _latents(corpus: Corpus) -> None:
    for why, content in bad_tensors().items():
        corpus.add("latent", "a.safetensors", content, f"latent: {why}")
    header = {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    content = safetensors(header, np.array([1, np.nan, 2, 3], "<f4").tobytes())
    corpus.add("latent", "a.safetensors", content, "latent: a NaN")
    corpus.damage("latent", "a.safetensors", safetensors(header), 60)
    hole = corpus.place("latent", "a.safetensors", "latent: 20 GB, a hole")
    Path(hole).touch()
    os.truncate(hole, 20 * 10**9)
