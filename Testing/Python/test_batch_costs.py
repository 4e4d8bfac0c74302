"""What sharing out cases may cost at the most, against plain loops in the same run."""

from __future__ import annotations

import subprocess
import sys

import pytest
from backend_tools import ROOT


@pytest.mark.slow
def test_two_workers_gain_little_is_lost_and_the_parent_does_not_grow(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, str(ROOT / "Testing" / "Benchmarks" / "batch")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    with capsys.disabled():
        print("\n" + done.stdout)
    assert done.returncode == 0, done.stderr
    verdicts = [line for line in done.stdout.splitlines() if line.endswith((": holds).", ": does NOT hold)."))]
    assert len(verdicts) == 4 and all(line.endswith(": holds).") for line in verdicts), verdicts
