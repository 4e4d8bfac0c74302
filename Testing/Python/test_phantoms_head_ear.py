"""The synthetic head and the synthetic inner ear: what translation and landmark methods need is really in them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from backend_tools import ROOT

from medgen.phantoms import PHANTOMS, head, inner_ear, write
from medgen.phantoms.canvas import Grid

COARSE = (48, 56, 48)  # 4 mm


@pytest.fixture(scope="module")
def patient() -> dict[str, sitk.Image]:
    """One head of the default size."""
    return head.make(3)


@pytest.fixture(scope="module")
def ear() -> dict[str, Any]:
    """One ear of the default size."""
    return inner_ear.make(4)


def array(image: sitk.Image) -> np.ndarray:
    """Values (z, y, x)."""
    return sitk.GetArrayFromImage(image).astype(float)


def positions(made: dict[str, Any]) -> dict[str, np.ndarray]:
    """Landmarks by name, LPS mm."""
    controls = made["landmarks"]["markups"][0]["controlPoints"]
    return {control["label"]: np.array(control["position"]) for control in controls}


def shape_of(size: tuple[int, int, int], elastic: float, scale: np.ndarray, seed: int = 0) -> Any:
    """A placing with its own pose and warp."""
    rng = np.random.default_rng(seed)
    turn = inner_ear.rotation(rng.standard_normal(3), 40.0)
    waves = inner_ear.Waves.drawn(rng, 22.0, 3)
    return inner_ear.Placing(turn, rng.normal(0, 5, 3), scale, waves, elastic), Grid(size, (0.4,) * 3, turn)


# --- head


@pytest.mark.parametrize("name", ["head-mr-ct", "inner-ear"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_patient(name: str) -> None:
    first, again, other = (PHANTOMS[name].make(seed, size=(32, 32, 32)) for seed in (3, 3, 4))
    for role, kind in PHANTOMS[name].roles.items():
        if kind == "Points":
            assert first[role] == again[role] != other[role]
        else:
            assert np.array_equal(array(first[role]), array(again[role]))
            assert (array(first[role]) != array(other[role])).mean() > (0.3 if kind == "Image" else 0.001)


def test_a_head_has_the_hu_of_its_tissues_in_the_amounts_of_a_head(patient: dict[str, sitk.Image]) -> None:
    ct = array(patient["ct"])
    litre = np.prod(patient["ct"].GetSpacing()) / 1e6
    assert 0.25 < (ct > 250).sum() * litre < 0.9  # bone
    assert 1.5 < ((ct > -30) & (ct < 120)).sum() * litre < 3.0  # brain, muscle, skin, fluid
    assert 0.3 < ((ct > -150) & (ct < -50)).sum() * litre < 1.5  # fat
    assert np.percentile(ct[ct > 250], 95) > 1000 and ct.max() < 2252.7
    assert np.median(ct[:, :3]) == pytest.approx(-1000, abs=15)
    middle = ct[60:64, 50:60, 44:52]  # within the brain
    assert 15 < middle.mean() < 45 and 3 < middle.std() < 25


def test_air_and_compact_bone_are_both_dark_in_mr_and_marrow_and_fat_bright(patient: dict[str, sitk.Image]) -> None:
    ct, mr = array(patient["ct"]), array(patient["mr"])
    inside = sitk.GetArrayFromImage(
        sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(patient["ct"] > -500, (4,) * 3))
    )
    air = (ct < -700) & (inside > 0)
    assert air.sum() > 1500  # sinuses, mastoid, canals, throat: 12 ml and more
    white = np.percentile(mr[55:70, 40:70, 30:66], 85)
    tissue = (ct > 0) & (ct < 100)
    assert np.median(mr[air]) < 0.25 * white and np.median(mr[ct > 1250]) < 0.35 * white < np.median(mr[tissue])
    assert np.median(mr[(ct > -150) & (ct < -60)]) > 0.8 * white
    # So that no mapping from intensities alone can do it: among dark voxels, air and bone of all densities.
    dark = ct[(mr < 0.2 * white) & (inside > 0)]
    assert (dark < -500).mean() > 0.1 and (dark > 500).mean() > 0.1


def test_the_skull_has_two_tables_with_marrow_between_and_varies_in_thickness() -> None:
    thick = []
    for seed in (1, 3):
        ct = array(head.make(seed, size=(64, 224, 64), noise=0.0)["ct"])  # 1 mm from front to back
        for profile in (ct[42, :, 22], ct[46, :, 22]):
            for side in (profile[:112], profile[:111:-1]):
                bone = np.flatnonzero(side > 300)
                wall = side[bone[0] : bone[-1] + 1]
                thick.append(len(wall))
                if len(wall) >= 10:
                    ends = max(wall[:4]), max(wall[-4:])
                    assert min(ends) > 800 and 300 < wall[4:-4].min() < min(ends) - 150
    assert min(thick) >= 4 and max(thick) <= 18 and max(thick) - min(thick) >= 4


def test_scale_and_bias_of_the_mr_differ_from_patient_to_patient() -> None:
    brightest = [np.percentile(array(head.make(seed, size=COARSE)["mr"]), 99) for seed in range(5)]
    assert max(brightest) > 3 * min(brightest)
    field = array(head.make(3, size=COARSE, noise=0.0)["mr"])
    fat = (array(head.make(3, size=COARSE, noise=0.0)["ct"]) < -60) & (field > np.percentile(field, 60))
    low, high = np.percentile(field[fat], (10, 90))
    assert high > 1.15 * low


def test_noise_of_the_mr_is_that_of_a_magnitude(patient: dict[str, sitk.Image]) -> None:
    """In air Rayleigh's: never negative, its mean sqrt(pi / (4 - pi)) times its deviation."""
    air = array(patient["mr"])[:, :6, :12].ravel()
    assert air.min() >= 0
    assert air.mean() / air.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.05)


