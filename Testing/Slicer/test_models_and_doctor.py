"""Models and the installation by clicks: what is offered without a model, import, verify, delete, the report."""

from __future__ import annotations

import errno
import os
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed")

import qt
import slicer
from panel_tools import SLUG, home, node_count, stub_catalog, until  # noqa: F401
from test_panel import case, widget  # noqa: F401

from medgen import catalog, models
from MedGenLib import background, jobqueue, untrainedroom
from MedGenLib.selftest import add_planes


def room_of(widget: Any, name: str) -> Any:  # noqa: F811
    return next(room for room in widget.panel.rooms if type(room).__name__ == name)


@pytest.fixture
def trained(widget: Any, case: dict[str, Any]) -> Any:  # noqa: F811
    """The section of models, unfolded, with a model called ball."""
    inputs = {**case, "planes": add_planes(case["image"])}
    widget.logic.process(SLUG, "train", inputs, name="ball", in_process=True)
    widget.enter()
    room = room_of(widget, "ModelsRoom")
    room.button.collapsed = False
    return room


def lines(room: Any) -> list[str]:
    return [room.list.item(row).text() for row in range(room.list.count)]


def finish(room: Any) -> None:
    until(lambda: not room.poller.busy)


def test_a_method_without_a_model_is_tried_on_a_phantom(
    widget: Any,  # noqa: F811
    pictures: Path,
    layout: Any,
    said: list[str],
) -> None:
    panel, offer = widget.panel, room_of(widget, "UntrainedRoom")
    panel.selectors.selectors["mask"].setCurrentNode(None)
    assert offer.widget.visible and "no trained model" in offer.text.text
    offer.train.click()
    assert "Choose: mask" in offer.text.text
    layout.picture(widget.parent, pictures / "models_untrained.png")
    panel.settings.tier.currentIndex = 2
    offer.phantom.click()
    (image,) = panel.parameters().nodes("image")
    assert image.GetName() == "Synthetic abdomen" and panel.tier == "demo"
    assert len(panel.slices.planes()) > 3 and "press Train" in offer.text.text
    until(lambda: panel.estimator.done, 60)
    assert panel.train.train.enabled, panel.train.train.toolTip
    offer.train.click()
    until(lambda: not panel.poller.busy)
    assert said == [] and not offer.widget.visible and "done" in panel.run.status.text
    assert panel.apply.apply.enabled, panel.apply.apply.toolTip


def test_each_pool_of_a_training_takes_a_patient_and_the_last_is_to_be_marked() -> None:
    training, apply = (catalog.operation_entry("one-shot-landmarks", name) for name in ("train", "apply"))
    first: Any = {"image": ["a"], "mask": ["b"], "landmarks": ["c"]}
    patients: Any = [first, {"image": ["d"], "mask": ["e"]}, {"image": ["f"]}]
    assert untrainedroom.chosen(patients, training, apply) == {
        "reference.image": ["a"],
        "reference.mask": ["b"],
        "reference.landmarks": ["c"],
        "validation.image": ["d"],
        "validation.mask": ["e"],
        "image": ["f"],
    }
    translate = [catalog.operation_entry("frequency-mr-to-ct", name) for name in ("train", "apply")]
    assert untrainedroom.chosen([{"mr": ["a"], "ct": ["b"]}], *translate) == {"mr": ["a"], "ct": ["b"]}


def test_a_model_has_its_card_and_is_verified_shown_and_copied(
    trained: Any,
    widget: Any,  # noqa: F811
    pictures: Path,
    layout: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (line,) = lines(trained)
    assert line.startswith("ball") and "kB" in line and time.strftime("%Y") in line
    digest = models.listed()[0]["digest"]
    for words in ("Research use only", digest[:12], "7 slices of one volume", "1 in all, voxels of 2.00 x 2.00 x 3.00"):
        assert words in trained.card.text
    trained.copy.click()
    assert qt.QApplication.clipboard().text() == digest
    opened: list[str] = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    trained.show_files.click()
    assert opened == [str(models.folder() / "ball")]
    trained.verify.click()
    assert "Verifying" in trained.status.text and not trained.delete.enabled
    finish(trained)
    assert "is whole" in trained.status.text and digest[:12] in trained.status.text
    layout.picture(widget.parent, pictures / "models.png")
    weights = models.folder() / "ball" / "models" / "threshold.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    trained.verify.click()
    finish(trained)
    assert "threshold.safetensors is damaged" in trained.status.text and trained.status.styleSheet


def test_a_model_is_imported_from_a_folder_and_a_zip_under_a_free_name(
    trained: Any,
    widget: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = shutil.copytree(models.folder() / "ball", tmp_path / "elsewhere" / "ball")
    archive = tmp_path / "given.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for part in source.rglob("*"):
            file.write(part, Path("ball") / part.relative_to(source))
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *words: str(source))
    trained.import_folder.click()
    finish(trained)
    assert "“ball-2” is imported" in trained.status.text and widget.panel.apply.model.currentText == "ball-2"
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *words: str(archive))
    trained.import_zip.click()
    finish(trained)
    assert widget.panel.apply.model.currentText == "given" and trained.chosen[0].name == "given"
    assert sorted(line.split()[0] for line in lines(trained)) == ["ball", "ball-2", "given"]
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *words: str(source / "medgen.json"))
    room_of(widget, "DoctorRoom").import_model.click()
    finish(trained)
    assert "“ball-3” is imported" in trained.status.text
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *words: "")  # cancelled
    trained.import_zip.click()
    assert not trained.poller.busy and len(lines(trained)) == 4


