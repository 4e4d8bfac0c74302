"""A cohort is gone over case by case: what is done stays done, what is bad is said, and nothing half-made is left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from backend_tools import ROOT, medgen, volume
from batch_tools import batch, begun, cohort, contents, leftovers, read, records

from medgen import bundle, casework, engine, ledger, resources, worker
from medgen.bundle import Model
from medgen.cli import main
from medgen.errors import UserError


def test_every_case_is_done_and_a_second_start_does_only_what_is_missing(stubs: Path) -> None:
    table = cohort(stubs, 5)
    batch(table, stubs / "out")
    assert [row["state"] for row in read(stubs / "out", "ledger.csv")] == ["done"] * 5
    result = sitk.ReadImage(str(stubs / "out" / read(stubs / "out", "results.csv")[3]["product"]))
    assert np.allclose(sitk.GetArrayFromImage(result), 2 * sitk.GetArrayFromImage(volume(seed=3)))
    before = records(stubs / "out")
    for file in (stubs / "out" / "cases" / "case001").iterdir():
        file.unlink()
    (stubs / "out" / "cases" / "case001").rmdir()
    again = batch(table, stubs / "out")
    assert "4 of 5 cases are done already" in again.stderr
    after = records(stubs / "out")
    assert {name for name in after if after[name] != before[name]} == {"case001"}
    assert (stubs / "out" / "report.html").exists()


def test_bad_cases_stop_nobody_and_each_has_its_sentence(stubs: Path) -> None:
    (stubs / "damaged.nii.gz").write_bytes(b"not an image")
    extra = (
        "killer,in/v000.nii.gz",
        "faulty,in/v001.nii.gz",
        "gone,in/none.nii.gz",
        "damaged,damaged.nii.gz",
        "empty,",
    )
    table = cohort(stubs, 6, extra)
    done = batch(table, stubs / "out", "--workers", 2, code=5)
    assert "5 of 11 cases are not done" in done.stderr
    assert set(records(stubs / "out")) == {f"case{number:03d}" for number in range(6)}
    reasons = {row["case"]: row["reason"] for row in read(stubs / "out", "failures.csv")}
    assert set(reasons) == {"killer", "faulty", "gone", "damaged", "empty"}
    assert "crashes in native code" in reasons["killer"]
    assert "ZeroDivisionError: by design" in reasons["faulty"]
    assert "does not exist" in reasons["gone"]
    assert "cannot be read as an image" in reasons["damaged"]
    assert "column “image” is empty" in reasons["empty"]
    assert all(reason.endswith(".") and "\n" not in reason for reason in reasons.values())
    trace = json.loads((stubs / "out" / "failed" / "faulty.json").read_text("utf-8"))["log"]
    assert trace[0].startswith("Traceback") and "by design" in trace[-1]
    (stubs / "in" / "none.nii.gz").write_bytes((stubs / "in" / "v002.nii.gz").read_bytes())
    batch(table, stubs / "out", "--workers", 2, code=5)
    assert "gone" in records(stubs / "out")
    assert len(read(stubs / "out", "failures.csv")) == 4


def test_what_was_made_otherwise_is_noticed_and_made_anew_only_when_asked(stubs: Path) -> None:
    table = cohort(stubs, 3)
    batch(table, stubs / "out")
    first = contents(stubs / "out")
    touched = stubs / "in" / "v000.nii.gz"
    os.utime(touched)  # another time, the same content
    assert "made from other inputs" not in batch(table, stubs / "out").stderr
    sitk.WriteImage(volume(seed=77), str(touched))
    assert "1 of the finished cases were made from other inputs" in batch(table, stubs / "out").stderr
    assert contents(stubs / "out") == first
    assert "3 of the finished cases" in batch(table, stubs / "out", "--set", "factor=3").stderr
    assert contents(stubs / "out") == first
    batch(table, stubs / "out", "--set", "factor=3", "--redo", "changed")
    made = sitk.ReadImage(str(stubs / "out" / "cases" / "case000" / "product.nii.gz"))
    assert np.allclose(sitk.GetArrayFromImage(made), 3 * sitk.GetArrayFromImage(volume(seed=77)), rtol=1e-6)
    assert "3 of 3 cases are done already" in batch(table, stubs / "out", "--set", "factor=3").stderr
    (stubs / "out" / "cases" / "case001" / "product.nii.gz").unlink()
    assert "2 of 3 cases are done already" in batch(table, stubs / "out", "--set", "factor=3").stderr
    assert (stubs / "out" / "cases" / "case001" / "product.nii.gz").exists()
    before = records(stubs / "out")
    batch(table, stubs / "out", "--set", "factor=3", "--redo", "all")
    assert all(record["time"] >= before[name]["time"] for name, record in records(stubs / "out").items())
    assert records(stubs / "out") != before


def test_a_case_keeps_its_name_and_its_patient_when_rows_are_added_and_removed(stubs: Path) -> None:
    lines = []
    for number in range(3):
        (stubs / f"s{number}").mkdir()
        sitk.WriteImage(volume(seed=number), str(stubs / f"s{number}" / "t1.nii.gz"))
        os.utime(stubs / f"s{number}" / "t1.nii.gz", (1e9, 1e9))
        lines.append(f"s{number}/t1.nii.gz")
    table = stubs / "cohort.csv"
    table.write_text("\n".join(["image", lines[2]]) + "\n")
    batch(table, stubs / "out")
    table.write_text("\n".join(["image", *lines[1:]]) + "\n")
    assert "1 of 2 cases are done already" in batch(table, stubs / "out").stderr
    first = records(stubs / "out")
    table.write_text("\n".join(["image", *lines]) + "\n")
    assert "2 of 3 cases are done already" in batch(table, stubs / "out").stderr
    after = records(stubs / "out")
    assert {name: after[name] for name in first} == first and len(after) == 3
    means = sorted(float(row["mean"]) for row in read(stubs / "out", "results.csv"))
    truth = sorted(2 * sitk.GetArrayFromImage(volume(seed=number)).mean() for number in range(3))
    assert np.allclose(means, truth, rtol=1e-5)
    table.write_text("\n".join(["image", lines[0]]) + "\n")
    batch(table, stubs / "out")
    assert len(read(stubs / "out", "results.csv")) == len(read(stubs / "out", "ledger.csv")) == 1


def test_a_failed_second_try_leaves_the_former_result_and_is_said(stubs: Path) -> None:
    table = cohort(stubs, 2)
    batch(table, stubs / "out")
    first = records(stubs / "out")
    (stubs / "in" / "v001.nii.gz").write_bytes(b"damaged since")
    batch(table, stubs / "out", "--redo", "changed", code=5)
    (failure,) = read(stubs / "out", "failures.csv")
    assert failure["case"] == "case001" and failure["reason"].endswith("The former result stays.")
    assert records(stubs / "out") == first
    assert [row["state"] for row in read(stubs / "out", "ledger.csv")] == ["failed", "done"]


def test_a_folder_of_another_method_is_refused(stubs: Path) -> None:
    table = cohort(stubs, 1)
    batch(table, stubs / "out")
    refused = medgen("batch", "stub-ranker", table, "--operation", "rank", "-o", stubs / "out")
    assert refused.returncode == 2 and "is a batch of “apply” of stub-plain" in refused.stderr


def _plan(out: Path, token: str) -> worker.Plan:
    begun(out, ["case"])
    config = {"seconds": 0.0, "busy": False, "factor": 2.0}
    return worker.Plan(str(out), "stub-plain", "apply", None, {}, "cpu", "32", 0, None, config, "recipe", token=token)


def test_who_works_for_an_earlier_start_or_sees_another_disk_writes_nothing(stubs: Path) -> None:
    cohort(stubs, 1)
    task = worker.Task("case", "case", {"image": [str(stubs / "in" / "v000.nii.gz")]})
    plan = _plan(stubs / "out", "an earlier start")
    with pytest.raises(worker.Trouble, match="does not see this batch"):
        worker.work(plan, task)
    elsewhere = dataclasses.replace(plan, out=str(stubs / "nowhere"))
    with pytest.raises(worker.Trouble, match="does not see this batch"):
        worker.work(elsewhere, task)
    assert {path.name for path in (stubs / "out").iterdir()} == {worker.TOKEN, "batch.json"} and not (
        stubs / "nowhere"
    ).exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_among_the_inputs_is_a_sentence(stubs: Path) -> None:
    os.mkfifo(stubs / "pipe.nii.gz")
    task = worker.Task("case", "case", {"image": [str(stubs / "pipe.nii.gz")]})
    record = worker.work(_plan(stubs / "out", "this start"), task)
    assert record["state"] == "failed" and "is a pipe, not a file" in record["reason"]


def test_a_result_that_cannot_be_put_in_place_leaves_the_former_one(
    stubs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort(stubs, 1)
    task = worker.Task("case", "case", {"image": [str(stubs / "in" / "v000.nii.gz")]})
    plan = _plan(stubs / "out", "this start")
    former = worker.work(plan, task)
    replace = os.replace

    def stubborn(source: Path, target: Path) -> None:
        if Path(source).name == "case" and Path(target).parent.name == "cases":
            raise PermissionError(13, "in use")
        replace(source, target)

    monkeypatch.setattr(os, "replace", stubborn)
    changed = dataclasses.replace(plan, config={**plan.config, "factor": 3.0}, recipe="another")
    with pytest.raises(worker.Trouble, match="in use"):
        worker.work(changed, task)
    assert ledger.whole(stubs / "out", "case") == former


def test_a_worker_over_its_memory_is_ended_and_the_case_says_so(stubs: Path) -> None:
    table = cohort(stubs, 1, ("glutton,in/v000.nii.gz",))
    batch(table, stubs / "out", "--limit-memory", "600MiB", code=5)
    (failure,) = read(stubs / "out", "failures.csv")
    assert failure["case"] == "glutton" and failure["code"] == "3" and "0.6 GiB of --limit-memory" in failure["reason"]
    assert set(records(stubs / "out")) == {"case000"}


def test_a_stopped_batch_keeps_what_is_finished_and_goes_on(stubs: Path) -> None:
    table = cohort(stubs, 8)
    words = ["batch", "stub-plain", str(table), "-o", str(stubs / "out"), "--set", "seconds=0.5"]
    command = [sys.executable, "-m", "medgen", *words]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _until(lambda: len(records(stubs / "out")) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C, which reaches the workers too
    _, said = process.communicate(timeout=30)
    assert process.returncode == 4 and "start the same command again to go on" in said
    assert not leftovers(stubs / "out")
    finished = records(stubs / "out")
    assert 2 <= len(finished) < 8 and not read(stubs / "out", "failures.csv")
    batch(table, stubs / "out", "--set", "seconds=0.5")
    after = records(stubs / "out")
    assert len(after) == 8 and all(after[name] == finished[name] for name in finished)


def test_an_operation_on_a_set_gives_the_same_shared_out_as_at_once(stubs: Path) -> None:
    table = cohort(stubs, 4)
    files = [f"image={path}" for path in sorted((stubs / "in").glob("*.nii.gz"))]
    words = [word for file in files for word in ("-i", file)]
    at_once = medgen("run", "stub-ranker", "rank", *words, "-o", stubs / "ranks.csv")
    assert at_once.returncode == 0, at_once.stderr
    shared = medgen("batch", "stub-ranker", table, "--operation", "rank", "-o", stubs / "out", "--workers", 2)
    assert shared.returncode == 0, shared.stderr
    assert (stubs / "out" / "together" / "ranks.csv").read_text() == (stubs / "ranks.csv").read_text()
    assert sorted(row["rank"] for row in read(stubs, "ranks.csv")) == ["1", "2", "3", "4"]
    before = records(stubs / "out")
    again = medgen("batch", "stub-ranker", table, "--operation", "rank", "-o", stubs / "out")
    assert again.returncode == 0 and records(stubs / "out") == before


def test_a_model_goes_over_a_cohort_as_it_goes_over_each_case(stubs: Path) -> None:
    network = {"gain": torch.tensor([2.0]), "offset": torch.tensor([-500.0])}
    model = Model("stub-bridged-pix2pix", {"mr_to_ct": network, "ct_to_mr": network}, {"weight": 1.0})
    bundle.save(model, stubs / "model")
    for number in range(3):
        sitk.WriteImage(volume(seed=number), str(stubs / f"mr{number}.nii.gz"))
    lines = [f"s{number},mr{number}.nii.gz,{'mr0.nii.gz' if number else ''}" for number in range(3)]
    (stubs / "table.csv").write_text("\n".join(["subject,mr,truth_ct", *lines]) + "\n")
    words = [stubs / "model", stubs / "table.csv", "--operation", "mr-to-ct"]
    done = medgen("batch", *words, "-o", stubs / "out", "--workers", 2)
    assert done.returncode == 0, done.stderr
    for number in range(3):
        case = ["run", "stub-bridged-pix2pix", "mr-to-ct", "--model", stubs / "model"]
        one = stubs / f"one{number}.nii.gz"
        assert main([str(w) for w in (*case, "-i", f"mr={stubs}/mr{number}.nii.gz", "-o", one, "--progress=none")]) == 0
        ours, theirs = (
            sitk.ReadImage(str(stubs / "out" / "cases" / f"s{number}" / "ct.nii.gz")),
            sitk.ReadImage(str(one)),
        )
        assert np.array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs))
        assert ours.GetOrigin() == theirs.GetOrigin() and ours.GetDirection() == theirs.GetDirection()
        record = json.loads((stubs / "out" / "cases" / f"s{number}" / "ct.nii.gz.provenance.json").read_text())
        single = json.loads(one.with_name(one.name + ".provenance.json").read_text())
        for key in ("method", "operation", "config", "model", "inputs", "seed"):
            assert record[key] == single[key]
    measures = {name: record["measures"] for name, record in records(stubs / "out").items()}
    assert measures["s0"] == {} and measures["s1"]["MAE"] != measures["s2"]["MAE"]
    (stubs / "measured.csv").write_text("\n".join(["subject,mr,truth_ct", *lines[1:]]) + "\n")
    evaluated = medgen("evaluate", stubs / "model", stubs / "measured.csv", "--operation", "mr-to-ct", "--json")
    assert [case["MAE"] for case in json.loads(evaluated.stdout)["cases"]] == [
        measures["s1"]["MAE"],
        measures["s2"]["MAE"],
    ]


def test_two_batches_do_not_write_to_one_folder_at_once(stubs: Path) -> None:
    table = cohort(stubs, 2)
    words = ["batch", "stub-plain", str(table), "-o", str(stubs / "out"), "--set", "seconds=20"]
    with subprocess.Popen([sys.executable, "-m", "medgen", *words], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        _until(lambda: any((stubs / "out").glob(".partial-*-case*")))
        refused = medgen("batch", "stub-plain", table, "-o", stubs / "out")
        assert refused.returncode == 2 and "Another batch is writing to" in refused.stderr
        process.kill()


def test_a_folder_of_somebody_else_is_not_touched(stubs: Path) -> None:
    table = cohort(stubs, 1)
    (stubs / "out").mkdir()
    (stubs / "out" / "thesis.doc").write_text("mine")
    refused = medgen("batch", "stub-plain", table, "-o", stubs / "out")
    assert refused.returncode == 2 and "no batch wrote" in refused.stderr
    assert [path.name for path in (stubs / "out").iterdir()] == ["thesis.doc"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "factor=99"], "Setting “factor” = 99 is not possible"),
        (["--scheduler", "tcp://127.0.0.1:9", "--workers", "2"], "give one of them"),
        (["--limit-memory", "lots"], "is not a size"),
        (["--workers", "0"], "--workers takes 1 or more"),
        (["--operation", "fly"], "has no operation “fly”"),
        (["--previews"], "Unrecognized arguments: --previews"),
    ],
)
def test_what_cannot_be_is_said_before_any_case(stubs: Path, words: list[str], said: str) -> None:
    table = cohort(stubs, 1)
    refused = medgen("batch", "stub-plain", table, "-o", stubs / "out", *words)
    assert refused.returncode == 2 and said in refused.stderr
    assert not (stubs / "out" / "cases").exists()


@contextlib.contextmanager
def _cluster(folder: Path, workers: int, late: bool = False) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and workers in processes of their own, as on a cluster. late: the workers come after 4 s."""
    file = folder / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    scheduler = subprocess.Popen([*dask, "--no-dashboard", "--scheduler-file", str(file)], **quiet, cwd=folder)
    one = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1"]
    one += ["--no-dashboard", "--death-timeout", "20", "--no-nanny"]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.extend(subprocess.Popen(one, **quiet, cwd=folder) for _ in range(workers))

    timer = threading.Timer(4, start)
    try:
        _until(file.exists)
        time.sleep(0.2)
        timer.start() if late else start()
        yield json.loads(file.read_text())["address"], scheduler
    finally:
        timer.cancel()
        for process in (scheduler, *started):
            process.kill()
            process.wait()


