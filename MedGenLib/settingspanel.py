"""The section of settings: preset, device, and every setting of the operations, folded away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

from MedGenLib.i18n import _
from MedGenLib.parameters import Parameters
from MedGenLib.sections import form, section
from MedGenLib.widgets import SettingsForm


def tier_label(tier: str) -> str:
    """A tier as a person reads it."""
    known = {
        "smoke": _("smoke: seconds, only to see that it runs"),
        "demo": _("demo: minutes on this computer"),
        "paper": _("paper: the paper's own numbers, needs a GPU"),
    }
    return known.get(tier, tier)


class SettingsPanel:
    """Preset and device in sight, the single settings folded."""

    def __init__(
        self,
        parent_layout: Any,
        on_tier: Callable[[str], None],
        on_device: Callable[[str], None],
        on_setting: Callable[[str, str, Any], None],
    ) -> None:
        self._on_tier, self._on_device, self._on_setting = on_tier, on_device, on_setting
        self.button, self._layout = section(_("Settings"), parent_layout, collapsed=True)
        rows = form(self._layout)
        self.tier, self.device = qt.QComboBox(), qt.QComboBox()
        self._tier_label = qt.QLabel(_("Preset"))
        self._tiers: list[str] = []
        self._devices = ["auto", "cpu", "cuda"]
        for text in (_("Automatic"), _("CPU"), _("GPU (CUDA)")):
            self.device.addItem(text)
        rows.addRow(self._tier_label, self.tier)
        rows.addRow(qt.QLabel(_("Device")), self.device)
        self.tier.connect("currentIndexChanged(int)", self._tier_chosen)
        self.device.connect("currentIndexChanged(int)", self._device_chosen)
        self.forms: dict[str, SettingsForm] = {}
        self._parts: list[Any] = []

    def build(self, entry: dict[str, Any], operations: list[dict[str, Any]]) -> None:
        """Forms for the operations in sight."""
        for old in self._parts:
            self._layout.removeWidget(old)
            old.hide()
            old.deleteLater()
        self._parts, self.forms = [], {}
        for operation in operations:
            if not operation["settings"]:
                continue
            made = self.forms[operation["name"]] = SettingsForm(operation, self._on_setting)
            title = qt.QLabel(f"<b>{operation['title']}</b>")
            for part in (title, made.widget):
                self._layout.addWidget(part)
                self._parts.append(part)
        self._tiers = list(dict.fromkeys(tier for one in entry["operations"] for tier in one["tiers"]))
        was_blocked = self.tier.blockSignals(True)
        self.tier.clear()
        for tier in self._tiers:
            self.tier.addItem(tier_label(tier))
        self.tier.blockSignals(was_blocked)
        self.tier.setVisible(bool(self._tiers))
        self._tier_label.setVisible(bool(self._tiers))

    def show(self, tier: str, parameters: Parameters) -> None:
        """Show the preset with the changed settings over it."""
        device = parameters.text("device") or "auto"
        for combo, names, name in ((self.tier, self._tiers, tier), (self.device, self._devices, device)):
            was_blocked = combo.blockSignals(True)
            combo.currentIndex = names.index(name) if name in names else -1
            combo.blockSignals(was_blocked)
        for name, made in self.forms.items():
            made.show(tier, parameters.settings(name))

    def _tier_chosen(self, index: int) -> None:
        if 0 <= index < len(self._tiers):
            self._on_tier(self._tiers[index])

    def _device_chosen(self, index: int) -> None:
        if index >= 0:
            self._on_device(self._devices[index])
