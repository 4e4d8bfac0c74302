"""Points without names: the closest pair first, strictly within the radius, against brute force."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from medgen.metrics.points import matched


def brute_force(found: np.ndarray, meant: np.ndarray, radius: float) -> list[tuple[int, int]]:
    """The rule word by word: look at all pairs that are left, take the closest, until none is within the radius."""
    left, open_, pairs = list(range(len(found))), list(range(len(meant))), []
    while left and open_:
        apart, row, column = min((float(np.linalg.norm(found[i] - meant[j])), i, j) for i in left for j in open_)
        if not apart < radius:
            break
        pairs.append((row, column))
        left.remove(row)
        open_.remove(column)
    return pairs


@pytest.mark.parametrize("seed", range(12))
def test_matching_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, meant = rng.uniform(0, 20, (rng.integers(1, 25), 3)), rng.uniform(0, 20, (rng.integers(1, 25), 3))
    if seed % 2:  # whole numbers: many pairs tie, many lie exactly on the radius
        found, meant = np.rint(found / 3), np.rint(meant / 3)
    radius = (3.0, 6.0, 1.0)[seed % 3]
    result = matched(found, meant, radius)
    assert [tuple(pair) for pair in result.pairs.tolist()] == brute_force(found, meant, radius)
    np.testing.assert_allclose(
        result.apart, np.linalg.norm(found[result.pairs[:, 0]] - meant[result.pairs[:, 1]], axis=1)
    )


def test_a_pair_exactly_on_the_radius_does_not_match() -> None:
    assert matched(np.array([[0.0, 0.0]]), np.array([[6.0, 0.0]]), 6.0).hits == 0
    assert matched(np.array([[0.0, 0.0]]), np.array([[5.999, 0.0]]), 6.0).hits == 1


def test_the_closest_pair_wins_even_where_another_pairing_would_match_more() -> None:
    result = matched(np.array([[0.0], [4.0]]), np.array([[3.0], [9.0]]), 5.0)
    assert result.pairs.tolist() == [[1, 0]] and result.hits == 1


def test_two_found_points_on_one_reference_count_once() -> None:
    result = matched(np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]]), np.array([[0.4, 0.0], [5.0, 5.0]]), 2.0)
    assert result.pairs.tolist() == [[0, 0]]
    assert (result.precision, result.recall, result.f1) == (1 / 3, 1 / 2, pytest.approx(2 / 5))


def test_nothing_found_where_nothing_is_is_right_and_elsewhere_no_share_at_all() -> None:
    nothing, one = np.empty((0, 2)), np.zeros((1, 2))
    both = matched(nothing, nothing, 6.0)
    assert (both.precision, both.recall, both.f1) == (1.0, 1.0, 1.0)
    missed = matched(nothing, one, 6.0)
    assert math.isnan(missed.precision) and missed.recall == 0 and missed.f1 == 0
    made_up = matched(one, nothing, 6.0)
    assert made_up.precision == 0 and math.isnan(made_up.recall) and made_up.f1 == 0


def test_a_point_that_was_not_found_matches_nothing_but_counts() -> None:
    result = matched(np.array([[np.nan, np.nan], [1.0, 1.0]]), np.array([[1.0, 1.5]]), 2.0)
    assert result.pairs.tolist() == [[1, 0]] and result.precision == 0.5


def test_a_radius_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="radius above 0"):
        matched(np.zeros((1, 2)), np.zeros((1, 2)), 0.0)


@pytest.mark.alone
@pytest.mark.parametrize("radius", [6.0, 1e6])
def test_a_thousand_against_a_thousand_take_at_most_a_fifth_of_a_second(radius: float) -> None:
    rng = np.random.default_rng(0)
    found, meant = rng.uniform(0, 500, (1000, 2)), rng.uniform(0, 500, (1000, 2))
    times = []
    for _ in range(3):
        began = time.perf_counter()
        result = matched(found, meant, radius)
        times.append(time.perf_counter() - began)
    assert min(times) <= 0.2
    assert result.hits == 1000 or radius < 1000
