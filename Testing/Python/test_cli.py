"""The command line: quick to answer, and every mistake is exit code 2, one sentence, no traceback, nothing written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from backend_tools import ROOT, medgen, volume

from medgen import bundle, io, record
from medgen.bundle import Model
from medgen.cli import main


@pytest.fixture
def cohort(stubs: Path) -> Path:
    sitk.WriteImage(volume(), str(stubs / "a.nii.gz"))
    io.write_rows([{"image": "a.nii.gz"}], stubs / "cohort.csv")
    return stubs / "cohort.csv"


@pytest.mark.alone
def test_methods_answers_in_half_a_second_without_torch_or_monai() -> None:
    script = (
        "import sys; from medgen.cli import main; code = main(['methods']); "
        "heavy = {'torch', 'monai', 'numpy', 'SimpleITK', 'pydantic', 'rich', 'typer'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    times = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
        times.append(time.perf_counter() - began)
        assert done.returncode == 0, done.stderr
    assert min(times) < 0.5


def test_methods_and_cards_need_nothing_but_the_standard_library(stub_catalog: Path) -> None:
    environment = {**os.environ, "MEDGEN_CATALOG": str(stub_catalog), "PYTHONPATH": str(ROOT)}
    for arguments in (["methods"], ["methods", "--json"], ["card", "stub-metahistoseg"], ["models", "list"]):
        done = subprocess.run(
            [sys.executable, "-S", "-m", "medgen", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_the_catalog_is_what_the_declarations_say() -> None:
    from medgen import catalog

    assert catalog.PATH.read_text("utf-8") == catalog.build(), "stale: run python -m medgen methods --write"


BAD = {
    "unknown method": (["card", "stub-metahistosge"], "did you mean “stub-metahistoseg”"),
    "unknown verb": (["fly"], "invalid choice"),
    "missing cohort": (["train", "stub-3d-stylegan", "no.csv", "-o", "{out}"], "no.csv does not exist"),
    "unknown tier": (["train", "stub-3d-stylegan", "{cohort}", "-o", "{out}", "--tier", "huge"], "“huge”"),
    "unknown setting": (["train", "stub-3d-stylegan", "{cohort}", "-o", "{out}", "--set", "stepz=3"], "“stepz”.*steps"),
    "setting out of range": (
        ["train", "stub-3d-stylegan", "{cohort}", "-o", "{out}", "--set", "steps=0"],
        "“steps” = 0",
    ),
    "setting of another type": (
        ["train", "stub-3d-stylegan", "{cohort}", "-o", "{out}", "--set", "steps=many"],
        "“steps”",
    ),
    "setting without value": (["train", "stub-3d-stylegan", "{cohort}", "-o", "{out}", "--set", "steps"], "NAME=VALUE"),
    "unknown device": (["train", "stub-3d-stylegan", "{cohort}", "-o", "{out}", "--device", "abacus"], "“abacus”"),
    "no model": (
        ["apply", "nowhere/model", "-i", "image={image}", "-o", "{out}"],
        "nowhere/model is not a MedGen model",
    ),
    "untrained": (
        ["run", "stub-3d-stylegan", "project", "-i", "image={image}", "-o", "{out}"],
        "“project” needs a trained model",
    ),
    "unknown operation": (["run", "stub-3d-stylegan", "dance", "-o", "{out}"], "no operation “dance”.*project"),
    "wrong method's model": (
        ["run", "stub-bridged-pix2pix", "mr-to-ct", "--model", "{model}", "-i", "mr={image}", "-o", "{out}"],
        "is a model of “stub-3d-stylegan”",
    ),
    "wrong role": (
        ["run", "stub-3d-stylegan", "project", "--model", "{model}", "-i", "scan={image}", "-o", "{out}"],
        "no role “scan”.*image",
    ),
    "missing role": (
        ["run", "stub-3d-stylegan", "project", "--model", "{model}", "-o", "{out}"],
        "Role “image” is missing",
    ),
    "missing file": (
        ["run", "stub-3d-stylegan", "project", "--model", "{model}", "-i", "image=lost.nii", "-o", "{out}"],
        "lost.nii does not exist",
    ),
    "output exists": (
        ["run", "stub-3d-stylegan", "sample", "--model", "{model}", "-o", "{existing}"],
        "exists already.*--overwrite",
    ),
    "output not writable": (
        ["run", "stub-3d-stylegan", "sample", "--model", "{model}", "-o", "/proc/medgen/out"],
        "/proc/medgen.* cannot be written",
    ),
    "negative seed": (["train", "stub-3d-stylegan", "{cohort}", "-o", "{out}", "--seed", "-1"], "--seed -1"),
    "output is this folder": (["train", "stub-3d-stylegan", "{cohort}", "-o", "."], "exists already"),
    "unknown ending": (
        ["run", "stub-bridged-pix2pix", "mr-to-ct", "--model", "{pix2pix}", "-i", "mr={image}", "-o", "{out}.xyz"],
        "out.xyz cannot hold this result .image.; end its name with .nii.gz",
    ),
    "foreign folder overwritten": (
        ["train", "stub-3d-stylegan", "{cohort}", "-o", "{thesis}", "--overwrite"],
        "thesis is a folder that MedGen did not write",
    ),
    "foreign run folder": (
        ["train", "stub-3d-stylegan", "{cohort}", "-o", "{folder}/kept"],
        "kept.training is in the way",
    ),
    "foreign folder imported": (["models", "import", "{thesis}"], "thesis is not a MedGen model"),
    "no phantoms": (["phantom", "stub-3d-stylegan", "-o", "{out}"], "no phantom"),
    "zero phantoms": (["phantom", "abdomen-ct", "-n", "0", "-o", "{out}"], "-n 0"),
    "damaged model": (["models", "verify", "{damaged}"], "is damaged or was altered"),
}


def _state(folder: Path) -> dict[Path, int]:
    """Every file and folder, and when each file was last written."""
    return {path: path.stat().st_mtime_ns if path.is_file() else 0 for path in folder.rglob("*")}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_sentence_code_2_and_leaves_nothing(
    name: str, cohort: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = cohort.parent
    model = Model("stub-3d-stylegan", {"generator_ema": {"weight": torch.zeros(480, 4)}}, {"steps": 5})
    bundle.save(model, folder / "model")
    bundle.save(model, folder / "damaged")
    (folder / "damaged" / "models" / "generator_ema.safetensors").write_bytes(b"x")
    bundle.save(Model("stub-bridged-pix2pix", {"mr_to_ct": {"gain": torch.ones(1)}}, {}), folder / "pix2pix")
    (folder / "home" / "models").mkdir(parents=True)
    for own in ("existing/images", "thesis", "kept.training"):
        (folder / own).mkdir(parents=True)
        (folder / own / "work.txt").write_text("years of work")
    names = ("out", "model", "damaged", "existing", "thesis", "pix2pix")
    places = {key: str(folder / key) for key in names}
    arguments, words = BAD[name]
    filled = [text.format(cohort=cohort, folder=folder, image=folder / "a.nii.gz", **places) for text in arguments]
    before = _state(folder)
    capfd.readouterr()
    code = main([*filled, "--progress", "none"] if filled[0] in ("train", "run", "apply") else filled)
    error = capfd.readouterr().err
    assert code == 2
    assert re.search(words, error), error
    assert "Traceback" not in error and error.startswith("medgen: ") and error.count("\n") == 1
    assert _state(folder) == before


def test_an_error_is_an_event_too(cohort: Path) -> None:
    done = medgen(
        "train", "stub-3d-stylegan", cohort, "-o", cohort.parent / "m", "--tier", "nope", "--progress", "json"
    )
    event = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 2 and event["event"] == "error" and event["code"] == 2 and "nope" in event["message"]


def test_progress_json_is_nothing_but_json_and_ends_with_done(cohort: Path) -> None:
    done = medgen("train", "stub-3d-stylegan", cohort, "-o", cohort.parent / "m", "--progress", "json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    kinds = [event["event"] for event in events]
    assert kinds[-1] == "done" and {"progress", "metric", "output"} <= set(kinds)
    assert not (cohort.parent / "m.training").exists()


def test_resuming_with_other_settings_is_refused(cohort: Path) -> None:
    run = cohort.parent / "m.training"
    run.mkdir()
    (run / "job.json").write_text(
        json.dumps({"method": "stub-3d-stylegan", "operation": "train", "config": {"steps": 9}})
    )
    done = medgen("train", "stub-3d-stylegan", cohort, "-o", cohort.parent / "m", "--resume")
    assert done.returncode == 2 and "another config" in done.stderr


def test_resuming_with_other_images_is_refused(cohort: Path) -> None:
    folder = cohort.parent
    arguments = ["train", "stub-3d-stylegan", cohort, "-o", folder / "m", "--tier", "smoke"]
    (folder / "m.training").mkdir()
    from medgen import catalog
    from medgen.cli import _fingerprint

    operation = catalog.load("stub-3d-stylegan").operation("train")
    config = operation.configure("smoke", {}).model_dump(mode="json")
    job = {"method": "stub-3d-stylegan", "operation": "train", "config": config, "seed": 0, "cohort": str(cohort)}
    (folder / "m.training" / "job.json").write_text(json.dumps({**job, "data": _fingerprint(cohort, operation)}))
    sitk.WriteImage(volume(seed=9), str(folder / "a.nii.gz"))
    done = medgen(*arguments, "--resume")
    assert done.returncode == 2 and "another data" in done.stderr


def test_a_model_of_ours_is_replaced_when_asked_and_stays_when_the_run_fails(cohort: Path) -> None:
    arguments = ["train", "stub-3d-stylegan", cohort, "-o", cohort.parent / "m", "--tier", "smoke"]
    assert medgen(*arguments).returncode == 0
    before = record.read(cohort.parent / "m")["digest"]
    assert medgen(*arguments, "--overwrite", "--seed", 5).returncode == 0
    after = record.read(cohort.parent / "m")["digest"]
    assert before != after
    (cohort.parent / "a.nii.gz").write_bytes(b"broken")
    assert medgen(*arguments, "--overwrite").returncode == 2
    assert record.read(cohort.parent / "m")["digest"] == after


def test_an_interrupted_run_is_not_discarded_unasked(cohort: Path) -> None:
    from medgen.cli import CHECKPOINT
    from medgen.training import CHECKPOINT as WRITTEN

    assert CHECKPOINT == WRITTEN
    (cohort.parent / "m.training").mkdir()
    (cohort.parent / "m.training" / CHECKPOINT).write_bytes(b"hours of work")
    (cohort.parent / "m.training" / "job.json").write_text("{}")
    done = medgen("train", "stub-3d-stylegan", cohort, "-o", cohort.parent / "m")
    assert done.returncode == 2 and "--resume" in done.stderr and "--overwrite" in done.stderr
    assert (cohort.parent / "m.training" / CHECKPOINT).read_bytes() == b"hours of work"


def test_doctor_finds_this_installation_well_and_names_nobody() -> None:
    done = medgen("doctor", "--json")
    report = json.loads(done.stdout)
    assert report["ok"], report["findings"]
    assert report["versions"]["torch"] and report["torch_build"]
    person = medgen("doctor").stdout
    assert os.path.expanduser("~") not in person and "All is well" in person


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


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_disk_too_small_for_the_result_is_code_2_and_leaves_nothing(
    stubs: Path, small_disk: Path, ending: str
) -> None:
    sitk.WriteImage(volume((60, 60, 60)), str(stubs / "big.nii.gz"))
    networks = {"mr_to_ct": {"gain": torch.ones(1), "offset": torch.zeros(1)}}
    bundle.save(Model("stub-bridged-pix2pix", networks, {}), stubs / "model")
    arguments = [
        "run",
        "stub-bridged-pix2pix",
        "mr-to-ct",
        "--model",
        stubs / "model",
        "-i",
        f"mr={stubs / 'big.nii.gz'}",
    ]
    done = medgen(*arguments, "-o", small_disk / f"out{ending}")
    assert done.returncode == 2 and "space" in done.stderr and "Traceback" not in done.stderr
    assert list(small_disk.iterdir()) == []


def test_a_disk_too_small_for_a_checkpoint_is_code_2_and_leaves_nothing(cohort: Path, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(b"0" * 230_000)
    done = medgen("train", "stub-3d-stylegan", cohort, "-o", small_disk / "model")
    assert done.returncode == 2 and "space" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def test_a_catalog_is_read_again_once_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medgen import catalog

    own = json.loads(catalog.PATH.read_text("utf-8"))["methods"][0]
    file = tmp_path / "own.json"
    monkeypatch.setenv("MEDGEN_CATALOG", str(file))
    for number, slug in enumerate(("first", "second")):
        file.write_text(json.dumps({"methods": [{**own, "slug": slug}]}), encoding="utf-8")
        os.utime(file, ns=(number, number))
        assert slug in catalog.entries() and ("first" in catalog.entries()) == (slug == "first")
    read = catalog.entry("second")
    assert catalog.entry("second") is read  # nothing is parsed again
