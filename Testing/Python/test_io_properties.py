"""What holds for any image, markup, matrix and table: values and places survive files; any bytes end in a sentence."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from backend_tools import PROPERTY
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medgen import files, io, record
from medgen.case import Box, Image, Latent, Mask, Matrix, Plane, Points, Segment, Sphere, Table
from medgen.errors import UserError
from medgen.geometry import resample, to_canonical
from medgen.method import Kind, Role

FINITE = st.floats(-1e5, 1e5, allow_nan=False, width=32)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
PLACE = st.tuples(FINITE, FINITE, FINITE)


@st.composite
def affines(draw: st.DrawFn, n: int = 3) -> np.ndarray:
    """Any rotation, flips, permutation of axes, spacings of 1 um to 1 m and an origin: voxel index -> RAS mm."""
    turned = Rotation.from_euler("xyz", [draw(st.floats(-3.1, 3.1)) for _ in range(3)]).as_matrix()
    axes = np.eye(3) if draw(st.booleans()) else turned
    axes = axes[:, draw(st.permutations(range(3)))] * [draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = axes * [10 ** draw(st.floats(-3, 3)) for _ in range(3)]
    affine[:3, 3] = draw(PLACE)
    return affine


@st.composite
def grids(draw: st.DrawFn) -> tuple[torch.Tensor, np.ndarray]:
    """A volume of 1 to 6 voxels an axis, values of float32, and its affine."""
    shape = [draw(st.integers(1, 6)) for _ in range(3)]
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return torch.from_numpy(generator.normal(0, 1000, shape).astype(np.float32)), draw(affines())


def _back(value: Any, kind: Kind, name: str, dims: Literal["2D", "either"] = "either") -> Any:
    with tempfile.TemporaryDirectory() as folder:
        io.write(value, kind, Path(folder, name))
        return io.read(Path(folder, name), Role("r", kind, "r", dims=dims))[0]


def _same_place(found: np.ndarray, expected: np.ndarray, single: bool) -> None:
    """Columns to their own size's precision: of float32 where the form keeps no more."""
    scale = np.abs(expected[:3]).max(axis=0)
    scale[3] += np.abs(expected[:3, :3]).max()
    assert (np.abs(found - expected)[:3] <= (3e-6 if single else 1e-9) * scale).all()


@PROPERTY
@given(grids(), st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]))
def test_an_image_keeps_values_and_place_in_any_form(grid: tuple[torch.Tensor, np.ndarray], ending: str) -> None:
    data, affine = grid
    found = _back(Image(data[None], affine), Kind.IMAGE, f"a{ending}")
    assert torch.equal(found.data, data[None])
    _same_place(found.affine, affine, ending.startswith(".nii"))


@PROPERTY
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]), st.sampled_from([".png", ".tif", ".bmp"]))
def test_a_picture_keeps_its_values(rows: int, columns: int, channels: int, ending: str) -> None:
    data = torch.randint(0, 256, (channels, columns, rows), generator=torch.Generator().manual_seed(rows)).float()
    found = _back(Image(data, np.diag([-1.0, -1.0, 1.0, 1.0])), Kind.IMAGE, f"a{ending}", dims="2D")
    assert torch.equal(found.data, data)


