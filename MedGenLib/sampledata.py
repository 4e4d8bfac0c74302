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


def shown_by(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Which of a module's methods its Sample Data is for, so that whoever begins with it finds the method chosen; the
    first where none is, nothing of nothing."""
    offered = {(sample.module, sample.phantom) for sample in SAMPLES}
    fitting = [one for one in entries if any((one["module"], name) in offered for name in one["phantoms"])]
    return next(iter([*fitting, *entries]), {})


def loader(sample: Sample) -> Callable[..., list[Any]]:
    """What Sample Data calls with its source; the new nodes."""

    def load(source: Any = None) -> list[Any]:
        return load_sample(sample)

    return load


def sample_of(entry: dict[str, Any]) -> Sample | None:
    """The synthetic patients on which a method can be tried; None where there are none."""
    wanted = entry["phantoms"]
    return next((sample for sample in SAMPLES if sample.phantom in wanted), None)


def load_sample(sample: Sample, seed: int = 0) -> list[Any]:
    """Make the patients and load what the sample names, the first image in the views; the new nodes."""
    return [node for patient in load_patients(sample, seed) for nodes in patient.values() for node in nodes]


def load_patients(sample: Sample, seed: int = 0) -> list[dict[str, list[Any]]]:
    """As `load_sample`: the new nodes of each patient by role."""
    from medgen import phantoms  # numpy and SimpleITK

    phantom = phantoms.PHANTOMS[sample.phantom]
    patients: list[dict[str, list[Any]]] = []
    with tempfile.TemporaryDirectory(prefix="medgen-") as folder:
        cohort = phantoms.write(phantom, len(sample.patients), seed, Path(folder) / sample.phantom)
        with cohort.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row, names in zip(rows, sample.patients, strict=True):
            patients.append(_load_patient(row, names, phantom.roles, cohort.parent))
    if getattr(slicer, "app", None) is not None and slicer.app.layoutManager() is not None:
        slicer.util.setSliceViewerLayers(background=next(iter(patients[0].values()))[0], fit=True)
    return patients


def _load_patient(
    row: dict[str, str], names: dict[str, str], kinds: dict[str, str], folder: Path
) -> dict[str, list[Any]]:
    """The nodes of a row of the cohort, by role."""
    found: dict[str, list[Any]] = {}
    volume: Any = None
    for role, name in names.items():
        found[role] = []
        for part in row[role].split(";"):
            made = load_results(folder / part, kinds[role], name, reference=volume)
            found[role] += made
            for plane in made if kinds[role] == "Plane" else []:
                plane.GetDisplayNode().SetVisibility(False)
            volume = made[0] if volume is None else volume
    return found
