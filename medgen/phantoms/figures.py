"""Multi-panel figures as journals print them: micrographs of glomeruli and charts, and the boxes of their panels.

A drawing: light, fluorescence and electron micrographs are told by their colours and textures, charts by their axes.
Layout (rows justified to the figure's width, or a tall panel beside rows), gaps, which may be none, letters in or above
the panels, scale bars, arrows and the compression's blur vary from seed to seed. Every panel is another picture; their
classes are those of the paper's data (Yao et al., 2021, section 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medgen.phantoms.cataract import Array, Colour, roi_around, smooth

NAME = "compound-figure"
SENTENCE = "A journal's figure of several panels, micrographs of glomeruli and charts, with a box around each."
ROLES = {"image": "Image", "boxes": "Box"}
SEGMENTS = ()

Painter = Callable[[tuple[int, int], np.random.Generator], Array]
Box = tuple[int, int, int, int]  # left, upper, right, lower edge, px
_LETTERS = {  # five columns of seven pixels, the lowest bit on top
    "A": (0x7E, 0x11, 0x11, 0x11, 0x7E), "B": (0x7F, 0x49, 0x49, 0x49, 0x36), "C": (0x3E, 0x41, 0x41, 0x41, 0x22),
    "D": (0x7F, 0x41, 0x41, 0x22, 0x1C), "E": (0x7F, 0x49, 0x49, 0x49, 0x41), "F": (0x7F, 0x09, 0x09, 0x09, 0x01),
    "G": (0x3E, 0x41, 0x49, 0x49, 0x7A), "H": (0x7F, 0x08, 0x08, 0x08, 0x7F), "I": (0x00, 0x41, 0x7F, 0x41, 0x00),
    "J": (0x20, 0x40, 0x41, 0x3F, 0x01), "K": (0x7F, 0x08, 0x14, 0x22, 0x41), "L": (0x7F, 0x40, 0x40, 0x40, 0x40),
}  # fmt: skip


def make(seed: int, size: tuple[int, ...] = (640, 480), most_rows: int = 3) -> dict[str, Any]:
    """One figure: "image" (8-bit red, green, blue), "boxes" (content of a .mrk.json with a ROI for each panel).

    size: pixels across, and down at the most (what follows is ignored). most_rows: rows of panels at the most. Raises
    ValueError for fewer than 96 pixels along an edge, or rows that would be lower than 32 pixels.
    """
    if min(size[:2]) < 96 or not 1 <= most_rows <= size[1] // 32:
        raise ValueError("a figure needs 96 pixels or more along each edge, and 32 for each of its rows")
    rng = np.random.default_rng(seed)
    places = layout(size[:2], most_rows, rng)
    columns, rows = (max(box[axis] for box in places) + int(rng.integers(0, 9)) for axis in (2, 3))
    page = np.full((rows, columns, 3), rng.choice([1.0, 1.0, 1.0, 0.93]), np.float32)
    names, inside = list(KINDS), bool(rng.uniform() < 0.6)
    one_kind = str(rng.choice(names)) if rng.uniform() < 0.25 else ""
    items = []
    for number, (x1, y1, x2, y2) in enumerate(places):
        name = one_kind or str(rng.choice(names, p=(0.32, 0.22, 0.24, 0.22)))
        panel = single(name, (x2 - x1, y2 - y1), rng)
        if name != "chart":
            _marks(panel, rng)
        page[y1:y2, x1:x2] = panel
        if inside and number < len(_LETTERS):
            dark = float(panel[:12, :12].mean()) > 0.5
            _letter(page, list(_LETTERS)[number], x1 + 4, y1 + 4, (0.0,) * 3 if dark else (1.0,) * 3, columns)
        items.append(roi_around(name, (x1, y1, x2, y2)))
    return {"image": sitk.GetImageFromArray(_printed(page, rng), isVector=True), "boxes": {"markups": items}}


def single(name: str, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """One picture of a kind, `size` (across, down) px -> (rows, columns, 3) in 0..1."""
    return np.clip(KINDS[name]((size[1], size[0]), rng), 0, 1)


def layout(size: tuple[int, ...], most_rows: int, rng: np.random.Generator) -> list[Box]:
    """Where panels lie: rows of random heights whose pictures fill the width; in a third of the figures of several rows
    a tall panel stands at the left of all of them."""
    margin, gap = int(rng.integers(0, 10)), int(rng.choice([0, 1, 2, 4, 8, 12]))
    count = int(rng.integers(1, most_rows + 1))
    left, right = margin, size[0] - margin
    places: list[Box] = []
    width = right - left
    if count > 1 and rng.uniform() < 0.33:
        width = int(width * rng.uniform(0.5, 0.68))
    top = margin
    for height in _heights(count, int(size[1] * rng.uniform(0.7, 1)) - 2 * margin - (count - 1) * gap, rng):
        ratios: list[float] = []
        while not ratios or sum(ratios) * height < 0.75 * width:
            ratios.append(float(rng.choice([1.0, 1.0, 1.33, 1.5, 0.8]) * rng.uniform(0.9, 1.1)))
        edges = right - width + np.cumsum([0.0, *ratios]) / sum(ratios) * (width + gap)
        for x1, x2 in itertools.pairwise(edges):
            places.append((round(x1), top, round(x2) - gap, top + height))
        top += height + gap
    if width < right - left:
        places.insert(0, (left, margin, right - width - gap, top - gap))
    return places


def _heights(count: int, whole: int, rng: np.random.Generator) -> list[int]:
    shares = rng.uniform(0.7, 1.3, count) if rng.uniform() < 0.5 else np.ones(count)
    return [int(share) for share in shares / shares.sum() * whole]


# --- kinds of panels


def _mixed(cover: NDArray[np.floating[Any]], colour: Colour, below: Array) -> Array:
    return below + (np.array(colour, np.float32) - below) * np.clip(cover, 0, 1)[..., None].astype(np.float32)


def _tuft(shape: tuple[int, int], rng: np.random.Generator) -> tuple[Array, float]:
    """Distance (px) from the outline of a glomerulus that lies somewhere in the picture, and its radius."""
    rows, columns = shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    radius = float(min(shape) * rng.uniform(0.28, 0.5))
    dx, dy = x - columns * rng.uniform(0.4, 0.6), y - rows * rng.uniform(0.4, 0.6)
    angle = np.arctan2(dy, dx)
    waves = [rng.normal(0, 0.05) * np.cos(n * angle + rng.uniform(0, 6.3)) for n in range(2, 6)]
    return np.asarray(np.hypot(dx, dy) - radius * (1 + np.sum(waves, axis=0)), np.float32), radius


def light(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """A stained section: a tuft with loops and nuclei in Bowman's space, tubules around it."""
    unit = min(shape)
    away, radius = _tuft(shape, rng)
    stain = [(0.86, 0.62, 0.74), (0.80, 0.60, 0.78), (0.76, 0.70, 0.72)][int(rng.integers(3))]
    page = np.empty((*shape, 3), np.float32)
    page[:] = stain
    page *= (1 + 0.06 * smooth(shape, unit * 0.02, rng))[..., None]
    tubules = smooth(shape, unit * 0.07, rng)
    page = _mixed((tubules - 0.9) * 4, (0.96, 0.92, 0.94), page)
    page = _mixed(1 - np.abs(tubules - 0.75) * 6, (stain[0] * 0.75, stain[1] * 0.55, stain[2] * 0.8), page)
    page = _mixed(0.5 - (away - 0.16 * radius) / 2, (0.97, 0.94, 0.95), page)
    loops = smooth(shape, unit * 0.022, rng)
    page = _mixed(0.5 - away / 2, (stain[0] * 0.93, stain[1] * 0.75, stain[2] * 0.9), page)
    page = _mixed(np.clip(0.5 - away / 2, 0, 1) * (loops - 0.3) * 1.5, (0.97, 0.92, 0.95), page)
    nuclei = smooth(shape, max(1.0, unit * 0.010), rng)
    return _mixed((nuclei - 1.35) * 4, (0.36, 0.20, 0.50), page)


