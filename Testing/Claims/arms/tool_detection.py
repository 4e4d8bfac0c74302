"""The rungs of table 5 on frames of the phantom: a teacher, and students that learn from its labels in four ways.

Per seed: some frames with boxes, many without, others to measure on; every student has the same teacher, the same
start and the same number of updates.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medgen.frames import Frame, as_found, as_truth, look
from medgen.jobs import Run
from medgen.landmarks.tool_detection import Fit, ToolDetection, TrainConfig
from medgen.metrics import detection
from medgen.nn.detector import Detector
from medgen.phantoms import cataract
from medgen.phantoms.cohort import subject_seed

CLASSES = ["hydrodissection cannula", "lens injector", "phacoemulsifier handpiece"]
WAYS: dict[str, dict[str, Any]] = {
    "SSL": {"confidence": 0.5, "strong_augmentation": False},
    "SSL + HC": {"confidence": 0.9, "strong_augmentation": False},
    "SSL + SA": {"confidence": 0.5, "strong_augmentation": True},
    "SSL + HC + SA": {"confidence": 0.9, "strong_augmentation": True},
}


def run_seed(seed: int, registration: Any, folder: Path, done: set[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Every arm on the frames held out."""
    settings = registration.settings
    frames, held_out = _frames(seed, settings)
    teacher: dict[str, Tensor] | None = None
    for arm in registration.arms:
        if arm.name in done:
            continue
        if arm.role == "trivial":
            yield arm.name, _usual_boxes(frames, held_out)
            continue
        config = _config(settings, arm.updates, WAYS.get(arm.name, {}))
        if teacher is None:
            fit = Fit(frames, len(CLASSES), config, Run(folder / f"{seed} teacher", seed=seed))
            fit.fit_teacher()
            teacher = {name: value.detach().clone() for name, value in fit.weights("teacher").items()}
        fit = Fit(frames, len(CLASSES), config, Run(folder / f"{seed} {arm.name}", seed=seed))
        fit.networks["teacher"].load_state_dict(teacher)
        name = "teacher" if arm.name == "supervised" else "student"
        if name == "student":
            fit.label()
            fit.fit_student()
        yield arm.name, _measured(fit.networks[name], held_out, config, fit.run)


def _config(settings: dict[str, Any], updates: int, way: dict[str, Any]) -> TrainConfig:
    train = ToolDetection().operation("train")
    config = train.configure(settings["tier"], {**way, "updates": updates})
    assert isinstance(config, TrainConfig)
    return config


def _frames(seed: int, settings: dict[str, Any]) -> tuple[list[Frame], list[Frame]]:
    """Frames to learn from, the first of them labelled, and frames to measure on."""
    counts = [settings[name] for name in ("labelled", "unlabelled", "held_out")]
    made = [
        _frame(cataract.make(subject_seed(seed, number), size=tuple(settings["size"]), kinds=CLASSES))
        for number in range(sum(counts))
    ]
    for frame in made[counts[0] : counts[0] + counts[1]]:
        frame.boxes, frame.classes, frame.labelled = frame.boxes[:0], frame.classes[:0], False
    return made[: -counts[2]], made[-counts[2] :]


def _frame(made: dict[str, Any]) -> Frame:
    pixels = torch.from_numpy(sitk.GetArrayFromImage(made["image"]).transpose(2, 0, 1).copy())
    items = made["boxes"]["markups"]
    centres = np.array([item["center"][:2] for item in items]).reshape(-1, 2) + 0.5
    sizes = np.array([item["size"][:2] for item in items]).reshape(-1, 2)
    boxes = torch.from_numpy(np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)).float()
    classes = torch.tensor([CLASSES.index(item["name"]) for item in items], dtype=torch.long)
    return Frame(pixels, boxes, classes, labelled=True)


def _usual_boxes(frames: list[Frame], held_out: list[Frame]) -> dict[str, float]:
    """In every frame the mean box of each class, as sure as the class is frequent."""
    boxes = torch.cat([frame.boxes for frame in frames if frame.labelled]).numpy().astype(float)
    classes = torch.cat([frame.classes for frame in frames if frame.labelled]).numpy()
    kinds = np.unique(classes)
    usual = np.stack([boxes[classes == kind].mean(axis=0) for kind in kinds])
    often = np.array([(classes == kind).mean() for kind in kinds])
    return _compared([detection.Found(usual, kinds, often)] * len(held_out), held_out)


def _measured(network: Detector, held_out: list[Frame], config: TrainConfig, run: Run) -> dict[str, float]:
    found = [look(network, frame.pixels, config.short_edge, config.long_edge, run) for frame in held_out]
    return _compared([as_found(one) for one in found], held_out)


def _compared(found: list[detection.Found], held_out: list[Frame]) -> dict[str, float]:
    truth = [as_truth(frame) for frame in held_out]
    return {
        "mAP 50:95": 100 * detection.mean_average_precision(found, truth)[0],
        "mAP 50": 100 * detection.mean_average_precision(found, truth, (0.5,))[0],
    }
