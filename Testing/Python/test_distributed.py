"""Training in several processes under torchrun: the model of one process with the whole batch, written once; whatever
ends one process ends all, and a resumed training comes out as an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_ranks
from backend_tools import HERE, ROOT
from safetensors.torch import load_file

from medgen import bundle, phantoms, ranks
from medgen.cli import main
from medgen.jobs import Run

FREQUENCY = "frequency-mr-to-ct"
_TIER = ["--tier", "smoke", "--precision", "32", "--device", "cpu", "--seed", "3"]
# A network without any normalisation, where units at rest have no gradient at all: where it is next to nothing, as in
# deep levels of a normalised U-Net, Adam turns its rounding into a step of full length.
_NETWORK = ["base=fc-net", "supervision=plain", "adversarial=false"]
_PLAIN = [*_NETWORK, "updates=8", "validate_every=4", "learning_rate=0.001"]
# The command line with a checkpoint after every step, and steps that take long enough to be interrupted.
_SLOWED = """
import sys, time
from medgen.cli import main
from medgen.training import Training
Training.__init__.__kwdefaults__["checkpoint_seconds"] = 0.0
step = Training.step
Training.step = lambda *given, **more: (time.sleep(0.3), step(*given, **more))[1]
sys.exit(main())
"""


def arguments(cohort: Path, out: Path, batch: int, *more: str, settings: list[str] = _PLAIN) -> list[str]:
    """The command line of a training."""
    pairs = [word for setting in [*settings, f"batch_size={batch}"] for word in ("--set", setting)]
    return ["train", FREQUENCY, str(cohort), "-o", str(out), *_TIER, *pairs, "--progress", "json", *more]


def torchrun(*program: str, processes: int = 2) -> subprocess.Popen[str]:
    """A program in several processes, which meet at a port that is free."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *program], env=environment, cwd=ROOT, **pipes)


