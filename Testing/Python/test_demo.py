"""The demo, at its smallest: a synthetic patient in; model, segmentation, measures and a picture out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from backend_tools import medgen


def test_the_demo_leaves_a_model_a_segmentation_measures_and_a_picture(tmp_path: Path) -> None:
    done = medgen("demo", "--tier", "smoke", "-o", tmp_path / "demo", "--seed", 1, timeout=300)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "demo"
    measures = json.loads((folder / "measures.json").read_text())
    assert measures[0]["dice"] > 0.6
    result = sitk.ReadImage(str(folder / "result" / "mask.seg.nrrd"))
    image = sitk.ReadImage(str(next((folder / "patient").glob("*_image.nii.gz"))))
    assert result.GetSize() == image.GetSize()
    np.testing.assert_allclose(result.GetOrigin(), image.GetOrigin(), atol=1e-4)
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "picture.png")))
    assert picture.shape[1] > 1000 and picture[..., :3].std() > 10
    assert not (folder / "model.training").exists()
    record = json.loads((folder / "result" / "mask.seg.nrrd.provenance.json").read_text())
    assert {entry["role"] for entry in record["inputs"]} == {"image", "mask", "planes"}


def test_an_earlier_demo_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    done = medgen("demo", "--tier", "smoke", "-o", tmp_path)
    assert done.returncode == 2 and "exists already" in done.stderr and list((tmp_path / "model").iterdir()) == []
