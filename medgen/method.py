"""What a method is: declarations that everything else reads, and the operations that do the work.

A method is one class in one file. Its class attributes are written to `catalog.json` by `medgen methods --write`,
and the panel, `medgen methods`, `medgen card` and the messages to the user are made from that file alone.
"""

from __future__ import annotations

import enum
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from medgen.errors import UserError

if TYPE_CHECKING:
    from medgen.bundle import Model
    from medgen.case import Case
    from medgen.jobs import Run

MODULES = ("MedGenSynthesis", "MedGenSegmentation", "MedGenLandmarks")
GROUPS = {
    "MedGenSynthesis": ("Translate", "Generate", "Edit", "Augment", "Evaluate"),
    "MedGenSegmentation": ("Segment", "Learn from weak labels", "Adapt", "Curate"),
    "MedGenLandmarks": ("Points", "Boxes"),
}


class Kind(str, enum.Enum):
    """What a role holds; `COHORT` is a set of cases written as files and a cohort.csv."""

    IMAGE = "Image"
    MASK = "Mask"
    POINTS = "Points"
    LINE = "Line"
    CURVE = "Curve"
    PLANE = "Plane"
    BOX = "Box"
    SPHERE = "Sphere"
    MATRIX = "Matrix"
    CLASS = "Class"
    TABLE = "Table"
    PLOT = "Plot"
    LATENT = "Latent"
    MODEL = "Model"
    COHORT = "Cohort"


class Config(BaseModel):
    """Settings of one operation; every field has a description, a range and the paper's value where it gives one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Tiers = dict[str, dict[str, Any]]  # by a tier's name: the settings it changes
Declared = tuple[str, type[Config], Tiers]  # of an operation: a sentence on what it does, its settings, its tiers


def memory_window(least: int, step: int = 1, at_zero: str | None = None) -> dict[str, Any]:
    """Mark for a field's `json_schema_extra`: how much is looked at at once. Less needs less memory and changes nothing
    but the tiling, so a run that is out of memory may halve it by itself, down to `least`, in multiples of `step`.

    at_zero: the setting of the model's training that stands in where this one is 0.
    """
    return {"memory": {"role": "window", "least": least, "step": step, "at_zero": at_zero}}


def paper(value: Any, unit: str | None = None) -> dict[str, Any]:
    """Mark for a field's `json_schema_extra`: what the paper has, and the unit of it."""
    return {"paper": value} if unit is None else {"paper": value, "unit": unit}


def unit(name: str) -> dict[str, Any]:
    """Mark for a field's `json_schema_extra`: its unit."""
    return {"unit": name}


def lowers_memory() -> dict[str, Any]:
    """Mark for a field's `json_schema_extra`: a training that is out of memory names it as one to lower."""
    return {"memory": {"role": "lower"}}


@dataclass(frozen=True)
class Role:
    """One named thing that goes into an operation or comes out of it.

    `reference` marks the input whose grid the others are resampled to and outputs lie on (the first Image, else the
    first Mask, when none is marked). `same_grid` forbids that resampling: another grid is then an error.
    """

    name: str
    kind: Kind
    help: str
    dims: Literal["2D", "3D", "either"] = "3D"
    modality: str | None = None
    units: str | None = None
    many: bool = False
    optional: bool = False
    same_grid: bool = False
    reference: bool = False
    may_be_empty: bool = False


