"""Marking the slices that are annotated: a button for what a slice view shows, the list, and what is suggested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import qt

from MedGenLib import annotation
from MedGenLib.i18n import _
from MedGenLib.parameters import Parameters
from MedGenLib.selectors import node_selector


class AnnotatedSlices:
    """The slices of one role; `on_marked()` is called when somebody marked, confirmed or removed one."""

    def __init__(
        self, role: dict[str, Any], parameters: Callable[[], Parameters], reference: Callable[[], Any] = lambda: None
    ) -> None:
        self.role = role
        self._reference = reference  # the volume that is drawn on
        self._parameters = parameters
        self._suggested: list[np.ndarray] = []
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
        self.note = qt.QLabel()
        self.note.wordWrap = True
        self.note.setVisible(False)
        layout.addWidget(self.note)
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
        column = qt.QVBoxLayout(self.suggestion)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        layout = qt.QHBoxLayout()
        column.addLayout(layout)
        self._suggestion_rows = column
        self.suggestion_buttons: list[Any] = []
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
        plane = annotation.mark(view, planes, annotation.half_a_voxel(self._reference()))
        known = plane in planes
        self.note.setVisible(known)
        if known:
            self.note.text = _("This slice is marked already: {name}.").format(name=plane.GetName())
        else:
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
        planes = [annotation.add_plane(frame, annotation.describe(frame)) for frame in self._suggested]
        self.suggest(None)
        self._parameters().set_nodes(self.role["name"], [*self.planes(), *planes])

    def _remover(self, plane: Any) -> Callable[..., None]:
        def remove(checked: bool = False) -> None:
            left = [node for node in self.planes() if node is not plane]
            self._parameters().set_nodes(self.role["name"], left)
            annotation.forget(plane)

        return remove

    def _jumper(self, frame: Callable[[], np.ndarray]) -> Callable[..., None]:
        def jump(checked: bool = False) -> None:
            annotation.jump_to(frame())

        return jump

    # --- what is shown

    def planes(self) -> list[Any]:
        """The marked slices."""
        return self._parameters().nodes(self.role["name"])

    def suggest(self, content: dict[str, Any] | None) -> None:
        """Offer the slices of a .mrk.json's content for confirmation; None withdraws the offer."""
        _clear(self._suggestion_rows, self.suggestion_buttons)
        self._suggested = annotation.frames_from_markups(content) if content else []
        for frame in self._suggested:
            button = self._show_button(lambda frame=frame: frame)
            _add_row(self._suggestion_rows, annotation.describe(frame), button)
            self.suggestion_buttons.append(button)
        count = len(self._suggested)
        self.suggestion.setVisible(count > 0)
        if count:
            text = _("This slice looks annotated.") if count == 1 else _("These {n} slices look annotated.")
            self.suggestion_text.text = text.format(n=count)

    @property
    def suggested(self) -> bool:
        """Whether an offer stands."""
        return bool(self._suggested)

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
            self.note.setVisible(False)
            self._fill(planes)

    def _fill(self, planes: list[Any]) -> None:
        _clear(self._rows_layout, [show_button for show_button, _remove_button in self.row_buttons])
        self.row_buttons = []
        for plane in planes:
            show_button, remove_button = (
                self._show_button(lambda plane=plane: annotation.frame_of_plane(plane)),
                qt.QToolButton(),
            )
            remove_button.text = _("Remove")
            remove_button.setToolTip(_("This slice is not annotated after all"))
            remove_button.connect("clicked(bool)", self._remover(plane))
            _add_row(self._rows_layout, plane.GetName(), show_button, remove_button)
            self.row_buttons.append((show_button, remove_button))

    def _show_button(self, frame: Callable[[], np.ndarray]) -> Any:
        button = qt.QToolButton()
        button.text = _("Show")
        button.setToolTip(_("Jump to this slice"))
        button.connect("clicked(bool)", self._jumper(frame))
        return button


def _add_row(column: Any, text: str, *buttons: Any) -> None:
    row = qt.QWidget()
    layout = qt.QHBoxLayout(row)
    layout.setContentsMargins(8, 0, 0, 0)
    layout.addWidget(qt.QLabel(text), 1)
    for button in buttons:
        layout.addWidget(button)
    column.addWidget(row)


def _clear(column: Any, buttons: list[Any]) -> None:
    """Take out the rows that hold these buttons."""
    for button in buttons:
        row = button.parentWidget()
        column.removeWidget(row)
        row.hide()
        row.deleteLater()
    buttons.clear()
