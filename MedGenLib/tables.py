"""Tables and matrices between table nodes and CSV files in UTF-8."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from medgen import tables
from MedGenLib.errors import BoundaryError
from MedGenLib.i18n import _


def check(node: Any, name: str) -> None:
    """BoundaryError when a table has no cell."""
    if node.GetNumberOfColumns() == 0 or node.GetNumberOfRows() == 0:
        raise BoundaryError(_("Table “{name}” is empty; fill it or choose another.").format(name=name))


def write_csv(node: Any, path: Path, owner: str) -> None:
    """Every digit of the numbers; Slicer's own writer rounds them and leaves a schema file beside."""
    table = node.GetTable()
    columns = [table.GetColumn(index) for index in range(table.GetNumberOfColumns())]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            tables.write_lines(file, [[column.GetName() or "" for column in columns]])
            rows = range(table.GetNumberOfRows())
            tables.write_lines(file, ([_cell(column, row) for column in columns] for row in rows))
    except OSError as error:
        raise BoundaryError(
            _("“{owner}” could not be written to {folder} ({reason}).").format(
                owner=owner, folder=path.parent.parent, reason=error.strerror
            )
        ) from None


def _cell(column: Any, row: int) -> str:
    if not isinstance(column, vtk.vtkDataArray):
        return column.GetVariantValue(row).ToString()
    # numpy's shortest text that reads back as the same number of the column's own type
    value = vtk_to_numpy(column)[row]
    return "" if value.dtype.kind == "f" and np.isnan(value) else str(value)


def read_csv(path: Path) -> Any:
    """A table node, in no scene; columns whose every cell is a number (or empty) become numbers.

    Raises:
        BoundaryError: the file is not a CSV table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[tables.plain(cell) for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise BoundaryError(_("{path} is not a readable CSV table; run the method again.").format(path=path))
    node = slicer.vtkMRMLTableNode()
    for index, title in enumerate(rows[0]):
        cells = [row[index] for row in rows[1:]]
        column = _number_column(cells) or _text_column(cells)
        column.SetName(title)
        node.AddColumn(column)
    return node


def _number_column(cells: list[str]) -> vtk.vtkDoubleArray | None:
    try:
        values = [float(cell) if cell.strip() else float("nan") for cell in cells]
    except ValueError:
        return None
    if not any(cell.strip() for cell in cells):
        return None
    column = vtk.vtkDoubleArray()
    for value in values:
        column.InsertNextValue(value)
    return column


def _text_column(cells: list[str]) -> vtk.vtkStringArray:
    column = vtk.vtkStringArray()
    for cell in cells:
        column.InsertNextValue(cell)
    return column
