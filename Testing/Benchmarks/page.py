"""docs/benchmarks.md, made from results.json."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
from races import ratio

PACKAGES = ("torch", "monai", "numpy", "scikit-image")
MEBIBYTE = 2**20

INTRODUCTION = """# Races

Ratios against peers, measured side by side on one machine: what counts is ours / theirs, not seconds. Each pair of
runs is made one after the other, ours first in every other pair, so that a machine that slows down slows down both; a
ratio is the median over the pairs, with its quartiles in brackets. This page is written by

    python Testing/Benchmarks/run

(`--race NAME` for one of them, `--quick` to try the command in a minute or two without writing anything), from the rows
in `Testing/Benchmarks/results.json`.
"""


def machine(threads: int) -> dict[str, Any]:
    """What the figures were measured on, and when."""
    model, flags, memory = platform.processor() or platform.machine(), "", 0
    if Path("/proc/cpuinfo").exists():
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        known = {key.strip(): value.strip() for key, _, value in lines}
        model, flags = known.get("model name", model), known.get("flags", "")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    special = [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in flags.split()]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "processor": model,
        "instructions": special,
        "cores": os.cpu_count(),
        "memory": memory,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "threads": threads,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "load": round(load, 2),
    }


def markdown(results: dict[str, Any]) -> str:
    """The whole page; a race that was not run says so."""
    parts = [INTRODUCTION]
    for name, (title, section) in SECTIONS.items():
        parts.append(f"## {title}\n")
        entry = results.get(name)
        parts += [*section(entry["found"]), _measured_on(entry)] if entry else ["Not measured.\n"]
    return "\n".join(parts)


def _measured_on(entry: dict[str, Any]) -> str:
    m = entry["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["packages"].items())
    instructions = f" ({', '.join(m['instructions'])})" if m["instructions"] else ""
    busy = "" if m["load"] < 0.5 else f"; the machine was shared: load {m['load']:.1f} when this race began"
    return _paragraph(
        f"""*{m["date"]}, {entry["seconds"] / 60:.0f} minutes: {m["processor"]}{instructions}, {m["cores"]} cores,
        {m["memory"] / 2**30:.0f} GiB, {m["system"]}, no GPU; {m["threads"]} threads; Python {m["python"]},
        {versions}{busy}.*"""
    )


def _cell(times: dict[str, list[float]], kind: str = "") -> str:
    found = ratio(times, kind)
    return f"**{found['median']:.3f}** ({found['lower quartile']:.3f} to {found['upper quartile']:.3f})"


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _size(shape: list[int]) -> str:
    return "×".join(str(side) for side in shape)


def _verdict(holds: bool) -> str:
    return "holds" if holds else "**does not hold**"


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120) + "\n"


def _sides(times: dict[str, list[float]]) -> list[str]:
    """A table of wall and processor seconds."""
    lines = ["| | ours | MONAI | ours / MONAI |", "|---|---|---|---|"]
    for kind, name in (("", "wall, s"), (" processor", "processor, s")):
        ours, peer = (_median(times[f"{side}{kind}"]) for side in ("ours", "peer"))
        lines.append(f"| {name} | {ours:.2f} | {peer:.2f} | {_cell(times, kind)} |")
    return [*lines, ""]


def _tiled_time(found: dict[str, Any]) -> list[str]:
    times = found["times"]
    return [
        _paragraph(
            f"""`medgen.tiles.tiled` against `monai.inferers.SlidingWindowInferer` under inference mode: MONAI's 3D
            BasicUNet (features {tuple(found["features"])}, {found["parameters"]:,} parameters), a float32 volume of
            {_size(found["shape"])}, windows of {found["window"]}³ overlapping by a quarter, one at a time, mean
            blending; both in one process, with the same memory settings."""
        ),
        *_sides(times),
        _paragraph(
            f"""{len(times["ours"])} pairs. Not slower (median of wall at most 1):
            {_verdict(ratio(times)["median"] <= 1)}. The network takes nearly all of the time, and is the same. Largest
            difference of the results {found["difference"]:.1e}, of values up to {found["largest value"]:.2f} (1e-4 at
            most: {_verdict(found["difference"] <= 1e-4)})."""
        ),
    ]


def _tiled_as_shipped(found: dict[str, Any]) -> list[str]:
    times = found["times"]
    return [
        _paragraph(
            f"""The same network and windows, from a volume file ({_size(found["shape"])}, int16) to the result, each
            side in a process of its own: ours with the memory settings that a run of MedGen starts with (large pages,
            where Linux has them: `medgen.jobs.Run`), MONAI's as Python comes. The difference is what a user of MONAI
            would gain by setting `THP_MEM_ALLOC_ENABLE=1`, not what another inferer would give."""
        ),
        *_sides(times),
        f"{len(times['ours'])} pairs.\n",
    ]


def _tiled_memory(found: dict[str, Any]) -> list[str]:
    lines = [
        "| network | windows | outputs | ours, MiB | MONAI, MiB | ours / MONAI | at most 0.7 | s, ours and MONAI |",
        "|---|---|---|---|---|---|---|---|",
    ]
    worst = 0.0
    for row in found["rows"]:
        peaks = {side: [one["peak"] / MEBIBYTE for one in row[side]] for side in ("ours", "peer")}
        share = _median(peaks["ours"]) / _median(peaks["peer"])
        worst = max(worst, *(abs(row["ours"][0][name] - row["peer"][0][name]) for name in ("mean", "deviation")))
        shown = {side: ", ".join(f"{value:.0f}" for value in values) for side, values in peaks.items()}
        seconds = ", ".join(f"{_median([one['wall'] for one in row[side]]):.0f}" for side in ("ours", "peer"))
        lines.append(
            f"| BasicUNet {tuple(row['features'])} | {row['window']}³ | {row['outputs']} | {shown['ours']} |"
            f" {shown['peer']} | **{share:.3f}** | {_verdict(share <= 0.7)} | {seconds} |"
        )
    further = []
    for row in found["rows"]:  # 4 bytes a voxel of one more output on either side
        ours, peer = (_median([one["peak"] for one in row[side]]) for side in ("ours", "peer"))
        output = 4 * int(np.prod(found["shape"]))
        further.append(f"{(ours + output) / (peer + output):.2f}")
    return [
        _paragraph(
            f"""Highest resident memory from just before the volume is loaded to the result, above the loaded model;
            each side in a fresh process, both with large pages. The volume ({_size(found["shape"])}, int16) is read
            from a file; MONAI's inferer needs it as float32, ours converts window by window, and needs no count for
            every voxel. Overlap of a quarter, mean blending."""
        ),
        *lines,
        "",
        _paragraph(
            f"""What ours holds is the volume (2 bytes a voxel), the output (4 bytes a voxel and channel) and what the
            network needs for one window; MONAI's holds 6 bytes a voxel more. What both need draws the ratio to 1:
            larger windows, wider networks, more outputs (one more would make it {" and ".join(further)}, by
            arithmetic). Mean and deviation of the outputs differ by {worst:.1e} at most."""
        ),
    ]


def _fast_mode(found: dict[str, Any]) -> list[str]:
    lines = [
        "| | times as fast (wall) | (processor) | MAE, HU | change of MAE |",
        "|---|---|---|---|---|",
        f"| plain, float32 | 1 | 1 | {found['mae']['plain']:.2f} | – |",
    ]
    names = {
        "skipping": "empty windows skipped, float32",
        "fast": f"`fast`: skipped, and {'bfloat16' if found['precision'] == 'bf16' else 'float32 (no bfloat16 here)'}",
    }
    for arm, name in names.items():
        cells = []
        for kind in ("", " processor"):
            one = {key: 1 / value for key, value in ratio(found["times"][arm], kind).items()}
            cells.append(f"**{one['median']:.2f}** ({one['upper quartile']:.2f} to {one['lower quartile']:.2f})")
        change = found["mae"][arm] / found["mae"]["plain"] - 1
        lines.append(f"| {name} | {' | '.join(cells)} | {found['mae'][arm]:.2f} | {change:+.2%} |")
    times = found["times"]["fast"]
    change = abs(found["mae"]["fast"] / found["mae"]["plain"] - 1)
    return [
        _paragraph(
            f"""Ours against ours: `apply` of frequency-mr-to-ct on {found["patients"]} held-out phantoms
            ({_size(found["shape"])} voxels), trained at the {found["tier"]} tier ({found["updates"]} updates); reading
            and writing of files is not timed."""
        ),
        *lines,
        "",
        _paragraph(
            f"""{len(times["ours"])} pairs with plain. At least 1.5 times as fast:
            {_verdict(1 / ratio(times)["median"] >= 1.5)}; MAE changed by 1 % at most: {_verdict(change <= 0.01)}."""
        ),
    ]


SECTIONS = {
    "tiled time": ("Tiled 3D inference: time", _tiled_time),
    "tiled as shipped": ("Tiled 3D inference: time, as shipped", _tiled_as_shipped),
    "tiled memory": ("Tiled 3D inference: memory", _tiled_memory),
    "fast mode": ("The fast mode of frequency-mr-to-ct", _fast_mode),
}
