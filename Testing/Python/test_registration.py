"""Volumes at one voxel size, and registration: what is cut out lies where it lay, what was moved is brought back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medgen import registration
from medgen.case import Image, Points
from medgen.errors import UserError
from medgen.metrics.points import distances, mirrored_pairs, paired, swapped_pairs
from medgen.patches import Intensity, Volume, antialiased, barycentre, second_moments

TILT = Rotation.from_rotvec([20, -35, 50], degrees=True).as_matrix()


def tilted(voxel: float = 1.5) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = TILT * voxel
    affine[:3, 3] = (5, -7, 11)
    return affine


def texture(size: int, seed: int = 0, smooth: float = 3.0) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(size=(size, size, size))
    values = ndimage.gaussian_filter(noise, smooth, mode="wrap")
    return torch.from_numpy((values / values.std()).astype(np.float32))


def blobs(affine: np.ndarray, size: int, motion: np.ndarray | None = None, bend: float = 0.0) -> Volume:
    """A smooth scene on a grid, seen through a rigid motion (scene -> world) and a bend of `bend` mm within it."""
    index = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    back = np.eye(4) if motion is None else np.linalg.inv(motion)
    places = places @ back[:3, :3].T + back[:3, 3]
    places = places + bend * np.sin(places[..., [1, 2, 0]] / 9)
    generator = np.random.default_rng(4)
    values = np.zeros(places.shape[:-1])
    for middle, radius, height in zip(
        generator.uniform(-14, 14, (12, 3)), generator.uniform(3, 6, 12), generator.uniform(-1, 2, 12), strict=True
    ):
        values += height * np.exp(-((places - middle) ** 2).sum(-1) / (2 * radius**2))
    return Volume(torch.from_numpy(values.astype(np.float32)), affine, 0.0)


def centred(size: int, voxel: float = 1.0) -> np.ndarray:
    affine = np.diag([voxel, voxel, voxel, 1.0])
    affine[:3, 3] = -(size - 1) / 2 * voxel
    return affine


# --- volumes


def test_a_cube_keeps_every_voxel_at_its_place_and_says_what_is_beyond_the_edge() -> None:
    volume = Volume(texture(20), tilted(), -9.0)
    corner = volume.affine[:3, :3] @ [2.2, 9.0, 18.7] + volume.affine[:3, 3]
    cube = volume.crop(corner, 12)
    first = np.rint(np.linalg.solve(volume.affine, cube.affine)[:3, 3]).astype(int)
    np.testing.assert_allclose(cube.affine[:3, :3], volume.affine[:3, :3])
    assert cube.known is not None
    for index in np.ndindex(12, 12, 12):
        there = first + index
        inside = bool((there >= 0).all() and (there < 20).all())
        assert bool(cube.known[index]) is inside
        assert float(cube.data[index]) == (float(volume.data[tuple(there)]) if inside else -9.0)
    middle = cube.affine[:3, :3] @ np.full(3, 5.5) + cube.affine[:3, 3]
    assert np.abs(middle - corner).max() <= 1.5 * np.sqrt(3) / 2 + 1e-6
    assert volume.crop(volume.affine[:3, :3] @ np.full(3, 9.5) + volume.affine[:3, 3], 8).known is None


def test_a_shrunk_volume_has_means_at_their_places() -> None:
    volume = Volume(texture(12), tilted(), 0.0)
    half = volume.shrunk(2)
    assert float(half.data[1, 2, 3]) == pytest.approx(float(volume.data[2:4, 4:6, 6:8].mean()), rel=1e-5)
    place = volume.affine[:3, :3] @ [2.5, 4.5, 6.5] + volume.affine[:3, 3]
    np.testing.assert_allclose(half.affine[:3, :3] @ [1, 2, 3] + half.affine[:3, 3], place)
    assert half.voxel == pytest.approx(3.0)


def test_an_image_of_any_spacing_is_seen_at_one_voxel_size() -> None:
    affine = tilted(1.0) @ np.diag([0.5, 1.0, 2.0, 1.0])
    index = np.stack(np.meshgrid(np.arange(80), np.arange(40), np.arange(20), indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    image = Image(torch.from_numpy(places[..., 0].astype(np.float32))[None], affine, "ramp")
    volume = Volume.of(image, 1.0, Intensity(0.0, 10.0))
    assert volume.data.shape == (40, 40, 40)
    inner = np.stack(np.meshgrid(*[np.arange(6, 34)] * 3, indexing="ij"), axis=-1)
    expected = (inner @ volume.affine[:3, :3].T + volume.affine[:3, 3])[..., 0] / 10
    np.testing.assert_allclose(volume.data[6:34, 6:34, 6:34].numpy(), np.clip(expected, -10, 10), atol=0.01)
    with pytest.raises(UserError, match="“ramp” would have .* voxels at the 0.01 mm"):
        Volume.of(image, 0.01)


def test_what_is_finer_than_a_coarse_voxel_is_smoothed_away_first() -> None:
    stripes = torch.zeros(24, 24, 24)
    stripes[::2] = 1.0
    smooth = antialiased(stripes, np.ones(3), 4.0)[4:-4]
    assert float(smooth.max() - smooth.min()) < 0.03
    assert antialiased(stripes, np.ones(3), 1.0) is stripes


def test_intensities_do_not_depend_on_units_or_on_the_air_around() -> None:
    generator = np.random.default_rng(0)
    tissue = torch.from_numpy(generator.normal(100, 8, (20, 20, 20)))
    for padding in (5, 15):
        padded = torch.nn.functional.pad(tissue, (padding,) * 6)
        scale = Intensity.of(padded)
        assert scale.median == pytest.approx(100, abs=1) and scale.spread == pytest.approx(25, abs=0.5)
        other = Intensity.of(padded * 3 - 1000)
        torch.testing.assert_close(other.scale(padded * 3 - 1000), scale.scale(padded), rtol=1e-4, atol=1e-4)


def test_barycentre_and_moments_are_those_of_the_voxels_places() -> None:
    weights = torch.rand(6, 7, 8, generator=torch.Generator().manual_seed(0))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in weights.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    places = index @ tilted()[:3, :3].T + tilted()[:3, 3]
    mass = weights.numpy().reshape(-1)
    np.testing.assert_allclose(barycentre(weights, tilted()), np.average(places, axis=0, weights=mass), rtol=1e-5)
    expected = np.cov(places.T, aweights=mass, bias=True)
    np.testing.assert_allclose(second_moments(weights, tilted()), expected, rtol=1e-4, atol=1e-3)


# --- registration


@pytest.mark.parametrize("turn", [(0, 0, 18), (170, 0, 10)])
def test_a_rigid_motion_is_found_from_a_start_nearby(turn: tuple[float, float, float]) -> None:
    motion = registration.about(
        Rotation.from_rotvec(turn, degrees=True).as_matrix(), np.zeros(3), np.array([3.0, -2, 4])
    )
    fixed, moving = blobs(centred(40), 40), blobs(centred(64), 64, motion)
    off = registration.about(
        Rotation.from_rotvec([9, -7, 8], degrees=True).as_matrix(), np.zeros(3), np.array([2.0, 1, -2])
    )
    found = registration.register_rigid(fixed, moving, motion @ off)
    corners = np.array(np.meshgrid([-15, 15], [-15, 15], [-15, 15])).reshape(3, -1)
    apart = (found.matrix - motion)[:3, :3] @ corners + (found.matrix - motion)[:3, 3:]
    assert np.linalg.norm(apart, axis=0).max() < 0.3
    assert found.similarity > 0.99


def test_what_is_not_known_of_a_volume_has_no_say() -> None:
    motion = registration.about(
        Rotation.from_rotvec([0, 0, 10], degrees=True).as_matrix(), np.zeros(3), np.array([2.0, 0, 0])
    )
    fixed, moving = blobs(centred(40), 40), blobs(centred(64), 64, motion)
    moving.known = torch.ones(64, 64, 64, dtype=torch.bool)
    moving.known[:, :, 34:] = False
    moving.data[:, :, 34:] = 5.0
    found = registration.register_rigid(fixed, moving, np.eye(4))
    assert found.similarity > 0.99
    np.testing.assert_allclose(found.matrix[:3, 3], motion[:3, 3], atol=0.3)
    moving.known = None
    assert registration.register_rigid(fixed, moving, np.eye(4)).similarity < 0.9


def test_too_few_steps_do_not_lead_away_from_a_good_start() -> None:
    fixed, moving = blobs(centred(40), 40), blobs(centred(40), 40)
    found = registration.register_rigid(fixed, moving, np.eye(4), levels=(1,), iterations=1)
    np.testing.assert_allclose(found.matrix, np.eye(4), atol=1e-9)
    assert found.similarity == pytest.approx(1)


def test_of_several_starts_the_one_that_ends_most_alike_wins_though_it_begins_behind() -> None:
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec([0.2, -0.1, 0.15]).as_matrix()
    fixed, moving = blobs(centred(32, 1.5), 32), blobs(centred(40, 1.5), 40, motion)
    turns = [(0, -1.6, 0), (0, 0, 2.6), (2, 0, 2), (0, 1.6, 0)]  # the first leads home, the others to shallow optima
    starts = [registration.about(Rotation.from_rotvec(turn).as_matrix(), np.zeros(3), np.zeros(3)) for turn in turns]
    glances = [registration.register_rigid(fixed, moving, start, (1,), 16).similarity for start in starts]
    found = registration.register_from(starts, fixed, moving, 30)
    assert np.argmax(glances) != 0
    np.testing.assert_allclose(found.matrix[:3, :3], motion[:3, :3], atol=0.1)
    assert np.linalg.norm(found.matrix[:3, 3]) < 1.5  # a voxel
    assert found.similarity > 0.95 > max(glances)


def test_volumes_that_do_not_overlap_come_back_unlike_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    far = np.eye(4)
    far[:3, 3] = 500
    found = registration.register_rigid(blobs(centred(24), 24), blobs(centred(24), 24), far)
    assert found.similarity == 0
    np.testing.assert_array_equal(found.matrix, far)
    assert capfd.readouterr() == ("", "")


def test_the_same_registration_gives_the_same_matrix_twice() -> None:
    fixed, moving = (
        blobs(centred(40), 40),
        blobs(centred(40), 40, registration.about(np.eye(3), np.zeros(3), np.ones(3))),
    )
    once, again = (registration.register_rigid(fixed, moving, np.eye(4)).matrix for _ in range(2))
    np.testing.assert_allclose(once, again, atol=1e-9)


def test_demons_carry_points_along_a_bend_that_is_known() -> None:
    fixed, moving = blobs(centred(40), 40, bend=1.5), blobs(centred(40), 40)
    turned = registration.about(
        Rotation.from_rotvec([0, 0, 90], degrees=True).as_matrix(), np.zeros(3), np.array([9.0, 0, 0])
    )
    displacement = registration.register_demons(fixed, moving, iterations=20)
    points = np.random.default_rng(0).uniform(-9, 9, (60, 3))
    bent = points + 1.5 * np.sin(points[:, [1, 2, 0]] / 9)  # the fixed scene shows at x what the moving one has there
    truth = bent @ turned[:3, :3].T + turned[:3, 3]
    carried = registration.Warp(turned, displacement).carry(points)
    straight = registration.Warp(turned, registration.no_displacement(fixed)).carry(points)
    np.testing.assert_allclose(straight, points @ turned[:3, :3].T + turned[:3, 3], atol=1e-6)
    before, after = (np.linalg.norm(found - truth, axis=1) for found in (straight, carried))
    assert np.median(after) < 0.4 * np.median(before)
    warped = registration.apply_displacement(moving, displacement).numpy()
    assert registration.correlation(warped, fixed.data.numpy()) > 0.99


def test_correlation_is_pearsons() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 50))
    assert registration.correlation(one, other) == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert registration.correlation(one, -3 * one + 2) == pytest.approx(-1)
    assert registration.correlation(one, np.ones(50)) == 0


# --- distances of points


def test_points_are_matched_by_name_and_by_order_where_names_repeat() -> None:
    truth = Points(np.array([[0.0, 0, 0], [3, 0, 0], [np.nan] * 3]), ["a", "b", "c"])
    found = Points(np.array([[3.0, 4, 0], [0, 0, 1]]), ["b", "a"])
    apart, names = distances(found, truth)
    assert names == ["a", "b"] and apart.tolist() == [1, 4]
    assert np.isnan(distances(Points(found.positions[:1], ["b"]), truth)[0][0])
    twice = Points(truth.positions[:2], ["x", "x"])
    np.testing.assert_array_equal(paired(found, twice)[0], found.positions)
    for wrong in (Points(found.positions, ["d", "e"]), Points(found.positions[:1], ["x"])):
        with pytest.raises(ValueError, match=r"."):
            distances(wrong, twice if wrong.names == ["x"] else truth)


def test_mirrored_pairs_differ_in_their_side_alone() -> None:
    names = [
        "AC",
        "R superior LMS",
        "left eye",
        "L superior LMS",
        "Right eye",
        "horn_L",
        "horn_R",
        "lateral",
        "rateral",
    ]
    assert mirrored_pairs(names) == [(1, 3), (2, 4), (5, 6)]


def test_a_pair_is_swapped_when_both_lie_nearer_to_their_partners_place() -> None:
    truth = Points(np.array([[-10.0, 0, 0], [10, 0, 0], [-10, 5, 0], [10, 5, 0]]), ["L a", "R a", "L b", "R b"])
    wrong = truth.positions[[1, 0, 2, 3]]
    assert swapped_pairs(Points(wrong, truth.names), truth) == (1, 2)
    half = truth.positions.copy()
    half[0] = half[1]
    assert swapped_pairs(Points(half, truth.names), truth) == (0, 2)
    half[2] = np.nan
    assert swapped_pairs(Points(half, truth.names), truth) == (0, 1)
