"""A run is a process: events, exit codes, cancellation of the whole tree, no orphan when the parent dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from backend_tools import HERE, ROOT

from medgen import io
from medgen.jobs import Job, choose_precision, command, environment

SLOW_METHOD = """
import os, subprocess, sys, time
from pathlib import Path
from medgen.case import Case, Table
from medgen.method import Config, Kind, Method, Operation, Role

class Wait(Config):
    pass

class Waiter(Method):
    slug, title, sentence, citation, url = "waiter", "Wait", "Waits.", "nobody", "https://doi.org/none"
    module, group = "MedGenSynthesis", "Generate"
    operations = (
        Operation("wait", "Wait", "Polite.", Wait, "nothing", outputs=(Role("out", Kind.TABLE, "nothing"),)),
        Operation("hang", "Hang", "Deaf parent.", Wait, "nothing", outputs=(Role("out", Kind.TABLE, "nothing"),)),
        Operation("crash", "Crash", "Our fault.", Wait, "nothing", outputs=(Role("out", Kind.TABLE, "nothing"),)),
        Operation("swallow", "Swallow", "Too big.", Wait, "nothing", outputs=(Role("out", Kind.TABLE, "nothing"),)),
    )

    def wait(self, config, run, model):
        for step in range(600):
            run.progress(step, 600, "waiting")
            time.sleep(0.05)
        return Case({"out": Table({"x": [1]})})

    def hang(self, config, run, model):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        run.log(f"child {child.pid}")
        run.emit({"event": "progress", "stage": "deaf", "done": 0, "total": 1, "seconds_left": None})
        time.sleep(60)

    def crash(self, config, run, model):
        raise ZeroDivisionError("by nought")

    def swallow(self, config, run, model):
        raise MemoryError
"""


@pytest.fixture
def waiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "waiter_method.py").write_text(SLOW_METHOD)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{HERE}{os.pathsep}{ROOT}")
    script = "from medgen import catalog; print(catalog.build(['waiter_method']))"
    text = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    (tmp_path / "waiter.json").write_text(text)
    monkeypatch.setenv("MEDGEN_CATALOG", str(tmp_path / "waiter.json"))
    return tmp_path


def _job(folder: Path, operation: str) -> Job:
    job = Job(["run", "waiter", operation, "-o", str(folder / "out.csv"), "--device", "cpu"], folder / "run")
    job.start()
    return job


def _until_stage(job: Job, stage: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and job.running:
        if any(event.get("stage") == stage for event in job.events()):
            return
        time.sleep(0.02)
    raise AssertionError(f"{stage} never began: {job.message} {job.log}")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_cancel_ends_a_polite_run_with_code_4_and_no_output(waiter: Path) -> None:
    job = _job(waiter, "wait")
    _until_stage(job, "waiting")
    job.cancel()
    assert job.wait(30) == 4
    assert job.state == "cancelled" and not (waiter / "out.csv").exists()
    assert list(waiter.glob(".partial*")) == []


def test_cancel_ends_a_deaf_run_and_its_children(waiter: Path) -> None:
    job = _job(waiter, "hang")
    _until_stage(job, "deaf")
    child = int(next(line for line in job.log if line.startswith("child")).split()[1])
    assert _alive(child)
    job.cancel(grace=0.2)
    job.wait(30)
    assert job.state == "cancelled"
    end = time.monotonic() + 5
    while _alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(child)


@pytest.mark.parametrize(
    ("operation", "code", "words"), [("crash", 1, "own fault"), ("swallow", 3, "not enough memory")]
)
def test_a_failed_run_is_never_shown_as_success(waiter: Path, operation: str, code: int, words: str) -> None:
    job = _job(waiter, operation)
    assert job.wait(60) == code
    assert job.state == "failed" and words in job.message


def test_a_run_ends_itself_when_its_parent_is_gone(waiter: Path) -> None:
    arguments = ["run", "waiter", "wait", "-o", str(waiter / "out.csv"), "--progress", "json", "--parent"]
    process = subprocess.Popen(
        command(arguments),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdin is not None
    while '"waiting"' not in process.stdout.readline():
        pass
    process.stdin.close()
    assert process.wait(30) == 4


def test_an_interrupt_from_the_keyboard_is_a_cancellation(waiter: Path) -> None:
    arguments = ["run", "waiter", "wait", "-o", str(waiter / "out.csv"), "--progress", "json"]
    process = subprocess.Popen(
        command(arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while '"waiting"' not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 4


def test_lines_that_are_no_events_stay_in_the_log(tmp_path: Path) -> None:
    job = Job(["methods"], tmp_path)
    job.arguments = ["methods"]
    job.start()
    assert job.wait(30) == 0 and job.state == "done"


def test_rows_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("before")

    class Explosive(dict):  # type: ignore[type-arg]
        def get(self, *arguments: object) -> object:
            raise RuntimeError("half-way")

        __getitem__ = get

    with pytest.raises(RuntimeError):
        io.write_rows([{"x": 1}, Explosive(x=2)], target)
    assert target.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"), [(True, True, "bf16"), (False, True, "bf16"), (False, False, "32")]
)
def test_precision_is_bf16_where_the_processor_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("32", torch.device("cpu")) == "32"


def test_a_runs_tensors_lie_on_large_pages(tmp_path: Path) -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this machine's kernel gives no large pages")
    program = (
        "import sys; from pathlib import Path; from medgen.jobs import Run; Run(Path(sys.argv[1]))\n"
        "import torch; held = torch.ones(2**26)\n"
        "print(next(line.split()[1] for line in open('/proc/self/smaps_rollup') if line.startswith('AnonHuge')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment(), capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 2**17  # kB: half of the tensor's 256 MiB at least
