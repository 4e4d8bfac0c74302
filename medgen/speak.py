"""How a run's events reach whoever started it. Standard library until a terminal wants a progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from medgen.files import printable


def emitter(form: str) -> Callable[[dict[str, Any]], None]:
    """How a run's events reach whoever started it: JSON lines, a progress bar on a terminal, or plain lines."""
    if form == "json":
        return lambda event: print(json.dumps(event, ensure_ascii=False), flush=True)
    if form == "none":
        return lambda event: None
    if sys.stderr.isatty():
        return _bar()
    return lambda event: (
        print(printable(event["message"]), file=sys.stderr, flush=True) if event["event"] == "log" else None
    )


def _bar() -> Callable[[dict[str, Any]], None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[left]}"),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, Any] = {}

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "log":
            bar.console.print(printable(event["message"]), markup=False, highlight=False)
        if event["event"] != "progress":
            return
        if not tasks:
            bar.start()
        if event["stage"] not in tasks:
            tasks[event["stage"]] = bar.add_task(event["stage"], total=event["total"], left="")
        left = event["seconds_left"]
        text = "" if left is None else f"{left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left"
        bar.update(tasks[event["stage"]], completed=event["done"], left=text)
        if event["done"] >= event["total"]:
            bar.stop()
            tasks.clear()

    return emit
