"""The files of a synthetic patient, read by Slicer's own storage nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from medgen.phantoms import PHANTOMS, abdomen_ct, write


def test_slicer_reads_a_phantoms_segments_with_names_colours_and_terminology(scene: Any, tmp_path: Path) -> None:
    table = write(PHANTOMS["abdomen-ct"], 1, 0, tmp_path / "cohort", size=(48, 40, 32), oblique=10.0)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(table.parent / "abdomen-ct-001_mask.seg.nrrd"))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == len(abdomen_ct.SEGMENTS)
    for index, wanted in enumerate(abdomen_ct.SEGMENTS):
        segment = segmentation.GetNthSegment(index)
        assert (segment.GetName(), segment.GetLabelValue()) == (wanted.name, wanted.value)
        assert np.allclose(segment.GetColor(), wanted.colour, atol=1e-3)
        entry = vtk.reference("")
        assert segment.GetTag("TerminologyEntry", entry)
        assert "^".join(("SCT", *wanted.snomed)) in str(entry)


def test_slicer_reads_a_phantoms_image_where_its_mask_lies(scene: Any, tmp_path: Path) -> None:
    table = write(PHANTOMS["abdomen-ct"], 1, 3, tmp_path / "cohort", size=(48, 40, 32), oblique=10.0)
    image = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    mask = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    for node, name in ((image, "image.nii.gz"), (mask, "mask.seg.nrrd")):
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(str(table.parent / f"abdomen-ct-001_{name}"))
        assert storage.ReadData(node)
    matrices = []
    for node in (image, mask):
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        matrices.append([matrix.GetElement(r, c) for r in range(4) for c in range(4)])
    assert np.allclose(*matrices, atol=1e-3)
    liver = slicer.util.arrayFromVolume(mask) == abdomen_ct.LIVER
    assert 80 < np.median(slicer.util.arrayFromVolume(image)[liver]) < 150
    index = np.argwhere(liver).mean(axis=0)[::-1]
    assert (np.array(matrices[0]).reshape(4, 4) @ [*index, 1])[0] > 20  # RAS: the liver lies on the right
