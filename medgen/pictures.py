"""Pictures of results: three planes of a volume, for the demo and whoever runs from the command line."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen import io
from medgen.case import Box, Case, Image, Mask, Plane, Points
from medgen.geometry import spacing_of

VIEWS = (("Axial", 2), ("Coronal", 1), ("Sagittal", 0))
_WIDTH = 13.0  # inches
Cut = Callable[[NDArray[Any]], NDArray[Any]]


def overlay(case: Case, path: Path, title: str) -> None:
    """Three planes through the middle of the result: the image, "result" filled, "truth" outlined, "planes" as lines.

    case: image (Image, canonical axes), result (Mask), truth (Mask, optional), planes (list of Plane, optional), all
    on the image's grid. Written whole as PNG.
    """
    image, result = case.get("image", Image), case.get("result", Mask)
    inside = (case.get("truth", Mask) if "truth" in case else result).data.numpy() > 0
    where = np.argwhere(inside)
    centre = where.mean(0).round().astype(int) if len(where) else np.array(image.shape) // 2

    def draw(axes: Any, cut: Cut, axis: int) -> None:
        labels = cut(result.data.numpy())
        for segment in result.segments:
            rgba = np.zeros((*labels.shape, 4))
            rgba[labels == segment.value] = (*segment.colour, 0.45)
            axes.imshow(rgba, origin="lower", aspect=axes.get_aspect(), interpolation="nearest")
        if "truth" in case:
            outline = cut((case.get("truth", Mask).data.numpy() > 0).astype(float))
            if outline.any():
                axes.contour(outline, [0.5], colors="white", linewidths=0.9)
        for plane in case.many("planes"):
            _draw_plane(axes, plane, image, axis, int(centre[axis]))

    _write([("", image)], centre, path, title, draw)


def compare(images: list[tuple[str, Image]], path: Path, title: str) -> None:
    """Volumes on one grid (canonical axes) under each other, three planes of each; those in HU share a grey scale."""
    shape = np.array(images[0][1].shape)
    _write(images, shape // 2, path, title, None)


def marks(image: Image, found: Points, truth: Points | None, path: Path, title: str) -> None:
    """Three planes through the middle of the points: found as orange x, the truth as green +, seen through the volume;
    of a 2D image, the image.

    image: canonical axes (2D: any); points: RAS mm, those not found are left out.
    """
    to_index = np.linalg.inv(image.affine)

    def indices(points: Points) -> NDArray[np.float64]:
        positions = points.positions[points.found]
        return np.asarray(positions @ to_index[:3, :3].T + to_index[:3, 3])

    sets = [(indices(found), "x", "#ff9a2e")] + ([(indices(truth), "+", "#3fdc6b")] if truth is not None else [])

    def scatter(axes: Any, rest: list[int]) -> None:
        for points, marker, colour in sets:
            axes.scatter(points[:, rest[0]], points[:, rest[1]], s=60, marker=marker, c=colour, linewidths=1.4)

    if len(image.shape) == 2:
        _write_flat(image, path, title, lambda axes: scatter(axes, [0, 1]))
        return
    every = np.concatenate([one for one, _, _ in sets])
    middle = every.mean(0) if len(every) else (np.array(image.shape) - 1) / 2
    centre = middle.round().astype(int).clip(0, np.array(image.shape) - 1)

    _write([("", image)], centre, path, title, lambda axes, _, axis: scatter(axes, [a for a in range(3) if a != axis]))


def boxes(image: Image, found: Sequence[Box], truth: Sequence[Box], path: Path, title: str) -> None:
    """A 2D image with found boxes in orange with name and confidence, true ones in dashed green."""
    to_index = np.linalg.inv(image.affine)

    def draw(axes: Any) -> None:
        for colour, style, some in (("#3fdc6b", "--", truth), ("#ff9a2e", "-", found)):
            for box in some:
                corners = (
                    box.centre + (np.array(list(itertools.product((-0.5, 0.5), repeat=3))) * box.size) @ box.axes.T
                )
                places = (corners @ to_index[:3, :3].T + to_index[:3, 3])[:, :2]
                (x1, y1), (x2, y2) = places.min(0), places.max(0)
                axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], style, color=colour, linewidth=2)
                if style == "-":
                    words = box.name if box.confidence is None else f"{box.name} {box.confidence:.2f}"
                    axes.text(x1 + 2, y1 + 2, words, color="black", backgroundcolor=colour, fontsize=9, va="top")

    _write_flat(image, path, title, draw)


def _write_flat(image: Image, path: Path, title: str, draw: Callable[[Any], None]) -> None:
    """A 2D image as its file lists it, first row on top; `draw` adds to it, in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across, down = np.array(image.shape) * image.spacing[:2]
    scale = min(_WIDTH / across, 9.0 / down)  # inches a mm
    width, height = max(5.0, across * scale), down * scale
    figure = Figure(figsize=(width, height + 0.5), facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, height / (height + 0.5)))
    pixels = image.data.numpy().transpose(2, 1, 0)
    low, high = (0.0, 255.0) if image.colour else np.percentile(pixels, (0.5, 99.8))
    shown = ((pixels - low) / max(high - low, 1e-6)).clip(0, 1)
    axes.imshow(np.broadcast_to(shown[..., :3], (*shown.shape[:2], 3)), aspect=image.spacing[1] / image.spacing[0])
    draw(axes)
    axes.set_xlim(-0.5, image.shape[0] - 0.5)
    axes.set_ylim(image.shape[1] - 0.5, -0.5)
    axes.axis("off")
    figure.text(0.5, 1 - 0.25 / (height + 0.5), title, color="white", fontsize=10, ha="center", va="center", wrap=True)
    with io.written_whole(path) as partial:
        figure.savefig(partial, dpi=90, format="png", facecolor="black")


