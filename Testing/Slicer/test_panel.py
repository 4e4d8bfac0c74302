"""The panel on the Qt stand-in and the real MRML scene, driven by clicks; runs are real processes."""

from __future__ import annotations

import errno
import html
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import qt
import slicer
import slicer_standin
import views
from panel_tools import ROOT, SLUG, home, node_count, stub_catalog, until  # noqa: F401
from window_tools import opened

from medgen import catalog
from MedGenLib import annotation, estimate, install, plan
from MedGenLib.load import provenance_of
from MedGenLib.parameters import Parameters
from MedGenLib.selectors import RoleSelectors
from MedGenLib.selftest import SLICES, add_drawing, add_planes, add_volume, ball, dice, labels_of

MODULE = ROOT / "MedGenSegmentation" / "MedGenSegmentation.py"


@pytest.fixture
def case(layout: views.LayoutManager) -> dict[str, Any]:
    """A volume drawn on a few slices, in the views."""
    volume = add_volume()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    return {"image": volume, "mask": add_drawing(volume)}


@pytest.fixture
def widget(case: dict[str, Any], home: Path, said: list[str]) -> Iterator[Any]:  # noqa: F811
    """The module's Widget, opened with the case's nodes in the scene."""
    with opened(MODULE) as shown:
        method = shown.panel.method
        method.combo.currentIndex = method.slugs.index(SLUG)
        shown.enter()
        yield shown


def choose(panel: Any, **nodes: Any) -> None:
    for role, node in nodes.items():
        panel.selectors.selectors[role].setCurrentNode(node)


def mark(panel: Any, volume: Any, slices: tuple[int, ...] = SLICES) -> None:
    """Scroll Red to each drawn slice and press the button."""
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    panel.slices.view.currentIndex = 0
    for k in slices:
        red.SetSliceOffset(-36 + 3 * k)
        panel.slices.mark_button.click()


def test_from_drawn_slices_to_a_segmented_volume_by_clicks(
    widget: Any, case: dict[str, Any], layout: views.LayoutManager, pictures: Path, said: list[str]
) -> None:
    panel = widget.panel
    assert panel.parameters().nodes("image") == [case["image"]]  # the only volume is taken
    until(lambda: "4 min" in panel.train.estimate.text)
    assert "(cpu)" in panel.train.estimate.text
    assert panel.slices.suggestion.visible and "7 slices" in panel.slices.suggestion_text.text
    (first, *_others), red = panel.slices.suggestion_buttons, annotation.slice_nodes()[0]
    assert len(panel.slices.suggestion_buttons) == 7
    assert first.parentWidget().findChild(qt.QLabel).text == "Axial I 18.0 mm"
    first.click()  # each can be looked at before it is confirmed
    assert round(red.GetSliceOffset()) == -18 and panel.slices.planes() == []
    assert not panel.train.train.enabled and "Confirm" in panel.train.train.toolTip
    assert not panel.apply.apply.enabled and "train" in panel.apply.apply.toolTip
    layout.picture(widget.parent, pictures / "panel_suggested.png")

    panel.slices.confirm_button.click()
    planes = panel.slices.planes()
    assert [round((plane.GetOriginWorld()[2] + 36) / 3) for plane in planes] == list(SLICES)
    panel.settings.tier.currentIndex = 0
    until(lambda: panel.estimator.done)
    assert panel.train.train.enabled
    panel.train.name.text = "ball"
    panel.train.train.click()
    assert panel.run.cancel.enabled and panel.train.train.text == "Train (waits in line)"
    until(lambda: not panel.poller.busy)
    assert said == []
    assert panel.apply.model.currentText == "ball" and "7 slices of one volume" in panel.apply.card.text

    panel.apply.apply.click()
    until(lambda: not panel.poller.busy)
    assert said == []
    result = slicer.util.getNode("CT mask")
    assert dice(labels_of(result, case["image"]), ball()) > 0.95
    assert provenance_of(result)["method"] == SLUG
    assert "CT mask" in panel.run.status.text
    composite = layout.sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == case["image"].GetID()
    case["mask"].GetDisplayNode().SetVisibility(False)
    result.CreateClosedSurfaceRepresentation()
    layout.resetThreeDViews()
    layout.picture(widget.parent, pictures / "panel_result.png")


