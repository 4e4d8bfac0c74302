"""A batch that is killed at random moments and started again ends as one that nobody disturbed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from backend_tools import ROOT


def _chaos(*words: str, timeout: float) -> str:
    command = [sys.executable, str(ROOT / "Testing" / "Chaos" / "run"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_batch_survives_a_worker_a_parent_and_a_scheduler_killed(tmp_path: object) -> None:
    words = ("--rounds", "3", "--cases", "12", "--seconds", "0.3", "--keep", str(tmp_path))
    assert "all equal, nothing left over" in _chaos(*words, timeout=300)


@pytest.mark.slow
def test_fifty_rounds_of_forty_cases_and_three_with_a_real_model() -> None:
    assert "50 rounds" in _chaos("--rounds", "50", timeout=3600)
    assert "3 rounds" in _chaos("--rounds", "3", "--real", timeout=3600)
