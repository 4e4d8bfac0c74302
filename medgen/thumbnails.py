"""A finished case as one small picture for the page of its batch: three planes, with what came out drawn on them.

An image is grey, a mask lies on it in its segments' colours (its reference is outlined in white), points are dots and
boxes are frames, seen through the volume. An image that came out has a row of its own, beneath it the difference from
its reference where the case has one, else above it the image it was made from. As radiologists look: the patient's
right is on the viewer's left. NumPy and SimpleITK only: matplotlib alone would take longer than many a case.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from medgen import io
from medgen.case import Affine, Box, Case, Image, Mask, Points
from medgen.geometry import canonical_order, spacing_of, to_canonical
from medgen.hounsfield import looks_like_ct
from medgen.method import Kind, Operation, Role
from medgen.pictures import VIEWS
from medgen.whole import written_whole

Array = NDArray[np.float32]

ONE_ROW, TWO_ROWS, WIDTH = 130, 96, 400  # pixels: the tallest view of one row and of two, and all views side by side
HU_WINDOW = (-400.0, 800.0)  # air black, compact bone white, soft tissue and fat apart
FOUND = (1.0, 0.6, 0.18)
TRUTH = (0.25, 0.86, 0.42)
_HIGHER = np.array([1.0, 0.32, 0.2], dtype=np.float32)
_LOWER = np.array([0.25, 0.55, 1.0], dtype=np.float32)
_QUALITY = 76  # of the JPEG, percent
_GAP = 2  # pixels between views
_FILL = 0.45  # opacity of a segment
_SPECK = 4  # pixels: what covers fewer is drawn a pixel larger all around
_LOOKED_AT = 80_000  # voxels that a grey window, or a mask's middle, is read off


def write(given: Case, result: Case, operation: Operation, path: Path) -> bool:
    """Write the JPEG of a case whole; False, and nothing written, where no image, mask, points or boxes came out.

    given: the prepared case, on canonical axes, and under `truth_ROLE` whatever reference there is for an output.
    result: what the operation gave for it, in the same frame (not yet through prepare.finish_case). Positions are RAS
    mm, in plain pictures too (pixel (i, j) at (-i, -j), as Slicer places them).
    """
    rows = _rows(given, result, operation)
    if not rows:
        return False
    centre = _centre(rows)
    tallest = ONE_ROW if len(rows) == 1 else TWO_ROWS
    strips = [_strip(row, centre, tallest) for row in rows]
    width = max(strip.shape[1] for strip in strips)
    canvas = np.zeros((sum(len(strip) + _GAP for strip in strips) - _GAP, width, 3), dtype=np.float32)
    top = 0
    for strip in strips:
        left = (width - strip.shape[1]) // 2
        canvas[top : top + len(strip), left : left + strip.shape[1]] = strip
        top += len(strip) + _GAP
    pixels = np.rint(canvas.clip(0, 1) * 255).astype(np.uint8)
    with written_whole(path) as partial:
        sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(partial), True, _QUALITY)
    return True


# --- what is drawn ------------------------------------------------------------------------------------------------


@dataclass
class _Row:
    """Views of one grid: an image (None: black), masks and references on it, marks over it with their colours."""

    shape: tuple[int, ...]
    affine: Affine
    image: Image | None = None
    window: tuple[float, float] = (0.0, 1.0)
    reference: Image | None = None  # then the row shows `image` minus this
    masks: list[Mask] = field(default_factory=list)
    truths: list[Mask] = field(default_factory=list)
    marks: list[tuple[Points | Box, tuple[float, float, float]]] = field(default_factory=list)

    def holds(self, value: Image | Mask) -> bool:
        """Whether a value lies on this row's grid."""
        return value.shape == self.shape and np.allclose(value.affine, self.affine, rtol=0, atol=1e-3)


