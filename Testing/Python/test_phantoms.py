"""Synthetic patients: reproducible, anatomically placed, readable by Slicer, and made without torch."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicerio

from medgen.errors import UserError
from medgen.phantoms import PHANTOMS, abdomen_ct, mitochondria, write
from medgen.phantoms.cohort import splits, subject_seed

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, tuple[int, ...]] = {
    "abdomen-ct-drawn": (48, 40, 32),
    "abdomen-ct": (48, 40, 32),
    "annulus": (64, 36),
    "hand-xray": (48, 60),
    "cataract-frame": (64, 36),
    "compound-figure": (128, 96),
    "head-mr-ct": (24, 28, 24),
    "inner-ear": (40, 40, 40),
    "mitochondria": (32, 32, 32),
    "mr-angiogram": (40, 40, 40),
}
BODY_HU = {  # between which bounds the median of each structure lies
    "liver": (80, 150),
    "kidney_right": (110, 220),
    "kidney_left": (110, 220),
    "spleen": (90, 150),
    "aorta": (110, 220),
    "spine": (150, 450),
    "lungs": (-900, -700),
    "stomach": (0, 60),
}


def arrays(made: dict[str, sitk.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels as arrays (z, y, x)."""
    return sitk.GetArrayFromImage(made["image"]).astype(float), sitk.GetArrayFromImage(made["mask"])


def centroid(mask: sitk.Image, label: int) -> np.ndarray:
    """Where a label's voxels lie on average, LPS mm."""
    index = np.argwhere(sitk.GetArrayFromImage(mask) == label).mean(axis=0)[::-1]
    return np.array(mask.TransformContinuousIndexToPhysicalPoint([float(v) for v in index]))


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two boolean arrays."""
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


@pytest.fixture(scope="module")
def patient() -> dict[str, sitk.Image]:
    """One patient of the default size."""
    return abdomen_ct.make(7)


@pytest.mark.parametrize("name", ["abdomen-ct", "mitochondria"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_patient(name: str) -> None:
    first, again, other = (PHANTOMS[name].make(seed, size=SMALL[name]) for seed in (3, 3, 4))
    for role in PHANTOMS[name].roles:
        assert np.array_equal(sitk.GetArrayViewFromImage(first[role]), sitk.GetArrayViewFromImage(again[role]))
        differs = sitk.GetArrayFromImage(first[role]) != sitk.GetArrayFromImage(other[role])
        assert differs.mean() > 0.02


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_written_cohort_is_the_same_to_the_byte_and_a_longer_one_begins_with_it(name: str, tmp_path: Path) -> None:
    tables = [
        write(PHANTOMS[name], n, 11, tmp_path / folder, size=SMALL[name])
        for n, folder in ((2, "a"), (2, "b"), (3, "c"))
    ]
    names = sorted(path.name for path in tables[0].parent.iterdir())
    assert names == sorted(path.name for path in tables[1].parent.iterdir())
    for file in names:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
        if not file.endswith(".csv"):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "c" / file).read_bytes(), file


@pytest.mark.parametrize("seed", [7, 1, 2])
def test_each_structure_of_the_abdomen_has_the_hu_and_size_of_its_tissue(
    seed: int, patient: dict[str, sitk.Image]
) -> None:
    made = patient if seed == 7 else abdomen_ct.make(seed)
    image, labels = arrays(made)
    litres = np.prod(made["mask"].GetSpacing()) / 1e6
    for segment in abdomen_ct.SEGMENTS:
        low, high = BODY_HU[segment.name]
        assert low < np.median(image[labels == segment.value]) < high, segment.name
    volume = {s.name: (labels == s.value).sum() * litres for s in abdomen_ct.SEGMENTS}
    assert 0.8 < volume["liver"] < 2.2
    assert 0.08 < volume["kidney_left"] < 0.3 and 0.08 < volume["kidney_right"] < 0.3
    assert 0.07 < volume["spleen"] < 0.35
    assert 0.04 < volume["aorta"] < 0.14
    assert made["image"].GetPixelID() == sitk.sitkInt16 and image.min() >= -1024
    assert np.median(image[:, :4, :4]) == pytest.approx(-1000, abs=30)  # air beside the patient


def test_right_is_right_and_the_head_is_up(patient: dict[str, sitk.Image]) -> None:
    at = {s.name: centroid(patient["mask"], s.value) for s in abdomen_ct.SEGMENTS}
    assert at["liver"][0] < 0 < at["spleen"][0]  # LPS: x grows to the patient's left
    assert at["kidney_right"][0] < at["spine"][0] < at["kidney_left"][0]
    assert at["spine"][1] > at["aorta"][1] > at["stomach"][1]  # y grows to the back
    assert at["lungs"][2] > at["liver"][2] > at["kidney_right"][2]  # z grows to the head


def test_voxels_between_two_tissues_have_values_between_them() -> None:
    image, labels = arrays(abdomen_ct.make(5, noise=0.0))
    lungs = labels == abdomen_ct.LUNGS
    border = lungs & ~np.roll(lungs, 1, axis=2)
    values = image[border]
    assert ((values > -820) & (values < -120)).mean() > 0.2


def test_noise_is_that_of_filtered_back_projection() -> None:
    """Weak at the lowest and at the highest frequencies of a slice, and independent between slices."""
    noisy, clean = (arrays(abdomen_ct.make(5, noise=n))[0] for n in (1.0, 0.0))
    noise = noisy - clean
    spectrum = np.square(np.abs(np.fft.fft2(noise))).mean(axis=0)
    frequency = np.hypot(np.fft.fftfreq(noise.shape[1])[:, None], np.fft.fftfreq(noise.shape[2])[None, :])
    low, middle, high = (
        spectrum[(frequency > a) & (frequency < b)].mean() for a, b in ((0.0, 0.05), (0.15, 0.25), (0.6, 0.8))
    )
    assert middle > 2 * low and middle > 5 * high
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.02
    assert 5 < noise[labels_of_liver(5)].std() < 20


def labels_of_liver(seed: int) -> np.ndarray:
    """Where the liver of a patient is."""
    return arrays(abdomen_ct.make(seed, noise=0.0))[1] == abdomen_ct.LIVER


def test_the_same_patient_lies_at_the_same_place_on_an_oblique_and_on_an_anisotropic_grid(
    patient: dict[str, sitk.Image],
) -> None:
    tilted = abdomen_ct.make(7, oblique=17.0)
    thick = abdomen_ct.make(7, size=(96, 80, 24))
    assert np.allclose(tilted["image"].GetDirection(), tilted["mask"].GetDirection())
    assert np.abs(np.array(tilted["image"].GetDirection()).reshape(3, 3) - np.eye(3)).max() > 0.05
    assert thick["image"].GetSpacing()[2] == pytest.approx(256 / 24)
    for made, least in ((tilted, 0.88), (thick, 0.80)):
        moved = sitk.Resample(made["mask"], patient["mask"], sitk.Transform(), sitk.sitkNearestNeighbor)
        for label in (abdomen_ct.LIVER, abdomen_ct.SPLEEN, abdomen_ct.KIDNEY_LEFT):
            pair = (sitk.GetArrayFromImage(m) == label for m in (moved, patient["mask"]))
            assert dice(*pair) > least


def test_a_default_patient_is_made_within_the_time_a_click_may_take() -> None:
    start = time.process_time()
    abdomen_ct.make(1)
    assert time.process_time() - start < 6.0  # about 2 s alone on one core


def mean_orientation(direction: tuple[float, float, float] | None, seeds: range) -> np.ndarray:
    """The structure tensor of the bodies' surfaces, summed over blocks, of trace 1 (x, y, z)."""
    total = np.zeros((3, 3))
    for seed in seeds:
        labels = arrays(mitochondria.make(seed, size=(64, 64, 64), direction=direction))[1]
        gradient = np.gradient(labels.astype(float))[::-1]
        inner = tuple(slice(2, -2) for _ in range(3))
        total += np.array([[(a[inner] * b[inner]).sum() for a in gradient] for b in gradient])
    return total / np.trace(total)


