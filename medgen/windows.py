"""What a setting marked `medgen.method.memory_window` stands for, and its half. Standard library: a panel asks too."""

from __future__ import annotations

from typing import Any


def in_use(value: int, mark: dict[str, Any], trained: dict[str, Any]) -> int:
    """The window in use: the setting's value, or where that is 0 the setting of the model's training it stands for.

    trained: the model's config; empty without one.
    """
    return value or int(trained.get(str(mark.get("at_zero")), 0))


def halved(now: int, mark: dict[str, Any]) -> int:
    """Half a window, a multiple of the mark's step, but not below its least: then what it is now."""
    step = int(mark["step"])
    return min(now, max(int(mark["least"]), now // 2 // step * step))
