"""One operation from files to files: what the command line calls, and what a script may call in its own process."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medgen import __version__, bundle, cohort, dicom, io, modelfacts, prepare, privacy, ranks, trained_on
from medgen.bundle import Model
from medgen.case import Case, Cohort
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.method import Config, Estimate, Kind, Method, Operation, Pool, Role
from medgen.rescue import Rescue
from medgen.worker import digest_of, stamp

Files = dict[str, list[str]]
CARRIES_PATIENT_DATA = "The model will carry the reference image: treat it as patient data."


# --- training and other operations --------------------------------------------------------------------------------


def perform(
    method: Method,
    operation: Operation,
    config: Config,
    run: Run,
    out: Path,
    *,
    files: list[Files] | None = None,
    collection: Path | None = None,
    model: Model | None = None,
    overwrite: bool = False,
    look: Callable[[prepare.Prepared, Case], None] = lambda given, result: None,
    patient_names: bool = False,
) -> list[tuple[str, Path]]:
    """Run an operation and write what it gives; (role, path) of every output.

    files: one dictionary of role -> paths for scope "case", several for "set". collection: a cohort CSV or
    collection.json for scope "collection". out: a folder, or a file name where one role comes out. look: shown a case
    and its result, both on canonical axes, before anything is written. patient_names: let the record name patients.
    Raises UserError when the input is at fault; then nothing has been written. Of several processes that train
    together the first measures and writes; the others wait for it and give nothing.
    """
    if operation.needs_model and model is None:
        raise UserError(
            f"“{operation.name}” needs a trained model; name one, or train one with medgen train {method.slug}."
        )
    targets = Targets(operation, out, overwrite) if ranks.first() else None
    began = time.time()
    torch.manual_seed(run.seed)
    given: Any = None
    prepared: prepare.Prepared | None = None
    used: Files = {}
    if operation.scope == "collection":
        if collection is None:
            raise UserError(f"“{operation.name}” works on a cohort; name a CSV file or a collection.json.")
        given = cohort.read_collection(collection, operation)
        used = {"collection": [str(collection)]}
    elif operation.scope != "nothing":
        cases = [prepare.load_case(one, operation.inputs, run.log) for one in (files or [{}])]
        if operation.scope == "case" and len(cases) != 1:
            raise UserError(f"“{operation.name}” works on one case; give its files once.")
        given = cases[0] if operation.scope == "case" else method.features_of(operation, cases, config, run, model)
        prepared = cases[0] if operation.scope == "case" else None
        used = {role: paths for one in (files or []) for role, paths in one.items()}
    rescue = Rescue(operation, config, run, model)
    with trained_on.watched() as watch:
        result = rescue.perform(lambda config: method.perform(operation, given, config, run, model))
    if targets is None:
        ranks.leave()
        return []
    for role in operation.outputs:
        if role.kind is Kind.MODEL and role.name in result:
            result[role.name].trained_on = watch.summary()
    if prepared is not None:
        look(prepared, result)
        result = prepare.finish_case(result, prepared)
    if operation.scope == "collection":
        modelfacts.complete(result, method, operation, given, config, run, measure_rows, summary)
    run.check_cancelled()
    record = provenance(method, operation, rescue.config, run, used, model, time.time() - began, patient_names)
    if rescue.changes:
        record["changed_for_memory"] = rescue.changes
    if result.facts:
        record["result"] = result.facts
    written = targets.write(result, record, run)
    ranks.leave()
    return written


# --- outputs ------------------------------------------------------------------------------------------------------


class Targets:
    """Where an operation's outputs go, checked before the work begins: writable, and nothing overwritten unasked."""

    def __init__(self, operation: Operation, out: Path, overwrite: bool) -> None:
        self.operation = operation
        self.out = out
        roles = operation.outputs
        single = len(roles) == 1 and not _is_folder(roles[0])
        as_named = single and (bool(io.extension(out)) or roles[0].kind in (Kind.MODEL, Kind.COHORT))
        self.paths = {role.name: out if as_named else out / _file_name(role) for role in roles}
        self.overwrite = overwrite
        for role in roles:
            path = self.paths[role.name]
            if as_named:
                io.check_ending(path, role)
            if path.exists() and not overwrite:
                raise UserError(f"{path} exists already; choose another output or allow it with --overwrite.")
            if path.is_dir() and not any((path / name).exists() for name in ("medgen.json", "provenance.json")):
                raise UserError(f"{path} is a folder that MedGen did not write; choose another output.")
        self._check_writable(out.parent if as_named else out)

    def _check_writable(self, folder: Path) -> None:
        new = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            if new:
                folder.rmdir()
        except OSError as error:
            raise UserError(
                f"Output folder {folder} cannot be written to ({error.strerror}); choose another."
            ) from None

    def write(self, result: Case, record: dict[str, Any], run: Run) -> list[tuple[str, Path]]:
        """Write every output into a folder beside the target, then move them all into place."""
        anchor = self.out.parent
        anchor.mkdir(parents=True, exist_ok=True)
        written: list[tuple[str, Path]] = []
        try:
            staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=anchor))
        except OSError as error:
            raise UserError(
                f"Output folder {anchor} cannot be written to ({error.strerror}); choose another."
            ) from None
        replaced: list[tuple[Path, Path]] = []
        try:
            moves: list[tuple[Path, Path]] = []
            for role in self.operation.outputs:
                if role.name not in result:
                    if role.optional:
                        continue
                    raise RuntimeError(f"{self.operation.name} gave nothing for role {role.name}")
                target = self.paths[role.name]
                try:
                    moves += _stage(result[role.name], role, target, staging, record)
                except UserError as error:  # the user knows the target, not the folder we write to first
                    raise UserError(str(error).replace(str(staging / role.name), str(target.parent))) from None
            for staged, target in moves:
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_dir():  # kept until the new one stands in its place
                    saved = staging / f"replaced {len(replaced)}"
                    target.replace(saved)
                    replaced.append((saved, target))
                staged.replace(target)
            written = [(role.name, self.paths[role.name]) for role in self.operation.outputs if role.name in result]
        finally:
            for saved, target in replaced:
                if not target.exists():
                    saved.replace(target)
            shutil.rmtree(staging, ignore_errors=True)
        for name, path in written:
            run.emit({"event": "output", "role": name, "path": str(path.resolve())})
        return written


