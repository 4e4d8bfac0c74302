"""The nearest real data: scanners' files through Slicer's reader, out, and judged by SimpleITK against the original."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from boundary_tools import file_matrix, parent, rotation, translation

from MedGenLib.export import export_node
from MedGenLib.load import load_result

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MEDGEN_DATA", ROOT.parent / "shared" / "data"))


def original(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def read_as_slicer_does(scene: Any, path: Path) -> Any:
    """A volume node with its storage node, as File > Add data leaves it; skips what slicer-core has no reader for."""
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", path.stem)
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        pytest.skip(f"slicer-core cannot read {path.name}")
    node.SetAndObserveStorageNodeID(storage.GetID())
    return node


def sampled(path: Path, places: np.ndarray) -> np.ndarray:
    """Values of a file at world positions (N, 3) RAS, by SimpleITK."""
    image = sitk.ReadImage(str(path))
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    image = sitk.Cast(image, sitk.sitkFloat64)
    inside = [image.EvaluateAtPhysicalPoint((place * [-1, -1, 1]).tolist()) for place in places]
    return np.array(inside)


def random_voxels(path: Path, number: int = 200) -> np.ndarray:
    """World positions of voxel centres drawn at random, away from the border."""
    image = sitk.ReadImage(str(path))
    size = np.array(image.GetSize())
    rng = np.random.default_rng(0)
    index = np.stack([rng.integers(0, n, number) if n < 3 else rng.integers(1, n - 1, number) for n in size], axis=1)
    matrix = file_matrix(image)
    return index @ matrix[:3, :3].T + matrix[:3, 3]


FILES = [
    "dicom_pydicom_small/CT_small.dcm",
    "dicom_pydicom_small/MR_small.dcm",
    "ct_lung_elastix/ct_lung_baseline_small.nii.gz",
    "mr_brain_tumour_pyradiomics/brain1_image.nii.gz",
    "mr_spine_sct/t2.nii.gz",
]


@pytest.mark.parametrize("name", FILES)
def test_scan_comes_out_where_the_scanner_put_it(scene: Any, tmp_path: Path, name: str) -> None:
    source = original(name)
    node = read_as_slicer_does(scene, source)
    places = random_voxels(source)
    path = export_node(node, tmp_path, "image", "Image", log=pytest.fail)
    assert (path == source) is not name.endswith(".dcm")
    np.testing.assert_allclose(sampled(path, places), sampled(source, places), atol=1e-3)


@pytest.mark.parametrize("name", FILES)
def test_scan_under_a_transform_comes_out_moved_and_back(scene: Any, tmp_path: Path, name: str) -> None:
    source = original(name)
    node = read_as_slicer_does(scene, source)
    above = translation(12, -3, 40) @ rotation(5, 15, 25)
    parent(node, above)
    places = random_voxels(source)
    moved = places @ above[:3, :3].T + above[:3, 3]
    path = export_node(node, tmp_path, "image", "Image", log=pytest.fail)
    expected = sampled(source, places)
    # a voxel's centre is met to 1e-6 of its size, so linear interpolation may blend in that much of a neighbour
    np.testing.assert_allclose(sampled(path, moved), expected, atol=1e-3 * max(np.ptp(expected), 1))
    back = load_result(path, "Image", "back", reference=node)
    again = export_node(back, tmp_path, "again", "Image", log=pytest.fail)
    np.testing.assert_allclose(sampled(again, moved), expected, atol=1e-3 * max(np.ptp(expected), 1))


def test_real_segmentation_lies_on_its_scan(scene: Any, tmp_path: Path) -> None:
    source = original("mr_spine_sct/t2_seg-manual.nii.gz")
    scan = read_as_slicer_does(scene, original("mr_spine_sct/t2.nii.gz"))
    node = load_result(source, "Mask", "cord", reference=scan)
    path = export_node(node, tmp_path, "mask", "Mask", log=pytest.fail)
    image = sitk.ReadImage(str(source))
    index = np.argwhere(sitk.GetArrayFromImage(image) > 0)[:, ::-1]
    matrix = file_matrix(image)
    places = index[::50] @ matrix[:3, :3].T + matrix[:3, 3]
    written = sitk.ReadImage(str(path))
    lps = places * [-1, -1, 1]
    assert all(written.GetPixel(written.TransformPhysicalPointToIndex(p.tolist())) == 1 for p in lps)
    assert np.count_nonzero(sitk.GetArrayFromImage(written)) == len(index)
