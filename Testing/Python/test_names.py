"""Names of files that shells, patterns and terminals stumble over work as inputs and outputs of every verb."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from backend_tools import medgen, volume

from medgen import bundle, io, models
from medgen.bundle import Model
from medgen.cli import main

NAMES = {
    "blanks and quotes": " a 'b' \"c\" `d`",
    "a leading dash": "-o",
    "two dashes": "--help",
    "signs": "50%d #1;&$(x)*?[a]{b}!~|<>^=+@,",
    "other scripts": "Ärzte_日本語_עברית_🫀",
    "a combining accent": "e\u0301tude",
    "line ends": "one\ntwo\rthree\tfour",
    "200 letters": "x" * 200,
    "dots": "a..b.nii.c",
}
PROCESSES = ("a leading dash", "line ends")


@pytest.fixture
def place(stubs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    networks = {"mr_to_ct": {"gain": torch.ones(1), "offset": torch.zeros(1)}}
    bundle.save(Model("stub-bridged-pix2pix", networks, {}), stubs / "model")
    sitk.WriteImage(volume((4, 4, 4)), str(stubs / "good.nii.gz"))
    monkeypatch.chdir(stubs)
    return stubs


def _named(place: Path, name: str, ending: str) -> str:
    shutil.copy(place / "good.nii.gz", place / f"{name}{ending}")
    return f"{name}{ending}"


def _run(source: str, target: str) -> list[str]:
    operation = ["run", "stub-bridged-pix2pix", "mr-to-ct", "--model", "model"]
    return [*operation, "-i", f"mr={source}", f"--output={target}", "--progress", "none"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read_and_written(place: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    source = _named(place, NAMES[name], ".nii.gz")
    target = f"{NAMES[name]} ct.nrrd"
    assert main(_run(source, target)[:-2]) == 0
    assert torch.equal(io.read_image(place / target).data, io.read_image(place / source).data)
    said = capfd.readouterr()
    assert said.out.count("\n") == 1 and "Traceback" not in said.err
    assert main(["check", "stub-bridged-pix2pix", "--operation", "mr-to-ct", "-i", f"mr={source}"]) == 0
    assert main(_run(source, f"{NAMES[name]}.xyz")) == 2
    error = capfd.readouterr().err
    assert error.startswith("medgen: ") and error.count("\n") == 1
    assert not [left for left in place.iterdir() if left.name.startswith(".partial")]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_cohort_and_a_model(place: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = place / NAMES[name]
    folder.mkdir()
    source = _named(folder.parent, NAMES[name], ".nii.gz")
    (place / source).rename(folder / source)
    io.write_rows([{"image": source, "subject": NAMES[name].strip()}], folder / f"{NAMES[name]}.csv")
    cohort = f"{NAMES[name]}/{NAMES[name]}.csv"
    model = f"{NAMES[name]}/{NAMES[name]}"
    train = ["train", f"--output={model}", "--tier", "smoke", "--progress", "none", "--", "stub-3d-stylegan", cohort]
    assert main(train) == 0, capfd.readouterr().err
    assert main(["models", "--name", "plain", "import", "--", model]) == 0, capfd.readouterr().err
    assert models.listed()[0]["slug"] == "stub-3d-stylegan"
    sample = ["run", "stub-3d-stylegan", "sample", "--model=" + model, f"--output={NAMES[name]} out"]
    assert main(sample) == 0, capfd.readouterr().err


@pytest.mark.parametrize("name", PROCESSES)
def test_such_names_work_from_a_shell(place: Path, name: str) -> None:
    source = _named(place, NAMES[name], ".nii.gz")
    done = medgen(
        "run", "stub-bridged-pix2pix", "mr-to-ct", "--model", "model", "-i", f"mr={source}", f"-o{NAMES[name]}.nrrd",
        cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (place / f"{NAMES[name]}.nrrd").is_file() and done.stdout.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names are text here")
def test_a_name_that_is_not_utf8_is_a_sentence(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = "scan\udcff"  # SimpleITK would end the process
    source = _named(place, name, ".nii.gz")
    folder = place / name
    folder.mkdir()
    (place / "plain").mkdir()
    (place / "plain" / f"{name}.dcm").touch()
    for given, out in (
        (source, "out.nrrd"), ("good.nii.gz", f"{name}.nrrd"), (name, "out.nrrd"), ("plain", "out.nrrd"),
        ("good.nii.gz", f"{name}/out.nrrd"),
    ):  # fmt: skip
        assert main(_run(given, out)) == 2
        error = capfd.readouterr().err
        said = "holds no DICOM series" if given in (name, "plain") else "not text in UTF-8"
        assert error.startswith("medgen: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["y" * 300, "a\0b", "loop/x"])
def test_a_name_that_cannot_be_is_a_sentence(place: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "loop").symlink_to("loop")
    for arguments in (
        _run(name, "out.nrrd"),
        _run("good.nii.gz", f"{name}.nrrd"),
        ["apply", name, "-i", "mr=good.nii.gz", "-o", "out.nrrd"],
        ["train", "stub-3d-stylegan", name, "-o", "out"],
        ["models", "import", name],
        ["models", "verify", name],
    ):
        assert main(arguments) == 2, arguments
        error = capfd.readouterr().err
        assert error.startswith("medgen: ") and error.count("\n") == 1, error