def _file_name(role: Role) -> str:
    return role.name if _is_folder(role) else role.name + io.ENDINGS[role.kind]


def _is_folder(role: Role) -> bool:
    """Whether a role's values leave as files in a folder; boxes and spheres stand together in one file."""
    return role.many and role.kind not in (Kind.BOX, Kind.SPHERE)


def _stage(value: Any, role: Role, target: Path, staging: Path, record: dict[str, Any]) -> list[tuple[Path, Path]]:
    """Write one role's value under `staging`; the moves that bring it to `target`."""
    staged = staging / role.name / target.name
    staged.parent.mkdir(parents=True, exist_ok=True)
    beside = staged.with_name(staged.name + ".provenance.json")
    if role.kind is Kind.MODEL:
        bundle.save(value, staged)
        _write_record(staged / "provenance.json", record)
        return [(staged, target)]
    if role.kind is Kind.COHORT:
        _write_cohort(value, staged, record)
        return [(staged, target)]
    if _is_folder(role):
        staged.mkdir(parents=True)  # a list may be empty
        for index, item in enumerate(value):
            io.write(item, role.kind, staged / f"{role.name}_{index + 1:03d}{io.ending_of(item, role.kind)}")
        _write_record(staged / "provenance.json", record)
        return [(staged, target)]
    io.write(value, role.kind, staged)
    _write_record(beside, record)
    return [(staged, target), (beside, target.with_name(beside.name))]


def _write_record(path: Path, record: dict[str, Any]) -> None:
    text = json.dumps(record, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")  # a file's name need not be text


def _write_cohort(value: Cohort, folder: Path, record: dict[str, Any]) -> None:
    """Each case's values as files in the folder, and the cohort.csv that names them."""
    kinds = {"Image": Kind.IMAGE, "Mask": Kind.MASK, "Points": Kind.POINTS, "Matrix": Kind.MATRIX, "Class": Kind.CLASS}
    folder.mkdir(parents=True)
    rows = []
    for index, case in enumerate(value.cases):
        row = dict(value.columns[index]) if index < len(value.columns) else {"subject": f"case{index + 1}"}
        for role, item in case.values.items():
            kind = kinds[type(item).__name__]
            if kind is Kind.CLASS:
                row[role] = item.label
                continue
            name = f"case{index + 1:04d}_{role}{io.ENDINGS[kind]}"
            io.write(item, kind, folder / name)
            row[role] = name
        rows.append(row)
    io.write_rows(rows, folder / "cohort.csv")
    _write_record(folder / "provenance.json", record)


# --- provenance ---------------------------------------------------------------------------------------------------


def provenance(
    method: Method,
    operation: Operation,
    config: Config,
    run: Run,
    used: Files,
    model: Model | None,
    seconds: float,
    patient_names: bool = False,
) -> dict[str, Any]:
    """What made an output: enough to make it again. Inputs are called as medgen.privacy says, which names no patient
    unless `patient_names` are wanted."""
    return {
        "method": method.slug,
        "operation": operation.name,
        "medgen": __version__,
        "citation": method.citation,
        "config": config.model_dump(mode="json"),
        "seed": run.seed,
        "device": str(run.device),
        "precision": run.precision,
        "machine": bundle.machine(),
        "torch": torch.__version__,
        "model": None if model is None else {"name": model.name, "digest": model.digest},
        "inputs": [
            {"role": role, "file": privacy.stand_in(path, patient_names), "sha256": digest_of(path, *stamp(path))}
            for role, paths in used.items()
            for path in paths
            if _is_read(operation, role, path)
        ],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 3),
        "use": "Research use only. Not for clinical use.",
    }


