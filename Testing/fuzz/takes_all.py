"""A method that takes each kind of thing and says what it read: the corpus goes in through it, as through any other."""

from __future__ import annotations

from typing import Any

import numpy as np

from medgen import prepare
from medgen.bundle import Model
from medgen.case import Case, Table
from medgen.cohort import Collection
from medgen.jobs import Run
from medgen.method import Config, Kind, Method, Operation, Pool, Role

ROLES = {
    "image": Role("value", Kind.IMAGE, "A volume"),
    "picture": Role("value", Kind.IMAGE, "A picture", dims="2D"),
    "mask": Role("value", Kind.MASK, "Labels"),
    "points": Role("value", Kind.POINTS, "Points"),
    "line": Role("value", Kind.LINE, "A line"),
    "curve": Role("value", Kind.CURVE, "A curve"),
    "planes": Role("value", Kind.PLANE, "Planes", many=True),
    "box": Role("value", Kind.BOX, "A box"),
    "sphere": Role("value", Kind.SPHERE, "A sphere"),
    "matrix": Role("value", Kind.MATRIX, "A matrix"),
    "table": Role("value", Kind.TABLE, "A table"),
    "latent": Role("value", Kind.LATENT, "A latent"),
    "class": Role("value", Kind.CLASS, "A class"),
}
FACTS = Role("facts", Kind.TABLE, "What was read")
ROW = (
    Role("image", Kind.IMAGE, "A volume"),
    Role("planes", Kind.PLANE, "Planes", many=True, optional=True),
    Role("kind", Kind.CLASS, "A class", optional=True),
)


def _numbers(value: Any) -> int:
    """How many numbers a value holds; every one is looked at, as a network would."""
    if isinstance(value, list):
        return sum(_numbers(item) for item in value)
    total = 0
    for part in vars(value).values():
        for array in part.values() if isinstance(part, dict) else [part]:
            if hasattr(array, "shape"):
                found = np.asarray(array)
                total += found.size - int(np.isnan(found).sum() if found.dtype.kind == "f" else 0)
    return total


class TakesAll(Method):
    slug = "takes-all"
    title = "Read anything"
    sentence = "Reads a thing of any kind and says how many numbers it holds."
    citation = "None"
    url = "https://example.org"
    module = "MedGenSynthesis"
    group = "Evaluate"
    operations = (
        *(
            Operation(f"take-{kind}", kind, "Read it.", Config, "case", (role,), (), (FACTS,))
            for kind, role in ROLES.items()
        ),
        Operation("take-cohort", "cohort", "Read it.", Config, "collection", (), (Pool("cases", ROW),), (FACTS,)),
    )

    def _take(self, case: Case, config: Config, run: Run, model: Model | None) -> Case:
        return Case({"facts": Table({"numbers": [_numbers(case["value"])]})})

    def take_cohort(self, collection: Collection, config: Config, run: Run, model: Model | None) -> Case:
        cases = [prepare.load_row(row, collection.declared["cases"].roles, run.log) for row in collection.rows()]
        return Case({"facts": Table({"numbers": [_numbers(case["image"]) for case in cases]})})


for _kind in ROLES:
    setattr(TakesAll, f"take_{_kind}", TakesAll._take)
