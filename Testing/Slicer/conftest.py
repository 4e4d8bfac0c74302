"""Tests on the real MRML runtime (slicer-core): a fresh scene for each, and no error that goes unseen."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "Testing" / "StandIn", Path(__file__).parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
os.environ.setdefault("OMP_NUM_THREADS", "1")

if importlib.util.find_spec("slicer") is None:
    collect_ignore_glob = ["test_*.py"]  # without slicer-core there is nothing to test against
else:
    import boot


@pytest.fixture()
def scene() -> Any:
    """`slicer.mrmlScene`, empty but for Slicer's own singletons."""
    return boot.fresh_scene()


@pytest.fixture()
def layout(scene: Any) -> Iterator[Any]:
    """Red, Yellow, Green and a 3D view, over an empty scene."""
    from window_tools import four_views

    with four_views() as shown:
        yield shown


@pytest.fixture()
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What error dialogs said."""
    import slicer.util

    messages: list[str] = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: messages.append(text))
    return messages


@pytest.fixture()
def pictures(tmp_path: Path) -> Path:
    """Where pictures go: MEDGEN_PICTURES, else a temporary folder."""
    return Path(os.environ.get("MEDGEN_PICTURES") or tmp_path / "pictures")


@pytest.fixture(autouse=True)
def errors_in_callbacks_fail(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """An exception in a VTK observer or a Qt slot is only printed by its caller; here it fails the test."""
    caught: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, value, trace: caught.append(value))
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: caught.append(raised.exc_value))
    yield caught
    assert not caught, f"raised inside a callback: {caught!r}"
