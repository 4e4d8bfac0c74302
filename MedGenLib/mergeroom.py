"""How a result joins the segmentation that was chosen for it: a choice below the selector of the result."""

from __future__ import annotations

from typing import Any

import qt

from MedGenLib import merge
from MedGenLib.i18n import _
from MedGenLib.rooms import Room
from MedGenLib.sections import fill, gives_one_mask


class MergeRoom(Room):
    """The choice; shown where a segmentation is chosen."""

    def __init__(self, panel: Any) -> None:
        super().__init__(panel)
        self.policy = qt.QComboBox()
        fill(self.policy, [_("As new segments"), _("Replace ours of before"), _("Only where nothing is yet")], 0)
        self.policy.setToolTip(
            _(
                "Replace ours of before: segments that this method made there, unless they were edited since or are "
                "marked as completed or flagged in the Segment Editor. No other segment is ever changed."
            )
        )
        self.policy.connect("currentIndexChanged(int)", self._on_choice)
        panel.apply.result_rows.addWidget(self.policy)

    def _on_choice(self, index: int) -> None:
        if 0 <= index < len(merge.POLICIES):
            self.panel.parameters().set_text("merge", merge.POLICIES[index])

    def refresh(self) -> None:
        """Show what is chosen."""
        parameters = self.panel.parameters()
        known = parameters.text("merge")
        was_blocked = self.policy.blockSignals(True)
        self.policy.currentIndex = merge.POLICIES.index(known) if known in merge.POLICIES else 0
        self.policy.blockSignals(was_blocked)
        operation = self.panel.operation
        fits = operation is not None and gives_one_mask(operation) and self.panel.frames() != "all"
        self.policy.setVisible(fits and bool(parameters.nodes("output")))
