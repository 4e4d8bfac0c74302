"""Files in, files out. SimpleITK reads and writes images and masks; markups, tables and latents have their own forms.

Every reader raises `UserError` with one sentence that names the file and the remedy. Every writer writes beside the
target and renames, so that a file is whole or absent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from medgen import dicom, dicomvolume, files, headers, imageforms, markups
from medgen.case import Affine, Class, Image, Latent, Mask, Matrix, Plot, Segment, Table
from medgen.errors import UserError
from medgen.method import Kind, Role
from medgen.tables import read_rows as read_rows
from medgen.tables import write_rows as write_rows
from medgen.whole import written_whole

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")
_RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_LABEL, MAX_SEGMENTS = 32767, 1000
MAX_LATENT_BYTES = 2**30
MAX_CLASS_BYTES = 2**16
# Slicer's own default for files whose segments overlap in a label map: what stands later covers what stands earlier.
OVERLAP_RULE = "where segments overlap, the one listed later wins"


def extension(path: Path) -> str:
    """The file's ending as MedGen knows it, lower case: ".nii.gz", ".seg.nrrd", ".mrk.json" or the last suffix."""
    name = path.name.lower()
    return next((e for e in (".nii.gz", ".seg.nrrd", ".mrk.json") if name.endswith(e)), path.suffix.lower())


# --- images and masks ---------------------------------------------------------------------------------------------


def read_itk(path: Path, labels: bool = False) -> sitk.Image:
    """The file, or the DICOM series that a path names (medgen.dicom says how), as SimpleITK gives it. labels: it will
    be read as a mask.

    Raises UserError for what `medgen.headers` refuses, and for a file that is damaged or not what its ending says.
    """
    try:
        status = files.status(dicom.split(path)[0])
        if found := dicom.named(path):
            for one in found:
                headers.check_name(one.path)
            if pictures := [str(one.path) for one in found if dicom.is_image(one)]:
                headers.check_series(pictures, path)
            volume = dicomvolume.read(path, found)
            headers.check_geometry(volume, path)
            return volume
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"Folder {path} holds no DICOM series; name an image file or a folder with one series.")
        image = headers.reader(path, extension(path), labels).Execute()
        if image.GetNumberOfComponentsPerPixel() == 3 and imageforms.is_palette_bmp(path):
            image = _grey(image)  # ITK gives every BMP three channels
    except MemoryError:
        raise UserError(f"{path} needs more memory than is free; close other programs, or crop the image.") from None
    except (RuntimeError, OSError, UnicodeDecodeError) as error:  # ITK quotes a damaged file's bytes in its message
        if "orthonormal" in str(error):
            raise UserError(
                f"{path} has sheared axes, which cannot be kept; resample it to a grid with right angles first."
            ) from None
        raise UserError(
            f"{path} cannot be read as an image (damaged, truncated or not what its ending says); "
            "export it again as NIfTI or NRRD."
        ) from None
    return image


def _grey(image: sitk.Image) -> sitk.Image:
    """One channel where all three are the same."""
    values = sitk.GetArrayViewFromImage(image)
    return sitk.VectorIndexSelectionCast(image, 0) if (values == values[..., :1]).all() else image


def _squeezed(image: sitk.Image, path: Path) -> sitk.Image:
    """Without trailing axes of one sample; UserError when more than three axes are left."""
    headers.check_shape(image, path)
    while image.GetDimension() > 3:
        image = image[tuple(slice(None) for _ in image.GetSize()[:-1]) + (0,)]
    return image


def affine_of(image: sitk.Image) -> Affine:
    """4x4 voxel index -> RAS mm of a 2D or 3D SimpleITK image (2D pictures lie in the plane z = 0)."""
    n = image.GetDimension()
    affine = np.eye(4)
    affine[:n, :n] = np.array(image.GetDirection()).reshape(n, n) * np.array(image.GetSpacing())
    affine[:n, 3] = image.GetOrigin()
    return _RAS_LPS @ affine