def _write(
    rows: list[tuple[str, Image]],
    centre: NDArray[np.int64],
    path: Path,
    title: str,
    draw: Callable[[Any, Cut, int], None] | None,
) -> None:
    """A row of three views for each image, at one scale; `draw` adds to each view."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = rows[0][1]
    spacing = spacing_of(first.affine)
    size = np.array(first.shape) * spacing  # mm
    planes_of = [[a for a in range(3) if a != axis] for _, axis in VIEWS]
    scale = (_WIDTH - 0.6) / sum(size[rest[0]] for rest in planes_of)  # inches a mm, the same in all views
    tallest = max(size[rest[1]] for rest in planes_of) * scale
    height = len(rows) * (tallest + 0.4) + 0.5
    figure = Figure(figsize=(_WIDTH, height), facecolor="black")
    FigureCanvasAgg(figure)
    for number, (label, image) in enumerate(rows):
        alike = [other for _, other in rows if other.units == image.units] if image.units == "HU" else [image]
        low, high = np.percentile(np.concatenate([other.data.numpy().ravel() for other in alike]), (1, 99.5))
        top, left = height - 0.75 - number * (tallest + 0.4), 0.15
        for (name, axis), rest in zip(VIEWS, planes_of, strict=True):
            wide, tall = size[rest] * scale
            axes = figure.add_axes((left / _WIDTH, (top - tall) / height, wide / _WIDTH, tall / height))
            left += wide + 0.15
            across, up = spacing[rest]

            def cut(volume: NDArray[Any], axis: int = axis) -> NDArray[Any]:
                return np.asarray(np.take(volume, centre[axis], axis).T)

            grey = cut(image.data[0].numpy())
            axes.imshow(grey, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=up / across)
            limits = axes.get_xlim(), axes.get_ylim()
            if draw is not None:
                draw(axes, cut, axis)
            axes.set_xlim(limits[0])
            axes.set_ylim(limits[1])
            if name != "Sagittal":  # the patient's right on the viewer's left, as radiologists look
                axes.invert_xaxis()
            words = f"{label}, {name.lower()}" if label else name
            axes.set_title(words, color="white", fontsize=11, pad=4)
            axes.axis("off")
    figure.text(0.5, 1 - 0.25 / height, title, color="white", fontsize=12, ha="center", va="center")
    with io.written_whole(path) as partial:
        figure.savefig(partial, dpi=110, format="png", facecolor="black")


def _draw_plane(axes: Any, plane: Plane, image: Image, axis: int, index: int) -> None:
    """The line in which an annotated plane cuts the shown one, dashed; nothing when they are parallel."""
    normal = image.affine[:3, :3].T @ plane.axes[:, 2]  # the plane as normal . index = offset
    offset = plane.axes[:, 2] @ (plane.origin - image.affine[:3, 3]) - normal[axis] * index
    a, b = (normal[k] for k in range(3) if k != axis)
    width, height = (image.shape[k] - 1 for k in range(3) if k != axis)
    if max(abs(a), abs(b)) < 1e-6:
        return
    if abs(b) >= abs(a):
        x = np.array([0.0, width])
        y = (offset - a * x) / b
    else:
        y = np.array([0.0, height])
        x = (offset - b * y) / a
    axes.plot(x, y, "--", color="#6cf", linewidth=0.7)