def fluorescence(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """An antibody's glow along capillary loops in the dark."""
    unit = min(shape)
    away, _ = _tuft(shape, rng)
    glow = np.array([(0.15, 0.95, 0.25), (0.15, 0.95, 0.25), (0.95, 0.2, 0.15)][int(rng.integers(3))], np.float32)
    inside = np.clip(0.5 - away / (0.05 * unit), 0, 1)
    loops = np.exp(-((smooth(shape, unit * 0.03, rng) / rng.uniform(0.25, 0.5)) ** 2))
    cloud = 0.06 + 0.03 * smooth(shape, unit * 0.1, rng)
    light = inside * loops * rng.uniform(0.7, 1.1) + cloud + 0.03 * rng.standard_normal(shape)
    page = np.clip(light, 0, None)[..., None].astype(np.float32) * glow
    if rng.uniform() < 0.4:
        page = _mixed((smooth(shape, max(1.0, unit * 0.012), rng) - 1.4) * 2, (0.2, 0.3, 0.9), page)
    return page


def electron(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Grey membranes, foot processes and dense deposits."""
    unit = min(shape)
    field = smooth(shape, unit * rng.uniform(0.06, 0.12), rng)
    grey = 0.66 + 0.10 * smooth(shape, unit * 0.04, rng) + 0.05 * smooth(shape, 1.5, rng)
    grey -= 0.30 * np.exp(-((field / 0.12) ** 2))
    grey -= 0.25 * np.exp(-(((field - 0.5) / 0.04) ** 2)) * (smooth(shape, unit * 0.015, rng) > -0.2)
    grey -= 0.40 * np.clip((smooth(shape, unit * 0.05, rng) - 1.7) * 3, 0, 1)
    grey = (grey - 0.5) * rng.uniform(0.8, 1.2) + 0.5 + rng.normal(0, 0.05) + 0.03 * rng.standard_normal(shape)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.float32)


def chart(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Bars, curves or dots on two axes, with ticks and lines of text."""
    rows, columns = shape
    page = np.ones((*shape, 3), np.float32)
    x0, y0 = int(columns * rng.uniform(0.12, 0.2)), int(rows * rng.uniform(0.78, 0.87))
    x1, y1 = int(columns * 0.95), int(rows * rng.uniform(0.06, 0.14))
    page[y1:y0, x0], page[y0, x0:x1] = 0.0, 0.0
    for share in np.linspace(0, 1, 5):
        y = int(y0 + (y1 - y0) * share)
        page[y, max(0, x0 - 3) : x0] = 0.0
        _text(page, max(0, x0 - 14), y - 2, 8, rng)
    _text(page, (x0 + x1) // 2 - 20, min(rows - 6, y0 + 10), 44, rng)
    colours = [(0.12, 0.47, 0.71), (1.0, 0.5, 0.05), (0.17, 0.63, 0.17), (0.3, 0.3, 0.3), (0.84, 0.15, 0.16)]
    height, width = y0 - y1, x1 - x0
    kind, count = int(rng.integers(3)), int(rng.integers(3, 8))
    if kind == 0:
        for number in range(count):
            left = x0 + int(width * (number + 0.2) / count)
            page[y0 - int(height * rng.uniform(0.1, 0.95)) : y0, left : left + max(2, int(width * 0.6 / count))] = (
                colours[number % 2]
            )
        return page
    for colour in [colours[int(number)] for number in rng.permutation(5)[: int(rng.integers(1, 4))]]:
        across = np.arange(width) if kind == 1 else rng.integers(0, width, 25)
        curve = rng.uniform(0.2, 0.8) + rng.normal(0, 0.3) * across / max(1, width)
        curve = (
            curve
            + 0.12 * np.sin(across / max(1, width) * rng.uniform(2, 9))
            + (kind == 2) * rng.normal(0, 0.07, 25 if kind == 2 else 1)
        )
        for x, y in zip(x0 + across, y0 - (np.clip(curve, 0.02, 0.98) * height).astype(int), strict=True):
            page[y - 1 : y + 1, x : x + 2] = colour
    return page


KINDS: dict[str, Painter] = {
    "light microscopy": light,
    "fluorescence microscopy": fluorescence,
    "electron microscopy": electron,
    "chart": chart,
}


# --- what is printed over them


def _text(page: Array, x: int, y: int, width: int, rng: np.random.Generator) -> None:
    """A line of small print: it is not meant to be read."""
    part = page[max(0, y) : y + 4, max(0, x) : x + width]
    part[rng.uniform(size=part.shape[:2]) < 0.55] = 0.15


def _letter(page: Array, letter: str, x: int, y: int, colour: Colour, width: int) -> None:
    scale = 2 if width > 400 else 1
    for column, bits in enumerate(_LETTERS[letter]):
        for row in (row for row in range(7) if bits >> row & 1):
            page[y + row * scale : y + (row + 1) * scale, x + column * scale : x + (column + 1) * scale] = colour


def _marks(panel: Array, rng: np.random.Generator) -> None:
    """A scale bar at the lower right, an arrow somewhere."""
    rows, columns = panel.shape[:2]
    colour = 0.0 if float(panel.mean()) > 0.4 else 1.0
    if rng.uniform() < 0.5:
        panel[rows - 8 : rows - 6, int(columns * 0.75) : int(columns * 0.93)] = colour
    if rng.uniform() < 0.3:
        x, y, length = (
            int(rng.uniform(0.3, 0.7) * columns),
            int(rng.uniform(0.3, 0.7) * rows),
            min(rows, columns) // 8,
        )
        for step in range(length):
            half = step // 2 if step < length // 2 else 1
            panel[max(0, y - half) : y + half + 1, x + step : x + step + 1] = colour


def _printed(page: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """As a publisher's compression leaves it: a little blur and noise."""
    share = rng.uniform(0.0, 0.35)
    soft = page.copy()
    soft[1:-1, 1:-1] = (page[:-2, 1:-1] + page[2:, 1:-1] + page[1:-1, :-2] + page[1:-1, 2:]) / 4
    mixed = page + share * (soft - page) + 0.006 * rng.standard_normal(page.shape)
    return np.rint(np.clip(mixed, 0, 1) * 255).astype(np.uint8)