def test_a_ct_on_its_own_grid_shows_the_same_patient_at_the_same_place() -> None:
    plain = head.make(5, size=COARSE, noise=0.0)
    other = head.make(5, size=COARSE, noise=0.0, ct_size=(64, 64, 64), ct_oblique=12.0)
    assert np.array_equal(array(plain["mr"]), array(other["mr"]))
    assert other["ct"].GetSize() == (64, 64, 64)
    assert np.abs(np.array(other["ct"].GetDirection()).reshape(3, 3) - np.eye(3)).max() > 0.02
    moved = array(sitk.Resample(other["ct"], plain["ct"], sitk.Transform(), sitk.sitkLinear, -1000.0))
    inner = (slice(6, -6),) * 3
    first, second = array(plain["ct"])[inner], moved[inner]
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.97
    shifted = np.roll(array(plain["ct"]), 2, axis=0)[inner]  # 8 mm
    assert np.corrcoef(shifted.ravel(), second.ravel())[0, 1] < 0.93


def test_metal_is_there_only_when_asked_for() -> None:
    plain, filled = (head.make(2, size=(64, 75, 64), fillings=n) for n in (0, 4))
    assert array(plain["ct"]).max() < 2400 < array(filled["ct"]).max()
    lost = (array(plain["mr"]) > 3 * array(filled["mr"]) + 30).sum()
    assert lost > 50  # the hole in the MR


# --- inner ear


def test_an_ear_has_a_cochlea_of_a_cochleas_size_full_of_fluid_in_dense_bone(ear: dict[str, Any]) -> None:
    image, mask = array(ear["image"]), array(ear["mask"]) > 0
    assert 40 < mask.sum() * 0.4**3 < 130  # cubic millimetres
    index = np.argwhere(mask)
    assert ((index.max(axis=0) - index.min(axis=0)) * 0.4 < 12).all()
    assert np.median(image[mask]) < 800
    ring = sitk.GetArrayFromImage(sitk.BinaryDilate(ear["mask"], (5,) * 3)) - mask > 0
    assert np.percentile(image[ring], 75) > 1600
    assert (image < -800).mean() > 0.005


