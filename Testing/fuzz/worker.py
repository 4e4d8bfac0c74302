"""Run one command line of MedGen after another in this process, as a driver asks: JSON lines in, JSON lines out.

In: {"arguments": […]}. Out: {"code": exit code, "error": what it wrote to the standard error, "peak": most bytes held}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import sys
from pathlib import Path

SAFETY_NET = 6 * 2**30  # bytes beyond what is taken at the start; not the limit that is tested, which `peak` tells


def peak(restart: bool) -> int:
    """Most bytes of memory held since the last restart of the count."""
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    """Answer until the standard input ends."""
    from medgen.cli import main as medgen

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # ITK's own words
    os.dup2(1, 2)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + SAFETY_NET,) * 2)
    for line in sys.stdin:
        said = io.StringIO()
        peak(restart=True)
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                code = medgen(json.loads(line)["arguments"])
            except BaseException as error:
                code = f"{type(error).__name__}: {error}"
        answers.write(json.dumps({"code": code, "error": said.getvalue(), "peak": peak(restart=False)}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
