"""Samples of marked volumes, places that keep their distance, windows and components; lines read as spheres."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from medgen import io, markups
from medgen.case import Image, Line, Sphere
from medgen.errors import UserError
from medgen.execute import Targets
from medgen.lesions import MarkedVolume, Windows, components, free_response, spaced
from medgen.method import Kind, Role
from medgen.patches import grid_affine, working_grid

SPHERES = Role("aneurysms", Kind.SPHERE, "", many=True, may_be_empty=True)


def ramp(spacing: tuple[float, float, float] = (0.8, 1.0, 1.3)) -> tuple[Image, np.ndarray]:
    """A tilted volume whose intensity grows linearly in space, and the growth a mm."""
    growth = np.array([0.01, -0.02, 0.015])
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec((10, -20, 30), degrees=True).as_matrix() * np.array(spacing)
    affine[:3, 3] = (5, -7, 11)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (20, 18, 16)], indexing="ij"), axis=-1)
    values = (index @ affine[:3, :3].T + affine[:3, 3]) @ growth
    return Image(torch.from_numpy(values).float()[None] * 700 + 3000, affine, "ramp"), growth


def test_intensities_are_scaled_from_the_lowest_to_the_highest() -> None:
    volume = MarkedVolume.of(ramp()[0], [], 0.5)
    assert float(volume.data.min()) == 0 and float(volume.data.max()) == 1


def test_a_sample_is_linear_between_voxels_wherever_it_lies_and_nought_outside() -> None:
    image, growth = ramp()
    volume = MarkedVolume.of(image, [], 0.5)
    low, high = float(image.data.min()), float(image.data.max())
    index = np.random.default_rng(1).uniform(0, 1, (4, 5, 3)) * (np.array(image.shape) - 1)
    places = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    expected = ((places @ growth) * 700 + 3000 - low) / (high - low)
    np.testing.assert_allclose(volume.look(places).numpy(), expected, atol=2e-3)  # half precision
    one_by_one = torch.stack([volume.look(place[None])[0] for place in places.reshape(-1, 3)]).reshape(4, 5)
    np.testing.assert_allclose(volume.look(places).numpy(), one_by_one.numpy(), atol=1e-6)
    outside = places + image.affine[:3, 0] * 40
    assert float(volume.look(outside).abs().max()) == 0
    both = np.concatenate((places[:1], outside[:1]))
    np.testing.assert_allclose(volume.look(both)[0].numpy(), expected[0], atol=2e-3)
    assert float(volume.look(both)[1].abs().max()) == 0


def test_a_place_is_inside_where_it_is_no_farther_than_the_radius_from_a_lesion() -> None:
    spheres = [Sphere(np.array([0.0, 0, 0]), 2.0), Sphere(np.array([5.0, 0, 0]), 1.0)]
    volume = MarkedVolume(torch.zeros(2, 2, 2).half(), np.eye(4), spheres)
    places = np.array([[0.0, 0, 2.0], [0, 0, 2.01], [4.0, 0, 0], [3.0, 0, 0]])
    assert volume.inside(places).tolist() == [True, False, True, False]


def test_the_brightness_of_a_lesion_is_the_share_of_the_volume_that_is_no_brighter() -> None:
    data = torch.arange(1000).reshape(10, 10, 10).float() / 1000
    volume = MarkedVolume(data.half(), np.eye(4))
    assert volume.brightness(Sphere(np.array([5.0, 5, 5]), 0.4)) == pytest.approx(59.5, abs=0.3)  # at i = 5.4
    assert volume.brightness(Sphere(np.array([9.0, 9, 9]), 0.1)) == pytest.approx(100, abs=0.5)
    assert volume.percentiles(50)[0] == pytest.approx(0.4995, abs=1e-3)


def test_spaced_places_are_the_first_that_keep_their_distance() -> None:
    generator = np.random.default_rng(3)
    places, taken = generator.uniform(0, 30, (400, 3)), [np.array([15.0, 15, 15])]
    found = spaced(places, 12, 7.0, taken)
    expected: list[np.ndarray] = []
    for place in places:
        if len(expected) < 12 and all(np.linalg.norm(place - other) >= 7.0 for other in (*taken, *expected)):
            expected.append(place)
    np.testing.assert_array_equal(found, expected)
    assert len(spaced(places, 10_000, 7.0, taken)) < 100  # as many as there are
    assert len(spaced(places, 5, 0.0, [])) == 5


def test_windows_show_the_working_grid_and_what_lies_around_it() -> None:
    image, _ = ramp()
    volume, grid = MarkedVolume.of(image, [], 1.0), working_grid(image, 1.0)
    windows, affine = Windows(volume, grid, 7, 3), grid_affine(grid, image.affine)
    assert windows.shape == tuple(-(-size // 7) * 7 for size in grid.shape) != grid.shape
    seen = windows((4, 0, 2), (5, 6, 7))
    assert seen.shape == (1, 11, 12, 13)
    for offset in ((0, 0, 0), (10, 3, 12), (5, 9, 6)):
        place = affine[:3, :3] @ (np.array((4, 0, 2)) - 3 + offset) + affine[:3, 3]
        assert float(seen[(0, *offset)]) == pytest.approx(float(volume.look(place[None])[0]), abs=1e-6)


def test_components_touch_at_corners_and_come_surest_first_with_centre_size_and_confidence() -> None:
    found = torch.zeros(12, 10, 9)
    found[1, 1, 1], found[2, 2, 2] = 0.6, 0.7  # one component: they touch at a corner
    found[6:9, 4:7, 3:6] = 0.8
    found[7, 5, 4] = 0.95
    found[11, 9, 8] = 0.49
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    affine[:3, 3] = (1, 2, 3)
    points, spheres = components(found, affine, 0.5, "aneurysm")
    np.testing.assert_allclose(points.positions, [[4.5, 4.5, 11.0], [1.75, 2.75, 6.0]])
    np.testing.assert_allclose(points.confidence, [0.95, 0.7], atol=1e-6)
    assert points.names == [sphere.name for sphere in spheres] == ["aneurysm 1", "aneurysm 2"]
    assert 4 / 3 * np.pi * spheres[0].radius ** 3 == pytest.approx(27 * 0.5)
    assert len(components(found, affine, 0.4, "aneurysm")[1]) == 3
    none, no_spheres = components(found, affine, 0.99, "aneurysm")
    assert none.positions.shape == (0, 3) and no_spheres == [] and none.names == []


def test_the_free_response_of_maps_counts_the_components_of_each_threshold() -> None:
    found = torch.zeros(20, 20, 20)
    found[4:7, 4:7, 4:7] = 0.9  # in a lesion
    found[12:14, 12:14, 12:14], found[12:14, 12:14, 16:18] = 0.6, 0.6
    found[12:14, 12:14, 14:16] = 0.3  # joins the two into one
    lesions = [Sphere(np.array([5.0, 5, 5]), 2.0), Sphere(np.array([15.0, 3, 3]), 2.0)]
    curve = free_response([(found, np.eye(4), lesions), (torch.zeros(4, 4, 4), np.eye(4), [])], (0.95, 0.8, 0.5, 0.2))
    assert curve.sensitivity.tolist() == [0.0, 0.5, 0.5, 0.5]
    assert curve.fp.tolist() == [0.0, 0.0, 1.0, 0.5]


# --- markups


def line(first: Any, second: Any, name: str = "sac") -> dict[str, Any]:
    points = [{"id": str(n), "position": list(p), "positionStatus": "defined"} for n, p in enumerate((first, second))]
    return {"type": "Line", "name": name, "coordinateSystem": "LPS", "controlPoints": points}


def written(folder: Path, *items: dict[str, Any]) -> Path:
    path = folder / "lines.mrk.json"
    path.write_text(json.dumps({"markups": items}))
    return path


def test_a_line_is_read_as_the_sphere_of_which_it_is_the_diameter(tmp_path: Path) -> None:
    path = written(tmp_path, line((1, 2, 3), (1, 6, 3), "first"), line((0, 0, 0), (0, 0, 3), "second"))
    first, second = markups.read(path, SPHERES)
    np.testing.assert_allclose(first.centre, (-1, -4, 3))  # LPS to RAS
    assert (first.radius, first.name, second.radius) == (2.0, "first", 1.5)
    (as_line, _) = markups.read(path, Role("lines", Kind.LINE, "", many=True))
    assert isinstance(as_line, Line)


def test_a_line_without_length_or_without_its_second_point_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Line “dot” of .*lines.mrk.json has no length; move its two points apart"):
        markups.read(written(tmp_path, line((1, 2, 3), (1, 2, 3), "dot")), SPHERES)
    half = line((1, 2, 3), (1, 2, 3), "half")
    half["controlPoints"].pop()
    with pytest.raises(UserError, match="Line “half” of .* does not have its two points"):
        markups.read(written(tmp_path, half), SPHERES)
    half = line((1, 2, 3), (1, 2, 9), "half")
    half["controlPoints"][1]["positionStatus"] = "undefined"
    with pytest.raises(UserError, match="Line “half” of .* does not have its two points"):
        markups.read(written(tmp_path, half), SPHERES)


def test_a_file_of_no_markups_says_that_there_is_none_where_that_may_be(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert markups.read(path, SPHERES) == []
    with pytest.raises(UserError, match="holds nothing"):
        markups.read(path, Role("aneurysms", Kind.SPHERE, "", many=True))
    with pytest.raises(UserError, match="holds Fiducial"):
        markups.read(written(tmp_path, {"type": "Fiducial", "controlPoints": []}), SPHERES)


def test_many_spheres_leave_in_one_file_and_none_in_an_empty_one(tmp_path: Path) -> None:
    from medgen.landmarks.aneurysm_detection import AneurysmDetection

    apply = AneurysmDetection().operation("apply")
    assert Targets(apply, tmp_path / "out", False).paths["aneurysms"].name == "aneurysms.mrk.json"
    spheres = [Sphere(np.array([1.0, 2, 3]), 2.0, "a"), Sphere(np.array([4.0, 5, 6]), 1.0, "b")]
    for count in (2, 0):
        path = tmp_path / f"{count}.mrk.json"
        io.write(spheres[:count], Kind.SPHERE, path)
        back = markups.read(path, SPHERES)
        assert [(one.name, one.radius) for one in back] == [("a", 2.0), ("b", 1.0)][:count]
