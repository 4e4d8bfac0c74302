"""A method that ends as no method should: in native code, or with its disk full."""

from __future__ import annotations

import ctypes
import os
from typing import Literal

from pydantic import Field

from medgen.bundle import Model
from medgen.case import Case
from medgen.jobs import Run
from medgen.method import Config, Kind, Method, Operation, Role


class FaultConfig(Config):
    """How it ends."""

    fault: Literal["none", "abort", "segfault"] = Field("none", description="How it ends")


class Faults(Method):
    """Gives the image back, unless it crashes."""

    slug = "stub-faults"
    title = "Crashes"
    sentence = "Ends in native code when told to."
    citation = "Nobody, How to crash, 2000"
    url = "https://doi.org/10.1000/2"
    module = "MedGenSegmentation"
    group = "Segment"
    operations = (
        Operation(
            "apply",
            "Apply",
            "Give the image back, or crash.",
            FaultConfig,
            inputs=(Role("image", Kind.IMAGE, "The volume"),),
            outputs=(Role("same", Kind.IMAGE, "The same volume"),),
        ),
    )

    def apply(self, case: Case, config: FaultConfig, run: Run, model: Model | None) -> Case:
        """The image, or an end without a word."""
        run.progress(0, 2, "before")
        if config.fault == "abort":
            os.abort()
        if config.fault == "segfault":
            ctypes.string_at(0)
        return Case({"same": case.values["image"]})
