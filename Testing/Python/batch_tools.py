"""What the tests of batches share: a cohort of small volumes, the command line over it, and what it left behind."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from backend_tools import medgen, volume

from medgen import ledger, worker


def cohort(folder: Path, count: int, extra: tuple[str, ...] = ()) -> Path:
    """A table of so many volumes, and further lines ("subject,image") after them."""
    (folder / "in").mkdir(parents=True, exist_ok=True)
    lines = ["subject,image"]
    for number in range(count):
        sitk.WriteImage(volume(seed=number), str(folder / "in" / f"v{number:03d}.nii.gz"))
        lines.append(f"case{number:03d},in/v{number:03d}.nii.gz")
    table = folder / "cohort.csv"
    table.write_text("\n".join([*lines, *extra]) + "\n", encoding="utf-8")
    return table


def batch(table: Path, out: Path, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """medgen batch with the torch-free method, one worker unless asked for more; asserts how it ends, and that nothing
    half-made is left."""
    workers = () if "--workers" in words else ("--workers", 1)
    done = medgen("batch", "stub-plain", table, "-o", out, *workers, *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert not leftovers(out)
    return done


def begun(out: Path, names: list[str]) -> Path:
    """A batch's folder as its workers find it: this start's token is "this start"."""
    out.mkdir()
    (out / worker.TOKEN).write_text("this start", "ascii")
    ledger.write_json({"format": ledger.FORMAT, "names": names}, out / "batch.json")
    return out


def leftovers(out: Path) -> list[Path]:
    """Whatever is neither a result nor a record."""
    return [path for path in out.rglob("*") if ".partial" in path.name or path.name == "half"]


def read(out: Path, table: str) -> list[dict[str, str]]:
    """A table of the batch's."""
    with (out / table).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def records(out: Path) -> dict[str, dict[str, Any]]:
    """The records of finished cases by name."""
    return {path.parent.name: json.loads(path.read_text("utf-8")) for path in out.glob("cases/*/record.json")}


VOLATILE = {"time", "seconds", "host", "started"}


def contents(out: Path) -> dict[str, Any]:
    """Everything that should be the same however often a batch was interrupted: arrays with their geometry, tables,
    and JSON without times, durations and hosts."""
    found: dict[str, Any] = {}
    for path in sorted(out.glob("cases/*/*")):
        key = str(path.relative_to(out))
        if path.name.endswith((".nii.gz", ".nrrd")):
            image = sitk.ReadImage(str(path))
            geometry = image.GetSpacing(), image.GetOrigin(), image.GetDirection()
            found[key] = geometry, sitk.GetArrayFromImage(image).tobytes()
        elif path.suffix == ".json":
            found[key] = _timeless(json.loads(path.read_text("utf-8")))
        else:
            found[key] = path.read_bytes()
    for table in ("ledger.csv", "failures.csv", "results.csv"):
        found[table] = [{key: value for key, value in row.items() if key not in VOLATILE} for row in read(out, table)]
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in VOLATILE}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