def test_a_foreign_archive_is_refused_in_a_sentence_and_leaves_nothing(
    trained: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../beach.jpg", "sand")
    before = sorted(models.home().rglob("*"))
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *words: str(archive))
    trained.import_zip.click()
    finish(trained)
    assert "leaves its folder" in trained.status.text and "Traceback" not in trained.status.text
    assert sorted(models.home().rglob("*")) == before and lines(trained)[0].startswith("ball")


def test_a_damaged_model_says_so_and_can_be_deleted_after_a_question(
    trained: Any,
    widget: Any,  # noqa: F811
    pictures: Path,
    layout: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = models.folder() / "broken"
    broken.mkdir()
    (broken / "medgen.json").write_text("{")
    widget.enter()
    assert lines(trained)[1] == "broken: cannot be used"
    trained.list.currentRow = 1
    assert "medgen.json is damaged" in trained.card.text and not trained.verify.enabled
    layout.picture(widget.parent, pictures / "models_damaged.png")
    asked: list[str] = []
    answers = iter([False, True])
    monkeypatch.setattr(
        slicer.util, "confirmYesNoDisplay", lambda text, **options: (asked.append(text), next(answers))[1]
    )
    trained.delete.click()
    assert broken.exists() and "broken" in asked[0]
    trained.delete.click()
    assert not broken.exists() and "deleted" in trained.status.text and len(lines(trained)) == 1


def test_a_model_that_a_job_works_with_stays_and_both_buttons_say_why(
    trained: Any,
    widget: Any,  # noqa: F811
    case: dict[str, Any],  # noqa: F811
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, **options: True)
    run = widget.logic.process(SLUG, "apply", {"image": case["image"]}, model="ball", start=False)
    job = jobqueue.line().put(jobqueue.QueuedJob("Apply", [], "apply", None, run=run))
    trained.delete.click()
    assert "job that waits or runs (Apply)" in trained.status.text
    widget.panel.apply.delete.click()
    assert said == [trained.status.text] and widget.panel.run.status.text == "Ready."
    assert (models.folder() / "ball").is_dir()
    jobqueue.line().cancel(job)
    until(lambda: job.finished)
    trained.delete.click()
    assert not (models.folder() / "ball").exists() and "deleted" in trained.status.text


def test_models_of_all_methods_name_their_method(
    trained: Any,
    widget: Any,  # noqa: F811
) -> None:
    other = shutil.copytree(models.folder() / "ball", models.folder() / "other")
    text = (other / "medgen.json").read_text().replace(SLUG, "from-the-future")
    (other / "medgen.json").write_text(text)
    widget.enter()
    assert len(lines(trained)) == 1
    trained.which.currentIndex = 1
    assert any("Threshold from a few slices" in line for line in lines(trained))
    assert any("a method that this MedGen does not know" in line for line in lines(trained))


def test_the_doctor_examines_in_its_own_process_and_the_report_can_be_copied(
    widget: Any,  # noqa: F811
    pictures: Path,
    layout: Any,
) -> None:
    room = room_of(widget, "DoctorRoom")
    before, waited = node_count(), []
    room.button.collapsed = False
    assert "Examining" in room.summary.text and not room.copy.enabled
    while room.poller.busy:
        began = time.perf_counter()
        slicer.app.processEvents()
        waited.append(time.perf_counter() - began)
        time.sleep(0.02)
    assert max(waited) < 0.5  # the panel answers meanwhile
    text = room.report.plainText
    for words in ("MedGen ", "torch build:", "torchvision:", "GB free", "Packages: torch"):
        assert words in text
    assert os.path.expanduser("~") not in text and node_count() == before
    room.copy.click()
    assert qt.QApplication.clipboard().text() == text
    layout.picture(widget.parent, pictures / "doctor.png")


def test_a_full_disk_is_said_in_a_sentence(widget: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def full(**options: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/medgen-1")

    monkeypatch.setattr(background.tempfile, "mkdtemp", full)
    doctor, trained = room_of(widget, "DoctorRoom"), room_of(widget, "ModelsRoom")
    doctor.examine.click()
    trained.bring_in(Path("model.zip"))
    words = "No space is left for /tmp/medgen-1; free some disk space and try again."
    assert doctor.summary.text == trained.status.text == words
    assert doctor.examine.enabled and trained.import_zip.enabled


def test_a_panel_that_closes_ends_the_examination(widget: Any) -> None:  # noqa: F811
    room = room_of(widget, "DoctorRoom")
    room.examine.click()
    task = room.poller.run
    process = task._job._alive()
    widget.panel.cleanup()
    until(lambda: process.poll() is not None)
    until(lambda: not task._folder.exists())
