"""Many cases through one operation: from a folder, a table or the subject hierarchy, one job of the line a case. No Qt.

found = cases.from_folder(operation, Path("scans"), {"mr": "*_T1.nii.gz"})
batch = logic.process_cases(slug, "apply", found, model="head", output=Path("out"), wait=True)
batch.rows()  # case, state, reason, output, seconds
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import slicer
import vtk

from medgen import tables
from medgen.errors import UserError
from MedGenLib import casetable, takeback
from MedGenLib.errors import RunError, plain
from MedGenLib.export import NODE_CLASSES
from MedGenLib.i18n import _
from MedGenLib.jobqueue import CANCELLED, DONE, FAILED, JobLine, QueuedJob, Remembered
from MedGenLib.load import provenance_of
from MedGenLib.plan import as_list, parts_of
from MedGenLib.results import nodes_of
from MedGenLib.runs import MedGenRun

IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr", ".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass
class Case:
    """One case. inputs: role -> path, node, text, or a list of them. problem: why it cannot be run, or empty."""

    name: str
    inputs: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def leading_role(operation: dict[str, Any]) -> dict[str, Any] | None:
    """The only role that must be filled, where it takes one image: then every image is a case."""
    required = [role for role in operation["inputs"] if not role["optional"]]
    return required[0] if len(required) == 1 and required[0]["kind"] == "Image" and not required[0]["many"] else None


# --- a folder -----------------------------------------------------------------------------------------------------


def from_folder(operation: dict[str, Any], folder: Path, patterns: dict[str, str] | None = None) -> list[Case]:
    """Cases from the files of a folder.

    Args:
        operation: an operation's declarations.
        folder: where the files are.
        patterns: role -> how its files are called, relative to the folder; what the first `*` stands for is the case
            ("*_T1.nii.gz", "*/mr.nrrd"). A name without `*` is the same file for every case. Without a pattern for the
            only image that an operation needs, every image of the folder is a case.
    Raises:
        RunError: the folder is not there, a pattern is missing, or nothing is found.
    """
    if not folder.is_dir():
        raise RunError(_("Folder {folder} does not exist; choose another.").format(folder=folder))
    given = {role: text.strip() for role, text in (patterns or {}).items() if text.strip()}
    lead, found, shared = leading_role(operation), dict[str, dict[str, list[Path]]](), dict[str, Path]()
    for role in operation["inputs"]:
        name = role["name"]
        if name not in given and role is not lead:
            if not role["optional"]:
                raise RunError(
                    _("Say how the files of “{role}” are called, for example *_{role}.nii.gz.").format(role=name)
                )
            continue
        if "*" in given.get(name, "*"):
            files = _matching(folder, given[name]) if name in given else _images(folder)
            for key, path in files:
                found.setdefault(key, {}).setdefault(name, []).append(path)
        elif (folder / given[name]).exists():
            shared[name] = folder / given[name]
    cases = [_case_of(operation, key, files, shared) for key, files in sorted(found.items())]
    if not cases:
        raise RunError(_("No case was found in {folder}; check folder and file names.").format(folder=folder))
    return cases


def _images(folder: Path) -> list[tuple[str, Path]]:
    found = []
    for path in sorted(folder.iterdir()):
        ending = next((one for one in IMAGE_ENDINGS if path.name.lower().endswith(one)), None)
        if ending and path.is_file() and not path.name.startswith(".") and not path.name.lower().endswith(".seg.nrrd"):
            found.append((path.name[: -len(ending)], path))
    return found


def _matching(folder: Path, pattern: str) -> list[tuple[str, Path]]:
    """What the first `*` of a pattern stands for, and the file, of every file that matches."""
    words = [re.escape(word) for word in pattern.split("*")]
    expression = re.compile(words[0] + "([^/]*)" + "[^/]*".join(words[1:]))
    found = []
    for path in sorted(folder.glob(pattern)):
        match = expression.fullmatch(path.relative_to(folder).as_posix())
        if match and not path.name.startswith("."):
            found.append((match[1], path))
    return found


def _case_of(operation: dict[str, Any], name: str, files: dict[str, list[Path]], shared: dict[str, Path]) -> Case:
    case = Case(name, dict(shared))
    for role in operation["inputs"]:
        paths = files.get(role["name"], [])
        if len(paths) > 1 and not role["many"]:
            case.problem = _("Several files are called as “{role}” is: {files}; make the pattern narrower.").format(
                role=role["name"], files=", ".join(path.name for path in paths)
            )
        elif paths:
            case.inputs[role["name"]] = paths if role["many"] else paths[0]
        elif not role["optional"] and role["name"] not in shared:
            case.problem = _("There is no file for “{role}”; add it or correct its name.").format(role=role["name"])
    return case


# --- a table ------------------------------------------------------------------------------------------------------


def from_table(operation: dict[str, Any], path: Path) -> list[Case]:
    """Cases from a cohort CSV, by the rules of `medgen.cohort`: a column a role, `subject` names the case, paths are
    relative to the file. A row at fault becomes a case that says why; the others can be run.

    Raises:
        RunError: the file is no table, has no row, or lacks the column of a role that must be filled.
    """
    try:
        rows = tables.read_rows(path)
    except UserError as error:
        raise RunError(str(error)) from None
    if not rows:
        raise RunError(_("{path} has no rows; add one for each case.").format(path=path))
    for role in operation["inputs"]:
        if not role["optional"] and role["name"] not in rows[0]:
            raise RunError(
                _("{path} has no column “{role}” (it has: {columns}); add it or rename a column.").format(
                    path=path, role=role["name"], columns=", ".join(rows[0])
                )
            )
    cases = [_case_of_row(operation, row, path, line) for line, row in enumerate(rows, start=2)]
    return [replace(case, name=name) for case, name in zip(cases, _unique([case.name for case in cases]), strict=True)]


def _case_of_row(operation: dict[str, Any], row: dict[str, str], table: Path, line: int) -> Case:
    case = Case(row.get("subject") or _("row {line}").format(line=line))
    where = _("{table}, line {line}").format(table=table.name, line=line)
    for role in operation["inputs"]:
        name, text = role["name"], row.get(role["name"], "")
        if not text:
            if not role["optional"]:
                case.problem = _("{where}: column “{role}” is empty; fill it in or remove the row.").format(
                    where=where, role=name
                )
            continue
        if role["kind"] == "Class":
            case.inputs[name] = text
            continue
        try:
            paths = [table.parent / part for part in (parts_of(text) if role["many"] else [text])]
        except ValueError:
            case.problem = _("{where}: “{text}” is not a list of files; separate them with “;”.").format(
                where=where, text=text[:60]
            )
            continue
        for path in paths:
            if not path.exists():
                case.problem = _("{where}: {path} (column “{role}”) does not exist; correct the path.").format(
                    where=where, path=path, role=name
                )
        case.inputs[name] = paths if role["many"] else paths[0]
    return case


def _unique(names: list[str]) -> list[str]:
    """Names, numbered where one comes again."""
    found: list[str] = []
    for name in names:
        free, number = name, 1
        while free in found:
            number += 1
            free = f"{name} ({number})"
        found.append(free)
    return found


# --- the subject hierarchy ----------------------------------------------------------------------------------------


def from_hierarchy(operation: dict[str, Any], item: int) -> list[Case]:
    """Cases from what lies under an item of the subject hierarchy.

    Where an operation needs one image alone, every image under the item is a case. Otherwise every branch is one: a
    node goes to the role whose name is a word of its own, or to the only role that takes nodes of its class. What
    MedGen made is left out.

    Raises:
        RunError: nothing under the item can serve.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    lead = leading_role(operation)
    cases = []
    if lead is not None:
        for node in _nodes_under(hierarchy, item):
            if node.GetClassName() in NODE_CLASSES["Image"]:
                cases.append(Case(node.GetName(), {lead["name"]: node}))
    else:
        for branch in _children(hierarchy, item):
            nodes = _nodes_under(hierarchy, branch)
            if nodes:
                cases.append(_case_of_branch(operation, hierarchy.GetItemName(branch), nodes))
    if not cases:
        raise RunError(
            _("No case was found under “{item}”; choose an item that holds images not made by MedGen.").format(
                item=hierarchy.GetItemName(item) if item != hierarchy.GetSceneItemID() else _("Scene")
            )
        )
    names = _unique([case.name for case in cases])
    return [replace(case, name=name) for case, name in zip(cases, names, strict=True)]


