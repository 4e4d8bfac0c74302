"""Placeholder until the helper's branch is merged."""

from pathlib import Path


def write(out: Path) -> Path:
    (out / "report.html").write_text("")
    return out / "report.html"
