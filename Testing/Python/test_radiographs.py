"""Radiographs in their squares: places and positions agree, and points move with a changed image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from wedges import picture

from medgen.radiographs import Change, changed, frame, random_change


def test_places_and_positions_are_one_anothers_inverse_on_oblong_pixels() -> None:
    case = picture(3, spacing=(2.0, 0.5))
    framed = frame(case["image"], 64)
    marks = case["landmarks"].positions
    places = framed.places(marks)
    np.testing.assert_allclose(framed.positions(places), marks, atol=1e-4)
    assert framed.width == pytest.approx(96) and framed.data.shape == (1, 64, 64)
    assert 0 < float(places[:, 0].max()) <= 1 and float(places[:, 1].max()) <= 20 / 96
    assert framed.inside(places).all() and not framed.inside(places + 1).any()
    assert framed.millimetres(torch.tensor([1.0, 1.0])).tolist() == pytest.approx([96.0, 96.0], rel=0.03)


def test_a_framed_image_shows_what_lies_at_a_place() -> None:
    image = picture(0)["image"]
    image.data = torch.zeros(1, 48, 40)
    image.data[0, 30, 12] = 1.0
    framed = frame(image, 96)
    mark = framed.places(np.array([(image.affine @ [30, 12, 0, 1])[:3]]))
    brightest = np.unravel_index(int(framed.data.float().argmax()), (96, 96))
    np.testing.assert_allclose((np.array(brightest) + 0.5) / 96, mark[0].numpy(), atol=0.75 / 96)


def test_points_move_with_a_changed_image_and_back() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        data = torch.zeros(1, 64, 64)
        data[0, 40, 22] = 1.0
        place = torch.tensor([[40.5 / 64, 22.5 / 64]])
        change = random_change(30.0, 0.2, 0.1, 0.0, random)
        seen, moved = changed(data, place, change)
        i, j = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        centre = torch.stack([(seen[0] * i).sum(), (seen[0] * j).sum()]) / seen.sum() / 64
        torch.testing.assert_close(centre, moved[0], atol=0.3 / 64, rtol=0)
        torch.testing.assert_close(change.undone(moved), place)


def test_no_change_changes_nothing() -> None:
    data = torch.randn(1, 32, 32)
    seen, _ = changed(data, torch.rand(2, 2), Change())
    torch.testing.assert_close(seen, data)