def test_marking_a_slice_makes_a_plane_that_lists_jumps_and_goes(widget: Any, case: dict[str, Any]) -> None:
    panel = widget.panel
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    red.SetSliceToRASByNTP(0.3, 0.2, 0.93, 1, 0, -0.32, 4.0, -2.0, 1.5, 0)  # oblique
    wanted = annotation.frame_of_slice(red)
    slicer.app.processEvents()
    panel.slices.mark_button.click()
    assert not panel.slices.note.visible
    panel.slices.mark_button.click()  # the same slice again
    (plane,) = panel.slices.planes()
    assert panel.slices.note.visible and plane.GetName() in panel.slices.note.text
    found = annotation.frame_of_plane(plane)
    assert np.allclose(found, wanted, atol=1e-4)
    assert plane.GetName().startswith("Oblique")
    assert not plane.GetDisplayNode().GetVisibility()

    red.SetOrientation("Axial")
    red.SetSliceOffset(0)
    show, remove = panel.slices.row_buttons[0]
    show.click()
    views_now = [annotation.frame_of_slice(node) for node in annotation.slice_nodes()]
    assert any(annotation.same_plane(frame, wanted) for frame in views_now)
    remove.click()
    assert panel.slices.planes() == [] and panel.slices.row_buttons == []
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsPlaneNode") == 0


def test_neighbouring_slices_of_a_fine_volume_are_two(widget: Any, case: dict[str, Any]) -> None:
    panel = widget.panel
    case["image"].SetSpacing(0.01, 0.01, 0.01)
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    for offset in (0.0, 0.01, 0.011):
        red.SetSliceOffset(offset)
        panel.slices.mark_button.click()
    assert len(panel.slices.planes()) == 2


