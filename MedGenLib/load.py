"""Files back into the scene: always new nodes, in world coordinates, without a parent transform.

The nodes keep no link to the run's files: those may be deleted, and a saved scene then still holds the results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import slicer

from MedGenLib import frames, markups, segmentations, tables
from MedGenLib.errors import BoundaryError
from MedGenLib.i18n import _
from MedGenLib.scratch import all_or_nothing, scratch_scene

MARKUP_KINDS = ("Points", "Line", "Curve", "Plane", "Box", "Sphere")
_TABLE_KINDS = ("Matrix", "Table", "Plot")
PROVENANCE_PREFIX = "MedGen."


def load_result(
    path: Path,
    kind: str,
    name: str,
    *,
    reference: Any = None,
    scene: Any = None,
    provenance: dict[str, Any] | None = None,
) -> Any:
    """Load a file that holds one result as one new node.

    Args:
        path: .nrrd, .nii, .nii.gz, .mha or .png for an Image; .seg.nrrd or an image of labels for a Mask; .mrk.json
            for Points, Line, Curve, Plane, Box and Sphere; .csv for Matrix, Table and Plot.
        kind: what the file holds.
        name: the node's name; made unique in the scene.
        reference: the input node beside which the result is put; a volume is also the grid on which a segmentation is
            edited from now on, and the place of a picture of its size.
        scene: the scene; `slicer.mrmlScene` when None.
        provenance: what is set as node attributes, "MedGen." before each key.
    Returns:
        The new node.
    Raises:
        BoundaryError: the file is missing, unreadable or holds several markups; the scene has not changed.
    """
    nodes = load_results(path, kind, name, reference=reference, scene=scene, provenance=provenance, at_most=1)
    return nodes[0]


def load_results(
    path: Path,
    kind: str,
    name: str,
    *,
    reference: Any = None,
    scene: Any = None,
    provenance: dict[str, Any] | None = None,
    at_most: int | None = None,
    may_be_empty: bool = False,
) -> list[Any]:
    """As `load_result`, for files that may hold several markups (planes, boxes): one new node for each, in order.
    may_be_empty: a file of markups may hold none."""
    scene = slicer.mrmlScene if scene is None else scene
    with scratch_scene() as scratch:
        nodes = read_nodes(Path(path), kind, scratch, reference, may_be_empty)
        if at_most is not None and len(nodes) > at_most:
            raise BoundaryError(
                _("{path} holds {count} markups where one was expected; split the file.").format(
                    path=path, count=len(nodes)
                )
            )
        with all_or_nothing(scene):
            for number, node in enumerate(nodes, start=1):
                own = node.GetName() if len(nodes) > 1 or kind == "Box" else ""  # a box is called as its class
                node.SetName(scene.GenerateUniqueName(own or (name if len(nodes) == 1 else f"{name} {number}")))
                stamp(node, provenance or {})
                scene.AddNode(node)
                show(node, reference)
                place_beside(node, reference)
    return nodes


def read_nodes(path: Path, kind: str, scratch: Any, reference: Any = None, may_be_empty: bool = False) -> list[Any]:
    """The nodes of a file, in no scene and referring to none. `reference` gives a picture of its size its place.
    may_be_empty: a file of markups may hold none."""
    nodes = _read(path, kind, scratch, reference, may_be_empty)
    for node in nodes:
        _forget_references(node)
    return nodes


def _read(path: Path, kind: str, scratch: Any, reference: Any, may_be_empty: bool) -> list[Any]:
    if not path.is_file():
        raise BoundaryError(_("{path} does not exist; run the method again.").format(path=path))
    if kind == "Image":
        return [frames.read_png(path, reference) if path.suffix.lower() == ".png" else _read_volume(path, scratch)]
    if kind == "Mask":
        return [segmentations.read(path, scratch)]
    if kind in MARKUP_KINDS:
        return markups.read(path, scratch, may_be_empty)
    if kind in _TABLE_KINDS:
        return [tables.read_csv(path)]
    raise BoundaryError(_("A {kind} has no node in Slicer; it stays in {path}.").format(kind=kind.lower(), path=path))


def _forget_references(node: Any) -> None:
    """Drop what a node referred to in the scratch scene: its `…DisplayNode1` there is another node's here."""
    roles = [node.GetNthNodeReferenceRole(index) for index in range(node.GetNumberOfNodeReferenceRoles())]
    for role in roles:
        node.RemoveNodeReferenceIDs(role)


def stamp(node: Any, provenance: dict[str, Any]) -> None:
    """Write how a result came to be into a node's attributes; what is not text becomes JSON."""
    for key, value in provenance.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        node.SetAttribute(PROVENANCE_PREFIX + key, text)


def provenance_of(node: Any) -> dict[str, str]:
    """What `stamp` wrote, as text."""
    names = [name for name in node.GetAttributeNames() or () if name.startswith(PROVENANCE_PREFIX)]
    return {name[len(PROVENANCE_PREFIX) :]: node.GetAttribute(name) for name in names}


def show(node: Any, reference: Any = None) -> None:
    """Give a node in a scene its default display; a segmentation also its reference geometry."""
    if node.IsA("vtkMRMLDisplayableNode"):
        node.CreateDefaultDisplayNodes()
    if node.IsA("vtkMRMLScalarVolumeNode") and not node.IsA("vtkMRMLLabelMapVolumeNode"):
        display = node.GetDisplayNode()
        if display is not None and not node.IsA("vtkMRMLVectorVolumeNode"):
            display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
            display.SetAutoWindowLevel(1)
    if node.IsA("vtkMRMLSegmentationNode") and reference is not None and reference.IsA("vtkMRMLVolumeNode"):
        segmentations.refer_to(node, reference)


def place_beside(node: Any, reference: Any) -> None:
    """Put a node under the subject hierarchy parent (study, patient, folder) of another one; nothing without one."""
    scene = node.GetScene()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is None or reference is None:
        return
    beside = hierarchy.GetItemByDataNode(reference)
    if not beside:
        return
    parent = hierarchy.GetItemParent(beside)
    # Under a transform's item Slicer would apply that transform to the node, which already lies in the world.
    while (owner := hierarchy.GetItemDataNode(parent)) is not None and owner.IsA("vtkMRMLTransformNode"):
        parent = hierarchy.GetItemParent(parent)
    hierarchy.CreateItem(parent, node)  # moves the item that Slicer's plugins have made already


def _read_volume(path: Path, scratch: Any) -> Any:
    """A scalar or colour volume; which of the two is for the file to say."""
    for node in (slicer.vtkMRMLScalarVolumeNode(), slicer.vtkMRMLVectorVolumeNode()):
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        scratch.AddNode(storage)
        scratch.AddNode(node)
        storage.SetFileName(str(path))
        storage.SetSingleFile(1)
        image = node.GetImageData() if storage.ReadData(node) else None
        scratch.RemoveNode(node)
        components = image.GetNumberOfScalarComponents() if image is not None else 0
        if (components == 1) == (node.GetClassName() == "vtkMRMLScalarVolumeNode") and components:
            return node
    raise BoundaryError(_("{path} cannot be read as an image; run the method again.").format(path=path))
