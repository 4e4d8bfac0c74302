"""Claims: registered before they are run, one row kept for every arm of every seed, paired differences with intervals.

A registration is a TOML file that says, before anything is run: the claim in words and the paper's figures; the arms
(the method, its ablations, the paper's baselines, one trivial baseline) and the budget that they share; the measures;
the comparisons with their margins; which seeds tune and which report. The code of the arms is a Python file of the same
name under `arms`, with `run_seed(seed, registration, folder, done) -> Iterator[(arm, {measure: value})]`, where `done`
names the arms that need not be run again.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import math
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tomllib

HERE = Path(__file__).resolve().parent
CONFIDENCE = 0.95


class ClaimError(Exception):
    """One sentence for whoever runs a claim."""


@dataclass(frozen=True)
class Arm:
    """One way of doing it. role: method, ablation, baseline or trivial. updates: its budget, 0 if it is not trained.

    full: it is run only when all arms are asked for.
    """

    name: str
    role: str
    what: str
    updates: int = 0
    full: bool = False


@dataclass(frozen=True)
class Comparison:
    """Whether arm `first` is better than `second` by a measure, or not worse than (1 + margin) times it.

    direction: "lower" or "higher" is better. kind: "better" or "not worse". margin: relative, for "not worse".
    """

    claim: str
    first: str
    second: str
    measure: str
    direction: str
    kind: str = "better"
    margin: float = 0.0

    def differences(self, table: dict[tuple[int, str], dict[str, float]], seeds: list[int]) -> np.ndarray:
        """For each seed, by how much it came out in favour of `first`; positive is in favour."""
        sign = 1.0 if self.direction == "lower" else -1.0
        slack = 1.0 + sign * self.margin
        pairs = [(table[seed, self.first][self.measure], table[seed, self.second][self.measure]) for seed in seeds]
        return np.array([sign * (slack * second - first) for first, second in pairs])


@dataclass(frozen=True)
class Registration:
    """What was said before the run; `settings` goes to the arms' code as it stands."""

    slug: str
    title: str
    claim: str
    paper: str
    data: str
    tier: str
    measures: dict[str, str]
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    tune: tuple[int, ...]
    report: tuple[int, ...]
    settings: dict[str, Any]
    not_measured: tuple[str, ...]
    path: Path


def registrations(folder: Path = HERE) -> list[Registration]:
    """All of them, in order of their slugs."""
    return [read(path.stem, folder) for path in sorted((folder / "registrations").glob("*.toml"))]


def read(slug: str, folder: Path = HERE) -> Registration:
    """The registration of a method's claim, checked: arms are named, trained arms share one budget, seeds are apart."""
    path = folder / "registrations" / f"{slug}.toml"
    if not path.is_file():
        raise ClaimError(f"There is no registration {path.name}; write it and commit it first.")
    told = tomllib.loads(path.read_text("utf-8"))
    found = Registration(
        slug=slug,
        title=told["title"],
        claim=told["claim"],
        paper=told["paper"],
        data=told["data"],
        tier=told["tier"],
        measures=told["measures"],
        arms=tuple(Arm(**arm) for arm in told["arm"]),
        comparisons=tuple(Comparison(**comparison) for comparison in told["comparison"]),
        tune=tuple(told["seeds"]["tune"]),
        report=tuple(told["seeds"]["report"]),
        settings=told.get("settings", {}),
        not_measured=tuple(told.get("not_measured", [])),
        path=path,
    )
    _check(found)
    return found


def _check(registration: Registration) -> None:
    names = [arm.name for arm in registration.arms]
    for comparison in registration.comparisons:
        if not {comparison.first, comparison.second} <= set(names) or comparison.measure not in registration.measures:
            raise ClaimError(
                f"{registration.slug}: “{comparison.claim}” names an arm or measure that is not registered."
            )
    budgets = {arm.updates for arm in registration.arms if arm.updates}
    if len(budgets) > 1:
        raise ClaimError(f"{registration.slug}: the trained arms' budgets differ ({sorted(budgets)}); make them equal.")
    if not any(arm.role == "trivial" for arm in registration.arms):
        raise ClaimError(f"{registration.slug} has no trivial arm; register one.")
    if set(registration.tune) & set(registration.report):
        raise ClaimError(f"{registration.slug}: a seed both tunes and reports; keep them apart.")


# --- running


