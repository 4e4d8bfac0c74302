"""Axes, planes, sampling: what a voxel's place in space must survive."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from medgen.geometry import (
    AxisOrder,
    WorkingGrid,
    canonical_order,
    plane_frame,
    plane_in_grid,
    random_directions,
    resample,
    sample_linear,
    sample_nearest,
    spacing_of,
    to_canonical,
)


def oblique_affine(seed: int, angle: float | None = None) -> np.ndarray:
    """A rotation (random, or about S by an angle in degrees) with spacings 0.7, 1.1, 2.3 mm and an offset."""
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.standard_normal((3, 3)))
    if angle is not None:
        c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.7, 1.1, 2.3])
    affine[:3, 3] = [-13.2, 40.7, 5.1]
    return affine


def every_order() -> list[AxisOrder]:
    return [
        AxisOrder(permutation, flips)  # type: ignore[arg-type]
        for permutation in itertools.permutations(range(3))
        for flips in itertools.product((False, True), repeat=3)
    ]


@pytest.mark.parametrize(
    "affine", [oblique_affine(1), oblique_affine(2), oblique_affine(0, 45.0), oblique_affine(0, 0.0)]
)
def test_all_48_orders_of_a_volume_become_the_same_canonical_volume(affine: np.ndarray) -> None:
    data = torch.randn(2, 4, 5, 6)
    reference, reference_affine, _ = to_canonical(data, affine)
    assert len(every_order()) == 48
    for order in every_order():
        listed, listed_affine = order.forward(data), order.affine(affine, (4, 5, 6))
        canonical, canonical_affine, back = to_canonical(listed, listed_affine)
        assert torch.equal(canonical, reference)
        np.testing.assert_allclose(canonical_affine, reference_affine, rtol=0, atol=1e-9)
        assert np.array_equal(spacing_of(canonical_affine), spacing_of(reference_affine))
        assert torch.equal(back.backward(canonical), listed)


def test_an_affine_follows_its_voxels() -> None:
    affine, data = oblique_affine(3), torch.arange(4 * 5 * 6.0).reshape(1, 4, 5, 6)
    for order in every_order():
        moved, moved_affine = order.forward(data), order.affine(affine, (4, 5, 6))
        for index in ((0, 0, 0), (1, 2, 3), (3, 1, 0)):
            value = moved[(0, *(i % n for i, n in zip(index, moved.shape[1:], strict=True)))]
            i, j, k = np.unravel_index(int(value), (4, 5, 6))
            ours = moved_affine @ [*(i % n for i, n in zip(index, moved.shape[1:], strict=True)), 1]
            np.testing.assert_allclose(ours, affine @ [i, j, k, 1], atol=1e-9)


def test_canonical_axes_are_the_closest_to_right_anterior_superior() -> None:
    for seed in range(20):
        _, affine, _ = to_canonical(torch.zeros(1, 2, 2, 2), oblique_affine(seed))
        directions = affine[:3, :3] / spacing_of(affine)
        best = max(
            np.trace(directions[:, list(order.permutation)] * np.where(order.flips, -1, 1)) for order in every_order()
        )
        assert np.trace(directions) == pytest.approx(best)


def test_order_of_a_canonical_volume_changes_nothing() -> None:
    assert canonical_order(np.diag([1.0, 2.0, 3.0, 1.0])) == AxisOrder((0, 1, 2), (False, False, False))


def test_plane_axes_are_orthonormal_and_lie_in_the_plane() -> None:
    for normal in random_directions(50, np.random.default_rng(0)):
        frame = plane_frame(np.array([1.0, 2, 3]), normal)
        axes = np.stack((frame.u, frame.v, frame.normal))
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
        assert abs(abs(frame.normal @ normal) - 1) < 1e-12
        np.testing.assert_allclose(frame.distance(frame.points((5, 7), 0.5)), 0, atol=1e-12)


def test_a_plane_and_its_reverse_are_the_same_plane() -> None:
    frame, reverse = (
        plane_frame(np.zeros(3), np.array([0.2, -0.9, 0.4])),
        plane_frame(np.zeros(3), np.array([-0.2, 0.9, -0.4])),
    )
    assert np.array_equal(frame.u, reverse.u) and np.array_equal(frame.v, reverse.v)


def test_plane_in_grid_keeps_distances_in_mm_for_every_order() -> None:
    affine, origin, normal = oblique_affine(5), np.array([2.0, 50.0, 9.0]), np.array([0.3, -0.5, 0.8])
    normal /= np.linalg.norm(normal)
    _, canonical, _ = to_canonical(torch.zeros(1, 4, 5, 6), affine)
    expected = plane_in_grid(origin, normal, canonical)
    for order in every_order():
        _, again, _ = to_canonical(
            torch.zeros(order.forward(torch.zeros(1, 4, 5, 6)).shape), order.affine(affine, (4, 5, 6))
        )
        found = plane_in_grid(origin, normal, again)
        assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
    index = np.array([3.0, 1.0, 2.0])
    ras = canonical[:3, :3] @ index + canonical[:3, 3]
    assert (index * spacing_of(canonical) - expected[0]) @ expected[1] == pytest.approx(
        (ras - origin) @ normal, abs=1e-4
    )


def test_linear_sampling_is_exact_for_a_linear_image() -> None:
    i, j, k = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), torch.arange(7.0), indexing="ij")
    index = torch.rand(200, 3) * torch.tensor([4.0, 5.0, 6.0])
    sampled = sample_linear((2 * i - 3 * j + 0.5 * k)[None], index)[0]
    torch.testing.assert_close(sampled, 2 * index[:, 0] - 3 * index[:, 1] + 0.5 * index[:, 2], atol=1e-4, rtol=0)


def test_samples_outside_are_fill_and_the_outer_half_voxel_is_inside() -> None:
    volume = torch.full((1, 3, 3, 3), 7.0)
    index = torch.tensor([[-0.4, 1, 1], [-0.6, 1, 1], [2.4, 1, 1], [1, 1, 2.6]])
    assert sample_linear(volume, index, fill=-1.0)[0].tolist() == [7, -1, 7, -1]
    assert sample_nearest(volume.to(torch.int16), index, fill=-1)[0].tolist() == [7, -1, 7, -1]


def test_nearest_sampling_gives_the_voxels_value() -> None:
    volume = torch.arange(60).reshape(1, 3, 4, 5)
    assert sample_nearest(volume, torch.tensor([[1.2, 2.4, 3.4]]))[0, 0] == volume[0, 1, 2, 3]
    assert sample_nearest(volume, torch.tensor([[0.5, 0.0, 0.0]]))[0, 0] == volume[0, 1, 0, 0]


def test_resampling_to_the_same_grid_copies_and_to_a_shifted_one_shifts() -> None:
    affine, data = oblique_affine(7), torch.randn(1, 5, 6, 7)
    assert torch.equal(resample(data, affine, (5, 6, 7), affine), data)
    shifted = affine.copy()
    shifted[:3, 3] += affine[:3, 0]
    moved = resample(data, affine, (4, 6, 7), shifted)
    torch.testing.assert_close(moved, data[:, 1:], atol=1e-4, rtol=0)
    labels = resample(torch.arange(5 * 6 * 7).reshape(1, 5, 6, 7), affine, (4, 6, 7), shifted, "nearest")
    assert torch.equal(labels, torch.arange(5 * 6 * 7).reshape(1, 5, 6, 7)[:, 1:])


def test_an_oblique_round_trip_returns_a_smooth_image() -> None:
    i, j, k = torch.meshgrid(*[torch.linspace(-1, 1, 24)] * 3, indexing="ij")
    blob = torch.exp(-4 * (i**2 + j**2 + k**2))[None]
    source, target = np.eye(4), np.eye(4)
    target[:3, :3] = oblique_affine(9)[:3, :3] @ np.diag(1 / spacing_of(oblique_affine(9))) * 0.5
    target[:3, 3] = 11.5 - target[:3, :3] @ np.full(3, 40.0)
    there = resample(blob, source, (81, 81, 81), target)
    back = resample(there, target, (24, 24, 24), source)
    assert float((back - blob).abs().max()) < 0.02  # two linear interpolations flatten the peak


def test_a_working_grid_shares_slices_with_its_source_and_bounds_its_voxels() -> None:
    grid = WorkingGrid.over((10, 12, 5), np.array([1.0, 1.0, 2.5]), max_voxels=10**6)
    assert grid.shape == (10, 12, 12) and grid.spacing == 1.0
    data = torch.arange(10.0)[:, None, None].expand(10, 12, 5)[None].contiguous()
    assert float((grid.from_source(data) - torch.arange(10.0)[:, None, None]).abs().max()) < 1e-5
    small = WorkingGrid.over((100, 100, 100), np.ones(3), max_voxels=1000)
    assert small.shape == (10, 10, 10) and small.spacing == pytest.approx(10.0)


def test_an_isotropic_volume_is_its_own_working_grid() -> None:
    grid, data = WorkingGrid.over((4, 5, 6), np.full(3, 0.8), 10**6), torch.randn(1, 4, 5, 6)
    assert torch.equal(grid.from_source(data), data) and torch.equal(grid.to_source(data), data)
    np.testing.assert_allclose(grid.offset, 0, atol=1e-12)


@pytest.mark.parametrize(("shape", "spacing", "voxel"), [((98, 40, 40), 0.5, 2.0), ((98, 50, 33), 1.0, 4.0)])
def test_a_constant_on_the_working_grid_is_constant_on_the_whole_volume(
    shape: tuple[int, int, int], spacing: float, voxel: float
) -> None:
    grid = WorkingGrid.over(shape, np.full(3, spacing), 10**9, voxel)
    for mode in ("linear", "nearest"):
        found = grid.to_source(torch.full((1, *grid.shape), 7.0), mode)
        assert found.shape == (1, *shape) and float((found - 7).abs().max()) < 1e-5
