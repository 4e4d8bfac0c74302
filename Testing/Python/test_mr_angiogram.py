"""The synthetic angiogram: what its lines say is what its voxels show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from medgen import io, markups
from medgen.method import Kind, Role
from medgen.phantoms import PHANTOMS, mr_angiogram, write
from medgen.phantoms.cohort import subject_seed

COARSE: dict[str, Any] = {"size": (64, 64, 48), "spacing": 1.0}


def ends(made: dict[str, Any]) -> list[NDArray[np.float64]]:
    """Neck and dome (2, 3) of each aneurysm, LPS mm."""
    return [np.array([point["position"] for point in line["controlPoints"]]) for line in made["aneurysms"]["markups"]]


def at(image: sitk.Image, place: NDArray[np.float64]) -> float:
    """The intensity of the voxel at an LPS position."""
    return float(image[image.TransformPhysicalPointToIndex(place.tolist())])


def test_the_same_seed_is_the_same_patient_and_another_seed_another() -> None:
    first, again, other = (mr_angiogram.make(seed, **COARSE) for seed in (3, 3, 4))
    arrays = [sitk.GetArrayFromImage(made["image"]) for made in (first, again, other)]
    assert np.array_equal(arrays[0], arrays[1]) and (arrays[0] != arrays[2]).mean() > 0.5
    assert first["aneurysms"] == again["aneurysms"] != other["aneurysms"]


def test_the_anatomy_does_not_change_with_the_voxels() -> None:
    fine, coarse = mr_angiogram.make(5, size=(80, 80, 60), spacing=0.8), mr_angiogram.make(5, **COARSE)
    for one, other in zip(ends(fine), ends(coarse), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_each_line_runs_from_an_artery_through_a_bright_sac_to_its_dome(seed: int) -> None:
    made = mr_angiogram.make(seed, **COARSE, noise=0.0)
    tissue = float(np.median(sitk.GetArrayFromImage(made["image"])))
    for neck, dome in ends(made):
        length = float(np.linalg.norm(dome - neck))
        assert mr_angiogram.SMALLEST - 1e-9 <= length <= mr_angiogram.LARGEST + 1e-9
        beyond = dome + (dome - neck) / length * 2.5
        middle = at(made["image"], (neck + dome) / 2)
        assert middle > 1.6 * tissue
        if length > 3.5:  # beyond the dome of a larger sac the blood ends, unless another artery passes there
            assert at(made["image"], neck) > 1.6 * tissue
            assert middle > at(made["image"], beyond)


def test_the_points_are_the_middles_of_the_lines() -> None:
    made = mr_angiogram.make(2, **COARSE, aneurysms=3)
    (points,) = made["points"]["markups"]
    assert len(points["controlPoints"]) == len(made["aneurysms"]["markups"]) == 3
    for point, line in zip(points["controlPoints"], ends(made), strict=True):
        np.testing.assert_allclose(point["position"], line.mean(axis=0))


def test_arteries_are_the_brightest_few_per_cent() -> None:
    array = sitk.GetArrayFromImage(mr_angiogram.make(1, **COARSE)["image"]).astype(float)
    tissue, artery = np.median(array), np.percentile(array, 99)
    assert artery > 2 * tissue
    assert 0.01 < (array > (tissue + artery) / 2).mean() < 0.08


def test_most_patients_have_one_aneurysm_and_few_three_of_sizes_about_the_median() -> None:
    generator = np.random.default_rng(0)
    _, sites = mr_angiogram.tree(generator)
    grown = [mr_angiogram.grow(sites, 0, generator) for _ in range(400)]
    counts = np.bincount([len(one) for one in grown], minlength=4)
    assert counts[0] == 0 and counts[1] > counts[2] > counts[3] > 0
    diameters = np.array([aneurysm.diameter for one in grown for aneurysm in one])
    assert abs(np.median(diameters) - mr_angiogram.MEDIAN) < 0.3 and diameters.min() < 3 and diameters.max() > 8
    assert all(len({aneurysm.name for aneurysm in one}) == len(one) for one in grown)


def test_a_small_block_lies_where_an_aneurysm_is_and_one_too_small_is_refused() -> None:
    made = mr_angiogram.make(7, size=(48, 48, 48))
    (line,) = ends(made)
    image = made["image"]
    index = np.array(image.TransformPhysicalPointToContinuousIndex(line.mean(axis=0).tolist()))
    assert ((index > 0) & (index < 47)).all()
    with pytest.raises(ValueError, match="20 mm"):
        mr_angiogram.make(7, size=(48, 48, 16))


def test_a_written_cohort_is_read_back_as_spheres(tmp_path: Path) -> None:
    table = write(PHANTOMS["mr-angiogram"], 2, 1, tmp_path / "cohort", **COARSE)
    for number, row in enumerate(io.read_rows(table)):
        made = mr_angiogram.make(subject_seed(1, number), **COARSE)
        spheres = markups.read(table.parent / row["aneurysms"], Role("aneurysms", Kind.SPHERE, "", many=True))
        for sphere, line in zip(spheres, ends(made), strict=True):
            np.testing.assert_allclose(sphere.centre, line.mean(axis=0) * (-1, -1, 1))
            assert 2 * sphere.radius == pytest.approx(np.linalg.norm(line[1] - line[0]))
