"""The rounds of Testing/Chaos/run: start a batch, kill a part of it, start it again, compare."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend_tools import HERE, ROOT, STUBS
from batch_tools import cohort, contents, leftovers, read, records

from medgen import catalog

VICTIMS = ("worker", "parent", "scheduler")


@dataclass
class Said:
    """What a round was like."""

    victim: str
    after: float
    finished: int
    cases: int
    again: float
    hit: bool  # whether the victim lived when it was to die

    def __str__(self) -> str:
        done = f"{self.finished} of {self.cases} were finished"
        dead = "killed" if self.hit else "was to be killed"
        return f"{self.victim} {dead} after {self.after:.2f} s, {done}; all equal {self.again:.1f} s later"


class Chaos:
    """A cohort, an undisturbed run of it, and rounds that are compared with that one."""

    def __init__(self, folder: Path, cases: int, seconds: float, random: random.Random, real: bool = False) -> None:
        self.folder = folder
        self.cases = cases
        self.seconds = seconds
        self.random = random
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stubs.json").write_text(catalog.build(STUBS), encoding="utf-8")
        self.environment = {
            **os.environ,
            "MEDGEN_CATALOG": str(folder / "stubs.json"),
            "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
            "MEDGEN_HOME": str(folder / "home"),
            "CHAOS": str(folder),  # by which processes left over are found
        }
        if real:
            self.words = [str(folder / "model"), str(self._heads()), "--tier", "smoke", "--device", "cpu"]
        else:
            self.words = ["stub-plain", str(cohort(folder, cases)), "--set", f"seconds={seconds}"]
        self.start = 0.0  # seconds until the first cases
        self.expected: dict[str, Any] = {}

    def _heads(self) -> Path:
        """A network trained for moments, and a table of MR phantoms that it makes CTs of."""
        heads, model = self.folder / "heads", self.folder / "model"
        self._medgen("phantom", "frequency-mr-to-ct", "-n", "4", "-o", str(heads))
        self._medgen("train", "frequency-mr-to-ct", str(heads / "cohort.csv"), "-o", str(model), "--tier", "smoke")
        images = [str(heads / row["mr"]) for row in read(heads, "cohort.csv")]
        lines = [f"head{number:02d},{images[number % len(images)]}" for number in range(self.cases)]
        table = self.folder / "heads.csv"
        table.write_text("\n".join(["subject,mr", *lines]) + "\n")
        return table

    def _medgen(self, *words: str) -> None:
        command = [sys.executable, "-m", "medgen", *words]
        subprocess.run(command, env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def undisturbed(self) -> float:
        """The run that the others are compared with; its seconds."""
        began = time.monotonic()
        self._ends_well(self.folder / "undisturbed")
        self.expected = contents(self.folder / "undisturbed")
        self.start = time.monotonic() - began - self.cases * self.seconds / 2
        assert len(records(self.folder / "undisturbed")) == self.cases
        return time.monotonic() - began

    def round(self, number: int) -> Said:
        """Kill the next victim at a random moment of a new batch, start it again, compare."""
        victim = VICTIMS[number % len(VICTIMS)]
        out = self.folder / f"round{number + 1}"
        finished_then, delay = self.random.randint(0, self.cases - 3), self.random.uniform(0, 0.3)
        with self._cluster() if victim == "scheduler" else contextlib.nullcontext((None, [])) as (scheduler, others):
            words = [] if scheduler is None else ["--scheduler", scheduler]
            if number % 4 == 3:  # over results that are there: each is to be replaced
                self._ends_well(out)
                words += ["--redo", "all"]
            began, before = time.monotonic(), time.time()
            process = self._start(out, words)
            while self._since(out, before) < finished_then and process.poll() is None:
                time.sleep(0.01)
            time.sleep(delay if finished_then else self.random.uniform(0.5, 1) * self.start)
            after = time.monotonic() - began
            hit = process.poll() is None and self._kill(victim, process, others)
            process.wait(timeout=90)
            assert process.returncode in (0, 5, -signal.SIGKILL), process.returncode
        finished = self._since(out, before)
        self._all_gone()
        began = time.monotonic()
        self._ends_well(out)
        again = time.monotonic() - began
        assert len(records(out)) == self.cases, f"{out}: {len(records(out))} of {self.cases}"
        found = contents(out)
        different = [key for key in self.expected.keys() | found.keys() if self.expected.get(key) != found.get(key)]
        assert not different, f"{out}: {different[:5]} differ"
        assert not leftovers(out), leftovers(out)
        return Said(victim, after, finished, self.cases, again, bool(hit))

    def _since(self, out: Path, before: float) -> int:
        """How many cases have been finished since then."""
        found = 0
        for record in out.glob("cases/*/record.json"):
            with contextlib.suppress(FileNotFoundError):
                found += record.stat().st_mtime >= before
        return found

    def _start(self, out: Path, words: list[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "medgen", "batch", *self.words, "-o", str(out)]
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*command, *words, *([] if "--scheduler" in words else ["--workers", "2"])],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    def _ends_well(self, out: Path) -> None:
        assert self._start(out, []).wait(timeout=300) == 0, (self.folder / "log.txt").read_text()[-2000:]

    def _kill(self, victim: str, process: subprocess.Popen[bytes], others: list[subprocess.Popen[bytes]]) -> bool:
        """End it; whether there was one."""
        if victim == "parent":
            process.kill()
        elif victim == "scheduler":
            others[0].kill()
        else:
            workers = [pid for pid, line in self._ours() if "spawn_main" in line and pid != process.pid]
            for pid in self.random.sample(workers, min(1, len(workers))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return bool(workers)
        return True

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
        """A scheduler (first) and two workers in processes of their own; the scheduler's address."""
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        options: dict[str, Any] = {"env": self.environment, "cwd": self.folder}
        options |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
        started = [subprocess.Popen([*dask, "--no-dashboard", "--scheduler-file", str(file)], **options)]
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file)]
        worker += ["--nthreads", "1", "--no-dashboard", "--death-timeout", "5", "--no-nanny"]
        worker += ["--local-directory", str(self.folder / "space")]
        started += [subprocess.Popen(worker, **options) for _ in range(2)]
        try:
            end = time.monotonic() + 60
            while not file.exists():
                assert time.monotonic() < end, "the scheduler did not start"
                time.sleep(0.05)
            time.sleep(0.2)
            yield json.loads(file.read_text())["address"], started
        finally:
            for process in started:
                process.kill()
                process.wait()

    def _ours(self) -> list[tuple[int, str]]:
        """Living processes that were started from here, with their command lines."""
        found = []
        mark = f"CHAOS={self.folder}".encode()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    found.append((int(place.name), (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        return [(pid, line) for pid, line in found if line and pid != os.getpid()]

    def _all_gone(self) -> None:
        """Whatever was started has ended by itself within 20 s."""
        end = time.monotonic() + 20
        while left := [line for _, line in self._ours() if "resource_tracker" not in line]:
            assert time.monotonic() < end, f"left over: {left}"
            time.sleep(0.05)