def test_the_cochlea_is_a_spiral_of_two_and_a_half_tapering_turns() -> None:
    path, radii, base, axis, _ = inner_ear.spiral(np.random.default_rng(0))
    offset = path - base
    across = offset - np.outer(offset @ axis, axis)
    reference = across[0] / np.linalg.norm(across[0])
    angle = np.unwrap(np.arctan2(np.cross(reference, across) @ axis, across @ reference))
    assert abs(angle[-1]) / (2 * np.pi) == pytest.approx(2.5, rel=0.05)
    assert (np.diff(np.linalg.norm(across, axis=1)) < 0).all() and (np.diff(offset @ axis) > 0).all()
    assert (np.diff(radii) < 0).all()


def test_landmarks_lie_on_the_cochlea_where_their_names_say(ear: dict[str, Any]) -> None:
    for made in (ear, inner_ear.make(11), inner_ear.make(12, elastic=0.6, turn=60.0)):
        mask = made["mask"]
        inside = np.argwhere(array(mask) > 0)[:, ::-1]
        places = inside * 0.4 + np.array(mask.GetOrigin())
        named = positions(made)
        assert list(named) == list(inner_ear.LANDMARKS)
        nearest = {name: np.linalg.norm(places - at, axis=1).min() for name, at in named.items()}
        assert nearest["cochlea top"] < 0.6 and nearest["round window"] < 0.6
        assert nearest["cochlea centre"] < 2.0
        centre = named["cochlea centre"]
        assert np.linalg.norm(centre - places.mean(axis=0)) < 1.6
        way = named["cochlea top"] - centre
        along = (places - centre) @ way / np.linalg.norm(way)
        assert along.max() < np.linalg.norm(way) + 0.9  # nothing lies beyond the top
        assert np.linalg.norm(named["round window"] - named["cochlea top"]) > 4.0


def test_landmarks_move_with_the_pose_exactly_and_the_anatomy_with_them() -> None:
    still, posed = (inner_ear.make(6, turn=t, shift=s, noise=0.0) for t, s in ((0.0, 0.0), (50.0, 6.0)))
    one, other = (np.array(list(positions(made).values())) for made in (still, posed))
    assert np.linalg.norm(one - other, axis=1).min() > 2.0
    gaps = [np.linalg.norm(p[:, None] - p[None], axis=2) for p in (one, other)]
    np.testing.assert_allclose(gaps[0], gaps[1], atol=1e-9)  # a rigid pose
    # The pose that the three points tell, laid on the mask, must give the other mask.
    u, _, v = np.linalg.svd((other - other.mean(axis=0)).T @ (one - one.mean(axis=0)))
    turn = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(turn.ravel().tolist())
    transform.SetTranslation((other.mean(axis=0) - turn @ one.mean(axis=0)).tolist())
    moved = array(sitk.Resample(posed["mask"], still["mask"], transform, sitk.sitkNearestNeighbor)) > 0
    there = array(still["mask"]) > 0
    assert 2 * (moved & there).sum() / (moved.sum() + there.sum()) > 0.85


def test_the_warp_is_undone_exactly_at_points() -> None:
    placing, grid = shape_of((8, 8, 8), 0.6, np.array([0.95, 1.02, 1.07]))
    points = np.random.default_rng(1).uniform(-12, 12, (40, 3))
    world = placing.world(points)
    rigid = grid.direction.T @ (world - placing.shift).T
    np.testing.assert_allclose(placing.undeformed(rigid).T, points, atol=1e-8)
    bent = np.linalg.norm(placing.undeformed(rigid) / placing.scale[:, None] - rigid, axis=0)
    assert 0.2 < bent.mean() < 3.0
    with pytest.raises(ValueError, match="folds"):
        shape_of((8, 8, 8), 9.0, np.ones(3))[0].world(points)


