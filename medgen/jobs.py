"""One run: what a method may use while it works, and how its parent starts, follows and ends it.

Both sides of the process boundary stand here, so that the words they exchange are defined once. Standard library only
(`Run` imports torch when it is made): Slicer's own process uses `Job`.

The words are JSON lines on standard output, each with "event": progress (stage, done, total, seconds_left), log
(message; "changed": true where it tells of a step away from what was asked), metric (name, value, step), preview (role,
kind, path, step, measure, files), output (role, path), estimate (seconds, memory_bytes, memory_free_bytes, disk_bytes,
notes, suggested), report (what `doctor` and `models` found), error (message, code), done (folder). Ending: the parent
writes "cancel" to the child's standard input, or closes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen.errors import CANCELLED, DONE, OUR_FAULT, Cancelled, UserError

if TYPE_CHECKING:
    import torch

    from medgen.batch import Batch
    from medgen.case import Image, Mask, Points

Event = dict[str, Any]
# A group of its own, so that the whole tree can be ended, and no console that pops up over Slicer.
_WINDOWS_FLAGS = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)


class Run:
    """What a method is handed: device, precision, seed, a private folder, and a way to speak.

    folder: scratch and checkpoints, kept for --resume. precision: "32" or "bf16" (networks run under autocast).
    Every call of `progress` or `check_cancelled` raises `Cancelled` once the user has asked to stop.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        seed: int = 0,
        precision: str = "auto",
        resume: bool = False,
        previews: float | None = None,
        emit: Callable[[Event], None] = lambda event: None,
    ) -> None:
        # Read by torch at its first allocation, where Linux has large pages: 3D networks spend less of their time on
        # having memory mapped (a quarter to a third of it with instance normalisation).
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        self.folder = folder
        self.seed = seed
        self.resume = resume
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.emit = emit
        self._previews = previews
        self._next_preview = 0.0
        self._previews_made = 0
        self._cancelled = threading.Event()
        self._stage = ""
        self._began = time.monotonic()
        self._last = 0.0
        self._first_done = 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The run's precision for a forward pass outside training (`Training.autocast` is its like there)."""
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def progress(self, done: int, total: int, stage: str, seconds_left: float | None = None) -> None:
        """Say how far a stage is; time left is extrapolated from the stage's own pace unless given."""
        self.check_cancelled()
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._first_done, self._last = stage, now, done, 0.0
        if now - self._last < 0.2 and done < total:
            return
        self._last = now
        worked = done - self._first_done
        if seconds_left is None and worked > 0:
            seconds_left = (now - self._began) / worked * (total - done)
        left = None if seconds_left is None else round(seconds_left, 1)
        self.emit({"event": "progress", "stage": stage, "done": done, "total": total, "seconds_left": left})

    def log(self, message: str) -> None:
        """One sentence for the run's log."""
        self.emit({"event": "log", "message": message})

    def metric(self, name: str, value: float, step: int) -> None:
        """One point of a curve (a loss, a validation measure)."""
        self.emit({"event": "metric", "name": name, "value": float(value), "step": step})

    def preview(
        self,
        role: str,
        make: Callable[[], Image | Mask | Points],
        step: int,
        *,
        files: dict[str, list[str]] | None = None,
        measure: dict[str, float] | None = None,
    ) -> None:
        """Show what the network gives now for a validation case, where the parent asked for it (`previews` seconds
        apart at the least, and never for more than a tenth of the time).

        role: the output it will once be. make: makes the value, in RAS mm, from a network that it may put into
        evaluation mode; it is not called when no preview is due, and what it draws from torch's global random numbers
        is given back, so that a training with previews gives the same model. files: the case it is of, by role.
        measure: how good it is. A preview that fails is left out.
        """
        if self._previews is None or time.monotonic() < self._next_preview:
            return
        import torch

        from medgen import previews

        began = time.monotonic()
        speak, pace = self.emit, (self._stage, self._began, self._last, self._first_done)
        self.emit = lambda event: None  # how far a preview is does not matter to anybody
        event: Event | None = None
        try:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.no_grad():
                path, kind = previews.write(make(), role, self.folder, self._previews_made)
            event = {"event": "preview", "role": role, "kind": kind.value, "path": str(path.resolve()), "step": step}
            event |= {"measure": measure or {}, "files": files or {}}
        except (Cancelled, OSError, UserError):  # the training itself says so at its next step
            pass
        finally:
            self.emit = speak
            self._stage, self._began, self._last, self._first_done = pace
        self._previews_made += 1
        self._next_preview = time.monotonic() + max(self._previews, 9 * (time.monotonic() - began))
        if event is not None:
            self.emit(event)

    def cancel(self) -> None:
        """Ask the run to stop at its next step (any thread)."""
        self._cancelled.set()

    def check_cancelled(self) -> None:
        """Raise `Cancelled` once somebody has asked to stop."""
        if self._cancelled.is_set():
            raise Cancelled("The run was cancelled.")


