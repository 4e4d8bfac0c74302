"""The shared way in and out: from files to a case a network may see, and from its results to files that lie right.

In: values are read and checked, masks and second images are brought to the reference role's grid (said in the log),
and everything voxel-based is brought to the closest canonical axes by flips and permutations, so that the order in
which a file lists its axes changes nothing. Out: what lies on the reference's grid goes back to its own axes, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medgen import io, trained_on
from medgen.case import Affine, Case, Image, Mask
from medgen.cohort import Row
from medgen.errors import UserError
from medgen.geometry import AxisOrder, resample, to_canonical
from medgen.jobs import Run
from medgen.method import Kind, Role

Log = Callable[[str], None]
_SAME = 1e-4  # mm: grids that agree to this are one grid (NIfTI keeps float32 geometry)


class Prepared(Case):
    """A case on canonical axes that remembers the way back (`order` is None for 2D pictures and without a grid)."""

    order: AxisOrder | None = None
    own_affine: Affine | None = None
    grid: tuple[tuple[int, ...], Affine] | None = None
    covered: dict[str, torch.Tensor] | None = None  # by role: (i, j, k) bool, where a resampled value has voxels


def covered_box(case: Case, role: str) -> tuple[slice, slice, slice] | None:
    """The smallest box of the reference's voxels that a resampled value covers; None where it covers all of them."""
    inside = (getattr(case, "covered", None) or {}).get(role)
    if inside is None:
        return None
    spans = [torch.nonzero(inside.any(dim=other[1]).any(dim=other[0])).flatten() for other in ((1, 2), (0, 2), (0, 1))]
    i, j, k = (slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    return i, j, k


def load_case(files: dict[str, list[str]], roles: tuple[Role, ...], log: Log, label: str = "") -> Prepared:
    """Read, check, align and orient the files of one case.

    Raises UserError for a role that is unknown or missing, and for whatever a file has wrong with it.
    """
    known = {role.name: role for role in roles}
    for name in files:
        if name not in known:
            raise UserError(f"There is no role “{name}” here; the roles are: {', '.join(known) or 'none'}.")
    case = Prepared(label=label, files=files)
    for role in roles:
        texts = files.get(role.name, [])
        if not texts:
            if role.optional:
                continue
            raise UserError(
                f"Role “{role.name}” is missing ({role.help.rstrip('.')}); give it with -i {role.name}=FILE."
            )
        if len(texts) > 1 and not role.many:
            raise UserError(f"Role “{role.name}” takes one file, but {len(texts)} were given; give one.")
        values = [value for text in texts for value in io.read(text, role, log)]
        for value in values:
            _check(value, role, texts[0])
        case.values[role.name] = values if role.many else values[0]
    _align(case, roles, log)
    _orient(case, roles)
    trained_on.note(case, roles)
    return case


def load_row(row: Row, roles: tuple[Role, ...], log: Log) -> Prepared:
    """`load_case` for a row of a cohort; messages say which line."""
    try:
        case = load_case(row.files, tuple(r for r in roles if r.name in row.files or r.optional), log, row.label)
    except UserError as error:
        raise UserError(f"{row.label}: {error}") from None
    case.row = row.columns()
    return case


def load_rows(rows: Sequence[Row], roles: tuple[Role, ...], run: Run) -> list[Case]:
    """Rows to learn from and to validate with, in memory: all but those of the test split."""
    kept = [row for row in rows if row.split != "test"]
    cases: list[Case] = []
    for number, row in enumerate(kept):
        run.progress(number, len(kept), "read")
        cases.append(load_row(row, roles, run.log))
    return cases


def _check(value: Any, role: Role, file: str) -> None:
    if isinstance(value, Image):
        if value.data.numel() == 0:
            raise UserError(f"{file} has no voxels; choose another image.")
        wrong = int((~torch.isfinite(value.data)).sum())
        if wrong:
            raise UserError(f"{file} has {wrong} values that are not numbers (NaN or infinite); replace them first.")
        if float(value.data.min()) == float(value.data.max()):
            raise UserError(
                f"{file} is constant (every value is {float(value.data.min()):g}); choose an image with content."
            )
        if value.colour and role.dims == "3D":
            raise UserError(
                f"{file} is a colour volume, but role “{role.name}” needs one value a voxel; convert it to grey."
            )
    elif isinstance(value, Mask) and not role.may_be_empty and not bool((value.data > 0).any()):
        raise UserError(f"{file} is an empty mask; draw the structure for role “{role.name}” first.")


def _voxel_roles(case: Case, roles: tuple[Role, ...]) -> list[tuple[Role, int | None, Image | Mask]]:
    found: list[tuple[Role, int | None, Image | Mask]] = []
    for role in roles:
        if role.name not in case or role.kind not in (Kind.IMAGE, Kind.MASK):
            continue
        if role.many:
            found += [(role, index, value) for index, value in enumerate(case[role.name])]
        else:
            found.append((role, None, case[role.name]))
    return found


def _put(case: Case, role: Role, index: int | None, value: Image | Mask) -> None:
    if index is None:
        case.values[role.name] = value
    else:
        case.values[role.name][index] = value


def reference_of(case: Case, roles: tuple[Role, ...]) -> Image | Mask | None:
    """The value whose grid rules: of the role marked `reference`, else the first image, else the first mask."""
    found = _voxel_roles(case, roles)
    rank = {Kind.IMAGE: 1, Kind.MASK: 2}
    found.sort(key=lambda item: 0 if item[0].reference else rank[item[0].kind])
    return found[0][2] if found else None


def _align(case: Prepared, roles: tuple[Role, ...], log: Log) -> None:
    reference = reference_of(case, roles)
    if reference is None:
        return
    shape, affine = reference.shape, reference.affine
    for role, index, value in _voxel_roles(case, roles):
        if value is reference or _same_grid(value, shape, affine):
            continue
        name = f"“{value.name or role.name}” (role “{role.name}”)"
        if role.same_grid or len(shape) != len(value.shape):
            raise UserError(
                f"{name} does not lie on the grid of “{reference.name}” ({value.shape} against {shape} voxels); "
                "resample it to that grid first."
            )
        if len(shape) < 3:
            continue  # plain pictures have no space to share
        brought, inside = _resampled(value, shape, affine, name, reference.name)
        _put(case, role, index, brought)
        share = float(inside.float().mean())
        part = "" if share == 1 else f", {min(share, 0.99):.0%} of which it covers"
        log(f"{name} was resampled to the grid of “{reference.name}”{part}.")
        if share < 1 and not role.many:
            case.covered = {**(case.covered or {}), role.name: inside}


def _same_grid(value: Image | Mask, shape: tuple[int, ...], affine: Affine) -> bool:
    return value.shape == shape and np.allclose(value.affine, affine, rtol=0, atol=_SAME)


def _resampled(
    value: Image | Mask, shape: tuple[int, ...], affine: Affine, name: str, other: str
) -> tuple[Image | Mask, torch.Tensor]:
    """The value on another grid, and (i, j, k) bool, where it has voxels there."""
    size = (shape[0], shape[1], shape[2])
    inside = resample(torch.ones(1, *value.shape), value.affine, size, affine, "nearest")
    if not bool(inside.any()):
        raise UserError(
            f"{name} and “{other}” do not overlap in space; check that they belong to the same patient and scan."
        )
    if isinstance(value, Mask):
        labels = resample(value.data[None], value.affine, size, affine, "nearest")[0]
        if bool((value.data > 0).any()) and not bool((labels > 0).any()):
            raise UserError(
                f"{name} has nothing inside “{other}”; check that they belong to the same patient and scan."
            )
        return replace(value, data=labels, affine=affine), inside[0] > 0
    lowest = float(value.data.min())
    data = resample(value.data, value.affine, size, affine, "linear", lowest)
    return replace(value, data=data, affine=affine), inside[0] > 0


def _orient(case: Prepared, roles: tuple[Role, ...]) -> None:
    reference = reference_of(case, roles)
    if reference is None or len(reference.shape) != 3:
        return
    case.own_affine = reference.affine
    _, canonical, case.order = to_canonical(torch.empty(reference.shape, device="meta"), reference.affine)
    for role, index, value in _voxel_roles(case, roles):
        _put(case, role, index, replace(value, data=case.order.forward(value.data), affine=canonical))
    if case.covered:
        case.covered = {name: case.order.forward(inside) for name, inside in case.covered.items()}
    oriented = reference_of(case, roles)
    assert oriented is not None
    case.grid = (oriented.shape, canonical)


def finish_case(result: Case, given: Prepared) -> Case:
    """The results with whatever lies on the prepared reference's grid brought back to the input's own axes."""
    if given.order is None or given.grid is None or given.own_affine is None:
        return result
    shape, canonical = given.grid
    order, own = given.order, given.own_affine

    def back(value: Any) -> Any:
        if isinstance(value, (Image, Mask)) and _same_grid(value, shape, canonical):
            return replace(value, data=order.backward(value.data), affine=own)
        return value

    values = {
        name: [back(v) for v in value] if isinstance(value, list) else back(value)
        for name, value in result.values.items()
    }
    return replace(result, values=values)
