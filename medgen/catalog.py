"""The methods by slug, read from catalog.json. Standard library only, so that it answers before torch is installed.

`MEDGEN_CATALOG` may name further catalog files (separated as PATH is): how tests, and a laboratory's own methods,
join in without a change to MedGen.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen.errors import UserError

if TYPE_CHECKING:
    from medgen.method import Method

PATH = Path(__file__).with_name("catalog.json")
FAMILIES = ("synthesis", "segmentation", "landmarks")


@functools.lru_cache(maxsize=8)
def _read(file: Path, changed: int) -> list[dict[str, Any]]:
    """The methods of a catalog as it was when it last changed: a panel and a line of jobs ask very often."""
    return list(json.loads(file.read_text("utf-8"))["methods"])


def entries() -> dict[str, dict[str, Any]]:
    """Every method's declarations by slug, in the catalog's order; shared by all who ask, so to be read only."""
    files = [PATH, *(Path(part) for part in os.environ.get("MEDGEN_CATALOG", "").split(os.pathsep) if part)]
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            found.update({entry["slug"]: entry for entry in _read(file, file.stat().st_mtime_ns)})
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"Catalog {file} cannot be read ({error}); reinstall MedGen or correct MEDGEN_CATALOG."
            ) from None
    return found


def entry(slug: str) -> dict[str, Any]:
    """One method's declarations; UserError suggests the nearest slug."""
    known = entries()
    if slug in known:
        return known[slug]
    near = difflib.get_close_matches(slug, known, n=1)
    hint = f"did you mean “{near[0]}”?" if near else f"the methods are: {', '.join(known) or 'none'}."
    raise UserError(f"There is no method “{slug}”; {hint}")


def operation_entry(slug: str, name: str) -> dict[str, Any]:
    """One operation's declarations; UserError lists the operations."""
    operations = entry(slug)["operations"]
    for operation in operations:
        if operation["name"] == name:
            return operation
    raise UserError(f"“{slug}” has no operation “{name}”; it has: {', '.join(o['name'] for o in operations)}.")


def load(slug: str) -> Method:
    """The method itself. Imports torch and whatever else its file needs."""
    module, _, name = entry(slug)["implementation"].partition(":")
    return getattr(importlib.import_module(module), name)()


def build(modules: list[str] | None = None) -> str:
    """catalog.json's text made from the declarations in `modules` (default: every file of the three families)."""
    from medgen.method import Method, describe

    if modules is None:
        root = Path(__file__).parent
        modules = [
            f"medgen.{family}.{file.stem}"
            for family in FAMILIES
            for file in sorted((root / family).glob("*.py"))
            if file.stem != "__init__"
        ]
    methods = []
    for name in modules:
        module = importlib.import_module(name)
        methods += [
            describe(item)
            for item in vars(module).values()
            if isinstance(item, type) and issubclass(item, Method) and item.__module__ == name
        ]
    return json.dumps({"methods": methods}, indent=1, ensure_ascii=False) + "\n"