def set_geometry(image: sitk.Image, affine: Affine) -> None:
    """Give a SimpleITK image the spacing, direction and origin of an affine to RAS mm."""
    n = image.GetDimension()
    lps = (_RAS_LPS @ affine)[:n]
    spacing = np.linalg.norm(lps[:, :n], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:, :n] / spacing).ravel().tolist())
    image.SetOrigin(lps[:, 3].tolist())


def _checked_affine(image: sitk.Image, path: Path) -> Affine:
    headers.check_geometry(image, path)
    return affine_of(image)


def read_image(path: Path, role: Role | None = None) -> Image:
    """An image file (or DICOM folder) as float32 (C, i, j[, k]); a one-slice volume counts as 2D where 2D is asked."""
    image = _squeezed(read_itk(path), path)
    affine = _checked_affine(image, path)
    array = sitk.GetArrayFromImage(image)
    components = image.GetNumberOfComponentsPerPixel()
    array = array[..., None] if components == 1 else array
    if components == 4:  # an opacity channel carries no tissue
        array = array[..., :3]
    axes = image.GetDimension()
    data = torch.from_numpy(np.ascontiguousarray(array.transpose(axes, *range(axes - 1, -1, -1)), dtype=np.float32))
    if role is not None:
        data = _fit_dimensions(data, role, path)
    return Image(data, affine, name=_name(image, path), units=role.units if role else None, colour=components in (3, 4))


def _fit_dimensions(data: torch.Tensor, role: Role, path: Path) -> torch.Tensor:
    flat = data.ndim == 3 or data.shape[-1] == 1
    if role.dims == "3D" and flat:
        raise UserError(f"{path} is a 2D picture, but role “{role.name}” needs a 3D volume; choose a volume.")
    if role.dims == "2D" and not flat:
        raise UserError(
            f"{path} is a 3D volume, but role “{role.name}” needs a 2D picture; choose a picture or a single slice."
        )
    return data[..., 0] if role.dims == "2D" and data.ndim == 4 else data


def write_image(image: Image, path: Path) -> None:
    """Write by the path's ending. Pictures are 8-bit: values are rounded and clipped to 0..255."""
    headers.check_name(path)
    array = image.data.detach().cpu().numpy()
    array = array.transpose(*range(array.ndim - 1, 0, -1), 0)
    if extension(path) in PICTURES:
        array = np.clip(np.rint(array), 0, 255).astype(np.uint8)
    vector = array.shape[-1] > 1
    result = sitk.GetImageFromArray(np.ascontiguousarray(array if vector else array[..., 0]), isVector=vector)
    set_geometry(result, image.affine)
    with written_whole(path) as partial:
        sitk.WriteImage(result, str(partial), useCompression=extension(path) == ".nii.gz")


def read_mask(path: Path, role: Role | None = None, log: Callable[[str], None] = lambda message: None) -> Mask:
    """A label image or a .seg.nrrd as one label map; overlaps go by `OVERLAP_RULE` and are counted in the log."""
    image = _squeezed(read_itk(path, labels=True), path)
    affine = _checked_affine(image, path)
    axes = image.GetDimension()
    array = sitk.GetArrayFromImage(image)
    layers = array[..., None] if image.GetNumberOfComponentsPerPixel() == 1 else array
    layers = layers.transpose(axes, *range(axes - 1, -1, -1))
    if not np.issubdtype(layers.dtype, np.integer):
        if not np.array_equal(layers, np.rint(layers)):
            raise UserError(f"{path} holds fractions, not labels; choose a segmentation or a label map.")
        _check_labels(layers, path)
        layers = layers.astype(np.int32)
    keys = {key: _legible(image.GetMetaData(key)) for key in image.GetMetaDataKeys() if key.startswith("Segment")}
    segments, merged = _merge_layers(layers, keys, path, log)
    data = torch.from_numpy(np.ascontiguousarray(merged))
    if role is not None:
        data = _fit_dimensions(data[None], role, path)[0]
    return Mask(data, affine, segments, name=_name(image, path))


