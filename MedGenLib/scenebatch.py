"""A batch started from Slicer without a window: `medgen batch` in a process of its own, with scenes among its cohorts.

Of a scene, every volume that the operation's leading role takes is a case, with the nodes that `MedGenLib.matching`
finds to belong to it. They are written as files beside OUT (`MedGenLib.export`: world coordinates), and a table of them
takes the scene's place in the command. No Qt.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import slicer
import slicer.util

from medgen import catalog, cli, dicom, folders, models, record
from medgen.errors import DONE, SOME_FAILED
from medgen.jobs import Job
from MedGenLib import install, matching
from MedGenLib.errors import MedGenLibError, RunError, plain
from MedGenLib.headless import follow
from MedGenLib.i18n import _
from MedGenLib.plan import cell, export_group, reference_role
from MedGenLib.runs import python_executable

SCENES = (".mrb", ".mrml")
_EVERY = 5.0  # seconds between lines on how far it is
Log = Callable[[str], None]


def main(words: list[str]) -> int:
    """Do what the words after `--` say; the exit code of `medgen batch`, 5 also where a scene could not be read."""
    if any(word in ("-h", "--help") for word in words):
        print(_("COHORT may also be a Slicer scene (.mrb, .mrml) or a folder of scenes."))
    arguments = cli.parse(["batch", *words])
    install.require()
    lost = 0
    with ExitStack() as kept:
        scenes = scenes_of(arguments.cohort)
        if scenes and (operation := _operation(arguments)) is not None:
            folder = Path(kept.enter_context(_beside(arguments.output)))
            table, lost = export_scenes(scenes, operation, folder, arguments.patient_names, print)
            words = with_cohort(words, table)
        job = Job(["batch", *words], Path.cwd(), python=python_executable(), title="medgen batch")
        code = follow(job, _speaker(arguments.progress))
    return SOME_FAILED if code == DONE and lost else code


def scenes_of(cohort: Path) -> list[Path]:
    """The scenes that a cohort is: the file itself, or those below a folder; none where it is something else."""
    if cohort.is_dir():
        return [path for path in folders.files(cohort) if path.suffix.lower() in SCENES]
    return [cohort] if cohort.suffix.lower() in SCENES else []


def with_cohort(words: list[str], table: Path) -> list[str]:
    """The command with a table in the cohort's place, wherever among the options that stands."""
    cohort = cli.parse(["batch", *words]).cohort
    for index, word in enumerate(words):
        changed = [*words[:index], str(table), *words[index + 1 :]]
        if Path(word) == cohort and cli.parse(["batch", *changed]).cohort == table:
            return changed
    raise RunError(_("The cohort was not found among the words; write MODEL COHORT before the options."))


def _operation(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """What the cases are for; None where it works on no cases, which `medgen batch` then says."""
    target = arguments.model
    known = target in catalog.entries() and not (Path(target) / "medgen.json").exists()
    slug = target if known else record.read(models.resolve(target))["slug"]
    operation = catalog.operation_entry(slug, arguments.operation or "apply")
    return operation if operation["inputs"] else None


def _beside(output: Path) -> tempfile.TemporaryDirectory[str]:
    """A hidden folder beside OUT, where the machines of a cluster see it; gone when the batch ends."""
    place = output.resolve().parent
    try:
        place.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".medgen-", dir=place)
    except OSError as error:
        raise RunError(plain(error, place)) from None


# --- from scenes to a table ---------------------------------------------------------------------------------------


def export_scenes(
    scenes: list[Path], operation: dict[str, Any], folder: Path, patient_names: bool, log: Log
) -> tuple[Path, int]:
    """Write the cases of scenes below a folder; the table that names them, and how many scenes could not be read.

    A case that lacks a node, or whose node cannot be written, stands in the table with an empty cell: it is for
    `medgen batch` to note among the failures.

    Raises RunError where no scene holds a case.
    """
    rows: list[dict[str, str]] = []
    lost = 0
    for scene in scenes:
        if not _load(scene):
            log(_("{scene} cannot be read as a scene; save it again.").format(scene=scene.name))
            lost += 1
            continue
        before = f"{scene.stem} " if len(scenes) > 1 else ""
        for values in cases_of(operation):
            case = folder / "inputs" / f"{len(rows) + 1:05d}"
            name, discreet = _names(next(iter(values.values())), patient_names, log)
            files = _export(operation, values, case, scene.suffix.lower() == ".mrb", discreet)
            rows.append({"subject": before + name, **{role: cell(paths) for role, paths in files.items()}})
    slicer.mrmlScene.Clear(0)
    if not rows:
        wanted = reference_role(operation["inputs"]) or ""
        raise RunError(_("No scene holds a volume for “{role}”; save one with it.").format(role=wanted))
    table = folder / (f"{scenes[0].stem}.csv" if len(scenes) == 1 else "scenes.csv")
    try:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["subject", *(role["name"] for role in operation["inputs"])], restval="")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise RunError(plain(error, table)) from None
    return table, lost


