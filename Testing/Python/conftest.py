"""Fixtures of the backend's tests: the stub methods' catalog, the real images."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from backend_tools import DATA, HERE, ROOT, STUBS

from medgen import catalog


@pytest.fixture(scope="session")
def stub_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """catalog.json of the four stub methods."""
    path = tmp_path_factory.mktemp("catalog") / "stubs.json"
    path.write_text(catalog.build(STUBS), encoding="utf-8")
    return path


@pytest.fixture
def stubs(stub_catalog: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stub methods stand in the catalog, models live in a folder of the test's own."""
    monkeypatch.setenv("MEDGEN_CATALOG", str(stub_catalog))
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{ROOT}")
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def data() -> Path:
    """The folder of real images; skips where it is not."""
    if not DATA.is_dir():
        pytest.skip("the real images in ../shared/data are not here")
    return DATA
