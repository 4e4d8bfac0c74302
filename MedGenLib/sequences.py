"""Sequences: frames of a browser out as files, and results back as a sequence that plays in the same browser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

from MedGenLib.errors import BoundaryError
from MedGenLib.export import check_class, write_placed
from MedGenLib.geometry import placement_of
from MedGenLib.i18n import _
from MedGenLib.load import place_beside, read_nodes, show, stamp
from MedGenLib.scratch import all_or_nothing, file_stem, publish, scratch_scene, staged
from MedGenLib.segmentations import MaskOptions


@dataclass(frozen=True)
class Frame:
    """One exported frame: its file and the index value (a time, a position) under which the sequence keeps it."""

    path: Path
    index_value: str


def browser_of(node: Any) -> Any:
    """The sequence browser that a node is the proxy of, or None; None too where Slicer runs without Sequences."""
    module = getattr(slicer.modules, "sequences", None)
    return None if module is None else module.logic().GetFirstBrowserNodeForProxyNode(node)


def export_sequence(
    proxy: Any,
    folder: Path,
    role: str,
    kind: str,
    *,
    browser: Any = None,
    frames: str = "all",
    reference: Any = None,
    segments: list[str] | None = None,
    may_be_empty: bool = False,
    log: Callable[[str], None],
) -> list[Frame]:
    """Write the frames of a sequence, each in world coordinates; parents that are sequences too move with it.

    Args:
        proxy: the node that shows the sequence's current frame.
        folder: where the files go: ROLE_0000, ROLE_0001, … in the order of the sequence.
        role, kind, reference, segments, may_be_empty, log: as for `export_node`.
        browser: the sequence browser; the first one that `proxy` belongs to when None.
        frames: "all", or "current" for the one that the browser shows.
    Returns:
        One `Frame` a file, in the order of the sequence.
    Raises:
        BoundaryError: no sequence, or a frame that cannot be written; neither scene nor folder has changed.
    """
    check_class(proxy, kind)
    browser = browser_of(proxy) if browser is None else browser
    sequence = browser.GetSequenceNode(proxy) if browser is not None else None
    if sequence is None or sequence.GetNumberOfDataNodes() == 0:
        raise BoundaryError(
            _("“{name}” is not a frame of a sequence; choose a node that a sequence plays.").format(
                name=proxy.GetName()
            )
        )
    if frames == "current":
        value = _current_value(browser, sequence)
        numbers = [sequence.GetItemNumberFromIndexValue(value, False)]
    else:
        numbers = list(range(sequence.GetNumberOfDataNodes()))
    written, name = [], proxy.GetName()
    options = MaskOptions(reference, segments, may_be_empty)
    with staged(Path(folder), name) as staging:
        for number in numbers:
            value = sequence.GetNthIndexValue(number)
            placement = placement_of(proxy, lambda node, value=value: _frame_of(browser, node, value))
            data = sequence.GetNthDataNode(number)
            stem = staging / f"{file_stem(role)}_{number:04d}"
            with scratch_scene() as scratch:
                path = write_placed(data, kind, stem, placement, scratch, name=name, masks=options, log=log)
            written.append((path, value))
        return [Frame(publish(path, Path(folder)), value) for path, value in written]


def join_sequence(paths: list[Path], index_values: list[str], kind: str, name: str, *, proxy: Any, **where: Any) -> Any:
    """Load one result a frame as a new sequence that the input's browser plays in step.

    Args:
        paths: result files, in order.
        kind: what the files hold.
        index_values, name, proxy, where: as for `join_nodes`.
    Returns:
        The new proxy node.
    Raises:
        BoundaryError: as there, or a file is unreadable; the scene has not changed.
    """
    with scratch_scene() as scratch:
        nodes = (_read_one(Path(path), kind, name, scratch, proxy) for path in paths)
        return join_nodes(nodes, index_values, name, proxy=proxy, **where)


def join_nodes(
    nodes: Iterable[Any],
    index_values: list[str],
    name: str,
    *,
    proxy: Any,
    browser: Any = None,
    scene: Any = None,
    provenance: dict[str, Any] | None = None,
    records: list[dict[str, Any]] | None = None,
) -> Any:
    """Make nodes that are in no scene a new sequence that the input's browser plays in step; each frame's copy is named
    and described as its node.

    Args:
        nodes: one a frame, in order.
        index_values: the index value of each, as `export_sequence` gave them.
        name: name of the new sequence and of the node that shows its current frame.
        proxy: the input node, whose browser the result joins and beside which it is put.
        browser: the sequence browser; the first one that `proxy` belongs to when None.
        scene: the scene; `slicer.mrmlScene` when None.
        provenance: set as attributes of every frame, the sequence and the new node.
        records: the same for each frame alone, before what `provenance` says.
    Returns:
        The new proxy node.
    Raises:
        BoundaryError: the input belongs to no browser; the scene has not changed.
    """
    scene = slicer.mrmlScene if scene is None else scene
    browser = browser_of(proxy) if browser is None else browser
    if browser is None:
        raise BoundaryError(
            _("“{name}” is not a frame of a sequence; choose a node that a sequence plays.").format(
                name=proxy.GetName()
            )
        )
    with all_or_nothing(scene):
        sequence = _sequence_like(browser.GetMasterSequenceNode())
        for node, value, record in zip(nodes, index_values, records or [{}] * len(index_values), strict=True):
            stamp(node, {**(provenance or {}), **record})
            sequence.SetDataNodeAtValue(node, value)
            sequence.GetDataNodeAtValue(value).SetDescription(node.GetDescription())  # Slicer's copy goes without
        stamp(sequence, provenance or {})
        sequence.SetName(scene.GenerateUniqueName(name))
        scene.AddNode(sequence)
        browser.AddSynchronizedSequenceNode(sequence)
        # Where the result has no frame for the browser's position (only one frame was run), nothing older is shown.
        browser.SetMissingItemMode(sequence, slicer.vtkMRMLSequenceBrowserNode.MissingItemSetToDefault)
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
        result = browser.GetProxyNode(sequence)
        if result is None:
            raise BoundaryError(
                _("The results of “{name}” could not join its browser; load them one by one.").format(
                    name=proxy.GetName()
                )
            )
        show(result, proxy)
        place_beside(result, proxy)
        place_beside(sequence, proxy)
    return result


def _read_one(path: Path, kind: str, name: str, scratch: Any, proxy: Any) -> Any:
    """The only node of a file, in no scene."""
    nodes = read_nodes(path, kind, scratch, proxy)
    if len(nodes) != 1:
        raise BoundaryError(
            _("{path} holds {count} markups where one was expected; split the file.").format(
                path=path, count=len(nodes)
            )
        )
    nodes[0].SetName(name)
    return nodes[0]


def _sequence_like(master: Any) -> Any:
    """A new sequence, in no scene and without frames, counted as another one is."""
    sequence = slicer.vtkMRMLSequenceNode()
    for copied in ("IndexName", "IndexUnit", "IndexType", "NumericIndexValueTolerance"):
        getattr(sequence, f"Set{copied}")(getattr(master, f"Get{copied}")())
    return sequence


def _current_value(browser: Any, sequence: Any) -> str:
    """The index value of the frame that the browser shows."""
    value = browser.GetMasterSequenceNode().GetNthIndexValue(max(browser.GetSelectedItemNumber(), 0))
    exact = sequence.GetItemNumberFromIndexValue(value, True) >= 0
    return value if exact else sequence.GetNthIndexValue(max(sequence.GetItemNumberFromIndexValue(value, False), 0))


def _frame_of(browser: Any, node: Any, value: str) -> Any:
    """A transform node as it is in a frame: its sequence's data node where the browser plays it, else itself."""
    sequence = browser.GetSequenceNode(node)
    data = sequence.GetDataNodeAtValue(value, False) if sequence is not None else None
    return node if data is None else data
