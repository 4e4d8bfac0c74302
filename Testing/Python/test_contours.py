"""Annotated slices and the contours between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgen.contours import (
    UNANNOTATED,
    AnnotatedPlane,
    ContourInterpolation,
    annotate,
    annotated_voxels,
    infer_annotated_slices,
    interpolate_contours,
    looks_sparse,
    mean_gap,
    signed_distance,
)
from medgen.geometry import WorkingGrid, plane_frame, random_directions


def ball(size: int = 40, radius: float = 14.0, spacing: tuple[float, float, float] = (1, 1, 1)) -> torch.Tensor:
    """A ball of that radius in mm in the middle of size^3 mm."""
    axes = [(np.arange(round(size / s)) - (round(size / s) - 1) / 2) * s for s in spacing]
    i, j, k = np.meshgrid(*axes, indexing="ij")
    return torch.from_numpy((i**2 + j**2 + k**2 < radius**2).astype(np.int16))


def sliced(labels: torch.Tensor, slices: list[tuple[int, int]]) -> torch.Tensor:
    """Only what lies on the given (axis, index) slices."""
    kept = torch.zeros_like(labels)
    for axis, index in slices:
        where = (slice(None),) * axis + (index,)
        kept[where] = labels[where]
    return kept


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("indices", [[8, 14, 20, 27, 31], [19, 20], [15], [10, 11, 12, 20, 30]])
def test_slices_of_one_axis_are_found(axis: int, indices: list[int]) -> None:
    drawn = sliced(ball(), [(axis, index) for index in indices])
    assert infer_annotated_slices(drawn.numpy()) == [(axis, index) for index in indices]


def test_slices_of_two_axes_are_found() -> None:
    slices = [(0, 15), (0, 24), (2, 12), (2, 20), (2, 27)]
    assert infer_annotated_slices(sliced(ball(), slices).numpy()) == slices


def test_a_thin_structure_on_many_slices_is_found_across_it() -> None:
    tube = torch.zeros(20, 20, 60, dtype=torch.int16)
    tube[8:13, 8:13] = 1
    slices = [(2, index) for index in range(2, 60, 7)]
    assert infer_annotated_slices(sliced(tube, slices).numpy()) == slices


def test_whole_masks_do_not_look_sparse_and_drawn_ones_do() -> None:
    assert not looks_sparse(ball().numpy())
    assert not looks_sparse(np.zeros((5, 5, 5), int))
    assert looks_sparse(sliced(ball(), [(1, 12), (1, 20), (1, 26)]).numpy())
    assert looks_sparse(sliced(ball(), [(0, 15), (2, 12), (2, 20)]).numpy())


def test_a_slice_annotates_its_voxels_and_no_others() -> None:
    spacing = np.array([1.0, 1.0, 2.5])
    plane = AnnotatedPlane.slice_of(2, 3, spacing)
    found = annotated_voxels((6, 6, 8), spacing, [plane])
    assert found[:, :, 3].all() and found.sum() == 36


def test_an_oblique_plane_annotates_a_layer_one_voxel_thick() -> None:
    plane = AnnotatedPlane((19.5, 19.5, 19.5), tuple(plane_frame(np.zeros(3), np.array([1.0, 1, 0])).normal))
    found = annotated_voxels((40, 40, 40), np.ones(3), [plane])
    i, j, _ = np.nonzero(found)
    assert np.abs((i + j - 39) / np.sqrt(2)).max() <= 0.5 + 1e-4
    assert 40 * 40 * np.sqrt(2) * 0.6 < found.sum() < 40 * 40 * np.sqrt(2) * 1.3


def test_annotation_marks_planes_and_leaves_the_rest_unknown() -> None:
    labels, spacing = ball(), np.ones(3)
    planes = [AnnotatedPlane.slice_of(2, 12, spacing), AnnotatedPlane.slice_of(0, 20, spacing)]
    grid = WorkingGrid.over((40, 40, 40), spacing, 10**6)
    sparse, owner, drawings = annotate(sliced(labels, [(2, 12), (0, 20)]), planes, grid)
    assert torch.equal(sparse[:, :, 12], labels[:, :, 12]) and torch.equal(sparse[20], labels[20])
    known = sparse != UNANNOTATED
    assert int(known.sum()) == 40 * 40 * 2 - 40
    assert torch.equal(known, owner >= 0)
    assert np.array_equal(drawings[0], labels[:, :, 12].numpy())


def test_thick_slices_are_annotated_at_their_centres_only() -> None:
    spacing = np.array([1.0, 1.0, 4.0])
    grid = WorkingGrid.over((20, 20, 10), spacing, 10**6)
    labels = torch.zeros(20, 20, 10, dtype=torch.int16)
    labels[5:15, 5:15, 4] = 1
    sparse, _, _ = annotate(labels, [AnnotatedPlane.slice_of(2, 4, spacing)], grid)
    layers = (sparse != UNANNOTATED).any(dim=0).any(dim=0)
    assert 1 <= int(layers.sum()) <= 2


def test_signed_distance_changes_sign_between_pixels() -> None:
    inside = np.zeros((9, 9), bool)
    inside[2:7, 2:7] = True
    distance = signed_distance(inside, 2.0)
    assert distance[4, 4] == pytest.approx(5.0) and distance[2, 4] == pytest.approx(1.0)
    assert distance[1, 4] == pytest.approx(-1.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.0)])
def test_a_ball_drawn_on_slices_is_filled(spacing: tuple[float, float, float]) -> None:
    whole = ball(spacing=spacing)
    middle = whole.shape[2] // 2
    step = round(4 / spacing[2])
    indices = [middle + step * n for n in (-3, -2, -1, 0, 1, 2, 3)]
    planes = [AnnotatedPlane.slice_of(2, index, np.asarray(spacing)) for index in indices]
    filled = interpolate_contours(sliced(whole, [(2, index) for index in indices]), planes, np.asarray(spacing))
    assert dice(filled > 0, whole > 0) > 0.95
    for index in indices:
        assert torch.equal(filled[:, :, index], whole[:, :, index])


def test_a_ball_drawn_on_oblique_planes_is_filled() -> None:
    whole, spacing = ball(), np.ones(3)
    normals = random_directions(6, np.random.default_rng(3))
    planes = [AnnotatedPlane((19.5, 19.5, 19.5), tuple(plane_frame(np.zeros(3), normal).normal)) for normal in normals]
    drawn = torch.where(torch.from_numpy(annotated_voxels((40, 40, 40), spacing, planes)), whole, 0)
    assert dice(interpolate_contours(drawn, planes, spacing) > 0, whole > 0) > 0.88


def test_two_structures_are_filled_side_by_side() -> None:
    whole = ball()
    whole[20:][whole[20:] > 0] = 2
    slices = [(2, index) for index in (8, 14, 20, 26, 31)]
    planes = [AnnotatedPlane.slice_of(axis, index, np.ones(3)) for axis, index in slices]
    filled = interpolate_contours(sliced(whole, slices), planes, np.ones(3))
    assert dice(filled == 1, whole == 1) > 0.93 and dice(filled == 2, whole == 2) > 0.93


def test_a_hidden_plane_does_not_reach_the_interpolation() -> None:
    whole, spacing = ball(), np.ones(3)
    grid = WorkingGrid.over((40, 40, 40), spacing, 10**6)
    planes = [AnnotatedPlane.slice_of(2, index, spacing) for index in (10, 20, 30)]

    def with_middle(labels: torch.Tensor) -> torch.Tensor:
        _, _, drawings = annotate(labels, planes, grid)
        return ContourInterpolation(planes, drawings, [1], grid).volumes([[0, 2]])[0]

    changed = whole.clone()
    changed[:, :, 20] = 0
    changed[3:30, 3:30, 20] = 1
    assert torch.equal(with_middle(whole), with_middle(changed))


def test_beyond_the_last_plane_a_structure_ends_unless_the_volume_does() -> None:
    whole, spacing = ball(), np.ones(3)
    grid = WorkingGrid.over((40, 40, 40), spacing, 10**6)
    planes = [AnnotatedPlane.slice_of(2, index, spacing) for index in (16, 20, 24)]
    _, _, drawings = annotate(whole, planes, grid)

    def along(reach: float) -> torch.Tensor:
        return ContourInterpolation(planes, drawings, [1], grid, reach).volumes([[0, 1, 2]])[0][0, 20, 20]

    ending, cut_off = along(reach=14.0), along(reach=15.5)  # 15 mm are left behind the last plane, 16 before the first
    assert ending[24] - ending[30] == pytest.approx(6) and ending[39] < 0
    assert cut_off[24] > cut_off[30] > cut_off[39] > 0
    assert cut_off[16] - cut_off[10] == pytest.approx(6)


def test_the_mean_gap_is_that_between_neighbours() -> None:
    planes = [AnnotatedPlane.slice_of(2, index, np.ones(3)) for index in (10, 30, 16)]
    assert mean_gap(planes, 0.5) == pytest.approx(10.0) and mean_gap(planes, 4.0) == pytest.approx(20.0)
