"""The cases a training takes from the scene: what each holds by role, whose it is, and whether it is held out. No Qt.

cases = [TrainingCase("cases", {"image": ct, "mask": drawn}, subject="A"), …]
hold_out(cases, validation=0.2, test=0.2)
model = logic.process(slug, "train", cases=cases, wait=True)["model"]
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import slicer

from medgen import tables
from medgen.splits import SPLITS, split_subjects
from MedGenLib.errors import BoundaryError, MedGenLibError, RunError, plain
from MedGenLib.export import NODE_CLASSES
from MedGenLib.i18n import _
from MedGenLib.load import MARKUP_KINDS
from MedGenLib.parameters import Parameters
from MedGenLib.plan import as_list, cell, export_group, reference_role
from MedGenLib.scratch import file_stem

_KEY = "training cases"  # of the parameter node's text, and what its node references begin with
_NODES = "nodes.json"  # beside the files: which node each was written from
_SAID = {"": "", "none": "", "yes": "yes", "no": "no", "true": "yes", "false": "no"}  # what a script may say


@dataclass
class TrainingCase:
    """One row of a pool. values: role -> node, list of nodes, path of a file, or text (roles of kind Class).

    subject: whose it is; no subject is in two splits. split: train, validation or test, "" where none was chosen.
    labelled: whether somebody looked at it, "yes" or "no"; "" where its labels say so by being there or not.
    """

    pool: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    subject: str = ""
    split: str = ""
    task: str = ""
    domain: str = ""
    labelled: str = ""


def case_pools(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """The pools that cases of the scene can fill; none where each takes exactly one case, chosen among the inputs."""
    pools = list(operation["pools"])
    return pools if any(not pool.get("one_case") for pool in pools) else []


def as_cases(operation: dict[str, Any], given: list[Any]) -> list[TrainingCase]:
    """Cases as a script writes them: `TrainingCase`, or dictionaries of roles beside pool, subject, split, …

    The pool may be left out where there is only one; a case without a subject is a subject of its own. `labelled` may
    be a bool.
    """
    if operation["scope"] != "collection":
        raise RunError(_("“{title}” takes no list of cases; give it inputs.").format(title=operation["title"]))
    pools = {pool["name"]: pool for pool in operation["pools"]}
    known = {one.name for one in fields(TrainingCase)} - {"values"}
    cases = []
    for number, one in enumerate(given, start=1):
        if isinstance(one, dict):
            values = {key: value for key, value in one.items() if key not in known}
            one = TrainingCase(values=values, **{key: str(value) for key, value in one.items() if key in known})
        pool = one.pool or (next(iter(pools)) if len(pools) == 1 else "")
        if pool not in pools:
            raise RunError(
                _("Case {number} names no pool that is known; the pools are: {pools}.").format(
                    number=number, pools=", ".join(pools)
                )
            )
        subject = one.subject or _("case {number}").format(number=number)
        labelled = _said(number, one.labelled)
        if labelled == "no" and not takes_unlabelled(pools[pool]):
            words = _("Case {number} is not labelled, but every case of “{pool}” must be; label it or leave it out.")
            raise RunError(words.format(number=number, pool=pool))
        cases.append(replace(one, pool=pool, subject=subject, labelled=labelled))
    return cases


def _said(number: int, labelled: Any) -> str:
    """A script's word or bool for whether a case is labelled, as `TrainingCase` has it."""
    try:
        return _SAID[str(labelled).lower()]
    except KeyError:
        words = _("Case {number}: “labelled” cannot be “{word}”; write “yes” or “no”, or leave it out.")
        raise RunError(words.format(number=number, word=labelled)) from None


# --- labelled or not


def takes_unlabelled(pool: dict[str, Any]) -> bool:
    """Whether a method makes something of a pool's cases without labels."""
    return "labelled" in (*pool["needs"], *pool["may"])


def labels(pool: dict[str, Any]) -> list[dict[str, Any]]:
    """The roles that make a case a labelled one: those it needs beside its image."""
    leading = reference_role(pool["roles"])
    return [role for role in pool["roles"] if not role["optional"] and role["name"] != leading]


def can_be_none(role: dict[str, Any]) -> bool:
    """Whether “there is none” can be said of a role without a node: an empty file of markups says it."""
    several = role["many"] or role["kind"] == "Points"
    return bool(role["may_be_empty"] and role["kind"] in MARKUP_KINDS and several)


