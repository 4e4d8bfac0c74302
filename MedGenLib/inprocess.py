"""A plan carried out inside this Python, with the same results as in a process of its own. Calls import torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medgen.errors import MedGenError
from MedGenLib.errors import RunError
from MedGenLib.plan import Plan

Event = dict[str, Any]


def perform(plan: Plan, on_event: Callable[[Event], None]) -> list[Event]:
    """Run a plan here; its "output" events.

    Raises:
        RunError: with the sentence and the exit code that the command line would have ended with.
    """
    from medgen import bundle, catalog, execute
    from medgen.jobs import Run

    outputs: list[Event] = []

    def emit(event: Event) -> None:
        if event["event"] == "output":
            outputs.append(event)
        on_event(event)

    try:
        method = catalog.load(plan.entry["slug"])
        operation = method.operation(plan.operation["name"])
        tier = plan.tier or ("demo" if operation.tiers else None)
        config = operation.configure(tier, plan.settings)
        model = None if plan.model is None else bundle.load(plan.model, expect=method.slug)
        with tempfile.TemporaryDirectory(prefix="medgen-", ignore_cleanup_errors=True) as scratch:
            options: dict[str, Any] = {"device": plan.device, "seed": plan.seed, "precision": plan.precision}
            run = Run(Path(scratch), previews=plan.previews, emit=emit, **options)
            execute.perform(
                method, operation, config, run, plan.out, files=[plan.files], collection=plan.cohort, model=model
            )
    except MedGenError as error:
        raise RunError(str(error), error.exit_code) from None
    return outputs
