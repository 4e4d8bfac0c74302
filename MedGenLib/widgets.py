"""Widgets made from declarations: one for each setting of an operation, with its range, unit and the paper's value."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import qt

from MedGenLib.i18n import _

Setting = dict[str, Any]
_INTEGER_LIMIT = 2**31 - 1


def setting_label(setting: Setting) -> str:
    """A setting's name and unit as a person reads it."""
    words = str(setting["name"]).replace("_", " ")
    unit = f" [{setting['unit']}]" if setting.get("unit") else ""
    return words[:1].upper() + words[1:] + unit


def setting_help(setting: Setting) -> str:
    """Help, range and the paper's value."""
    lines = [str(setting["help"])]
    low = setting.get("minimum", setting.get("above"))
    high = setting.get("maximum", setting.get("below"))
    if low is not None and high is not None:
        lines.append(_("From {low} to {high}.").format(low=plain_number(low), high=plain_number(high)))
    elif low is not None:
        lines.append(_("{low} or more.").format(low=plain_number(low)))
    if "paper" in setting:
        lines.append(_("In the paper: {value}.").format(value=plain_number(setting["paper"])))
    return "\n".join(lines)


def plain_number(value: Any) -> str:
    """A number without digits that say nothing; anything else as JSON."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


class SettingWidget:
    """One setting: `widget` to be placed, `show(value)`, and a callback with a new valid value."""

    def __init__(self, setting: Setting, on_change: Callable[[str, Any], None]) -> None:
        self.setting = setting
        self._on_change = on_change
        self._shown: Any = setting["default"]
        self._quiet = False
        self.widget: Any = self._make()
        self.widget.setToolTip(setting_help(setting))

    def _make(self) -> Any:
        kind = self.setting["type"]
        if kind == "boolean":
            box = qt.QCheckBox()
            box.connect("toggled(bool)", self._changed)
            return box
        if kind == "choice":
            combo = qt.QComboBox()
            for choice in self.setting["choices"]:
                combo.addItem(str(choice))
            combo.connect("currentIndexChanged(int)", self._chosen)
            return combo
        if kind == "integer" and abs(self.setting.get("maximum", 0)) < _INTEGER_LIMIT:
            spin = qt.QSpinBox()
            spin.minimum = int(self.setting.get("minimum", self.setting.get("above", -_INTEGER_LIMIT - 1) + 1))
            spin.maximum = int(self.setting.get("maximum", self.setting.get("below", _INTEGER_LIMIT + 1) - 1))
            spin.keyboardTracking = False
            spin.connect("valueChanged(int)", self._changed)
            return spin
        edit = qt.QLineEdit()
        edit.connect("editingFinished()", self._typed)
        return edit

    def show(self, value: Any) -> None:
        """Show a value without calling back."""
        self._quiet = True
        self._shown = value
        kind = self.setting["type"]
        if hasattr(self.widget, "checked"):
            self.widget.checked = bool(value)
        elif kind == "choice":
            self.widget.currentIndex = self.setting["choices"].index(value)
        elif kind == "integer" and hasattr(self.widget, "maximum"):
            self.widget.value = int(value)
        else:
            self.widget.text = value if kind == "text" else plain_number(value)
            self.widget.setStyleSheet("")
        self._quiet = False

    def _changed(self, value: Any) -> None:
        if not self._quiet:
            self._shown = value
            self._on_change(self.setting["name"], value)

    def _chosen(self, index: int) -> None:
        if index >= 0:
            self._changed(self.setting["choices"][index])

    def _typed(self) -> None:
        text = str(self.widget.text).strip()
        try:
            value = self._parse(text)
        except ValueError:
            self.widget.setStyleSheet("color: #c02020;")
            return
        self.widget.setStyleSheet("")
        if value != self._shown:
            self._changed(value)

    def _parse(self, text: str) -> Any:
        kind = self.setting["type"]
        if kind == "text":
            return text
        if kind == "json":
            return json.loads(text)
        value = int(text) if kind == "integer" else float(text)
        limits = [
            value >= self.setting.get("minimum", value),
            value <= self.setting.get("maximum", value),
            value > self.setting["above"] if "above" in self.setting else True,
            value < self.setting["below"] if "below" in self.setting else True,
        ]
        if not all(limits):
            raise ValueError(text)
        return value


class SettingsForm:
    """All settings of one operation. `on_change(operation, key, value)`; value None: back to the tier's."""

    def __init__(self, operation: dict[str, Any], on_change: Callable[[str, str, Any], None]) -> None:
        self.operation = operation
        self._on_change = on_change
        self.widget = qt.QWidget()
        layout = qt.QFormLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        self.fields = {s["name"]: SettingWidget(s, self._changed) for s in operation["settings"]}
        self._papers: dict[str, Any] = {}
        for setting in operation["settings"]:
            label = qt.QLabel(setting_label(setting))
            label.setToolTip(setting_help(setting))
            layout.addRow(label, self._with_paper(setting))

    def _with_paper(self, setting: Setting) -> Any:
        field = self.fields[setting["name"]].widget
        if "paper" not in setting:
            return field
        row = qt.QWidget()
        layout = qt.QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        note = qt.QLabel(_("paper: {value}").format(value=plain_number(setting["paper"])))
        note.setStyleSheet("color: gray;")
        layout.addWidget(field, 1)
        layout.addWidget(note)
        return row

    def values(self, tier: str) -> dict[str, Any]:
        """What the tier says, over the defaults."""
        defaults = {setting["name"]: setting["default"] for setting in self.operation["settings"]}
        return {**defaults, **self.operation["tiers"].get(tier, {})}

    def show(self, tier: str, changed: dict[str, Any]) -> None:
        """Show the tier's values with the changed ones over them."""
        self._tier_values = self.values(tier)
        for name, value in {**self._tier_values, **changed}.items():
            if name in self.fields:
                self.fields[name].show(value)

    def _changed(self, name: str, value: Any) -> None:
        self._on_change(self.operation["name"], name, None if value == self._tier_values.get(name) else value)