def anisotropy(tensor: np.ndarray) -> float:
    """Fractional anisotropy: 0 for a sphere, 1 for a stick."""
    values = np.linalg.eigvalsh(tensor)
    return float(np.sqrt(1.5 * np.square(values - values.mean()).sum() / np.square(values).sum()))


def test_mitochondria_have_no_preferred_direction_unless_given_one() -> None:
    isotropic = mean_orientation(None, range(14))
    directed = mean_orientation((0.0, 0.6, 0.8), range(5))
    assert anisotropy(isotropic) < 0.08
    assert anisotropy(directed) > 0.3  # 0.71 for endless parallel tubes; these have round ends
    along = np.linalg.eigh(directed)[1][:, 0]  # surfaces face away from the bodies' axis
    assert abs(along @ (0.0, 0.6, 0.8)) > 0.98


def test_grey_values_of_a_block_of_mitochondria_are_alike_along_all_axes() -> None:
    """Neither blur nor grain knows the grid's axes: neighbours along x, y and z correlate alike."""
    ratio = np.zeros(3)
    for seed in range(4):
        image, labels = arrays(mitochondria.make(seed, size=(64, 64, 64)))
        steps = [np.square(np.diff(image, axis=axis)).mean() for axis in range(3)]
        ratio += np.array(steps) / np.mean(steps) / 4
        assert 0.04 < (labels > 0).mean() < 0.4
        assert image[labels > 0].mean() < image[labels == 0].mean() - 20  # membranes and matrix are dark
    assert np.abs(ratio - 1).max() < 0.04


