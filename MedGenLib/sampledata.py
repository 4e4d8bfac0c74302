"""Synthetic patients in Slicer's Sample Data module: made on this computer, nothing is downloaded, no torch needed."""

from __future__ import annotations

import csv
import importlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
import slicer.util

from MedGenLib.i18n import _
from MedGenLib.load import load_results

CATEGORY = "MedGen"


@dataclass(frozen=True)
class Sample:
    """What one entry of Sample Data loads: for each patient of a phantom, the roles wanted and their nodes' names."""

    module: str
    name: str
    description: str
    phantom: str
    patients: tuple[dict[str, str], ...]


SAMPLES = (
    Sample(
        "MedGenSegmentation",
        "MedGenAbdomenDrawn",
        _("Synthetic abdomen CT, liver drawn on a few slices"),
        "abdomen-ct-drawn",
        ({"image": _("Synthetic abdomen"), "mask": _("Liver drawn on a few slices"), "planes": _("Slice")},),
    ),
    Sample(
        "MedGenSynthesis",
        "MedGenHeadMRCT",
        _("Synthetic head, MR and CT of one patient"),
        "head-mr-ct",
        ({"mr": _("Synthetic head MR"), "ct": _("Synthetic head CT")},),
    ),
    Sample(
        "MedGenLandmarks",
        "MedGenInnerEars",
        _("Synthetic inner ears: a marked example, a second one, a third to mark"),
        "inner-ear",
        (
            {"image": _("Ear, example"), "mask": _("Example's cochlea"), "landmarks": _("Example's landmarks")},
            {"image": _("Ear, validation"), "mask": _("Validation's cochlea")},
            {"image": _("Ear to mark")},
        ),
    ),
)


def register(module: str, file: str) -> None:
    """Offer a module's patients under Sample Data; call once Slicer has started. file: where the module lies."""
    try:
        sample_data: Any = importlib.import_module("SampleData")
    except ImportError:  # a Slicer without that module
        return
    logic = sample_data.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):  # Slicer 5.12: the name that a person reads, apart
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("MedGen"))
    for sample in SAMPLES:
        if sample.module == module:
            logic.registerCustomSampleDataSource(
                category=CATEGORY,
                thumbnailFileName=str(Path(file).resolve().parent / "Resources" / "SampleData" / f"{module}.png"),
                sampleName=sample.name,
                sampleDescription=sample.description,
                uris="",
                fileNames="",
                nodeNames="",
                customDownloader=loader(sample),
            )


def loader(sample: Sample) -> Callable[..., list[Any]]:
    """What Sample Data calls with its source; the new nodes."""

    def load(source: Any = None) -> list[Any]:
        return load_sample(sample)

    return load


def load_sample(sample: Sample, seed: int = 0) -> list[Any]:
    """Make the patients and load what the sample names, the first image in the views; the new nodes."""
    from medgen import phantoms  # numpy and SimpleITK

    phantom = phantoms.PHANTOMS[sample.phantom]
    nodes: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="medgen-") as folder:
        cohort = phantoms.write(phantom, len(sample.patients), seed, Path(folder) / sample.phantom)
        with cohort.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row, names in zip(rows, sample.patients, strict=True):
            volume: Any = None
            for role, name in names.items():
                kind = phantom.roles[role]
                for part in row[role].split(";"):
                    made = load_results(cohort.parent / part, kind, name, reference=volume)
                    nodes += made
                    if kind == "Plane":
                        for plane in made:
                            plane.GetDisplayNode().SetVisibility(False)
                    volume = made[0] if volume is None else volume
    if getattr(slicer, "app", None) is not None and slicer.app.layoutManager() is not None:
        slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    return nodes
