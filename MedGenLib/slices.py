"""Marking the slices that are annotated: a button for what a slice view shows, the list, and what is suggested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

from MedGenLib import annotation
from MedGenLib.i18n import _
from MedGenLib.parameters import Parameters
from MedGenLib.selectors import node_selector


class AnnotatedSlices:
    """The slices of one role; `on_marked()` is called when somebody marked, confirmed or removed one."""

    def __init__(self, role: dict[str, Any], parameters: Callable[[], Parameters]) -> None:
        self.role = role
        self._parameters = parameters
        self._suggested: dict[str, Any] | None = None
        self._quiet = False
        self.widget = qt.QFrame()
        self.widget.setFrameShape(qt.QFrame.StyledPanel)
        self.widget.setToolTip(str(role["help"]))
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.setSpacing(4)
        self.title = qt.QLabel()
        self.title.wordWrap = True
        layout.addWidget(self.title)
        layout.addWidget(self._make_marker())
        self._rows = qt.QWidget()
        self._rows_layout = qt.QVBoxLayout(self._rows)
        self._rows_layout.setContentsMargins(0, 0, 0, 0)
        self._rows_layout.setSpacing(2)
        layout.addWidget(self._rows)
        layout.addWidget(self._make_suggestion())
        self.row_buttons: list[tuple[Any, Any]] = []
        self._shown: list[tuple[str, str]] | None = None

    def _make_marker(self) -> Any:
        row = qt.QWidget()
        layout = qt.QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        self.view = qt.QComboBox()
        self.view.setToolTip(_("The slice view that shows the slice"))
        self.mark_button = qt.QPushButton(_("Mark this slice as annotated"))
        self.mark_button.setToolTip(
            _("Says that what is drawn on this slice is complete: whatever is not drawn there is background.")
        )
        self.mark_button.connect("clicked(bool)", self._on_mark)
        self.adder = node_selector(["vtkMRMLMarkupsPlaneNode"], _("Add a plane…"))
        self.adder.setToolTip(_("Take a plane that is in the scene already"))
        self.adder.connect("currentNodeChanged(vtkMRMLNode*)", self._on_add)
        layout.addWidget(self.view)
        layout.addWidget(self.mark_button, 1)
        layout.addWidget(self.adder)
        return row

    def _make_suggestion(self) -> Any:
        self.suggestion = qt.QWidget()
        layout = qt.QHBoxLayout(self.suggestion)
        layout.setContentsMargins(0, 0, 0, 0)
        self.suggestion_text = qt.QLabel()
        self.suggestion_text.wordWrap = True
        self.confirm_button = qt.QPushButton(_("Confirm"))
        self.confirm_button.connect("clicked(bool)", self._on_confirm)
        layout.addWidget(self.suggestion_text, 1)
        layout.addWidget(self.confirm_button)
        self.suggestion.setVisible(False)
        return self.suggestion

    # --- what a person does

    def _on_mark(self, checked: bool = False) -> None:
        views = {node.GetLayoutName(): node for node in annotation.slice_nodes()}
        view = views.get(self.view.currentText)
        if view is None:
            return
        planes = self.planes()
        plane = annotation.mark(view, planes)
        if plane not in planes:
            self._parameters().set_nodes(self.role["name"], [*planes, plane])

    def _on_add(self, plane: Any) -> None:
        if self._quiet or plane is None:
            return
        planes = self.planes()
        if plane not in planes:
            self._parameters().set_nodes(self.role["name"], [*planes, plane])
        self._quiet = True
        self.adder.setCurrentNode(None)
        self._quiet = False

    def _on_confirm(self, checked: bool = False) -> None:
        if self._suggested is None:
            return
        planes = annotation.planes_from_markups(self._suggested)
        self.suggest(None)
        self._parameters().set_nodes(self.role["name"], [*self.planes(), *planes])

    def _remover(self, plane: Any) -> Callable[..., None]:
        def remove(checked: bool = False) -> None:
            left = [node for node in self.planes() if node is not plane]
            self._parameters().set_nodes(self.role["name"], left)
            annotation.forget(plane)

        return remove

    def _jumper(self, plane: Any) -> Callable[..., None]:
        def jump(checked: bool = False) -> None:
            annotation.jump_to(plane)

        return jump

    # --- what is shown

    def planes(self) -> list[Any]:
        """The marked slices."""
        return self._parameters().nodes(self.role["name"])

    def suggest(self, content: dict[str, Any] | None) -> None:
        """Offer the slices of a .mrk.json's content for confirmation; None withdraws the offer."""
        self._suggested = content
        count = len(content["markups"]) if content else 0
        self.suggestion.setVisible(count > 0)
        if count:
            text = _("This slice looks annotated.") if count == 1 else _("These {n} slices look annotated.")
            self.suggestion_text.text = text.format(n=count)
            names = [str(item.get("name", "")) for item in (content or {})["markups"]]
            self.suggestion_text.setToolTip("\n".join(names))

    @property
    def suggested(self) -> bool:
        """Whether an offer stands."""
        return self._suggested is not None

    def show(self) -> None:
        """Show the views there are and the slices marked by now."""
        names = [node.GetLayoutName() for node in annotation.slice_nodes()]
        if names != [self.view.itemText(index) for index in range(self.view.count)]:
            self.view.clear()
            self.view.addItems(names)
        self.mark_button.enabled = bool(names)
        planes = self.planes()
        self.title.text = (
            _("<b>Annotated slices: {n}</b>").format(n=len(planes))
            if planes
            else _("<b>Annotated slices</b>: draw the structure on a few slices, and mark each when it is complete.")
        )
        wanted = [(plane.GetID(), plane.GetName()) for plane in planes]
        if wanted != self._shown:
            self._shown = wanted
            self._fill(planes)

    def _fill(self, planes: list[Any]) -> None:
        for show_button, _remove_button in self.row_buttons:
            row = show_button.parentWidget()
            self._rows_layout.removeWidget(row)
            row.hide()
            row.deleteLater()
        self.row_buttons = []
        for plane in planes:
            row = qt.QWidget()
            layout = qt.QHBoxLayout(row)
            layout.setContentsMargins(8, 0, 0, 0)
            show_button, remove_button = qt.QToolButton(), qt.QToolButton()
            show_button.text, remove_button.text = _("Show"), _("Remove")
            show_button.setToolTip(_("Jump to this slice"))
            remove_button.setToolTip(_("This slice is not annotated after all"))
            show_button.connect("clicked(bool)", self._jumper(plane))
            remove_button.connect("clicked(bool)", self._remover(plane))
            layout.addWidget(qt.QLabel(plane.GetName()), 1)
            layout.addWidget(show_button)
            layout.addWidget(remove_button)
            self._rows_layout.addWidget(row)
            self.row_buttons.append((show_button, remove_button))
