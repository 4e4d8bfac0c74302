"""The races: what is measured, on what, against whom. Each gives plain data for results.json and `page`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
FULL_FEATURES = (32, 32, 64, 128, 256, 32)  # MONAI's default
FULL_PARAMETERS = 5_749_410  # with one channel in and two out
SMALL_FEATURES = (8, 8, 16, 32, 64, 8)

Say = Callable[[str], None]
Times = dict[str, list[float]]


# --- how times are taken


def alternate(ours: Callable[[], Any], peer: Callable[[], Any], pairs: int) -> Times:
    """Wall and processor seconds of two functions called in turn: ours first in every other pair."""
    times: Times = {name: [] for name in ("ours", "peer", "ours processor", "peer processor")}
    sides = [("ours", ours), ("peer", peer)]
    for pair in range(pairs):
        for name, work in sides if pair % 2 == 0 else reversed(sides):
            began, spent = time.monotonic(), time.process_time()
            work()
            times[name].append(time.monotonic() - began)
            times[f"{name} processor"].append(time.process_time() - spent)
    return times


def ratio(times: Times, kind: str = "") -> dict[str, float]:
    """Median of ours / peer over the pairs, its quartiles and extremes. kind: " processor" for processor seconds."""
    found = np.asarray(times[f"ours{kind}"]) / np.asarray(times[f"peer{kind}"])
    names = ("least", "lower quartile", "median", "upper quartile", "most")
    return dict(zip(names, np.percentile(found, (0, 25, 50, 75, 100)).tolist(), strict=True))


def ct_like(shape: tuple[int, int, int], path: Path) -> Path:
    """An int16 volume as a CT holds it, written as .npy: an ellipsoid of noisy soft tissue in air."""
    generator = np.random.default_rng(0)
    i, j, k = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    volume = np.empty(shape, dtype=np.int16)
    for index, first in enumerate(i):
        inside = first**2 + j[:, None] ** 2 + k**2 < 0.8
        noise = generator.normal(0, 30, inside.shape)
        volume[index] = np.where(inside, 60, -1000) + noise
    np.save(path, volume)
    return path


def fresh(job: dict[str, Any]) -> dict[str, float]:
    """`side.measure` in a process of its own; "pages": whether torch asks for large pages there."""
    environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    environment["OMP_NUM_THREADS"] = str(job["threads"])
    command = [sys.executable, str(HERE / "side.py"), json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


# --- tiled inference: time


def tiled_time(quick: bool, threads: int, say: Say) -> dict[str, Any]:
    """Ours and MONAI's inferer in one process, in turn, with the same network, windows and memory settings."""
    import torch
    from monai.inferers import SlidingWindowInferer
    from monai.networks.nets import BasicUNet

    from medgen.nn.unet import parameter_count
    from medgen.tiles import tiled

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    features = SMALL_FEATURES if quick else FULL_FEATURES
    network = BasicUNet(3, 1, 2, features=features).eval()
    if not quick and parameter_count(network) != FULL_PARAMETERS:
        raise RuntimeError(f"BasicUNet has {parameter_count(network)} parameters, not {FULL_PARAMETERS}")
    shape, window, pairs = ((40, 50, 36), 32, 3) if quick else ((160, 168, 150), 64, 5)
    volume = torch.randn(1, *shape)
    inferer = SlidingWindowInferer((window,) * 3, sw_batch_size=1, overlap=0.25)
    results: dict[str, torch.Tensor] = {}

    def ours() -> None:
        results["ours"] = tiled(network, volume, window=(window,) * 3, overlap=0.25, channels=2)

    @torch.inference_mode()
    def peer() -> None:
        results["peer"] = inferer(volume[None], network)[0]

    ours()  # both once outside the race: the first pass of a network builds its kernels
    peer()
    times = alternate(ours, peer, pairs)
    say(f"tiled inference: {ratio(times)}")
    return {
        "parameters": parameter_count(network),
        "features": features,
        "shape": shape,
        "window": window,
        "times": times,
        "difference": float((results["ours"] - results["peer"]).abs().max()),
        "largest value": float(results["peer"].abs().max()),
    }


def tiled_as_shipped(quick: bool, threads: int, say: Say) -> dict[str, Any]:
    """The same from volume file to result in a process each: ours as a run of MedGen starts it, MONAI's as Python."""
    shape, window, pairs = ((96, 96, 80), 32, 1) if quick else ((160, 168, 150), 64, 2)
    times: Times = {name: [] for name in ("ours", "peer", "ours processor", "peer processor")}
    with tempfile.TemporaryDirectory() as folder:
        volume = ct_like(shape, Path(folder) / "volume.npy")
        job = {"volume": str(volume), "window": window, "overlap": 0.25, "outputs": 2, "threads": threads}
        job["features"] = SMALL_FEATURES if quick else FULL_FEATURES
        for pair in range(pairs):
            for side in ("ours", "peer") if pair % 2 == 0 else ("peer", "ours"):
                found = fresh({**job, "side": side, "pages": side == "ours"})
                times[side].append(found["wall"])
                times[f"{side} processor"].append(found["processor"])
    say(f"tiled inference, as shipped: {ratio(times)}")
    return {"shape": shape, "window": window, "times": times}