def test_the_same_ear_lies_at_the_same_place_on_another_grid() -> None:
    fine, coarse = inner_ear.make(8), inner_ear.make(8, size=(72, 72, 72), spacing=0.6)
    assert positions(fine).keys() == positions(coarse).keys()
    for name, at in positions(fine).items():
        np.testing.assert_allclose(at, positions(coarse)[name], atol=1e-9)
    moved = array(sitk.Resample(coarse["mask"], fine["mask"], sitk.Transform(), sitk.sitkNearestNeighbor)) > 0
    there = array(fine["mask"]) > 0
    assert 2 * (moved & there).sum() / (moved.sum() + there.sum()) > 0.75


def test_poses_stay_within_what_was_asked_and_the_cochlea_within_the_block() -> None:
    for seed in range(6):
        made = inner_ear.make(seed, size=(56, 56, 56), spacing=0.8, turn=30.0, shift=5.0)
        inside = np.argwhere(array(made["mask"]) > 0)
        assert len(inside) > 80 and inside.min() > 2 and inside.max() < 53
    centres = [positions(inner_ear.make(s, size=(16, 16, 16), spacing=2.8))["cochlea centre"] for s in range(12)]
    assert np.std(centres, axis=0).min() > 1.0


# --- files


def test_pools_of_single_cases_are_written_beside_the_cohort_from_three_patients_on(tmp_path: Path) -> None:
    table = write(PHANTOMS["inner-ear"], 5, 2, tmp_path / "five", size=(24, 24, 24), spacing=1.8)
    with open(table, newline="") as lines:
        rows = list(csv.DictReader(lines))
    pools = json.loads((table.parent / "collection.json").read_text())["pools"]
    assert set(pools) == {"reference", "validation"}
    for pool, split in (("reference", "train"), ("validation", "validation")):
        with open(table.parent / pools[pool], newline="") as lines:
            (row,) = csv.DictReader(lines)
        first = next(r for r in rows if r["split"] == split)
        assert row == {key: first[key] for key in row}
        assert ("landmarks" in row) == (pool == "reference")
        assert (table.parent / row["image"]).is_file()
    two = write(PHANTOMS["inner-ear"], 2, 2, tmp_path / "two", size=(24, 24, 24), spacing=1.8)
    assert not (two.parent / "collection.json").exists()


def test_the_backend_reads_the_collection_and_the_landmarks_where_they_were_written(tmp_path: Path) -> None:
    from medgen import catalog, io, markups
    from medgen.cohort import read_collection
    from medgen.method import Kind, Role

    table = write(PHANTOMS["inner-ear"], 3, 1, tmp_path / "three", size=(24, 24, 24), spacing=1.8)
    train = catalog.load("one-shot-landmarks").operation("train")
    collection = read_collection(table.parent, train)
    (row,) = collection.rows("reference")
    points = markups.read(Path(row.files["landmarks"][0]), Role("landmarks", Kind.POINTS, ""))[0]
    written = json.loads(Path(row.files["landmarks"][0]).read_text())
    lps = np.array([c["position"] for c in written["markups"][0]["controlPoints"]])
    np.testing.assert_allclose(points.positions, lps * (-1, -1, 1))
    assert points.names == list(inner_ear.LANDMARKS)
    assert io.read_mask(Path(row.files["mask"][0])).segments[0].name == "cochlea"


def test_both_are_made_with_numpy_and_simpleitk_alone() -> None:
    code = (
        "import sys\nfrom medgen.phantoms import PHANTOMS\n"
        "for name in ('head-mr-ct', 'inner-ear'):\n    PHANTOMS[name].make(0, size=(16, 16, 16))\n"
        "unwanted = {'torch', 'scipy', 'monai', 'skimage', 'pydantic', 'matplotlib', 'vtk', 'slicer'}\n"
        "print(sorted(unwanted & {name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_too_few_voxels_are_refused() -> None:
    for name, size in (("head-mr-ct", (96, 7, 96)), ("inner-ear", (15, 64, 64))):
        with pytest.raises(ValueError, match="voxels or more"):
            PHANTOMS[name].make(0, size=size)
