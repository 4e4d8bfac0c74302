"""A run once more: exactly, from the record on its result; or as the command line that says the same. No Qt."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import slicer

import medgen
from medgen import catalog, models
from medgen.errors import UserError
from MedGenLib import headless, provenance
from MedGenLib.errors import MedGenLibError, RunError
from MedGenLib.export import NODE_CLASSES, own_file
from MedGenLib.i18n import _
from MedGenLib.provenance import Record
from MedGenLib.scratch import file_stem

SCRIPT = Path("Examples") / "run_method.py"


def request(record: Record) -> tuple[dict[str, Any], list[str]]:
    """What repeats a run, and sentences on what may make it differ all the same.

    Returns:
        The arguments of `MedGenLogic.process`: slug, operation, inputs, settings, tier, model, frames, device,
        precision, seed.
    Raises:
        RunError: names the input that has changed or is not in the scene, or the model that is not on this computer.
    """
    inputs: dict[str, Any] = {}
    many = {role["name"] for role in _operation(record)["inputs"] if role["many"]}
    for one in record.get("inputs", []):
        value = one["text"] if "text" in one else _node(one, record)
        if one["role"] in many:
            inputs.setdefault(one["role"], []).append(value)
        else:
            inputs[one["role"]] = value
    notes = []
    if record.get("medgen") != medgen.__version__:
        words = _("The result was made by MedGen {then}, this is {now}: the new one may differ.")
        notes.append(words.format(then=record.get("medgen"), now=medgen.__version__))
    return {
        "slug": record["method"],
        "operation": record["operation"],
        "inputs": inputs,
        "settings": dict(record.get("config") or {}),
        "tier": record.get("tier"),
        "model": _model(record),
        "frames": record.get("frames", "current"),
        "device": record.get("device", "auto"),
        "precision": record.get("precision", "auto"),
        "seed": int(record.get("seed", 0)),
    }, notes


def _operation(record: Record) -> dict[str, Any]:
    try:
        return catalog.operation_entry(record["method"], record["operation"])
    except UserError as error:
        raise RunError(str(error)) from None


def _node(one: Record, record: Record) -> Any:
    """The node that an input was; by id, then by name: whichever holds what it held then."""
    role = one["role"]
    if "node" not in one:
        raise RunError(
            _("Input “{role}” was the file {file}, not a node; load it, choose it and press Apply.").format(
                role=role, file=one.get("file", "")
            )
        )
    scene = slicer.mrmlScene
    named = scene.GetNodesByClassByName(one["class"], one["name"])
    candidates = [scene.GetNodeByID(one["node"]), *(named.GetItemAsObject(n) for n in range(named.GetNumberOfItems()))]
    candidates = [node for node in candidates if node is not None and node.GetClassName() == one["class"]]
    for node in candidates:
        if provenance.content_of(node, record.get("frames", "current")) == one["content"]:
            return node
    if candidates:
        raise RunError(
            _("Input “{role}”, “{name}”, has changed since; undo the change, or press Apply for a new run.").format(
                role=role, name=candidates[0].GetName()
            )
        )
    raise RunError(
        _("Input “{role}”, “{name}”, is not in the scene; load it again.").format(role=role, name=one["name"])
    )


def _model(record: Record) -> Path | None:
    """The folder of the model with the digest that the record names."""
    wanted = record.get("model")
    if not wanted:
        return None
    for found in models.listed():
        if found["digest"] == wanted["digest"]:
            return Path(found["folder"])
    raise RunError(
        _("The model “{name}” ({digest}) is not on this computer; import it again.").format(
            name=wanted.get("name"), digest=str(wanted["digest"])[:12]
        )
    )


# --- as a command


def commands(record: Record, outputs: list[str]) -> tuple[str, str]:
    """The `medgen …` and the `Slicer --python-script …` command of a run, each with a comment line for every input that
    has no file of its own and must be saved first.

    Args:
        record: the run's, as `provenance.record_of` gives it.
        outputs: names of the results' nodes, by which the files are called.
    """
    operation = _operation(record)
    pairs, comments = _files(record, operation)
    out = _output(operation, outputs)
    options = ["--tier", record["tier"]] if record.get("tier") else []
    for key, value in (record.get("settings") or {}).items():
        options += ["--set", f"{key}={json.dumps(value)}"]
    options += ["--device", record.get("device", "auto"), "--seed", str(record.get("seed", 0))]
    precision = record.get("precision", "auto")
    model = ["--model", _model_name(record)] if record.get("model") else []
    inputs = [word for role, path in pairs for word in ("-i", f"{role}={path}")]
    shared = [record["method"], record["operation"], *model, *inputs, "-o", out, *options, "--precision", precision]
    if record.get("frames") == "all":
        comments.append(_("all frames were run: repeat the command with the file of each frame"))
    slicer_words = ["Slicer", "--no-main-window", "--python-script", str(_script()), "--", *shared]
    return _lines(comments, ["medgen", "run", *shared]), _lines(comments, slicer_words)


def _files(record: Record, operation: dict[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
    """Role and path of every input, and what is to be saved first."""
    kinds = {role["name"]: role["kind"] for role in operation["inputs"]}
    pairs, comments = [], []
    for one in record.get("inputs", []):
        role, kind = one["role"], kinds.get(one["role"], "")
        path = one.get("text")
        if path is None and "node" not in one:
            path = one.get("file", role)
            comments.append(_("{role}: the file {file}, wherever it lies").format(role=role, file=path))
        elif path is None:
            node = slicer.mrmlScene.GetNodeByID(one["node"])
            path = _file_of(node, kind)
            if path is None:
                path = file_stem(one["name"]) + headless.ENDINGS.get(kind, "")
                words = _("{role}: save “{name}” as {file} first")
                comments.append(words.format(role=role, name=one["name"], file=path))
        pairs.append((role, path))
    return pairs, comments


def _file_of(node: Any, kind: str) -> str | None:
    """The file of a node that holds what the node holds."""
    if node is None or kind not in NODE_CLASSES:
        return None
    if kind in ("Image", "Mask"):
        found = own_file(node)
        return None if found is None else str(found)
    storage = node.GetStorageNode()
    if storage is None or node.GetModifiedSinceRead() or node.GetParentTransformNode() is not None:
        return None
    path = Path(storage.GetFullNameFromFileName() or "")
    return str(path) if path.is_file() and path.name.lower().endswith(headless.ENDINGS[kind]) else None


def _model_name(record: Record) -> str:
    """How the model is called on this computer, else how it was called."""
    try:
        folder = _model(record)
    except MedGenLibError:
        folder = None
    return str(record["model"].get("name", "")) if folder is None else folder.name


def _output(operation: dict[str, Any], names: list[str]) -> str:
    """A file where one comes out, else a folder."""
    roles = operation["outputs"]
    stem = file_stem(names[0] if names else operation["name"])
    single = len(roles) == 1 and not roles[0]["many"]
    return stem + headless.ENDINGS.get(roles[0]["kind"], "") if single else stem


def _script() -> Path:
    """Where Examples/run_method.py lies beside this library, else its place in the repository."""
    here = Path(__file__).resolve().parent.parent / SCRIPT
    return here if here.is_file() else SCRIPT


def _lines(comments: list[str], words: list[str]) -> str:
    """Comments and a command as the shell of this computer reads them."""
    windows = os.name == "nt"
    mark = "REM" if windows else "#"
    command = subprocess.list2cmdline(words) if windows else shlex.join(words)
    return "\n".join([*(f"{mark} {comment}" for comment in comments), command])