def _rows(given: Case, result: Case, operation: Operation) -> list[_Row]:
    """One row or two; none where nothing that came out can be drawn."""
    by_kind: dict[Kind, list[Role]] = {}
    for role in operation.outputs:
        by_kind.setdefault(role.kind, []).extend([role] if result.many(role.name) else [])
    images = by_kind.get(Kind.IMAGE, [])
    masks = by_kind.get(Kind.MASK, [])
    marked = [role for kind in (Kind.POINTS, Kind.LINE, Kind.CURVE, Kind.BOX) for role in by_kind.get(kind, [])]
    rows = _image_rows(given, result, _shown_input(given, operation), images[0] if images else None)
    if not (images or masks or marked):
        return []
    for role in masks:
        for mask in map(_upright, result.many(role.name)):
            fitting = [row for row in rows if row.reference is None and row.holds(mask)]
            if not fitting:
                fitting = [_Row(mask.shape, mask.affine)]
                rows += fitting
            for row in fitting:
                row.masks.append(mask)
                truths = map(_upright, given.many(f"truth_{role.name}"))
                row.truths += [truth for truth in truths if row.holds(truth)]
    for role in marked:
        for row in rows:
            row.marks += [(value, TRUTH) for value in given.many(f"truth_{role.name}")]
            row.marks += [(value, FOUND) for value in result.many(role.name)]
    return rows[:2]


def _shown_input(given: Case, operation: Operation) -> Role | None:
    """The image that the others lie on: of the role marked `reference`, else the first."""
    images = [role for role in operation.inputs if role.kind is Kind.IMAGE and given.many(role.name)]
    return next((role for role in images if role.reference), images[0] if images else None)


def _image_rows(given: Case, result: Case, taken: Role | None, made: Role | None) -> list[_Row]:
    """The image that went in; the one that came out; its difference from its reference, instead of what went in."""
    before = after = None
    if taken is not None:
        image = _upright(given.many(taken.name)[0])
        before = _Row(image.shape, image.affine, image, _window(image, image.units or taken.units))
    if made is None:
        return [before] if before else []
    image = _upright(result.many(made.name)[0])
    after = _Row(image.shape, image.affine, image, _window(image, image.units or made.units))
    truths = given.many(f"truth_{made.name}")
    truth = _upright(truths[0]) if truths else None
    if truth is not None and after.holds(truth) and truth.data.shape == image.data.shape:
        after.window = _window(truth, truth.units or made.units)
        return [after, replace(after, reference=truth, masks=[], truths=[], marks=[])]
    if before is not None and taken is not None and (taken.modality, taken.units) == (made.modality, made.units):
        after.window = before.window
    return [before, after] if before else [after]


def _upright(value: Any) -> Any:
    """An image or mask of three dimensions on canonical axes, where it is not yet (nothing went in, say)."""
    if len(value.shape) != 3:
        return value
    order = canonical_order(value.affine)
    if order.permutation == (0, 1, 2) and not any(order.flips):  # nothing is copied
        return value
    data, affine, _ = to_canonical(value.data.detach(), value.affine)
    return replace(value, data=data, affine=affine)


