"""Folders of batches made up for tests of what reads them: written through medgen.ledger, as a batch does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medgen import ledger, thumbnails
from medgen.case import Case, Image, Mask, Segment
from medgen.method import Config, Kind, Operation, Role

SEGMENT = Operation(
    "apply",
    "Segment",
    "",
    Config,
    inputs=(Role("image", Kind.IMAGE, "A volume"),),
    outputs=(Role("mask", Kind.MASK, "Its structures"),),
)


def start(out: Path, cases: int, **changes: Any) -> dict[str, Any]:
    """batch.json of a segmentation."""
    batch = {
        "format": ledger.FORMAT,
        "method": "multiplanar-unet",
        "operation": "apply",
        "title": "Segment a volume from a few drawn slices: Segment",
        "citation": "Laprade, Perslev, Sporring. How Few Annotations are Needed?, 2021",
        "url": "https://doi.org/10.1007/978-3-030-88210-5_20",
        "tier": "demo",
        "config": {"window": 96, "overlap": 0.25, "keep_largest": False},
        "seed": 7,
        "device": "cpu",
        "precision": "32",
        "model": {"name": "abdomen", "digest": "4f1c" * 16},
        "cohort": "cohort.csv",
        "cases": cases,
        "names": [],
        "medgen": "1.0.0",
        "started": "2026-11-27T12:00:00Z",
        "recipe": "5ab1" * 16,
        **changes,
    }
    ledger.write_json(batch, out / "batch.json")
    return batch


def _named(out: Path, batch: dict[str, Any], case: str) -> None:
    """The case stands in batch.json."""
    batch["names"].append(case)
    ledger.write_json(batch, out / "batch.json")


def done(out: Path, batch: dict[str, Any], case: str, preview: bytes | None = None, **changes: Any) -> None:
    """A finished case."""
    staging = ledger.stage(out, ledger.safe_name(case)[:40])
    folder = staging / "case"
    folder.mkdir()
    if preview is not None:
        (folder / "preview.jpg").write_bytes(preview)
    record = {
        "case": case,
        "subject": f"subject of {case}",
        "state": "done",
        "inputs": [{"role": "image", "file": f"{case}.nii.gz", "sha256": "00", "bytes": 1, "mtime_ns": 1}],
        "outputs": [{"role": "mask", "kind": "Mask", "file": "mask.seg.nrrd"}],
        "recipe": batch["recipe"],
        "measures": {"dice": 0.9},
        "log": [],
        "changed_for_memory": [],
        "preview": None if preview is None else "preview.jpg",
        "time": "2026-11-27T12:10:00Z",
        "seconds": 2.0,
        "host": "node-1",
        **changes,
    }
    _named(out, batch, case)
    ledger.write_json({**record, "outputs": []}, folder / "record.json")
    assert ledger.finish(out, case, staging, folder)
    ledger.write_json(record, out / "cases" / case / "record.json")
    shutil.rmtree(staging)


def failed(out: Path, batch: dict[str, Any], case: str, reason: str, **changes: Any) -> None:
    """A case that could not be done."""
    record = {
        "case": case,
        "subject": case,
        "state": "failed",
        "inputs": [],
        "recipe": batch["recipe"],
        "reason": reason,
        "code": 2,
        "time": "2026-11-27T12:11:00Z",
        "seconds": 0.5,
        "host": "node-1",
        **changes,
    }
    _named(out, batch, case)
    ledger.fail(out, record)


def thumbnail(folder: Path, seed: int) -> bytes:
    """A thumbnail as a batch makes them, of a noisy body with two organs; about 9 kB."""
    rng = np.random.default_rng(seed)
    shape = (80, 60, 66)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    wave = sum(np.sin(rng.uniform(4, 22) * (x * a + y * b + z * c)) for a, b, c in rng.normal(size=(6, 3)))
    body = x**2 + (y / 0.8) ** 2 < 0.8
    labels = np.zeros(shape, dtype=np.int16)
    for value in (1, 2):
        centre = rng.uniform(-0.35, 0.35, 3)
        labels[((np.stack([x, y, z], -1) - centre) ** 2).sum(-1) < rng.uniform(0.05, 0.16)] = value
    grey = body * (300 + 40 * wave + 60 * labels) + rng.normal(0, 18, shape)
    affine = np.diag([3.6, 3.6, 3.6, 1.0])
    image = Image(torch.from_numpy(grey[None].astype(np.float32)), affine)
    segments = [Segment(1, "liver", (0.85, 0.45, 0.35)), Segment(2, "kidney", (0.95, 0.8, 0.3))]
    mask = Mask(torch.from_numpy(labels), affine, segments)
    file = folder / f"thumbnail-{seed}.jpg"
    assert thumbnails.write(Case({"image": image}), Case({"mask": mask}), SEGMENT, file)
    return file.read_bytes()