def test_a_cluster_does_the_cases_and_one_that_is_lost_loses_nothing(stubs: Path) -> None:
    table = cohort(stubs, 12)
    with _cluster(stubs, 2) as (address, scheduler):
        words = ["batch", "stub-plain", str(table), "-o", str(stubs / "out"), "--scheduler", address]
        words += ["--set", "seconds=0.5"]
        process = subprocess.Popen(
            [sys.executable, "-m", "medgen", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        _until(lambda: len(records(stubs / "out")) >= 3)
        scheduler.kill()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 5 and "was lost; what was finished is kept" in said and "Traceback" not in said
    finished = records(stubs / "out")
    assert len(finished) >= 3
    batch(table, stubs / "out", "--set", "seconds=0.5", "--workers", 2)
    after = records(stubs / "out")
    assert len(after) == 12 and all(after[name] == finished[name] for name in finished)


def test_workers_that_come_late_take_their_share(stubs: Path) -> None:
    table = cohort(stubs, 6)
    with _cluster(stubs, 2, late=True) as (address, _):
        done = medgen("batch", "stub-plain", table, "-o", stubs / "out", "--scheduler", address, "--set", "seconds=1")
    assert done.returncode == 0 and "has no workers yet" in done.stderr, done.stderr
    times = sorted(record["time"] for record in records(stubs / "out").values())
    assert len(set(times)) < len(times)  # two at once: six cases of a second end at fewer than six seconds


def test_a_scheduler_that_is_not_there_is_said(stubs: Path) -> None:
    table = cohort(stubs, 1)
    refused = medgen("batch", "stub-plain", table, "-o", stubs / "out", "--scheduler", "tcp://127.0.0.1:9")
    assert refused.returncode == 2 and "cannot be reached" in refused.stderr


def test_each_worker_has_a_gpu_of_its_own_or_its_share_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "cores", lambda: 8)
    monkeypatch.setattr(resources, "gpus", lambda: [])
    monkeypatch.setattr(engine.metadata, "version", lambda name: "2.13.0+cu130")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    places = engine._places(engine.Request(workers=4), cases=100)
    assert [place["OMP_NUM_THREADS"] for place in places] == ["2"] * 4
    assert len(engine._places(engine.Request(), cases=100)) == 8
    assert len(engine._places(engine.Request(), cases=3)) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    places = engine._places(engine.Request(), cases=100)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["2", "5"]
    assert "CUDA_VISIBLE_DEVICES" not in engine._places(engine.Request(device="cpu"), cases=100)[0]
    assert len(engine._places(engine.Request(device="cuda:1"), cases=100)) == 1
    with pytest.raises(UserError, match="more than the 2 GPUs"):
        engine._places(engine.Request(workers=3), cases=100)
    monkeypatch.setattr(engine.metadata, "version", lambda name: "2.13.0+cpu")
    assert engine.visible_gpus() == []


def test_names_of_cases_fit_every_disk_and_never_meet() -> None:
    texts = [
        "a",
        "A",
        "-rf",
        "x y",
        "x_y",
        'O\'Brien "q"',
        "../../etc",
        "ü" * 200,
        "ü" * 201,
        "nul",
        "",
        "=1+1",
        "a\nb",
    ]
    marks = [f"{number}.nii.gz" for number in range(len(texts))]
    names = ledger.case_names(texts, marks)
    assert names == ledger.case_names(texts, marks)
    assert len({name.casefold() for name in names}) == len(texts)
    for name in names:
        assert len(name.encode()) <= 100 and name[0] not in ".-" and not set(name) & set("/\\:*?\"<>|'= \n")


def _until(true: object, seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def test_a_worker_reads_a_model_once(stubs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_folders: list[Path] = []
    model = Model("stub-bridged-pix2pix", {"mr_to_ct": {"gain": torch.ones(1)}}, {})
    digest = bundle.save(model, stubs / "model")
    load = bundle.load

    def counted(folder: Path) -> Model:
        read_folders.append(folder)
        return load(folder)

    monkeypatch.setattr(bundle, "load", counted)
    first, second = (casework._loaded(str(stubs / "model"), digest) for _ in range(2))
    assert first is second and len(read_folders) == 1
    with pytest.raises(UserError, match="was changed while the batch ran"):
        casework._loaded(str(stubs / "model"), "0" * 64)
