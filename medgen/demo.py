"""A method tried on a synthetic patient, from nothing to a picture: phantom, train, apply, measure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medgen import bundle, catalog, cohort, execute, phantoms, prepare, report
from medgen.case import Case, Mask
from medgen.errors import UserError
from medgen.jobs import Run
from medgen.method import Kind, Pool, Role


def run(slug: str, folder: Path, run: Run, tier: str, settings: dict[str, Any]) -> Iterator[str]:
    """Make a phantom, train on it, apply to it and measure; yields what to tell the user, a line at a time.

    Everything is written to `folder`, which must not hold an earlier demo.
    """
    method = catalog.load(slug)
    if not method.phantoms:
        raise UserError(f"“{slug}” has no phantom to try it on; train it on a cohort of your own.")
    for name in ("patient", "model", "result"):
        if (folder / name).exists():
            raise UserError(f"{folder / name} exists already; choose another folder with -o or remove it.")
    table = phantoms.write(phantoms.PHANTOMS[method.phantoms[0]], 1, run.seed, folder / "patient")
    yield f"Synthetic patient: {table}"
    train, apply = method.operation("train"), method.operation("apply")
    run.folder = folder / "model.training"
    config = train.configure(tier, settings)
    made = execute.perform(method, train, config, run, folder / "model", collection=table)
    yield f"Model: {made[0][1]}"
    model = bundle.load(folder / "model", slug)
    row = cohort.read_pool(table, Pool("cases", (*apply.inputs, *_truths(apply.outputs))))[0]
    given = {role.name: row.files[role.name] for role in apply.inputs if role.name in row.files}
    plain = apply.configure(tier if tier in apply.tiers else None, {})
    outputs = execute.perform(method, apply, plain, run, folder / "result", files=[given], model=model)
    for role, path in outputs:
        yield f"Result ({role}): {path}"
    measures = execute.evaluate(method, model, table, plain, run)
    (folder / "measures.json").write_text(json.dumps(measures, indent=1) + "\n", encoding="utf-8")
    text = ", ".join(f"{key} {value:.3f}" for key, value in execute.summary(measures).items())
    yield f"Measured against the whole truth (drawn slices included): {text}"
    picture = _picture(row, apply.inputs, dict(outputs), folder, f"{method.title}: {text}", run)
    if picture is not None:
        yield f"Picture: {picture}"
    shutil.rmtree(run.folder, ignore_errors=True)


def _truths(outputs: tuple[Role, ...]) -> list[Role]:
    return [Role(f"truth_{role.name}", role.kind, "the whole truth", optional=True) for role in outputs]


def _picture(
    row: cohort.Row, inputs: tuple[Role, ...], outputs: dict[str, Path], folder: Path, title: str, run: Run
) -> Path | None:
    """An overlay of the first mask that came out; None for methods that give something else."""
    if "mask" not in outputs:
        return None
    files = {"image": row.files["image"], "result": [str(outputs["mask"])]}
    roles = [role for role in inputs if role.name in ("image", "planes")]
    roles.append(Role("result", Kind.MASK, "", may_be_empty=True))
    if "truth_mask" in row.files:
        files["truth"] = row.files["truth_mask"]
        roles.append(Role("truth", Kind.MASK, "", optional=True))
    if "planes" in row.files:
        files["planes"] = row.files["planes"]
    case: Case = prepare.load_case(files, tuple(roles), run.log)
    if case.get("result", Mask).data.ndim != 3:
        return None
    report.overlay(case, folder / "picture.png", title)
    return folder / "picture.png"
