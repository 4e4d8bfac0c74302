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
from medgen.jobs import Event, Run
from medgen.training import EMA, Best, Randomness, Training, drawn, look_due

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


def test_drawn_weights_are_their_seeds_and_leave_the_global_random_numbers_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (drawn(seed, lambda: nn.Linear(3, 2)) for seed in (1, 1, 2))
    assert torch.equal(one.weight, same.weight) and not torch.equal(one.weight, other.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stage_is_looked_at_every_so_often_and_at_its_end() -> None:
    assert [step + 1 for step in range(10) if look_due(step, 4, 10)] == [4, 8, 10]


def test_the_best_look_is_kept_and_without_any_the_network_as_it_is(tmp_path: Path) -> None:
    events: list[Event] = []
    network, best = drawn(0, lambda: nn.Linear(2, 1)), Best()
    training = Training(Run(tmp_path, device="cpu", emit=events.append), {"network": network, "best": best})
    now = best.kept(network)
    network.weight.data += 1
    assert torch.equal(now["weight"] + 1, network.weight)  # a copy
    for step, value in enumerate((0.2, 0.7, 0.5)):
        network.weight.data.fill_(value)
        training.look("F1", lambda value=value: value, step, network, best)  # type: ignore[misc]
    assert best.kept(network)["weight"].unique().item() == pytest.approx(0.7) and best.step == 1
    assert [(event["name"], event["value"], event["step"]) for event in events] == [
        ("F1", 0.2, 0), ("F1", 0.7, 1), ("F1", 0.5, 2),
    ]  # fmt: skip


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
