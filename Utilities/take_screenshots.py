"""Take docs/screenshots: every state of the panel, by clicks, on the Qt stand-in and Slicer's own runtime.

    python Utilities/take_screenshots.py [--tier demo] [--only segmentation synthesis landmarks]

The patients are the synthetic ones of Sample Data. At the demo tier this takes some ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
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

from medgen import phantoms  # noqa: E402
from MedGenLib import jobqueue, sampledata  # noqa: E402
from MedGenLib.load import load_result  # noqa: E402

WIDTH = 480  # pixels: as wide as Slicer's module panel is for most people
MODULES = ("segmentation", "synthesis", "landmarks")


def until(condition: Callable[[], object], seconds: float = 1200.0) -> None:
    """Let timers and processes work."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it did not happen")
        app.processEvents()
        time.sleep(0.02)


class Camera:
    """One module opened on its phantom."""

    def __init__(self, module: str, tier: str, folder: Path) -> None:
        self.name, self.folder = module, folder
        slicer.mrmlScene.Clear()
        app.layout_manager = views.LayoutManager()
        file = ROOT / f"MedGen{module.capitalize()}" / f"MedGen{module.capitalize()}.py"
        self.outer = slicer_standin.load_module(file).widgetRepresentation()
        self.outer.resize(WIDTH, 900)
        self.outer.show()
        self.widget = self.outer.self()
        self.widget.enter()
        self.panel = self.widget.panel
        self.room("UntrainedRoom").phantom.click()
        self.panel.parameters().set_text("tier", tier)
        slicer.util.setSliceViewerLayers(background=self.node("vtkMRMLScalarVolumeNode"), fit=True)

    def room(self, kind: str) -> Any:
        """A section of the panel by its class."""
        return next(room for room in self.panel.rooms if type(room).__name__ == kind)

    def node(self, kind: str, number: int = 0) -> Any:
        """The n-th node of a class in the scene."""
        return slicer.mrmlScene.GetNthNodeByClass(number, kind)

    def sections(self) -> dict[str, Any]:
        """Collapsible sections by name."""
        panel = self.panel
        found = {"Method": panel.method, "Settings": panel.settings, "Train": panel.train}
        found |= {"Apply": panel.apply, "Progress": panel.run}
        buttons = {name: one.button for name, one in found.items()} | {"Inputs": panel.inputs_button}
        rooms = {type(room).__name__: room.button for room in panel.rooms if hasattr(room, "button")}
        return buttons | rooms

    def take(self, state: str, *opened: str) -> None:
        """A picture with these sections open and all others folded."""
        for name, button in self.sections().items():
            button.collapsed = name not in opened
        for _ in range(3):
            app.processEvents()
        self.outer.resize(WIDTH, 200)
        path = self.folder / f"{self.name}-{state}.png"
        app.layout_manager.picture(self.outer, path)
        print(path, flush=True)

    def press(self, button: Any) -> None:
        """Click, once it can be clicked."""
        until(lambda: button.enabled)
        button.click()

    def idle(self) -> None:
        """Until the line is empty."""
        until(lambda: not jobqueue.line().busy)

    def close(self) -> None:
        """Leave no view and no panel behind."""
        self.widget.cleanup()
        self.outer.close()
        app.layout_manager.close()
        app.layout_manager = None


def segmentation(camera: Camera) -> None:
    """All eleven states."""
    panel, image = camera.panel, camera.node("vtkMRMLScalarVolumeNode")
    until(lambda: panel.estimator.done)
    centre_on(camera.node("vtkMRMLSegmentationNode"))
    camera.take("ready", "Method", "Inputs", "Train")
    train(camera)
    camera.take("models", "ModelsRoom")
    preflight_red(camera, image)
    until(lambda: panel.apply.apply.enabled)
    run_and(camera, lambda run: None, "running")
    camera.idle()
    before = result_names()
    camera.room("ResultsRoom").surfaces.checked = True
    show_result()
    camera.take("done", "Apply", "Progress", "ResultsRoom")
    assert before
    run_and(camera, lambda run: panel.run.cancel.click(), None)
    camera.idle()
    camera.take("cancelled", "Apply", "Progress")
    run_and(camera, kill, None)
    camera.idle()
    camera.take("failed", "Apply", "Progress")
    compare(camera, truth(image))
    doctor = camera.room("DoctorRoom")
    doctor.button.collapsed = False
    until(lambda: doctor.report.plainText)
    camera.take("doctor", "DoctorRoom")
    queue(camera)


def train(camera: Camera) -> None:
    """Train; with segmentation, a picture on the way."""
    panel, watch = camera.panel, camera.room("TrainWatch")
    camera.press(panel.train.train)
    if camera.name == "segmentation":
        until(lambda: watch.curve is not None and watch.curve.chart is not None and watch.curve_button.enabled)
        until(lambda: not panel.poller.busy or (panel.run.bar.value > 0.4 * panel.run.bar.maximum))
        until(lambda: not panel.poller.busy or watch.preview.shown is not None)
        if watch.curve_button.enabled:
            watch.curve_button.click()
        camera.take("training", "Train", "TrainWatch", "Progress")
        if watch.curve_button.enabled:
            watch.curve_button.click()
    camera.idle()


