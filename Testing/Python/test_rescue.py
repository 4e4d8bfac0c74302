"""Out of memory: smaller windows, then the CPU, each said; a training names what to lower."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from backend_tools import volume
from pydantic import Field

from medgen import catalog, execute, rescue
from medgen.bundle import Model
from medgen.case import Case, Image
from medgen.cohort import Collection
from medgen.errors import OutOfMemory, UserError
from medgen.jobs import Run
from medgen.method import Config, Kind, Method, Operation, Pool, Role, lowers_memory, memory_window
from medgen.rescue import Rescue

IMAGE = Role("image", Kind.IMAGE, "An image")


class WindowConfig(Config):
    window: int = Field(
        0, ge=0, le=512, multiple_of=8, description="w", json_schema_extra=memory_window(16, 8, at_zero="crop")
    )
    overlap: float = Field(0.5, ge=0, lt=1, description="o")


class TrainConfig(Config):
    crop: int = Field(64, ge=16, le=512, description="c", json_schema_extra=lowers_memory())
    rate: float = Field(0.1, gt=0, le=1, description="r")


class Hungry(Method):
    """Fits a window of `room[device]`, nothing larger; notes what it tried."""

    slug, title, sentence, citation, url = "hungry", "Hungry", "Eats.", "nobody", "https://doi.org/none"
    module, group = "MedGenSynthesis", "Translate"
    operations = (
        Operation("train", "Train", "Eat.", TrainConfig, "collection", pools=(Pool("cases", (IMAGE,)),),
                  outputs=(Role("model", Kind.MODEL, "m"),)),
        Operation("apply", "Apply", "Eat.", WindowConfig, "case", (IMAGE,),
                  outputs=(Role("copy", Kind.IMAGE, "c"),)),
    )  # fmt: skip

    def __init__(self, room: dict[str, int], error: BaseException | None = None) -> None:
        self.room, self.error = room, error or torch.OutOfMemoryError("CUDA out of memory")
        self.tried: list[tuple[str, int]] = []
        self.drawn: list[float] = []

    def apply(self, case: Case, config: WindowConfig, run: Run, model: Model | None) -> Case:
        self.drawn.append(float(torch.rand(1)))
        side = config.window or (model.config["crop"] if model else 64)
        self.tried.append((run.device.type, side))
        if side > self.room[run.device.type]:
            raise self.error
        return Case({"copy": case.get("image", Image)})

    def train(self, collection: Collection, config: TrainConfig, run: Run, model: Model | None) -> Case:
        self.tried.append((run.device.type, config.crop))
        raise self.error


@pytest.fixture
def spoken() -> list[dict[str, Any]]:
    return []


def _run(tmp_path: Path, device: str, spoken: list[dict[str, Any]]) -> Run:
    run = Run(tmp_path / "scratch", device="cpu", emit=spoken.append)
    run.device = torch.device(device)
    return run


def _apply(
    method: Hungry, run: Run, tmp_path: Path, window: int = 64, model: Model | None = None
) -> tuple[Path, dict[str, Any]]:
    sitk.WriteImage(volume(), str(tmp_path / "in.nii.gz"))
    out = tmp_path / "out.nii.gz"
    operation = method.operation("apply")
    files = [{"image": [str(tmp_path / "in.nii.gz")]}]
    config = operation.configure(None, {"window": window})
    execute.perform(method, operation, config, run, out, files=files, model=model)
    return out, json.loads(out.with_name(out.name + ".provenance.json").read_text())


def test_a_gpu_without_room_gets_smaller_windows_and_the_provenance_says_so(
    tmp_path: Path, spoken: list[dict[str, Any]]
) -> None:
    method = Hungry({"cuda": 16, "cpu": 512})
    out, record = _apply(method, _run(tmp_path, "cuda", spoken), tmp_path)
    assert method.tried == [("cuda", 64), ("cuda", 32), ("cuda", 16)] and out.exists()
    assert record["config"]["window"] == 16 and record["device"] == "cuda"
    said = [event["message"] for event in spoken if event.get("changed")]
    assert said == record["changed_for_memory"] and "“window” at 16" in said[-1] and "GPU" in said[0]
    assert len(set(method.drawn)) == 1  # every attempt starts from the run's seed


def test_where_no_window_fits_the_gpu_the_cpu_takes_over_as_asked(tmp_path: Path, spoken: list[dict[str, Any]]) -> None:
    method = Hungry({"cuda": 8, "cpu": 512})
    _, record = _apply(method, _run(tmp_path, "cuda", spoken), tmp_path)
    assert method.tried[-1] == ("cpu", 64) and [side for _, side in method.tried[:-1]] == [64, 32, 16]
    assert record["device"] == "cpu" and record["config"]["window"] == 64
    assert "on the CPU" in record["changed_for_memory"][-1]


def test_a_window_of_nought_stands_for_the_trainings_crop(tmp_path: Path, spoken: list[dict[str, Any]]) -> None:
    method = Hungry({"cpu": 48})
    _, record = _apply(
        method, _run(tmp_path, "cpu", spoken), tmp_path, window=0, model=Model("hungry", {}, {"crop": 96})
    )
    assert method.tried == [("cpu", 96), ("cpu", 48)] and record["config"]["window"] == 48


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory")],
)
def test_a_cpu_without_room_ends_in_a_sentence_and_no_file(
    tmp_path: Path, spoken: list[dict[str, Any]], error: BaseException
) -> None:
    method = Hungry({"cpu": 8}, error)
    with pytest.raises(OutOfMemory, match="not even with the smallest windows"):
        _apply(method, _run(tmp_path, "cpu", spoken), tmp_path)
    assert method.tried == [("cpu", 64), ("cpu", 32), ("cpu", 16)] and not (tmp_path / "out.nii.gz").exists()


def test_a_training_is_not_tried_again_but_names_what_to_lower(tmp_path: Path, spoken: list[dict[str, Any]]) -> None:
    method = Hungry({"cuda": 8})
    operation = method.operation("train")
    run = _run(tmp_path, "cuda", spoken)
    with pytest.raises(OutOfMemory, match="to train; lower “crop”, choose a smaller tier or another device"):
        Rescue(operation, TrainConfig(), run).perform(lambda config: method.train(None, config, run, None))  # type: ignore[arg-type]
    assert method.tried == [("cuda", 64)] and spoken == []


def test_other_errors_pass_and_a_cancelled_run_is_not_tried_again(tmp_path: Path, spoken: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="mine"):
        _apply(Hungry({"cpu": 8}, UserError("mine")), _run(tmp_path, "cpu", spoken), tmp_path)
    run, method = _run(tmp_path, "cpu", spoken), Hungry({"cpu": 8})
    run.cancel()
    with pytest.raises(Exception, match="cancelled"):
        _apply(method, run, tmp_path)
    assert len(method.tried) == 1


def test_the_next_case_starts_with_what_worked(tmp_path: Path, spoken: list[dict[str, Any]]) -> None:
    tried: list[int] = []

    def work(config: WindowConfig) -> None:
        tried.append(config.window)
        if config.window > 32:
            raise torch.OutOfMemoryError

    operation = Hungry({}).operation("apply")
    attempt = Rescue(operation, WindowConfig(window=64), _run(tmp_path, "cpu", spoken))
    for _ in range(2):
        attempt.perform(work)  # type: ignore[arg-type]
    assert tried == [64, 32, 32] and len(attempt.changes) == 1


def test_every_method_that_tiles_says_which_setting_the_window_is() -> None:
    """The real methods: a window is marked with what it may fall to, and a training names something to lower."""
    for slug in catalog.entries():
        method = catalog.load(slug)
        assert rescue.marks(method.operation("train").config, "lower"), slug
        for operation in method.operations:
            for name, mark in rescue.marks(operation.config, "window").items():
                field = operation.config.model_fields[name]
                assert operation.config(**{name: mark["least"]}), (slug, field)