def test_train_waits_for_the_time_and_a_setting_writes_no_file_again(
    widget: Any, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = widget.panel
    written: list[Any] = []

    def note(operation: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        written.append(inputs)
        return plan.export_inputs(operation, inputs, *rest)

    monkeypatch.setattr(estimate, "export_inputs", note)
    mark(panel, case["image"], (12,))
    assert not panel.train.train.enabled and "Estimating" in panel.train.train.toolTip
    until(lambda: panel.estimator.done)
    assert panel.train.train.enabled and len(written) == 1
    panel.settings.forms["train"].fields["steps"].widget.value = 3
    assert not panel.train.train.enabled
    until(lambda: panel.estimator.done)
    assert panel.estimator.found and len(written) == 1
    panel.refresh()
    assert panel.estimator.done  # nothing has changed
    drawn = np.ones_like(labels_of(case["mask"], case["image"]))
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, case["mask"], "ball", case["image"])
    widget.exit()
    widget.enter()
    assert not panel.estimator.done
    until(lambda: panel.estimator.done)
    assert len(written) == 2


def test_models_are_read_from_disk_when_they_may_have_changed(widget: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(widget.logic, "models", lambda slug: read.append(slug) or [])
    for name in ("a", "b", "c"):
        widget.panel.train.name.text = name
    assert read == []
    widget.enter()
    assert read == [SLUG]


def test_a_role_of_many_volumes_shows_which_are_chosen(layout: views.LayoutManager) -> None:
    volumes = [add_volume("A"), add_volume("B")]
    chosen = Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    role = {"name": "images", "kind": "Image", "many": True, "optional": False, "help": "", "modality": None}
    selectors = RoleSelectors([{**role, "dims": None, "units": None}], lambda: chosen)
    for nodes in (volumes, volumes[1:], []):
        chosen.set_nodes("images", nodes)
        selectors.show(chosen)
        assert list(selectors.selectors["images"].checkedNodes()) == nodes
    selectors.selectors["images"].setCheckState(volumes[0], qt.Qt.Checked)
    assert chosen.nodes("images") == volumes[:1]


def test_a_plane_deleted_elsewhere_leaves_the_list(widget: Any, case: dict[str, Any]) -> None:
    panel = widget.panel
    mark(panel, case["image"], (8, 12))
    slicer.mrmlScene.RemoveNode(panel.slices.planes()[0])
    assert len(panel.slices.planes()) == len(panel.slices.row_buttons) == 1


def test_cancel_ends_the_run_and_resume_is_offered(
    widget: Any, case: dict[str, Any], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = widget.panel
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, **options: "long" in text)
    mark(panel, case["image"], (12,))
    panel.parameters().set_setting("train", "steps", 500)
    panel.parameters().set_setting("train", "pause", 0.05)
    panel.train.name.text = "long"
    until(lambda: panel.train.train.enabled)
    panel.train.train.click()
    until(lambda: "left" in panel.run.status.text)
    assert panel.run.bar.maximum == 500
    panel.run.cancel.click()
    until(lambda: not panel.poller.busy)
    assert panel.run.status.text == "Cancelled." and said == []
    assert panel.train.interrupted.visible and "long" in panel.train.interrupted_text.text
    panel.train.resume.click()
    until(lambda: "left" in panel.run.status.text)
    panel.poller.run.kill()
    until(lambda: not panel.poller.busy)
    panel.train.discard.click()
    assert not panel.train.interrupted.visible


def test_an_error_is_one_plain_message_and_the_scene_stays(widget: Any, case: dict[str, Any], said: list[str]) -> None:
    panel = widget.panel
    mark(panel, case["image"], (12,))
    until(lambda: panel.train.train.enabled)
    panel.estimator.forget()
    before = node_count()
    panel.parameters().set_setting("train", "steps", 0)
    panel._on_train()
    until(lambda: not panel.poller.busy)
    assert len(said) == 1 and "steps" in said[0] and "\n" not in said[0] and "Traceback" not in said[0]
    assert panel.run.status.text == said[0]
    assert node_count() == before
    assert "#b02020" in panel.run.status.styleSheet
    for go_on in (
        lambda: panel.run.begin("Train"),
        lambda: panel.run.progress("Train", {"total": 2, "done": 1, "stage": "fit"}),
        lambda: panel.run.say("Train: waits in line."),
    ):
        panel._say_failed(said[0])
        go_on()
        assert panel.run.status.styleSheet == ""  # what failed before is no longer spoken of


def test_no_wait_cursor_stands_over_an_error(
    widget: Any, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = widget.panel
    cursors: list[Any] = []
    monkeypatch.setattr(
        slicer.util, "errorDisplay", lambda text, **options: cursors.append(qt.QApplication.overrideCursor())
    )

    def full(*words: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/full")

    monkeypatch.setattr(widget.logic, "process", full)
    panel._on_train()
    assert cursors == [None] and panel.run.status.text.startswith("No space is left for /full")


def test_an_empty_drawing_keeps_train_closed_and_says_why(widget: Any, case: dict[str, Any]) -> None:
    panel = widget.panel
    empty = add_drawing(case["image"], slices=(), name="Nothing drawn")
    choose(panel, mask=empty)
    until(lambda: panel.estimator.done)
    assert not panel.train.train.enabled
    assert "empty" in panel.train.train.toolTip and panel.train.train.toolTip == panel.train.estimate.text


def test_settings_are_made_from_declarations_and_follow_the_preset(widget: Any) -> None:
    panel = widget.panel
    fields = panel.settings.forms["train"].fields
    assert fields["steps"].widget.value == 4 and fields["learning_rate"].widget.text == "1e-05"
    assert "In the paper: 400" in fields["steps"].widget.toolTip
    panel.settings.tier.currentIndex = 2
    assert fields["steps"].widget.value == 400
    fields["steps"].widget.value = 7
    fields["rule"].widget.currentIndex = 1
    fields["smooth"].widget.checked = True
    fields["learning_rate"].widget.text = "0.5"  # more than allowed
    fields["learning_rate"].widget.editingFinished.emit()
    assert panel.parameters().settings("train") == {"steps": 7, "rule": "otsu", "smooth": True}
    assert fields["learning_rate"].widget.styleSheet
    fields["window"].widget.text = "[10, 20]"
    fields["window"].widget.editingFinished.emit()
    assert panel.parameters().settings("train")["window"] == [10, 20]
    panel.settings.tier.currentIndex = 0
    assert panel.parameters().settings("train") == {} and fields["steps"].widget.value == 2


def test_a_saved_scene_restores_the_panel(widget: Any, case: dict[str, Any], tmp_path: Path) -> None:
    panel = widget.panel
    mark(panel, case["image"], (8, 12))
    panel.settings.tier.currentIndex = 2
    panel.settings.forms["train"].fields["steps"].widget.value = 9
    panel.train.name.text = "restored"
    panel.estimator.forget()
    bundle = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(bundle), {})
    slicer.mrmlScene.Clear(0)
    until(lambda: not panel._frozen)
    assert panel.parameters().nodes("image") == [] and panel.slices.planes() == []
    slicer.util.loadScene(str(bundle), {})
    until(lambda: not panel._frozen)
    assert panel.parameters().nodes("image") == [slicer.util.getNode("CT")]
    assert panel.selectors.selectors["mask"].currentNode() is slicer.util.getNode("Drawn")
    assert len(panel.slices.row_buttons) == 2
    assert panel.settings.tier.currentIndex == 2
    assert panel.settings.forms["train"].fields["steps"].widget.value == 9
    assert panel.train.name.text == "restored"


def test_reloading_the_module_reads_the_library_anew(widget: Any, case: dict[str, Any]) -> None:
    old = sys.modules["MedGenLib.panel"]
    outer = widget.parent
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "MedGenLib"}
    try:
        widget.onReload()
        assert sys.modules["MedGenLib.panel"] is not old
        new = outer.self()
        assert new is not widget and new.panel.parameters().nodes("image") == [case["image"]]
        new.cleanup()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "MedGenLib"]:
            del sys.modules[name]
        sys.modules.update(kept)


def test_other_operations_are_chosen_by_name(widget: Any, case: dict[str, Any], said: list[str]) -> None:
    panel = widget.panel
    panel.apply.operation.currentIndex = 1
    assert panel.apply.apply.text == "Invert" and not panel.apply.model.visible and panel.apply.apply.enabled
    panel.apply.apply.click()
    until(lambda: not panel.poller.busy)
    assert said == []
    inverted = slicer.util.arrayFromVolume(slicer.util.getNode("CT inverted"))
    original = slicer.util.arrayFromVolume(case["image"])
    assert np.array_equal(inverted, original.max() - original)


def test_a_result_can_join_a_segmentation_without_overwriting(
    widget: Any, case: dict[str, Any], said: list[str]
) -> None:
    panel = widget.panel
    widget.logic.process(SLUG, "train", {**case, "planes": add_planes(case["image"])}, in_process=True)
    widget.enter()
    before = labels_of(case["mask"], case["image"]).copy()
    panel.apply.output.setCurrentNode(case["mask"])
    panel.apply.apply.click()
    until(lambda: not panel.poller.busy)
    assert said == []
    segmentation = case["mask"].GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 2
    assert np.array_equal(labels_of(case["mask"], case["image"]), before)
    new = slicer.util.arrayFromSegmentBinaryLabelmap(case["mask"], segmentation.GetNthSegmentID(1), case["image"])
    assert dice(new, ball()) > 0.95
    assert slicer.mrmlScene.GetFirstNodeByName("CT mask") is None


def test_packages_are_asked_for_once_and_a_no_starts_nothing(
    widget: Any, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = widget.panel
    questions: list[str] = []

    def decline(text: str, **options: Any) -> bool:
        questions.append(text)
        return False

    monkeypatch.setattr(install, "missing", lambda: ["torch>=2.8", "pydantic>=2.5"])
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", decline)
    widget.enter()
    assert panel.packages.visible and "torch>=2.8" in panel.packages_text.text
    assert "installed" in panel.train.estimate.text
    mark(panel, case["image"], (12,))
    panel.train.train.click()
    assert len(questions) == 1 and "pydantic>=2.5" in questions[0]
    assert not panel.poller.busy


def test_a_model_can_be_deleted_after_a_question(
    widget: Any, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = widget.panel
    widget.logic.process(SLUG, "train", case, name="unwanted", in_process=True)
    widget.enter()
    assert panel.apply.model.currentText == "unwanted"
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, **options: "unwanted" in text)
    panel.apply.delete.click()
    assert widget.logic.models(SLUG) == []
    assert not panel.apply.model.enabled and not panel.apply.delete.enabled


def test_a_room_that_fails_keeps_no_other_from_showing_what_is_so(
    widget: Any, monkeypatch: pytest.MonkeyPatch, errors_in_callbacks_fail: list[BaseException]
) -> None:
    first, *_others, last = widget.panel.rooms
    shown: list[str] = []

    def fail() -> None:
        raise ValueError("one room's own fault")

    monkeypatch.setattr(first, "refresh", fail)
    monkeypatch.setattr(last, "refresh", lambda: shown.append("last"))
    widget.panel.refresh()
    assert shown == ["last"] and [str(error) for error in errors_in_callbacks_fail] == ["one room's own fault"]
    errors_in_callbacks_fail.clear()


def test_the_log_can_be_copied(widget: Any) -> None:
    widget.panel.run.log.appendPlainText("something happened")
    widget.panel.run.copy.click()
    assert qt.QApplication.clipboard().text() == "something happened"


def test_a_module_without_methods_says_so(
    layout: views.LayoutManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "none.json").write_text('{"methods": []}')
    monkeypatch.delenv("MEDGEN_CATALOG", raising=False)
    monkeypatch.setattr(catalog, "PATH", tmp_path / "none.json")
    outer = slicer_standin.load_module(ROOT / "MedGenSynthesis" / "MedGenSynthesis.py").widgetRepresentation()
    outer.show()
    panel = outer.self().panel
    assert not panel.entries
    assert panel.empty.visible and "no method yet" in panel.empty.text and not panel.body.visible
    outer.self().cleanup()
    outer.close()


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("MedGenSegmentation", "Self-test volume mask"),
        ("MedGenSynthesis", "Synthetic head MR ct"),
        ("MedGenLandmarks", "Ear to mark landmarks"),
    ],
)
def test_the_modules_own_self_test_passes_with_the_real_method(
    name: str, result: str, layout: views.LayoutManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MEDGEN_CATALOG", raising=False)
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    # A run must do with what the panel installs (medgen.doctor.NEEDED).
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('monai', 'sklearn', 'torchvision'):\n    sys.modules[name] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    module = slicer_standin.load_module(ROOT / name / f"{name}.py")
    getattr(sys.modules[name], f"{name}Test")().runTest()
    assert slicer.util.getNode(result).IsA("vtkMRMLDisplayableNode")
    getattr(slicer.modules, f"{name}Widget").cleanup()
    module.widgetRepresentation().deleteLater()
    slicer.app.processEvents()


@pytest.mark.parametrize("name", ["MedGenSynthesis", "MedGenSegmentation", "MedGenLandmarks"])
def test_every_operation_that_can_be_declared_has_its_widgets(
    name: str,
    layout: views.LayoutManager,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    home: Path,  # noqa: F811
    pictures: Path,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "Testing" / "Python"))
    wide = tmp_path / "wide.json"
    wide.write_text(
        catalog.build([f"stubs.{stub}" for stub in ("stylegan", "pix2pix", "metahistoseg", "label_transfer")])
    )
    monkeypatch.setenv("MEDGEN_CATALOG", str(wide))
    outer = slicer_standin.load_module(ROOT / name / f"{name}.py").widgetRepresentation()
    outer.resize(470, 900)
    outer.show()
    panel = outer.self().panel
    for slug, entry in panel.entries.items():
        panel.method.combo.currentIndex = panel.method.slugs.index(slug)
        assert html.escape(entry["sentence"]) in panel.method.card.text
        assert panel.parameters().text("source") == ""
        assert panel.train.button.visible == any(one["name"] == "train" for one in entry["operations"])
        for index, operation in enumerate(panel.others):
            panel.apply.operation.currentIndex = index
            assert panel.apply.apply.text == operation["title"]
            wanted = {role["name"] for role in operation["inputs"] if role["kind"] != "Model"}
            assert panel.apply.cohort.visible == (operation["scope"] == "collection")
            shown = set(panel.selectors.selectors) | ({panel.slices.role["name"]} if panel.slices else set())
            assert wanted <= shown
            assert set(panel.settings.forms.get(operation["name"], SettingsOfNone).fields) == {
                setting["name"] for setting in operation["settings"]
            }
            views.save(outer, pictures / f"wide_{slug}_{operation['name']}.png")
    outer.self().cleanup()
    outer.close()


