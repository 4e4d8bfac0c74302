"""What a worker does with one case of a batch where the method works on images with torch (see medgen.worker)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from medgen import bundle, catalog, execute, io, prepare, thumbnails
from medgen.bundle import Model
from medgen.case import Case
from medgen.cohort import Row
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.method import Config, Kind, Method, Operation
from medgen.worker import Plan, Task

PREVIEW = "preview.jpg"


def configure(plan: Plan) -> dict[str, Any]:
    """The settings in full; UserError for a setting or a device that is not possible."""
    _, operation, _ = _meant(plan)
    _run(plan, Path(plan.out))
    return operation.configure(plan.tier, plan.settings).model_dump(mode="json")


def memory(plan: Plan, task: Task) -> int | None:
    """Bytes the case will take by the method's own estimate."""
    method, operation, model = _meant(plan)
    given, _ = execute.parted(task.files, operation)
    run = _run(plan, Path(plan.out))
    return execute.estimate(method, operation, _config(plan, operation), run, files=[given], model=model).memory_bytes


def perform(plan: Plan, task: Task, folder: Path, scratch: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """Do the case; what goes into its record: outputs, measures against references, what was changed for memory."""
    method, operation, model = _meant(plan)
    changed: list[str] = []

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "log":
            (changed if event.get("changed") else found["log"]).append(event["message"])

    found: dict[str, Any] = {"measures": {}, "log": []}
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    run = _run(plan, scratch, hear)
    config = _config(plan, operation)
    if operation.features is not None:
        found |= _features(method, operation, config, run, model, task, folder)
    else:
        given, references = execute.parted(task.files, operation)
        row = Row(task.files, task.subject, label=task.label)

        def look(prepared: Case, result: Case) -> None:
            shown = Case(dict(prepared.values), prepared.row, prepared.label)
            if references:
                try:
                    truth = execute.reference_case(row, operation, references, run)
                    found["measures"] = {key: float(value) for key, value in method.measure(result, truth).items()}
                    shown.values |= {f"truth_{name}": truth.values[name] for name in references if name in truth}
                except UserError as error:  # the result is good all the same
                    run.log(f"Not measured: {error}")
            if thumbnails.write(shown, result, operation, folder / PREVIEW):
                found["preview"] = PREVIEW

        written = execute.perform(
            method,
            operation,
            config,
            run,
            folder,
            files=[given],
            model=model,
            look=look,
            patient_names=plan.patient_names,
        )
        kinds = {role.name: role.kind.value for role in operation.outputs}
        found["outputs"] = [{"role": name, "kind": kinds[name], "file": path.name} for name, path in written]
    for message in found.pop("log"):
        log(message)
    return {**found, "changed_for_memory": changed}


def _features(
    method: Method, operation: Operation, config: Config, run: Run, model: Model | None, task: Task, folder: Path
) -> dict[str, Any]:
    """One case's part of an operation on a set, kept as a file."""
    given, _ = execute.parted(task.files, operation)
    case = prepare.load_case(given, operation.inputs, run.log, task.label)
    made = getattr(method, str(operation.features))(case, config, run, model)
    io.write(made, Kind.LATENT, folder / "features.safetensors")
    return {"outputs": [{"role": "features", "kind": Kind.LATENT.value, "file": "features.safetensors"}]}


def together(plan: Plan, out: Path, tasks: list[Task]) -> list[str]:
    """What an operation on a set gives, from the features of the cases that are done; into OUT/together."""
    method, operation, model = _meant(plan)
    run = _run(plan, out)
    config = _config(plan, operation)
    began = time.monotonic()
    cases, used = [], []
    for task in tasks:
        file = out / "cases" / task.name / "features.safetensors"
        latent = io.read(file, _FEATURES)[0]
        cases.append(Case({"features": latent}, {"subject": task.subject, **task.columns}, task.label))
        used.append(str(file))
    result = method.perform(operation, cases, config, run, model)
    record = execute.provenance(method, operation, config, run, {"features": used}, model, time.monotonic() - began)
    written = execute.Targets(operation, out / "together", overwrite=True).write(result, record, run)
    return [str(path.relative_to(out)) for _, path in written]


_FEATURES = io.Role("features", Kind.LATENT, "What one case adds to an operation on a set")


# --- once a worker ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _loaded(folder: str, digest: str) -> Model:
    """The model, read once by each worker; UserError where it has been changed since the batch began."""
    model = bundle.load(Path(folder))
    if model.digest != digest:
        raise UserError(f"The model in {folder} was changed while the batch ran; start the batch again.")
    return model


def _meant(plan: Plan) -> tuple[Method, Operation, Model | None]:
    method = catalog.load(plan.method)
    model = None if plan.model is None else _loaded(plan.model["folder"], plan.model["digest"])
    return method, method.operation(plan.operation), model


def _config(plan: Plan, operation: Operation) -> Config:
    return operation.config.model_validate(plan.config or operation.configure(plan.tier, plan.settings).model_dump())


def _run(plan: Plan, folder: Path, hear: Callable[[dict[str, Any]], None] = lambda event: None) -> Run:
    return Run(folder, device=plan.device, seed=plan.seed, precision=plan.precision, emit=hear)
