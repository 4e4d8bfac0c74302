"""Bundles: what is written is what is read, and nothing damaged, foreign or hostile gets in."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch

from medgen import bundle, models
from medgen.bundle import Model
from medgen.errors import UserError

METADATA_KEYS = {
    "version",
    "changelog",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
}


@pytest.fixture
def saved(stubs: Path) -> Path:
    networks = {
        "generator": {"w": torch.arange(6.0).reshape(2, 3).T},
        "codebook": {"e": torch.ones(4, dtype=torch.int64)},
    }
    model = Model("stub-3d-stylegan", networks, {"steps": 5}, {"shape": [1, 2, 3]}, {"trained_on": "3 volumes"})
    bundle.save(model, stubs / "bundle")
    return stubs / "bundle"


def test_networks_settings_and_facts_come_back_unchanged(saved: Path) -> None:
    model = bundle.load(saved, expect="stub-3d-stylegan")
    torch.testing.assert_close(model.networks["generator"]["w"], torch.arange(6.0).reshape(2, 3).T)
    assert model.networks["codebook"]["e"].dtype == torch.int64
    assert (model.config, model.settings, model.facts["trained_on"]) == (
        {"steps": 5},
        {"shape": [1, 2, 3]},
        "3 volumes",
    )


def test_metadata_has_the_keys_monai_requires_and_no_pickle_travels(saved: Path) -> None:
    metadata = json.loads((saved / "configs" / "metadata.json").read_text())
    assert metadata.keys() >= METADATA_KEYS
    assert set(metadata["network_data_format"]) == {"inputs", "outputs"}
    endings = {file.suffix for file in saved.rglob("*") if file.is_file()}
    assert endings == {".json", ".safetensors", ".md"}


def test_the_digest_depends_on_weights_and_settings_but_not_on_name_or_date(stubs: Path) -> None:
    def digest(weight: float, shape: int, folder: str) -> str:
        model = Model("stub-3d-stylegan", {"g": {"w": torch.tensor([weight])}}, {}, {"shape": shape})
        return bundle.save(model, stubs / folder)

    assert digest(1.0, 1, "a") == digest(1.0, 1, "b")
    assert len({digest(1.0, 1, "c"), digest(2.0, 1, "d"), digest(1.0, 2, "e")}) == 3


def test_a_flipped_bit_in_the_weights_is_noticed(saved: Path) -> None:
    file = saved / "models" / "generator.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="generator.safetensors is damaged or was altered"):
        bundle.load(saved)


def test_an_altered_setting_is_noticed(saved: Path) -> None:
    record = json.loads((saved / "medgen.json").read_text())
    record["settings"]["shape"] = [9, 9, 9]
    (saved / "medgen.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="medgen.json was altered"):
        bundle.load(saved)


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/b", "", "x" * 100])
def test_a_network_name_that_leaves_the_folder_is_refused(saved: Path, name: str) -> None:
    record = json.loads((saved / "medgen.json").read_text())
    record["networks"][name] = {"file": f"models/{name}.safetensors", "sha256": "0", "bytes": 1}
    (saved / "medgen.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="damaged or not MedGen's"):
        bundle.load(saved)


def test_a_link_in_place_of_weights_is_refused(saved: Path, tmp_path: Path) -> None:
    file = saved / "models" / "generator.safetensors"
    file.rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", file)
    with pytest.raises(UserError, match="lacks models/generator.safetensors"):
        bundle.load(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"slug": 3}', '{"format": 99}', "\x00\x01"])
def test_a_foreign_medgen_json_is_a_sentence(saved: Path, content: str) -> None:
    (saved / "medgen.json").write_text(content)
    with pytest.raises(UserError, match="medgen.json is damaged or not MedGen's"):
        bundle.load(saved)


def test_another_methods_model_is_refused_by_name(saved: Path) -> None:
    with pytest.raises(UserError, match="is a model of “stub-3d-stylegan”, not of “stub-metahistoseg”"):
        bundle.load(saved, expect="stub-metahistoseg")


def test_a_zipped_model_is_imported_verified_listed_and_removed(saved: Path, tmp_path: Path) -> None:
    archive = tmp_path / "nice.zip"
    with zipfile.ZipFile(archive, "w") as z:
        for file in saved.rglob("*"):
            z.write(file, Path("inner") / file.relative_to(saved))
    target = models.import_model(archive)
    assert target == models.folder() / "nice" and bundle.load(models.resolve("nice")).slug == "stub-3d-stylegan"
    assert [record["folder"] for record in models.listed()] == [str(target)]
    with pytest.raises(UserError, match="exists already"):
        models.import_model(archive)
    models.remove("nice")
    assert models.listed() == [] and not target.exists()


def test_a_deletion_that_fails_midway_leaves_no_half_model_in_the_list(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = models.import_model(saved, "nice")

    def delete_one(path: Path) -> None:
        next(file for file in Path(path).rglob("*") if file.is_file()).unlink()
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(models.shutil, "rmtree", delete_one)
    with pytest.raises(PermissionError):
        models.remove("nice")
    assert not target.exists() and models.surveyed() == ([], [])


def test_a_model_that_cannot_be_moved_away_stays_whole(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = models.import_model(saved, "nice")

    def refuse(self: Path, to: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        models.remove("nice")
    assert bundle.load(target).slug == "stub-3d-stylegan" and list(models.folder().iterdir()) == [target]


@pytest.mark.parametrize(
    "name", ["../out.txt", "/tmp/medgen-evil.txt", "a/../../out.txt", "c:\\evil.txt", "..\\out.txt"]
)
def test_an_archive_that_leaves_its_folder_writes_nothing(stubs: Path, name: str) -> None:
    archive = stubs / "evil.zip"
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr(name, "evil")
    before = sorted(stubs.rglob("*"))
    with pytest.raises(UserError, match="leaves its folder"):
        models.import_model(archive)
    assert [p for p in sorted(stubs.rglob("*")) if p not in before and not p.is_dir()] == []
    assert not Path("/tmp/medgen-evil.txt").exists()


def test_a_failed_import_leaves_no_half_model(saved: Path) -> None:
    (saved / "models" / "generator.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="damaged or was altered"):
        models.import_model(saved, "half")
    assert list(models.folder().iterdir()) == []


def test_models_outside_the_models_folder_are_never_deleted(saved: Path) -> None:
    with pytest.raises(UserError, match="not in the models folder"):
        models.remove(str(saved))
    assert saved.exists()
