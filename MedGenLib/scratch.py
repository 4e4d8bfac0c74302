"""Copies of nodes that never enter the user's scene, and files and nodes that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import slicer
import vtk

from MedGenLib.errors import BoundaryError
from MedGenLib.i18n import _


@contextlib.contextmanager
def scratch_scene() -> Iterator[Any]:
    """A private vtkMRMLScene: copies in it raise no event, leave no undo state and no subject hierarchy item."""
    scene = slicer.vtkMRMLScene()
    scene.AddNode(slicer.vtkMRMLSelectionNode())  # without one, markups warn of missing units
    try:
        yield scene
    finally:
        scene.Clear(1)


def copy_into(scene: Any, node: Any) -> Any:
    """A deep copy of a node's content and name in a scratch scene, without references, attributes and transforms."""
    copy = type(node)()
    copy.CopyContent(node, True)
    copy.SetName(node.GetName())
    for name in list(copy.GetAttributeNames() or ()):
        copy.RemoveAttribute(name)
    scene.AddNode(copy)
    return copy


def share_voxels(scene: Any, node: Any, matrix: vtk.vtkMatrix4x4) -> Any:
    """A volume node in a scratch scene with the voxel array of another (not to be changed) and its own IJK to RAS.

    It has an image object of its own, so that nothing done to the copy reaches the user's node.
    """
    image = vtk.vtkImageData()
    image.ShallowCopy(node.GetImageData())
    copy = type(node)()
    copy.SetName(node.GetName())
    copy.SetAndObserveImageData(image)
    copy.SetIJKToRASMatrix(matrix)
    scene.AddNode(copy)
    return copy


def write(node: Any, storage: Any, path: Path, owner: str) -> None:
    """Write a scratch node into a staging folder by a storage node; BoundaryError, naming `owner`, when it fails."""
    node.GetScene().AddNode(storage)
    storage.SetFileName(str(path))
    storage.SetUseCompression(0)
    if not storage.WriteData(node) or not path.is_file() or not _is_whole(path):
        raise BoundaryError(
            _("“{owner}” could not be written to {folder}; check the free space there.").format(
                owner=owner, folder=path.parent.parent
            )
        )


def _is_whole(path: Path) -> bool:
    """Whether a file is complete: Slicer's JSON writer reports success on a full disk, its others do not."""
    if path.suffix != ".json":
        return True
    try:
        json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def staged(folder: Path, owner: str) -> Iterator[Path]:
    """A hidden folder inside `folder`; its files move into `folder` when the block ends well, else all is as before.

    A file already there is never replaced: the one that moves in gets a number.

    Raises:
        BoundaryError: the folder cannot be made or written to.
    """
    made = _missing_parents(folder)
    staging = folder / f".partial-{uuid.uuid4().hex[:8]}"
    try:
        try:
            staging.mkdir(parents=True)
        except OSError as error:
            raise BoundaryError(
                _("“{owner}” cannot be written to {folder} ({reason}); choose a folder that can be written to.").format(
                    owner=owner, folder=folder, reason=error.strerror
                )
            ) from None
        yield staging
        made = []
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


def publish(path: Path, folder: Path) -> Path:
    """Move a staged file into `folder` under its own name, numbered when that is taken; returns where it lies."""
    stem, _dot, ending = path.name.partition(".")
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{stem}-{number}.{ending}"
    os.replace(path, target)
    return target


def file_stem(role: str) -> str:
    """A role name as the beginning of a file name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", role) or "node"


@contextlib.contextmanager
def all_or_nothing(scene: Any) -> Iterator[None]:
    """Remove every node that was added to `scene` inside the block when the block fails."""
    before = {scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())}
    try:
        yield
    except BaseException:
        after = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
        for node in reversed(after):
            if node not in before:
                remove(scene, node)
        raise


def node_ids(scene: Any) -> list[str]:
    """Ids of all nodes of a scene, in order."""
    return [scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())]


def remove(scene: Any, node: Any) -> None:
    """Remove a node, where it is still there, with its subject hierarchy item: only the application's plugins would
    do so by themselves."""
    if not scene.IsNodePresent(node):
        return
    hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if item:
        hierarchy.RemoveItem(item, False, False)
    scene.RemoveNode(node)


def _missing_parents(folder: Path) -> list[Path]:
    """The folders that making `folder` would make, innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]
