"""Synthetic patients by name, and cohorts of them on disk. Numpy and SimpleITK only: no torch needed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgen.phantoms.canvas import Segment
from medgen.phantoms.cohort import write_cohort

__all__ = ["PHANTOMS", "Phantom", "Segment", "write"]


@dataclass(frozen=True)
class Phantom:
    """One anatomy: its name, one sentence, role name -> kind of what it makes, its mask's segments, and the maker.

    pools: for methods that learn from named single cases, pool name -> (split whose first row it takes, columns).
    labelled: for methods that learn from unlabelled cases too, the share of the training rows that name all roles.
    domains: looks that a patient can have; a cohort has patients of each in turn, and a pool for each.
    """

    name: str
    sentence: str
    roles: dict[str, str]
    segments: tuple[Segment, ...]
    make: Callable[..., dict[str, Any]]
    pools: dict[str, tuple[str, tuple[str, ...]]]
    labelled: float | None = None
    domains: tuple[str, ...] = ()


def _phantom(module: Any) -> Phantom:
    further = getattr(module, "POOLS", {}), getattr(module, "LABELLED", None), getattr(module, "DOMAINS", ())
    return Phantom(module.NAME, module.SENTENCE, module.ROLES, module.SEGMENTS, module.make, *further)


_MODULES = (
    "abdomen_ct",
    "annulus",
    "cataract",
    "drawn",
    "figures",
    "hand_xray",
    "head",
    "inner_ear",
    "mitochondria",
    "mr_angiogram",
)
_MADE = (_phantom(importlib.import_module(f"{__name__}.{name}")) for name in _MODULES)
PHANTOMS = {phantom.name: phantom for phantom in _MADE}


def write(phantom: Phantom, n: int, seed: int, folder: Path, **options: Any) -> Path:
    """Make n patients and write them, with their cohort.csv, into a folder; returns the path of cohort.csv.

    Patient k of a seed is the same whatever n is. A phantom with pools also gets, from three patients on, a
    collection.json with a CSV of one row for each pool. options go to the phantom's `make`. Nothing is left behind
    where it fails. Raises UserError where n is below 1, or the folder exists and is not empty or cannot be written.
    """
    return write_cohort(
        phantom.name,
        phantom.roles,
        phantom.make,
        n,
        seed,
        Path(folder),
        options,
        phantom.pools,
        phantom.labelled,
        phantom.domains,
    )