def is_labelled(pool: dict[str, Any], case: TrainingCase) -> bool:
    """Whether somebody looked at a case: as was said, else whether all its labels are there."""
    return case.labelled == "yes" if case.labelled else not _absent(labels(pool), case)


def say_labelled(cases: list[TrainingCase], number: int, pool: dict[str, Any], labelled: bool) -> None:
    """Say whether somebody looked at a case; nothing is kept where its labels say the same."""
    case = cases[number]
    case.labelled = ""
    if is_labelled(pool, case) != labelled:
        case.labelled = "yes" if labelled else "no"


def _absent(roles: list[dict[str, Any]], case: TrainingCase) -> list[str]:
    """The names of those roles for which a case holds nothing."""
    return [role["name"] for role in roles if not as_list(case.values.get(role["name"]))]


# --- kept in the parameter node


def read(parameters: Parameters) -> list[TrainingCase]:
    """The cases of a parameter node, with the nodes that are still there."""
    try:
        records = json.loads(parameters.text(_KEY) or "[]")
    except ValueError:
        return []
    node, cases = parameters.node, []
    for number, record in enumerate(records):
        prefix = f"{_KEY}.{number}."
        references = [node.GetNthNodeReferenceRole(index) for index in range(node.GetNumberOfNodeReferenceRoles())]
        values: dict[str, Any] = dict(record.pop("texts", {}))
        for reference in references:
            if reference.startswith(prefix) and (nodes := parameters.nodes(reference)):
                values[reference.removeprefix(prefix)] = nodes
        cases.append(TrainingCase(values=values, **record))
    return cases


def write(parameters: Parameters, cases: list[TrainingCase]) -> None:
    """Put the cases into a parameter node in place of those that are there."""
    node = parameters.node
    was_modifying = node.StartModify()
    references = [node.GetNthNodeReferenceRole(index) for index in range(node.GetNumberOfNodeReferenceRoles())]
    for reference in references:
        if reference.startswith(f"{_KEY}."):
            node.RemoveNodeReferenceIDs(reference)
    records = []
    for number, case in enumerate(cases):
        texts = {}
        for role, value in case.values.items():
            nodes = [one for one in as_list(value) if hasattr(one, "GetID")]
            for one in nodes:
                node.AddNodeReferenceID(f"{_KEY}.{number}.{role}", one.GetID())
            if not nodes and value:
                texts[role] = str(value)
        record = {one.name: getattr(case, one.name) for one in fields(case) if one.name != "values"}
        records.append({**record, "texts": texts})
    parameters.set_text(_KEY, json.dumps(records) if records else "")
    node.EndModify(was_modifying)
    node.Modified()


# --- subjects and splits


