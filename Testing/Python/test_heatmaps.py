"""Heatmaps of landmarks against closed forms and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from medgen.nn.heatmaps import argmax, gaussians, peaks, soft_argmax, together


def test_a_target_is_the_gaussian_of_the_distance_in_pixels() -> None:
    maps = gaussians(torch.tensor([[3.25, 5.5], [0.0, 0.0]]), (9, 12), 1.7)
    for i, j in np.ndindex(9, 12):
        squared = (i - 3.25) ** 2 + (j - 5.5) ** 2
        assert float(maps[0, i, j]) == pytest.approx(math.exp(-squared / (2 * 1.7**2)), abs=1e-6)
    assert float(maps[1, 0, 0]) == 1.0


def test_a_target_ends_at_its_radius_and_a_point_that_is_not_there_has_an_empty_map() -> None:
    maps = gaussians(torch.tensor([[10.0, 10.0], [math.nan, 4.0]]), (21, 21), 5.0, radius=6.0)
    distance = np.hypot(*np.meshgrid(np.arange(21) - 10, np.arange(21) - 10))
    np.testing.assert_array_equal(maps[0].numpy() > 0, distance <= 6)
    assert not maps[1].any()


def test_points_in_one_map_keep_their_full_height_however_near_they_lie() -> None:
    both = together(gaussians(torch.tensor([[4.0, 4.0], [4.0, 6.0]]), (9, 11), 2.0))
    assert float(both.max()) == float(both[4, 4]) == float(both[4, 6]) == 1.0
    assert together(torch.empty(0, 5, 7)).shape == (5, 7) and not together(torch.empty(0, 5, 7)).any()


def test_the_peak_of_a_sampled_gaussian_is_found_to_a_thousandth_of_a_pixel() -> None:
    points = torch.from_numpy(np.random.default_rng(0).uniform(2, 17, (50, 2))).float()
    positions, scores = argmax(gaussians(points, (20, 20), 1.5))
    torch.testing.assert_close(positions, points, atol=1e-3, rtol=0)
    assert scores.min() > 0.8
    rough, _ = argmax(gaussians(points, (20, 20), 1.5), refine=False)
    torch.testing.assert_close(rough, points.round())


def test_a_peak_at_the_edge_stays_on_its_pixel() -> None:
    positions, _ = argmax(gaussians(torch.tensor([[0.3, 7.0]]), (10, 10), 1.0))
    assert positions.tolist() == [[0.0, pytest.approx(7.0, abs=1e-4)]]


@pytest.mark.parametrize("window", [3, 5, 9])
def test_peaks_are_those_of_a_maximum_filter_highest_first(window: int) -> None:
    heatmap = np.random.default_rng(window).random((40, 50)).astype(np.float32)
    highest = ndimage.maximum_filter(heatmap, window, mode="constant", cval=-1)
    expected = {tuple(at) for at in np.argwhere((heatmap == highest) & (heatmap >= 0.8)).tolist()}
    positions, scores = peaks(torch.from_numpy(heatmap), 0.8, window, refine=False)
    assert {tuple(at) for at in positions.int().tolist()} == expected
    assert (scores.diff() <= 0).all()
    few, _ = peaks(torch.from_numpy(heatmap), 0.8, window, most=3, refine=False)
    torch.testing.assert_close(few, positions[:3])


def test_a_plateau_is_one_peak_and_peaks_that_tie_far_apart_are_two() -> None:
    heatmap = torch.zeros(12, 12)
    heatmap[2:4, 2:4] = 1.0
    heatmap[9, 9] = 1.0
    positions, _ = peaks(heatmap, 0.5, refine=False)
    assert positions.tolist() == [[2.0, 2.0], [9.0, 9.0]]
    assert len(peaks(torch.zeros(5, 5), 0.5)[0]) == 0


def test_peaks_of_a_map_of_several_points_are_the_points() -> None:
    points = torch.tensor([[5.3, 6.8], [14.9, 20.2], [25.0, 8.5]])
    positions, _ = peaks(together(gaussians(points, (32, 32), 2.0)), 0.3, window=5)
    ordered = positions[torch.argsort(positions[:, 0])]
    torch.testing.assert_close(ordered, points, atol=2e-3, rtol=0)


def test_a_window_without_a_middle_is_refused() -> None:
    with pytest.raises(ValueError, match="odd number of pixels"):
        peaks(torch.zeros(5, 5), 0.5, window=4)


def test_the_soft_argmax_is_the_mean_position_under_the_softmax() -> None:
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 2, (2, 6, 7)))
    weights = np.exp(logits.numpy() / 0.5)
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    rows, columns = np.meshgrid(np.arange(6), np.arange(7), indexing="ij")
    expected = np.stack([(weights * rows).sum((1, 2)), (weights * columns).sum((1, 2))], axis=-1)
    np.testing.assert_allclose(soft_argmax(logits, 0.5).numpy(), expected, rtol=1e-6)
    cold = soft_argmax(logits, 1e-3)
    torch.testing.assert_close(cold, argmax(logits, refine=False)[0], atol=1e-3, rtol=0)


def test_the_soft_argmax_pulls_a_map_towards_its_target() -> None:
    logits = torch.zeros(1, 8, 8, requires_grad=True)
    (soft_argmax(logits) - torch.tensor([[6.0, 1.0]])).square().sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 7, 0] < 0 < logits.grad[0, 0, 7]
