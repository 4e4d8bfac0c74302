"""The detector on real pictures: red cells, white cells and platelets in blood smears, a fifth of them held out.

    python Testing/Claims/bloodcells.py OUT [--data DIR] [--tier demo] [--device cpu] [--seeds 2026112711 …] [--set K=V]

200 pictures of 640 x 480 px with 2 821 boxes (BCCD; some cells are not boxed, as upstream). Per seed a random fifth is
held out; the detector learns from the rest, all labelled: this is the teacher of tool-detection alone. Beside it stands
a colour-blob baseline that is told nothing by hand: blobs are what lies above Otsu's threshold of saturation and of
blueness, opened by 2 px; each is the class whose mean colour and size on the training pictures is nearest, with its
distance as confidence, and its threshold is the one of the two that gave the higher mAP on the training pictures.

Writes rows.csv (a line a seed and way): mAP 50:95 and 50, that of each class, seconds, and backbone, resolution and
device they were had with; and a picture of the first held-out one.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from medgen import io, pictures  # noqa: E402
from medgen.frames import Frame, as_found, as_truth, boxes_from, frame_of, look  # noqa: E402
from medgen.jobs import Run  # noqa: E402
from medgen.landmarks.tool_detection import Fit, ToolDetection, TrainConfig  # noqa: E402
from medgen.metrics.detection import Found, mean_average_precision  # noqa: E402
from medgen.nn.detector import Detections  # noqa: E402

FOLDER = "bloodcells_bccd_boxes"
Row = dict[str, object]
CLASSES = ["Platelets", "RBC", "WBC"]
# Cells lie close together and are small: finer anchors, more proposals and samples than tools need.
SETTINGS = {
    "short_edge": 240, "long_edge": 320, "smallest_anchor": 12, "anchor_stretch": 1, "regions": 200, "updates": 600,
    "anchor_samples": 128, "region_samples": 96, "unlabelled_weight": 0.0,
}  # fmt: skip


def read_frames(data: Path) -> tuple[list[Frame], list[Path]]:
    """All pictures with their boxes, and where they lie."""
    boxes: dict[str, list[list[float]]] = {}
    with (data / FOLDER / "boxes.csv").open(newline="", encoding="utf-8") as table:
        for row in csv.DictReader(table):
            place = [float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax")]
            boxes.setdefault(row["file"], []).append([*place, CLASSES.index(row["label"])])
    frames, paths = [], []
    for path in sorted((data / FOLDER / "images").glob("*.jpg")):
        own = torch.tensor(boxes.get(path.name, [])).reshape(-1, 5)
        pixels = frame_of(io.read_image(path)).round().to(torch.uint8)
        frames.append(Frame(pixels, own[:, :4].clone(), own[:, 4].long(), labelled=True))
        paths.append(path)
    return frames, paths


# --- the colour-blob baseline


def blobs(frame: Frame, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) of connected blobs, and their features: mean red, green, blue, logarithms of width and height."""
    picture = frame.pixels.permute(1, 2, 0).numpy() / 255
    values = rgb2hsv(picture)[..., 1] if measure == "saturation" else picture[..., 2] - picture[..., 1]
    inside = ndimage.binary_opening(values > threshold_otsu(values), iterations=2)
    labels, _ = ndimage.label(ndimage.binary_fill_holes(inside))
    boxes, features = [], []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        place = [columns.start, rows.start, columns.stop, rows.stop]
        colour = picture[rows, columns][labels[rows, columns] == number].mean(axis=0)
        boxes.append(place)
        features.append([*(4 * colour), np.log(place[2] - place[0]), np.log(place[3] - place[1])])
    return np.array(boxes, float).reshape(-1, 4), np.array(features).reshape(-1, 5)


def blob_baseline(train: list[Frame], held_out: list[Frame]) -> list[Found]:
    """The better of the two measures on the training pictures, on the held-out ones."""
    best: tuple[float, str, np.ndarray] = (-1.0, "", np.zeros(0))
    for measure in ("saturation", "blueness"):
        means = np.stack([_mean_features(train, kind) for kind in range(len(CLASSES))])
        value = mean_average_precision(
            [_classed(frame, measure, means) for frame in train], [as_truth(frame) for frame in train]
        )[0]
        if value > best[0]:
            best = (value, measure, means)
    return [_classed(frame, best[1], best[2]) for frame in held_out]


