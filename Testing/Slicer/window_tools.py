"""What tests of panels share: the views, and a module that is opened and closed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import slicer
import slicer_standin
import views

from MedGenLib.takeback import history


@contextlib.contextmanager
def four_views() -> Iterator[views.LayoutManager]:
    """Red, Yellow, Green and a 3D view."""
    app = slicer_standin.start()
    app.layout_manager = views.LayoutManager()
    history.steps.clear()
    yield app.layout_manager
    app.layout_manager.close()
    app.layout_manager = None


@contextlib.contextmanager
def opened(module: Path) -> Iterator[Any]:
    """A module's Widget, as wide as Slicer shows it; not entered yet."""
    outer = slicer_standin.load_module(module).widgetRepresentation()
    outer.resize(470, 900)
    outer.show()
    yield outer.self()
    outer.self().cleanup()
    outer.close()
    outer.deleteLater()
    slicer.app.processEvents()