def _every(data: Tensor, axes: int, most: int = _LOOKED_AT) -> tuple[Tensor, int]:
    """Every n-th voxel along the last `axes` axes, so that about `most` remain, and n."""
    n = max(1, int((data.numel() / most) ** (1 / axes)))
    every = (slice(n // 2, None, n) if size > n else slice(None) for size in data.shape[-axes:])
    return data[(..., *every)].detach().contiguous(), n


def _window(image: Image, units: str | None) -> tuple[float, float]:
    """The values shown as black and as white."""
    thin = _every(image.data, len(image.shape))[0].float()
    if image.colour:
        return 0.0, (255.0 if float(thin.max()) > 1.5 else 1.0)
    if units == "HU" or (units is None and looks_like_ct(thin)):
        return HU_WINDOW
    values = thin.cpu().numpy()
    low, high = (float(value) for value in np.percentile(values, (1, 99.5)))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return low, high if high > low else low + 1


def _centre(rows: list[_Row]) -> NDArray[np.float64]:
    """(3,) RAS mm, where the planes are laid: half of the mask, or of the points, lies on either side of each."""
    row = rows[0]
    for mask in [mask for row in rows for mask in (*row.masks, *row.truths) if len(mask.shape) == 3]:
        for most in (_LOOKED_AT, mask.data.numel()):  # thinned first, then whole: a small structure may slip through
            thin, n = _every(mask.data, 3, most)
            inside = np.flatnonzero((thin > 0).cpu().numpy())
            if len(inside):
                steps = [n if size > n else 1 for size in mask.shape]
                middle = [int(np.sort(one)[len(one) // 2]) for one in np.unravel_index(inside, tuple(thin.shape))]
                index = [at * step + step // 2 for at, step in zip(middle, steps, strict=True)]
                return np.asarray(mask.affine[:3, :3] @ index + mask.affine[:3, 3])
    places = [mark.positions[mark.found] if isinstance(mark, Points) else mark.centre[None] for mark, _ in row.marks]
    if places and sum(map(len, places)):
        return np.asarray(np.median(np.concatenate(places), axis=0))
    half = np.array([*((size - 1) / 2 for size in row.shape), 0.0][:3])
    return np.asarray(row.affine[:3, :3] @ half + row.affine[:3, 3])


# --- a view -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """A plane of a grid as pixels: `rows` (height, down) and `columns` (width, across) average what a pixel covers.

    cut: the axis and index of the plane, None for a 2D picture. axes: which axes run across and down.
    """

    cut: tuple[int, int] | None
    axes: tuple[int, int]
    flips: tuple[bool, bool]
    columns: Array
    rows: Array

    def plane(self, data: Tensor) -> Tensor:
        """(..., i, j[, k]) -> (..., across, down)."""
        return data if self.cut is None else data.select(self.cut[0] - 3, self.cut[1])

    def pixels(self, plane: Tensor) -> Array:
        """(..., across, down) -> (..., height, width)."""
        values = plane.detach().float().cpu().numpy()
        return np.asarray(self.rows @ values.swapaxes(-1, -2) @ self.columns.T)

    def draw(self, data: Tensor) -> Array:
        """(..., i, j[, k]) -> (..., height, width)."""
        return self.pixels(self.plane(data))

    def place(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 3) voxel indices -> (n, 2) pixels across and down."""
        found = []
        for axis, flip, weights in zip(self.axes, self.flips, (self.columns, self.rows), strict=True):
            pixels, count = weights.shape
            along = (indices[:, axis] + 0.5) * pixels / count - 0.5
            found.append(pixels - 1 - along if flip else along)
        return np.stack(found, axis=1)


_Layout = tuple[int | None, tuple[int, int], tuple[bool, bool]]  # axis cut; axes across and down; whether backwards
_PICTURE: _Layout = (None, (0, 1), (False, False))


def _views(row: _Row, centre: NDArray[np.float64], tallest: int) -> list[_View]:
    """The three planes through `centre`, at one scale, or the one of a picture."""
    to_index = np.linalg.inv(row.affine)
    index = np.rint(to_index[:3, :3] @ centre + to_index[:3, 3]).astype(int)
    size = spacing_of(row.affine)[: len(row.shape)] * row.shape  # mm
    if len(row.shape) == 2:
        layouts: list[_Layout] = [_PICTURE]
    else:
        layouts = [(axis, _rest(axis), (name != "Sagittal", True)) for name, axis in VIEWS]
    wide = sum(size[axes[0]] for _, axes, _ in layouts)
    scale = min(tallest / max(size[axes[1]] for _, axes, _ in layouts), (WIDTH - _GAP * len(layouts)) / wide)
    views = []
    for axis, axes, flips in layouts:
        columns, rows = (
            _weights(row.shape[along], max(1, round(size[along] * scale)), flip)
            for along, flip in zip(axes, flips, strict=True)
        )
        cut = None if axis is None else (axis, int(index[axis].clip(0, row.shape[axis] - 1)))
        views.append(_View(cut, axes, flips, columns, rows))
    return views


def _rest(axis: int) -> tuple[int, int]:
    """The two other axes, in order."""
    return (1 if axis == 0 else 0), (1 if axis == 2 else 2)


def _weights(count: int, pixels: int, backwards: bool) -> Array:
    """(pixels, count): every pixel as a weighted mean of samples, linear between them and smooth where many meet."""
    step = count / pixels
    centres = (np.arange(pixels) + 0.5) * step - 0.5
    weights = np.clip(1 - np.abs(centres[:, None] - np.arange(count)) / max(step, 1.0), 0, None)
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return weights[::-1] if backwards else weights


# --- drawing ------------------------------------------------------------------------------------------------------


def _strip(row: _Row, centre: NDArray[np.float64], tallest: int) -> Array:
    """(height, width, 3) in 0..1: the row's views side by side."""
    drawn = [_drawn(row, view) for view in _views(row, centre, tallest)]
    height = max(len(one) for one in drawn)
    canvas = np.zeros((height, sum(one.shape[1] + _GAP for one in drawn) - _GAP, 3), dtype=np.float32)
    left = 0
    for one in drawn:
        top = (height - len(one)) // 2
        canvas[top : top + len(one), left : left + one.shape[1]] = one
        left += one.shape[1] + _GAP
    return canvas


def _drawn(row: _Row, view: _View) -> Array:
    canvas = np.zeros((len(view.rows), len(view.columns), 3), dtype=np.float32)
    if row.image is not None and row.reference is not None:
        canvas[:] = _difference(row.image, row.reference, row.window, view)
    elif row.image is not None:
        canvas[:] = _shaded(row.image, row.window, view)
    for mask in row.masks:
        _fill(canvas, mask, view)
    for truth in row.truths:
        _outline(canvas, truth, view)
    to_index = np.linalg.inv(row.affine)
    for mark, colour in row.marks:
        positions = mark.positions[mark.found] if isinstance(mark, Points) else _edges(mark)
        pixels = view.place(positions @ to_index[:3, :3].T + to_index[:3, 3])
        (_dots if isinstance(mark, Points) else _trace)(canvas, pixels, colour)
    return canvas


def _shaded(image: Image, window: tuple[float, float], view: _View) -> Array:
    """(height, width, 3), or (height, width, 1) of a grey image."""
    channels = view.draw(image.data[:3] if image.colour else image.data[:1])
    low, high = window
    return np.asarray(((channels - low) / (high - low)).clip(0, 1).transpose(1, 2, 0))


def _difference(image: Image, reference: Image, window: tuple[float, float], view: _View) -> Array:
    """Red where the image is higher than its reference, blue where lower, full at a quarter of the window; beneath
    it, faintly, the reference."""
    grey = 0.3 * _shaded(reference, window, view).mean(axis=2, keepdims=True)
    signed = view.draw(image.data[:1]) - view.draw(reference.data[:1].to(image.data.device))
    share = (signed[0] / ((window[1] - window[0]) / 4)).clip(-1, 1)[..., None]
    colour = np.where(share > 0, _HIGHER, _LOWER)
    return np.asarray(grey + (colour - grey) * np.abs(share))


def _fill(canvas: Array, mask: Mask, view: _View) -> None:
    labels = view.plane(mask.data)
    colours = {segment.value: segment.colour for segment in mask.segments}
    for value in (int(one) for one in torch.unique(labels) if one > 0):
        colour = np.asarray(colours.get(value) or io.colour_of(value), dtype=np.float32)
        covered = view.pixels(labels == value)
        if covered.sum() < _SPECK:
            covered = _grown(covered > 0)
        canvas += (colour - canvas) * (_FILL * covered[..., None])


def _grown(inside: NDArray[np.bool_]) -> Array:
    """With the pixels around: a JPEG would lose the colour of a single one."""
    down, across = inside.shape
    padded = np.pad(inside, 1)
    around = [padded[y : y + down, x : x + across] for y in range(3) for x in range(3)]
    return np.logical_or.reduce(around).astype(np.float32)


def _outline(canvas: Array, mask: Mask, view: _View) -> None:
    inside = np.pad(view.pixels(view.plane(mask.data) > 0) >= 0.5, 1)
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    canvas[inside[1:-1, 1:-1] & ~core] = 0.95


def _dots(canvas: Array, pixels: NDArray[np.float64], colour: Sequence[float]) -> None:
    """Discs of two pixels' radius with a dark rim."""
    for x, y in pixels[(np.abs(pixels) < 1e4).all(axis=1)]:
        left, top = max(0, int(x) - 4), max(0, int(y) - 4)
        patch = canvas[top : max(0, int(y) + 6), left : max(0, int(x) + 6)]
        down, across = np.ogrid[: patch.shape[0], : patch.shape[1]]
        away = np.hypot(across + left - x, down + top - y)[..., None]
        patch *= 1 - 0.8 * (3.6 - away).clip(0, 1).astype(np.float32)
        patch += (np.asarray(colour, dtype=np.float32) - patch) * (2.6 - away).clip(0, 1).astype(np.float32)


def _edges(box: Box) -> NDArray[np.float64]:
    """(n, 3) RAS mm, close together along the twelve edges of a box."""
    signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    pairs = [(one, other) for one, other in itertools.combinations(signs, 2) if (one != other).sum() == 1]
    along = np.linspace(0, 1, 300)[:, None]
    corners = np.concatenate([one + along * (other - one) for one, other in pairs])
    return np.asarray(box.centre + (corners * box.size) @ box.axes.T)


def _trace(canvas: Array, pixels: NDArray[np.float64], colour: Sequence[float]) -> None:
    whole = np.rint(pixels).astype(int)
    seen = ((whole >= 0) & (whole < [canvas.shape[1], canvas.shape[0]])).all(axis=1)
    canvas[whole[seen, 1], whole[seen, 0]] = colour
