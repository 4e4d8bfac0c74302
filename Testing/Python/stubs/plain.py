"""A method without torch, for tests of what goes over many cases: it smooths a volume's lines and sums it up.

Its worker's work takes as long as asked, and does what a bad case may do where the volume's name says so.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from pydantic import Field

from medgen.errors import UserError
from medgen.method import Config, Kind, Method, Operation, Role

IMAGE = Role("image", Kind.IMAGE, "A volume")


class PlainConfig(Config):
    seconds: float = Field(0.0, ge=0, le=60, description="How long one case takes", json_schema_extra={"unit": "s"})
    busy: bool = Field(False, description="Whether it computes all the while, or waits")
    factor: float = Field(2.0, ge=0, le=10, description="What every value is multiplied by")


class Plain(Method):
    slug = "stub-plain"
    title = "Multiply"
    sentence = "Multiplies a volume."
    citation = "Nobody, Plain, 2026"
    url = "https://example.org/plain"
    module = "MedGenSynthesis"
    group = "Translate"
    worker = "stubs.plain"
    operations = (
        Operation(
            "apply",
            "Multiply",
            "Multiply a volume.",
            PlainConfig,
            inputs=(IMAGE,),
            outputs=(Role("product", Kind.IMAGE, "The product"), Role("sums", Kind.TABLE, "Sums of its slices")),
        ),
    )

    def apply(self, *_: Any) -> Any:
        raise NotImplementedError("only its worker works")


# --- as a worker, see medgen.worker ---


def configure(plan: Any) -> dict[str, Any]:
    return Plain.operations[0].configure(plan.tier, plan.settings).model_dump(mode="json")


def memory(plan: Any, task: Any) -> int | None:
    return None


def perform(plan: Any, task: Any, folder: Path, scratch: Path, log: Callable[[str], None]) -> dict[str, Any]:
    scratch.mkdir()
    (scratch / "half").write_text("half")
    end = time.monotonic() + plan.config["seconds"]
    while time.monotonic() < end:
        if not plan.config["busy"]:
            time.sleep(0.005)
    try:
        image = sitk.ReadImage(task.files["image"][0])
    except RuntimeError:
        raise UserError(f"{task.files['image'][0]} cannot be read as an image; export it again.") from None
    if task.subject.startswith("killer"):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.subject.startswith("glutton"):
        hoard = [np.ones(2**20) for _ in range(400)]  # 3.2 GB, 8 MB a time
        time.sleep(30)
        del hoard
    if task.subject.startswith("faulty"):
        raise ZeroDivisionError("by design")
    array = sitk.GetArrayFromImage(image) * plan.config["factor"]
    product = sitk.GetImageFromArray(array)
    product.CopyInformation(image)
    sitk.WriteImage(product, str(folder / "product.nii.gz"))
    (folder / "sums.csv").write_text("\n".join(["sum", *(f"{one:.6g}" for one in array.sum((1, 2)))]) + "\n")
    record = {"config": plan.config, "time": time.time(), "seconds": plan.config["seconds"]}
    (folder / "product.nii.gz.provenance.json").write_text(json.dumps(record))
    log("multiplied")
    return {
        "outputs": [
            {"role": "product", "kind": "Image", "file": "product.nii.gz"},
            {"role": "sums", "kind": "Table", "file": "sums.csv"},
        ],
        "measures": {"mean": float(array.mean())},
        "changed_for_memory": [],
    }
