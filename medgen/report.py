"""Pictures of results: three planes of a volume with outlines, for the demo and whoever runs from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medgen import io
from medgen.case import Case, Image, Mask, Plane
from medgen.geometry import spacing_of

VIEWS = (("Axial", 2), ("Coronal", 1), ("Sagittal", 0))


def overlay(case: Case, path: Path, title: str) -> None:
    """Three planes through the middle of the result: the image, "result" filled, "truth" outlined, "planes" as lines.

    case: image (Image, canonical axes), result (Mask), truth (Mask, optional), planes (list of Plane, optional), all
    on the image's grid. Written whole as PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    image, result = case.get("image", Image), case.get("result", Mask)
    inside = (case.get("truth", Mask) if "truth" in case else result).data.numpy() > 0
    where = np.argwhere(inside)
    centre = where.mean(0).round().astype(int) if len(where) else np.array(image.shape) // 2
    spacing = spacing_of(image.affine)
    low, high = np.percentile(image.data.numpy(), (1, 99.5))
    size = np.array(image.shape) * spacing  # mm
    planes_of = [[a for a in range(3) if a != axis] for _, axis in VIEWS]
    scale = 12.4 / sum(size[rest[0]] for rest in planes_of)  # inches a mm, the same in all three views
    height = max(size[rest[1]] for rest in planes_of) * scale + 0.9
    figure = Figure(figsize=(13, height), facecolor="black")
    FigureCanvasAgg(figure)
    left = 0.15
    for (name, axis), rest in zip(VIEWS, planes_of, strict=True):
        wide, tall = size[rest] * scale
        axes = figure.add_axes((left / 13, (height - 0.75 - tall) / height, wide / 13, tall / height))
        left += wide + 0.15
        across, up = spacing[rest]

        def cut(volume: np.ndarray, axis: int = axis) -> np.ndarray:
            return np.take(volume, centre[axis], axis).T

        axes.imshow(cut(image.data[0].numpy()), cmap="gray", vmin=low, vmax=high, origin="lower", aspect=up / across)
        labels = cut(result.data.numpy())
        for segment in result.segments:
            rgba = np.zeros((*labels.shape, 4))
            rgba[labels == segment.value] = (*segment.colour, 0.45)
            axes.imshow(rgba, origin="lower", aspect=up / across, interpolation="nearest")
        if "truth" in case:
            outline = cut((case.get("truth", Mask).data.numpy() > 0).astype(float))
            if outline.any():
                axes.contour(outline, [0.5], colors="white", linewidths=0.9)
        for plane in case.many("planes"):
            _draw_plane(axes, plane, image, axis, int(centre[axis]))
        if name != "Sagittal":  # the patient's right on the viewer's left, as radiologists look
            axes.invert_xaxis()
        axes.set_title(name, color="white", fontsize=11, pad=4)
        axes.axis("off")
    figure.text(0.5, 1 - 0.25 / height, title, color="white", fontsize=12, ha="center", va="center")
    with io.written_whole(path) as partial:
        figure.savefig(partial, dpi=110, format="png", facecolor="black")


def _draw_plane(axes: object, plane: Plane, image: Image, axis: int, index: int) -> None:
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
    axes.plot(x, y, "--", color="#6cf", linewidth=0.7)  # type: ignore[attr-defined]
    axes.set_xlim(-0.5, width + 0.5)  # type: ignore[attr-defined]
    axes.set_ylim(-0.5, height + 0.5)  # type: ignore[attr-defined]
