"""Slicer's .mrk.json: points, lines, curves, planes, boxes (ROI) and spheres, in RAS millimetres on our side; and
points from the older .fcsv.

The form was read off files that slicer-core 5.12 writes. `slicerio` reads points only, so all six live here. Files
may be in LPS (Slicer's default) or RAS; orientation matrices are row-major with the object's axes as columns.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from medgen import files
from medgen.case import Box, Curve, Line, Plane, Points, Sphere
from medgen.errors import UserError
from medgen.method import Kind, Role

MAX_BYTES = 32 * 2**20
FARTHEST_MM = 1e7  # from the origin
_FLIP = np.array([-1.0, -1.0, 1.0])
_SHORTEST = 1e-3  # mm: of a line that is the diameter of a sphere
_TYPES = {
    "Fiducial": Kind.POINTS,
    "Line": Kind.LINE,
    "Curve": Kind.CURVE,
    "ClosedCurve": Kind.CURVE,
    "Plane": Kind.PLANE,
    "ROI": Kind.BOX,
}


def read(path: Path, role: Role) -> list[Any]:
    """The markups of a file that fit a role's kind. A sphere may be a ROI (its radius is half the mean size) or a line
    (its diameter). A role that may be empty gets nothing from a file that holds nothing; any other refuses it."""
    content = files.read_bytes(path, MAX_BYTES)
    if path.suffix.lower() == ".fcsv":
        return [_read_fcsv(path, content, role)]
    try:
        items = files.parse_json(content.decode("utf-8-sig"))["markups"]
        values = [_parse(item, role.kind, path) for item in items if _fits(item, role.kind)]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError):
        raise UserError(
            f"{path} is not a readable Slicer markups file; save it again from Slicer as .mrk.json."
        ) from None
    if not values and (items or not (role.many and role.may_be_empty)):
        found = ", ".join(sorted({str(item["type"])[:40] for item in items})[:9]) or "nothing"
        raise UserError(
            f"{path} holds {found}, but role “{role.name}” needs a {role.kind.value.lower()}; choose another file."
        )
    return values


def _read_fcsv(path: Path, content: bytes, role: Role) -> Points:
    """Points of Slicer's former fiducial file: a comment names the coordinate system (0 or RAS, 1 or LPS)."""
    if role.kind is not Kind.POINTS:
        raise UserError(
            f"{path} holds points, but role “{role.name}” needs a {role.kind.value.lower()}; choose another file."
        )
    flip, columns = np.ones(3), ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label"]
    rows: list[list[str]] = []
    try:
        for line in content.decode("utf-8-sig").splitlines():
            key, _, value = line.lstrip("# ").partition("=")
            if not line.startswith("#"):
                rows += list(csv.reader([line]))
            elif key.strip() == "CoordinateSystem":
                flip = _FLIP if value.strip() in ("1", "LPS") else np.ones(3)
            elif key.strip() == "columns":
                columns = [name.strip() for name in value.split(",")]
        points = [dict(zip(columns, row, strict=False)) for row in rows if row]
        positions = np.array([[float(point[axis]) for axis in "xyz"] for point in points]).reshape(-1, 3) * flip
        _check_places(positions)
        if not len(positions):
            raise ValueError("no points")
        names = [point.get("label") or point["id"] for point in points]
    except (ValueError, KeyError, csv.Error):
        raise UserError(f"{path} is not a readable .fcsv file; save it again from Slicer as .mrk.json.") from None
    return Points(positions, names, name=path.stem)


def _fits(item: dict[str, Any], kind: Kind) -> bool:
    found = _TYPES.get(item["type"])
    return found is kind or (kind is Kind.SPHERE and found in (Kind.BOX, Kind.LINE))


def _parse(item: dict[str, Any], kind: Kind, path: Path) -> Any:
    flip = _FLIP if item.get("coordinateSystem", "LPS") in ("LPS", "0") else np.ones(3)
    name = str(item.get("name", ""))
    if kind is Kind.SPHERE and item["type"] == "Line":
        return _sphere_on(_parse(item, Kind.LINE, path), path)
    if kind in (Kind.PLANE, Kind.BOX, Kind.SPHERE):
        centre = np.array(item["center"], float).reshape(3) * flip
        axes = flip[:, None] * np.array(item["orientation"], float).reshape(3, 3)
        _check_places(centre)
        _check_axes(axes)
        if kind is Kind.PLANE:
            return Plane(centre, axes, name)
        size = np.array(item["size"], float).reshape(3)
        _check_places(size)
        if not (size > 0).all():
            raise ValueError("a size that is not positive")
        confidence = _confidence(item.get("controlPoints") or [{}])
        if kind is Kind.BOX:
            name = name or path.name.removesuffix(".json").removesuffix(".mrk")  # as Slicer names what it loads
            return Box(centre, axes, size, name, None if np.isnan(confidence[0]) else float(confidence[0]))
        return Sphere(centre, float(size.mean() / 2), name)
    points = item.get("controlPoints", [])
    lost = [math.nan] * 3
    defined = [point.get("positionStatus", "defined") == "defined" and len(point["position"]) == 3 for point in points]
    places = [point["position"] if known else lost for point, known in zip(points, defined, strict=True)]
    positions = np.array(places or np.empty((0, 3)), float)
    if positions.shape != (len(points), 3):
        raise ValueError("positions that are not three numbers")
    positions = positions * flip
    _check_places(positions[np.array(defined, bool)])
    names = [str(point.get("label", "")) for point in points]
    confidence = _confidence(points)
    known = None if np.isnan(confidence).all() else confidence
    if kind is Kind.CURVE:
        return Curve(positions, names, known, name, closed=item["type"] == "ClosedCurve")
    return (Line if kind is Kind.LINE else Points)(positions, names, known, name)