def preflight_red(camera: Camera, image: Any) -> None:
    """A volume with values that are not numbers is chosen for a moment."""
    broken = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, image, "Volume with holes")
    array = slicer.util.arrayFromVolume(broken).astype(np.float32)
    array[: len(array) // 8] = np.nan
    slicer.util.updateVolumeFromArray(broken, array)
    camera.panel.parameters().set_nodes("image", [broken])
    camera.take("preflight-red", "Inputs", "PreflightRoom", "Apply")
    camera.panel.parameters().set_nodes("image", [image])
    slicer.mrmlScene.RemoveNode(broken)


def run_and(camera: Camera, then: Callable[[Any], None], state: str | None) -> None:
    """Apply, and do something, or take a picture, as soon as it says how far it is."""
    panel = camera.panel
    camera.press(panel.apply.apply)

    def going() -> bool:
        return any(job.state == jobqueue.RUNNING and job.progress for job in jobqueue.line().jobs)

    until(lambda: going() or not panel.poller.busy)
    if state:
        camera.take(state, "Apply", "Progress", "QueueRoom")
    running = [job for job in jobqueue.line().jobs if job.state == jobqueue.RUNNING]
    if running:
        then(running[-1].run)


def kill(run: Any) -> None:
    """As a system that runs out of memory ends a process."""
    os.killpg(run._job._process.pid, signal.SIGKILL)


def truth(image: Any) -> Any:
    """The whole structure of the phantom, as a segmentation."""
    sample = next(sample for sample in sampledata.SAMPLES if sample.module == "MedGenSegmentation")
    phantom = sample.phantom.removesuffix("-drawn")
    with tempfile.TemporaryDirectory() as folder:
        table = phantoms.write(phantoms.PHANTOMS[phantom], 1, 0, Path(folder) / phantom)
        with table.open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
        whole = load_result(table.parent / row["mask"], "Mask", "Truth", reference=image)
    segments = whole.GetSegmentation()
    for identity in list(segments.GetSegmentIDs()):
        if segments.GetSegment(identity).GetName() != "liver":
            segments.RemoveSegment(identity)
    return whole


def compare(camera: Camera, reference: Any) -> None:
    """The result with the truth."""
    room = camera.room("CompareRoom")
    masks = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    results = [node for node in masks if node.GetAttribute("MedGen.run")]
    room.first.setCurrentNode(results[-1])
    room.second.setCurrentNode(reference)
    camera.press(room.compare)
    until(lambda: not room.busy)
    room.map.click()
    camera.take("compare", "CompareRoom")
    room.map.click()
    reference.GetDisplayNode().SetVisibility(False)


def queue(camera: Camera) -> None:
    """Three runs in the line."""
    for _ in range(3):
        camera.press(camera.panel.apply.apply)
    until(lambda: any(job.state == jobqueue.RUNNING and job.progress for job in jobqueue.line().jobs))
    camera.take("queue", "Apply", "QueueRoom")
    camera.idle()


def two_states(camera: Camera) -> None:
    """Ready and done."""
    until(lambda: camera.panel.estimator.done)
    if camera.name == "landmarks":
        centre_on(camera.node("vtkMRMLSegmentationNode"))
    camera.take("ready", "Method", "Inputs", "Train")
    train(camera)
    camera.press(camera.panel.apply.apply)
    until(lambda: camera.panel.poller.busy or result_names())
    camera.idle()
    if camera.name == "landmarks":
        alone()
        camera.room("ResultsRoom").jump.click()
    camera.take("done", "Inputs", "PreflightRoom", "Apply", "Progress", "ResultsRoom")


def result_names() -> list[str]:
    """Names of the results in the scene."""
    nodes = [slicer.mrmlScene.GetNthNode(number) for number in range(slicer.mrmlScene.GetNumberOfNodes())]
    return [node.GetName() for node in nodes if node.GetAttribute("MedGen.run")]


def alone() -> None:
    """Only results are shown, of points and segmentations."""
    for kind in ("vtkMRMLSegmentationNode", "vtkMRMLMarkupsFiducialNode"):
        for node in slicer.util.getNodesByClass(kind):
            node.GetDisplayNode().SetVisibility(bool(node.GetAttribute("MedGen.run")))


def show_result() -> None:
    """The newest segmentation alone in the views."""
    found = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    for node in found:
        node.GetDisplayNode().SetVisibility(node is found[-1])
    centre_on(found[-1])


def centre_on(node: Any) -> None:
    """All slices through the middle of a segmentation."""
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    for name in app.layout_manager.sliceViewNames():
        view = app.layout_manager.sliceWidget(name).mrmlSliceNode()
        view.JumpSliceByOffsetting(*((bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)))


def main() -> None:
    """The pictures of the chosen modules."""
    parser = argparse.ArgumentParser(description="Take docs/screenshots.")
    parser.add_argument("--tier", default="demo")
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "screenshots")
    arguments = parser.parse_args()
    slicer.util.errorDisplay = lambda text, **options: print(f"shown: {text}")
    slicer.util.confirmYesNoDisplay = lambda text, **options: True
    for module in arguments.only:
        with tempfile.TemporaryDirectory() as home:
            os.environ["MEDGEN_HOME"] = home
            camera = Camera(module, arguments.tier, arguments.folder)
            (segmentation if module == "segmentation" else two_states)(camera)
            camera.close()


if __name__ == "__main__":
    main()
