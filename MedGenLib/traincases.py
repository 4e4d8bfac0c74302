"""Inside Train: the list of cases, one row a case with a selector a role, whose it is, and its split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer

from MedGenLib import matching, trainingcases
from MedGenLib.export import NODE_CLASSES
from MedGenLib.i18n import _
from MedGenLib.plan import as_list
from MedGenLib.rooms import Room
from MedGenLib.sections import fill, text_label
from MedGenLib.selectors import node_selector, role_help, role_label
from MedGenLib.trainingcases import SPLITS, TrainingCase

_ROW, _HEADER, _TICK = 28, 22, 62  # pixels
_ROWS = 6  # more are scrolled to
_SHOWN = 8  # proposals that are written out


class TrainCases(Room):
    """Shown while training learns from cases of the scene; everything chosen stands in the parameter node."""

    def __init__(self, panel: Any, layout: Any) -> None:
        super().__init__(panel)
        self.widget = qt.QWidget()
        self._layout = qt.QVBoxLayout(self.widget)
        self._layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.widget)
        self.tables: dict[str, CaseTable] = {}
        self._built_for: list[Any] = []
        self._proposals: list[matching.Proposal] = []
        self._tables = qt.QVBoxLayout()
        self._layout.addLayout(self._tables)
        self._add_proposals()
        self._add_split()

    def _add_proposals(self) -> None:
        self.proposal = qt.QFrame()
        self.proposal.setFrameShape(qt.QFrame.StyledPanel)
        layout = qt.QVBoxLayout(self.proposal)
        layout.setContentsMargins(8, 6, 8, 6)
        self.proposal_text = text_label()
        row = qt.QHBoxLayout()
        self.accept, self.decline = qt.QPushButton(_("Add these")), qt.QPushButton(_("Leave it"))
        self.accept.connect("clicked(bool)", self._on_accept)
        self.decline.connect("clicked(bool)", self._on_decline)
        row.addStretch(1)
        row.addWidget(self.accept)
        row.addWidget(self.decline)
        layout.addWidget(self.proposal_text)
        layout.addLayout(row)
        self._layout.addWidget(self.proposal)
        self.proposal.setVisible(False)

    def _add_split(self) -> None:
        self.split = qt.QWidget()
        row = qt.QHBoxLayout(self.split)
        row.setContentsMargins(0, 0, 0, 0)
        self.validation, self.test = qt.QSpinBox(), qt.QSpinBox()
        helps = (_("These subjects choose the best network"), _("These subjects are only measured, after the training"))
        row.addWidget(qt.QLabel(_("Hold out")))
        for spin, words, help in zip((self.validation, self.test), (_("validation"), _("test")), helps, strict=True):
            spin.minimum, spin.maximum, spin.value = 0, 45, 20
            spin.suffix = " %"
            spin.setToolTip(help)
            row.addWidget(spin)
            row.addWidget(qt.QLabel(words))
        row.addStretch(1)
        self.split_button = qt.QPushButton(_("Split"))
        self.split_button.setToolTip(_("Choose at random which subjects are held out; all cases of one stay together."))
        self.split_button.connect("clicked(bool)", self._on_split)
        row.addWidget(self.split_button)
        self._layout.addWidget(self.split)

    # --- showing

    def refresh(self) -> None:
        """Show the cases that stand in the parameter node."""
        shown = self.panel.source == "cases"
        self.widget.setVisible(shown)
        if not shown:
            return
        pools = trainingcases.case_pools(self.panel.training)
        wanted = [self.panel.entry["slug"], [pool["name"] for pool in pools]]
        if wanted != self._built_for:
            self._built_for = wanted
            self._build(pools)
        cases = self.cases()
        for table in self.tables.values():
            table.show(cases)
        self.split.setVisible(len({case.subject for case in cases}) > 1)

    def _build(self, pools: list[dict[str, Any]]) -> None:
        for old in self.tables.values():
            self._tables.removeWidget(old.widget)
            old.widget.hide()
            old.widget.deleteLater()
        self._on_decline()
        self.tables = {pool["name"]: CaseTable(pool, len(pools) > 1, self) for pool in pools}
        for table in self.tables.values():
            self._tables.addWidget(table.widget)

    # --- what a person does

    def cases(self) -> list[TrainingCase]:
        """The cases as they stand."""
        return trainingcases.read(self.panel.parameters())

    def change(self, how: Callable[[list[TrainingCase]], None]) -> None:
        """Change the cases and write them back; not while the scene changes under the selectors."""
        if self.panel.frozen:
            return
        cases = self.cases()
        how(cases)
        trainingcases.write(self.panel.parameters(), cases)

    def _on_split(self, checked: bool = False) -> None:
        validation, test = int(self.validation.value) / 100, int(self.test.value) / 100
        self.change(lambda cases: trainingcases.hold_out(cases, validation, test))

    def match(self, pool: dict[str, Any]) -> None:
        """Look for cases of a pool and show what was found."""
        self._proposals = matching.proposals(pool, self.cases())
        found = [proposal.text() for proposal in self._proposals]
        if found:
            lines = [f"• {text}" for text in found[:_SHOWN]]
            lines += [_("… and {n} more").format(n=len(found) - _SHOWN)] if len(found) > _SHOWN else []
            self.proposal_text.text = "\n".join([self._count(pool), *lines])
        else:
            self.proposal_text.text = _(
                "Nothing more was found that belongs together: put it into one study, or name it alike."
            )
        self.accept.setVisible(bool(found))
        self.proposal.setVisible(True)

    def _count(self, pool: dict[str, Any]) -> str:
        found = len(self._proposals)
        labelled = sum(trainingcases.is_labelled(pool, proposal.case) for proposal in self._proposals)
        if labelled in (0, found):
            return _("{n} found:").format(n=found)
        words = _("{n} found, {labelled} with labels and {rest} without:")
        return words.format(n=found, labelled=labelled, rest=found - labelled)

    def _on_accept(self, checked: bool = False) -> None:
        found = [proposal.case for proposal in self._proposals]
        self._on_decline()
        self.change(lambda cases: trainingcases.add(cases, found))

    def _on_decline(self, checked: bool = False) -> None:
        self._proposals = []
        self.proposal.setVisible(False)


class CaseTable:
    """The rows of one pool."""

    def __init__(self, pool: dict[str, Any], named: bool, room: TrainCases) -> None:
        self.pool, self._room = pool, room
        self._quiet = False
        self.numbers: list[int] | None = None  # of the shown rows, in the list of all cases
        self.widget = qt.QWidget()
        layout = qt.QVBoxLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        title = text_label(_("Cases of “{pool}”").format(pool=pool["name"]))
        title.setToolTip(pool["help"])
        title.setVisible(named)
        layout.addWidget(title)
        self.table = qt.QTableWidget()
        self.table.verticalHeader().setVisible(False)
        self.table.setSelectionMode(qt.QAbstractItemView.NoSelection)
        self.table.setShowGrid(False)
        self.table.horizontalHeader().setMinimumSectionSize(24)
        self.table.horizontalHeader().setFixedHeight(_HEADER)
        layout.addWidget(self.table)
        row = qt.QHBoxLayout()
        self.add, self.match = qt.QPushButton(_("Add case")), qt.QPushButton(_("Add all matching…"))
        help = _("Look for volumes, segmentations and markups of one study or of like names; you see them before.")
        if trainingcases.takes_unlabelled(pool):
            help += " " + _("Images for which no labels are found join as cases without.")
        self.match.setToolTip(help)
        self.optional = qt.QCheckBox(_("Optional columns"))
        self.optional.setVisible(any(role["optional"] for role in pool["roles"]))
        self.add.connect("clicked(bool)", self._on_add)
        self.match.connect("clicked(bool)", lambda checked=False: room.match(pool))
        self.optional.connect("toggled(bool)", lambda checked: self.show(room.cases(), anew=True))
        row.addWidget(self.add)
        row.addWidget(self.match)
        row.addStretch(1)
        row.addWidget(self.optional)
        layout.addLayout(row)
        self.rows: list[dict[str, Any]] = []

    def roles(self) -> list[dict[str, Any]]:
        """The roles in sight."""
        return [role for role in self.pool["roles"] if not role["optional"] or self.optional.checked]

    def texts(self) -> list[str]:
        """The reserved columns in sight."""
        return ["subject", *(name for name in ("task", "domain") if name in self.pool["needs"])]

    def show(self, cases: list[TrainingCase], anew: bool = False) -> None:
        """Show the pool's cases; new rows only where there are others than before."""
        numbers = [number for number, case in enumerate(cases) if case.pool == self.pool["name"]]
        self._quiet = True
        if anew or numbers != self.numbers:
            self._make_rows(numbers)
        for row, number in zip(self.rows, numbers, strict=True):
            case = cases[number]
            for name in self.texts():
                if row[f"text {name}"].text != getattr(case, name):
                    row[f"text {name}"].text = getattr(case, name)
            for role in self.roles():
                _show_value(row[role["name"]], role, as_list(case.values.get(role["name"])))
            if "labelled" in row:
                row["labelled"].checked = trainingcases.is_labelled(self.pool, case)
            row["split"].currentIndex = SPLITS.index(case.split or SPLITS[0])
        self._quiet = False
        self.add.enabled = not (self.pool["one_case"] and numbers)

    def _make_rows(self, numbers: list[int]) -> None:
        titles = [
            *(name.capitalize() for name in self.texts()),
            *(role_label({**role, "optional": False}) for role in self.roles()),
            *([_("Labelled")] if trainingcases.takes_unlabelled(self.pool) else []),
            _("Split"),
            "",
        ]
        self.table.setRowCount(0)
        self.table.setColumnCount(len(titles))
        self.table.setHorizontalHeaderLabels(titles)
        self.table.setRowCount(len(numbers))
        self.numbers, self.rows = numbers, []
        for index, number in enumerate(numbers):
            widgets = self._widgets(number)
            for column, widget in enumerate(widgets.values()):
                self.table.setCellWidget(index, column, widget)
            self.table.setRowHeight(index, _ROW)
            self.rows.append(widgets)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.Stretch)
        widths = [*([_TICK] if trainingcases.takes_unlabelled(self.pool) else []), 92, 26]
        for column, width in enumerate(widths, start=len(titles) - len(widths)):
            header.setSectionResizeMode(column, qt.QHeaderView.Fixed)
            self.table.setColumnWidth(column, width)
        self.table.setFixedHeight(_HEADER + _ROW * max(1, min(len(numbers), _ROWS)) + 4)

    def _widgets(self, number: int) -> dict[str, Any]:
        """A row's widgets by column, from the left."""
        widgets: dict[str, Any] = {}
        for name in self.texts():
            edit = widgets[f"text {name}"] = qt.QLineEdit()
            edit.setToolTip(_("Whose it is: cases of one subject are never parted") if name == "subject" else name)
            edit.connect("editingFinished()", self._text_writer(number, name, edit))
        for role in self.roles():
            widgets[role["name"]] = self._selector(role, number)
            widgets[role["name"]].setToolTip(role_help(role))
        if trainingcases.takes_unlabelled(self.pool):
            tick = widgets["labelled"] = qt.QCheckBox()
            tick.setStyleSheet(f"QCheckBox {{ margin-left: {_TICK // 2 - 8}px }}")  # under the middle of its title
            tick.setToolTip(_labelled_help(trainingcases.labels(self.pool)))
            tick.connect("clicked(bool)", self._labelled_writer(number))
        combo = widgets["split"] = qt.QComboBox()
        fill(combo, [_("train"), _("validation"), _("test")], 0)
        combo.setToolTip(_("Validation chooses the best network; test is only measured, after the training."))
        combo.connect("currentIndexChanged(int)", self._split_writer(number))
        remove = widgets["remove"] = qt.QToolButton()
        remove.text = "✕"
        remove.setToolTip(_("Remove this case from the list; its nodes stay"))
        remove.connect("clicked(bool)", lambda checked=False: self._room.change(lambda cases: cases.pop(number)))
        return widgets

    def _selector(self, role: dict[str, Any], number: int) -> Any:
        name, kind = role["name"], role["kind"]
        if kind not in NODE_CLASSES:
            edit = qt.QLineEdit()
            edit.connect("editingFinished()", lambda: self._put(number, name, str(edit.text).strip()))
            return edit
        if role["many"]:
            combo = slicer.qMRMLCheckableNodeComboBox()
            combo.nodeTypes = list(NODE_CLASSES[kind])
            combo.setMRMLScene(slicer.mrmlScene)
            combo.connect("checkedNodesChanged()", lambda: self._put(number, name, list(combo.checkedNodes())))
            return combo
        selector = node_selector(list(NODE_CLASSES[kind]), _("None"))
        selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._put(number, name, node))
        return selector

    # --- what a person does

    def _put(self, number: int, role: str, value: Any) -> None:
        if not self._quiet:
            self._room.change(lambda cases: trainingcases.put_value(cases, number, role, value, self.pool))

    def _labelled_writer(self, number: int) -> Callable[[bool], None]:
        def write(checked: bool = False) -> None:
            self._room.change(lambda cases: trainingcases.say_labelled(cases, number, self.pool, bool(checked)))

        return write

    def _text_writer(self, number: int, name: str, edit: Any) -> Callable[[], None]:
        def write() -> None:
            text = str(edit.text).strip()
            if self._quiet or text == getattr(self._room.cases()[number], name):
                return
            if name == "subject":
                self._room.change(lambda cases: trainingcases.rename_subject(cases, number, text))
            else:
                self._room.change(lambda cases: setattr(cases[number], name, text))

        return write

    def _split_writer(self, number: int) -> Callable[[int], None]:
        def write(index: int) -> None:
            if not self._quiet and index >= 0:
                self._room.change(lambda cases: trainingcases.put_in_split(cases, number, SPLITS[index]))

        return write

    def _on_add(self, checked: bool = False) -> None:
        self._room.change(lambda cases: trainingcases.add(cases, [TrainingCase(self.pool["name"])]))


def _labelled_help(labels: list[dict[str, Any]]) -> str:
    names = ", ".join(role["name"] for role in labels)
    if all(trainingcases.can_be_none(role) for role in labels):
        ticked = _("Ticked without any {roles}: somebody looked, and there are none.").format(roles=names)
    else:
        ticked = _("Ticked: somebody looked; it needs {roles}.").format(roles=names)
    return f"{ticked} " + _("Not ticked: nobody looked, whatever it has.")


def _show_value(widget: Any, role: dict[str, Any], values: list[Any]) -> None:
    """Show what a case holds for a role."""
    if role["kind"] not in NODE_CLASSES:
        text = str(values[0]) if values else ""
        if widget.text != text:
            widget.text = text
    elif role["many"]:
        for node in widget.checkedNodes():
            if node not in values:
                widget.setCheckState(node, qt.Qt.Unchecked)
        for node in values:
            widget.setCheckState(node, qt.Qt.Checked)
    else:
        widget.setCurrentNode(values[0] if values else None)