@PROPERTY
@given(grids(), st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_a_mask_keeps_labels_names_and_place(grid: tuple[torch.Tensor, np.ndarray], names: list[str]) -> None:
    labels = (grid[0].abs() % (len(names) + 1)).to(torch.int16)
    segments = [Segment(number + 1, name, (0.5, 0.25, 1.0)) for number, name in enumerate(names)]
    found = _back(Mask(labels, grid[1], segments), Kind.MASK, "m.seg.nrrd")
    assert torch.equal(found.data, labels)
    assert [(one.value, one.name.strip(), one.colour) for one in found.segments] == [
        (one.value, one.name.strip(), one.colour) for one in segments
    ]
    _same_place(found.affine, grid[1], single=False)


@PROPERTY
@given(st.lists(st.tuples(NAMES, st.none() | PLACE), min_size=1, max_size=5))
def test_points_keep_names_places_and_what_was_not_found(points: list[tuple[str, tuple[float, ...] | None]]) -> None:
    positions = np.array([(np.nan,) * 3 if place is None else place for _, place in points])
    found = _back(Points(positions, [name for name, _ in points]), Kind.POINTS, "p.mrk.json")
    np.testing.assert_array_equal(found.positions, positions)
    assert found.names == [name for name, _ in points]


@PROPERTY
@given(affines(), st.tuples(*[st.floats(1e-3, 1e3)] * 3), NAMES)
def test_planes_boxes_and_spheres_keep_place_axes_and_size(
    affine: np.ndarray, size: tuple[float, ...], name: str
) -> None:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    values = {
        Kind.PLANE: Plane(affine[:3, 3], axes, name),
        Kind.BOX: Box(affine[:3, 3], axes, np.array(size), name),
        Kind.SPHERE: Sphere(affine[:3, 3], size[0], name),
    }
    for kind, value in values.items():
        found = _back(value, kind, "m.mrk.json")
        for key, expected in vars(value).items():
            if isinstance(expected, (float, np.ndarray)):
                np.testing.assert_allclose(getattr(found, key), expected, rtol=1e-12, err_msg=f"{kind} {key}")
            else:
                assert getattr(found, key) == expected


@PROPERTY
@given(st.lists(NAMES, min_size=1, max_size=5, unique_by=str.strip), st.integers(0, 99))
def test_matrices_and_tables_keep_names_and_values(names: list[str], seed: int) -> None:
    names = [name.strip() or f"n{number}" for number, name in enumerate(names)]
    values = np.random.default_rng(seed).normal(0, 1e3, (len(names),) * 2)
    if len({*names, "region"}) == len(names) + 1:
        found = _back(Matrix(values, names), Kind.MATRIX, "m.csv")
        np.testing.assert_array_equal(found.values, values)
        assert found.regions == names
    table = _back(Table({"text": names, "value": values[0].tolist()}), Kind.TABLE, "t.csv")
    assert table.columns["text"] == names and [float(one) for one in table.columns["value"]] == values[0].tolist()


# --- geometry -----------------------------------------------------------------------------------------------------


@PROPERTY
@given(grids())
def test_canonical_axes_and_back_change_nothing_and_every_voxel_stays_in_place(
    grid: tuple[torch.Tensor, np.ndarray],
) -> None:
    data, affine = grid
    moved, canonical, order = to_canonical(data[None], affine)
    assert torch.equal(order.backward(moved), data[None])
    index = np.stack(np.meshgrid(*map(np.arange, data.shape), indexing="ij")).reshape(3, -1)
    numbers = torch.arange(data.numel()).reshape(1, *data.shape)
    where = torch.stack(torch.unravel_index(order.forward(numbers).flatten().argsort(), moved.shape[1:])).numpy()
    before = affine[:3, :3] @ index + affine[:3, 3:]
    after = canonical[:3, :3] @ where + canonical[:3, 3:]
    np.testing.assert_allclose(after, before, atol=1e-9 * np.abs(affine).max() * 10)
    axes = canonical[:3, :3] / np.linalg.norm(canonical[:3, :3], axis=0)
    assert np.trace(axes) >= np.trace(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)) - 1e-6


@PROPERTY
@given(grids())
def test_resampling_to_the_own_grid_in_any_order_of_axes_is_exact(grid: tuple[torch.Tensor, np.ndarray]) -> None:
    data, affine = grid
    shape = (data.shape[0], data.shape[1], data.shape[2])
    for mode in ("linear", "nearest"):
        assert torch.equal(resample(data[None], affine, shape, affine, mode), data[None])  # type: ignore[arg-type]
    moved, canonical, order = to_canonical(data[None], affine)
    size = (moved.shape[1], moved.shape[2], moved.shape[3])
    assert torch.equal(resample(data[None], affine, size, canonical, "nearest"), moved)
    assert torch.equal(order.backward(resample(data[None], affine, size, canonical, "nearest")), data[None])