@dataclass(frozen=True)
class Pool:
    """A named set of rows in a collection: which roles its rows carry, and whether rows belong to tasks or domains.

    one_case: it holds exactly one row (a reference, an example). An operation whose pools are all so can be filled from
    nodes, one selector for each pool's roles.
    needs: reserved columns ("task", "domain", "labelled") that every row must fill.
    may: those that a row may fill and that change what is learnt; "labelled": the panel offers cases without labels.
    """

    name: str
    roles: tuple[Role, ...]
    help: str = ""
    optional: bool = False
    one_case: bool = False
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """The grid of what comes out when nothing goes in: voxels along i, j, k and their size in mm."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class Operation:
    """One thing a method does. Its implementation is the method's function of the same name (`-` as `_`).

    scope "case": function(case, config, run, model) -> Case; "set": function(cases, …) -> Case;
    "collection": function(collection, config, run, model) -> Case; "nothing": function(config, run, model) -> Case.
    A role of kind MODEL among the outputs holds a `medgen.bundle.Model`.

    features: for scope "set", the name of the method's function(case, config, run, model) -> Latent that does the heavy
    step of each case by itself, so that a batch can share it out; the operation is then given, for each case, a Case
    that holds just that Latent, as “features”.
    """

    name: str
    title: str
    help: str
    config: type[Config]
    scope: Literal["case", "set", "collection", "nothing"] = "case"
    inputs: tuple[Role, ...] = ()
    pools: tuple[Pool, ...] = ()
    outputs: tuple[Role, ...] = ()
    needs_model: bool = False
    grid: Grid | None = None
    features: str | None = None
    tiers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def train_and_apply(
        pools: tuple[Pool, ...], inputs: tuple[Role, ...], outputs: tuple[Role, ...], train: Declared, apply: Declared
    ) -> tuple[Operation, Operation]:
        """What most methods do: train a model on a collection of `pools`; apply it to `inputs`, which gives `outputs`.

        train, apply: a sentence that says what each does, its settings, and its tiers.
        """
        (learn, config, tiers), (find, rule, rules) = train, apply
        trained = (Role("model", Kind.MODEL, "The trained model"),)
        return (
            Operation("train", "Train", learn, config, "collection", pools=pools, outputs=trained, tiers=tiers),
            Operation("apply", "Apply", find, rule, inputs=inputs, outputs=outputs, needs_model=True, tiers=rules),
        )

    def columns(self) -> tuple[Role, ...]:
        """What the rows of a cohort that this is applied to may hold: its inputs, and the references of its outputs,
        each under `truth_` and the output's name or, where no input is called so, under the name itself."""
        outputs = [role for role in self.outputs if role.kind is not Kind.MODEL]
        taken = {role.name for role in self.inputs}
        plain = [replace(role, optional=True) for role in outputs if role.name not in taken]
        return (*self.inputs, *plain, *(replace(role, name=f"truth_{role.name}", optional=True) for role in outputs))

    def configure(self, tier: str | None, settings: dict[str, Any]) -> Config:
        """The operation's Config at a tier with single settings changed.

        Raises UserError naming the key for an unknown key or a value out of range.
        """
        if tier and self.tiers and tier not in self.tiers:
            raise UserError(f"Tier “{tier}” is not known to “{self.name}”; choose one of {', '.join(self.tiers)}.")
        for key in settings:
            if key not in self.config.model_fields:
                known = ", ".join(self.config.model_fields) or "none"
                raise UserError(f"Setting “{key}” is not known to “{self.name}”; its settings are: {known}.")
        values = {**(self.tiers.get(tier, {}) if tier else {}), **settings}
        try:
            return self.config(**values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "the combination of settings"
            raise UserError(
                f"Setting “{key}” = {first.get('input')!r} is not possible: {first['msg'].lower()}; "
                "mend it and start again."
            ) from None


@dataclass(frozen=True)
class Estimate:
    """What a run will take on this machine: seconds, bytes of memory and of disk, and sentences worth knowing.

    suggested: values for optional roles that were left out and that the method would infer (role name -> value or
    list); a panel shows them and lets the user confirm them before the run (annotated planes, for one).
    """

    seconds: float
    memory_bytes: int
    disk_bytes: int
    notes: tuple[str, ...] = ()
    suggested: dict[str, Any] = field(default_factory=dict)


class Method(ABC):
    """Base of every method. Subclasses fill the attributes and write one function an operation."""

    slug: ClassVar[str]
    title: ClassVar[str]
    sentence: ClassVar[str]
    citation: ClassVar[str]
    url: ClassVar[str]
    module: ClassVar[str]
    group: ClassVar[str]
    operations: ClassVar[tuple[Operation, ...]]
    phantoms: ClassVar[tuple[str, ...]] = ()
    demo_cases: ClassVar[int] = 1  # synthetic patients that `medgen demo` makes
    carries_patient_data: ClassVar[bool] = False
    needs: ClassVar[str] = ""  # one sentence: what a user must bring
    limits: ClassVar[str] = ""  # one sentence: where it fails
    worker: ClassVar[str] = "medgen.casework"  # what does one case of a batch; see there for what such a module has

    def operation(self, name: str) -> Operation:
        """The declared operation of that name; UserError lists the names when there is none."""
        for operation in self.operations:
            if operation.name == name:
                return operation
        names = ", ".join(operation.name for operation in self.operations)
        raise UserError(f"“{self.slug}” has no operation “{name}”; it has: {names}.")

    def estimate(
        self, operation: Operation, cases: list[Case], config: Config, run: Run, model: Model | None = None
    ) -> Estimate:
        """Time, memory and disk of a run over these prepared cases; methods override this with measured figures.

        Raises UserError for whatever the run itself would refuse.
        """
        voxels = sum(case.voxels() for case in cases)
        return Estimate(seconds=1.0 + voxels * 1e-6, memory_bytes=voxels * 16 + 2**29, disk_bytes=voxels * 8)

    def measure(self, result: Case, reference: Case) -> dict[str, float]:
        """The paper's own measures of one result against its reference; empty when the method has none."""
        return {}

    def features_of(
        self, operation: Operation, cases: Sequence[Case], config: Config, run: Run, model: Model | None
    ) -> Sequence[Case]:
        """What an operation on a set is given: the cases, or their features where it declares how to make them."""
        if operation.features is None:
            return cases
        from medgen.case import Case

        make = getattr(self, operation.features)
        found = []
        for index, case in enumerate(cases):
            run.progress(index, len(cases), "features")
            found.append(Case({"features": make(case, config, run, model)}, case.row, case.label))
        return found

    def perform(self, operation: Operation, given: Any, config: Config, run: Run, model: Model | None) -> Case:
        """Call the function that implements the operation."""
        function = getattr(self, operation.name.replace("-", "_"))
        return function(config, run, model) if operation.scope == "nothing" else function(given, config, run, model)


# --- declarations as data: what catalog.json holds ----------------------------------------------------------------


def describe(method: type[Method]) -> dict[str, Any]:
    """A method's declarations as JSON-able data."""
    if method.module not in MODULES or method.group not in GROUPS[method.module]:
        raise ValueError(f"{method.slug}: module {method.module!r}, group {method.group!r} are not a pair we know")
    return {
        "slug": method.slug,
        "title": method.title,
        "sentence": method.sentence,
        "citation": method.citation,
        "url": method.url,
        "module": method.module,
        "group": method.group,
        "needs": method.needs,
        "limits": method.limits,
        "phantoms": list(method.phantoms),
        "carries_patient_data": method.carries_patient_data,
        "worker": method.worker,
        "implementation": f"{method.__module__}:{method.__qualname__}",
        "operations": [_describe_operation(method, operation) for operation in method.operations],
    }


def _describe_operation(method: type[Method], operation: Operation) -> dict[str, Any]:
    if not callable(getattr(method, operation.name.replace("-", "_"), None)):
        raise ValueError(f"{method.slug}: operation {operation.name!r} has no function")
    if operation.features is not None and not (operation.scope == "set" and hasattr(method, operation.features)):
        raise ValueError(f"{method.slug}: operation {operation.name!r} has no function {operation.features!r}")
    return {
        "name": operation.name,
        "title": operation.title,
        "help": operation.help,
        "scope": operation.scope,
        "needs_model": operation.needs_model,
        "features": operation.features,
        "inputs": [_describe_role(role) for role in operation.inputs],
        "pools": [
            {
                "name": pool.name,
                "help": pool.help,
                "optional": pool.optional,
                "one_case": pool.one_case,
                "needs": list(pool.needs),
                "may": list(pool.may),
                "roles": [_describe_role(role) for role in pool.roles],
            }
            for pool in operation.pools
        ],
        "outputs": [_describe_role(role) for role in operation.outputs],
        "grid": None
        if operation.grid is None
        else {"shape": list(operation.grid.shape), "spacing": list(operation.grid.spacing)},
        "tiers": operation.tiers,
        "settings": [_describe_field(name, info) for name, info in operation.config.model_fields.items()],
    }


def _describe_role(role: Role) -> dict[str, Any]:
    return {
        "name": role.name,
        "kind": role.kind.value,
        "help": role.help,
        "dims": role.dims,
        "modality": role.modality,
        "units": role.units,
        "many": role.many,
        "optional": role.optional,
        "same_grid": role.same_grid,
        "reference": role.reference,
        "may_be_empty": role.may_be_empty,
    }


def _describe_field(name: str, info: FieldInfo) -> dict[str, Any]:
    """A setting as a panel needs it: type, default, limits, choices, unit, the paper's value."""
    if not info.description:
        raise ValueError(f"setting {name!r} has no description")
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    result: dict[str, Any] = {"name": name, "help": info.description, "default": info.default, **extra}
    result["type"], choices = _field_type(info.annotation)
    if choices:
        result["choices"] = choices
    for limit in info.metadata:
        for key, ours in (("ge", "minimum"), ("le", "maximum"), ("gt", "above"), ("lt", "below")):
            if getattr(limit, key, None) is not None:
                result[ours] = getattr(limit, key)
        if getattr(limit, "multiple_of", None) is not None:
            result["step"] = limit.multiple_of
    return result


def _field_type(annotation: Any) -> tuple[str, list[Any]]:
    if get_origin(annotation) is Literal:
        return "choice", list(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "choice", [item.value for item in annotation]
    names = {bool: "boolean", int: "integer", float: "number", str: "text"}
    return names.get(annotation, "json"), []
