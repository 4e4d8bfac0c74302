"""A synthetic patient in Slicer's Sample Data module: made on this computer, nothing is downloaded, no torch needed."""

from __future__ import annotations

import csv
import importlib
import tempfile
from pathlib import Path
from typing import Any

import slicer
import slicer.util

from MedGenLib.i18n import _
from MedGenLib.load import load_result, load_results

CATEGORY = "MedGen"
PHANTOM = "abdomen-ct-drawn"


def register() -> None:
    """Offer the patient under Sample Data; call once Slicer has started."""
    try:
        sample_data: Any = importlib.import_module("SampleData")
    except ImportError:  # a Slicer without that module
        return
    sample_data.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName="MedGenAbdomenDrawn",
        sampleDescription=_("Synthetic abdomen CT, liver drawn on a few slices"),
        uris="",
        fileNames="",
        nodeNames="",
        customDownloader=load_patient,
    )


def load_patient(source: Any = None, seed: int = 0) -> list[Any]:
    """Make the patient and load volume, drawing and planes of the drawn slices; the new nodes."""
    from medgen import phantoms  # numpy and SimpleITK

    with tempfile.TemporaryDirectory(prefix="medgen-") as folder:
        cohort = phantoms.write(phantoms.PHANTOMS[PHANTOM], 1, seed, Path(folder) / PHANTOM)
        with cohort.open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
        volume = load_result(cohort.parent / row["image"], "Image", _("Synthetic abdomen"))
        drawing = load_result(cohort.parent / row["mask"], "Mask", _("Liver drawn on a few slices"), reference=volume)
        planes: list[Any] = []
        for name in row["planes"].split(";"):
            planes += load_results(cohort.parent / name, "Plane", _("Slice"), reference=volume)
    for plane in planes:
        plane.GetDisplayNode().SetVisibility(False)
    if getattr(slicer, "app", None) is not None and slicer.app.layoutManager() is not None:
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return [volume, drawing, *planes]