def branches() -> list[tuple[int, str, int]]:
    """Items of the subject hierarchy under which cases may lie: id, name, depth; the scene itself first."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    found = [(int(hierarchy.GetSceneItemID()), _("Scene"), 0)]

    def walk(item: int, depth: int) -> None:
        for child in _children(hierarchy, item):
            node = hierarchy.GetItemDataNode(child)
            if _children(hierarchy, child) and (node is None or not node.IsA("vtkMRMLSegmentationNode")):
                found.append((child, hierarchy.GetItemName(child), depth))
                walk(child, depth + 1)

    walk(found[0][0], 1)
    return found


def _children(hierarchy: Any, item: int, deep: bool = False) -> list[int]:
    ids = vtk.vtkIdList()
    hierarchy.GetItemChildren(item, ids, deep)
    return [int(ids.GetId(index)) for index in range(ids.GetNumberOfIds())]


def _nodes_under(hierarchy: Any, item: int) -> list[Any]:
    """The nodes of an item and of all below it, without those that Slicer hides or MedGen made."""
    items = [item, *_children(hierarchy, item, deep=True)]
    found = [node for node in map(hierarchy.GetItemDataNode, items) if node is not None]
    return [node for node in found if not node.GetHideFromEditors() and not provenance_of(node)]


def _case_of_branch(operation: dict[str, Any], name: str, nodes: list[Any]) -> Case:
    case = Case(name)
    for role in operation["inputs"]:
        classes = NODE_CLASSES.get(role["kind"], ())
        fitting = [node for node in nodes if node.GetClassName() in classes]
        named = [node for node in fitting if role["name"].lower() in re.split(r"[\W_]+", node.GetName().lower())]
        alone = [one for one in operation["inputs"] if set(NODE_CLASSES.get(one["kind"], ())) & set(classes)] == [role]
        chosen = named or (fitting if alone else [])
        if len(chosen) > 1 and not role["many"]:
            case.problem = _("Several nodes could be “{role}”: {names}; rename them.").format(
                role=role["name"], names=", ".join(node.GetName() for node in chosen)
            )
        elif chosen:
            case.inputs[role["name"]] = chosen if role["many"] else chosen[0]
        elif not role["optional"]:
            case.problem = _("No node is called “{role}”; rename the one that is meant.").format(role=role["name"])
    return case


# --- the batch ----------------------------------------------------------------------------------------------------

Prepare = Callable[[Case, str, Path | None], MedGenRun]


class CaseBatch:
    """Cases of one operation in the line, and the table of how they went. `on_end(batch)` when all are through.

    A table node with a row a case appears when the first case is over, and is kept up to date.
    """

    def __init__(
        self, slug: str, operation: dict[str, Any], cases: list[Case], prepare: Prepare, output: Path | None = None
    ) -> None:
        if operation["scope"] != "case":
            raise RunError(
                _("“{title}” does not work case by case; give it a table of cases as a whole.").format(
                    title=operation["title"]
                )
            )
        if not cases:
            raise RunError(_("There is no case; choose a folder, a table or a branch that holds some."))
        if output is not None and not output.is_dir():
            raise RunError(_("Folder {folder} does not exist; choose another.").format(folder=output))
        self.title = str(operation["title"])
        self.slug = slug
        self.output = output
        self.on_end: Callable[[CaseBatch], None] = lambda batch: None
        self._operation = operation
        names = _unique([case.name for case in cases])
        folders = _unique([re.sub(r"[^\w.-]+", "_", name).strip("._") or "case" for name in names])
        self._prepare = prepare
        self._line: JobLine | None = None
        self._table = vtk.vtkWeakReference()
        self._closing: int | None = None
        self._scene_gone = False
        self.jobs = [
            QueuedJob(
                self.title,
                [name],
                f"{slug} {operation['name']}",
                self._preparer(replace(case, inputs={}), Remembered(case.inputs), name, folder),
                owner=self,
            )
            for case, name, folder in zip(cases, names, folders, strict=True)
        ]
        self._numbers = {id(job): number for number, job in enumerate(self.jobs)}

    def _preparer(self, case: Case, inputs: Remembered, name: str, folder: str) -> Callable[[], MedGenRun]:
        def prepare() -> MedGenRun:
            if case.problem:
                raise RunError(case.problem)
            outputs = self._operation["outputs"]
            node = f"{name} {outputs[0]['name']}" if len(outputs) == 1 else name
            target = None if self.output is None else self.output / folder
            return self._prepare(replace(case, inputs=inputs.get()), node, target)

        return prepare

    @property
    def name(self) -> str:
        """What is done to how many cases."""
        return _("{title}: {count} cases").format(title=self.title, count=len(self.jobs))

    @property
    def finished(self) -> bool:
        """Whether all cases are over, well or not."""
        return all(job.finished for job in self.jobs)

    @property
    def failed(self) -> list[QueuedJob]:
        """The cases that failed."""
        return [job for job in self.jobs if job.state == FAILED]

    def enter(self, line: JobLine) -> None:
        """Put all cases in the line."""
        self._line = line
        self._watch_scene()
        line.put_all(self.jobs)

    def wait(self) -> None:
        """Until all are over."""
        assert self._line is not None
        self._line.wait(self.jobs)

    def cancel(self) -> None:
        """End the cases that are not over; the last first, so that none of them is begun."""
        assert self._line is not None
        with self._one_change():
            self._line.cancel_all(self.jobs)

    def retry_failed(self) -> None:
        """Put the failed cases in the line again."""
        assert self._line is not None
        self._watch_scene()
        self._scene_gone = False
        with self._one_change():
            self._line.retry_all(self.failed)

    # --- how they went

    def job_changed(self, job: QueuedJob, events: list[dict[str, Any]]) -> None:
        """A case went on; called by the line."""
        if not job.finished:
            if not events and self.table is not None:
                self._write_row(job)
            return
        if job.state == DONE and job.run is not None:
            takeback.history.remember(f"{self.title}: {job.names[0]}", job.run.added)
        if not self._scene_gone and (job.state != CANCELLED or self.table is not None):
            self._write_row(job)
        if self.finished:
            self._leave_scene()
            self.on_end(self)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary a case: case, state, reason (why not done), output (nodes, or paths), seconds."""
        return [self._row(job) for job in self.jobs]

    def _row(self, job: QueuedJob) -> dict[str, Any]:
        return {
            "case": job.names[0],
            "state": job.state,
            "reason": job.message,
            "output": self._output_of(job),
            "seconds": round(job.seconds, 2),
        }

    def _output_of(self, job: QueuedJob) -> str:
        results = job.results
        paths = [str(one) for value in results.values() for one in as_list(value) if isinstance(one, Path)]
        return "; ".join([node.GetName() for node in nodes_of(results)] + paths)

    def summary(self) -> str:
        """One sentence on all cases."""
        count, done = len(self.jobs), sum(job.state == DONE for job in self.jobs)
        words = _("{title}: {done} of {count} cases done").format(title=self.title, done=done, count=count)
        if self.failed:
            first = self.failed[0]
            return _("{words}, {failed} failed (“{name}”: {reason})").format(
                words=words, failed=len(self.failed), name=first.names[0], reason=first.message.rstrip(".")
            )
        return words

    def save(self, path: Path) -> None:
        """Write the table as CSV, whole or not at all; RunError when it cannot be written."""
        partial = path.with_name(f".partial-{uuid.uuid4().hex[:8]}-{path.name}")
        try:
            with partial.open("w", newline="", encoding="utf-8") as file:
                rows = ([row.get(column, "") for column in casetable.COLUMNS] for row in self.rows())
                tables.write_lines(file, [casetable.COLUMNS, *rows])
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise RunError(plain(error, path)) from None

    @property
    def table(self) -> Any:
        """The table node, or None: none is there yet, or it has left the scene."""
        node = self._table.Get()
        return node if node is not None and node.GetScene() is slicer.mrmlScene else None

    def _write_row(self, job: QueuedJob) -> None:
        node = self.table
        if node is None:
            unique = slicer.mrmlScene.GenerateUniqueName(self.name)
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", unique)
            self._table.Set(node)
        if not casetable.write_row(node, self._numbers[id(job)], self._row(job), len(self.jobs)):
            casetable.fill(node, self.rows())

    @contextlib.contextmanager
    def _one_change(self) -> Iterator[None]:
        """What happens to the table meanwhile is told once."""
        node = self.table
        was_modifying = None if node is None else node.StartModify()
        try:
            yield
        finally:
            if node is not None:
                node.EndModify(was_modifying)

    # --- a scene that is closed meanwhile

    def _watch_scene(self) -> None:
        if self._closing is None and self.output is None:
            scene = slicer.mrmlScene
            self._closing = scene.AddObserver(scene.EndCloseEvent, self._on_scene_closed)

    def _leave_scene(self) -> None:
        if self._closing is not None:
            slicer.mrmlScene.RemoveObserver(self._closing)
            self._closing = None

    def _on_scene_closed(self, caller: Any, event: str) -> None:
        """Cases whose inputs are not written yet belong to the scene that is gone; the others look after themselves."""
        assert self._line is not None
        self._scene_gone = True
        unwritten = [job for job in self.jobs if job.run is None]
        self._line.cancel_all(unwritten, _("The scene was closed before the case was begun."))
