"""What scripts without a window share: following a run on the console, saving results, and every way out of Slicer."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slicer
import slicer.util

from medgen.errors import CANCELLED, OUR_FAULT, MedGenError
from medgen.jobs import Job
from MedGenLib.errors import BoundaryError, MedGenLibError, RunError
from MedGenLib.i18n import _

# By kind, the ending of the file that a node is saved as.
ENDINGS = {
    "Image": ".nrrd",
    "Mask": ".seg.nrrd",
    "Points": ".mrk.json",
    "Line": ".mrk.json",
    "Curve": ".mrk.json",
    "Plane": ".mrk.json",
    "Box": ".mrk.json",
    "Sphere": ".mrk.json",
    "Matrix": ".csv",
    "Table": ".csv",
    "Plot": ".csv",
}


def finish(main: Callable[[list[str]], int]) -> None:
    """Call `main` with the script's words and end Slicer with its exit code.

    --python-script does not close Slicer by itself, whatever happens: every way out ends in slicer.util.exit. Who asks
    it to stop (Ctrl-C, the system) ends it as cancelled.
    """
    code = OUR_FAULT
    try:
        with _on_signals(_interrupt):
            code = main(sys.argv[1:])
    except KeyboardInterrupt:
        print(_("Cancelled."), file=sys.stderr)
        code = CANCELLED
    except (MedGenLibError, MedGenError) as error:
        print(error, file=sys.stderr)
        code = getattr(error, "exit_code", 2)
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    except Exception:
        traceback.print_exc()
    finally:
        slicer.util.exit(code)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _on_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have a handler called where this process is asked to end; as before when the block ends."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, signal.SIG_DFL if former is None else former)


def follow(job: Job, on_event: Callable[[dict[str, Any]], None], grace: float = 15.0) -> int:
    """Start a job and wait for its end; its exit code.

    Asked to stop, it is cancelled and has `grace` seconds for it; asked again, it is ended at once. Nothing that it
    started is left either way.
    """
    asked = 0

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        asked += 1

    with _on_signals(stop):
        job.start()
        heard = 0
        while job.running:
            for event in job.events():
                on_event(event)
            if asked > heard:
                if heard:
                    job.kill()
                else:
                    job.cancel(grace)
                heard = asked
            time.sleep(0.05)
    if job.state == "cancelled":
        return CANCELLED
    code = OUR_FAULT if job.exit_code is None else job.exit_code
    if code < 0:  # a signal ended it; it could not say so itself
        print(job.message, file=sys.stderr)
        return OUR_FAULT
    return code


def load(function: Any, path: Path) -> Any:
    """The node that one of slicer.util's load functions makes of a file; BoundaryError when there is none."""
    try:
        return function(str(path))
    except RuntimeError:
        raise BoundaryError(_("{path} cannot be read; check the path and the format.").format(path=path)) from None


def save(node: Any, path: Path) -> Path:
    """Write a node, or several numbered ones into a folder of that name; RunError when it cannot be written."""
    if isinstance(node, list):
        stem, ending = path.name.partition(".")[0], "".join(path.suffixes)
        for number, one in enumerate(node, start=1):
            save(one, path.with_name(stem) / f"{stem}_{number:03d}{ending}")
        return path.with_name(stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not slicer.util.saveNode(node, str(path), {}):
        raise RunError(_("{path} could not be written; choose another output.").format(path=path))
    return path


def say(event: dict[str, Any]) -> None:
    """Follow a run on the console."""
    if event["event"] == "log":
        print(event["message"], flush=True)
    elif event["event"] == "progress" and event["done"] >= event["total"]:
        print(f"{event['stage']}: done", flush=True)
