"""Overlap-tiled inference: against brute force, against MONAI, and against what the 3D baseline did before."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer, sliding_window_inference
from monai.inferers.utils import _get_scan_interval
from torch import Tensor, nn
from torch.nn import functional as F

from medgen.contours import UNANNOTATED
from medgen.geometry import WorkingGrid
from medgen.jobs import Run
from medgen.planes import Helpers, PlaneVolume, Predictor, output_channels
from medgen.tiles import _spans, starts, tiled

Shape = tuple[int, int, int]


def small_network(channels_in: int = 1, channels_out: int = 2) -> nn.Module:
    """Two padded convolutions: what comes out depends on where a window's borders lie."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(channels_in, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, channels_out, 3, padding=1)
    ).eval()


def volume(shape: Shape, channels: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((channels, *shape)).astype(np.float32))


def brute_force(network: nn.Module, image: Tensor, window: Shape, overlap: float, blend: str, pad: float) -> Tensor:
    """A padded copy, every window's output times its weights, divided by a count for every voxel; double precision."""
    before = [max(0, side - size) // 2 for size, side in zip(image.shape[1:], window, strict=True)]
    after = [max(0, side - size) - first for size, side, first in zip(image.shape[1:], window, before, strict=True)]
    padded = F.pad(image, [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair], value=pad)
    weight = torch.ones(window, dtype=torch.float64)
    if blend == "gaussian":
        for axis, side in enumerate(window):
            line = torch.exp(-((torch.arange(side) - (side - 1) / 2) ** 2) / (2 * (side / 8) ** 2)).double()
            weight = weight * line.reshape([-1 if n == axis else 1 for n in range(3)])
    corners = []
    for size, side in zip(padded.shape[1:], window, strict=True):
        step = max(1, int(side * (1 - overlap)))
        corners.append(sorted({min(start, size - side) for start in range(0, size, step)}))
    total: Tensor | None = None
    count = torch.zeros(padded.shape[1:], dtype=torch.float64)
    for corner in itertools.product(*corners):
        where = tuple(slice(first, first + side) for first, side in zip(corner, window, strict=True))
        with torch.no_grad():
            found = network(padded[(slice(None), *where)][None])[0].double()
        total = torch.zeros((found.shape[0], *padded.shape[1:]), dtype=torch.float64) if total is None else total
        total[(slice(None), *where)] += found * weight
        count[where] += weight
    assert total is not None
    inside = tuple(slice(first, first + size) for first, size in zip(before, image.shape[1:], strict=True))
    return (total / count)[(slice(None), *inside)].float()


@pytest.mark.parametrize("blend", ["mean", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.85])
@pytest.mark.parametrize(
    ("shape", "window"), [((17, 23, 19), (8, 8, 8)), ((5, 21, 8), (8, 6, 8)), ((3, 4, 5), (8, 7, 6))]
)
def test_the_blend_is_that_of_a_count_map(shape: Shape, window: Shape, overlap: float, blend: str) -> None:
    network, image = small_network(2, 3), volume(shape, 2)
    found = tiled(network, image, window=window, overlap=overlap, channels=3, blend=blend, pad=-1.0)
    expected = brute_force(network, image, window, overlap, blend, -1.0)
    assert found.shape == (3, *shape) and found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(("shape", "window"), [((20, 33, 27), (16, 16, 16)), ((9, 40, 16), (16, 12, 16))])
def test_it_gives_what_monais_inferer_gives(shape: Shape, window: Shape, overlap: float) -> None:
    network, image = small_network(), volume(shape)
    with torch.inference_mode():
        expected = SlidingWindowInferer(window, overlap=overlap)(image[None], network)[0]
    assert torch.allclose(tiled(network, image, window=window, overlap=overlap, channels=2), expected, atol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
def test_gaussian_blending_is_monais_without_its_floor(overlap: float) -> None:
    network, image, window = small_network(), volume((24, 21, 26)), (12, 12, 12)
    floored = compute_importance_map(window, mode="gaussian")
    line = torch.exp(-0.5 * ((torch.arange(12) - 5.5) / 1.5) ** 2)
    free = line[:, None, None] * line[:, None] * line
    acts = free < 0.001
    assert torch.allclose(floored[~acts], free[~acts]) and (floored[acts] == floored.min()).all()
    with torch.inference_mode():
        expected = sliding_window_inference(
            image[None], window, 1, network, overlap, mode="gaussian", roi_weight_map=free[None, None]
        )[0]
    found = tiled(network, image, window=window, overlap=overlap, channels=2, blend="gaussian")
    assert torch.allclose(found, expected, atol=1e-5)


@given(size=st.integers(1, 90), window=st.integers(1, 40), overlap=st.floats(0, 0.99))
@settings(deadline=None, max_examples=200)
def test_windows_stand_where_monai_puts_them(size: int, window: int, overlap: float) -> None:
    padded = max(size, window)
    interval = _get_scan_interval((padded,), (window,), 1, (overlap,))
    theirs = [part[0].start for part in dense_patch_slices((padded,), (window,), interval)]
    before = (padded - size) // 2
    assert starts(size, window, overlap) == [start - before for start in theirs]


@given(
    size=st.integers(1, 90),
    window=st.integers(1, 40),
    overlap=st.floats(0, 0.95),
    blend=st.sampled_from(["mean", "gaussian"]),
)
@settings(deadline=None, max_examples=200)
def test_the_weights_of_every_voxel_sum_to_one(size: int, window: int, overlap: float, blend: str) -> None:
    total = torch.zeros(size, dtype=torch.float64)
    for span in _spans(size, window, overlap, blend):  # type: ignore[arg-type]
        assert (span.weight >= 0).all()
        total[span.inside] += span.weight
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


@pytest.mark.parametrize("blend", ["mean", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.float32, torch.float64])
def test_a_network_that_changes_nothing_gives_the_volume_back(dtype: torch.dtype, blend: str) -> None:
    image = torch.arange(11 * 9 * 13).reshape(1, 11, 9, 13).remainder(251).to(dtype)
    found = tiled(lambda x: x, image, window=(4, 16, 5), overlap=0.4, blend=blend)  # type: ignore[arg-type]
    assert found.dtype == torch.float32 and torch.allclose(found, image.float(), rtol=1e-5)


def test_empty_windows_are_not_run_and_leave_the_fill() -> None:
    image = torch.full((1, 24, 8, 8), -1024, dtype=torch.int16)
    image[:, :5] = 100
    seen: list[float] = []

    def network(inputs: Tensor) -> Tensor:
        seen.append(float(inputs.max()))
        return inputs * 0 + 40

    found = tiled(
        network, image, window=(8, 8, 8), overlap=0.5, skip=lambda part: bool(part.max() < -1000), fill=-1000.0
    )
    assert seen == [100.0, 100.0]  # windows from 0 and from 4; those from 8, 12 and 16 are air
    assert (found[:, 12:] == -1000).all(), "exactly, not to rounding"
    assert torch.allclose(found[:, :8], torch.tensor(40.0))
    assert torch.allclose(found[:, 8:12], torch.tensor(-480.0)), "half from a window that was run, half fill"


@pytest.mark.parametrize("batch", [2, 3, 100])
def test_windows_run_in_batches_give_the_same(batch: int) -> None:
    network, image = small_network(), volume((17, 12, 15))
    arguments = {"window": (8, 8, 8), "overlap": 0.5, "channels": 2, "skip": lambda part: bool(part.max() < 2.6)}
    sizes: list[int] = []

    def counting(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        return network(inputs)

    expected = tiled(network, image, **arguments)
    assert torch.allclose(tiled(counting, image, batch=batch, **arguments), expected, atol=1e-6)
    assert all(size == batch for size in sizes[:-1]) and sizes[-1] <= batch and sum(sizes) > 1


def test_a_reader_makes_its_windows_one_by_one() -> None:
    image = volume((9, 14, 5), 2)
    asked: list[Shape] = []

    class Padded:
        shape = (9, 14, 5)

        def __call__(self, start: Shape, window: Shape) -> Tensor:
            asked.append(start)
            index = [
                (first + torch.arange(side)).clamp(0, size - 1)
                for first, side, size in zip(start, window, self.shape, strict=True)
            ]
            return image[:, index[0][:, None, None], index[1][:, None], index[2]]

    found = tiled(lambda x: x, Padded(), window=(4, 6, 8), overlap=0.5, channels=2)
    assert torch.allclose(found, image, atol=1e-6)
    assert {start[2] for start in asked} == {-1}, "a window that is larger than the volume is centred on it"


def test_progress_counts_every_window_and_can_end_the_work() -> None:
    calls: list[tuple[int, int]] = []
    tiled(lambda x: x, volume((8, 8, 12)), window=(8, 8, 4), overlap=0, progress=lambda *done: calls.append(done))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    ran: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        tiled(lambda x: (ran.append(1), x)[1], volume((8, 8, 12)), window=(8, 8, 4), overlap=0, progress=stop)
    assert len(ran) == 1


def test_the_volume_is_left_alone_and_the_result_can_be_worked_on() -> None:
    image = volume((8, 8, 8)) - 1
    before = image.clone()
    result = tiled(lambda x: x.clamp_(min=0), image, window=(4, 8, 8), overlap=0.5)
    assert torch.equal(image, before)
    result.clamp_(max=0.5)  # refused on tensors made under inference mode
    assert not torch.is_inference(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": -0.1}, "overlap"),
        ({"blend": "hann"}, "blend"),
        ({"channels": 2}, r"\(1, 2, 4, 4, 4\) was expected"),
    ],
)
def test_what_does_not_fit_is_said(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiled(lambda x: x, volume((8, 8, 8)), **{"window": (4, 4, 4), "overlap": 0.5, **arguments})


# --- the 3D baseline of multiplanar-unet


def patches_before(predictor: Predictor, image: PlaneVolume, run: Run) -> Tensor:
    """How `Predictor` averaged its patches before `tiles` was there: sums and a count map of the whole volume."""
    side, shape = predictor.patch, image.grid.shape
    first = [sorted({min(start, max(0, size - side)) for start in range(0, size, side // 2)}) for size in shape]
    total, count = torch.zeros((output_channels(predictor.structures), *shape)), torch.zeros(shape)
    across = torch.arange(side, dtype=torch.float32)
    for i, j, k in itertools.product(*first):
        grid = torch.meshgrid(across + i, across + j, across + k, indexing="ij")
        inputs = image.inputs(torch.stack(grid, dim=-1), predictor.helpers, 0)[None]
        found = predictor._probabilities(inputs, run, run.autocast)[0]
        total[:, i : i + side, j : j + side, k : k + side] += found
        count[i : i + side, j : j + side, k : k + side] += 1
    return total / count


@pytest.mark.parametrize("structures", [[1], [1, 2]])
def test_the_3d_baseline_predicts_what_it_did_before(tmp_path, structures: list[int]) -> None:
    torch.manual_seed(0)
    grid = WorkingGrid.over((21, 26, 17), np.ones(3), 10**6)
    labels = torch.full(grid.shape, UNANNOTATED, dtype=torch.int16)
    image = PlaneVolume(volume(grid.shape), grid, labels=labels)
    helpers = Helpers(position=True)
    network = small_network(4, output_channels(structures))
    run = Run(tmp_path, device="cpu", precision="32")
    predictor = Predictor(network, helpers, 0.0, structures, patch=16)
    found = predictor.mean(image, 0, [], run, run.autocast)
    with torch.inference_mode():
        expected = patches_before(predictor, image, run)
    assert found.std() > 0.01 and torch.allclose(found, expected, atol=1e-6)
