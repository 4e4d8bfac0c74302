"""A bundle's record (medgen.json) and digests: what can be known of a model without reading its weights into memory.

Standard library only, so that models are imported, listed and verified before torch is installed.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from medgen.errors import UserError

FORMAT = 1
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
    if not file.is_file():
        raise UserError(
            f"{folder} is not a MedGen model (it has no medgen.json); choose a folder that medgen train wrote."
        )
    try:
        record = json.loads(file.read_text("utf-8"))
        networks = record["networks"]
        for key, form in (("slug", str), ("config", dict), ("settings", dict), ("facts", dict), ("digest", str)):
            if not isinstance(record[key], form):
                raise TypeError(key)
        if not isinstance(record.get("trained_on", {}), dict):
            raise TypeError("trained_on")
        for name, entry in networks.items():
            if not NAME.fullmatch(name) or entry["file"] != f"models/{name}.safetensors":
                raise ValueError(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file} is damaged or not MedGen's; import or train the model again.") from None
    if record.get("format") != FORMAT:
        raise UserError(
            f"{folder} was written by another version of MedGen (format {record.get('format')}); train it again."
        )
    return dict(record)


def verify(folder: Path, expect: str | None = None) -> dict[str, Any]:
    """The record of a model whose every digest fits. `expect`: the slug it must have.

    Raises UserError for a damaged, foreign or altered bundle, and for the wrong method's model.
    """
    record = read(folder)
    if expect is not None and record["slug"] != expect:
        raise UserError(f"{folder} is a model of “{record['slug']}”, not of “{expect}”; choose one of its own models.")
    for entry in record["networks"].values():
        file = folder / entry["file"]
        if file.is_symlink() or file.parent.is_symlink() or not file.is_file():
            raise UserError(f"{folder} lacks {entry['file']}; import or train the model again.")
        if sha256(file) != entry["sha256"]:
            raise UserError(f"{file} is damaged or was altered (its digest differs); import or train the model again.")
    if digest(record) != record["digest"]:
        raise UserError(
            f"{folder}/medgen.json was altered (the model's digest differs); import or train the model again."
        )
    return record