def _check_places(values: np.ndarray) -> None:
    """ValueError for positions or sizes (mm) that are no numbers, or are farther off than anything in a patient."""
    if not (np.abs(values) <= FARTHEST_MM).all():
        raise ValueError("a position that is no place")


def _check_axes(axes: np.ndarray) -> None:
    """ValueError for axes that span no space."""
    lengths = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(axes).all() and (lengths > 1e-6).all() and abs(np.linalg.det(axes / lengths)) > 1e-6):
        raise ValueError("axes that span no space")


def _sphere_on(line: Line, path: Path) -> Sphere:
    """The sphere that has a line as its diameter."""
    if len(line.positions) != 2 or not line.found.all():
        raise UserError(f"Line “{line.name}” of {path} does not have its two points; place both, or remove it.")
    radius = float(np.linalg.norm(line.positions[1] - line.positions[0])) / 2
    if radius < _SHORTEST / 2:
        raise UserError(f"Line “{line.name}” of {path} has no length; move its two points apart, or remove it.")
    return Sphere(line.positions.mean(axis=0), radius, line.name)


def _confidence(points: list[dict[str, Any]]) -> np.ndarray:
    """What `_control_points` wrote into the descriptions; NaN where there is none."""
    result = np.full(len(points), np.nan)
    for row, point in enumerate(points):
        text = str(point.get("description", ""))
        if text.startswith("confidence "):
            result[row] = float(text.removeprefix("confidence "))
    return result


def write(value: Any, kind: Kind, path: Path) -> None:
    """Write one markup, or a list of them, in LPS as Slicer does."""
    values = value if isinstance(value, list) else [value]
    path.write_text(json.dumps({"markups": [_form(item, kind) for item in values]}, indent=1), encoding="utf-8")


def as_json(value: Any) -> dict[str, Any]:
    """One markup, or a list of them, as the content of a .mrk.json file."""
    values = value if isinstance(value, list) else [value]
    kinds = {Points: Kind.POINTS, Line: Kind.LINE, Curve: Kind.CURVE}
    return {"markups": [_form(item, kinds.get(type(item), Kind.PLANE)) for item in values]}


def _form(item: Any, kind: Kind) -> dict[str, Any]:
    form: dict[str, Any] = {"name": item.name, "coordinateSystem": "LPS", "coordinateUnits": "mm", "locked": False}
    if isinstance(item, Points):
        types = {Kind.POINTS: "Fiducial", Kind.LINE: "Line", Kind.CURVE: "Curve"}
        closed = isinstance(item, Curve) and item.closed
        return {**form, "type": "ClosedCurve" if closed else types[kind], "controlPoints": _control_points(item)}
    centre = item.origin if isinstance(item, Plane) else item.centre
    axes = np.eye(3) if isinstance(item, Sphere) else item.axes
    anchor = Points(np.asarray(centre, float)[None], [item.name], None, "")
    if isinstance(item, Box) and item.confidence is not None:
        anchor.confidence = np.array([item.confidence])
    form |= {
        "center": (np.asarray(centre) * _FLIP).tolist(),
        "orientation": (_FLIP[:, None] * axes).ravel().tolist(),
        "controlPoints": _control_points(anchor),
    }
    if isinstance(item, Plane):
        return {
            **form,
            "type": "Plane",
            "planeType": "pointNormal",
            "sizeMode": "auto",
            "normal": (_FLIP * item.axes[:, 2]).tolist(),
            **plane_matrices(form["orientation"], form["center"]),
        }
    size = [2 * item.radius] * 3 if isinstance(item, Sphere) else np.asarray(item.size).tolist()
    return {**form, "type": "ROI", "roiType": "Box", "size": size}


def plane_matrices(orientation: list[float], centre: list[float]) -> dict[str, list[float]]:
    """What Slicer reads a plane's directions from (it ignores "orientation"), for a file in LPS."""
    rows = [[*orientation[3 * row : 3 * row + 3], centre[row]] for row in range(3)]
    return {
        "objectToBase": np.diag([-1.0, -1.0, 1.0, 1.0]).ravel().tolist(),
        "baseToNode": [*rows[0], *rows[1], *rows[2], 0.0, 0.0, 0.0, 1.0],
    }


def _control_points(points: Points) -> list[dict[str, Any]]:
    result = []
    for row, found in enumerate(points.found):
        point: dict[str, Any] = {"id": str(row + 1), "label": points.names[row]}
        if points.confidence is not None and np.isfinite(points.confidence[row]):
            point["description"] = f"confidence {points.confidence[row]:.6g}"
        point["position"] = (points.positions[row] * _FLIP).tolist() if found else ""
        point["positionStatus"] = "defined" if found else "undefined"
        result.append(point)
    return result
