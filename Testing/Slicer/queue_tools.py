"""What the tests of the line of jobs share: children that start at once, and what is left on disk and running."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slicer
from panel_tools import HERE, SLUG, until

from MedGenLib import jobqueue, logic, runs
from MedGenLib.export import export_node
from MedGenLib.logic import MedGenLogic
from MedGenLib.selftest import add_volume


@pytest.fixture
def quick(home: Path, scene: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Runs start at once and do no work (`quick_child`); the folder in which their files lie meanwhile."""
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable} -SE\n{(HERE / 'quick_child.py').read_text()}")
    python.chmod(0o755)
    monkeypatch.setattr(runs, "python_executable", lambda: str(python))
    folder = tmp_path / "temporary"
    folder.mkdir()
    keep_files_in(folder, monkeypatch)
    return folder


def keep_files_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of runs go to a folder of the test's own."""
    made = tempfile.mkdtemp

    def mkdtemp(prefix: str = "", dir: Any = None) -> str:
        return made(prefix=prefix, dir=folder)

    monkeypatch.setattr(logic, "tempfile", type("tempfile", (), {"mkdtemp": staticmethod(mkdtemp)}))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB, where this machine lets us mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def put(volume: Any, act: str = "", **options: Any) -> jobqueue.QueuedJob:
    """A job of the quick child in the line."""
    given = jobqueue.Remembered({"image": volume})
    words: dict[str, Any] = {"settings": {"act": act}, **options}

    def prepare() -> Any:
        return MedGenLogic().process(SLUG, "invert", given.get(), start=False, **words)

    job = jobqueue.QueuedJob("Invert", given.names, f"{SLUG} invert", prepare, run=prepare())
    return jobqueue.line().put(job)


def over(*jobs: jobqueue.QueuedJob) -> bool:
    """Follow the line once; whether the jobs are over."""
    jobqueue.line().tick()
    return all(job.finished for job in jobs)


def ticked(condition: Any) -> None:
    """Follow the line until something is so."""
    until(lambda: jobqueue.line().tick() or condition())


def pid_of(job: jobqueue.QueuedJob, what: str = "process") -> int:
    """The number of the process, or of its child, once it has said it."""
    said = lambda: [line for line in job.log if line.startswith(what)]  # noqa: E731
    ticked(said)
    return int(said()[0].split()[1])


def alive(pid: int) -> bool:
    """Whether a process is there, and not a dead one that waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def names_in_scene() -> set[str]:
    """Names of the nodes that a person sees."""
    scene = slicer.mrmlScene
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    return {node.GetName() for node in nodes if node.IsA("vtkMRMLDisplayableNode") or node.IsA("vtkMRMLTableNode")}


def save_volume(path: Path, name: str = "saved") -> Path:
    """A file of the self-test's volume, which is not left in the scene."""
    volume = add_volume(name)
    written = export_node(volume, path.parent, "saved", "Image", log=lambda message: None)
    slicer.mrmlScene.RemoveNode(volume)
    return written.rename(path)
