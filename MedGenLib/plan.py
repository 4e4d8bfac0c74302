"""What a run is to do, written down before it starts: the same plan goes to a process of its own or into this one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen import tables
from MedGenLib.errors import RunError, plain
from MedGenLib.export import export_node
from MedGenLib.i18n import _

# Kinds that no node holds: they are given as text or as the path of a file or folder.
WITHOUT_NODE = ("Class", "Latent", "Model", "Cohort")


@dataclass
class Plan:
    """One run.

    entry and operation are declarations of the catalog. files: paths (or the text of a class) by role. cohort: CSV or
    collection.json for operations on a collection. settings: only what differs from the tier's. out: what the command
    line calls the output.
    """

    entry: dict[str, Any]
    operation: dict[str, Any]
    out: Path
    files: dict[str, list[str]] = field(default_factory=dict)
    cohort: Path | None = None
    model: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    tier: str | None = None
    device: str = "auto"
    seed: int = 0
    precision: str = "auto"
    resume: bool = False
    previews: float | None = None  # seconds between previews of a training; None: none

    def arguments(self) -> list[str]:
        """The command line after `python -m medgen`."""
        name, slug = self.operation["name"], self.entry["slug"]
        if name == "train" and self.cohort is not None:
            words = ["train", slug, str(self.cohort)]
        else:
            words = ["run", slug, name]
            words += ["--model", str(self.model)] if self.model is not None else []
            words += ["--cohort", str(self.cohort)] if self.cohort is not None else []
            words += self._inputs()
        words += ["-o", str(self.out), *self._options(), *(["--resume"] if self.resume else [])]
        return [*words, *(["--previews", f"{self.previews:g}"] if self.previews is not None else [])]

    def check_arguments(self) -> list[str]:
        """The command line that checks the inputs and estimates the time without running."""
        words = ["check", str(self.model or self.entry["slug"]), "--operation", self.operation["name"]]
        if self.cohort is not None:
            words.insert(2, str(self.cohort))
        return [*words, *self._inputs(), *self._options()]

    def _inputs(self) -> list[str]:
        pairs = [(role, path) for role, paths in self.files.items() for path in paths]
        return [word for role, path in pairs for word in ("-i", f"{role}={path}")]

    def _options(self) -> list[str]:
        words = ["--tier", self.tier] if self.tier else []
        for key, value in self.settings.items():
            words += ["--set", f"{key}={json.dumps(value)}"]
        words += ["--precision", self.precision] if self.precision != "auto" else []
        return [*words, "--device", self.device, "--seed", str(self.seed)]


def roles_of(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """The roles a person fills with nodes: the inputs, or the columns of the pools that one row of nodes can fill.

    Where that is more than one pool, a role is called `pool.role`.
    """
    return [role for _pool, roles in _groups(operation) for role in roles]


def node_pools(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """The pools that chosen nodes can fill, one row each: the only one that must be there, or several that all take
    one case. Empty: only a cohort file will do."""
    required = [pool for pool in operation["pools"] if not pool["optional"]] or list(operation["pools"])
    if any(pool["needs"] for pool in required):
        return []
    return required if len(required) == 1 or all(pool.get("one_case") for pool in required) else []


def _groups(operation: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Roles that share a grid: all inputs, or those of each pool, named as `roles_of` says."""
    if operation["scope"] != "collection":
        return [("", list(operation["inputs"]))]
    pools = node_pools(operation)
    if len(pools) == 1:
        return [(pools[0]["name"], list(pools[0]["roles"]))]
    return [
        (pool["name"], [{**role, "name": f"{pool['name']}.{role['name']}"} for role in pool["roles"]]) for pool in pools
    ]


def reference_role(roles: list[dict[str, Any]]) -> str | None:
    """The role on whose grid the results lie: the one marked, else the first image, else the first mask."""
    for wanted in (lambda role: role["reference"], _is("Image"), _is("Mask")):
        for role in roles:
            if wanted(role):
                return str(role["name"])
    return None


def _is(kind: str) -> Any:
    return lambda role: role["kind"] == kind


