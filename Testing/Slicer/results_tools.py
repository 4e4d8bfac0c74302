"""What the tests of results share: a module opened beside the views, with the stub methods and a trained model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer
import slicer_standin
import views
from panel_tools import ROOT, SLUG, until

from MedGenLib.selftest import add_drawing, add_volume
from MedGenLib.takeback import history

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go: MEDGEN_PICTURES, else a temporary folder."""
    return Path(os.environ.get("MEDGEN_PICTURES") or tmp_path / "pictures")


@pytest.fixture
def layout(scene: Any) -> Iterator[views.LayoutManager]:
    """Red, Yellow, Green and a 3D view."""
    app = slicer_standin.start()
    app.layout_manager = views.LayoutManager()
    history.steps.clear()
    yield app.layout_manager
    app.layout_manager.close()
    app.layout_manager = None


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What error dialogs said."""
    messages: list[str] = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: messages.append(text))
    return messages


@pytest.fixture
def image(layout: views.LayoutManager) -> Any:
    """A volume in the views."""
    volume = add_volume()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return volume


@pytest.fixture
def widget(image: Any, home: Path, said: list[str]) -> Iterator[Any]:
    """MedGen Segmentation with the threshold method, a model of it, and its volume chosen."""
    outer = slicer_standin.load_module(ROOT / "MedGenSegmentation" / "MedGenSegmentation.py").widgetRepresentation()
    outer.resize(470, 900)
    outer.show()
    panel = outer.self().panel
    panel.method.combo.currentIndex = panel.method.slugs.index(SLUG)
    drawn = add_drawing(image)
    outer.self().logic.process(SLUG, "train", {"image": image, "mask": drawn}, name="ball", in_process=True)
    slicer.mrmlScene.RemoveNode(drawn)
    outer.self().enter()
    assert panel.parameters().nodes("image") == [image]
    yield outer.self()
    outer.self().cleanup()
    outer.close()
    outer.deleteLater()
    slicer.app.processEvents()


def room(panel: Any, name: str) -> Any:
    """A room of a panel by its class."""
    return next(one for one in panel.rooms if type(one).__name__ == name)


def apply(panel: Any, operation: int = 0) -> None:
    """Choose an operation, press its button and wait for its end."""
    panel.apply.operation.currentIndex = operation
    assert panel.apply.apply.enabled, panel.apply.apply.toolTip
    panel.apply.apply.click()
    until(lambda: not panel.poller.busy)
    assert "done" in panel.run.status.text, panel.run.status.text