def finished(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The events of a training that ends well and says nothing else."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def workers(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Rank -> process number of the processes that a torchrun has started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "environ").read_text().split("\0") if parent == launcher.pid else []
        except OSError:
            continue
        found |= {int(word[5:]): int(folder.name) for word in words if word.startswith("RANK=")}
    return found


def alive(number: int) -> bool:
    """Whether a process is there and does something."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def interrupted(cohort: Path, out: Path, tmp_path: Path, end: Any, *, batch: int = 1) -> tuple[str, str]:
    """Start a training, end it by `end(torchrun, its workers)` after its first checkpoint; what it said. All of its
    processes are gone within 30 s."""
    (tmp_path / "slowed.py").write_text(_SLOWED)
    process = torchrun(str(tmp_path / "slowed.py"), *arguments(cohort, out, batch))
    while not (out.with_name(out.name + ".training") / "checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    found, began = workers(process), time.monotonic()
    assert sorted(found) == [0, 1]
    end(process, found)
    output = process.communicate(timeout=60)
    while any(alive(number) for number in found.values()):
        time.sleep(0.05)
    assert time.monotonic() - began < 30
    assert process.returncode != 0 and not out.exists()
    return output


def weights_of(model: Path) -> torch.Tensor:
    """All weights of a trained generator in a row."""
    tensors = load_file(model / "models" / "generator.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small pairs, one to learn from and one to validate."""
    table = phantoms.write(phantoms.PHANTOMS["head-mr-ct"], 2, 1, tmp_path_factory.mktemp("cohort"))
    table.write_text(table.read_text().replace(",test", ",validation"))
    return table


@pytest.fixture(scope="module")
def two(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """The model that two processes train with one crop each, and their events."""
    out = tmp_path_factory.mktemp("two") / "model"
    yield out, finished(torchrun("-m", "medgen", *arguments(cohort, out, 1)))


# --- what the processes agree on ----------------------------------------------------------------------------------


def test_losses_gradients_and_statistics_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    """Unequal and empty parts, weights without a gradient, momentum, a loss that couples samples; double precision."""
    process = torchrun(str(HERE / "toy_ranks.py"), str(tmp_path))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and err == "", err
    found = torch.load(tmp_path / "found.pt")
    together, alone = found["train"], toy_ranks.train(tmp_path / "alone")
    assert together["untouched"] and together["told"] == 0
    assert together["losses"][:-2] == pytest.approx(alone["losses"][:-2], rel=1e-12)
    assert together["seen"] == pytest.approx(alone["seen"], rel=1e-12)
    # `batch` gives each process four samples; one process with eight draws the same eight.
    eight = toy_ranks.train(tmp_path / "eight", each=8)
    assert together["losses"] == pytest.approx(eight["losses"], rel=1e-12)
    for name, values in eight["weights"].items():
        torch.testing.assert_close(together["weights"][name], values, rtol=1e-12, atol=1e-12)
    assert [text.split()[0] for text in found["fail"]["raised"]] == ["The", "The"]
    assert "diverged" in found["fail"]["raised"][1] and found["fail"]["in all"] == 2.0


def test_one_process_is_given_what_it_asks_for(tmp_path: Path) -> None:
    training = toy_ranks.Training(Run(tmp_path, device="cpu"), {})
    values = torch.ones(3, requires_grad=True)
    assert training.batch(2, lambda count: [lambda n=n: n for n in range(count)]) == [0, 1]
    assert training.part(5) == (slice(0, 5), 5)
    assert training.gathered(values) is values and training.alone(lambda: 7) == 7
    assert (ranks.count(), ranks.number(), ranks.first(), ranks.first_to_fail(2)) == (1, 0, True, (True, 2))


def test_only_trainings_run_under_torchrun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(ranks, "first_to_fail", lambda code: (True, code))
    assert main(["methods"]) == 2
    assert "without torchrun" in capsys.readouterr().err


# --- a real method ------------------------------------------------------------------------------------------------


def test_two_processes_train_the_model_of_one_with_the_doubled_batch(
    cohort: Path, two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    model, _ = two
    assert main(arguments(cohort, tmp_path / "one", 2)) == 0
    assert main(arguments(cohort, tmp_path / "half", 1)) == 0
    with torch.backends.mkldnn.flags(enabled=False):  # the same in one process, rounded by other kernels
        assert main(arguments(cohort, tmp_path / "other", 2)) == 0
    one, half, other = (weights_of(tmp_path / name) for name in ("one", "half", "other"))
    # Adam makes whole steps by the sign of a gradient near 0; how far apart that leads depends on the kernels.
    apart, rounding = (weights_of(model) - one).abs(), (other - one).abs()
    print(f"apart {apart.max():.2g} ({apart.mean():.2g}), rounding {rounding.max():.2g} ({rounding.mean():.2g})")
    assert apart.max() <= max(1e-5, 2 * float(rounding.max())) and apart.mean() <= max(1e-6, 2 * float(rounding.mean()))
    assert float((half - one).abs().max()) > 1e-3  # a batch of half the size would be seen
    facts = [bundle.load(folder).facts["validation MAE (HU)"] for folder in (tmp_path / "one", model)]
    assert facts[1] == pytest.approx(facts[0], rel=1e-3)


def test_one_bundle_is_written_and_each_event_told_once(two: tuple[Path, list[dict[str, Any]]]) -> None:
    model, events = two
    assert sorted(path.name for path in model.parent.iterdir()) == ["model"]
    assert bundle.load(model).slug == FREQUENCY
    assert [event["event"] for event in events].count("done") == 1
    looked = [event["step"] for event in events if event.get("name") == "validation_mae"]
    assert looked == [4, 8]


def test_a_killed_process_ends_all_and_resuming_gives_the_uninterrupted_model(
    cohort: Path, two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out = tmp_path / "model"
    said, err = interrupted(cohort, out, tmp_path, lambda _, found: os.kill(found[1], signal.SIGKILL))
    errors = [event for event in map(json.loads, said.splitlines()) if event["event"] == "error"]
    assert len(errors) == 1 and "--resume" in errors[0]["message"]
    assert err.count("medgen: ") == 1
    folder = tmp_path / "model.training"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.pt", "job.json"]
    before = torch.load(folder / "checkpoint.pt")["finished"]["synthesis"]
    assert 0 < before < 8
    events = finished(torchrun("-m", "medgen", *arguments(cohort, out, 1, "--resume")))
    assert f"Resumed: synthesis at step {before}." in [event.get("message") for event in events]
    torch.testing.assert_close(weights_of(out), weights_of(two[0]), rtol=1e-5, atol=1e-6)
    assert not folder.exists()


@pytest.mark.slow
def test_a_failure_of_the_first_process_is_said_once_and_ends_all(
    cohort: Path, two: tuple[Path, list[dict[str, Any]]]
) -> None:
    began = time.monotonic()
    process = torchrun("-m", "medgen", *arguments(cohort, two[0], 1))
    said, err = process.communicate(timeout=120)
    errors = [event for event in map(json.loads, said.splitlines()) if event["event"] == "error"]
    assert len(errors) == 1 and errors[0]["code"] == 2 and "exists already" in errors[0]["message"]
    assert err.count("medgen: ") == 1 and "exitcode  : 2" in err
    assert time.monotonic() - began < 100
    assert bundle.load(two[0]).slug == FREQUENCY and not two[0].with_name("model.training").exists()


# --- more ways to end ---------------------------------------------------------------------------------------------


def _kill_first(process: subprocess.Popen[str], found: dict[int, int]) -> None:
    os.kill(found[0], signal.SIGKILL)


def _terminate(process: subprocess.Popen[str], found: dict[int, int]) -> None:
    process.terminate()


def _interrupt(process: subprocess.Popen[str], found: dict[int, int]) -> None:
    for number in (*found.values(), process.pid):  # as a terminal does
        os.kill(number, signal.SIGINT)


def _cancel_one(process: subprocess.Popen[str], found: dict[int, int]) -> None:
    os.kill(found[1], signal.SIGTERM)


def _kill_launcher(process: subprocess.Popen[str], found: dict[int, int]) -> None:
    process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("end", [_kill_first, _terminate, _interrupt, _cancel_one, _kill_launcher])
def test_however_a_training_is_ended_it_resumes_to_the_same_model(
    end: Any, cohort: Path, two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    out = tmp_path / "model"
    said, _ = interrupted(cohort, out, tmp_path, end)
    errors = [event for event in map(json.loads, said.splitlines()) if event["event"] == "error"]
    assert [error["code"] for error in errors] == ([1] if end is _kill_first else [4])
    assert sorted(path.name for path in (tmp_path / "model.training").iterdir()) == ["checkpoint.pt", "job.json"]
    assert main(arguments(cohort, out, 1, "--resume")) == 2  # one process is not two
    finished(torchrun("-m", "medgen", *arguments(cohort, out, 1, "--resume")))
    torch.testing.assert_close(weights_of(out), weights_of(two[0]), rtol=1e-5, atol=1e-6)
