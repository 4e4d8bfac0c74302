"""Previews of a network in training: only where asked for, seldom, small, in place, without a trace in the model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgen import io, previews
from medgen.case import Image, Mask, Points, Segment
from medgen.errors import Cancelled, UserError
from medgen.jobs import Run

AFFINE = np.array([[0, 2.0, 0, -5], [1.5, 0, 0, 7], [0, 0, 3.0, 11], [0, 0, 0, 1]])


def a_run(folder: Path, **options: Any) -> tuple[Run, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return Run(folder, device="cpu", emit=events.append, **options), events


def an_image() -> Image:
    return Image(torch.rand(1, 4, 4, 4), np.eye(4))


def test_nothing_is_made_unless_the_parent_asked(tmp_path: Path) -> None:
    run, events = a_run(tmp_path)
    run.preview("ct", lambda: pytest.fail("it was made"), 1)
    assert events == [] and not list(tmp_path.iterdir())


def test_previews_are_seconds_apart_and_take_no_more_than_a_tenth_of_the_time(tmp_path: Path) -> None:
    def slow() -> Image:
        time.sleep(0.05)
        return an_image()

    run, events = a_run(tmp_path, previews=60.0)
    for step in range(3):
        run.preview("ct", an_image, step)
    assert [event["step"] for event in events] == [0]
    run, events = a_run(tmp_path, previews=0.0)
    end = time.monotonic() + 1.2
    while time.monotonic() < end:
        run.preview("ct", slow, 0)
        time.sleep(0.005)
    assert 2 <= len(events) <= 3


def test_a_preview_says_what_it_is_of_and_lies_in_the_runs_folder(tmp_path: Path) -> None:
    run, (events) = a_run(tmp_path, previews=0.0)
    labels = torch.zeros(6, 7, 8, dtype=torch.int16)
    labels[2:4, 3:5, 4:6] = 1
    mask = Mask(labels, AFFINE, [Segment(1, "ball")])
    run.preview("mask", lambda: mask, 40, files={"image": ["/a.nrrd"]}, measure={"Dice": 0.5})
    (event,) = events
    assert (event["role"], event["kind"], event["step"], event["measure"]) == ("mask", "Mask", 40, {"Dice": 0.5})
    assert event["files"] == {"image": ["/a.nrrd"]} and Path(event["path"]).parent == tmp_path
    found = io.read_mask(Path(event["path"]))
    assert found.shape == (2, 2, 2) and found.segments[0].name == "ball"
    for mine, theirs in ((0, (2, 3, 4)), (1, (3, 4, 5))):
        assert np.allclose(found.affine @ [mine, mine, mine, 1], AFFINE @ [*theirs, 1], atol=1e-4)


def test_torchs_random_numbers_and_the_progress_are_as_before(tmp_path: Path) -> None:
    def make() -> Image:
        run.progress(1, 3, "predict")
        return Image(torch.rand(1, 4, 4, 4), np.eye(4))

    run, events = a_run(tmp_path, previews=0.0)
    run.progress(0, 10, "fit")
    before = torch.get_rng_state()
    run.preview("ct", make, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert [event["event"] for event in events] == ["progress", "preview"]
    assert run._stage == "fit"


@pytest.mark.parametrize("error", [UserError("no"), OSError(28, "full"), Cancelled("stop")])
def test_a_preview_that_fails_is_left_out(tmp_path: Path, error: Exception) -> None:
    def make() -> Image:
        raise error

    run, events = a_run(tmp_path, previews=0.0)
    run.preview("ct", make, 1)
    assert events == []
    run.progress(0, 2, "fit")
    assert [event["event"] for event in events] == ["progress"]


@pytest.mark.parametrize("kind", ["Image", "Mask"])
def test_a_large_preview_is_thinned_in_its_place(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "MOST_VOXELS", 300)
    data = torch.arange(1, 1 + 12 * 9 * 10, dtype=torch.int16).reshape(12, 9, 10)
    value = Image(data[None], AFFINE) if kind == "Image" else Mask(data, AFFINE)
    small = previews.smaller(value)
    assert isinstance(small, (Image, Mask))
    kept = small.data[0] if kind == "Image" else small.data
    assert kept.numel() <= 300
    stride = 2
    assert torch.equal(kept, data[::stride, ::stride, ::stride])
    assert np.allclose(small.affine @ [1, 2, 3, 1], AFFINE @ [stride, 2 * stride, 3 * stride, 1])


def test_points_are_written_as_they_are(tmp_path: Path) -> None:
    run, events = a_run(tmp_path, previews=0.0)
    points = Points(np.array([[1.0, 2, 3]]), ["apex"])
    run.preview("landmarks", lambda: points, 1)
    assert events[0]["kind"] == "Points" and events[0]["path"].endswith(".mrk.json")
