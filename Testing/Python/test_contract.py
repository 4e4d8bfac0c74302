"""The contract is wide enough for what is hardest later: four stub methods through catalog, command line and check."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from backend_tools import medgen, picture, volume

from medgen import bundle, catalog, io
from medgen.cli import main


def _write_volumes(folder: Path, count: int, role: str = "image") -> Path:
    rows = []
    for index in range(count):
        sitk.WriteImage(volume(seed=index), str(folder / f"{role}{index}.nii.gz"))
        rows.append({role: f"{role}{index}.nii.gz", "subject": f"s{index}"})
    io.write_rows(rows, folder / f"{role}.csv")
    return folder / f"{role}.csv"


def test_catalog_names_every_operation_role_and_setting(stubs: Path) -> None:
    entry = catalog.entry("stub-3d-stylegan")
    assert [operation["name"] for operation in entry["operations"]] == ["train", "sample", "project", "mix"]
    mix = catalog.operation_entry("stub-3d-stylegan", "mix")
    assert [(role["name"], role["kind"]) for role in mix["inputs"]] == [("coarse", "Latent"), ("fine", "Latent")]
    truncation = catalog.operation_entry("stub-3d-stylegan", "sample")["settings"][1]
    assert (truncation["minimum"], truncation["maximum"], truncation["paper"]) == (0.0, 1.0, 1.0)
    assert catalog.operation_entry("stub-3d-stylegan", "sample")["grid"]["shape"] == [8, 10, 6]


def test_volumes_out_of_nothing_projection_and_mixing_run_from_the_command_line(stubs: Path) -> None:
    cohort = _write_volumes(stubs, 3)
    model = stubs / "model"
    assert (
        main(["train", "stub-3d-stylegan", str(cohort), "-o", str(model), "--tier", "smoke", "--progress", "none"]) == 0
    )
    quiet = ["--progress", "none", "--device", "cpu"]
    run = ["run", "stub-3d-stylegan"]
    assert main([*run, "sample", "--model", str(model), "--set", "count=3", "-o", str(stubs / "new"), *quiet]) == 0
    made = sorted((stubs / "new" / "images").glob("*.nii.gz"))
    assert len(made) == 3
    assert sitk.ReadImage(str(made[0])).GetSpacing() == pytest.approx((2.0, 2.0, 2.0))
    for index in range(2):
        source = ["-i", f"image={stubs / f'image{index}.nii.gz'}"]
        assert main([*run, "project", "--model", str(model), *source, "-o", str(stubs / f"p{index}"), *quiet]) == 0
    latents = ["-i", f"coarse={stubs}/p0/latent.safetensors", "-i", f"fine={stubs}/p1/latent.safetensors"]
    assert main([*run, "mix", "--model", str(model), *latents, "-o", str(stubs / "mixed.nii.gz"), *quiet]) == 0
    coarse, fine = (io._read_latent(stubs / f"p{i}" / "latent.safetensors").tensors["w"] for i in range(2))
    assert not np.allclose(coarse, fine)
    record = json.loads((stubs / "mixed.nii.gz.provenance.json").read_text())
    assert record["operation"] == "mix" and record["model"]["digest"] == bundle.load(model).digest


def test_unpaired_pools_and_two_directions_run_from_the_command_line(stubs: Path) -> None:
    for role, seed in (("mr", 0), ("standin", 1), ("ct", 2)):
        sitk.WriteImage(volume(seed=seed), str(stubs / f"{role}.nii.gz"))
    io.write_rows([{"mr": "mr.nii.gz", "standin": "standin.nii.gz"}], stubs / "pairs.csv")
    io.write_rows([{"ct": "ct.nii.gz"}], stubs / "unpaired.csv")
    collection = stubs / "collection.json"
    collection.write_text(json.dumps({"pools": {"pairs": "pairs.csv", "unpaired": "unpaired.csv"}}))
    quiet = ["--progress", "none"]
    assert main(["train", "stub-bridged-pix2pix", str(collection), "-o", str(stubs / "m"), *quiet]) == 0
    there = ["run", "stub-bridged-pix2pix", "mr-to-ct", "--model", str(stubs / "m"), "-i", f"mr={stubs}/mr.nii.gz"]
    assert main([*there, "-o", str(stubs / "synthetic_ct.nii.gz"), *quiet]) == 0
    back = [
        "run",
        "stub-bridged-pix2pix",
        "ct-to-mr",
        "--model",
        str(stubs / "m"),
        "-i",
        f"ct={stubs}/synthetic_ct.nii.gz",
    ]
    assert main([*back, "-o", str(stubs / "again.nii.gz"), *quiet]) == 0
    before, after = (sitk.GetArrayFromImage(sitk.ReadImage(str(stubs / n))) for n in ("mr.nii.gz", "again.nii.gz"))
    np.testing.assert_allclose(after, before, rtol=1e-4)


def test_a_plain_csv_does_not_do_where_several_pools_are_needed(stubs: Path) -> None:
    io.write_rows([{"mr": "mr.nii.gz"}], stubs / "one.csv")
    done = medgen("train", "stub-bridged-pix2pix", stubs / "one.csv", "-o", stubs / "m")
    assert done.returncode == 2 and "pairs, unpaired" in done.stderr and "collection.json" in done.stderr


def _write_pictures(folder: Path, tasks: list[str], classes: int) -> list[dict[str, str]]:
    rows = []
    for index, task in enumerate(tasks):
        image = picture(seed=index)
        bright = sitk.GetArrayFromImage(image).mean(-1)
        edges = np.quantile(bright, np.linspace(0, 1, classes + 2)[1:-1])
        sitk.WriteImage(image, str(folder / f"p{index}.png"))
        sitk.WriteImage(
            sitk.GetImageFromArray(np.digitize(bright, edges).astype(np.uint8)), str(folder / f"m{index}.png")
        )
        rows.append({"image": f"p{index}.png", "mask": f"m{index}.png", "task": task})
    return rows


def test_tasks_with_different_classes_meta_train_adapt_and_segment(stubs: Path) -> None:
    rows = _write_pictures(stubs, ["colon", "colon", "prostate"], classes=2)
    io.write_rows(rows, stubs / "tasks.csv")
    io.write_rows([{k: v for k, v in rows[0].items() if k != "task"}], stubs / "support.csv")
    quiet = ["--progress", "none"]
    assert main(["train", "stub-metahistoseg", str(stubs / "tasks.csv"), "-o", str(stubs / "start"), *quiet]) == 0
    assert set(bundle.load(stubs / "start").networks) == {"head_colon", "head_prostate"}
    start = ["run", "stub-metahistoseg", "adapt", "--model", str(stubs / "start")]
    assert main([*start, "--cohort", str(stubs / "support.csv"), "-o", str(stubs / "tissue"), *quiet]) == 0
    apply = ["apply", str(stubs / "tissue"), "-i", f"image={stubs}/p0.png", "-o", str(stubs / "out.seg.nrrd"), *quiet]
    assert main(apply) == 0
    assert sitk.ReadImage(str(stubs / "out.seg.nrrd")).GetSize() == (24, 16)
    wrong = medgen("apply", stubs / "start", "-i", f"image={stubs}/p0.png", "-o", stubs / "no.seg.nrrd")
    assert wrong.returncode == 2 and "adapt it" in wrong.stderr and not (stubs / "no.seg.nrrd").exists()


def test_a_missing_task_is_named_by_line_and_column(stubs: Path) -> None:
    rows = _write_pictures(stubs, ["colon", ""], classes=1)
    io.write_rows(rows, stubs / "tasks.csv")
    done = medgen("train", "stub-metahistoseg", stubs / "tasks.csv", "-o", stubs / "m")
    assert done.returncode == 2 and "line 3" in done.stderr and "“task”" in done.stderr


def test_corrected_labels_a_table_and_a_new_model_come_out_together(stubs: Path) -> None:
    rows = []
    for index in range(2):
        for kind, seed in (("clean", index), ("noisy", index + 10)):
            sitk.WriteImage(picture(seed=seed), str(stubs / f"{kind}{index}.png"))
        rows.append({"clean": f"clean{index}.png", "noisy": f"noisy{index}.png", "subject": f"cell{index}"})
    io.write_rows(rows, stubs / "pairs.csv")
    quiet = ["--progress", "none"]
    assert main(["train", "stub-label-transfer", str(stubs / "pairs.csv"), "-o", str(stubs / "m"), *quiet]) == 0
    correct = [
        "run",
        "stub-label-transfer",
        "correct",
        "--model",
        str(stubs / "m"),
        "--cohort",
        str(stubs / "pairs.csv"),
    ]
    assert main([*correct, "-o", str(stubs / "out"), *quiet]) == 0
    corrected = io.read_rows(stubs / "out" / "cohort" / "cohort.csv")
    assert [row["subject"] for row in corrected] == ["cell0", "cell1"]
    assert all((stubs / "out" / "cohort" / row["mask"]).exists() for row in corrected)
    assert bundle.load(stubs / "out" / "model").operation == "correct"
    assert io.read_rows(stubs / "out" / "changes.csv")[0]["subject"] == "cell0"
    assert "Contains patient data" in (stubs / "out" / "model" / "docs" / "README.md").read_text()


@pytest.mark.parametrize(
    "slug", ["stub-3d-stylegan", "stub-bridged-pix2pix", "stub-metahistoseg", "stub-label-transfer"]
)
def test_card_names_operations_and_paper(stubs: Path, slug: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", slug]) == 0
    text = capsys.readouterr().out
    entry = catalog.entry(slug)
    assert entry["citation"] in text and "Research use only" in text
    assert all(f"{operation['name']}: {operation['help']}" in text for operation in entry["operations"])


def test_check_reads_everything_and_runs_nothing(stubs: Path) -> None:
    cohort = _write_volumes(stubs, 2)
    before = sorted(stubs.rglob("*"))
    done = medgen("check", "stub-3d-stylegan", cohort, "--progress", "json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    estimate = next(event for event in events if event["event"] == "estimate")
    assert done.returncode == 0 and estimate["seconds"] > 0 and estimate["memory_bytes"] > 0
    assert sorted(stubs.rglob("*")) == before


def test_check_of_an_operation_with_nothing_in_uses_its_declared_grid(stubs: Path) -> None:
    done = medgen("check", "stub-3d-stylegan", "--operation", "sample", "--progress", "none")
    assert done.returncode == 0, done.stderr
    assert "fit for it" in done.stdout


def test_check_names_the_line_of_a_bad_row(stubs: Path) -> None:
    cohort = _write_volumes(stubs, 2)
    (stubs / "image1.nii.gz").write_bytes(b"not an image")
    done = medgen("check", "stub-3d-stylegan", cohort)
    assert done.returncode == 2 and "line 3" in done.stderr and "image1.nii.gz" in done.stderr
