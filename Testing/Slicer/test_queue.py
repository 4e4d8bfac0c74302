"""The line of jobs without a panel: order, files, processes that die in every way, and what the scene keeps."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from panel_tools import SLUG, home, node_count, stub_catalog, until  # noqa: F401
from queue_tools import alive, keep_files_in, over, pid_of, put, quick, save_volume, small_disk, ticked  # noqa: F401

from medgen import catalog
from MedGenLib import jobqueue, runs
from MedGenLib.errors import RunError
from MedGenLib.logic import MedGenLogic
from MedGenLib.selftest import add_drawing, add_volume

pytestmark = pytest.mark.usefixtures("quick")


def test_jobs_run_one_after_the_other_in_their_order() -> None:
    volume, line = add_volume(), jobqueue.line()
    jobs = [put(volume) for _ in range(3)]
    assert [job.state for job in jobs] == ["running", "waiting", "waiting"]
    ended: list[Any] = []
    line.listen(lambda job: ended.append(job) if job is not None and job.finished else None)
    ticked(lambda: sum(job.state == "running" for job in jobs) > 1 or over(*jobs))
    assert ended == jobs and all(job.state == "done" for job in jobs)
    assert [job.results["inverted"].GetName() for job in jobs] == ["CT inverted", "CT inverted_1", "CT inverted_2"]


def test_who_listens_hears_of_many_jobs_once() -> None:
    line, heard = jobqueue.line(), list[Any]()
    jobs = [jobqueue.QueuedJob("Invert", [str(number)], "x", add_volume) for number in range(400)]
    line.listen(heard.append)
    line.put_all(jobs)
    assert heard == [None] and line.jobs == jobs and line.unfinished == jobs
    line.cancel_all(jobs)
    assert heard == [None] * 2 and {job.state for job in jobs} == {"cancelled"}
    line.retry_all(jobs[:2])
    assert heard == [None] * 3 and line.unfinished == jobs[:2] and line.jobs == jobs[2:] + jobs[:2]
    line.cancel(jobs[0])
    line.cancel(jobs[0])  # is over already
    assert heard[3:] == [jobs[0]]


def test_as_many_run_at_once_as_are_allowed() -> None:
    volume, line = add_volume(), jobqueue.line()
    jobs = [put(volume, "slow") for _ in range(3)]
    line.at_once = 2
    assert [job.state for job in jobs] == ["running", "running", "waiting"]


def test_a_waiting_job_keeps_the_inputs_as_they_were() -> None:
    volume = add_volume()
    before = slicer.util.arrayFromVolume(volume).copy()
    put(volume)
    waiting = put(volume)
    slicer.util.updateVolumeFromArray(volume, np.zeros_like(before))
    ticked(lambda: over(waiting))
    assert np.array_equal(slicer.util.arrayFromVolume(waiting.results["inverted"]), before)


def test_cancelling_a_waiting_job_removes_its_files_at_once(quick: Path) -> None:  # noqa: F811
    volume = add_volume()
    running, waiting = put(volume, "slow"), put(volume)
    assert len(list(quick.iterdir())) == 2
    jobqueue.line().cancel(waiting)
    assert waiting.state == "cancelled" and len(list(quick.iterdir())) == 1
    ticked(lambda: over(running))
    assert waiting.state == "cancelled" and not waiting.results and list(quick.iterdir()) == []


def test_cancelling_a_running_job_ends_its_whole_tree_and_the_next_begins(quick: Path) -> None:  # noqa: F811
    volume, before = add_volume(), node_count()
    deaf, child = put(volume, "deaf"), 0
    child, process = pid_of(deaf, "child"), pid_of(deaf)
    following = put(volume, "polite")
    deaf.run._job.cancel(grace=0.1)
    jobqueue.line().cancel(deaf)
    ticked(lambda: deaf.finished)
    assert deaf.state == "cancelled" and following.state == "running"
    until(lambda: not alive(child) and not alive(process))
    jobqueue.line().cancel(following)
    ticked(lambda: following.finished)
    assert following.state == "cancelled"
    assert list(quick.iterdir()) == [] and node_count() == before


def test_a_process_killed_from_outside_is_a_failure_that_leaves_nothing(quick: Path) -> None:  # noqa: F811
    volume, before = add_volume(), node_count()
    killed = put(volume, "deaf")
    child, process = pid_of(killed, "child"), pid_of(killed)
    os.kill(process, signal.SIGKILL)
    ticked(lambda: killed.finished)
    assert killed.state == "failed" and "ended from outside" in killed.message and "\n" not in killed.message
    assert killed.message in killed.log
    until(lambda: not alive(child))
    assert list(quick.iterdir()) == [] and node_count() == before
    following = put(volume)
    ticked(lambda: over(following))
    assert following.state == "done"


@pytest.mark.parametrize(("act", "name"), [("abort", "SIGABRT"), ("segfault", "SIGSEGV")])
def test_a_crash_in_native_code_is_a_failure_that_names_the_signal(act: str, name: str, quick: Path) -> None:  # noqa: F811
    volume, before = add_volume(), node_count()
    job = put(volume, act)
    ticked(lambda: job.finished)
    assert job.state == "failed" and name in job.message and "\n" not in job.message
    assert list(quick.iterdir()) == [] and node_count() == before


def test_an_exit_code_other_than_0_is_a_failure_whatever_was_written() -> None:
    volume, before = add_volume(), node_count()
    job = put(volume, "code3")
    ticked(lambda: job.finished)
    assert job.state == "failed" and not job.results and node_count() == before


def test_a_failed_job_can_be_tried_again_and_keeps_its_log(tmp_path: Path) -> None:
    job = put(str(save_volume(tmp_path / "broken.nrrd")))
    ticked(lambda: job.finished)
    assert job.state == "failed" and "broken.nrrd" in job.message
    (tmp_path / "broken.nrrd.mended").touch()
    jobqueue.line().retry(job)
    assert job.state == "waiting" and jobqueue.line().jobs == [job]
    ticked(lambda: job.finished)
    assert job.state == "done" and "Tried again." in job.log
    assert any("cannot be worked on" in line for line in job.log)


def test_a_job_whose_node_has_gone_says_so_when_tried_again() -> None:
    volume = add_volume()
    job = put(volume, "fail")
    ticked(lambda: job.finished)
    slicer.mrmlScene.RemoveNode(volume)
    jobqueue.line().retry(job)
    ticked(lambda: job.finished)
    assert job.state == "failed" and "“CT” is no longer in the scene" in job.message


def test_the_log_says_how_long_export_and_load_took() -> None:
    job = put(add_volume())
    ticked(lambda: job.finished)
    assert any(line.startswith("Inputs written in") for line in job.log)
    assert any(line.startswith("Results loaded in") for line in job.log)


def test_what_waits_is_expected_to_take_what_its_like_took() -> None:
    volume, line = add_volume(), jobqueue.line()
    first = put(volume)
    assert line.seconds_left(put(volume)) is None and line.total_left()[1] is False
    ticked(lambda: line.unfinished == [])
    running, waiting = put(volume, "slow"), put(volume)
    assert line.seconds_left(waiting) == pytest.approx(first.seconds, abs=2)
    ticked(lambda: running.progress is not None)
    total, complete = line.total_left()
    assert complete and total == pytest.approx(line.seconds_left(running) + line.seconds_left(waiting))
    put(volume).expected = 240.0  # an estimate goes before experience
    assert line.total_left()[0] == pytest.approx(total + 240, abs=1)


def test_a_closed_scene_takes_its_waiting_jobs_along(quick: Path) -> None:  # noqa: F811
    volume = add_volume()
    running, waiting = put(volume, "slow"), put(volume)
    slicer.mrmlScene.Clear(0)
    before = node_count()
    jobqueue.line().tick()
    assert waiting.state == "cancelled" and "scene was closed" in waiting.message
    ticked(lambda: running.finished)
    assert running.state == "cancelled" and "scene was closed" in running.message
    assert node_count() == before and list(quick.iterdir()) == []


def test_the_line_outlives_a_reload_of_the_library(quick: Path) -> None:  # noqa: F811
    volume = add_volume()
    running, waiting = put(volume, "slow"), put(volume)
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "MedGenLib"}
    try:
        for name in kept:
            del sys.modules[name]
        from MedGenLib import jobqueue as anew

        assert anew is not jobqueue and anew.line().jobs == [running, waiting]
        until(lambda: anew.line().tick() or waiting.finished)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "MedGenLib"]:
            del sys.modules[name]
        sys.modules.update(kept)
    assert running.state == waiting.state == "done" and list(quick.iterdir()) == []


def test_when_slicer_quits_no_process_and_no_file_stays(quick: Path) -> None:  # noqa: F811
    volume = add_volume()
    running = put(volume, "deaf")
    put(volume)
    child, process = pid_of(running, "child"), pid_of(running)
    jobqueue.line().close()
    assert list(quick.iterdir()) == [] and jobqueue.line().jobs == []
    until(lambda: not alive(child) and not alive(process))


def test_two_trainings_in_the_line_never_share_a_name(home: Path) -> None:  # noqa: F811
    volume, logic = add_volume(), MedGenLogic()
    given = {"image": volume, "mask": add_drawing(volume)}
    put(volume, "slow")
    names = []
    for name in (None, None, "mine"):
        run = logic.process(SLUG, "train", given, name=name, start=False)
        jobqueue.line().put(jobqueue.QueuedJob("Train", [], "train", None, run=run))
        names.append(run.plan.out.name)
    assert len(set(names)) == 3
    with pytest.raises(RunError, match="“mine” is being trained already"):
        logic.process(SLUG, "train", given, name="mine", start=False)
    assert (home / "runs" / "mine" / "inputs" / "cohort.csv").is_file()


def test_what_one_listener_does_wrong_stops_no_job(errors_in_callbacks_fail: list[BaseException]) -> None:
    def fail(job: Any) -> None:
        raise ValueError("a listener's own fault")

    jobqueue.line().listen(fail)
    job = put(add_volume())
    ticked(lambda: job.finished)
    assert job.state == "done"
    assert {str(error) for error in errors_in_callbacks_fail} == {"a listener's own fault"}
    errors_in_callbacks_fail.clear()


def test_a_disk_too_full_for_the_inputs_is_said_and_the_next_job_runs(
    small_disk: Path,  # noqa: F811
    quick: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = add_volume()
    first = put(volume, "slow")
    (small_disk / "other").write_bytes(b"0" * 230_000)
    keep_files_in(small_disk, monkeypatch)
    given, logic = jobqueue.Remembered({"image": volume}), MedGenLogic()
    full = jobqueue.QueuedJob("Invert", ["CT"], "x", lambda: logic.process(SLUG, "invert", given.get(), start=False))
    jobqueue.line().put(full)
    ticked(lambda: full.finished)
    assert full.state == "failed" and "space" in full.message and "\n" not in full.message
    assert [path.name for path in small_disk.iterdir()] == ["other"]
    keep_files_in(quick, monkeypatch)
    jobqueue.line().retry(full)
    ticked(lambda: full.finished)
    assert full.state == first.state == "done"


def test_a_disk_too_full_for_the_results_is_said_and_leaves_nothing(
    small_disk: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "python_executable", lambda: sys.executable)  # a method that writes
    keep_files_in(small_disk, monkeypatch)
    (small_disk / "other").write_bytes(b"0" * 200_000)
    volume, before = add_volume(), node_count()
    job = put(volume, settings={})
    ticked(lambda: job.finished)
    assert job.state == "failed" and "space" in job.message and "\n" not in job.message
    assert [path.name for path in small_disk.iterdir()] == ["other"] and node_count() == before


def test_a_real_method_that_crashes_fails_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runs, "python_executable", lambda: sys.executable)
    table = tmp_path / "faults.json"
    table.write_text(catalog.build(["panel_stubs.faults"]), "utf-8")
    monkeypatch.setenv("MEDGEN_CATALOG", str(table))
    volume, before = add_volume(), node_count()
    with pytest.raises(RunError, match="native code .SIGABRT.") as caught:
        MedGenLogic().process("stub-faults", "apply", {"image": volume}, {"fault": "abort"}, wait=True)
    assert "\n" not in str(caught.value) and node_count() == before