def choose_device(name: str) -> torch.device:
    """ "auto" is a CUDA GPU, else Apple's, else the CPU; UserError when a named device is not there."""
    import torch

    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"Device “{name}” is not available on this machine; choose --device cpu or auto.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"Device “{name}” is not known; choose auto, cpu or cuda.") from None


def choose_precision(name: str, device: torch.device) -> str:
    """ "auto" is bf16 where the hardware computes in it faster than in fp32: recent GPUs, CPUs with AMX or AVX512-BF16
    (2D and 3D U-Nets train 1.9 and 2.7 times as fast on the latter)."""
    import torch

    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    processor = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if device.type == "cpu" and processor else "32"


def obey_parent(run: Run | Batch) -> None:
    """Follow the process that started this one: "cancel" on standard input stops the run at its next step; the end of
    standard input (the parent crashed) does too, and ends this process for good if the run does not react in 20 s."""

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "cancel":
                break
        run.cancel()
        time.sleep(20)
        os._exit(CANCELLED)

    threading.Thread(target=listen, daemon=True, name="medgen-parent").start()


# --- the parent's side --------------------------------------------------------------------------------------------


def command(arguments: list[str], python: str | None = None) -> list[str]:
    """The command line of a run; `python` is PythonSlicer inside Slicer, this interpreter elsewhere."""
    return [python or sys.executable, "-m", "medgen", *arguments]


def environment() -> dict[str, str]:
    """The child's environment: `medgen` importable from where this file lies, and nothing from its working folder."""
    package_parent = str(Path(__file__).resolve().parent.parent)
    rest = os.environ.get("PYTHONPATH")
    paths = package_parent + (os.pathsep + rest if rest else "")
    return {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}


def _unexpected(exit_code: int, log: list[str]) -> str:
    """A sentence for a process that ended without saying why; a negative code is the signal that ended it."""
    if os.name != "nt" and exit_code == -signal.SIGKILL:
        return (
            "The run was ended from outside, as the system does when memory runs out; close other programs or choose a "
            "smaller tier, then try again."
        )
    if exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
        return f"The run crashed in native code ({name}); see its log, try again, or choose the CPU as device."
    tail = " | ".join(log[-3:])
    return f"The run ended unexpectedly (exit code {exit_code}): {tail}"


