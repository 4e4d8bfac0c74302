"""Drawing bodies into a voxel grid with partial volume. Numpy and SimpleITK only: Sample Data needs no torch.

Shapes are signed distances in millimetres, negative inside. Positions are LPS millimetres, SimpleITK's and the files'
own frame (x to the patient's left, y to the back, z to the head). Arrays are in SimpleITK's order (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float32]
Value: TypeAlias = "float | Array | tuple[float | Array, ...]"  # a tuple has one for each channel
Window: TypeAlias = tuple[slice, slice, slice]
WHOLE: Window = (slice(None), slice(None), slice(None))
LATTICE_REACH = 450.0  # mm from the centre to which random fields are defined, whatever the grid
DRAWN_WHERE = 0.5  # a voxel belongs to the structure that fills half of it


@dataclass(frozen=True)
class Segment:
    """One structure of a phantom's mask. colour: red, green, blue in 0..1; snomed: code and meaning of the type."""

    value: int
    name: str
    colour: tuple[float, float, float]
    snomed: tuple[str, str]
    side: tuple[str, str] | None = None

    def tags(self) -> str:
        """The Tags field of a .seg.nrrd header: status and terminology entry, in Slicer's notation."""
        modifier = f"SCT^{self.side[0]}^{self.side[1]}" if self.side else "^^"
        entry = "~".join(
            (
                "Segmentation category and type - 3D Slicer General Anatomy list",
                "SCT^123037004^Anatomical Structure",
                f"SCT^{self.snomed[0]}^{self.snomed[1]}",
                modifier,
                "Anatomic codes - DICOM master list",
                "^^",
                "^^",
            )
        )
        return f"Segmentation.Status:completed|TerminologyEntry:{entry}|"


