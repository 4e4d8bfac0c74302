"""Placeholder until the helper's branch is merged."""

from pathlib import Path
from typing import Any


def write(given: Any, result: Any, operation: Any, path: Path) -> bool:
    return False
