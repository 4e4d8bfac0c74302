"""The doctor: memory, drivers, conflicts and models, without naming anybody; models looked after without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_tools import ROOT

from medgen import bundle, doctor, models, resources, unpacking
from medgen.bundle import Model
from medgen.cli import main
from medgen.errors import UserError


def test_free_memory_is_what_the_computer_and_its_container_leave(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  16000000 kB\nMemFree:  1 kB\nMemAvailable:  8000000 kB\n")
    assert resources._linux(tmp_path / "meminfo", tmp_path) == resources.Memory(16_384_000_000, 8_192_000_000)
    (tmp_path / "memory.max").write_text("4000000000\n")
    (tmp_path / "memory.current").write_text("3500000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000000\n")
    assert resources._linux(tmp_path / "meminfo", tmp_path) == resources.Memory(4_000_000_000, 1_000_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert resources._linux(tmp_path / "meminfo", tmp_path).total == 16_384_000_000
    assert resources._linux(tmp_path / "none", tmp_path) == resources.Memory(None, None)
    here = resources.memory()
    assert here.total and here.free and here.free <= here.total


def test_the_free_disk_of_a_folder_that_is_not_there_yet_is_that_of_where_it_would_be(tmp_path: Path) -> None:
    assert resources.free_disk(tmp_path / "not" / "yet") == resources.free_disk(tmp_path)


def _driver(folder: Path, monkeypatch: pytest.MonkeyPatch, capability: bool) -> None:
    """A driver's program that answers as NVIDIA's does; an old one does not know compute_cap."""
    program = folder / "nvidia-smi"
    refuse = "" if capability else 'case "$1" in *compute_cap*) exit 2;; esac\n'
    answer = "Pretended GPU, 570.12, 16376, 15000" + (", 12.0" if capability else "")
    program.write_text(f'#!/bin/sh\n{refuse}echo "{answer}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(os.name == "nt", reason="the pretended driver is a shell script")
@pytest.mark.parametrize("capability", [True, False])
def test_a_gpu_that_torch_cannot_use_is_said(capability: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(tmp_path, monkeypatch, capability)
    (gpu,) = resources.gpus()
    assert (gpu.name, gpu.driver, gpu.total >> 20) == ("Pretended GPU", "570.12", 16376)
    assert gpu.capability == ("12.0" if capability else None)
    findings: list[str] = []
    report = {"torch_build": "cpu", "gpus": [], **doctor._drivers()}
    doctor._compare_driver(report, findings)
    assert "Pretended GPU" in findings[0] and "CPU build" in findings[0]
    findings.clear()
    doctor._compare_driver({**report, "torch_build": "cuda 12.8"}, findings)
    assert "sees no GPU (driver 570.12)" in findings[0]


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 9), ["sm_80", "sm_90"], True),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((12, 0), ["sm_90a", "sm_120"], True),
        ((8, 0), [], True),
    ],
)
def test_whether_a_build_has_code_for_a_gpu(capability: Any, architectures: list[str], runs: bool) -> None:
    assert doctor._runs_on(capability, architectures) is runs


def test_conflicts_name_the_package_that_asks_for_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numpy": "2.4.6", "torch": "2.13.0+cpu", "torchvision": "0.20.0"}
    asked = [
        ("SomeExtension", "numpy<2"),
        ("torchvision", "torch==2.5.0"),
        ("torch", "filelock"),
        ("SomeExtension", "pandas>=9"),  # nothing of ours
        ("torch", "setuptools<1; python_version < '3'"),
        ("scikit_image", "numpy>=1.26"),
    ]
    monkeypatch.setattr(doctor, "_requirements", lambda: iter(asked))
    monkeypatch.setattr(doctor, "_version", versions.get)
    found = doctor._conflicts()
    assert [words.split(",")[0] for words in found] == [
        "SomeExtension needs numpy<2",
        "torch needs filelock",
        "torchvision needs torch==2.5.0",
    ]
    assert "but 2.4.6 is installed" in found[0]


def test_the_report_names_no_home_no_user_and_no_model(
    stubs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "people" / "mueller"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "mueller")
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "disk" / "mueller" / "medgen"))
    folder = models.folder()
    bundle.save(Model("stub-3d-stylegan", {"g": {"w": torch.ones(1)}}, {}), folder / "Schmidt_Anna")
    (folder / "Schmidt_Anna" / "models" / "g.safetensors").write_bytes(b"x")
    report = doctor.examine()
    words = doctor.text(report)
    assert report["models"] == 1 and report["models_damaged"] == 1 and not report["ok"]
    assert "mueller" not in words and "Schmidt" not in words and "1 of 1 models cannot be used" in words
    assert (
        str(tmp_path / "disk") in words and doctor.anonymous(f"{home}/x and /data/mueller/y") == "~/x and /data/USER/y"
    )


def test_damaged_and_foreign_folders_are_told_apart_from_what_is_not_finished(stubs: Path) -> None:
    folder = models.folder()
    bundle.save(Model("stub-3d-stylegan", {}, {}), folder / "good")
    for name, content in (("damaged", "{"), ("foreign", None), (".partial-1-x", "{}"), ("x.training", None)):
        (folder / name).mkdir()
        if content is not None:
            (folder / name / "medgen.json").write_text(content)
    found, bad = models.surveyed()
    assert [Path(one["folder"]).name for one in found] == ["good"]
    assert [(place.name, words.split(" ", 1)[1].split(";")[0]) for place, words in bad] == [
        ("damaged", "is damaged or not MedGen's"),
        ("foreign", "is not a MedGen model (it has no medgen.json)"),
    ]


def test_models_are_imported_and_verified_where_there_is_no_torch(stubs: Path, tmp_path: Path) -> None:
    bundle.save(Model("stub-3d-stylegan", {"g": {"w": torch.ones(3)}}, {}), tmp_path / "given")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('torch', 'numpy', 'pydantic', 'safetensors', 'SimpleITK'):\n"
        "    sys.modules[name] = None\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "medgen", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = run("models", "import", str(tmp_path / "given"), "--name", "mine", "--progress", "json")
    assert json.loads(done.stdout) == {"event": "report", "folder": str(models.folder() / "mine")}, done.stderr
    assert "is whole" in run("models", "verify").stdout
    (models.folder() / "mine" / "models" / "g.safetensors").write_bytes(b"x")
    done = run("models", "verify")
    assert done.returncode == 2 and "g.safetensors is damaged" in done.stderr
    report = json.loads(run("doctor", "--json").stdout)
    assert report["models_damaged"] == 1 and report["versions"]["torch"]  # told from metadata; it does not import
    assert any("does not import" in words for words in report["findings"])


def test_a_folder_that_is_no_plain_model_is_not_copied(
    stubs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.save(Model("stub-3d-stylegan", {}, {}), tmp_path / "given")
    (tmp_path / "given" / "link").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="contains links"):
        models.import_model(tmp_path / "given")
    (tmp_path / "given" / "link").unlink()
    os.mkfifo(tmp_path / "given" / "pipe")
    with pytest.raises(UserError, match="more than files and folders"):
        models.import_model(tmp_path / "given")
    (tmp_path / "given" / "pipe").unlink()
    monkeypatch.setattr(unpacking, "MAX_FILES", 2)
    with pytest.raises(UserError, match="more than 2 files"):
        models.import_model(tmp_path / "given")
    assert models.listed() == []


def test_an_archive_whose_content_is_spoilt_is_a_sentence(stubs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "spoilt.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("medgen.json", "{}" * 5000)
    content = bytearray(archive.read_bytes())
    content[41:51] = b"\xff" * 10  # past the header and the name
    archive.write_bytes(content)
    with pytest.raises(UserError, match="spoilt.zip is damaged"):
        models.import_model(archive)
    assert main(["models", "list"]) == 0