def test_sample_data_offers_a_synthetic_patient(widget: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: dict[str, Any] = {}
    titles: dict[str, str] = {}
    logic = types.SimpleNamespace(
        registerCustomSampleDataSource=lambda **source: offered.update(source),
        registerCustomSampleDataCategory=lambda name, title: titles.update({name: title}),
    )
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    assert slicer.app.at_startup
    slicer.app.at_startup[-1]()
    assert offered["category"] in titles
    assert Path(offered["thumbnailFileName"]).read_bytes().startswith(b"\x89PNG")
    volume, drawing, *planes = offered["customDownloader"](offered)
    labels = labels_of(drawing, volume)
    assert volume.IsA("vtkMRMLScalarVolumeNode") and labels.any()
    assert len(planes) == len(np.nonzero(labels.any(axis=(1, 2)))[0])
    choose(widget.panel, image=volume, mask=drawing)
    for plane in planes:
        widget.panel.slices.adder.setCurrentNode(plane)
    assert widget.panel.slices.planes() == planes
    assert all(plane.GetIsPlaneValid() for plane in planes)  # a run would refuse them otherwise
    assert widget.panel.slices.adder.currentNode() is None


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("MedGenSynthesis", ["vtkMRMLScalarVolumeNode"] * 2),
        (
            "MedGenLandmarks",
            ["vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsFiducialNode"]
            + ["vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode"],
        ),
    ],
)
def test_sample_data_of_the_other_modules_is_loaded(
    name: str, classes: list[str], layout: views.LayoutManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: dict[str, Any] = {}
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **source: offered.update(source))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    slicer_standin.load_module(ROOT / name / f"{name}.py")
    slicer.app.at_startup[-1]()
    nodes = offered["customDownloader"](offered)
    assert [node.GetClassName() for node in nodes] == classes
    assert all(node.GetImageData().GetScalarRange()[1] > 0 for node in nodes if node.IsA("vtkMRMLVolumeNode"))
    if name == "MedGenLandmarks":
        points, bounds = nodes[2], [0.0] * 6
        nodes[1].GetRASBounds(bounds)
        for index in range(points.GetNumberOfControlPoints()):
            place = points.GetNthControlPointPositionWorld(index)
            assert all(bounds[2 * a] - 3 <= place[a] <= bounds[2 * a + 1] + 3 for a in range(3))


class SettingsOfNone:
    """The form of an operation without settings."""

    fields: ClassVar[dict[str, Any]] = {}
