"""A DICOM series as one volume that lies where its headers say.

GDCM reads the pixels, through SimpleITK, and applies rescale slope and intercept, so that CT is in HU. The geometry is
made from the headers themselves; slices that make no regular grid are refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medgen import dicom
from medgen.dicomheader import Frame, Header
from medgen.errors import UserError

NAME = "MedGen name"  # of the metadata of an image that was read: what it is called, in place of whose it is
UNEVEN = 0.01  # how much of the slice distance a slice may be out of its place
_TILTED = 2e-3  # of the way along the normal, how far slices may shift within their plane
_ROUNDED = 2e-3  # mm: what two positions written with three decimals may differ by
_SAME_DIRECTION = 1e-3

Vector = NDArray[np.float64]


def read(text: str | Path, headers: list[Header]) -> sitk.Image:
    """A series, or a file that holds a picture or several slices, without any of its header.

    text: what it is called in messages. headers: as `named` gives them.
    Raises UserError where it has no regular grid, RuntimeError where GDCM cannot read it.
    """
    usable = [one for one in headers if dicom.is_image(one)]
    if not usable:
        raise UserError(f"{text} is DICOM but no image ({headers[0].modality or 'no pixels'}); choose an image series.")
    for one in usable:  # GDCM fills what is missing
        if one.pixels > one.path.stat().st_size:
            raise UserError(f"{one.path} lacks pixels that its header tells of (truncated?); export it again.")
    if len({one.size for one in usable}) > 1:
        raise UserError(f"{text} holds pictures of different sizes; split it into series of one size each.")
    if len(usable) > 1 and any(len(one.frames) > 1 for one in usable):
        raise UserError(f"{text} holds {len(usable)} files of several frames each; name one file of it.")
    frames = [frame for one in usable for frame in one.frames]
    if len(frames) > 1 or frames[0].position is not None:
        order, grid = _grid(text, frames, usable[0].thickness)
    else:
        order, grid = [0], None
    rescales = {frame.rescale for frame in frames}
    if len(usable) == 1:
        if len(rescales) > 1:
            raise UserError(f"{text} has frames of different rescale slopes; export it as single slices or as NIfTI.")
        image = _in_order(sitk.ReadImage(str(usable[0].path), imageIO="GDCMImageIO"), order)
    else:
        reader = sitk.ImageSeriesReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileNames([str(usable[index].path) for index in order])
        if len(rescales) > 1:  # ITK gives every slice the type of the first, and would cut off what that cannot hold
            reader.SetOutputPixelType(sitk.sitkFloat32)
        image = reader.Execute()
    for key in image.GetMetaDataKeys():  # patient's name and all
        image.EraseMetaData(key)
    image.SetMetaData(NAME, dicom.name(usable))
    if grid is not None and image.GetDimension() == 3 and image.GetSize()[2] == len(frames):
        image.SetOrigin(grid[:3, 3].tolist())
        image.SetSpacing(np.linalg.norm(grid[:3, :3], axis=0).tolist())
        image.SetDirection((grid[:3, :3] / np.linalg.norm(grid[:3, :3], axis=0)).ravel().tolist())
    elif grid is not None:
        raise UserError(f"{text} does not hold the {len(frames)} slices that its header tells of; export it again.")
    return image


def _in_order(image: sitk.Image, order: list[int]) -> sitk.Image:
    """A volume with its slices in another order."""
    if order == sorted(order) or image.GetSize()[2] != len(order):
        return image
    return sitk.GetImageFromArray(sitk.GetArrayFromImage(image)[order], image.GetNumberOfComponentsPerPixel() > 1)


def _axes(frame: Frame) -> tuple[Vector, Vector, Vector]:
    """Unit vectors along a row, down a column, and normal to both (LPS)."""
    given = np.array(frame.orientation or (1, 0, 0, 0, 1, 0))
    row = given[:3] / max(float(np.linalg.norm(given[:3])), 1e-9)
    column = given[3:] - np.dot(given[3:], row) * row
    column /= max(float(np.linalg.norm(column)), 1e-9)
    return row, column, np.cross(row, column)


def _grid(text: str | Path, frames: list[Frame], thickness: float | None) -> tuple[list[int], Vector]:
    """The order of frames along their normal, and the 4x4 voxel index -> LPS mm of the volume they make."""
    first = frames[0]
    if any(frame.position is None or frame.orientation is None for frame in frames):
        raise UserError(
            f"{text} holds {len(frames)} pictures without a place in space (a film, or single views); give one as a "
            "file of its own."
        )
    for frame in frames:
        if not np.allclose(frame.orientation or (), first.orientation or (), rtol=0, atol=_SAME_DIRECTION):
            raise UserError(
                f"{text} holds slices of different orientations (as a scout does); split it by orientation."
            )
        if not np.allclose(frame.spacing or (1, 1), first.spacing or (1, 1), rtol=1e-4):
            raise UserError(f"{text} holds slices of different pixel sizes; split it into series of one size each.")
    given = np.array(first.orientation).reshape(2, 3)
    if abs(np.dot(*given)) > _SAME_DIRECTION or not np.allclose(np.linalg.norm(given, axis=1), 1, rtol=0, atol=0.01):
        raise UserError(
            f"{text} has rows and columns that are not at right angles; resample it to a right-angled grid."
        )
    row, column, normal = _axes(first)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    between = _slice_distance(text, heights[order], positions[order], normal, thickness)
    down, across = first.spacing or (1.0, 1.0)
    if min(down, across) <= 0:
        raise UserError(f"{text} has a pixel size of zero or less; correct its header or export it again.")
    grid = np.eye(4)
    grid[:3, :3] = np.stack([row * across, column * down, normal * between], axis=1)
    grid[:3, 3] = positions[order[0]]
    return order.tolist(), grid


def _slice_distance(
    text: str | Path, heights: Vector, positions: Vector, normal: Vector, thickness: float | None
) -> float:
    """mm from slice to slice; UserError where they are not stacked evenly and straight."""
    count = len(heights)
    if count == 1:
        return thickness if thickness and thickness > 0 else 1.0
    gaps = np.diff(heights)
    same = int((gaps < _ROUNDED).sum())
    if same:
        times = count / (count - same)
        if (times == int(times) and count > same + 1) or count == same + 1:
            what = f"{times:g} pictures at every place (times, echoes or phases)"
        else:
            what = f"{same} slices twice"
        raise UserError(f"{text} holds {what}, which is not one volume; split it or remove what is there twice.")
    usual = float(np.median(gaps))
    out = np.abs(gaps - usual)
    if float(out.max()) > max(UNEVEN * usual, _ROUNDED):
        missing = int(np.rint(gaps / usual - 1).clip(0).sum())
        even = np.abs(gaps / usual - np.rint(gaps / usual)).max() < 0.1
        what = f"lacks {missing} slice{'s' * (missing != 1)}" if missing and even else "has slices at uneven distances"
        raise UserError(
            f"{text} {what} ({gaps.min():.4g} to {gaps.max():.4g} mm apart); complete it or resample it to even slices."
        )
    shift = positions - positions[0] - np.outer(heights - heights[0], normal)
    farthest = float(np.linalg.norm(shift, axis=1).max())
    length = float(heights[-1] - heights[0])
    if farthest > max(_TILTED * length, 2 * UNEVEN * usual, _ROUNDED):
        angle = np.degrees(np.arctan2(farthest, length))
        raise UserError(
            f"{text} has slices that are shifted against each other (a gantry tilted by {angle:.1f}°); resample it to "
            "a right-angled grid first."
        )
    return length / (count - 1)
