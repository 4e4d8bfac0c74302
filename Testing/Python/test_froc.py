"""Counting found lesions: the ADAM challenge's rules, the FROC curve, Cohen's kappa; against brute force and others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from medgen.case import Sphere
from medgen.metrics.froc import Counts, Froc, adam_counts, froc, froc_at, inside_spheres, over_cases
from medgen.metrics.overlap import Confusion, dice


def by_hand(centres: np.ndarray, lesions: list[Sphere]) -> Counts:
    """The challenge's words, one finding and one lesion at a time."""
    found, false = set(), 0
    for centre in centres:
        met = [n for n, lesion in enumerate(lesions) if math.dist(centre, lesion.centre) <= lesion.radius]
        found |= set(met)
        false += not met
    return Counts(len(found), false, len(lesions) - len(found))


def scene(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[Sphere]]:
    """Random findings with confidences (some alike) and lesions that may touch; either may be none."""
    lesions = [Sphere(generator.uniform(0, 20, 3), generator.uniform(1, 6)) for _ in range(generator.integers(0, 4))]
    count = int(generator.integers(0, 8))
    return generator.uniform(0, 20, (count, 3)), np.round(generator.uniform(0, 1, count), 1), lesions


def test_adam_counts_are_those_of_the_rule_taken_word_by_word() -> None:
    generator = np.random.default_rng(5)
    for _ in range(200):
        centres, _, lesions = scene(generator)
        assert adam_counts(inside_spheres(centres, lesions)) == by_hand(centres, lesions)


def test_two_findings_in_one_lesion_are_one_hit_and_no_false_positive() -> None:
    lesion = Sphere(np.array([1.0, 2.0, 3.0]), 2.0)
    centres = np.array([[1.0, 2.0, 3.0], [1.0, 4.0, 3.0], [1.0, 4.1, 3.0]])  # middle, surface, outside
    assert adam_counts(inside_spheres(centres, [lesion])) == Counts(tp=1, fp=1, fn=0)


def test_nothing_found_and_nothing_there_are_counted_too() -> None:
    lesion = Sphere(np.zeros(3), 1.0)
    assert adam_counts(inside_spheres(np.zeros((0, 3)), [lesion])) == Counts(0, 0, 1)
    assert adam_counts(inside_spheres(np.zeros((2, 3)), [])) == Counts(0, 2, 0)
    assert math.isnan(Counts(0, 2, 0).sensitivity)


def test_the_challenges_means_leave_cases_without_lesions_out_of_the_sensitivity_alone() -> None:
    sensitivity, fp = over_cases([Counts(1, 0, 1), Counts(2, 3, 0), Counts(0, 3, 0)])
    assert sensitivity == pytest.approx(0.75) and fp == pytest.approx(2.0)
    assert math.isnan(over_cases([Counts(0, 1, 0)])[0])
    with pytest.raises(ValueError, match="no case"):
        over_cases([])


def test_every_point_of_the_curve_is_the_count_of_what_is_at_least_as_sure() -> None:
    generator = np.random.default_rng(8)
    cases = [scene(generator) for _ in range(12)]
    curve = froc([(sure, inside_spheres(centres, lesions)) for centres, sure, lesions in cases])
    assert curve.fp[0] == 0 and curve.sensitivity[0] == 0
    assert (np.diff(curve.thresholds) < 0).all() and (np.diff(curve.sensitivity) >= 0).all()
    assert set(curve.thresholds[1:]) == {float(value) for _, sure, _ in cases for value in sure}
    for threshold, sensitivity, fp in zip(curve.thresholds, curve.sensitivity, curve.fp, strict=True):
        counts = [by_hand(centres[sure >= threshold], lesions) for centres, sure, lesions in cases]
        shares = [one.tp / (one.tp + one.fn) for one in counts if one.tp + one.fn]
        assert sensitivity == pytest.approx(np.mean(shares))
        assert fp == pytest.approx(np.mean([one.fp for one in counts]))


def test_the_area_is_that_under_the_steps_and_the_corner_the_nearest_point() -> None:
    curve = Froc(np.array([0.9, 0.6, 0.3]), np.array([0.2, 0.7, 1.0]), np.array([0.0, 0.5, 3.0]))
    assert curve.area(1.0) == pytest.approx(0.2 * 0.5 + 0.7 * 0.5)
    assert curve.area(4.0) == pytest.approx((0.2 * 0.5 + 0.7 * 2.5 + 1.0 * 1.0) / 4)
    brute = np.mean([curve.sensitivity_at(fp) for fp in np.linspace(0, 4, 40_001)])
    assert curve.area(4.0) == pytest.approx(brute, abs=1e-4)
    assert curve.thresholds[curve.nearest_corner()] == 0.6
    assert Froc(curve.thresholds[1:], curve.sensitivity[1:], curve.fp[1:]).sensitivity_at(0.4) == 0
    with pytest.raises(ValueError, match="above 0"):
        curve.area(0.0)


def test_a_curve_may_be_made_of_findings_that_change_with_the_threshold() -> None:
    curve = froc_at([0.8, 0.4], [[Counts(0, 0, 1), Counts(1, 0, 0)], [Counts(1, 2, 0), Counts(1, 0, 0)]])
    assert curve.sensitivity.tolist() == [0.5, 1.0] and curve.fp.tolist() == [0.0, 1.0]


def test_without_any_finding_the_curve_is_one_point_at_nothing() -> None:
    curve = froc([(np.zeros(0), np.zeros((0, 1), bool))])
    assert (curve.sensitivity.tolist(), curve.fp.tolist(), curve.area()) == ([0.0], [0.0], 0.0)


def test_kappa_is_scikit_learns_and_dice_the_overlaps() -> None:
    generator = torch.Generator().manual_seed(2)
    for share in (0.001, 0.02, 0.4):
        reference = torch.rand(4000, generator=generator) < share
        found = (torch.rand(4000, generator=generator) < share) | (
            reference & (torch.rand(4000, generator=generator) < 0.7)
        )
        counts = Confusion.of(found, reference)
        assert counts.tp + counts.fp + counts.fn + counts.tn == 4000
        assert counts.kappa == pytest.approx(cohen_kappa_score(reference.numpy(), found.numpy()), abs=1e-12)
        assert counts.dice == pytest.approx(dice(found, reference))


def test_kappa_is_one_in_full_agreement_none_by_chance_and_below_in_contradiction() -> None:
    assert Confusion(3, 0, 0, 5).kappa == 1 and Confusion(0, 0, 0, 9).kappa == 1
    assert Confusion(1, 1, 1, 1).kappa == 0
    assert Confusion(0, 2, 2, 0).kappa == -1
    assert Confusion(2, 2, 2, 2) + Confusion(1, 0, 0, 3) == Confusion(3, 2, 2, 5)


def test_kappa_notices_a_small_hit_in_a_sea_of_background_that_accuracy_does_not() -> None:
    hit, miss = Confusion(5, 0, 15, 100_000), Confusion(0, 5, 20, 99_995)
    assert hit.kappa > 0.39 and abs(miss.kappa) < 0.01