def _mean_features(train: list[Frame], kind: int) -> np.ndarray:
    """Of the middle half of each box of a class."""
    rows = []
    for frame in train:
        picture = frame.pixels.permute(1, 2, 0).numpy() / 255
        for x1, y1, x2, y2 in frame.boxes[frame.classes == kind].numpy():
            x, y = (x2 - x1) / 4, (y2 - y1) / 4
            part = picture[int(y1 + y) : int(y2 - y) + 1, int(x1 + x) : int(x2 - x) + 1]
            rows.append([*(4 * part.mean(axis=(0, 1))), np.log(x2 - x1), np.log(y2 - y1)])
    return np.mean(rows, axis=0)


def _classed(frame: Frame, measure: str, means: np.ndarray) -> Found:
    boxes, features = blobs(frame, measure)
    apart = np.linalg.norm(features[:, None] - means[None], axis=2)
    return Found(boxes, apart.argmin(axis=1), np.exp(-apart.min(axis=1)) if len(apart) else np.zeros(0))


# --- both ways


def run_seed(
    seed: int, frames: list[Frame], paths: list[Path], config: TrainConfig, device: str, out: Path
) -> list[Row]:
    """A row for the baseline, one for the detector."""
    order = np.random.default_rng(seed).permutation(len(frames))
    fifth = len(frames) // 5
    train, held_out = ([frames[number] for number in part] for part in (order[fifth:], order[:fifth]))
    began = time.monotonic()
    found = blob_baseline(train, held_out)
    rows = [_row(seed, "colour blobs", found, held_out, time.monotonic() - began, "none")]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), seed=seed, device=device)
        began = time.monotonic()
        fit = Fit(train, len(CLASSES), config, run)
        fit.fit_teacher()
        network = fit.networks["teacher"]
        seen = [look(network, frame.pixels, config.short_edge, config.long_edge, run) for frame in held_out]
    how = f"{config.backbone} of width {config.width}, {config.short_edge} px, {config.updates} updates, {run.device}"
    rows.append(_row(seed, "detector", [as_found(one) for one in seen], held_out, time.monotonic() - began, how))
    _picture(paths[order[0]], seen[0].above(0.5), held_out[0], out / f"seed-{seed}.png", f"Held out, seed {seed}")
    return rows


def _picture(path: Path, found: Detections, true: Frame, picture: Path, title: str) -> None:
    """What was found in a picture (orange), and what was boxed by hand (green)."""
    image = io.read_image(path)
    both = [
        boxes_from(boxes.double().numpy(), [CLASSES[kind] for kind in classes], scores, image)
        for boxes, classes, scores in (
            (found.boxes, found.classes, found.scores.tolist()),
            (true.boxes, true.classes, [1.0] * len(true.boxes)),
        )
    ]
    pictures.boxes(image, *both, picture, f"{title}: found (orange), boxed by hand (green)")


def _row(seed: int, way: str, found: list[Found], held_out: list[Frame], seconds: float, how: str) -> Row:
    truth = [as_truth(frame) for frame in held_out]
    mean, by_class = mean_average_precision(found, truth)
    row: Row = {"seed": seed, "way": way, "mAP 50:95": round(mean, 4)}
    row["mAP 50"] = round(mean_average_precision(found, truth, (0.5,))[0], 4)
    row |= {f"AP 50:95 {CLASSES[kind]}": round(value, 4) for kind, value in by_class.items()}
    return {**row, "seconds": round(seconds, 1), "with": how}


def main() -> int:
    """Run the seeds; a row is written as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--tier", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2026112711, 2026112712, 2026112713])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    arguments = parser.parse_args()
    settings = {**SETTINGS, **dict(pair.split("=", 1) for pair in arguments.settings)}
    config = ToolDetection().operation("train").configure(arguments.tier, settings)
    assert isinstance(config, TrainConfig)
    frames, paths = read_frames(arguments.data)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for seed in arguments.seeds:
        for row in run_seed(seed, frames, paths, config, arguments.device, arguments.out):
            rows.append(row)
            print(row, flush=True)
        io.write_rows(rows, arguments.out / "rows.csv")  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main())
