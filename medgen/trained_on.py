"""What a training has seen, noted for every method alike: voxel sizes, fields of view and intensities of its images.

The engine watches while a method trains, and `prepare.load_case` tells what it loads. The result goes into the bundle
as "trained_on", for the card and the preflight: ranges over all cases, no names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from medgen.case import Case, Image
from medgen.method import Role

_SAMPLES = 100_000  # voxels of an image that its percentiles are taken from
_PERCENTILES = (1, 50, 99)
_watching: list[Watch] = []


class Watch:
    """Collects ranges over images by role."""

    def __init__(self) -> None:
        self._known: set[tuple[Any, ...]] = set()
        self._found: dict[str, list[dict[str, Any]]] = {}
        self._roles: dict[str, Role] = {}

    def add(self, role: Role, image: Image, label: str) -> None:
        """Note an image, once however often it is loaded."""
        key = (role.name, label, image.name, image.shape)
        if key in self._known or image.data.numel() == 0:
            return
        self._known.add(key)
        self._roles[role.name] = role
        spacing = np.asarray(image.spacing, dtype=float)[: len(image.shape)]
        flat = image.data.reshape(-1)
        values = flat[:: max(1, flat.numel() // _SAMPLES)].float().cpu().numpy()
        self._found.setdefault(role.name, []).append(
            {
                "shape": list(image.shape),
                "spacing": spacing.tolist(),
                "extent": (spacing * image.shape).tolist(),
                "channels": int(image.data.shape[0]),
                "intensity": [float(value) for value in np.percentile(values, _PERCENTILES)],
            }
        )

    def summary(self) -> dict[str, dict[str, Any]]:
        """By role: cases, modality, units, and [least, largest] of channels, of shape, spacing (mm) and extent (mm)
        along the axes (of volumes: right-left, back-front, down-up), and of the intensities' percentiles."""
        result: dict[str, dict[str, Any]] = {}
        for name, images in self._found.items():
            dims = {len(image["shape"]) for image in images}
            if len(dims) > 1:
                continue  # pictures and volumes in one role: no range says anything
            role = self._roles[name]
            ranges = {key: _range([image[key] for image in images]) for key in ("shape", "spacing", "extent")}
            percentiles = _range([image["intensity"] for image in images])
            result[name] = {
                "cases": len(images),
                "modality": role.modality,
                "units": role.units,
                "channels": [min(image["channels"] for image in images), max(image["channels"] for image in images)],
                **ranges,
                "intensity": {f"p{n}": pair for n, pair in zip(_PERCENTILES, percentiles, strict=True)},
            }
        return result


def _range(rows: list[list[float]]) -> list[list[float]]:
    """[least, largest] of each column, to five digits."""
    columns = np.asarray(rows, dtype=float)
    return [
        [float(f"{low:.5g}"), float(f"{high:.5g}")] for low, high in zip(columns.min(0), columns.max(0), strict=True)
    ]


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Note every image that is loaded inside the block."""
    watch = Watch()
    _watching.append(watch)
    try:
        yield watch
    finally:
        _watching.remove(watch)


def note(case: Case, roles: tuple[Role, ...]) -> None:
    """Tell of a loaded case, on canonical axes, whoever watches."""
    for watch in _watching:
        for role in roles:
            value = case.values.get(role.name)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Image):
                    watch.add(role, item, case.label)


def sentences(trained_on: dict[str, dict[str, Any]]) -> list[str]:
    """What a card says of it, one sentence a role."""
    lines = []
    for name, seen in trained_on.items():
        sizes = " x ".join(_between(pair) for pair in seen["spacing"])
        extent = " x ".join(_between(pair, 0) for pair in seen["extent"])
        what = f"{seen['cases']} {seen['modality'] or 'image'}{'s' if seen['cases'] != 1 else ''}"
        lines.append(f"{name}: {what}, voxels of {sizes} mm, fields of view of {extent} mm")
    return lines


def _between(pair: list[float], digits: int = 2) -> str:
    low, high = (f"{value:.{digits}f}" for value in pair)
    return low if low == high else f"{low}-{high}"
