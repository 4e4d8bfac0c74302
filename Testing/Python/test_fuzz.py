"""The corpus of bad inputs (Testing/fuzz) through the command line: a sentence or a valid result, and nothing else."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from backend_tools import ROOT

FUZZ = ROOT / "Testing" / "fuzz"
sys.path.insert(0, str(FUZZ))

import bad_texts  # noqa: E402
import drive  # noqa: E402
from corpus import Corpus  # noqa: E402

from medgen import tables  # noqa: E402

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is watched as Linux tells it"
)


def _written(folder: Path, seed: int) -> list[dict[str, Any]]:
    command = [sys.executable, str(FUZZ / "corpus.py"), str(folder / "corpus"), "--seed", str(seed)]
    subprocess.run(command, env=drive.prepare(folder / "work"), check=True, capture_output=True)
    entries: list[dict[str, Any]] = json.loads((folder / "corpus" / "manifest.json").read_text("utf-8"))
    return entries


def _part(entries: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """A seeded share of the inputs of every kind, in order."""
    chance = random.Random(0)
    return [entry for entry in entries if chance.random() < share]


def test_bad_inputs_end_in_a_sentence_or_a_valid_result(tmp_path: Path) -> None:
    entries = _written(tmp_path, 0)
    assert len(entries) >= 200
    part = _part(entries, 1 / 3)
    wrong, endings = drive.run(part, tmp_path / "corpus", tmp_path / "work")
    assert not wrong, "\n".join(f"{name}: {why}" for name, why in wrong.items())
    taken = sum(ending.code == 0 for ending in endings)
    assert 0 < taken < len(part) / 2  # refusing everything, or taking it, would be easy


def test_bad_images_stop_no_batch(tmp_path: Path) -> None:
    entries = [entry for entry in _part(_written(tmp_path, 0), 1 / 3) if entry["kind"] == "image"]
    rows = [{"subject": f"{n:03d}", "value": str(tmp_path / "corpus" / e["file"])} for n, e in enumerate(entries)]
    tables.write_rows(rows, tmp_path / "cohort.csv")
    command = [sys.executable, "-m", "medgen", "batch", "takes-all", str(tmp_path / "cohort.csv"), "-o", "out"]
    done = subprocess.run(
        [*command, "--operation", "take-image", "--device", "cpu"],
        env=drive.prepare(tmp_path / "work"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 5 and "Traceback" not in done.stderr, done.stderr
    taken = {row["case"] for row in tables.read_rows(tmp_path / "out" / "results.csv")}
    reasons = {row["case"]: row for row in tables.read_rows(tmp_path / "out" / "failures.csv")}
    assert taken and len(entries) > 30 and taken | set(reasons) == {row["subject"] for row in rows}
    for number, entry in enumerate(entries):
        failed = reasons.get(f"{number:03d}")
        assert entry["valid"] or failed, entry
        assert failed is None or (failed["code"] == "2" and "\n" not in failed["reason"]), (entry, failed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_whole_corpus_ends_in_a_sentence_or_a_valid_result(tmp_path: Path, seed: int) -> None:
    entries = _written(tmp_path, seed)
    wrong, _ = drive.run(entries, tmp_path / "corpus", tmp_path / "work")
    assert not wrong, "\n".join(f"{name}: {why}" for name, why in wrong.items())


@pytest.mark.slow
def test_a_sample_ends_so_in_processes_of_its_own(tmp_path: Path) -> None:
    entries = random.Random(2).sample(_written(tmp_path, 2), 12)
    environment = drive.prepare(tmp_path / "work")
    for entry in entries:
        arguments, out = drive.arguments_of(entry, tmp_path / "corpus", tmp_path / "work")
        command = [sys.executable, "-m", "medgen", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        said = [line for line in done.stderr.splitlines() if line.startswith("medgen: ")]
        ending = drive.Ending(done.returncode, "".join(f"{line}\n" for line in said))
        assert not drive.faults(entry, ending, out, tmp_path / "work"), (entry, done.stderr)
        assert "Traceback" not in done.stderr


def test_what_hangs_or_dies_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "SECONDS", 1.0)
    monkeypatch.setattr(drive, "HERE", tmp_path)
    answer = "import sys\nfor line in sys.stdin:\n    {}\n    print('{{\"code\": 0}}', flush=True)\n"
    for what, words in (
        ("'hang' in line and __import__('time').sleep(9)", "no end"),
        ("'hang' in line and 1/0", "died"),
    ):
        (tmp_path / "worker.py").write_text(answer.format(what))
        worker = drive.Worker({})
        assert worker.run(["fine"]).code == 0
        assert worker.run(["hang"]).code is None
        assert words in worker.run(["hang"]).error
        worker.close()


def test_the_same_seed_writes_the_same_corpus(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        corpus = Corpus(tmp_path / name, seed)
        bad_texts._fcsv(corpus)
        found.append([(tmp_path / name / entry.file).read_bytes() for entry in corpus.entries])
    assert found[0] == found[1] != found[2]
