"""Measures that methods share, against closed forms, brute force and other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import SSIMMetric
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medgen.metrics.images import mae, psnr, ssim
from medgen.metrics.overlap import dice, mean_dice


def pair(shape: tuple[int, int, int] = (12, 15, 11)) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    reference = generator.normal(0, 300, shape).cumsum(axis=0)
    return (reference + generator.normal(0, 80, shape)).astype(np.float32), reference.astype(np.float32)


def test_mean_absolute_error_and_peak_signal_to_noise_have_their_closed_forms() -> None:
    reference = torch.zeros(4, 5, 6)
    found = reference + 3
    assert mae(found, reference) == 3
    assert psnr(found, reference, 30) == pytest.approx(20)
    assert psnr(reference, reference, 30) == math.inf
    half = torch.zeros(4, 5, 6, dtype=torch.bool)
    half[:2] = True
    found[2:] = 100
    assert mae(found, reference, half) == 3
    assert psnr(found, reference, 30, half) == pytest.approx(20)


def test_integers_do_not_wrap() -> None:
    low, high = (np.full((2, 2, 2), value, dtype=np.int16) for value in (-30000, 30000))
    assert mae(low, high) == 60000
    assert mae(np.zeros(3, np.uint8), np.ones(3, np.uint8)) == 1


def test_peak_signal_to_noise_is_scikit_images() -> None:
    found, reference = pair()
    expected = peak_signal_noise_ratio(reference.astype(float), found.astype(float), data_range=4000)
    assert psnr(found, reference, 4000) == pytest.approx(expected)


def test_structural_similarity_is_its_formula_at_every_window() -> None:
    found, reference = pair((9, 8, 10))
    values = []
    for i, j, k in np.ndindex(3, 2, 4):
        x, y = (array[i : i + 7, j : j + 7, k : k + 7].astype(float).ravel() for array in (found, reference))
        covariance = np.cov(x, y)
        low, contrast = (0.01 * 2000) ** 2, (0.03 * 2000) ** 2
        values.append(
            (2 * x.mean() * y.mean() + low)
            * (2 * covariance[0, 1] + contrast)
            / ((x.mean() ** 2 + y.mean() ** 2 + low) * (covariance[0, 0] + covariance[1, 1] + contrast))
        )
    assert ssim(found, reference, 2000) == pytest.approx(np.mean(values), rel=1e-9)


def test_structural_similarity_in_slabs_is_that_of_the_whole() -> None:
    found, reference = pair((80, 12, 9))
    expected = structural_similarity(found.astype(float), reference.astype(float), win_size=7, data_range=3000)
    assert ssim(torch.from_numpy(found), reference, 3000) == pytest.approx(expected, rel=1e-12)


def test_structural_similarity_is_monais_to_the_sample_covariance() -> None:
    """MONAI divides by N, scikit-image by N - 1: 343 voxels make that small."""
    found, reference = pair((20, 20, 20))
    monai = SSIMMetric(3, data_range=2000, kernel_type="uniform", win_size=7)
    theirs = float(monai(torch.from_numpy(found)[None, None], torch.from_numpy(reference)[None, None]))
    ours = ssim(found, reference, 2000)
    assert 0.2 < ours < 0.99 and ours == pytest.approx(theirs, abs=2e-3)


def test_equal_volumes_are_wholly_similar() -> None:
    _, reference = pair()
    assert ssim(reference, reference, 100) == pytest.approx(1)


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(ValueError, match="compared"):
        mae(torch.zeros(2, 2, 2), torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match="no voxel"):
        mae(torch.zeros(2, 2, 2), torch.zeros(2, 2, 2), torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="7 voxels"):
        ssim(torch.zeros(9, 9, 6), torch.zeros(9, 9, 6), 1)


def test_dice_counts_what_is_shared_twice() -> None:
    one, other = (torch.tensor(values, dtype=torch.bool) for values in ([1, 1, 1, 0], [0, 1, 0, 0]))
    assert dice(one, other) == 0.5 and dice(one, one) == 1 and dice(~one, one) == 0
    assert dice(torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)) == 1
    labels, truth = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    assert mean_dice(labels, truth, [1, 2]) == pytest.approx((2 / 3 + 2 / 3) / 2)
