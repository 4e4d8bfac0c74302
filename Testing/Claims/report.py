"""docs/claims.md, made from the registrations and the kept rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from claims import HERE, Comparison, Outcome, Registration, complete, outcomes, registrations, results_path, rows

INTRODUCTION = """# Claims

Each paper claims something. A claim is registered before it is run (`Testing/Claims/registrations`): arms, one budget
for all that are trained, measures, comparisons with their margins, and which seeds tune and which report. Then it is
run, and what came out stands here, whatever it is. Every row is kept in `Testing/Claims/results`; where rows were
replaced, the remark says why, and the history of that folder has the old ones.

A comparison *holds* when the whole 95 % confidence interval (Student's, over the paired differences of the reporting
seeds) is in its favour, *does not hold* when none of it is, and is *undecided* when zero lies inside: with a handful of
seeds that is no proof of the contrary. Phantoms are not patients: what holds here is that the code does on these
phantoms what the paper reports on its own data, no more. This page is made by `Testing/Claims/run --report`.

All arms of a seed together, on one core of two that were both busy (AMD EPYC with AVX-512 BF16, 2026-11-27; tuning seed
1, of aneurysm-detection the reporting seeds; `OMP_NUM_THREADS=1 Testing/Claims/run SLUG --seeds 1`, without `--full`):
aneurysm-detection 610 to 715 s, compound-figures 743 s, few-shot-dag 762 s, suture-cross-domain 320 s,
suture-heatmap 756 s, tool-detection 738 s.
"""


def markdown(folder: Path = HERE) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for registration in registrations(folder):
        parts.append(_section(registration))
    return "\n".join(parts)


def _section(registration: Registration) -> str:
    table, seeds = complete(registration)
    lines = [f"## {registration.slug}: {registration.title}", "", f"**Claim.** {registration.claim}", ""]
    lines += [f"**In the paper.** {registration.paper}", "", f"**Here.** {registration.data}", ""]
    if not seeds:
        lines += [f"Tier {registration.tier}: not measured.", ""]
    else:
        lines += _arms(registration, table, seeds)
        lines += ["| comparison | measure | difference in favour | 95 % interval | verdict |", "|---|---|---|---|---|"]
        lines += [_line(registration, comparison, outcome) for comparison, outcome in outcomes(registration)]
        lines += [""]
    lines += [f"Not measured: {text}" for text in registration.not_measured]
    lines += [""] if registration.not_measured else []
    remarks = registration.path.parents[1] / "remarks" / f"{registration.slug}.md"
    if seeds and remarks.is_file():  # written after the run, so no part of what was registered
        lines += [remarks.read_text("utf-8").rstrip(), ""]
    lines += ["", *_how(registration, seeds)] if seeds else []
    return "\n".join(lines).rstrip() + "\n"


def _arms(registration: Registration, table: dict[tuple[int, str], dict[str, float]], seeds: list[int]) -> list[str]:
    head = " | ".join(registration.measures)
    kept = [row for row in rows(results_path(registration)) if int(row["seed"]) in seeds]
    several = len({row["device"] for row in kept}) > 1  # then each arm says on what it ran
    lines = [f"| arm | updates | {head} | s |", "|---|---|" + "---|" * (len(registration.measures) + 1)]
    for arm in registration.arms:
        cells = []
        there = [seed for seed in seeds if (seed, arm.name) in table]
        if not there:
            blank = " not measured |" * (len(registration.measures) + 1)
            lines.append(f"| {arm.name} ({arm.role}): {arm.what} | {arm.updates or '–'} |{blank}")
            continue
        for measure in registration.measures:
            values = [table[seed, arm.name][measure] for seed in there]
            spread = f" ± {np.std(values, ddof=1):.3g}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.4g}{spread}")
        seconds = f"{np.mean([table[seed, arm.name]['seconds'] for seed in there]):.0f}"
        if several:
            seconds += " on " + " and ".join(dict.fromkeys(row["device"] for row in kept if row["arm"] == arm.name))
        what = f"{arm.name} ({arm.role}): {arm.what}"
        if len(there) < len(seeds):
            what += f" ({len(there)} of the seeds)"
        lines.append(f"| {what} | {arm.updates or '–'} | {' | '.join(cells)} | {seconds} |")
    explained = "; ".join(f"{name}: {text}" for name, text in registration.measures.items())
    return [*lines, "", f"Mean ± standard deviation over {len(seeds)} seeds. {explained}.", ""]


def _line(registration: Registration, comparison: Comparison, outcome: Outcome) -> str:
    size = f"{outcome.mean:+.4g} | {outcome.low:+.4g} to {outcome.high:+.4g}" if outcome.n > 1 else "– | –"
    verdict = f"**{outcome.verdict}**" if outcome.n else "not measured"
    return f"| {comparison.claim} | {comparison.measure} | {size} | {verdict} |"


def _how(registration: Registration, seeds: list[int]) -> list[str]:
    kept = [row for row in rows(results_path(registration)) if int(row["seed"]) in seeds]
    whole, spent = (
        [sum(float(row[kind]) for row in kept if int(row["seed"]) == seed) / 60 for seed in seeds]
        for kind in ("seconds", "processor")
    )
    known = all(math.isfinite(minutes) for minutes in spent) and {row["device"] for row in kept} == {"CPU"}
    cores = f" {min(spent):.1f} to {max(spent):.1f} minutes of one core," if known else ""
    devices = ", ".join(dict.fromkeys(row["device"] for row in kept))
    commits = ", ".join(dict.fromkeys(row["commit"] for row in kept))
    dates = ", ".join(dict.fromkeys(row["date"] for row in kept))
    return [
        f"Tier {registration.tier}; `Testing/Claims/run {registration.slug}`; seeds {', '.join(map(str, seeds))}"
        f" ({len(seeds)} of {len(registration.report)} registered; tuned on"
        f" {', '.join(map(str, registration.tune)) or 'none'}); for all arms of a seed together{cores}"
        f" {min(whole):.1f} to {max(whole):.1f} minutes by the clock on {devices}, whatever else the machine"
        f" did; {dates}, commit {commits}."
    ]
