"""An operation on every frame of a sequence: a process a frame, one after the other; the results join its browser."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer

from medgen.errors import CANCELLED
from MedGenLib import looks, provenance
from MedGenLib.errors import RunError
from MedGenLib.i18n import _
from MedGenLib.load import MARKUP_KINDS, read_nodes
from MedGenLib.plan import WITHOUT_NODE, Plan, as_list, reference_role, roles_of
from MedGenLib.runs import Event, MedGenRun, provenance_at, result_files
from MedGenLib.scratch import all_or_nothing, scratch_scene
from MedGenLib.sequences import browser_of, export_sequence, join_nodes, join_sequence


def leading_image(operation: dict[str, Any], inputs: dict[str, Any]) -> Any:
    """The image node whose sequence gives the frames: the reference when it is played, else the first that is."""
    roles = roles_of(operation)
    first = reference_role(roles)
    for role in sorted(roles, key=lambda role: role["name"] != first):
        for node in as_list(inputs.get(role["name"])) if role["kind"] == "Image" else []:
            if not isinstance(node, (str, Path)) and _sequence_of(node, browser_of(node)) is not None:
                return node
    return None


def check(operation: dict[str, Any], inputs: dict[str, Any]) -> None:
    """RunError unless an operation can be run on every frame of what is chosen."""
    if operation["scope"] != "case":
        raise RunError(
            _("“{title}” does not work frame by frame; run it on the current frame.").format(title=operation["title"])
        )
    if leading_image(operation, inputs) is None:
        raise RunError(_("No chosen image is played by a sequence browser; choose one, or run the current frame."))


def prepare(
    plan: Plan,
    folder: Path,
    inputs: dict[str, Any],
    *,
    name: str,
    reference: Any,
    log: Callable[[str], None],
    on_event: Callable[[Event], None] | None,
) -> FramesRun:
    """A run on every frame of the leading image, with the frames written to files; it is not started.

    Args:
        plan: of the current frame, with the files of all inputs; those without frames serve every frame.
        folder: the run's own.
        inputs: role -> node, list of nodes, path or text, as `plan.files` was written from.
        reference: the node on whose grid the results lie.
        name, on_event: as for `MedGenRun`.
    Raises:
        BoundaryError: a frame cannot be written. RunError: a frame lacks an input that others have.
    """
    lead = leading_image(plan.operation, inputs)
    browser = browser_of(lead)
    sequence = browser.GetSequenceNode(lead)
    values = [sequence.GetNthIndexValue(number) for number in range(sequence.GetNumberOfDataNodes())]
    files = [{role: list(paths) for role, paths in plan.files.items()} for _value in values]
    for role in roles_of(plan.operation):
        for position, node in enumerate(as_list(inputs.get(role["name"]))):
            played = None if isinstance(node, (str, Path)) else _sequence_of(node, browser)
            if played is None:
                continue
            options: dict[str, Any] = {"reference": reference, "may_be_empty": bool(role.get("may_be_empty"))}
            frames = export_sequence(
                node, folder / "frames", role["name"], role["kind"], browser=browser, log=log, **options
            )
            blank = browser.GetMissingItemMode(played) == browser.MissingItemSetToDefault
            for count, (given, value) in enumerate(zip(files, values, strict=True), start=1):
                if blank and played.GetItemNumberFromIndexValue(value, True) < 0:
                    words = _("Frame {count} has no “{name}”; choose what every frame has, or run frame by frame.")
                    raise RunError(words.format(name=node.GetName(), count=count))
                # A sequence with fewer frames holds its last one until the next, as the browser plays it.
                number = max(0, played.GetItemNumberFromIndexValue(value, False))
                given[role["name"]][position] = str(frames[number].path)
    plans = [
        replace(plan, files=given, out=folder / f"results_{number:04d}") for number, given in enumerate(files, start=1)
    ]
    return FramesRun(plans, values, folder, lead=lead, name=name, reference=reference, on_event=on_event)


class FramesRun(MedGenRun):
    """One run of many frames, followed like any other; `results` holds the node that shows a role's current frame.

    Progress counts over all frames. Whichever frame fails or is cancelled, nothing is loaded.
    """

    def __init__(
        self,
        plans: list[Plan],
        index_values: list[str],
        folder: Path,
        *,
        lead: Any,
        name: str,
        reference: Any,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        super().__init__(plans[0], folder, name=name, reference=reference, on_event=on_event)
        self._plans = plans
        self._index_values = index_values
        self._lead_id, self._lead_name = lead.GetID(), lead.GetName()
        self._browser_id = browser_of(lead).GetID()
        self._given: list[dict[str, Path]] = []  # what each frame that is done gave, by role
        self._said: list[Event] = []
        self._cancelled = False
        self._begin = time.monotonic()

    def poll(self) -> list[Event]:
        """As for one run."""
        self._said = []
        super().poll()
        return self._said

    def cancel(self) -> None:
        """Ask the frame that runs to stop; no other is begun."""
        self._cancelled = self.running
        super().cancel()

    def _note(self, event: Event) -> None:
        number, count = len(self._given) + 1, len(self._plans)
        if event["event"] == "done" and number < count:
            return
        if event["event"] == "progress":
            done, total = event["done"] + (number - 1) * event["total"], event["total"] * count
            stage = _("frame {number} of {count}, {stage}").format(number=number, count=count, stage=event["stage"])
            # Before a frame has been through there is no telling how long one takes.
            left = (time.monotonic() - self._begin) * (total - done) / done if number > 1 and done > 0 else None
            event = {**event, "done": done, "total": total, "stage": stage, "seconds_left": left}
        self._said.append(event)
        super()._note(event)

    def _end(self, state: str, message: str, exit_code: int | None, outputs: list[Event]) -> None:
        number, count = len(self._given) + 1, len(self._plans)
        if state == "done" and self._cancelled:
            state, message, exit_code = "cancelled", _("The run was cancelled."), CANCELLED
        elif state == "failed":
            message = _("Frame {number} of {count}: {message}").format(number=number, count=count, message=message)
        elif state == "done":
            self._given.append({event["role"]: Path(event["path"]) for event in outputs})
            if number < count:
                self._go_on()
                return
        super()._end(state, message, exit_code, outputs)

    def _go_on(self) -> None:
        """The next frame; inside this Python it is `perform_here` that begins it."""
        self.plan = self._plans[len(self._given)]
        self._note({"event": "progress", "done": 0, "total": 1, "stage": _("starting")})
        if self._job is None:
            return
        try:
            self.start()
        except RunError as error:
            super()._end("failed", str(error), error.exit_code, [])

    # --- into the scene

    def _load(self, outputs: list[Event]) -> dict[str, Any]:
        scene = slicer.mrmlScene
        lead, browser = scene.GetNodeByID(self._lead_id), scene.GetNodeByID(self._browser_id)
        if lead is None or browser is None or _sequence_of(lead, browser) is None:
            raise RunError(
                _("“{name}” has left its sequence browser; put it back and run again.").format(name=self._lead_name)
            )
        joined: list[Any] = []
        results: dict[str, Any] = {}
        with all_or_nothing(scene):
            try:
                for role in self.plan.operation["outputs"]:
                    if role["kind"] in WITHOUT_NODE:
                        paths = [given[role["name"]] for given in self._given if role["name"] in given]
                        results[role["name"]] = [self._keep_outside(path, role["kind"]) for path in paths]
                        continue
                    first = len(joined)
                    for node in self._join_role(role, lead, browser):
                        joined.append(node)  # one by one: those that have joined must leave when the next cannot
                    nodes = joined[first:]
                    if role["many"] and any(role["name"] in given for given in self._given):
                        results[role["name"]] = nodes
                    elif nodes:
                        results[role["name"]] = nodes[0]
            except BaseException:
                for node in joined:
                    browser.RemoveSynchronizedSequenceNode(browser.GetSequenceNode(node).GetID())
                raise
        return results

    def _files_of(self, role: dict[str, Any]) -> list[list[tuple[Path, int]]]:
        """For each sequence that a role gives: the files of the frames that have one and the frames' numbers."""
        found: list[list[tuple[Path, int]]] = []
        for frame, given in enumerate(self._given):
            files = result_files(given[role["name"]], role) if role["name"] in given else []
            for number, file in enumerate(files):
                if number == len(found):
                    found.append([])
                found[number].append((file, frame))
        return found

    def _markups_of(self, role: dict[str, Any]) -> list[list[tuple[Any, int]]]:
        """For each sequence that a role of many markups gives: their nodes, in no scene, and the frames' numbers. What
        has the same name in several frames, and is there the how many-th of it, is one sequence."""
        found: dict[tuple[str, int], list[tuple[Any, int]]] = {}
        with scratch_scene() as scratch:
            for frame, given in enumerate(self._given):
                files = result_files(given[role["name"]], role) if role["name"] in given else []
                before = Counter[str]()
                for file in files:
                    for node in read_nodes(file, role["kind"], scratch, may_be_empty=role["may_be_empty"]):
                        if node.IsA("vtkMRMLMarkupsROINode"):
                            looks.describe_box(node)
                        name = node.GetName()
                        found.setdefault((name, before[name]), []).append((node, frame))
                        before[name] += 1
        return list(found.values())

    def _join_role(self, role: dict[str, Any], lead: Any, browser: Any) -> Iterator[Any]:
        """The node of each sequence that a role gives, as soon as that plays."""
        name = self._node_name(role, self.reference)
        if role["many"] and role["kind"] in MARKUP_KINDS:
            for found in self._markups_of(role):
                nodes, frames = [node for node, _frame in found], [frame for _node, frame in found]
                own = nodes[0].GetName() or name  # a box is called as its class
                yield join_nodes(nodes, name=own, proxy=lead, browser=browser, **self._said_of(role, frames))
            return
        for files in self._files_of(role):
            paths, frames = [path for path, _frame in files], [frame for _path, frame in files]
            options = {"proxy": lead, "browser": browser, **self._said_of(role, frames)}
            yield join_sequence(paths, kind=role["kind"], name=name, **options)

    def _said_of(self, role: dict[str, Any], frames: list[int]) -> dict[str, Any]:
        """Where in the browser the results of frames belong, and how they came to be."""
        paths = [self._given[frame][role["name"]] for frame in frames]
        records = [provenance.complete(provenance_at(path), self.context) for path in paths]
        # The files and the time differ: those are for each frame's own node to say.
        common = {key: value for key, value in records[0].items() if all(one.get(key) == value for one in records)}
        common |= {key: self.context[key] for key in ("inputs",) if self.context}
        values = [self._index_values[frame] for frame in frames]
        return {"index_values": values, "provenance": common, "records": records}


def _sequence_of(node: Any, browser: Any) -> Any:
    """The sequence with frames that a browser plays through a node, or None."""
    sequence = None if browser is None else browser.GetSequenceNode(node)
    return sequence if sequence is not None and sequence.GetNumberOfDataNodes() > 0 else None