def _is_read(operation: Operation, role: str, path: str) -> bool:
    """Whether the text given for a role named a file or folder that was read, not a class or what is written as one."""
    a_class = any(one.name == role and one.kind is Kind.CLASS for one in operation.inputs)
    return os.path.isfile(path) or (dicom.exists(path) and not a_class and not os.path.isfile(path))


# --- before and after ---------------------------------------------------------------------------------------------


def estimate(
    method: Method,
    operation: Operation,
    config: Config,
    run: Run,
    *,
    files: list[Files] | None = None,
    collection: Path | None = None,
    model: Model | None = None,
) -> Estimate:
    """Read and check everything an operation would take, without running it; what it will cost on this machine.

    collection: for scope "collection" what it learns from, whose cases then have the name of their pool in
    `row["pool"]`; for the other scopes a cohort, each row of it a case.
    """
    if operation.scope == "collection":
        if collection is None:
            raise UserError(f"“{operation.name}” works on a cohort; name a CSV file or a collection.json.")
        given = cohort.read_collection(collection, operation)
        cases: list[Case] = []
        for pool in operation.pools:
            for row in given.pools.get(pool.name, []):
                cases.append(prepare.load_row(row, pool.roles, run.log))
                cases[-1].row["pool"] = pool.name
    elif operation.scope == "nothing":
        cases = []
    elif collection is not None:
        rows = cohort.read_pool(collection, Pool("cases", operation.inputs))
        cases = [prepare.load_row(row, operation.inputs, run.log) for row in rows]
    else:
        cases = [prepare.load_case(one, operation.inputs, run.log) for one in (files or [{}])]
    found = method.estimate(operation, cases, config, run, model)
    if method.carries_patient_data and any(role.kind is Kind.MODEL for role in operation.outputs):
        return replace(found, notes=(*found.notes, CARRIES_PATIENT_DATA))
    return found


def evaluate(
    method: Method, model: Model | None, path: Path, config: Config, run: Run, operation_name: str = "apply"
) -> list[dict[str, Any]]:
    """The method's own measures for every row of a cohort (its test split when it has one), one dictionary a case.

    The cohort's columns hold the operation's inputs and the references: under `truth_` and the output's name, or under
    the output's name itself.
    """
    operation = method.operation(operation_name)
    rows = cohort.read_pool(path, Pool("cases", operation.columns()))
    return measure_rows(method, model, [row for row in rows if row.split == "test"] or rows, operation, config, run)


def measure_rows(
    method: Method, model: Model | None, rows: list[cohort.Row], operation: Operation, config: Config, run: Run
) -> list[dict[str, Any]]:
    """The method's own measures for rows that hold the operation's inputs and what it should give."""
    results = []
    rescue = Rescue(operation, config, run, model)
    for index, row in enumerate(rows):
        run.progress(index, len(rows), "evaluate")
        given, references = parted(row.files, operation)
        case = prepare.load_case(given, operation.inputs, run.log, row.label)
        truth = reference_case(row, operation, references, run)
        result = rescue.perform(functools.partial(_perform, method, operation, case, run, model))
        results.append({"subject": row.subject, **method.measure(result, truth)})
    run.progress(len(rows), len(rows), "evaluate")
    return results


def parted(files: Files, operation: Operation) -> tuple[Files, Files]:
    """A row's files, parted into what the operation takes and the references of what it gives (by output role)."""
    outputs = {role.name for role in operation.outputs if role.kind is not Kind.MODEL}
    taken = {role.name for role in operation.inputs}
    references = {name: files.get(f"truth_{name}") or files.get(name, []) for name in outputs}
    given = {
        name: paths
        for name, paths in files.items()
        if name in taken and (name not in outputs or f"truth_{name}" in files)
    }
    return given, {name: paths for name, paths in references.items() if paths}


def _perform(method: Method, operation: Operation, case: Case, run: Run, model: Model | None, config: Config) -> Case:
    return method.perform(operation, case, config, run, model)


def reference_case(row: cohort.Row, operation: Operation, references: Files, run: Run) -> Case:
    """The references of a row, on the grid (and canonical axes) of its input images."""
    if not references:
        raise UserError(
            f"{row.label} has no reference to compare with; add a column named as the output or truth_OUTPUT."
        )
    anchors = [r for r in operation.inputs if r.kind is Kind.IMAGE and r.name in row.files and r.name not in references]
    roles = (*anchors, *(replace(role, may_be_empty=True) for role in operation.outputs if role.name in references))
    files = {role.name: row.files[role.name] for role in anchors}
    return prepare.load_case({**files, **references}, roles, run.log, row.label)


def summary(results: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of every measure over the cases that have it."""
    names = dict.fromkeys(key for row in results for key, value in row.items() if isinstance(value, float))
    return {name: float(np.nanmean([row[name] for row in results if name in row])) for name in names}