def _merge_layers(
    layers: np.ndarray, keys: dict[str, str], path: Path, log: Callable[[str], None]
) -> tuple[list[Segment], np.ndarray]:
    """One int16 label map and its segments from the layers of a .seg.nrrd (or a plain label map)."""
    if "Segment0_LabelValue" not in keys:
        if len(layers) > 1:
            raise UserError(f"{path} is a colour picture, not a label map; choose a segmentation.")
        _check_labels(layers, path)
        values = [int(value) for value in np.unique(layers[0]) if value]
        return [Segment(value, f"label_{value}", colour_of(value)) for value in values], layers[0].astype(np.int16)
    try:
        placed = [_segment(keys, index) for index in range(_count_segments(keys, path))]
    except ValueError:
        raise UserError(f"{path} describes its segments in a damaged way; save it again from Slicer.") from None
    if any(not 0 <= layer < len(layers) for layer, _, _ in placed):
        raise UserError(f"{path} names a layer of segments that it does not have; save it again from Slicer.")
    _check_labels(layers, path)
    merged = np.zeros(layers.shape[1:], np.int16)
    covered = 0
    for number, layer in enumerate(layers):
        segment_of = np.zeros(MAX_LABEL + 1, np.int16)
        for at, label, segment in placed:
            if at == number:
                segment_of[label] = segment.value
        for place, labels in zip(merged, layer, strict=True):  # a plane at a time: an index takes eight bytes a voxel
            found = segment_of[labels]
            covered += int(((found > 0) & (place > 0)).sum())
            np.maximum(place, found, out=place)
    if covered:
        log(f"{path.name}: {covered} voxels belong to more than one segment; {OVERLAP_RULE}.")
    return [segment for _, _, segment in placed], merged


def _legible(text: str) -> str:
    """Text of a header as Latin-1 where it is not UTF-8, in which a header is written again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    return text


def _check_labels(layers: np.ndarray, path: Path) -> None:
    if layers.size and not 0 <= layers.min() <= layers.max() <= MAX_LABEL:
        raise UserError(f"{path} has labels outside 1..{MAX_LABEL}; renumber them.")


def _count_segments(keys: dict[str, str], path: Path) -> int:
    count = 0
    while f"Segment{count}_LabelValue" in keys:
        count += 1
    if count > MAX_SEGMENTS:
        raise UserError(f"{path} describes more than {MAX_SEGMENTS} segments; part it into several files.")
    return count


def _segment(keys: dict[str, str], index: int) -> tuple[int, int, Segment]:
    """Layer, label in it and the segment (valued by its place in the list) that a .seg.nrrd describes; ValueError."""
    layer, label = int(keys.get(f"Segment{index}_Layer", 0)), int(keys[f"Segment{index}_LabelValue"])
    if not 0 < label <= MAX_LABEL:
        raise ValueError(label)
    parts = [float(part) for part in keys.get(f"Segment{index}_Color", "").split()]
    red, green, blue = parts[:3] if parts else colour_of(index + 1)
    if not all(0 <= part <= 1 for part in (red, green, blue)):
        raise ValueError("colour")
    tags = dict(part.split(":", 1) for part in keys.get(f"Segment{index}_Tags", "").split("|") if ":" in part)
    name = keys.get(f"Segment{index}_Name", f"Segment_{index + 1}")
    return layer, label, Segment(index + 1, name, (red, green, blue), tags.get("TerminologyEntry"))


def write_mask(mask: Mask, path: Path) -> None:
    """Write labels by the path's ending; a .seg.nrrd carries names, colours and terminology for Slicer."""
    headers.check_name(path)
    result = sitk.GetImageFromArray(np.ascontiguousarray(mask.data.cpu().numpy().astype(np.int16).T))
    set_geometry(result, mask.affine)
    if extension(path) == ".seg.nrrd":
        result.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
        result.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
        extent = " ".join(f"0 {size - 1}" for size in result.GetSize())
        for index, segment in enumerate(mask.segments):
            entries = {
                "ID": f"Segment_{index + 1}",
                "Name": segment.name,
                "NameAutoGenerated": "0",
                "Color": " ".join(f"{part:.6g}" for part in segment.colour),
                "ColorAutoGenerated": "0",
                "LabelValue": str(segment.value),
                "Layer": "0",
                "Extent": extent,
                "Tags": f"TerminologyEntry:{segment.terminology}|" if segment.terminology else "|",
            }
            for key, value in entries.items():
                result.SetMetaData(f"Segment{index}_{key}", value)
    with written_whole(path) as partial:
        sitk.WriteImage(result, str(partial), useCompression=True)


