"""What a training has seen goes into the bundle, for every method alike."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from backend_tools import volume

from medgen import bundle, catalog, execute, prepare, record, trained_on
from medgen.jobs import Run
from medgen.method import Kind, Role

IMAGE = Role("mr", Kind.IMAGE, "An MR", modality="MR")


def _write(path: Path, spacing: tuple[float, ...], seed: int, permuted: bool = False) -> str:
    image = volume((12, 10, 8), seed, spacing)
    if permuted:  # the same voxels, its first axis along the patient's third
        image = sitk.PermuteAxes(image, [2, 0, 1])
    sitk.WriteImage(image, str(path))
    return str(path)


def test_ranges_are_along_the_patients_axes_whatever_the_files_order(tmp_path: Path) -> None:
    first = _write(tmp_path / "a.nii.gz", (1.0, 1.5, 2.0), 0)
    second = _write(tmp_path / "b.nii.gz", (1.0, 1.5, 3.0), 1, permuted=True)
    with trained_on.watched() as watch:
        for path in (first, second, first):  # an epoch more changes nothing
            prepare.load_case({"mr": [path]}, (IMAGE,), lambda words: None)
    prepare.load_case({"mr": [_write(tmp_path / "c.nii.gz", (9.0, 9.0, 9.0), 2)]}, (IMAGE,), lambda words: None)
    found = watch.summary()["mr"]
    assert (found["cases"], found["modality"], found["channels"]) == (2, "MR", [1, 1])
    assert found["spacing"] == [[1.0, 1.0], [1.5, 1.5], [2.0, 3.0]]
    assert found["shape"] == [[12, 12], [10, 10], [8, 8]] and found["extent"][2] == [16.0, 24.0]
    values = np.concatenate([sitk.GetArrayViewFromImage(sitk.ReadImage(path)).ravel() for path in (first, second)])
    low, high = found["intensity"]["p50"]
    assert low <= np.median(values) <= high and found["intensity"]["p1"][0] < low
    (words,) = trained_on.sentences({"mr": found})
    assert "2 MRs" in words and "2.00-3.00" in words


def test_a_trained_model_says_what_it_was_trained_on(stubs: Path) -> None:
    rows = [{"image": _write(stubs / f"{n}.nii.gz", (1.0, 1.0, 1.0 + n), n), "subject": f"s{n}"} for n in range(2)]
    with (stubs / "cohort.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "subject"])
        writer.writeheader()
        writer.writerows(rows)
    method = catalog.load("stub-3d-stylegan")
    operation = method.operation("train")
    config = operation.configure("smoke", {})
    run = Run(stubs / "scratch", device="cpu")
    execute.perform(method, operation, config, run, stubs / "model", collection=stubs / "cohort.csv")
    assert bundle.load(stubs / "model").trained_on["image"]["spacing"][2] == [1.0, 2.0]
    found = record.read(stubs / "model")
    assert "Seen in training: image: 2 " in bundle.card(found)
    assert found["digest"] == record.digest({**found, "trained_on": {}})  # decides no result


@pytest.mark.parametrize("value", [{}, None])
def test_a_bundle_without_it_is_read(stubs: Path, value: object) -> None:
    import json

    model = bundle.Model("stub-3d-stylegan", {}, {})
    bundle.save(model, stubs / "old")
    file = stubs / "old" / "medgen.json"
    written = json.loads(file.read_text())
    written["trained_on"] = value
    if value is None:
        del written["trained_on"]
    file.write_text(json.dumps(written))
    assert bundle.load(stubs / "old").trained_on == {}
