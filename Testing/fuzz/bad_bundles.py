"""Models and archives of models that are damaged, lie or are made to hurt.

Whatever would be executed, if anything here were, makes a file named `owned` in the folder that MEDGEN_OWNED names.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import struct
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bad_texts import bad_tensors, safetensors
from corpus import Corpus

from medgen import bundle, catalog, record
from medgen.synthesis.frequency_mr_to_ct import TrainConfig, build_network


class Owned:
    """Unpickled, it leaves its mark."""

    def __reduce__(self) -> Any:
        return os.system, ('touch "$MEDGEN_OWNED/owned"',)


CODE = "import os, pathlib; pathlib.Path(os.environ['MEDGEN_OWNED'], 'owned').touch()\n"
METHOD = catalog.load("frequency-mr-to-ct")
_GOOD: dict[str, bytes] = {}


def good() -> dict[str, bytes]:
    """The files of a sound model of a real method, by their names in its folder."""
    if not _GOOD:
        config = METHOD.operation("train").configure("smoke", {"width": 4, "kernel": 3})
        assert isinstance(config, TrainConfig)
        torch.manual_seed(0)
        weights = build_network(config).state_dict()
        model = bundle.Model(METHOD.slug, {"generator": weights}, config.model_dump(mode="json"), {"air": 0.0})
        with tempfile.TemporaryDirectory() as folder:
            bundle.save(model, Path(folder, "m"))
            for file in sorted(Path(folder, "m").rglob("*")):
                if file.is_file():
                    _GOOD[file.relative_to(Path(folder, "m")).as_posix()] = file.read_bytes()
    return dict(_GOOD)


def altered(change: Callable[[dict[str, Any]], Any], weights: bytes | None = None) -> dict[str, bytes]:
    """The sound model with its record changed and all digests made to fit again, as an attacker would."""
    parts = good()
    told = json.loads(parts["medgen.json"])
    if weights is not None:
        parts["models/generator.safetensors"] = weights
        told["networks"]["generator"]["sha256"] = hashlib.sha256(weights).hexdigest()
    change(told)
    try:
        told["digest"] = record.digest(told)
    except (KeyError, TypeError, AttributeError):
        told["digest"] = "0" * 64
    parts["medgen.json"] = json.dumps(told).encode()
    return parts


def lay(parts: dict[str, bytes], folder: Path) -> Path:
    """Write a model's parts into a folder."""
    for name, content in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def fill(corpus: Corpus) -> None:
    """Put all of them into the corpus."""
    _records(corpus)
    _weights(corpus)
    for name, make in archives().items():
        make(corpus.place("archive", "model.zip", f"archive: {name}", valid=name in HARMLESS))
    corpus.damage("archive", "model.zip", zipped(good()), 60)


# --- models that are folders --------------------------------------------------------------------------------------


