"""MedGen Synthesis and MedGen Landmarks with their real methods, by clicks on Sample Data; pictures of the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import slicer
import slicer_standin
import views
from panel_tools import ROOT, until

from MedGenLib import sampledata
from MedGenLib.load import provenance_of


@pytest.fixture
def opened(scene: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Opens a module with the views beside it; gives its Widget."""
    monkeypatch.delenv("MEDGEN_CATALOG", raising=False)
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    app = slicer_standin.start()
    app.layout_manager = views.LayoutManager()
    shown = []

    def open_module(name: str) -> Any:
        outer = slicer_standin.load_module(ROOT / name / f"{name}.py").widgetRepresentation()
        outer.resize(470, 1000)
        outer.show()
        outer.self().enter()
        shown.append(outer)
        return outer.self()

    yield open_module
    for outer in shown:
        outer.self().cleanup()
        outer.close()
        outer.deleteLater()
    app.processEvents()
    app.layout_manager.close()
    app.layout_manager = None


def sample(module: str) -> list[Any]:
    (found,) = [one for one in sampledata.SAMPLES if one.module == module]
    return sampledata.load_sample(found)


def choose(panel: Any, **nodes: Any) -> None:
    for role, node in nodes.items():
        panel.selectors.selectors[role.replace("__", ".")].setCurrentNode(node)


def train_and_apply(panel: Any) -> None:
    panel.settings.tier.currentIndex = 0
    until(lambda: panel.estimator.done, 60)
    assert panel.train.train.enabled, panel.train.train.toolTip
    panel.train.train.click()
    until(lambda: not panel.poller.busy, 120)
    assert panel.apply.apply.enabled, panel.run.log.plainText
    panel.apply.apply.click()
    until(lambda: not panel.poller.busy, 120)
    assert "done" in panel.run.status.text, panel.run.status.text


def test_a_synthetic_ct_by_clicks(opened: Callable[[str], Any], pictures: Path) -> None:
    mr, ct = sample("MedGenSynthesis")
    widget = opened("MedGenSynthesis")
    panel = widget.panel
    choose(panel, mr=mr, ct=ct)
    train_and_apply(panel)
    result = slicer.util.getNode("Synthetic head MR ct")
    values = slicer.util.arrayFromVolume(result)
    assert values.shape == slicer.util.arrayFromVolume(mr).shape and values.min() >= -1024
    assert provenance_of(result)["method"] == panel.entry["slug"]
    assert "Pairs: 1" in panel.apply.card.text
    slicer.app.layout_manager.picture(widget.parent, pictures / "synthesis.png")


def test_landmarks_by_clicks_with_their_privacy_said(opened: Callable[[str], Any], pictures: Path) -> None:
    image, mask, points, other, other_mask, target = sample("MedGenLandmarks")
    widget = opened("MedGenLandmarks")
    panel = widget.panel
    assert panel.entry["slug"] == "one-shot-landmarks"  # what the sample is for, whichever method stands first
    assert "treat them as patient data" in panel.method.card.text
    chosen = {"reference__image": image, "reference__mask": mask, "reference__landmarks": points}
    choose(panel, **chosen, validation__image=other, validation__mask=other_mask, image=target)
    train_and_apply(panel)
    assert "Contains patient data" in panel.apply.card.text
    assert "treat it as patient data" in panel.train.estimate.text
    result = slicer.util.getNode("Ear to mark landmarks")
    assert result.GetNumberOfControlPoints() == points.GetNumberOfControlPoints()
    bounds = [0.0] * 6
    target.GetRASBounds(bounds)
    places = np.array([result.GetNthControlPointPositionWorld(index) for index in range(3)])
    assert (places > bounds[0::2]).all() and (places < bounds[1::2]).all()
    slicer.app.layout_manager.picture(widget.parent, pictures / "landmarks.png")