# --- tiled inference: memory


def tiled_memory(quick: bool, threads: int, say: Say) -> dict[str, Any]:
    """Peak memory above the loaded model, each side in a fresh process, both with large pages."""
    shape = (128, 128, 96) if quick else (512, 512, 254)
    rows: list[dict[str, Any]] = [{"features": SMALL_FEATURES, "window": 64, "outputs": 1, "repeats": 1}]
    if not quick:
        rows = [{"features": FULL_FEATURES, "window": 64, "outputs": 1, "repeats": 1}, {**rows[0], "repeats": 1}]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        volume = ct_like(shape, Path(folder) / "volume.npy")
        for row in rows:
            job = {**row, "volume": str(volume), "overlap": 0.25, "threads": threads, "pages": True}
            sides: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
            for _ in range(row["repeats"]):
                for side, measured in sides.items():
                    measured.append(fresh({**job, "side": side}))
                    say(f"memory, {row}: {side} {measured[-1]}")
            found.append({**row, **sides})
    return {"shape": shape, "rows": found}


# --- the fast mode of frequency-mr-to-ct


def fast_mode(quick: bool, threads: int, say: Say) -> dict[str, Any]:
    """Applying a trained model to held-out phantoms: as it is, with empty windows skipped, and with bf16 besides."""
    import torch

    from medgen import bundle, catalog, cohort, execute, phantoms, prepare
    from medgen.case import Case
    from medgen.jobs import Run
    from medgen.method import Pool

    torch.set_num_threads(threads)
    slug = "frequency-mr-to-ct"
    method = catalog.load(slug)
    train, apply = method.operation("train"), method.operation("apply")
    tier = "smoke" if quick else "demo"
    patients, pairs = (3, 1) if quick else (10, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = {"size": (48, 56, 48)} if quick else {}
        table = phantoms.write(phantoms.PHANTOMS[method.phantoms[0]], patients, 0, folder / "patients", **size)
        run = Run(folder / "run", device="cpu", seed=0)
        config = train.configure(tier, {})
        began = time.monotonic()
        execute.perform(method, train, config, run, folder / "model", collection=table)
        say(f"trained in {time.monotonic() - began:.0f} s")
        model = bundle.load(folder / "model", slug)
        rows = cohort.read_pool(table, Pool("cases", (*apply.inputs, *apply.outputs)))
        cases = [prepare.load_row(row, (*apply.inputs, *apply.outputs), run.log) for row in rows if row.split == "test"]
        names = {role.name for role in apply.inputs}
        plain, fast = (apply.configure(tier if tier in apply.tiers else None, {"fast": on}) for on in (False, True))
        arms = {
            "plain": (plain, Run(folder / "plain", device="cpu", precision="32")),
            "skipping": (fast, Run(folder / "skipping", device="cpu", precision="32")),
            "fast": (fast, Run(folder / "fast", device="cpu", precision="auto")),
        }
        results: dict[str, list[Case]] = {arm: [] for arm in arms}

        def work(arm: str) -> Callable[[], None]:
            config, run = arms[arm]

            def once() -> None:
                given = [Case({name: case[name] for name in names}, case.row) for case in cases]
                results[arm] = [method.perform(apply, one, config, run, model) for one in given]

            return once

        for arm in arms:
            work(arm)()
        errors = {
            arm: float(
                np.mean([method.measure(one, case)["mae"] for one, case in zip(results[arm], cases, strict=True)])
            )
            for arm in arms
        }
        times = {arm: alternate(work(arm), work("plain"), pairs) for arm in ("skipping", "fast")}
    say(f"fast mode: {[ratio(one) for one in times.values()]}, MAE {errors}")
    return {
        "tier": tier,
        "updates": config.updates,
        "patients": len(cases),
        "shape": list(cases[0]["mr"].data.shape[1:]),
        "precision": arms["fast"][1].precision,
        "mae": errors,
        "times": times,
    }


RACES: dict[str, Callable[[bool, int, Say], dict[str, Any]]] = {
    "tiled time": tiled_time,
    "tiled as shipped": tiled_as_shipped,
    "tiled memory": tiled_memory,
    "fast mode": fast_mode,
}
