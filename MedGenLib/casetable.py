"""The table node that says how each of many cases went, as a person reads it. No Qt."""

from __future__ import annotations

from typing import Any

import vtk

from MedGenLib.i18n import _
from MedGenLib.jobqueue import CANCELLED, DONE, FAILED, RUNNING, WAITING

COLUMNS = ("case", "state", "reason", "output", "seconds")


def fill(node: Any, rows: list[dict[str, Any]]) -> None:
    """Give a table node these rows (`CaseBatch.rows`) and no other."""
    was_modifying = node.StartModify()
    node.RemoveAllColumns()
    shown = [_shown(row) for row in rows]
    for number, (name, title) in enumerate(zip(COLUMNS, _titles(), strict=True)):
        column = vtk.vtkDoubleArray() if name == "seconds" else vtk.vtkStringArray()
        column.SetName(title)
        for row in shown:
            column.InsertNextValue(row[number])
        node.AddColumn(column)
    node.EndModify(was_modifying)


def write_row(node: Any, number: int, row: dict[str, Any], count: int) -> bool:
    """Bring one row up to date; False where the node has not the columns and `count` rows that `fill` gave it."""
    columns = [node.GetTable().GetColumnByName(title) for title in _titles()]
    if node.GetNumberOfRows() != count or None in columns:
        return False
    for column, value in zip(columns, _shown(row), strict=True):
        column.SetValue(number, value)
    node.GetTable().Modified()
    node.Modified()
    return True


def _titles() -> list[str]:
    return [_("case"), _("state"), _("reason"), _("output"), _("seconds")]


def _shown(row: dict[str, Any]) -> list[Any]:
    states = {
        WAITING: _("waiting"),
        RUNNING: _("running"),
        DONE: _("done"),
        FAILED: _("failed"),
        CANCELLED: _("cancelled"),
    }
    return [states[row[name]] if name == "state" else row[name] for name in COLUMNS]