def colour_of(value: int) -> tuple[float, float, float]:
    """A colour for a label that has none: evenly spread hues, the same for the same value every time."""
    import colorsys

    return colorsys.hsv_to_rgb((value * 0.61803398875) % 1.0, 0.65, 0.95)


# --- tables, matrices, latents ------------------------------------------------------------------------------------


def _read_table(path: Path) -> Table:
    rows = read_rows(path)
    return Table({key: [row.get(key, "") for row in rows] for key in (rows[0] if rows else {})}, name=_stem(path))


def _write_table(table: Table, path: Path) -> None:
    count = len(next(iter(table.columns.values()), []))
    write_rows([{key: column[row] for key, column in table.columns.items()} for row in range(count)], path)


def _read_matrix(path: Path) -> Matrix:
    rows = read_rows(path)
    regions = list(rows[0])[1:] if rows else []
    try:
        values = np.array([[float(row[name]) for name in regions] for row in rows])
    except ValueError as error:
        raise UserError(f"{path} has an entry that is not a number ({str(error)[:90]}); mend the table.") from None
    if not np.isfinite(values).all():
        raise UserError(f"{path} has entries that are not numbers (NaN or infinite); mend the table.")
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise UserError(f"{path} is not a square matrix with a first column of names and a header; mend the table.")
    return Matrix(values, regions, name=_stem(path))


def _write_matrix(matrix: Matrix, path: Path) -> None:
    write_rows(
        [
            {"region": a, **dict(zip(matrix.regions, row, strict=True))}
            for a, row in zip(matrix.regions, matrix.values.tolist(), strict=True)
        ],
        path,
    )


def _write_plot(plot: Plot, path: Path) -> None:
    _write_table(Table({plot.x_label or "x": plot.x, **plot.series}), path)


def _read_latent(path: Path) -> Latent:
    from safetensors.torch import load

    content = files.read_bytes(path, MAX_LATENT_BYTES)
    try:
        tensors = load(content)
    except Exception:
        raise UserError(f"{path} is not a latent that MedGen wrote (.safetensors); choose another file.") from None
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise UserError(f"{path} has values that are not numbers (NaN or infinite); make the latent again.")
    return Latent(tensors, name=_stem(path))


def _write_latent(latent: Latent, path: Path) -> None:
    from safetensors.torch import save_file

    with written_whole(path) as partial:
        save_file({key: value.detach().cpu().contiguous() for key, value in latent.tensors.items()}, partial)


def _read_class(text: str) -> Class:
    """A class as it is written, or as the text of a .txt file."""
    path = Path(text)
    if path.suffix != ".txt" or not os.path.isfile(path):
        return Class(text)
    try:
        return Class(files.read_bytes(path, MAX_CLASS_BYTES).decode("utf-8").strip())
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text in UTF-8; save it as such.") from None


def _write_class(value: Class, path: Path) -> None:
    with written_whole(path) as partial:
        partial.write_text(value.label + "\n", encoding="utf-8")


# --- by kind ------------------------------------------------------------------------------------------------------

