"""The races' correctness parts at small sizes: both sides give the same, memory is what the arithmetic says, and the
page says what was found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_tools import ROOT

sys.path.insert(0, str(ROOT / "Testing" / "Benchmarks"))

import page
import races


def test_the_race_of_tiled_inference_compares_equal_results() -> None:
    found = races.tiled_time(True, 1, lambda text: None)
    assert found["difference"] < 1e-4 < found["largest value"]
    assert len(found["times"]["ours"]) == len(found["times"]["peer"]) >= 3


def test_the_full_race_is_run_with_monais_own_network() -> None:
    from monai.networks.nets import BasicUNet

    network = BasicUNet(3, 1, 2, features=races.FULL_FEATURES)
    assert sum(parameter.numel() for parameter in network.parameters()) == races.FULL_PARAMETERS


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_is_the_volume_the_output_and_one_window(tmp_path: Path) -> None:
    shape = (320, 300, 200)
    job = {"side": "ours", "volume": str(races.ct_like(shape, tmp_path / "volume.npy")), "window": 64, "overlap": 0.25}
    found = races.fresh({**job, "features": [], "outputs": 1, "threads": 1, "pages": True})
    voxels = np.prod(shape)
    held = (2 + 4) * voxels
    assert held < found["peak"] < held + 4 * voxels, (
        "a float32 copy of the volume, or a count map, would be 4 bytes more"
    )
    assert found["mean"] < -0.1 and found["deviation"] > 0.3


def test_a_side_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"nothing\.npy"):
        races.fresh(
            {"side": "ours", "volume": str(tmp_path / "nothing.npy"), "window": 8, "overlap": 0, "features": []}
            | {"outputs": 1, "threads": 1, "pages": False}
        )


def test_sides_run_in_turn_and_the_ratio_is_over_pairs() -> None:
    order: list[str] = []
    times = races.alternate(lambda: order.append("ours"), lambda: order.append("peer"), 3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert {len(values) for values in times.values()} == {3}
    slowing = {"ours": [1.0, 2.0, 4.0], "peer": [2.0, 4.0, 4.0]}
    found = races.ratio(slowing)
    assert (found["least"], found["median"], found["most"]) == (0.5, 0.5, 1.0)


def entry(found: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({"machine": page.machine(2), "seconds": 60.0, "found": found}))


def times(ours: float, peer: float) -> dict[str, list[float]]:
    return {"ours": [ours] * 3, "peer": [peer] * 3, "ours processor": [ours] * 3, "peer processor": [peer] * 3}


def test_the_page_gives_ratios_and_verdicts() -> None:
    slow = {"shape": (1, 2, 3), "window": 4, "times": times(1.2, 1), "features": (1, 2), "parameters": 3}
    row = {"features": (1, 2), "window": 4, "outputs": 1}
    measured = {"peak": 6 * 2**20, "wall": 1.0, "mean": 0.5, "deviation": 1.0}
    sides = {"ours": [measured], "peer": [{**measured, "peak": 10 * 2**20}]}
    fast = {"tier": "demo", "updates": 9, "patients": 2, "shape": (1, 2, 3), "precision": "bf16"}
    fast |= {"mae": {"plain": 100.0, "skipping": 100.0, "fast": 102.0}}
    text = page.markdown(
        {
            "tiled time": entry({**slow, "difference": 1e-6, "largest value": 2.0}),
            "tiled memory": entry({"shape": (2, 2, 2), "rows": [{**row, **sides}]}),
            "fast mode": entry({**fast, "times": {"skipping": times(1, 1.25), "fast": times(1, 2)}}),
        }
    )
    sections = dict(part.split("\n", 1) for part in text.split("## ")[1:])
    assert "**1.200**" in sections["Tiled 3D inference: time"]
    assert "at most 1): **does not hold**" in sections["Tiled 3D inference: time"].replace("\n", " ")
    assert "1e-4 at most: holds" in sections["Tiled 3D inference: time"].replace("\n", " ")
    assert sections["Tiled 3D inference: time, as shipped"].strip() == "Not measured."
    assert "| 6 | 10 | **0.600** | holds |" in sections["Tiled 3D inference: memory"]
    mode = sections["The fast mode of frequency-mr-to-ct"].replace("\n", " ")
    assert "**2.00**" in mode and "**1.25**" in mode and "+2.00%" in mode
    assert "1.5 times as fast: holds; MAE changed by 1 % at most: **does not hold**" in mode


def test_the_page_in_docs_is_what_the_kept_rows_say() -> None:
    kept = json.loads((ROOT / "Testing" / "Benchmarks" / "results.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8") == page.markdown(kept)