def _records(corpus: Corpus) -> None:
    def setting(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
        def change(told: dict[str, Any]) -> None:
            for key in keys[:-1]:
                told = told[key]
            told[keys[-1]] = value

        return change

    deep: Any = 0
    for _ in range(900):
        deep = [deep]
    for why, change in {
        "a slug that is a path": setting("slug", value="../../etc"),
        "a method nobody knows": setting("slug", value="nothing"),
        "a slug of 1 MB": setting("slug", value="x" * 10**6),
        "a slug that is a module": setting("slug", value="os:system"),
        "a layer of 10^9 channels": setting("config", "width", value=10**9),
        "a layer of NaN channels": setting("config", "width", value=float("nan")),
        "a layer of 128 channels": setting("config", "width", value=128),
        "an unknown setting": setting("config", "_target_", value="os.system"),
        "a setting that is an object": setting("config", "base", value={"_target_": "os.system", "command": "true"}),
        "air of words": setting("settings", "air", value="thin"),
        "no settings": setting("settings", value={}),
        "settings that are a list": setting("settings", value=[]),
        "a network above": setting("networks", "../x", value={"file": "../x"}),
        "a file above": setting("networks", "generator", "file", value="../generator.safetensors"),
        "a network without file": setting("networks", "generator", value={}),
        "networks that are a list": setting("networks", value=[1]),
        "no networks": setting("networks", value={}),
        "a digest of a number": setting("networks", "generator", "sha256", value=7),
        "patient data: perhaps": setting("patient_data", value="perhaps"),
        "a date of escapes": setting("created", value="\x1b[2J\x1b]0;x\x07"),
        "a setting 900 lists deep": setting("settings", "air", value=deep),
        "a format to come": setting("format", value=99),
        "trained on words": setting("trained_on", value="everything"),
    }.items():
        lay(altered(change), corpus.place("model", "model", f"model: {why}"))
    for why, content in {
        "nothing": b"",
        "no JSON": b"{",
        "a list": b"[]",
        "nested without end": b"[" * 10**6,
        "of UTF-16": "{}".encode("utf-16"),
        "a key twice": good()["medgen.json"].replace(b'"slug"', b'"slug": "x", "slug"', 1),
        "a pickle": pickle.dumps(Owned()),
    }.items():
        lay({**good(), "medgen.json": content}, corpus.place("model", "model", f"medgen.json: {why}"))
    huge = lay(good(), corpus.place("model", "model", "medgen.json: 5 GB, most of it a hole"))
    os.truncate(huge / "medgen.json", 5 * 10**9)
    inference = json.dumps({"network_def": {"_target_": "os.system", "command": "touch owned"}}).encode()
    parts = {
        **good(),
        "configs/inference.json": inference,
        "sitecustomize.py": CODE.encode(),
        "medgen.py": CODE.encode(),
    }
    lay(parts, corpus.place("model", "model", "model: code beside it, which nothing runs", valid=True))


def _weights(corpus: Corpus) -> None:
    for why, content in {**bad_tensors(), "a torch file": _torch_file()}.items():
        lay(altered(lambda told: None, content), corpus.place("model", "model", f"weights: {why}"))
    other = safetensors({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})
    lay(altered(lambda told: None, other), corpus.place("model", "model", "weights: of another network"))
    parts = good()
    parts["models/generator.safetensors"] = parts["models/generator.safetensors"][:-9]
    lay(parts, corpus.place("model", "model", "weights: cut"))
    linked = lay(good(), corpus.place("model", "model", "weights: a link"))
    (linked / "models" / "generator.safetensors").unlink()
    (linked / "models" / "generator.safetensors").symlink_to("/etc/passwd")
    if hasattr(os, "mkfifo"):
        piped = lay(good(), corpus.place("model", "model", "weights: a pipe"))
        (piped / "models" / "generator.safetensors").unlink()
        os.mkfifo(piped / "models" / "generator.safetensors")


def _torch_file() -> bytes:
    stream = io.BytesIO()
    torch.save({"w": Owned()}, stream)
    return stream.getvalue()


# --- archives -----------------------------------------------------------------------------------------------------

# What an archive may hold beside a model (it stays behind, and the model is taken), and sizes that say too much: what
# comes out is counted and has the right digest.
HARMLESS = (
    "code beside the model",
    "pickles beside the model",
    "what other systems add",
    "files where folders are",
    "a name of 250 letters",
    "a size that lies",
    "sizes of 64 bits that lie",
)


def zipped(
    parts: dict[str, bytes], *more: tuple[zipfile.ZipInfo | str, bytes], how: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """A zip of a model's parts and further entries, named and marked as they are."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", how) as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in [*parts.items(), *more]:
            archive.writestr(name, content)
    return stream.getvalue()


def _entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("x")
    entry.filename = entry.orig_filename = name
    entry.create_system, entry.external_attr = 3, mode << 16
    return entry


def archives() -> dict[str, Callable[[Path], Any]]:
    """What writes each attack to a path, by its name."""
    escapes = {
        "above": "../owned",
        "above, within": "a/../../owned",
        "above, from Windows": "..\\owned",
        "absolute": "/tmp/medgen-owned",
        "a drive": "C:\\owned",
        "a share": "\\\\host\\share\\owned",
        "a stream": "medgen.json:owned",
        "a NUL": "medgen.json\0.txt",
        "in the models": "models/../../owned",
    }
    found: dict[str, Callable[[Path], Any]] = {
        f"an entry {why}": lambda path, name=name: path.write_bytes(zipped(good(), (_entry(name), CODE.encode())))
        for why, name in escapes.items()
    }
    forms = {"a link": stat.S_IFLNK, "a device": stat.S_IFCHR, "a pipe": stat.S_IFIFO, "a socket": stat.S_IFSOCK}
    for why, form in forms.items():
        found[why] = lambda path, form=form: path.write_bytes(
            zipped(good(), (_entry("x", form | 0o777), b"/etc/passwd"))
        )
    contents = {
        "a name twice": zipped(good(), ("medgen.json", b"{}")),
        "names of other case": zipped(good(), ("MedGen.JSON", b"{}")),
        "names that look alike": zipped(good(), ("ｍedgen.json", b"{}")),
        "five thousand entries": zipped(good(), *((f"x{n}", b"") for n in range(5000))),
        "packed by LZMA": zipped(good(), how=zipfile.ZIP_LZMA),
        "packed by bzip2": zipped(good(), how=zipfile.ZIP_BZIP2),
        "code beside the model": zipped(
            good(), ("setup.py", CODE.encode()), ("medgen/__init__.py", CODE.encode()), ("run.sh", b"touch owned")
        ),
        "pickles beside the model": zipped(
            good(), ("models/generator.pt", pickle.dumps(Owned())), ("x.pkl", pickle.dumps(Owned()))
        ),
        "what other systems add": zipped(good(), ("__MACOSX/._x", b"x"), (".DS_Store", b"x"), ("Thumbs.db", b"x")),
        "files where folders are": zipped(good(), ("docs", b"x"), ("configs/metadata.json/x", b"x")),
        "a name of 250 letters": zipped(good(), ("y" * 250, b"x")),
        "a model in a model": zipped({"model.zip": zipped(good())}),
        "two models": zipped({f"{side}/{name}": part for side in "ab" for name, part in good().items()}),
        "no model": zipped({"readme.txt": b"hello"}),
        "no entries": zipped({}),
        "nothing": b"",
        "a pickle": pickle.dumps(Owned()),
        "encrypted": _encrypted(),
        "a size that lies": _lying(zipped(good()), 24, 2**31),
        "a size that lies low": _lying(zipped(good()), 24, 5),
        "a sum that lies": _lying(zipped(good()), 16, 7),
        "entries over one another": _overlapping(),
        "a directory of 3 GB": _long_directory(),
        "sizes of 64 bits that lie": _lying(zipped(good()), 24, 2**32 - 1),
        "the weights cut": zipped(
            {**good(), "models/generator.safetensors": good()["models/generator.safetensors"][:-9]}
        ),
    }
    for why, content in contents.items():
        found[why] = lambda path, content=content: path.write_bytes(content)
    found["a tar"] = _tar
    found["a bomb of 16 GB"] = lambda path: path.write_bytes(_bomb())
    return found


def _tar(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, tarfile.open(path, "w") as archive:
        archive.add(lay(good(), Path(folder, "m")), "m")


def _encrypted() -> bytes:
    content = bytearray(zipped(good()))
    central = content.index(b"PK\x01\x02")
    content[6] |= 1
    content[central + 8] |= 1
    return bytes(content)


def _lying(content: bytes, place: int, value: int) -> bytes:
    """With a field of the central directory's largest entry set: 16 the sum, 20 the packed size, 24 the size."""
    changed = bytearray(content)
    at = content.index(b"PK\x01\x02")
    entries = []
    while content[at : at + 4] == b"PK\x01\x02":
        size, *lengths = struct.unpack_from("<I3H", content, at + 24)
        entries.append((size, at))
        at += 46 + sum(lengths)
    struct.pack_into("<I", changed, max(entries)[1] + place, value)
    return bytes(changed)


def _overlapping() -> bytes:
    """A hundred entries that all are the same packed bytes, as in zip bombs without nesting."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("models/a0.safetensors", bytes(2**24))
        first = archive.infolist()[0]
        for number in range(1, 100):
            entry = copy.copy(first)
            entry.filename = entry.orig_filename = f"models/a{number}.safetensors"
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
        archive._didModify = True  # type: ignore[attr-defined]
    return stream.getvalue()


def _long_directory() -> bytes:
    """An archive that says its list of entries is 3 GB long."""
    content = bytearray(zipped(good()))
    struct.pack_into("<I", content, content.rindex(b"PK\x05\x06") + 12, 3 * 10**9)
    return bytes(content)


def _bomb() -> bytes:
    """Weights that unpack to 16 GB out of 16 MB, with a size that says 1 kB."""
    zeros = zipped({"z": bytes(2**27)})
    _, _, _, _, _, _, _, packed, _, name, extra = struct.unpack_from("<4s5H3I2H", zeros)
    block = zeros[30 + name + extra : 30 + name + extra + packed]
    parts = {**good(), "models/generator.safetensors": b""}
    stream = io.BytesIO(zipped(parts))
    with zipfile.ZipFile(stream, "a") as archive:
        for number in range(128):
            entry = zipfile.ZipInfo(f"models/b{number}.safetensors")
            archive.writestr(entry, block)
    content = bytearray(stream.getvalue())
    at = content.index(b"PK\x01\x02")
    while content[at : at + 4] == b"PK\x01\x02":
        length = sum(struct.unpack_from("<3H", content, at + 28))
        if content[at + 46 : at + 54] == b"models/b":
            local = struct.unpack_from("<I", content, at + 42)[0]
            for place in (at + 10, local + 8):
                struct.pack_into("<H", content, place, zipfile.ZIP_DEFLATED)
            struct.pack_into("<I", content, at + 24, 1024)
        at += 46 + length
    return bytes(content)


def copy_of_good(folder: Path) -> Path:
    """The sound model in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return lay(good(), folder)