def as_list(value: Any) -> list[Any]:
    """A value, a list of them or None, as a list."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def export_inputs(
    operation: dict[str, Any], inputs: dict[str, Any], folder: Path, log: Any, complete: bool = True
) -> dict[str, list[str]]:
    """Write the chosen nodes as files; paths and texts pass as they are.

    Raises:
        RunError: a role is unknown, missing (unless `complete` is False) or given too often.
        BoundaryError: a node cannot be written.
    """
    roles = roles_of(operation)
    known = [role["name"] for role in roles]
    for name in inputs:
        if name not in known:
            raise RunError(
                _("There is no role “{name}” here; the roles are: {roles}.").format(
                    name=name, roles=", ".join(known) or _("none")
                )
            )
    # A cohort may hold cases without the structure; from the one case of a scene, an empty mask teaches nothing.
    may_be_empty = operation["scope"] != "collection"
    files: dict[str, list[str]] = {}
    for _pool, group in _groups(operation):
        files |= export_group(group, inputs, folder, may_be_empty, log, complete)
    return files


def export_group(
    roles: list[dict[str, Any]], inputs: dict[str, Any], folder: Path, may_be_empty: bool, log: Any, complete: bool
) -> dict[str, list[str]]:
    """The files of roles that share a grid."""
    reference = next(iter(as_list(inputs.get(reference_role(roles) or ""))), None)
    reference = None if isinstance(reference, (str, Path)) else reference
    files: dict[str, list[str]] = {}
    for role in roles:
        values = as_list(inputs.get(role["name"]))
        if not values and not role["optional"] and complete:
            raise RunError(_("Nothing is chosen for “{role}”; choose one.").format(role=role["name"]))
        if len(values) > 1 and not role["many"]:
            raise RunError(_("“{role}” takes one, but several were given; give one.").format(role=role["name"]))
        empty = may_be_empty and bool(role.get("may_be_empty"))
        paths = [_as_path(value, role, folder, reference, empty, log) for value in values]
        if paths:
            files[role["name"]] = paths
    return files


def _as_path(value: Any, role: dict[str, Any], folder: Path, reference: Any, may_be_empty: bool, log: Any) -> str:
    if role["kind"] == "Class":
        return str(value)
    if isinstance(value, (str, Path)):
        return str(Path(value).resolve())
    options: dict[str, Any] = {"reference": reference, "may_be_empty": may_be_empty, "log": log}
    return str(export_node(value, folder, role["name"], role["kind"], **options))


def cell(paths: list[str]) -> str:
    """The files of one role: separated by `;`, or as JSON where a folder's own name has one."""
    return json.dumps(paths) if len(paths) > 1 and any(";" in path for path in paths) else ";".join(paths)


def parts_of(cell: str) -> list[str]:
    """The files that a cell names, as `_cell` writes it; ValueError when it is neither."""
    names = json.loads(cell) if cell.startswith("[") else cell.split(";")
    return [str(name).strip() for name in names if str(name).strip()]


def write_collection(operation: dict[str, Any], files: dict[str, list[str]], folder: Path) -> Path:
    """The chosen files as what training reads: cohort.csv of one row, or a collection.json that names one for each
    pool; or RunError."""
    pools = node_pools(operation)
    if len(pools) == 1:
        return write_cohort(files, folder)
    for pool in pools:
        prefix = f"{pool['name']}."
        own = {name.removeprefix(prefix): paths for name, paths in files.items() if name.startswith(prefix)}
        write_cohort(own, folder, f"{pool['name']}.csv")
    path = folder / "collection.json"
    try:
        path.write_text(json.dumps({"pools": {pool["name"]: f"{pool['name']}.csv" for pool in pools}}), "utf-8")
    except OSError as error:
        raise RunError(plain(error, path)) from None
    return path


def write_cohort(files: dict[str, list[str]], folder: Path, name: str = "cohort.csv") -> Path:
    """A CSV of one row: a column a role, several files of a role as `medgen.cohort` reads them; or RunError."""
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            cells = [cell(paths) for paths in files.values()]
            tables.write_lines(file, [[*files, "subject"], [*cells, "case1"]])
    except OSError as error:
        raise RunError(plain(error, path)) from None
    return path
