"""Table 1 on figures of the phantom: boxes drawn by hand or figures simulated of single images, with and without side
loss, with and without intra-class augmentation.

Per seed: figures with boxes, single images that stand in none of them, other figures to measure on. Every arm starts
from the same weights. Beside them stands what needs no learning of boxes: an x-y cut along lines of one colour, each
part named as the class whose single images have the nearest colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from medgen.frames import Frame, as_found, as_truth, look
from medgen.jobs import Run
from medgen.landmarks.compound_figures import CompoundFigures, Fit, TrainConfig
from medgen.metrics import detection
from medgen.phantoms import figures
from medgen.phantoms.cohort import subject_seed

CLASSES = sorted(figures.KINDS)
_NO_SIDE, _NO_AUG = {"side_weight": 0.0}, {"intra_class": 0.0}
WAYS: dict[str, dict[str, Any]] = {
    "boxes": {"learn_from": "boxes", **_NO_SIDE},
    "boxes + side loss": {"learn_from": "boxes"},
    "simulated": {**_NO_SIDE, **_NO_AUG},
    "simulated + side loss": _NO_AUG,
    "simulated + AUG": _NO_SIDE,
    "simulated + side loss + AUG": {},
}


def run_seed(seed: int, registration: Any, folder: Path, done: set[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Every arm on the figures held out."""
    settings = registration.settings
    boxed, singles, held_out = _pictures(seed, settings)
    for arm in registration.arms:
        if arm.name in done:
            continue
        if arm.role == "trivial":
            yield arm.name, _compared([_cut(frame, _colours(singles)) for frame in held_out], held_out)
            continue
        train = CompoundFigures().operation("train")
        config = train.configure(settings["tier"], {**WAYS[arm.name], "updates": arm.updates})
        assert isinstance(config, TrainConfig)
        run = Run(folder / f"{seed} {arm.name}", seed=seed)
        fit = Fit(boxed if config.learn_from == "boxes" else singles, len(CLASSES), config, run)
        fit.network.load_state_dict(fit.fit())
        found = [look(fit.network, frame.pixels, config.size, config.size, run, least=0.05) for frame in held_out]
        yield arm.name, _compared([as_found(one) for one in found], held_out)


def _pictures(seed: int, settings: dict[str, Any]) -> tuple[list[Frame], list[Frame], list[Frame]]:
    """Figures with boxes, single images, figures to measure on."""
    counts = [settings["boxed"], settings["held_out"]]
    made = [_figure(subject_seed(seed, number), tuple(settings["size"])) for number in range(sum(counts))]
    rng = np.random.default_rng([seed, 1])
    singles = []
    for kind, name in enumerate(CLASSES):
        for _ in range(settings["singles"]):
            columns, rows = (int(value) for value in rng.integers(120, 240, 2))
            picture = np.rint(255 * figures.single(name, (columns, rows), rng)).astype(np.uint8)
            around = torch.tensor([[0.0, 0.0, columns, rows]])
            singles.append(Frame(_pixels(picture), around, torch.tensor([kind]), labelled=True))
    return made[: counts[0]], singles, made[counts[0] :]


def _pixels(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())


def _figure(seed: int, size: tuple[int, ...]) -> Frame:
    made = figures.make(seed, size=size)
    items = made["boxes"]["markups"]
    centres = torch.tensor([item["center"][:2] for item in items]) + 0.5
    halves = torch.tensor([item["size"][:2] for item in items]) / 2
    classes = torch.tensor([CLASSES.index(item["name"]) for item in items])
    pixels = _pixels(sitk.GetArrayFromImage(made["image"]))
    return Frame(pixels, torch.cat((centres - halves, centres + halves), dim=1), classes, labelled=True)


# --- the x-y cut


def _colours(singles: list[Frame]) -> np.ndarray:
    """(classes, 6) mean and deviation of red, green and blue of each class's single images."""
    rows = [[_features(one.pixels.numpy()) for one in singles if int(one.classes[0]) == k] for k in range(len(CLASSES))]
    return np.stack([np.mean(row, axis=0) for row in rows])


def _features(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))])


def _cut(frame: Frame, colours: np.ndarray) -> detection.Found:
    pixels = frame.pixels.numpy().astype(float)
    boxes = _parts(pixels, (0, 0, pixels.shape[2], pixels.shape[1]))
    features = np.stack([_features(pixels[:, y1:y2, x1:x2]) for x1, y1, x2, y2 in boxes])
    apart = np.linalg.norm(features[:, None] - colours, axis=2)
    return detection.Found(np.array(boxes, float), apart.argmin(axis=1), np.exp(-apart.min(axis=1) / 50))


def _parts(pixels: np.ndarray, box: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """A box cut, as long as it can be, at the rows and columns whose pixels are alike (to 4 % of black to white)."""
    x1, y1, x2, y2 = box
    part = pixels[:, y1:y2, x1:x2]
    for axis in (1, 2):
        alike = (np.ptp(part, axis=axis).max(axis=0) < 10).astype(int)  # of columns, then of rows
        edges = np.flatnonzero(np.diff(np.concatenate([[1], alike, [1]])))
        spans = [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a >= 16]
        if spans and spans != [(0, len(alike))]:
            across = [(x1 + a, y1, x1 + b, y2) if axis == 1 else (x1, y1 + a, x2, y1 + b) for a, b in spans]
            return [own for each in across for own in _parts(pixels, each)]
    return [box]


def _compared(found: list[detection.Found], held_out: list[Frame]) -> dict[str, float]:
    truth = [as_truth(frame) for frame in held_out]
    mean, by_class = detection.mean_average_precision(found, truth)
    return {
        "mAP 50:95": 100 * mean,
        "mAP 50": 100 * detection.mean_average_precision(found, truth, (0.5,))[0],
        **{f"AP 50:95 {CLASSES[kind]}": 100 * value for kind, value in by_class.items()},
    }
