"""What the boundary tests share: volumes and transforms in odd places, and SimpleITK as the witness of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import slicer.util
import vtk

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TOLERANCE = 1e-3  # mm, the contract's


def rotation(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """4x4 rotation by angles in degrees about x, then y, then z."""
    result = np.eye(4)
    for axis, angle in enumerate((x, y, z)):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        step = np.eye(4)
        a, b = [(1, 2), (2, 0), (0, 1)][axis]
        step[a, a], step[a, b], step[b, a], step[b, b] = c, -s, s, c
        result = step @ result
    return result


def translation(x: float, y: float, z: float) -> np.ndarray:
    """4x4 translation, mm."""
    result = np.eye(4)
    result[:3, 3] = x, y, z
    return result


def shear(xy: float) -> np.ndarray:
    """4x4 matrix that moves x by `xy` times y."""
    result = np.eye(4)
    result[0, 1] = xy
    return result


OBLIQUE = translation(12.5, -40.0, 7.25) @ rotation(20, -35, 50) @ np.diag([0.7, 1.3, 2.9, 1.0])

LINEAR_PARENTS = {
    "translated": translation(30.5, -12.25, 8.0),
    "rotated": rotation(15, 25, -40),
    "scaled": np.diag([2.0, 2.0, 2.0, 1.0]),
    "mirrored": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "mirrored_rotated_moved": translation(5, 6, 7) @ rotation(10, 20, 30) @ np.diag([1.0, -1.0, 1.0, 1.0]),
}


def noise(shape: tuple[int, ...], dtype: Any = np.int16, seed: int = 0) -> np.ndarray:
    """Different values in each voxel, so that a flip or a permutation shows."""
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


def volume(array: np.ndarray, matrix: np.ndarray = OBLIQUE, name: str = "CT", class_name: str | None = None) -> Any:
    """A volume node in `slicer.mrmlScene` with voxels [k, j, i(, c)] and a 4x4 index -> RAS matrix."""
    class_name = class_name or ("vtkMRMLScalarVolumeNode" if array.ndim == 3 else "vtkMRMLVectorVolumeNode")
    node = slicer.mrmlScene.AddNewNodeByClass(class_name, name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    slicer.util.updateVolumeFromArray(node, array)
    return node


def parent(node: Any, matrix: np.ndarray, above: Any = None) -> Any:
    """Put `node` under a new linear transform (itself under `above`)."""
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    if above is not None:
        transform.SetAndObserveTransformNodeID(above.GetID())
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def bend(node: Any, centre: np.ndarray, size: float, kind: str = "spline") -> Callable[[np.ndarray], np.ndarray]:
    """Put `node` under a non-linear transform of some mm around `centre`; returns it as a function of one position."""
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
    if kind == "spline":
        warp = vtk.vtkThinPlateSplineTransform()
        source, target = vtk.vtkPoints(), vtk.vtkPoints()
        rng = np.random.default_rng(3)
        for point in centre + rng.uniform(-size, size, (15, 3)):
            source.InsertNextPoint(point)
            target.InsertNextPoint(point + 3 * np.sin(point[[1, 2, 0]] / size) + np.array([4, 0, -2]))
        warp.SetSourceLandmarks(source)
        warp.SetTargetLandmarks(target)
        warp.SetBasisToR()
    else:
        field = slicer.vtkOrientedGridTransform()
        grid = vtk.vtkImageData()
        grid.SetDimensions(9, 9, 9)
        grid.SetSpacing(*(size / 2,) * 3)
        grid.SetOrigin(*(centre - 2 * size))
        grid.AllocateScalars(vtk.VTK_DOUBLE, 3)
        for index in range(grid.GetNumberOfPoints()):
            shift = 3 * np.sin(np.array(grid.GetPoint(index))[[1, 2, 0]] / size)
            for axis in range(3):
                grid.GetPointData().GetScalars().SetComponent(index, axis, shift[axis])
        field.SetDisplacementGridData(grid)
        field.SetInterpolationModeToCubic()
        warp = field
    transform.SetAndObserveTransformToParent(warp)
    node.SetAndObserveTransformNodeID(transform.GetID())
    return lambda position: np.array(warp.TransformPoint(position))


def file_matrix(image: sitk.Image) -> np.ndarray:
    """4x4 index -> RAS of an image that SimpleITK has read."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return LPS @ matrix