_MARKUPS = (Kind.POINTS, Kind.LINE, Kind.CURVE, Kind.PLANE, Kind.BOX, Kind.SPHERE)
ENDINGS = {
    Kind.IMAGE: ".nii.gz",
    Kind.MASK: ".seg.nrrd",
    **dict.fromkeys(_MARKUPS, ".mrk.json"),
    Kind.MATRIX: ".csv",
    Kind.TABLE: ".csv",
    Kind.PLOT: ".csv",
    Kind.CLASS: ".txt",
    Kind.LATENT: ".safetensors",
    Kind.MODEL: "",
    Kind.COHORT: "",
}


def ending_of(value: Any, kind: Kind) -> str:
    """The ending of a file for a value that nobody has named: a plain picture (pixels of 1 mm on upright axes, as PNG
    files have them, and whole values of 0..255) is a PNG, other images keep their geometry as NIfTI."""
    if kind is not Kind.IMAGE or len(value.shape) != 2:
        return ENDINGS[kind]
    plain = np.allclose(value.affine[:3, :3], np.diag([-1.0, -1.0, 1.0]))
    whole = bool(((value.data == value.data.round()) & (value.data >= 0) & (value.data <= 255)).all())
    return ".png" if plain and whole else ENDINGS[kind]


def check_ending(path: Path, role: Role) -> None:
    """UserError when a file of this name cannot hold what the role gives (known before any work is done)."""
    pictures = PICTURES if role.dims != "3D" else ()
    volumes = tuple(ending for ending in VOLUMES if ending not in (".dcm", ".mhd", ".nhdr"))
    known = {Kind.IMAGE: (*volumes, *pictures), Kind.MASK: (".seg.nrrd", *volumes, *pictures)}
    endings = known.get(role.kind, (ENDINGS[role.kind],))
    if endings != ("",) and extension(path) not in endings:  # folders are named as one likes
        raise UserError(
            f"{path} cannot hold this result ({role.kind.value.lower()}); end its name with {' or '.join(endings)}."
        )
    if role.kind in (Kind.IMAGE, Kind.MASK):
        headers.check_name(path)


def read(text: str | Path, role: Role, log: Callable[[str], None] = lambda message: None) -> list[Any]:
    """What a file holds for a role: one value, or several where a markups file has several."""
    path = Path(text)
    if role.kind is Kind.CLASS:
        return [_read_class(str(text))]
    if role.kind is Kind.IMAGE:
        return [read_image(path, role)]
    if role.kind is Kind.MASK:
        return [read_mask(path, role, log)]
    if role.kind in _MARKUPS:
        return markups.read(path, role)
    files.regular(path)
    readers: dict[Kind, Callable[[Path], Any]] = {
        Kind.MATRIX: _read_matrix,
        Kind.TABLE: _read_table,
        Kind.LATENT: _read_latent,
    }
    if role.kind not in readers:
        raise UserError(f"Role “{role.name}” takes a {role.kind.value.lower()}, which cannot be given as a file.")
    return [readers[role.kind](path)]


def write(value: Any, kind: Kind, path: Path) -> None:
    """Write one value of a kind (or a list of markups) to a path, whole or not at all."""
    if kind in _MARKUPS:
        with written_whole(path) as partial:
            markups.write(value, kind, partial)
        return
    writers: dict[Kind, Callable[[Any, Path], None]] = {
        Kind.IMAGE: write_image,
        Kind.MASK: write_mask,
        Kind.MATRIX: _write_matrix,
        Kind.TABLE: _write_table,
        Kind.PLOT: _write_plot,
        Kind.CLASS: _write_class,
        Kind.LATENT: _write_latent,
    }
    writers[kind](value, path)


def _name(image: sitk.Image, path: Path) -> str:
    return image.GetMetaData(dicomvolume.NAME) if image.HasMetaDataKey(dicomvolume.NAME) else _stem(path)


def _stem(path: Path) -> str:
    ending = extension(path)
    return path.name[: -len(ending)] if ending else path.name
