"""A bundle's record (medgen.json) and digests: what can be known of a model without reading its weights into memory.

Standard library only, so that models are imported, listed and verified before torch is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from medgen import files, resources
from medgen.errors import UserError

FORMAT = 1
MAX_BYTES = 16 * 2**20  # of medgen.json
MAX_WEIGHTS = 8 * 2**30  # of one network
MAX_NETWORKS = 256
SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def sha256(file: Path) -> str:
    """A file's digest."""
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_all(files: list[Path]) -> str:
    """The digest of several files' bytes, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def digest(record: dict[str, Any]) -> str:
    """SHA-256 over what decides the results: slug, config, settings and weights (not name and date)."""
    networks = {name: entry["sha256"] for name, entry in record["networks"].items()}
    decisive = [record["slug"], record["operation"], record["config"], record["settings"], networks]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    """medgen.json, checked for form but without reading the weights; UserError when it is not one of ours."""
    file = folder / "medgen.json"
    if not os.path.isfile(file):
        raise UserError(
            f"{folder} is not a MedGen model (it has no medgen.json); choose a folder that medgen train wrote."
        )
    try:
        record = files.read_json(file, MAX_BYTES)
        _check_form(record)
        digest(record)  # which fails where something is nested too deeply
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file} is damaged or not MedGen's; import or train the model again.") from None
    if record.get("format") != FORMAT:
        raise UserError(
            f"{folder} was written by another version of MedGen (format {record.get('format')}); train it again."
        )
    return dict(record)


def _check_form(record: Any) -> None:
    """ValueError, KeyError, TypeError or AttributeError for a record that is not made as `medgen.bundle` makes them."""
    for key in ("config", "settings", "facts"):
        if not isinstance(record[key], dict):
            raise TypeError(key)
    if not isinstance(record.get("trained_on") or {}, dict):
        raise TypeError("trained_on")
    for key in ("operation", "name", "medgen", "created", "digest"):
        if not isinstance(record[key], str) or len(record[key]) > 255:
            raise ValueError(key)
        if key != "name" and not record[key].isprintable():  # a folder may have any name
            raise ValueError(key)
    if not SLUG.fullmatch(record["slug"]) or not isinstance(record["patient_data"], bool):
        raise ValueError("slug or patient_data")
    if len(record["networks"]) > MAX_NETWORKS:
        raise ValueError("networks")
    for name, entry in record["networks"].items():
        if not NAME.fullmatch(name) or entry["file"] != f"models/{name}.safetensors":
            raise ValueError(name)
        if not isinstance(entry["sha256"], str):
            raise TypeError("sha256")


def weights(folder: Path, entry: dict[str, Any]) -> bytes:
    """The bytes of a network's file, read once and compared with their digest: what is used is what was checked.

    entry: the network's in the record. UserError for a file that is missing, a link, altered or too large.
    """
    file = _file_of(folder, entry)
    content = files.read_bytes(file, min(MAX_WEIGHTS, resources.memory().free or MAX_WEIGHTS))
    _check_digest(file, hashlib.sha256(content).hexdigest(), entry)
    return content


def _file_of(folder: Path, entry: dict[str, Any]) -> Path:
    file = folder / str(entry["file"])
    if file.is_symlink() or file.parent.is_symlink() or not file.is_file():
        raise UserError(f"{folder} lacks {entry['file']}; import or train the model again.")
    return file


def _check_digest(file: Path, found: str, entry: dict[str, Any]) -> None:
    if found != entry["sha256"]:
        raise UserError(f"{file} is damaged or was altered (its digest differs); import or train the model again.")


def verify(folder: Path, expect: str | None = None) -> dict[str, Any]:
    """The record of a model whose every digest fits. `expect`: the slug it must have.

    Raises UserError for a damaged, foreign or altered bundle, and for the wrong method's model.
    """
    record = expected(folder, expect)
    for entry in record["networks"].values():
        file = _file_of(folder, entry)
        _check_digest(file, sha256(file), entry)
    return record


def expected(folder: Path, expect: str | None = None) -> dict[str, Any]:
    """The record of a model, its own digest compared but not those of its weights; as `verify` otherwise."""
    record = read(folder)
    if expect is not None and record["slug"] != expect:
        raise UserError(f"{folder} is a model of “{record['slug']}”, not of “{expect}”; choose one of its own models.")
    if digest(record) != record["digest"]:
        raise UserError(
            f"{folder}/medgen.json was altered (the model's digest differs); import or train the model again."
        )
    return record
