"""A method tried on synthetic patients, from nothing to a picture: phantoms, train, apply, measure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgen import bundle, catalog, cohort, execute, phantoms, pictures, prepare
from medgen.case import Image, Points
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.method import Kind, Pool, Role


def run(slug: str, folder: Path, run: Run, tier: str, settings: dict[str, Any]) -> Iterator[str]:
    """Make phantoms, train on them, apply to one and measure; yields what to tell the user, a line at a time.

    Everything is written to `folder`, which must not hold an earlier demo. With one patient that patient is measured,
    with several those of the test split.
    """
    method = catalog.load(slug)
    if not method.phantoms:
        raise UserError(f"“{slug}” has no phantom to try it on; train it on a cohort of your own.")
    for name in ("patient", "model", "result"):
        if (folder / name).exists():
            raise UserError(f"{folder / name} exists already; choose another folder with -o or remove it.")
    phantom = phantoms.PHANTOMS[method.phantoms[0]]
    table = phantoms.write(phantom, method.demo_cases, run.seed, folder / "patient")
    yield f"Synthetic {'patients' if method.demo_cases > 1 else 'patient'}: {table}"
    train, apply = method.operation("train"), method.operation("apply")
    run.folder = folder / "model.training"
    config = train.configure(tier, settings)
    pools = table.with_name("collection.json")
    made = execute.perform(method, train, config, run, folder / "model", collection=pools if pools.exists() else table)
    yield f"Model: {made[0][1]}"
    model = bundle.load(folder / "model", slug)
    if phantom.domains:  # what is learnt is meant for the first of them
        table = table.with_name(f"{phantom.domains[0]}.csv")
    rows = cohort.read_pool(table, Pool("cases", (*apply.inputs, *_references(apply.inputs, apply.outputs))))
    row = next((row for row in rows if row.split == "test"), rows[0])
    given = {role.name: row.files[role.name] for role in apply.inputs if role.name in row.files}
    plain = apply.configure(tier if tier in apply.tiers else None, {})
    outputs = execute.perform(method, apply, plain, run, folder / "result", files=[given], model=model)
    for role, path in outputs:
        yield f"Result ({role}): {path}"
    measures = execute.evaluate(method, model, table, plain, run)
    (folder / "measures.json").write_text(json.dumps(measures, indent=1) + "\n", encoding="utf-8")
    words = [f"{key} {value:.3f}" for key, value in execute.summary(measures).items()]
    text = ", ".join(words)
    whom = "the same patient" if method.demo_cases == 1 else f"{len(measures)} patient(s) it had not seen"
    yield f"Measured on {whom}, against the whole truth: {text}"
    picture = _picture(
        row, apply.inputs, apply.outputs, dict(outputs), folder, f"{method.title}: {', '.join(words[:4])}", run
    )
    if picture is not None:
        yield f"Picture: {picture}"
    shutil.rmtree(run.folder, ignore_errors=True)


def _references(inputs: tuple[Role, ...], outputs: tuple[Role, ...]) -> list[Role]:
    """The columns that may hold the truth of an output: `truth_` and its name, or its name where no input has it."""
    taken = {role.name for role in inputs}
    plain = [replace(role, optional=True, many=False) for role in outputs if role.name not in taken]
    return [*plain, *(Role(f"truth_{role.name}", role.kind, "the whole truth", optional=True) for role in outputs)]


def _picture(
    row: cohort.Row,
    inputs: tuple[Role, ...],
    outputs: tuple[Role, ...],
    results: dict[str, Path],
    folder: Path,
    title: str,
    run: Run,
) -> Path | None:
    """The first output that a picture can show, on or beside the first image, with the truth where there is one. A 2D
    image is shown with boxes alone."""
    image = next((role for role in inputs if role.kind is Kind.IMAGE), None)
    single = [role for role in outputs if role.kind in (Kind.MASK, Kind.IMAGE, Kind.POINTS) and not role.many]
    shown = next((role for role in outputs if role in single or role.kind is Kind.BOX), None)
    if image is None or shown is None:
        return None
    files = {"image": row.files[image.name], "result": [str(results[shown.name])]}
    own = [] if any(role.name == shown.name for role in inputs) else row.files.get(shown.name, [])
    truth = row.files.get(f"truth_{shown.name}") or own
    if truth:
        files["truth"] = truth
    if "planes" in row.files:
        files["planes"] = row.files["planes"]
    roles = [replace(image, name="image", reference=True), replace(shown, name="result", optional=False)]
    roles += [replace(shown, name="truth", optional=True), *(role for role in inputs if role.name == "planes")]
    case = prepare.load_case(files, tuple(replace(role, may_be_empty=True) for role in roles), run.log)
    path = folder / "picture.png"
    if shown.kind is not Kind.POINTS and (len(case.get("image", Image).shape) == 2) != (shown.kind is Kind.BOX):
        return None
    if shown.kind is Kind.BOX:
        pictures.boxes(case.get("image", Image), case.many("result"), case.many("truth"), path, title)
        return path
    if shown.kind is Kind.MASK:
        pictures.overlay(case, path, title)
    elif shown.kind is Kind.POINTS:
        pictures.marks(case.get("image", Image), case.get("result", Points), case.values.get("truth"), path, title)
    else:
        rows = [(image.modality or image.name, replace(case.get("image", Image), units=image.units))]
        for name in ("result", "truth") if truth else ("result",):
            rows.append((name, replace(case.get(name, Image), units=shown.units)))
        pictures.compare(rows, path, title)
    return path
