"""Takes docs/pictures/panel.png: the flagship through the panel, by clicks, on the Qt stand-in and a real CT.

    python Utilities/take_panel_picture.py VOLUME MASK PICTURE [--tier demo] [--slices 6]

VOLUME and MASK (the whole structure) are images; the mask is kept on a few axial slices only, as a person would draw
it. Trains for minutes at the demo tier. Prints times, and Dice off the annotated slices.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "Testing" / "StandIn"), str(ROOT)]

import numpy as np  # noqa: E402
import slicer_standin  # noqa: E402
import views  # noqa: E402

app = slicer_standin.start()

import slicer  # noqa: E402
import slicer.util  # noqa: E402

from MedGenLib.selftest import dice  # noqa: E402


def main() -> None:
    """Load, draw, mark, train, apply, measure, picture."""
    parser = argparse.ArgumentParser(description="Take a picture of the panel and the views.")
    parser.add_argument("volume", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--tier", default="demo")
    parser.add_argument("--slices", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["MEDGEN_HOME"] = home
        take(arguments)


def take(arguments: argparse.Namespace) -> None:
    """The clicks."""
    app.layout_manager = views.LayoutManager()
    volume = slicer.util.loadVolume(str(arguments.volume), {"name": "CT"})
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    truth, drawing, chosen = draw(arguments.mask, volume, arguments.slices)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    module = slicer_standin.load_module(ROOT / "MedGenSegmentation" / "MedGenSegmentation.py")
    outer = module.widgetRepresentation()
    outer.resize(500, 900)
    outer.show()
    outer.self().enter()
    panel = outer.self().panel
    panel.parameters().set_text("tier", arguments.tier)
    red = app.layout_manager.sliceWidget("Red").mrmlSliceNode()
    panel.slices.view.currentIndex = 0
    for k in chosen:
        red.SetSliceOffset(height(volume, k))
        panel.slices.mark_button.click()
    wait(lambda: panel.estimator.done)
    print(panel.train.estimate.text)
    for button in (panel.train.train, panel.apply.apply):
        began = time.monotonic()
        button.click()
        wait(lambda: not panel.poller.busy)
        print(f"{panel.run.status.text} {time.monotonic() - began:.0f} s")
    result = slicer.util.getNode("CT mask")
    found = labels(result, volume)
    off = np.ones(len(truth), bool)
    off[chosen] = False
    print(f"Dice off the annotated slices: {dice(found[off], truth[off]):.4f}")
    drawing.GetDisplayNode().SetVisibility(False)
    result.CreateClosedSurfaceRepresentation()
    red.SetSliceOffset(height(volume, int(chosen[len(chosen) // 2 - 1 : len(chosen) // 2 + 1].mean())))
    app.layout_manager.picture(outer, arguments.picture)
    outer.self().cleanup()


def draw(path: Path, volume: Any, count: int) -> tuple[np.ndarray, Any, np.ndarray]:
    """(k, j, i) truth, a segmentation of it on `count` slices only, and which."""
    whole = slicer.util.loadSegmentation(str(path), {"name": "truth"})
    truth = labels(whole, volume)
    slicer.mrmlScene.RemoveNode(whole)
    inside = np.nonzero(truth.any(axis=(1, 2)))[0]
    chosen = np.linspace(inside[0] + 2, inside[-1] - 2, count).round().astype(int)
    drawing = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Drawn")
    drawing.CreateDefaultDisplayNodes()
    drawing.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = drawing.GetSegmentation().AddEmptySegment("structure", "structure", [0.4, 0.75, 0.95])
    kept = np.zeros(truth.shape, np.uint8)
    kept[chosen] = truth[chosen]
    slicer.util.updateSegmentBinaryLabelmapFromArray(kept, drawing, segment, volume)
    return truth, drawing, chosen


def labels(segmentation: Any, volume: Any) -> np.ndarray:
    """(k, j, i) where the first segment is."""
    first = segmentation.GetSegmentation().GetNthSegmentID(0)
    return np.asarray(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, first, volume) > 0)


def height(volume: Any, k: int) -> float:
    """S of an axial slice, mm."""
    return float(volume.GetOrigin()[2] + k * volume.GetSpacing()[2])


def wait(condition: Callable[[], bool]) -> None:
    """Let timers and processes work."""
    while not condition():
        app.processEvents()
        time.sleep(0.02)


if __name__ == "__main__":
    main()
