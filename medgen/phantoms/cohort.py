"""Writing a cohort of synthetic patients: files, splits, cohort.csv; whole or not at all."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen.errors import UserError

ENDINGS = {"Image": ".nii.gz", "Mask": ".seg.nrrd", **dict.fromkeys(("Box", "Line", "Plane", "Points"), ".mrk.json")}
PICTURE = ".png"  # of an image with two axes
SPLITS = ("train", "validation", "test")


def splits(n: int, seed: int) -> list[str]:
    """A split for each of n subjects, drawn by the seed: about 60 % train, 20 % validation, 20 % test.

    With three subjects or more each split has one; two are train and test; one is train.
    """
    test = 0 if n < 2 else max(1, round(0.2 * n))
    validation = 0 if n < 3 else max(1, round(0.2 * n))
    names = ["test"] * test + ["validation"] * validation
    names = ["train"] * (n - len(names)) + names
    order = np.random.default_rng([seed, n]).permutation(n)
    return [names[i] for i in order]


def subject_seed(seed: int, number: int) -> int:
    """The seed of subject `number` (from 0) of a cohort."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def write_cohort(
    name: str,
    roles: Mapping[str, str],
    make: Callable[..., dict[str, Any]],
    n: int,
    seed: int,
    folder: Path,
    options: Mapping[str, Any],
    pools: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
    labelled: float | None = None,
    domains: Sequence[str] = (),
) -> Path:
    """See `medgen.phantoms.write`. A column of cohort.csv for each role, its paths relative to the CSV.

    domains: subjects are of each in turn, `make` is told which, and a column `domain` says so; from two subjects on, a
    collection.json has a pool, and a table, for each.

    labelled: share of the training subjects (one at least) whose row names all that was made; those of the others name
    the first role alone, and a column `labelled` tells them apart.
    """
    if n < 1:
        raise UserError(f"A cohort of {n} patients has nobody in it; ask for one or more.")
    if seed < 0:
        raise UserError(f"The seed {seed} is negative; give 0 or more.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"The folder {folder} is not empty; choose another, or empty it first.")
    beside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        beside.chmod(0o755)  # mkdtemp's 0700 would stay after the renaming
        write_files(name, roles, make, n, seed, beside, options, labelled, domains)
        if 1 < len(domains) <= n:
            write_domains(beside, domains)
        if pools and n >= len(SPLITS):  # from then on each split has somebody
            write_pools(beside, pools)
        if folder.exists():
            folder.rmdir()
        beside.rename(folder)
    except OSError as error:
        raise UserError(f"Cannot write to {folder}: {error.strerror or error}; choose another folder.") from error
    finally:
        if beside is not None and beside.exists():
            shutil.rmtree(beside, ignore_errors=True)
    return folder / "cohort.csv"


def write_files(
    name: str,
    roles: Mapping[str, str],
    make: Callable[..., dict[str, Any]],
    n: int,
    seed: int,
    folder: Path,
    options: Mapping[str, Any],
    labelled: float | None = None,
    domains: Sequence[str] = (),
) -> None:
    """The files of each subject and the table of them."""
    digits = max(3, len(str(n)))
    parts = splits(n, seed)
    for number in range(len(domains)):  # every domain has its own share of each split
        parts[number :: len(domains)] = splits(len(parts[number :: len(domains)]), seed)
    train = [number for number, split in enumerate(parts) if split == "train"]
    plain = set() if labelled is None else set(train[max(1, round(labelled * len(train))) :])
    with open(folder / "cohort.csv", "w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table, lineterminator="\n")
        further = [*([] if labelled is None else ["labelled"]), *(["domain"] if domains else [])]
        rows.writerow([*roles, "subject", "split", *further])
        for number, split in enumerate(parts):
            subject = f"{name}-{number + 1:0{digits}d}"
            domain = {"domain": domains[number % len(domains)]} if domains else {}
            made = make(subject_seed(seed, number), **domain, **options)
            paths = [f"{subject}_{role}{_ending(made[role], kind)}" for role, kind in roles.items()]
            for role, path in zip(roles, paths, strict=True):
                write_value(made[role], folder / path)
            if number in plain:
                paths[1:] = [""] * (len(paths) - 1)
            known = [] if labelled is None else ["no" if number in plain else "yes"]
            rows.writerow([*paths, subject, split, *known, *domain.values()])


def _ending(value: Any, kind: str) -> str:
    return PICTURE if isinstance(value, sitk.Image) and value.GetDimension() == 2 else ENDINGS[kind]


def write_pools(folder: Path, pools: Mapping[str, tuple[str, tuple[str, ...]]]) -> None:
    """collection.json, and for each pool a CSV with the first row of its split in cohort.csv."""
    with open(folder / "cohort.csv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    for pool, (split, roles) in pools.items():
        row = next(row for row in rows if row["split"] == split)
        with open(folder / f"{pool}.csv", "w", newline="", encoding="utf-8") as table:
            csv.writer(table, lineterminator="\n").writerows(
                [[*roles, "subject"], [*(row[role] for role in roles), row["subject"]]]
            )
    write_collection(folder, pools)


def write_domains(folder: Path, domains: Sequence[str]) -> None:
    """collection.json, and for each domain a CSV with its rows of cohort.csv."""
    with open(folder / "cohort.csv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    for domain in domains:
        with open(folder / f"{domain}.csv", "w", newline="", encoding="utf-8") as table:
            writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in rows if row["domain"] == domain)
    write_collection(folder, domains)


def write_collection(folder: Path, pools: Iterable[str]) -> None:
    """A collection.json of pools whose tables are called as they are."""
    named = {"pools": {pool: f"{pool}.csv" for pool in pools}}
    (folder / "collection.json").write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")


def write_value(value: Any, path: Path) -> None:
    """An image by SimpleITK, compressed; anything else as JSON. Raises OSError where SimpleITK cannot write."""
    if not isinstance(value, sitk.Image):
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        return
    try:
        sitk.WriteImage(value, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(f"{path.name} could not be written (is the disk full?)") from error
