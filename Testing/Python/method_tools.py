"""What the tests of the methods share: a quiet run, settings of an operation, what was said, how long a thing takes,
a phantom's picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import SimpleITK as sitk
import torch

from medgen.case import Image
from medgen.jobs import Event, Run
from medgen.method import Config, Operation

Settings = TypeVar("Settings", bound=Config)


def a_run(folder: Path, events: list[Event] | None = None, **options: Any) -> Run:
    emit = (lambda event: None) if events is None else events.append
    return Run(folder, device="cpu", precision="32", emit=emit, **options)


def said(events: list[Event]) -> str:
    return " ".join(event["message"] for event in events if event["event"] == "log")


def configured(form: type[Settings], operation: Operation, tier: str | None, settings: dict[str, Any]) -> Settings:
    """An operation's settings at a tier, some of them changed; they are of the form it declares."""
    config = operation.configure(tier, settings)
    assert isinstance(config, form)
    return config


def least_seconds(work: Callable[[], object]) -> float:
    """Of a processor's time, as `work` takes them at best of three; they are printed (pytest -s)."""
    times = []
    for _ in range(3):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    print(f"{min(times):.3f} s")
    return min(times)


def as_image(made: sitk.Image) -> Image:
    """A phantom's picture as it would be read from its PNG."""
    pixels = torch.from_numpy(sitk.GetArrayFromImage(made).transpose(2, 1, 0).copy()).float()
    return Image(pixels, np.diag([-1.0, -1.0, 1.0, 1.0]), "picture")