def _load(scene: Path) -> bool:
    """Put a scene in the place of the one before; whether that was possible."""
    here = Path.cwd()
    slicer.mrmlScene.Clear(0)
    try:
        slicer.util.loadScene(str(scene.resolve()), {})
    except RuntimeError:
        return False
    finally:
        os.chdir(here)  # Slicer's unpacking goes elsewhere, and does not come back from what is damaged
    return True


def cases_of(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Role -> node of every case of the scene: each volume of the leading role with what belongs to it, or alone."""
    roles = operation["inputs"]
    leading = next((role for role in roles if role["name"] == reference_role(roles)), None)
    if leading is None:
        return []
    # Nobody looks at what is found before it is used: markups of which a case may have any number are not guessed.
    pool = {"name": "cases", "roles": [role for role in roles if not role["many"]], "needs": (), "may": ()}
    found = matching.proposals(pool, [])
    complete = {id(proposal.case.values[leading["name"]]): proposal.case.values for proposal in found}
    return [complete.get(id(node), {leading["name"]: node}) for node in matching.candidates(leading, roles)]


def _export(
    operation: dict[str, Any], values: dict[str, Any], folder: Path, unpacked: bool, log: Log
) -> dict[str, list[str]]:
    """The files of a case; none where a node cannot be written. unpacked: the scene's own files will not stay."""
    try:
        files = export_group(operation["inputs"], values, folder, True, log, False)
    except MedGenLibError as error:
        log(str(error))
        return {}
    if unpacked:
        for role, paths in files.items():
            files[role] = [str(_kept(Path(path), folder)) for path in paths]
    return files


def _kept(path: Path, folder: Path) -> Path:
    if folder in path.parents:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return Path(shutil.copy2(path, folder / path.name))
    except OSError as error:
        raise RunError(plain(error, folder)) from None


def _names(node: Any, patient_names: bool, log: Log) -> tuple[str, Log]:
    """What a case is called, and a log that does not tell whose it is: by its node's name, unless that holds what the
    subject hierarchy knows of the patient."""
    private = set() if patient_names else _personal(node)
    name = node.GetName()
    if not dicom.tells(name, private):
        return name, log
    plain_name = _("volume")
    return plain_name, lambda message: log(message.replace(name, plain_name))


def _personal(node: Any) -> set[str]:
    """Name, ID and birth date of the patient under whom a node stands."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    found: list[str] = []
    while item and item != hierarchy.GetSceneItemID():
        found += [hierarchy.GetItemAttribute(item, f"DICOM.Patient{key}") for key in ("Name", "ID", "BirthDate")]
        if hierarchy.GetItemAttribute(item, "Level") == "Patient":
            found.append(hierarchy.GetItemName(item))
        item = hierarchy.GetItemParent(item)
    parts = [part for text in found for part in text.replace("^", " ").split()]
    return {text for text in (*found, *parts) if len(text) > 1}


# --- on the console -----------------------------------------------------------------------------------------------


def _speaker(progress: str) -> Callable[[dict[str, Any]], None]:
    """What --progress asks for: sentences, nothing but errors, or the events themselves as JSON lines."""
    last = 0.0

    def say(event: dict[str, Any]) -> None:
        nonlocal last
        kind = event["event"]
        if progress == "json":
            print(json.dumps(event, ensure_ascii=False), flush=True)
        elif kind == "error":
            print(event["message"], file=sys.stderr, flush=True)
        elif progress == "none":
            return
        elif kind == "log":
            print(event["message"], flush=True)
        elif kind == "output":
            print(f"{event['role']}: {event['path']}", flush=True)
        elif kind == "progress" and (time.monotonic() - last > _EVERY or event["done"] >= event["total"]):
            last = time.monotonic()
            print(_("{done} of {total} {stage}").format(**event), flush=True)

    return say