def corners(matrix: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(8, 3) world positions of the corner voxels of a grid."""
    index = np.array(
        [[i * (size[0] - 1), j * (size[1] - 1), k * (size[2] - 1)] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    )
    return index @ matrix[:3, :3].T + matrix[:3, 3]


def world_matrix(node: Any) -> np.ndarray:
    """4x4 index -> world RAS of a volume node without or with linear parents, by Slicer's own arithmetic."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    result = slicer.util.arrayFromVTKMatrix(matrix)
    if node.GetParentTransformNode() is not None:
        above = vtk.vtkMatrix4x4()
        node.GetParentTransformNode().GetMatrixTransformToWorld(above)
        result = slicer.util.arrayFromVTKMatrix(above) @ result
    return result


def assert_same_voxels_in_world(path: Path, array: np.ndarray, matrix: np.ndarray) -> None:
    """The file's voxels are `array` [k, j, i] and lie, by SimpleITK, where `matrix` (index -> RAS) puts them."""
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array)
    found = corners(file_matrix(image), image.GetSize())
    np.testing.assert_allclose(found, corners(matrix, image.GetSize()), atol=TOLERANCE)


def assert_node_same_in_world(node: Any, array: np.ndarray, matrix: np.ndarray) -> None:
    """A volume node holds `array` [k, j, i] where `matrix` puts it; Slicer may have turned the order of the slices.

    (Slicer's reader stores files with left-handed axes in another order: the same voxels at the same places.)
    """
    found = slicer.util.arrayFromVolume(node)
    k, j, i = (axis.ravel() for axis in np.mgrid[tuple(slice(n) for n in found.shape)])
    to_original = np.linalg.inv(matrix) @ world_matrix(node)
    index = np.stack([i, j, k], axis=1) @ to_original[:3, :3].T + to_original[:3, 3]
    nearest = np.rint(index).astype(int)
    shift = (index - nearest) * np.linalg.norm(matrix[:3, :3], axis=0)
    assert np.abs(shift).max() < TOLERANCE
    assert sorted(found.shape) == sorted(array.shape)
    np.testing.assert_array_equal(found.ravel(), array[nearest[:, 2], nearest[:, 1], nearest[:, 0]])


def scene_state(scene: Any) -> list[tuple[str, int]]:
    """Every node of a scene with its time of modification, its data's, and its transform."""
    _look_at(scene)  # the first look resolves pending references, which counts as a modification
    return _look_at(scene)


def _look_at(scene: Any) -> list[tuple[str, int]]:
    state = []
    for node in [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]:
        state.append((node.GetID(), node.GetMTime()))
        if node.IsA("vtkMRMLVolumeNode") and node.GetImageData() is not None:
            state.append((node.GetID() + " voxels", node.GetImageData().GetMTime()))
        if node.IsA("vtkMRMLSegmentationNode"):
            state.append((node.GetID() + " segments", node.GetSegmentation().GetMTime()))
        if node.IsA("vtkMRMLTransformableNode"):
            state.append((str(node.GetTransformNodeID()), 0))
    return state


def picture(name: str = "Figure", seed: int = 1) -> Any:
    """A colour picture of 80 x 60 px as Slicer has it: a vector volume of one slice."""
    array = np.random.default_rng(seed).integers(0, 256, (1, 60, 80, 3)).astype(np.uint8)
    return volume(array, LPS, name)


def video(frames: list[np.ndarray]) -> Any:
    """The node that shows the first of some colour frames (rows, columns, 3) of a sequence, a second apart."""
    scene = slicer.mrmlScene
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Video")
    for second, frame in enumerate(frames):
        node = volume(frame[None], LPS, "frame")
        sequence.SetDataNodeAtValue(node, str(second))
        scene.RemoveNode(node)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    go_to(browser, 0)
    return browser.GetProxyNode(sequence)


def go_to(browser: Any, number: int) -> None:
    """Let a browser show a frame."""
    browser.SetSelectedItemNumber(number)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)


def roi(name: str, box: tuple[float, float, float, float]) -> Any:
    """A ROI around pixels (left, upper, right, lower edge) of the picture, RAS mm."""
    x1, y1, x2, y2 = box
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    node.SetCenter([-(x1 + x2 - 1) / 2, -(y1 + y2 - 1) / 2, 0.0])
    node.SetSize([x2 - x1, y2 - y1, 1.0])
    return node