def test_slicerio_reads_names_colours_and_terminology_of_a_written_mask(tmp_path: Path) -> None:
    table = write(PHANTOMS["abdomen-ct"], 1, 0, tmp_path / "cohort", size=SMALL["abdomen-ct"])
    read = slicerio.read_segmentation(str(table.parent / "abdomen-ct-001_mask.seg.nrrd"))
    assert [s["name"] for s in read["segments"]] == [s.name for s in abdomen_ct.SEGMENTS]
    for got, wanted in zip(read["segments"], abdomen_ct.SEGMENTS, strict=True):
        assert got["labelValue"] == wanted.value
        assert np.allclose(got["color"], wanted.colour, atol=1e-3)
        assert got["terminology"]["type"] == ["SCT", *wanted.snomed]
    image = sitk.ReadImage(str(table.parent / "abdomen-ct-001_image.nii.gz"))
    mask = sitk.ReadImage(str(table.parent / "abdomen-ct-001_mask.seg.nrrd"))
    assert np.allclose(image.GetOrigin(), mask.GetOrigin(), atol=1e-3)
    assert np.allclose(image.GetSpacing(), mask.GetSpacing(), atol=1e-4)
    assert np.allclose(image.GetDirection(), mask.GetDirection(), atol=1e-6)


def test_the_table_names_every_file_and_each_split_once_there_are_three(tmp_path: Path) -> None:
    table = write(PHANTOMS["mitochondria"], 3, 5, tmp_path / "deep" / "cohort", size=SMALL["mitochondria"])
    with open(table, newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["image", "mask", "subject", "split"]
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert len({row["subject"] for row in rows}) == 3
    for row in rows:
        assert (table.parent / row["image"]).is_file() and (table.parent / row["mask"]).is_file()
    assert [path.name for path in table.parent.parent.iterdir()] == ["cohort"]  # nothing left beside it


def test_splits_are_the_seeds_own_and_about_three_to_one_to_one() -> None:
    assert splits(20, 1) == splits(20, 1) != splits(20, 2)
    assert [splits(20, 1).count(s) for s in ("train", "validation", "test")] == [12, 4, 4]
    assert splits(1, 0) == ["train"]
    assert len({subject_seed(seed, k) for seed in range(5) for k in range(40)}) == 200


def test_a_folder_with_something_in_it_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        write(PHANTOMS["mitochondria"], 1, 0, tmp_path, size=SMALL["mitochondria"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="one or more"):
        write(PHANTOMS["mitochondria"], 0, 0, tmp_path / "none")


def test_a_cohort_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medgen.phantoms import cohort

    written = []

    def full_disk(value: object, path: Path) -> None:
        written.append(path)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        path.write_text("x")

    monkeypatch.setattr(cohort, "write_value", full_disk)
    with pytest.raises(UserError, match="No space left"):
        write(PHANTOMS["mitochondria"], 2, 0, tmp_path / "cohort", size=SMALL["mitochondria"])
    assert list(tmp_path.iterdir()) == []


def test_phantoms_are_made_with_numpy_and_simpleitk_alone() -> None:
    code = (
        "import sys\nfrom medgen.phantoms import PHANTOMS\n"
        "sizes = {'abdomen-ct': (16, 16, 16), 'mitochondria': (16, 16, 16), 'hand-xray': (32, 40)}\n"
        "sizes |= {'mr-angiogram': (40,) * 3, 'compound-figure': (96, 96)}\n"
        "for name, size in sizes.items():\n    PHANTOMS[name].make(0, size=size)\n"
        "unwanted = {'torch', 'scipy', 'monai', 'skimage', 'pydantic', 'matplotlib', 'vtk', 'slicer'}\n"
        "print(sorted(unwanted & {name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_drawn_patient_shows_the_truth_on_its_planes_and_nothing_elsewhere(tmp_path: Path) -> None:
    from medgen import io, markups
    from medgen.method import Kind, Role

    write(PHANTOMS["abdomen-ct-drawn"], 1, 5, tmp_path / "d", oblique=20.0)
    row = io.read_rows(tmp_path / "d" / "cohort.csv")[0]
    drawn, whole = (io.read_mask(tmp_path / "d" / row[name]) for name in ("mask", "truth_mask"))
    planes = markups.read(tmp_path / "d" / row["planes"], Role("planes", Kind.PLANE, ""))
    levels = np.flatnonzero(drawn.data.numpy().any(axis=(0, 1)))
    assert len(planes) == len(levels) == 6
    for plane, level in zip(planes, levels, strict=True):
        assert (drawn.data[:, :, level] == whole.data[:, :, level]).all()
        corners = np.array([[0, 0, level, 1], [50, 7, level, 1]]) @ drawn.affine.T
        np.testing.assert_allclose((corners[:, :3] - plane.origin) @ plane.axes[:, 2], 0, atol=1e-4)
    assert int((whole.data > 0).sum()) > 5 * int((drawn.data > 0).sum())
