"""The files below a folder, in an order that does not change. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

DEEPEST = 32  # folders below folders that are looked into


def files(folder: Path, skip: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """Every file below a folder, by name; hidden ones, and folders for which `skip` holds, are left out.

    Links are followed, each folder once however many lead to it. What cannot be listed is passed over.
    """
    seen: set[tuple[int, int]] = set()

    def walk(place: Path, depth: int) -> Iterator[Path]:
        try:
            status = place.stat()
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            return
        if (status.st_dev, status.st_ino) in seen or depth > DEEPEST or skip(place):
            return
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from walk(place / entry.name, depth + 1)
            elif entry.is_file():
                yield place / entry.name

    yield from walk(folder, 0)