@dataclass(frozen=True)
class Grid:
    """A voxel grid. size, spacing (mm) along x, y, z; direction: 3x3, columns are the axes in LPS; centre: LPS mm."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    direction: NDArray[np.float64]
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def origin(self) -> NDArray[np.float64]:
        """LPS mm of the centre of voxel (0, 0, 0)."""
        half = (np.array(self.size) - 1) / 2 * np.array(self.spacing)
        return np.array(self.centre) - self.direction @ half

    def finer(self, factors: Sequence[int]) -> Grid:
        """The same box cut into factors[axis] times as many voxels along each axis."""
        size = tuple(n * f for n, f in zip(self.size, factors, strict=True))
        spacing = tuple(s / f for s, f in zip(self.spacing, factors, strict=True))
        return Grid(size, spacing, self.direction, self.centre)  # type: ignore[arg-type]

    def image(self, array: NDArray[np.generic]) -> sitk.Image:
        """The array (z, y, x) as an image on this grid."""
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(s) for s in self.spacing])
        image.SetOrigin([float(o) for o in self.origin])
        image.SetDirection([float(d) for d in self.direction.ravel()])
        return image

    def points(self) -> Array:
        """LPS mm of every voxel: (3, z, y, x)."""
        steps = [np.arange(n) * s for n, s in zip(self.size, self.spacing, strict=True)]
        z, y, x = np.meshgrid(steps[2], steps[1], steps[0], indexing="ij", sparse=True)
        rows = [self.origin[a] + sum(self.direction[a, b] * (x, y, z)[b] for b in range(3)) for a in range(3)]
        return np.stack([np.broadcast_to(row, self.size[::-1]) for row in rows]).astype(np.float32)

    def smooth_field(self, rng: np.random.Generator, wavelength: float, components: int) -> Array:
        """A smooth random field (components, z, y, x), mean 0 and deviation 1 at the nodes of a lattice in the body.

        The lattice (one random value every `wavelength` mm, B-spline between) lies in LPS space and not in the grid:
        the same seed gives the same patient on every grid.
        """
        nodes = 2 * int(np.ceil(LATTICE_REACH / wavelength)) + 5
        values = rng.standard_normal((components, nodes, nodes, nodes)).astype(np.float32)
        reference = sitk.Image([int(n) for n in self.size], sitk.sitkUInt8)
        reference.CopyInformation(self.image(np.zeros(self.size[::-1], np.uint8)))
        fields = []
        for value in values:
            lattice = sitk.GetImageFromArray(value)
            lattice.SetSpacing([wavelength] * 3)
            lattice.SetOrigin([c - (nodes - 1) / 2 * wavelength for c in self.centre])
            field = sitk.Resample(lattice, reference, sitk.Transform(), sitk.sitkBSpline, 0.0, sitk.sitkFloat32)
            fields.append(sitk.GetArrayFromImage(field))
        return np.stack(fields)


class Canvas:
    """Values and labels being painted onto a grid, one structure over the other.

    points: where each voxel lies in the body's own undeformed space (3, z, y, x), LPS mm: bending these bends all that
    is painted. A voxel takes a new value in proportion to how much of it the structure fills. background: a number, or
    one for each channel (modality) that is painted at once; `values` is the first channel.
    """

    def __init__(self, grid: Grid, points: Array, background: float | tuple[float, ...]) -> None:
        self.grid = grid
        self.points = points
        several = background if isinstance(background, tuple) else (background,)
        self.channels: list[Array] = [np.full(points.shape[1:], value, np.float32) for value in several]
        self.values = self.channels[0]
        self.labels = np.zeros(points.shape[1:], np.uint8)
        self.edge = float(np.mean(grid.spacing))  # over how many mm a surface goes from empty to full
        self.margin = float(np.abs(points - grid.points()).max()) + 2 * self.edge

    def window(self, centre: ArrayLike, reach: float) -> Window:
        """The part of the grid within `reach` mm of a position, bending included."""
        reach += self.margin
        index = self.grid.direction.T @ (np.asarray(centre, float) - self.grid.origin) / self.grid.spacing
        steps = reach / np.array(self.grid.spacing)
        low = np.maximum(np.floor(index - steps), 0).astype(int)
        high = np.minimum(np.ceil(index + steps) + 1, self.grid.size).astype(int)
        return tuple(slice(int(low[a]), int(max(high[a], low[a]))) for a in (2, 1, 0))  # type: ignore[return-value]

    def paint(self, distance: Array, value: Value, label: int | None = None, window: Window = WHOLE) -> None:
        """Paint where `distance` (of the window's shape) is negative. label None leaves labels, 0 clears them."""
        filled = np.clip(0.5 - distance / self.edge, 0.0, 1.0)
        several = value if isinstance(value, tuple) else (value,)
        for channel, one in zip(self.channels, several, strict=True):
            channel[window] += filled * (one - channel[window])
        if label is not None:
            self.labels[window][filled > DRAWN_WHERE] = label

    def ellipsoid(
        self,
        centre: ArrayLike,
        radii: ArrayLike,
        value: Value,
        label: int | None = None,
        axes: NDArray[np.float64] | None = None,
        clip: Array | None = None,
    ) -> None:
        """Paint an ellipsoid (mm); axes: columns are its own axes; clip: paint only where this distance is negative."""
        window = self.window(centre, float(np.max(radii)))
        if self.points[0][window].size == 0:
            return
        distance = ellipsoid(self.points[(slice(None), *window)], centre, radii, axes)
        self.paint(distance if clip is None else np.maximum(distance, clip[window]), value, label, window)

    def tube(
        self,
        path: NDArray[np.float64],
        radius: ArrayLike,
        value: Value,
        label: int | None = None,
        clip: Array | None = None,
    ) -> None:
        """Paint a bent tube along path (n, 3) mm; radius: one, or one a point of the path."""
        radii = np.broadcast_to(np.asarray(radius, float), len(path))
        low, high = path.min(axis=0), path.max(axis=0)
        window = self.window((low + high) / 2, float(np.linalg.norm(high - low)) / 2 + float(radii.max()))
        if self.points[0][window].size == 0:
            return
        distance = tube(self.points[(slice(None), *window)], path, radii)
        self.paint(distance if clip is None else np.maximum(distance, clip[window]), value, label, window)

    def coarsened(self, factors: Sequence[int]) -> tuple[Array, NDArray[np.uint8]]:
        """Values averaged and labels voted over blocks of factors (x, y, z): the scanner's thicker voxels."""
        if max(factors) == 1:
            return self.values, self.labels
        shape = [n for axis in (2, 1, 0) for n in (self.grid.size[axis] // factors[axis], factors[axis])]
        values = self.values.reshape(shape).mean(axis=(1, 3, 5), dtype=np.float32)
        labels = np.zeros(values.shape, np.uint8)
        for label in np.unique(self.labels)[1:]:
            share = (self.labels == label).reshape(shape).mean(axis=(1, 3, 5))
            labels[share > DRAWN_WHERE] = label
        return values, labels


def rotation(axis: ArrayLike, degrees: float) -> NDArray[np.float64]:
    """The 3x3 rotation about an axis (Rodrigues)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def ellipsoid(points: Array, centre: ArrayLike, radii: ArrayLike, axes: NDArray[np.float64] | None = None) -> Array:
    """Distance (mm, first order) of points (3, …) to an ellipsoid whose axes are the columns of `axes`."""
    offset = points - np.asarray(centre, np.float32).reshape(3, *[1] * (points.ndim - 1))
    if axes is not None:
        offset = np.tensordot(axes.T.astype(np.float32), offset, axes=1)
    scale = np.asarray(radii, np.float32).reshape(3, *[1] * (points.ndim - 1))
    level = np.sqrt(np.square(offset / scale).sum(axis=0))
    slope = np.sqrt(np.square(offset / scale**2).sum(axis=0))
    # level / slope is the distance per unit of level; at the very centre the smallest radius is the distance.
    return np.where(slope > 1e-9, level * (level - 1) / np.maximum(slope, 1e-9), -np.min(scale)).astype(np.float32)


def tube(points: Array, path: NDArray[np.float64], radii: NDArray[np.float64]) -> Array:
    """Distance (mm) of points (3, …) to the tube along path (n, 3), its radius changing linearly between its points."""
    nearest: Array | None = None
    column = (3, *[1] * (points.ndim - 1))
    for start, stop, first, last in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
        along = (stop - start).astype(np.float32)
        offset = points - start.astype(np.float32).reshape(column)
        share = np.clip(np.tensordot(along, offset, axes=1) / max(float(along @ along), 1e-9), 0.0, 1.0)
        offset -= share * along.reshape(column)
        distance = np.sqrt(np.square(offset).sum(axis=0)) - (first + share * (last - first)).astype(np.float32)
        nearest = distance if nearest is None else np.minimum(nearest, distance)
    if nearest is None:
        raise ValueError("a tube needs two points or more")
    return nearest.astype(np.float32)


def smooth_union(first: Array, second: Array, width: float) -> Array:
    """The union of two bodies with a fillet of about `width` mm where they meet."""
    mix = np.clip(0.5 + 0.5 * (second - first) / width, 0.0, 1.0)
    return (second + mix * (first - second) - width * mix * (1 - mix)).astype(np.float32)


def smooth_overlap(first: Array, second: Array, width: float) -> Array:
    """What two bodies share, its edges rounded by about `width` mm."""
    return -smooth_union(-first, -second, width)


def blurred(array: Array, sigma: Sequence[float]) -> Array:
    """Gaussian blur; sigma in voxels along x, y, z."""
    image = sitk.GetImageFromArray(array)
    for axis, width in enumerate(sigma):
        if width > 0 and image.GetSize()[axis] >= 4:  # the recursive filter needs four samples
            image = sitk.RecursiveGaussian(image, width, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis)
    return sitk.GetArrayFromImage(image).astype(np.float32)


def ct_scanned(values: Array, strength: float, rng: np.random.Generator) -> Array:
    """The HU a CT scanner gives: blurred by its kernel, with noise that is stronger behind more tissue.

    The noise has the spectrum of filtered back-projection (rising with frequency, then cut by the reconstruction
    kernel), independent between slices.
    """
    values = blurred(values, (0.45, 0.45, 0.3))
    if strength <= 0:
        return values
    white = rng.standard_normal(values.shape, dtype=np.float32)
    rows = np.fft.fftfreq(values.shape[1])[:, None]
    columns = np.fft.rfftfreq(values.shape[2])[None, :]
    frequency = np.hypot(rows, columns)
    kernel = (0.05 + frequency) * np.exp(-np.square(frequency / 0.30))
    coloured = np.fft.irfft2(np.fft.rfft2(white) * kernel, s=values.shape[1:])
    coloured /= coloured.std()
    attenuation = blurred((values > -500).astype(np.float32), (6.0, 6.0, 0.0))
    return (values + strength * (5.0 + 8.0 * attenuation) * coloured).astype(np.float32)


def segmentation(grid: Grid, labels: NDArray[np.uint8], segments: Sequence[Segment]) -> sitk.Image:
    """The labels as an image that carries Slicer's segment fields; as .seg.nrrd, Slicer reads names and colours.

    The fields are those that Slicer's vtkMRMLSegmentationStorageNode writes.
    """
    image = grid.image(labels)
    extent = " ".join(f"0 {n - 1}" for n in grid.size)
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, segment in enumerate(segments):
        values = {
            "ID": f"Segment_{segment.value}",
            "Name": segment.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{c:.6g}" for c in segment.colour),
            "ColorAutoGenerated": "0",
            "LabelValue": str(segment.value),
            "Layer": "0",
            "Extent": extent,
            "Tags": segment.tags(),
        }
        fields |= {f"Segment{number}_{key}": value for key, value in values.items()}
    for key, value in fields.items():
        image.SetMetaData(key, value)
    return image
