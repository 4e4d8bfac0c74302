"""What every model's card says, whatever the method: learnt from how much of what, and how well on held-out cases.

Numbers and the names of roles only: no subject, no file name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from medgen.bundle import Model
from medgen.case import Case
from medgen.cohort import Collection, Row
from medgen.errors import MedGenError
from medgen.jobs import Run
from medgen.method import Config, Kind, Method, Operation, Pool, Role

MeasureRows = Callable[[Method, Model, list[Row], Operation, Config, Run], list[dict[str, Any]]]


def complete(
    result: Case,
    method: Method,
    operation: Operation,
    collection: Collection,
    config: Config,
    run: Run,
    measure_rows: MeasureRows,
    summary: Callable[[list[dict[str, Any]]], dict[str, float]],
) -> None:
    """Add to the facts of every model that a training gave what it learnt from, and its measures on the test rows.

    Test rows that cannot be measured cost the measures, never the model; a cancelled run is cancelled.
    """
    models = [value for value in result.values.values() if isinstance(value, Model)]
    if not models:
        return
    learnt = describe(collection, ("", "train", "validation"))
    apply, rows = _held_out(method, operation, collection)
    for model in models:
        facts: dict[str, Any] = {"learnt from": learnt, **model.facts}
        if rows:
            facts["held out"] = describe(collection, ("test",))
        if apply is not None and rows:
            try:
                measured = measure_rows(method, model, rows, apply, _settings_like(apply, operation, config), run)
                means = {name: value for name, value in summary(measured).items() if math.isfinite(value)}
                facts["on held-out cases"] = means or "not measured"
            except MedGenError as error:
                run.check_cancelled()
                run.log(f"The held-out cases were not measured: {error}")
                facts["on held-out cases"] = "not measured"
        model.facts = facts


def describe(collection: Collection, splits: tuple[str, ...]) -> str:
    """How many cases and subjects the rows of these splits are, and what their columns hold."""
    parts = []
    for name, pool in collection.declared.items():
        rows = [row for row in collection.pools.get(name, []) if row.split in splits]
        if not rows:
            continue
        subjects = len({row.subject for row in rows})
        words = f"{_count(len(rows), 'case')} of {_count(subjects, 'subject')}"
        columns = ", ".join(_column(role) for role in pool.roles if any(role.name in row.files for row in rows))
        validation = sum(row.split == "validation" for row in rows)
        words += f" ({columns})" + (f", {validation} for validation" if validation else "")
        parts.append(words if len(collection.declared) == 1 else f"{name}: {words}")
    return "; ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _column(role: Role) -> str:
    return role.name if role.modality is None else f"{role.name}: {role.modality}"


def _held_out(method: Method, operation: Operation, collection: Collection) -> tuple[Operation | None, list[Row]]:
    """The operation that a model is measured by, and the test rows that hold what it takes and what it should give."""
    users = [one for one in method.operations if one.needs_model and one.scope == "case"]
    users.sort(key=lambda one: one.name != "apply")
    for user in users:
        for name in collection.declared:
            rows = [row for row in collection.pools.get(name, []) if row.split == "test" and row.labelled]
            if rows and _can_measure(user, collection.declared[name]):
                return user, rows
    return None, [row for rows in collection.pools.values() for row in rows if row.split == "test"]


def _can_measure(user: Operation, pool: Pool) -> bool:
    names = {role.name for role in pool.roles}
    taken = {role.name for role in user.inputs if not role.optional}
    given = {role.name for role in user.outputs if role.kind is not Kind.MODEL} - taken
    return taken <= names and bool(given & names)


def _settings_like(user: Operation, operation: Operation, config: Config) -> Config:
    """Settings of the tier that the training had, where there is one; else of the middle tier."""
    tiers = [tier for tier in operation.tiers if operation.configure(tier, {}) == config]
    tier = next((one for one in (*tiers, "demo") if one in user.tiers), None)
    return user.configure(tier, {})
