"""A child that speaks the words of `python -m medgen run` and starts at once, for tests of what its parent does.

It gives its image back as "inverted". `--set act=…`: slow (progress for seconds), polite (waits for "cancel"), deaf
(does not listen and has a child of its own), abort, segfault (in native code), fail (code 2), code3.
An image called broken… fails until a file of that name with .mended at its end lies beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def say(event: str, **what: Any) -> None:
    """One event."""
    print(json.dumps({"event": event, **what}), flush=True)


def follow_parent(act: str) -> None:
    """Work until the act is over."""
    steps = {"slow": 40, "polite": 400, "deaf": 400}.get(act, 2)
    for step in range(steps):
        say("progress", stage="work", done=step, total=steps, seconds_left=0.05 * (steps - step))
        time.sleep(0.05 if steps > 2 else 0.01)
    say("progress", stage="work", done=steps, total=steps, seconds_left=0)


def main() -> int:
    """The exit code."""
    words = sys.argv[3:]
    options = list(itertools.pairwise(words))
    image = Path(next(word for flag, word in options if flag == "-i").partition("=")[2])
    out = Path(words[words.index("-o") + 1])
    act = next((json.loads(word[4:]) for flag, word in options if flag == "--set" and word.startswith("act=")), "")
    say("log", message=f"process {os.getpid()}")
    if act == "deaf":
        say("log", message=f"child {subprocess.Popen(['sleep', '300']).pid}")
    if act == "polite":
        os.set_blocking(0, False)
        for step in range(400):
            say("progress", stage="waiting", done=step, total=400, seconds_left=None)
            time.sleep(0.05)
            with contextlib.suppress(BlockingIOError):
                if (line := os.read(0, 100)) == b"" or b"cancel" in line:
                    return 4
    if act == "abort":
        os.abort()
    if act == "segfault":
        ctypes.string_at(0)
    if act == "fail" or (image.name.startswith("broken") and not image.with_name(image.name + ".mended").exists()):
        say("error", message=f"{image.name} cannot be worked on; choose another.", code=2)
        return 2
    follow_parent(act)
    out.mkdir(parents=True)
    result = out / "inverted.nrrd"
    shutil.copy(image, result)
    (out / "inverted.nrrd.provenance.json").write_text(json.dumps({"method": "stub-threshold"}))
    say("output", role="inverted", path=str(result))
    say("done", folder=str(out))
    return 3 if act == "code3" else 0


sys.exit(main())
