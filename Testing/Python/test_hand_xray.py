"""The phantom of a hand: who is labelled, its landmarks in mm, its shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medgen import io, phantoms, prepare
from medgen.cohort import read_pool
from medgen.landmarks.few_shot_dag import FewShotDAG
from medgen.radiographs import gather

TRAIN = FewShotDAG().operation("train")


def test_of_a_phantom_cohort_a_quarter_of_the_training_cases_is_labelled_and_all_that_are_looked_at(
    tmp_path: Path,
) -> None:
    table = phantoms.write(phantoms.PHANTOMS["hand-xray"], 20, 1, tmp_path / "hands", size=(48, 60))
    rows = io.read_rows(table)
    assert [row["labelled"] for row in rows if row["split"] == "train"] == ["yes"] * 3 + ["no"] * 9
    assert all(bool(row["landmarks"]) == (row["labelled"] == "yes") for row in rows)
    assert all(row["landmarks"] for row in rows if row["split"] != "train")


def test_a_hand_has_the_same_landmarks_in_mm_whatever_the_size_of_its_file(tmp_path: Path) -> None:
    pools = []
    for size in ((48, 60), (96, 120)):
        table = phantoms.write(phantoms.PHANTOMS["hand-xray"], 1, 1, tmp_path / str(size), size=size)
        case = prepare.load_row(read_pool(table, TRAIN.pools[0])[0], TRAIN.pools[0].roles, lambda text: None)
        pools.append(gather([case], 64).points)
        assert case["image"].spacing[0] == pytest.approx(240 / size[1], rel=1e-3)
    torch.testing.assert_close(*pools, atol=0.01, rtol=0)


def test_hands_differ_in_shape_and_their_landmarks_lie_on_bone_within_the_plate() -> None:
    shapes = []
    for seed in range(8):
        made = phantoms.PHANTOMS["hand-xray"].make(seed, noise=0.0)
        values, spacing = sitk.GetArrayFromImage(made["image"]), made["image"].GetSpacing()
        controls = made["landmarks"]["markups"][0]["controlPoints"]
        marks = np.array([control["position"][:2] for control in controls]) / spacing
        assert (marks >= 0).all() and (marks <= np.array(values.shape[::-1]) - 1).all()
        near = [values[int(y) - 5 : int(y) + 6, int(x) - 5 : int(x) + 6].max() for x, y in marks]
        air = np.percentile(values[6:-6, 6:-6], 10)
        assert min(near) > air + 150
        shapes.append(marks - marks.mean(axis=0))
    mean = np.mean(shapes, axis=0)
    left = []
    for shape in shapes:  # what no affine map of the mean explains
        ones = np.column_stack([mean, np.ones(len(mean))])
        left.append(np.linalg.norm(shape - ones @ np.linalg.lstsq(ones, shape, rcond=None)[0], axis=1).mean())
    assert 2 < np.mean(left) < 15
