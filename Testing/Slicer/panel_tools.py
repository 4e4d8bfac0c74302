"""What the tests of Logic and panel share: the stub method's catalog and a home for its models."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slicer

from MedGenLib import jobqueue

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SLUG = "stub-threshold"


@pytest.fixture(scope="session")
def stub_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stub methods' catalog.json."""
    from medgen import catalog

    path = tmp_path_factory.mktemp("catalog") / "stubs.json"
    path.write_text(catalog.build(["panel_stubs.threshold", "panel_stubs.example"]), encoding="utf-8")
    return path


@pytest.fixture
def home(stub_catalog: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The stub method stands in the catalog; models live in a folder of the test's own; no job outlives the test."""
    monkeypatch.setenv("MEDGEN_CATALOG", str(stub_catalog))
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{ROOT}")
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    jobqueue.line().close()
    slicer.medgenSession.__dict__.update(listeners=[], at_once=1, pace={}, batches=[])


def node_count() -> int:
    """Nodes in the scene."""
    return int(slicer.mrmlScene.GetNumberOfNodes())


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Let timers and processes work until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        if hasattr(slicer, "app"):
            slicer.app.processEvents()
        time.sleep(0.02)
