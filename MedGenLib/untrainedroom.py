"""What a method without a model offers: train one, or try the method on a synthetic patient."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from MedGenLib import sampledata
from MedGenLib.choices import TIER
from MedGenLib.i18n import _
from MedGenLib.plan import node_pools
from MedGenLib.rooms import Room
from MedGenLib.sections import text_label

Nodes = dict[str, list[Any]]


class UntrainedRoom(Room):
    """Seen while the chosen method has an operation that needs a model, and no model."""

    def __init__(self, panel: Any, layout: Any) -> None:
        super().__init__(panel)
        self.widget = qt.QFrame()
        self.widget.setFrameShape(qt.QFrame.StyledPanel)
        inner = qt.QVBoxLayout(self.widget)
        inner.setContentsMargins(8, 6, 8, 8)
        self.text = text_label(_("This method has no trained model yet."))
        inner.addWidget(self.text)
        row = qt.QHBoxLayout()
        self.train = qt.QPushButton(_("Train"))
        self.train.connect("clicked(bool)", self._on_train)
        self.phantom = qt.QPushButton(_("Try on a phantom"))
        self.phantom.setToolTip(_("Makes a synthetic patient on this computer and chooses it; nothing is downloaded."))
        self.phantom.connect("clicked(bool)", self._on_phantom)
        row.addWidget(self.train)
        row.addWidget(self.phantom)
        inner.addLayout(row)
        layout.addWidget(self.widget)
        self._told = ""

    def refresh(self) -> None:
        """Show the offer where there is no model."""
        panel = self.panel
        needed = panel.training is not None and any(one["needs_model"] for one in panel.others)
        self.widget.setVisible(needed and not panel.models()[0])
        self.train.enabled = not panel.poller.busy
        self.phantom.setVisible(sampledata.sample_of(panel.entry) is not None)
        self.phantom.enabled = not panel.poller.busy
        told = self._told if self._told.startswith(panel.entry["slug"]) else ""
        self.text.text = told.partition(" ")[2] or _("This method has no trained model yet.")

    def _say(self, words: str) -> None:
        self._told = f"{self.panel.entry['slug']} {words}"
        self.refresh()

    def _on_train(self, checked: bool = False) -> None:
        """Train with what is chosen; where that is not possible yet, show why."""
        self.panel.train.button.collapsed = False
        why = self.panel.why_not_train()
        if why:
            self._say(_("This method has no trained model yet. {why}").format(why=why))
        else:
            self.panel.train.train.click()

    def _on_phantom(self, checked: bool = False) -> None:
        panel = self.panel
        sample = sampledata.sample_of(panel.entry)
        if sample is None or panel.training is None:
            return
        slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            patients = sampledata.load_patients(sample)
        finally:
            slicer.app.restoreOverrideCursor()
        parameters = panel.parameters()
        was_modifying = parameters.node.StartModify()
        parameters.set_text("source", "nodes")
        tiers = panel.training["tiers"]
        if tiers:
            parameters.forget_settings()
            parameters.set_text("tier", TIER if TIER in tiers else next(iter(tiers)))
        many = {role["name"] for role in panel.roles() if role["many"]}
        for name, nodes in chosen(patients, panel.training, panel.operation).items():
            parameters.set_nodes(name, nodes if name in many else nodes[:1])
        parameters.node.EndModify(was_modifying)
        self._say(_("A synthetic patient is loaded and chosen: press Train, and then Apply."))


def chosen(patients: list[Nodes], training: dict[str, Any], operation: dict[str, Any] | None) -> Nodes:
    """Which nodes fill which roles: each pool of a training takes a patient, the operation to try takes the last."""
    found: Nodes = {}
    pools = node_pools(training)
    for number, pool in enumerate(pools):
        patient = patients[min(number, len(patients) - 1)]
        for role in pool["roles"]:
            name = role["name"] if len(pools) == 1 else f"{pool['name']}.{role['name']}"
            if role["name"] in patient:
                found[name] = patient[role["name"]]
    for role in operation["inputs"] if operation else []:
        if role["name"] in patients[-1]:
            found.setdefault(role["name"], patients[-1][role["name"]])
    return found
