"""Claims are registered before they are run, their rows are kept, and their intervals are right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backend_tools import ROOT

sys.path.insert(0, str(ROOT / "Testing" / "Claims"))

import claims
import report

REGISTRATION = """
title = "A fake"
claim = "The method errs less than its base."
paper = "Table 1: 2 against 1."
data = "Numbers."
tier = "demo"
not_measured = ["everything else."]
[measures]
error = "what is wrong, mm"
[seeds]
tune = [1]
report = [11, 12, 13]
[[arm]]
name = "method"
role = "method"
what = "all of it"
updates = 10
[[arm]]
name = "base"
role = "ablation"
what = "without it"
updates = 10
[[arm]]
name = "nothing"
role = "trivial"
what = "zero"
[[comparison]]
claim = "better than the base"
first = "method"
second = "base"
measure = "error"
direction = "lower"
[[comparison]]
claim = "not worse than nothing by more than 10 %"
first = "method"
second = "nothing"
measure = "error"
direction = "lower"
kind = "not worse"
margin = 0.1
"""

ARMS = """
def run_seed(seed, registration, folder, done):
    for arm, value in (("method", 1.0 + 0.1 * (seed % 10)), ("base", 2.0 + 0.3 * (seed % 10)), ("nothing", 1.2)):
        if arm not in done:
            yield arm, {"error": value}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A registered claim in a repository of its own."""
    for name, text in (("registrations/fake.toml", REGISTRATION), ("arms/fake.py", ARMS)):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "registrations", "arms")
    git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "registered")
    return tmp_path


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def test_a_reporting_seed_is_refused_until_the_registration_is_committed_as_it_is(folder: Path) -> None:
    (folder / "registrations" / "fake.toml").write_text(REGISTRATION.replace("0.1", "0.2"))
    registration = claims.read("fake", folder)
    with pytest.raises(claims.ClaimError, match=r"fake\.toml is not committed"):
        claims.run(registration, [11], folder, lambda text: None)
    assert not claims.results_path(registration).exists()
    claims.run(registration, [1], folder / "scratch", lambda text: None)  # a tuning seed may be looked at
    assert len(claims.rows(folder / "scratch" / "fake-tuning.csv")) == 3
    assert not claims.results_path(registration).exists()


def test_each_row_is_kept_and_not_run_again(folder: Path) -> None:
    registration = claims.read("fake", folder)
    claims.run(registration, [11], folder, lambda text: None)
    table = claims.results_path(registration)
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:3]) + "\n")  # interrupted before the last arm
    claims.run(registration, [11, 12, 13], folder, lambda text: None)
    again = claims.rows(table)
    assert [row["arm"] for row in again] == ["method", "base", "nothing"] * 3
    assert table.read_text().splitlines()[:3] == lines[:3]
    assert all(len(row["commit"]) >= 7 for row in again)
    with pytest.raises(claims.ClaimError, match="Seed 99 is not registered"):
        claims.run(registration, [99], folder, lambda text: None)


def test_arms_of_a_full_run_are_run_when_asked_for_and_the_others_are_reported_without_them(folder: Path) -> None:
    text = REGISTRATION.replace('what = "without it"\n', 'what = "without it"\nfull = true\n')
    (folder / "registrations" / "fake.toml").write_text(text)
    git(folder, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "registered anew")
    registration = claims.read("fake", folder)
    claims.run(registration, [11, 12], folder, lambda text: None)
    assert [row["arm"] for row in claims.rows(claims.results_path(registration))] == ["method", "nothing"] * 2
    (_, better), (_, not_worse) = claims.outcomes(registration)
    assert (better.n, not_worse.n) == (0, 2)
    page = report.markdown(folder)
    assert "| base (ablation): without it | 10 | not measured | not measured |" in page
    assert "| better than the base | error | – | – | not measured |" in page
    claims.run(registration, [11, 12], folder, lambda text: None, full=True)
    assert len(claims.rows(claims.results_path(registration))) == 6
    assert next(claims.outcomes(registration))[1].n == 2


def test_rows_of_another_registration_are_neither_added_to_nor_reported(folder: Path) -> None:
    registration = claims.read("fake", folder)
    claims.run(registration, [11, 12, 13], folder, lambda text: None)
    assert len(claims.complete(registration)[1]) == 3
    (folder / "registrations" / "fake.toml").write_text(REGISTRATION.replace("updates = 10", "updates = 12"))
    git(folder, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "registered anew")
    anew = claims.read("fake", folder)
    assert claims.complete(anew)[1] == []
    with pytest.raises(claims.ClaimError, match="rows of another registration"):
        claims.run(anew, [11], folder, lambda text: None)


def test_intervals_are_students_over_paired_differences(folder: Path) -> None:
    registration = claims.read("fake", folder)
    claims.run(registration, [11, 12, 13], folder, lambda text: None)
    (_better, first), (_not_worse, second) = claims.outcomes(registration)
    differences = np.array([1.2, 1.4, 1.6])  # base - method at seeds 11, 12, 13
    half = 4.302652729911275 * 0.2 / np.sqrt(3)  # t(0.975, 2), standard deviation 0.2
    assert first.mean == pytest.approx(1.4)
    assert (first.low, first.high) == pytest.approx((differences.mean() - half, differences.mean() + half))
    assert first.verdict == "holds"
    assert second.mean == pytest.approx(1.1 * 1.2 - 1.2) and second.verdict == "undecided"
    assert claims.interval(np.array([1.0])).verdict == "undecided"
    assert claims.interval(np.array([-1.0, -1.1, -0.9])).verdict == "does not hold"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('updates = 10\n[[arm]]\nname = "nothing"', 'updates = 20\n[[arm]]\nname = "nothing"'), "budgets differ"),
        (('role = "trivial"', 'role = "baseline"'), "no trivial arm"),
        (("tune = [1]", "tune = [11]"), "both tunes and reports"),
        (('second = "base"', 'second = "nobody"'), "not registered"),
    ],
)
def test_an_unfair_registration_is_refused(folder: Path, change: tuple[str, str], words: str) -> None:
    assert change[0] in REGISTRATION
    (folder / "registrations" / "fake.toml").write_text(REGISTRATION.replace(*change))
    with pytest.raises(claims.ClaimError, match=words):
        claims.read("fake", folder)


def test_the_page_says_what_holds_and_what_was_not_measured(folder: Path) -> None:
    assert "Tier demo: not measured." in report.markdown(folder)
    claims.run(claims.read("fake", folder), [11, 12, 13], folder, lambda text: None)
    page = report.markdown(folder)
    assert "| better than the base | error | +1.4 | +0.9032 to +1.897 | **holds** |" in page
    assert "**undecided**" in page and "Not measured: everything else." in page
    assert "seeds 11, 12, 13 (3 of 3 registered; tuned on 1)" in page


def test_the_page_in_docs_is_what_the_kept_rows_make() -> None:
    page = ROOT / "docs" / "claims.md"
    assert page.read_text("utf-8") == report.markdown(), "run Testing/Claims/run --report"
