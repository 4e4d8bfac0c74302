"""How a result came to be, on its node: enough to read it, to save it as JSON, and to make the result again. No Qt.

The run's own record (method, operation, versions, config, seed, device, model, digests of the files it read, time) is
completed with what only Slicer knows: which nodes those files were, what they held, and what was chosen in the panel.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import slicer
import vtk

from medgen import catalog
from MedGenLib import fingerprint
from MedGenLib.errors import MedGenLibError, plain
from MedGenLib.i18n import _
from MedGenLib.load import provenance_of
from MedGenLib.plan import as_list
from MedGenLib.sequences import browser_of

Record = dict[str, Any]

# Kept in a segment's tags where segments joined a segmentation that is not ours. Slicer's files part tags with | and
# names from values with a colon, so values are percent-encoded.
TAG = "MedGen.Provenance"
_TEXTS = {"method", "operation", "medgen", "citation", "device", "precision", "torch", "time", "use", "run", "tier"}
_TEXTS |= {"frames", "title"}


@dataclass
class Output:
    """One result in the scene: its node, and the segment's id where it is one segment of a node that is not ours."""

    node: Any
    record: Record
    segment: str = ""

    @property
    def name(self) -> str:
        """How a person knows it."""
        if not self.segment:
            return str(self.node.GetName())
        segment = self.node.GetSegmentation().GetSegment(self.segment)
        return _("{segment} in {node}").format(segment=segment.GetName(), node=self.node.GetName())


# --- writing it


def context(operation: dict[str, Any], given: dict[str, Any], frames: str, **chosen: Any) -> Record:
    """What Slicer adds to the record of a run.

    Args:
        operation: its declarations.
        given: role -> node, list of nodes, path or text.
        frames: "current" or "all".
        chosen: tier, settings (those that differ from the tier's) and whatever else is to be kept.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}"
    return {
        "run": f"{stamp}-{uuid.uuid4().hex[:6]}",  # runs sort by when they were started
        "title": operation["title"],
        "frames": frames,
        **{key: value for key, value in chosen.items() if value is not None},
        "inputs": [_input(role, value, frames) for role, values in given.items() for value in as_list(values)],
    }


def _input(role: str, value: Any, frames: str) -> Record:
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute()):
        return {"role": role, "file": Path(value).name}
    if isinstance(value, str):
        return {"role": role, "text": value}
    return {
        "role": role,
        "node": value.GetID(),
        "name": value.GetName(),
        "class": value.GetClassName(),
        "content": content_of(value, frames),
    }


def content_of(node: Any, frames: str) -> str:
    """The fingerprint of an input: of all frames of its sequence where all are run."""
    browser = browser_of(node) if frames == "all" else None
    sequence = None if browser is None else browser.GetSequenceNode(node)
    return fingerprint.of(node if sequence is None else sequence)


def complete(record: Record, context: Record) -> Record:
    """A run's own record with Slicer's part; what either says of an input stands together, by role and order."""
    if not context:
        return record
    files: dict[str, list[Record]] = {}
    for one in record.get("inputs", []):
        files.setdefault(one["role"], []).append(one)
    inputs = []
    for one in context["inputs"]:
        waiting = files.get(one["role"], [])
        inputs.append({**(waiting.pop(0) if waiting and "text" not in one else {}), **one})
    rest = [one for waiting in files.values() for one in waiting]
    return {**record, **context, "inputs": inputs + rest}


def tag_segment(segment: Any, record: Record) -> None:
    """Keep a record with a segment."""
    segment.SetTag(TAG, quote(json.dumps(record, ensure_ascii=False, default=str)))


# --- reading it


def record_of(node: Any) -> Record:
    """What a node says of how it came to be; empty when it is no result of ours."""
    record: Record = {}
    for key, text in provenance_of(_bearer(node)).items():
        record[key] = text if key in _TEXTS else _value(text)
    return record if "method" in record else {}


def _bearer(node: Any) -> Any:
    """What bears the record of a node: itself, or, while a frame that has nothing of it is shown, its sequence."""
    browser = None if node.GetAttribute("MedGen.method") else browser_of(node)
    sequence = None if browser is None else browser.GetSequenceNode(node)
    return node if sequence is None else sequence


def record_of_segment(segment: Any) -> Record:
    """The same of a segment that joined a segmentation."""
    text = tag_of(segment, TAG)
    found = _value(text) if text else None
    return found if isinstance(found, dict) else {}


def tag_of(segment: Any, name: str) -> str:
    """A tag of a segment as it was before percent-encoding; empty when it has none."""
    return unquote(raw_tag(segment, name))


def raw_tag(segment: Any, name: str) -> str:
    """A tag of a segment as it stands; empty when it has none."""
    value = vtk.mutable("")
    return str(value) if segment.GetTag(name, value) else ""


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def outputs_of_run(run: str = "") -> list[Output]:
    """The results of a run (by its record's "run"; of the one started last where it is left out) that are still in the
    scene, in the order in which they came."""
    found = list(_outputs())
    wanted = run or max((one.record.get("run", "") for one in found), default="")
    return [one for one in found if wanted and one.record.get("run") == wanted]


def _outputs() -> Iterator[Output]:
    scene = slicer.mrmlScene
    for number in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(number)
        if not node.IsA("vtkMRMLSequenceNode") and _bearer(node).GetAttribute("MedGen.run"):
            record = record_of(node)
            if record:
                yield Output(node, record)
        if node.IsA("vtkMRMLSegmentationNode"):
            for identity in node.GetSegmentation().GetSegmentIDs():
                record = record_of_segment(node.GetSegmentation().GetSegment(identity))
                if record:
                    yield Output(node, record, identity)


# --- as JSON


def export(outputs: list[Output], path: Path) -> Path:
    """Write the records of results as JSON, whole or not at all.

    Raises:
        MedGenLibError: the file cannot be written.
    """
    found = [{"result": one.name, "node": one.node.GetID(), "segment": one.segment, **one.record} for one in outputs]
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(json.dumps({"results": found}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise MedGenLibError(plain(error, path)) from None
    return path


def summary(record: Record) -> str:
    """What a person wants to know of a result, in a few lines of plain text."""
    model = record.get("model") or {}
    known = catalog.entries().get(record["method"], {})
    inputs = ", ".join(
        f"{one['role']}: {one.get('name') or one.get('text') or one.get('file')}" for one in record.get("inputs", [])
    )
    title, method = record.get("title") or record.get("operation", ""), known.get("title", record["method"])
    lines = [_("{title} · {method}").format(title=title, method=method)]
    if model:
        words = _("Model {name} ({digest})")
        lines.append(words.format(name=model.get("name") or "", digest=str(model.get("digest"))[:12]))
    if inputs:
        lines.append(_("From {inputs}").format(inputs=inputs))
    words = _("Seed {seed}, {device}, MedGen {version}, {time}")
    lines.append(
        words.format(
            seed=record.get("seed", ""),
            device=record.get("device", ""),
            version=record.get("medgen", ""),
            time=str(record.get("time", "")).replace("T", " ").removesuffix("Z"),
        )
    )
    return "\n".join(lines)
