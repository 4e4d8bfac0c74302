"""What the tests of results share: a module opened beside the views, with the stub methods and a trained model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer
import views
from panel_tools import ROOT, SLUG, until
from window_tools import opened

from MedGenLib.selftest import add_drawing, add_volume

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


@pytest.fixture
def image(layout: views.LayoutManager) -> Any:
    """A volume in the views."""
    volume = add_volume()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return volume


@pytest.fixture
def widget(image: Any, home: Path, said: list[str]) -> Iterator[Any]:
    """MedGen Segmentation with the threshold method, a model of it, and its volume chosen."""
    with opened(ROOT / "MedGenSegmentation" / "MedGenSegmentation.py") as shown:
        panel = shown.panel
        panel.method.combo.currentIndex = panel.method.slugs.index(SLUG)
        drawn = add_drawing(image)
        shown.logic.process(SLUG, "train", {"image": image, "mask": drawn}, name="ball", in_process=True)
        slicer.mrmlScene.RemoveNode(drawn)
        shown.enter()
        assert panel.parameters().nodes("image") == [image]
        yield shown


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
