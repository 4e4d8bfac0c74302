"""The stand-in's widgets keep the limits and signals of the real ones; Slicer's own tests prove the rest elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import ctk
import qt
import slicer
import slicer_standin


@pytest.fixture(autouse=True)
def application(scene: Any) -> Any:
    """`slicer.app` and an empty scene."""
    return slicer_standin.start()


def heard(widget: Any, signature: str) -> list[tuple[Any, ...]]:
    """What a signal says from now on."""
    calls: list[tuple[Any, ...]] = []
    widget.connect(signature, lambda *arguments: calls.append(arguments))
    return calls


@pytest.mark.parametrize("name", ["ctkDoubleSlider", "ctkSliderWidget"])
def test_a_slider_holds_its_value_within_its_limits(name: str) -> None:
    slider = getattr(ctk, name)()
    calls = heard(slider, "valueChanged(double)")
    slider.minimum, slider.maximum = 2.5, 7.5
    slider.value = 20
    slider.value = 7.5
    assert (slider.value, calls) == (7.5, [(2.5,), (7.5,)])
    slider.maximum = 1
    assert (slider.minimum, slider.maximum, slider.value) == (1, 1, 1)


def test_slider_and_spin_box_of_a_slider_widget_move_together() -> None:
    widget = ctk.ctkSliderWidget()
    widget.decimals = 1
    widget.setRange(0, 10)
    widget.findChild(qt.QDoubleSpinBox).value = 2.5
    assert widget.value == 2.5
    widget.findChild(qt.QSlider).value = 800
    assert widget.value == 8 == widget.findChild(qt.QDoubleSpinBox).value


@pytest.mark.parametrize("name", ["ctkRangeWidget", "ctkDoubleRangeSlider"])
def test_a_range_keeps_its_order_and_its_limits(name: str) -> None:
    widget = getattr(ctk, name)()
    widget.setRange(-10, 10)
    calls = heard(widget, "valuesChanged(double,double)")
    widget.setValues(5, -5)
    widget.minimumValue = 8
    widget.maximumValue = 99
    assert (widget.minimumValue, widget.maximumValue) == (5, 10)
    assert calls == [(-5, 5), (5, 5), (5, 10)]


def test_a_directory_button_tells_of_another_folder_only(tmp_path: Path) -> None:
    button = ctk.ctkDirectoryButton()
    calls = heard(button, "directoryChanged(QString)")
    button.directory = str(tmp_path)
    button.directory = str(tmp_path)
    assert (button.directory, calls) == (str(tmp_path), [(str(tmp_path),)])


def test_a_layout_given_to_a_section_folds_away_with_it() -> None:
    section = ctk.ctkCollapsibleButton("Section")
    inside = qt.QLabel("inside")
    qt.QFormLayout(section).addRow(inside)
    section.show()
    assert inside.visible
    section.collapsed = True
    assert not inside.visible


def test_nothing_is_chosen_for_a_person_but_a_lost_node_is_replaced() -> None:
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLModelNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    first, second = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", name) for name in ("first", "second"))
    assert combo.currentNode() is None
    assert combo.nodeTypes == ("vtkMRMLModelNode",)
    combo.setCurrentNode(second)
    slicer.mrmlScene.RemoveNode(second)
    assert combo.currentNode() is first


def test_what_is_not_modelled_raises() -> None:
    for module, name in ((ctk, "ctkMatrixWidget"), (qt, "QDial")):
        with pytest.raises(AttributeError, match="not modelled by the stand-in"):
            getattr(module, name)
    with pytest.raises(AttributeError):
        slicer.app.noSuchThing  # noqa: B018
