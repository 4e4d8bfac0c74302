"""Models from strangers: no attack runs code or writes outside its folder; what is used is what was checked."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from backend_tools import ROOT

from medgen import bundle, models, record, unpacking
from medgen.errors import UserError

sys.path.insert(0, str(ROOT / "Testing" / "fuzz"))

import bad_bundles

ATTACKS = bad_bundles.archives()
OWN = {"medgen.json", "configs/metadata.json", "docs/README.md", "models/generator.safetensors"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MEDGEN_OWNED", str(tmp_path / "owned"))
    (tmp_path / "owned").mkdir()
    return tmp_path


def _files(folder: Path) -> set[str]:
    return {place.relative_to(folder).as_posix() for place in folder.rglob("*") if not place.is_dir()}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_executes_nothing_and_writes_nothing_outside_its_folder(name: str, home: Path) -> None:
    archive = home / "model.zip"
    ATTACKS[name](archive)
    before = _files(home)
    try:
        target = models.import_model(archive)
    except UserError as error:
        assert name not in bad_bundles.HARMLESS and str(archive) in str(error) and "\n" not in str(error)
        assert _files(home) == before and models.surveyed() == ([], [])
    else:
        assert name in bad_bundles.HARMLESS
        assert _files(target) == OWN
        assert _files(home) - before == {f"home/models/model/{own}" for own in OWN}
        bundle.load(target)
    assert list((home / "owned").iterdir()) == [] and not Path("/tmp/medgen-owned").exists()


def test_there_are_twenty_attacks_and_more() -> None:
    assert len(set(ATTACKS) - set(bad_bundles.HARMLESS)) >= 20


def test_a_folder_with_code_in_it_is_imported_without_it(home: Path) -> None:
    source = bad_bundles.copy_of_good(home / "given")
    for name in ("setup.py", "models/generator.pt", "models/deep/x.safetensors", "run.sh", ".hidden"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(bad_bundles.CODE)
    assert _files(models.import_model(source)) == OWN


def test_bytes_are_counted_as_they_are_unpacked_whatever_the_archive_says(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MAX_BYTES", 3000)
    larger = {"models/x.safetensors": lambda: (ROOT / "medgen" / "cli.py").open("rb")}
    with pytest.raises(UserError, match="m.zip holds more than"):
        unpacking._write(larger, home / "m.zip", home / "out")
    assert (home / "out" / "models" / "x.safetensors").stat().st_size <= 3000


def test_weights_replaced_after_their_digest_was_compared_are_not_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bad_bundles.copy_of_good(home / "m")
    expected = bundle.load(folder).networks["generator"]
    read = record.weights

    def replaced(place: Path, entry: dict[str, str]) -> bytes:
        content = read(place, entry)
        (place / entry["file"]).write_bytes(bad_bundles._torch_file())
        return content

    monkeypatch.setattr(record, "weights", replaced)
    found = bundle.load(folder).networks["generator"]
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_wide_network_is_refused_before_it_takes_memory(home: Path) -> None:
    model = bundle.load(bad_bundles.copy_of_good(home / "m"))
    asked = []

    def build() -> torch.nn.Module:
        asked.append(torch.empty(0).device.type)
        return torch.nn.Linear(10**6, 10**6)  # 4 TB

    with pytest.raises(UserError, match="weights that do not fit its network “generator”"):
        model.network("generator", build)
    assert asked == ["meta"]
    with pytest.raises(UserError, match="lacks the network “other”"):
        model.network("other", build)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "x.training", "a\nb", "\x1b[2J", "x" * 300])
def test_names_that_hide_or_lead_elsewhere_are_refused(home: Path, name: str) -> None:
    source = bad_bundles.copy_of_good(home / "given")
    with pytest.raises(UserError, match="not a usable model name"):
        models.import_model(source, name)
    assert not (home / "home").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_given_as_an_archive_does_not_hang(home: Path) -> None:
    os.mkfifo(home / "model.zip")
    with pytest.raises(UserError, match=r"model.zip is a pipe, not a file"):
        models.import_model(home / "model.zip")