def arms_of(registration: Registration) -> ModuleType:
    """The Python file that runs the arms."""
    path = registration.path.parents[1] / "arms" / f"{registration.slug.replace('-', '_')}.py"
    spec = importlib.util.spec_from_file_location(f"arms_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ClaimError(f"There is no {path.name} under arms; write it and commit it first.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(registration: Registration) -> str:
    """The commit a run starts from; ClaimError unless registration, arms and medgen stand in it as they are."""
    root = registration.path.parents[1]
    files = _registered_files(registration)

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClaimError(f"git {words[0]} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    for file in files:
        if not git("ls-files", str(file)) or git("status", "--porcelain", "--", str(file)):
            raise ClaimError(f"{file.name} is not committed as it is; commit it before a reporting seed is run.")
    if root == HERE and git("status", "--porcelain", "--", str(root.parents[1] / "medgen")):
        raise ClaimError("medgen has changes that are not committed; commit them before a reporting seed is run.")
    return git("rev-parse", "--short", "HEAD")


def _registered_files(registration: Registration) -> list[Path]:
    return [registration.path, registration.path.parents[1] / "arms" / f"{registration.slug.replace('-', '_')}.py"]


def digest(registration: Registration) -> str:
    """Eight digits that stand for the registration and the code of its arms; rows of another one are not theirs."""
    content = b"".join(path.read_bytes() for path in _registered_files(registration))
    return hashlib.sha256(content).hexdigest()[:8]


def run(registration: Registration, seeds: list[int], folder: Path, say: Any = print, full: bool = False) -> None:
    """Run the arms of some seeds; each row is kept as soon as it is there, and rows that are there are not run again.

    full: those arms too that are registered as such.

    Reporting seeds go to results/SLUG.csv, and only from a committed registration; tuning seeds go to `folder`.
    """
    module = arms_of(registration)
    for seed in seeds:
        if seed not in registration.tune + registration.report:
            raise ClaimError(f"Seed {seed} is not registered; the seeds are {registration.tune + registration.report}.")
        reports = seed in registration.report
        commit = committed(registration) if reports else "tuning"
        table = results_path(registration) if reports else folder / f"{registration.slug}-tuning.csv"
        registered = digest(registration)
        if reports and any(row.get("registered") != registered for row in rows(table)):
            raise ClaimError(f"{table.name} holds rows of another registration or other arms; take them out first.")
        done = {(int(row["seed"]), row["arm"]) for row in rows(table)}
        left_out = {(seed, arm.name) for arm in registration.arms if arm.full and not full}
        if {(seed, arm.name) for arm in registration.arms} <= done | left_out:
            say(f"seed {seed}: every arm is there already")
            continue
        began, spent = time.monotonic(), time.process_time()
        for arm, measures in module.run_seed(seed, registration, folder, {n for s, n in done | left_out if s == seed}):
            seconds, processor = time.monotonic() - began, time.process_time() - spent
            if missing := set(registration.measures) - set(measures):
                raise ClaimError(f"Arm “{arm}” gave no {', '.join(sorted(missing))}.")
            row = {"seed": seed, "arm": arm, **{key: measures[key] for key in registration.measures}}
            row |= {"seconds": round(seconds, 1), "processor": round(processor, 1), "device": device()}
            row["commit"] = commit
            append(table, {**row, "date": time.strftime("%Y-%m-%d"), "registered": registered})
            say(f"seed {seed}  {arm}: " + ", ".join(f"{k} {measures[k]:.4g}" for k in registration.measures))
            began, spent = time.monotonic(), time.process_time()


def device() -> str:
    """What the arms run on, as a run that is told nothing chooses it."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def results_path(registration: Registration) -> Path:
    """Where the rows of the reporting seeds stand."""
    return registration.path.parents[1] / "results" / f"{registration.slug}.csv"


def rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table, none when it is not there."""
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(table: Path, row: dict[str, Any]) -> None:
    """Add a row; the first one brings the header."""
    table.parent.mkdir(parents=True, exist_ok=True)
    new = not table.is_file()
    with table.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


# --- what came out


@dataclass(frozen=True)
class Outcome:
    """Mean difference in favour of the first arm over n seeds, its confidence interval, and the verdict."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """holds: the whole interval is in favour; does not hold: none of it; undecided: zero lies inside."""
        if self.n < 2 or math.isnan(self.low):
            return "undecided"
        return "holds" if self.low > 0 else "does not hold" if self.high < 0 else "undecided"


def interval(differences: np.ndarray) -> Outcome:
    """Student's interval of the mean of paired differences."""
    from scipy import stats

    n = len(differences)
    mean = float(np.mean(differences)) if n else math.nan
    if n < 2:
        return Outcome(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * np.std(differences, ddof=1) / math.sqrt(n))
    return Outcome(mean, mean - half, mean + half, n)


def complete(registration: Registration) -> tuple[dict[tuple[int, str], dict[str, float]], list[int]]:
    """Measures by seed and arm, and the reporting seeds for which every arm is there (but those that only a full run
    has), of this registration alone."""
    columns, registered = (*registration.measures, "seconds", "processor"), digest(registration)
    table = {
        (int(row["seed"]), row["arm"]): {key: float(row[key]) for key in columns}
        for row in rows(results_path(registration))
        if row.get("registered") == registered
    }
    names = [arm.name for arm in registration.arms if not arm.full]
    return table, [seed for seed in registration.report if all((seed, name) in table for name in names)]


def outcomes(registration: Registration) -> Iterator[tuple[Comparison, Outcome]]:
    """Every comparison with what came out so far."""
    table, seeds = complete(registration)
    for comparison in registration.comparisons:
        arms = comparison.first, comparison.second
        there = [seed for seed in seeds if all((seed, arm) in table for arm in arms)]
        yield comparison, interval(comparison.differences(table, there))