def subject_of(node: Any) -> str:
    """The patient above a node in the subject hierarchy, else the node's own name."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    patient = hierarchy.GetItemAncestorAtLevel(item, "Patient") if item else 0
    return str(hierarchy.GetItemName(patient) if patient else node.GetName()).strip()


def hold_out(cases: list[TrainingCase], validation: float, test: float, seed: int = 0) -> None:
    """Split anew: these shares of the subjects (0..1) choose the best network and are kept for the test."""
    for case in cases:
        case.split = ""
    split_subjects(cases, seed, (1 - validation - test, validation, test))


def add(cases: list[TrainingCase], new: list[TrainingCase]) -> None:
    """Put cases at the end of the list, each in the split in which its subject is already."""
    for case in new:
        known = next((other.split for other in cases if other.subject == case.subject), "")
        case.split = known or case.split or SPLITS[0]
        cases.append(case)


def put_in_split(cases: list[TrainingCase], number: int, split: str) -> None:
    """Put a case into a split, and with it every case of the same subject."""
    for case in cases:
        if case.subject == cases[number].subject:
            case.split = split


def put_value(cases: list[TrainingCase], number: int, role: str, value: Any, pool: dict[str, Any]) -> None:
    """Choose what a case holds for a role, None for nothing; a subject that was read off a node follows the node.

    That it is labelled, or not, was said of what was there, and is forgotten with it; but not that it is not, while
    boxes come and go beside others: more of them make nothing finished.
    """
    case = cases[number]
    first_image = role == reference_role(pool["roles"]) and not as_list(case.values.get(role))
    old, new = _ids(case.values.get(role)), _ids(value)
    if not first_image and new != old and not (case.labelled == "no" and new & old):
        case.labelled = ""
    before = [node for node in as_list(case.values.get(role)) if hasattr(node, "GetID")]
    follows = not case.subject or any(subject_of(node) == case.subject for node in before)
    case.values.pop(role, None)
    if value:
        case.values[role] = value
    if follows and hasattr(value, "GetID"):
        rename_subject(cases, number, subject_of(value))


def _ids(value: Any) -> set[str]:
    return {one.GetID() if hasattr(one, "GetID") else str(one) for one in as_list(value)}


def rename_subject(cases: list[TrainingCase], number: int, subject: str) -> None:
    """Say whose a case is; it joins the split in which that subject is."""
    others = [case for index, case in enumerate(cases) if index != number and case.subject == subject]
    cases[number].subject = subject
    if others:
        cases[number].split = others[0].split


def why_not(operation: dict[str, Any], cases: list[TrainingCase]) -> str:
    """Why a training cannot start with these cases, in one sentence; empty when it can."""
    for pool in case_pools(operation):
        own = [(number, case) for number, case in enumerate(cases, start=1) if case.pool == pool["name"]]
        if not own and not pool["optional"]:
            several = len(operation["pools"]) > 1
            return _("Add a case to “{pool}”.").format(pool=pool["name"]) if several else _("Add a case.")
        if pool.get("one_case") and len(own) > 1:
            return _("“{pool}” takes one case; remove the others.").format(pool=pool["name"])
        if own and all(case.split in ("validation", "test") for _number, case in own) and not pool["optional"]:
            return _("Every case is held out; let some be for training.")
        for number, case in own:
            missing = _missing(pool, case)
            if missing:
                return _("Case {number} lacks: {roles}.").format(number=number, roles=", ".join(missing))
            undrawn = _absent([role for role in labels(pool) if not can_be_none(role)], case)
            if undrawn and is_labelled(pool, case):
                words = _("Case {number} is said to be labelled but lacks: {roles}; choose it or untick “Labelled”.")
                return words.format(number=number, roles=", ".join(undrawn))
        if twice := _twice(pool, own):
            return twice
    return ""


def _missing(pool: dict[str, Any], case: TrainingCase) -> list[str]:
    missing = _absent([role for role in pool["roles"] if not role["optional"]], case)
    if takes_unlabelled(pool):  # only what the images are is needed of a case without labels
        missing = [name for name in missing if name == reference_role(pool["roles"])]
    return missing + [column for column in ("task", "domain") if column in pool["needs"] and not getattr(case, column)]


def _twice(pool: dict[str, Any], own: list[tuple[int, TrainingCase]]) -> str:
    """An image in two cases would be learnt twice, or held out and learnt."""
    leading = reference_role(pool["roles"])
    seen: dict[str, int] = {}
    for number, case in own:
        for node in as_list(case.values.get(leading or "")):
            key, name = (node.GetID(), node.GetName()) if hasattr(node, "GetID") else (str(node), str(node))
            if key in seen:
                words = _("“{name}” is in the cases {one} and {other}; remove one of them.")
                return words.format(name=name, one=seen[key], other=number)
            seen[key] = number
    return ""


# --- as files


class CaseExport:
    """Writes cases one by one: `step()` until it says that none is left, then `finish()`.

    Each case has a folder of its own and its own grid: the rules of one case hold for each.
    """

    def __init__(self, operation: dict[str, Any], cases: list[TrainingCase], folder: Path, log: Any) -> None:
        if reason := why_not(operation, cases):
            raise RunError(reason)
        self._pools = {pool["name"]: pool for pool in operation["pools"]}
        self._cases = [case for case in cases if case.pool in self._pools]
        self._folder, self._log = folder, log
        self._rows: dict[str, list[dict[str, str]]] = {}
        self._origins: dict[str, Any] = {}
        self._done = 0

    @property
    def share(self) -> tuple[int, int]:
        """Cases written, and all of them."""
        return self._done, len(self._cases)

    def step(self) -> bool:
        """Write the next case; whether any is left. A MedGenLibError names the case."""
        if self._done >= len(self._cases):
            return False
        case, number = self._cases[self._done], self._done + 1
        self._done += 1
        pool = self._pools[case.pool]
        roles = {role["name"]: role for role in pool["roles"]}
        values = {role: value for role, value in case.values.items() if as_list(value)}
        if unknown := next((role for role in values if role not in roles), None):
            words = _("Case {number}: there is no role “{role}” here; the roles are: {roles}.")
            raise RunError(words.format(number=number, role=unknown, roles=", ".join(roles)))
        labelled, folder = is_labelled(pool, case), self._folder / f"case{number}"
        needed = [role["name"] for role in labels(pool)]
        if not labelled:  # what is half drawn is not learnt from, and must not stop a training
            values = {role: value for role, value in values.items() if role not in needed}
        try:
            files = export_group(pool["roles"], values, folder, True, self._log, not takes_unlabelled(pool))
            if labelled:
                files |= {name: [_none_of(roles[name], folder)] for name in _absent(labels(pool), case)}
        except MedGenLibError as error:
            kind = BoundaryError if isinstance(error, BoundaryError) else RunError
            raise kind(_("Case {number}: {message}").format(number=number, message=error)) from None
        self._origins |= origins_of(files, values)
        row = {role: cell(paths) for role, paths in files.items()}
        row |= {"subject": case.subject, "split": case.split or SPLITS[0], "task": case.task, "domain": case.domain}
        row["labelled"] = "yes" if labelled else "no"
        self._rows.setdefault(case.pool, []).append(row)
        return self._done < len(self._cases)

    def finish(self) -> Path:
        """Write the tables; the cohort.csv, or the collection.json that names one for each pool. RunError."""
        folder = self._folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_origins(folder, self._origins)
            if len(self._pools) == 1:
                return self._write_table(next(iter(self._rows)), folder / "cohort.csv")
            for pool in self._rows:
                self._write_table(pool, folder / f"{pool}.csv")
            path = folder / "collection.json"
            path.write_text(json.dumps({"pools": {pool: f"{pool}.csv" for pool in self._rows}}), "utf-8")
            return path
        except OSError as error:
            raise RunError(plain(error, error.filename or folder)) from None

    def _write_table(self, pool: str, path: Path) -> Path:
        rows, roles = self._rows[pool], self._pools[pool]["roles"]
        needed = [role["name"] for role in roles if not role["optional"]]  # even where no row has one
        columns = list(dict.fromkeys([*needed, *(name for row in rows for name, text in row.items() if text)]))
        with path.open("w", newline="", encoding="utf-8") as file:
            tables.write_lines(file, [columns, *([row.get(column, "") for column in columns] for row in rows)])
        return path


def export_cases(operation: dict[str, Any], cases: list[TrainingCase], folder: Path, log: Any) -> Path:
    """Write all cases at once; what training reads. RunError or BoundaryError name the case."""
    export = CaseExport(operation, cases, folder, log)
    while export.step():
        pass
    return export.finish()


def _none_of(role: dict[str, Any], folder: Path) -> str:
    """A file of markups which says that there is none; of a role that takes one list of points, a list without any."""
    none = [] if role["many"] else [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": []}]
    path = folder / f"{file_stem(role['name'])}.mrk.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"markups": none}), "utf-8")
    except OSError as error:
        raise RunError(plain(error, path)) from None
    return str(path)


# --- from which node a file came


def origins_of(files: dict[str, list[str]], inputs: dict[str, Any]) -> dict[str, list[str]]:
    """Path -> id and name of the node it was written from."""
    found = {}
    for role, paths in files.items():
        for path, node in zip(paths, as_list(inputs.get(role)), strict=False):
            if hasattr(node, "GetID"):
                found[path] = [node.GetID(), node.GetName()]
    return found


def write_origins(folder: Path, origins: dict[str, list[str]]) -> None:
    """Note them beside the files; OSError."""
    if origins:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _NODES).write_text(json.dumps(origins), "utf-8")


def node_of(paths: list[str], folder: Path) -> Any:
    """The node of the scene that one of these files was written from, or read into; None when it is not there."""
    try:
        origins = json.loads((folder / _NODES).read_text("utf-8"))
    except (OSError, ValueError):
        origins = {}
    scene = slicer.mrmlScene
    for path in paths:
        known = origins.get(path)
        node = scene.GetNodeByID(known[0]) if known else None
        if node is not None and node.GetName() == known[1]:
            return node
    wanted = {Path(path) for path in paths}
    for name in NODE_CLASSES["Image"]:
        for index in range(scene.GetNumberOfNodesByClass(name)):
            node = scene.GetNthNodeByClass(index, name)
            storage = node.GetStorageNode()
            if storage is not None and storage.GetFileName() and Path(storage.GetFullNameFromFileName()) in wanted:
                return node
    return None
