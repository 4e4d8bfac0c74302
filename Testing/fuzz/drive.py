"""Give a corpus to the command line, one input after another, and say what should not have happened.

python Testing/fuzz/drive.py [--seed N] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SECONDS, BYTES = 10.0, 2 * 2**30  # an input may take no more


@dataclass
class Ending:
    """How an input ended: exit code (None: it hung, or the process died), words, seconds and peak of memory."""

    code: int | str | None
    error: str = ""
    seconds: float = 0.0
    peak: int = 0


class Worker:
    """A process that runs command lines; it is started again where one killed it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.process: subprocess.Popen[str] | None = None

    def run(self, arguments: list[str]) -> Ending:
        """How a command line ends; the first of a process is not counted for the time that imports take."""
        if self.process is None:
            self._start()
            self._ask(["run", "takes-all", "take-class", "-i", "value=warm", "-o", "/dev/null/none"], 120)
        return self._ask(arguments, SECONDS)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> None:
        command = [sys.executable, str(HERE / "worker.py")]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment
        )
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, args=(self.process, self.answers), daemon=True).start()

    @staticmethod
    def _listen(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put("")

    def _ask(self, arguments: list[str], seconds: float) -> Ending:
        assert self.process is not None and self.process.stdin is not None
        began = time.monotonic()
        self.process.stdin.write(json.dumps({"arguments": arguments}) + "\n")
        self.process.stdin.flush()
        try:
            answer = self.answers.get(timeout=seconds)
        except queue.Empty:
            self.close()
            return Ending(None, f"no end within {seconds:g} s", seconds)
        if not answer:
            code = self.process.wait()
            self.close()
            return Ending(None, f"the process died ({code})", time.monotonic() - began)
        return Ending(**json.loads(answer), seconds=time.monotonic() - began)


def prepare(folder: Path) -> dict[str, str]:
    """The catalog with `takes_all`, a sound image, and the environment that a worker needs."""
    sys.path.insert(0, str(HERE))
    import bad_images

    from medgen import catalog

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "catalog.json").write_text(catalog.build(["takes_all"]), encoding="utf-8")
    (folder / "good.nii.gz").write_bytes(bad_images.written(bad_images.volume(), "good.nii.gz"))
    return {
        **os.environ,
        "MEDGEN_CATALOG": str(folder / "catalog.json"),
        "MEDGEN_HOME": str(folder / "home"),
        "MEDGEN_OWNED": str(folder),
        "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
    }


def arguments_of(entry: dict[str, Any], corpus: Path, work: Path) -> tuple[list[str], Path]:
    """The command line that an input is given to, and where its result would be."""
    path, out = str(corpus / entry["file"]), work / "out" / "facts.csv"
    quiet = ["--progress", "none", "--device", "cpu"]
    if entry["kind"] == "archive":
        return ["models", "import", path, "--name", "hostile"], work / "home" / "models" / "hostile"
    if entry["kind"] == "model":
        out = work / "out" / "ct.nii.gz"
        return ["apply", path, "-i", f"mr={work / 'good.nii.gz'}", "-o", str(out), "--tier", "smoke", *quiet], out
    given = ["--cohort", path] if entry["kind"] == "cohort" else ["-i", f"value={path}"]
    return ["run", "takes-all", f"take-{entry['kind']}", *given, "-o", str(out), *quiet], out


def faults(entry: dict[str, Any], ending: Ending, out: Path, work: Path) -> list[str]:
    """What should not have happened to an input; nothing where it ended as it may. Removes its result."""
    wrong = []
    if ending.code not in (0, 2):
        wrong.append(f"ended with {ending.code}: {ending.error[-600:]}")
    if ending.code == 0 and not entry["valid"]:
        wrong.append("was taken")
    if ending.code == 0 and not out.exists():
        wrong.append("gave no result")
    if ending.code == 2 and (not ending.error.startswith("medgen: ") or ending.error.count("\n") != 1):
        wrong.append(f"is not refused in one sentence: {ending.error[:600]}")
    if ending.code == 2 and len(ending.error) > 6000:
        wrong.append(f"is refused at length: {ending.error[:600]}")
    if ending.code != 0 and out.exists():
        wrong.append("was refused and left a result")
    if ending.seconds > SECONDS:
        wrong.append(f"took {ending.seconds:.0f} s")
    if ending.peak > BYTES:
        wrong.append(f"took {ending.peak >> 20} MiB")
    if (work / "owned").exists():
        wrong.append("ran code")
        (work / "owned").unlink()
    for place in (out, out.with_name(out.name + ".provenance.json")):
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    return wrong


def run(
    entries: list[dict[str, Any]], corpus: Path, work: Path, say: bool = False
) -> tuple[dict[str, str], list[Ending]]:
    """Every input through one worker: what went wrong by input, and all endings."""
    worker, found, endings = Worker(prepare(work)), {}, []
    for entry in entries:
        arguments, out = arguments_of(entry, corpus, work)
        ending = worker.run(arguments)
        endings.append(ending)
        wrong = faults(entry, ending, out, work)
        if wrong:
            found[f"{entry['kind']} {entry['file'][:60]} ({entry['why']})"] = "; ".join(wrong)
        if say:
            cost = f"{ending.seconds:5.1f} s {ending.peak >> 20:5} MiB"
            words = ending.error.strip().replace(str(corpus), "")[-150:]
            print(f"{entry['file'][:28]:<28} {entry['why'][:48]:<48} {ending.code} {cost}", "!!" * bool(wrong), words)
    worker.close()
    return found, endings


def main() -> int:
    """The whole corpus of a seed; 1 where something should not have happened."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder for the corpus (default: one that is removed)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch, "corpus")
        environment = prepare(Path(scratch, "work"))
        subprocess.run(
            [sys.executable, str(HERE / "corpus.py"), str(folder), "--seed", str(arguments.seed)],
            env=environment,
            check=True,
        )
        entries = json.loads((folder / "manifest.json").read_text("utf-8"))
        wrong, endings = run(entries, folder, Path(scratch, "work"), say=True)
    for name, why in wrong.items():
        print(f"\n{name} {why}")
    taken = sum(ending.code == 0 for ending in endings)
    slowest, largest = max(ending.seconds for ending in endings), max(ending.peak for ending in endings) >> 20
    print(
        f"\n{len(entries)} inputs: {taken} taken, {len(endings) - taken} refused, {len(wrong)} wrong; "
        f"at most {slowest:.1f} s and {largest} MiB"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