class Job:
    """A run in a process of its own. Poll `events()` from a timer, or `wait()`.

    `state` is waiting, running, done, failed or cancelled; an exit code other than 0 is never `done`.
    """

    def __init__(self, arguments: list[str], folder: Path, *, python: str | None = None, title: str = "") -> None:
        self.arguments = [*arguments, "--progress", "json", "--parent"]
        self.folder = folder
        self.title = title
        self.state = "waiting"
        self.exit_code: int | None = None
        self.message = ""
        self.log: list[str] = []
        self.outputs: list[Event] = []
        self._python = python
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._launched = threading.Event()
        self._cancelled = False

    def start(self) -> None:
        """Start the process in a session of its own, so that the whole tree can be ended.

        Whoever calls does not wait for it: until the system has loaded a program it can take a tenth of a second, and
        the caller is a window that should answer. A program that cannot be started is a failed job.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = "running"
        threading.Thread(target=self._launch, daemon=True, name="medgen-job").start()

    def _launch(self) -> None:
        options: dict[str, Any] = {"creationflags": _WINDOWS_FLAGS} if os.name == "nt" else {"start_new_session": True}
        try:
            self._process = subprocess.Popen(
                command(self.arguments, self._python),
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                bufsize=1,
                **options,
            )
        except OSError as error:
            words = f"The run could not be started ({error.strerror or error}); check the folder {self.folder}."
            self._queue.put({"event": "error", "message": words, "code": OUR_FAULT})
            self._queue.put(None)
            return
        finally:
            self._launched.set()
        threading.Thread(target=self._see_end, args=(self._process,), daemon=True, name="medgen-job").start()
        self._read(self._process)

    def _alive(self) -> subprocess.Popen[str] | None:
        """The process while it runs; one that is just being started is waited for."""
        if self.state != "running":
            return None
        self._launched.wait()
        process = self._process
        return process if process is not None and process.poll() is None else None

    def _see_end(self, process: subprocess.Popen[str]) -> None:
        """End what a dead process leaves behind: its children hold its output open, and nobody would end them."""
        process.wait()
        if os.name != "nt":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                event = json.loads(line)
                if not isinstance(event, dict) or "event" not in event:
                    raise ValueError
            except ValueError:  # a library that speaks to the terminal: keep it for the log
                event = {"event": "log", "message": line.rstrip()}
            self._queue.put(event)
        process.wait()
        self._queue.put(None)

    def events(self) -> list[Event]:
        """What has happened since the last call; also brings `state`, `log` and `outputs` up to date."""
        found: list[Event] = []
        while True:
            try:
                event = self._queue.get_nowait()
            except queue.Empty:
                return found
            if event is None:
                self._finish()
            else:
                self._note(event)
                found.append(event)

    def _note(self, event: Event) -> None:
        if event["event"] == "log":
            self.log.append(event["message"])
        elif event["event"] == "output":
            self.outputs.append(event)
        elif event["event"] == "error":
            self.message = event["message"]
            self.log.append(event["message"])

    def _finish(self) -> None:
        process = self._process
        self.exit_code = OUR_FAULT if process is None else process.returncode
        for stream in () if process is None else (process.stdin, process.stdout):
            if stream:
                with contextlib.suppress(OSError):  # the child closed its end first
                    stream.close()
        if self.exit_code == DONE:
            self.state = "done"
        elif self._cancelled or self.exit_code == CANCELLED:
            self.state = "cancelled"
            self.message = self.message or "The run was cancelled."
        else:
            self.state = "failed"
            self.message = self.message or _unexpected(self.exit_code, self.log)

    @property
    def running(self) -> bool:
        """Whether the process has been started and its end has not been seen by `events()` yet."""
        return self.state == "running"

    def wait(self, timeout: float | None = None, on_event: Callable[[Event], None] = lambda event: None) -> int:
        """Until the run ends; the exit code. TimeoutError after `timeout` seconds (the run goes on)."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.running:
            for event in self.events():
                on_event(event)
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"{self.title or 'The run'} still runs after {timeout} s.")
            time.sleep(0.05)
        return OUR_FAULT if self.exit_code is None else self.exit_code

    def cancel(self, grace: float = 10.0) -> None:
        """Ask the run to stop; whoever still runs after `grace` seconds is ended with its whole process tree."""
        process = self._alive()
        if process is None:
            return
        self._cancelled = True
        try:
            assert process.stdin is not None
            process.stdin.write("cancel\n")
            process.stdin.flush()
        except (OSError, ValueError):
            grace = 0.0
        timer = threading.Timer(grace, self.kill)
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """End the process and everything it started, at once (PythonSlicer is a launcher: its child is the run)."""
        process = self._alive()
        if process is None:
            return
        self._cancelled = True
        if os.name == "nt":
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], check=False, capture_output=True)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
