"""The training engine: exact resume wherever it stopped, cancellation, divergence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from medgen.errors import Cancelled, UserError
from medgen.jobs import Run
from medgen.training import EMA, Best, Randomness, Training

STEPS = 40


def _train(
    run: Run, stop_at: int | None = None, stages: tuple[str, ...] = ("pre-training", "fit")
) -> dict[str, torch.Tensor]:
    """Two stages with dropout (global random state), own generators, an optimiser with momentum, EMA and best."""
    torch.manual_seed(run.seed)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
    adam = torch.optim.Adam(network.parameters(), 0.01)
    random, average, best = Randomness(run.seed), EMA(network, 0.9), Best()
    parts = {"network": network, "adam": adam, "random": random, "ema": average, "best": best}
    training = Training(run, parts, checkpoint_seconds=0.0)
    done = 0
    for stage in stages:
        for step in training.stage(stage, STEPS // 2):
            x = torch.randn(16, 6, generator=random.torch) * float(random.numpy.uniform(0.5, 2.0))
            value = training.step((network(x) - x.sum(1, keepdim=True)).square().mean(), adam)
            average.update(network)
            best.offer(-value, step, network)
            done += 1
            if stop_at is not None and done == stop_at:
                run.cancel()
    return {
        **network.state_dict(),
        **{f"ema.{k}": v for k, v in average.state_dict().items()},
        "best": torch.tensor(best.value),
    }


@pytest.mark.parametrize("stop_at", [1, 7, STEPS // 2, STEPS - 1])
def test_resuming_gives_the_model_of_an_uninterrupted_run(tmp_path: Path, stop_at: int) -> None:
    whole = _train(Run(tmp_path / "whole", device="cpu", seed=3))
    with pytest.raises(Cancelled):
        _train(Run(tmp_path / "cut", device="cpu", seed=3), stop_at)
    resumed = _train(Run(tmp_path / "cut", device="cpu", seed=3, resume=True))
    for key, tensor in whole.items():
        torch.testing.assert_close(resumed[key], tensor, rtol=0, atol=0)


def test_a_killed_process_resumes_to_the_same_model(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(
        "import sys, time, torch\n"
        f"sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[2])!r}]\n"
        "import test_training as t\n"
        "from medgen.jobs import Run\n"
        "from pathlib import Path\n"
        "from medgen import training\n"
        "step = training.Training.step\n"
        "training.Training.step = lambda *a: (time.sleep(0.02), step(*a))[1]\n"
        "print('go', flush=True)\n"
        f"t._train(Run(Path({str(tmp_path / 'cut')!r}), device='cpu', seed=3))\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "go\n"
    while not (tmp_path / "cut" / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.15)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    whole = _train(Run(tmp_path / "whole", device="cpu", seed=3))
    resumed = _train(Run(tmp_path / "cut", device="cpu", seed=3, resume=True))
    for key, tensor in whole.items():
        torch.testing.assert_close(resumed[key], tensor, rtol=0, atol=0)


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    first, second = (_train(Run(tmp_path / str(seed), device="cpu", seed=seed)) for seed in (0, 1))
    assert not torch.equal(first["0.weight"], second["0.weight"])


def test_divergence_is_a_sentence_and_not_a_model(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    training = Training(Run(tmp_path, device="cpu"), {"network": network})
    with pytest.raises(UserError, match="diverged.*learning rate"):
        training.step(network(torch.tensor([[float("nan")]])).sum())


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    Training(Run(tmp_path, device="cpu"), {"network": nn.Linear(2, 2)}).save()
    with pytest.raises(UserError, match="does not fit this training"):
        Training(Run(tmp_path, device="cpu", resume=True), {"network": nn.Linear(3, 3)})


def test_progress_gives_the_time_left_from_the_pace_of_the_stage(tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    run = Run(tmp_path, device="cpu", emit=events.append)
    for _ in Training(run, {"n": nn.Linear(1, 1)}).stage("fit", 5):
        time.sleep(0.25)
    left = [event["seconds_left"] for event in events if event["event"] == "progress"]
    assert left[0] is None and left[-1] == 0.0
    assert left[2] == pytest.approx(0.75, abs=0.4)