# --- anything at all ----------------------------------------------------------------------------------------------

_READ = {
    **dict.fromkeys((".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".jpg", ".tif", ".bmp"), Kind.IMAGE),
    ".dcm": Kind.IMAGE,
    ".seg.nrrd": Kind.MASK,
    ".mrk.json": Kind.POINTS,
    ".fcsv": Kind.POINTS,
    ".csv": Kind.MATRIX,
    ".txt": Kind.CLASS,
    ".safetensors": Kind.LATENT,
}


@PROPERTY
@given(st.sampled_from(sorted(_READ)), st.binary(max_size=700), st.booleans())
def test_any_bytes_end_in_a_value_or_a_sentence(tmp_path: Path, ending: str, content: bytes, begun: bool) -> None:
    starts = {
        ".nii": b"\x5c\x01\0\0",
        ".nrrd": b"NRRD0004\n",
        ".png": b"\x89PNG\r\n\x1a\n",
        ".tif": b"II*\0",
        ".bmp": b"BM",
    }
    file = tmp_path / f"any{ending}"
    file.write_bytes((starts.get(ending, b"") if begun else b"") + content)
    try:
        io.read(file, Role("r", _READ[ending], "r", dims="either"))
    except UserError as error:
        assert f"any{ending}" in str(error)


def _json() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | PLACE.map(list)
    keys = st.sampled_from(
        ["markups", "type", "controlPoints", "position", "orientation", "center", "size", "networks"]
    )
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner), max_leaves=12)


@PROPERTY
@given(_json(), st.sampled_from(["Fiducial", "Plane", "ROI", "Curve"]), st.sampled_from(list(io._MARKUPS)))
def test_any_json_is_markups_or_a_sentence(tmp_path: Path, inner: Any, form: str, kind: Kind) -> None:
    file = tmp_path / "any.mrk.json"
    items = [{"type": form, **inner}] if isinstance(inner, dict) else inner
    for content in (inner, {"markups": items}):
        file.write_text(json.dumps(content))
        try:
            io.read(file, Role("r", kind, "r", many=True))
        except UserError as error:
            assert "any.mrk.json" in str(error)


@PROPERTY
@given(
    _json(), st.sampled_from(["slug", "config", "networks", "digest", "facts", "patient_data", "name", "trained_on"])
)
def test_any_json_is_a_record_or_a_sentence(tmp_path: Path, inner: Any, key: str) -> None:
    sound: dict[str, Any] = dict.fromkeys(("operation", "name", "medgen", "created", "digest"), "x")
    sound |= {
        "format": 1,
        "slug": "x",
        "config": {},
        "settings": {},
        "facts": {},
        "networks": {},
        "patient_data": False,
    }
    for content in (inner, {**sound, key: inner}):
        (tmp_path / "medgen.json").write_text(json.dumps(content))
        try:
            record.verify(tmp_path)
        except UserError as error:
            assert "medgen.json" in str(error) or "MedGen" in str(error) or str(tmp_path) in str(error)
        else:
            raise AssertionError("a digest that is x is never right")


@PROPERTY
@given(st.text())
def test_what_is_shown_is_one_line_that_any_terminal_can_show(text: str) -> None:
    shown = files.printable(text)
    assert shown.isprintable() and (shown == text or not text.isprintable())
    shown.encode()


@pytest.mark.parametrize("shape", [(), (3,), (2, 0)])
def test_a_latent_keeps_its_tensors(shape: tuple[int, ...]) -> None:
    latent = _back(Latent({"w": torch.ones(shape)}), Kind.LATENT, "l.safetensors")
    assert torch.equal(latent.tensors["w"], torch.ones(shape))
