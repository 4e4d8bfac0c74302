"""What an image file says of itself, looked at before its voxels take memory, and what of it is refused.

The ending decides which of ITK's readers opens a file: left alone, ITK tries them all, and a file that is named as a
NIfTI would reach the HDF5 or VTK reader.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medgen import files, imageforms, resources
from medgen.errors import UserError

READERS = {
    **dict.fromkeys((".nii", ".nii.gz"), "NiftiImageIO"),
    **dict.fromkeys((".nrrd", ".nhdr", ".seg.nrrd"), "NrrdImageIO"),
    **dict.fromkeys((".mha", ".mhd"), "MetaImageIO"),
    ".dcm": "GDCMImageIO",
    ".png": "PNGImageIO",
    **dict.fromkeys((".jpg", ".jpeg"), "JPEGImageIO"),
    **dict.fromkeys((".tif", ".tiff"), "TIFFImageIO"),
    ".bmp": "BMPImageIO",
}
SPACING_MM = (1e-6, 1e4)  # least and largest distance of voxels: electron microscopy to nonsense
FARTHEST_MM = 1e7  # from the origin
SHEAR = 1e-3  # largest cosine between two axes, and largest error of an axis' length
# What needs more memory than this, and unpacks to more than so many times its file, is taken for a decompression bomb.
BOMB_BYTES = 3 * 2**29
BOMB_RATIO = 250
_CARELESS_BYTES = 2**28  # a need that is not compared with the free memory, which takes a moment to learn
_COMPONENT_BYTES = (1, 1, 2, 2, 4, 4, 8, 8, 4, 8)  # by SimpleITK's pixel type; 12 more for vectors of the same


def reader(path: Path, ending: str, labels: bool = False) -> sitk.ImageFileReader:
    """A reader that stands before an image file whose header is sound and whose voxels fit into the free memory.

    ending: the file's, lower case (`medgen.io.extension`). labels: it is read as a mask, in less memory.
    Raises UserError for what is refused, RuntimeError (as ITK) where the header cannot be read.
    """
    check_name(path)
    size = files.regular(path).st_size
    if not size:
        raise UserError(f"{path} is empty; export the image again.")
    found = sitk.ImageFileReader()
    found.SetImageIO(_reader_of(path, ending))
    found.SetFileName(str(path))
    form = found.GetImageIO()
    detached = imageforms.data_file(path, form)
    if detached is not None:
        size += files.regular(detached).st_size
    imageforms.check_before(path, form)
    found.ReadImageInformation()
    check_shape(found, path)
    check_geometry(found, path)
    _check_memory(found, path, size, 4 if labels else 8)
    imageforms.check_voxels(path, form, found)
    return found


def _reader_of(path: Path, ending: str) -> str:
    if ending in READERS:
        return READERS[ending]
    with path.open("rb") as stream:
        if stream.read(132)[128:] == b"DICM":  # scanners name DICOM files as they like
            return READERS[".dcm"]
    known = ", ".join(one for one in READERS if one != ".seg.nrrd")
    raise UserError(f"{path} has an ending that is not read as an image; export it as one of {known}.")


def check_name(path: Path) -> None:
    """UserError for a name that SimpleITK cannot take: it ends the process."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path} has a name that is not text in UTF-8; rename it (or its folder).") from None


def check_shape(found: Any, path: Path) -> None:
    """UserError for an image (or a reader before it) without voxels, of more than three axes, or of complex numbers."""
    sizes = list(found.GetSize())
    if not sizes or min(sizes) < 1:
        raise UserError(f"{path} has no voxels; choose another image.")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) > 3:
        raise UserError(f"{path} has {len(sizes)} axes ({' x '.join(map(str, sizes))}); give one 3D frame of it.")
    if found.GetPixelIDValue() % 12 >= len(_COMPONENT_BYTES) or not 0 <= found.GetPixelIDValue() < 22:
        raise UserError(f"{path} holds complex or unknown numbers; export their magnitude as an image.")


def check_geometry(found: Any, path: Path) -> None:
    """UserError for spacings, axes or an origin that no patient has; sheared axes cannot be kept."""
    n = min(found.GetDimension(), 3)
    spacing, origin = np.array(found.GetSpacing()[:n]), np.array(found.GetOrigin()[:n])
    low, high = SPACING_MM
    if not ((spacing >= low) & (spacing <= high)).all():
        raise UserError(
            f"{path} has no usable geometry (a spacing of {' x '.join(f'{one:g}' for one in spacing)} mm); "
            "set its spacing and export it again."
        )
    if not (np.abs(origin) <= FARTHEST_MM).all():
        raise UserError(f"{path} has no usable geometry (its origin is far off or not a number); set its origin.")
    axes = np.array(found.GetDirection()).reshape(found.GetDimension(), -1)[:n, :n]
    if not np.isfinite(axes).all() or abs(np.linalg.det(axes)) < 1e-6:
        raise UserError(f"{path} has no usable geometry (its axes span no volume); set its directions.")
    if np.abs(axes.T @ axes - np.eye(n)).max() > SHEAR:
        raise UserError(
            f"{path} has sheared axes, which cannot be kept; resample it to a grid with right angles first."
        )


def _check_memory(found: Any, path: Path, stored: int, bytes_a_value: int, frames: int = 1) -> None:
    """UserError where voxels would come out of far too few bytes, or reading them needs more memory than is free.

    stored: bytes on disk. bytes_a_value: what a voxel's value takes as float32 or int16, twice while axes are ordered.
    """
    values = math.prod(found.GetSize()) * found.GetNumberOfComponents() * frames
    unpacked = values * _COMPONENT_BYTES[found.GetPixelIDValue() % 12]
    sizes = " x ".join(map(str, (*found.GetSize(), frames)[: found.GetDimension() + (frames > 1)]))
    need = 2 * unpacked + bytes_a_value * values  # ITK's voxels and numpy's, then ours
    if need > BOMB_BYTES and unpacked > BOMB_RATIO * stored:
        raise UserError(
            f"{path} says it has {sizes} voxels, which its {_amount(stored)} hardly hold; "
            "if the image is genuine, save it uncompressed."
        )
    if need <= _CARELESS_BYTES:
        return
    free = resources.memory().free
    if free is not None and need > free:
        raise UserError(
            f"{path} ({sizes} voxels) needs about {_amount(need)} of memory, but {_amount(free)} are free; "
            "close other programs, or crop the image first."
        )


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB" if size >= 2**19 else f"{size} B"


# --- DICOM series -------------------------------------------------------------------------------------------------


def check_series(names: tuple[str, ...] | list[str], folder: Path) -> None:
    """UserError where a series' first file has no sound shape, or all of its files need more memory than is free; its
    geometry, which medgen.dicomvolume makes of all headers, is checked once it is read."""
    found = sitk.ImageFileReader()
    found.SetImageIO(READERS[".dcm"])
    found.SetFileName(str(names[0]))
    found.ReadImageInformation()
    check_shape(found, folder)
    _check_memory(found, folder, sum(files.regular(Path(name)).st_size for name in names), 8, len(names))
