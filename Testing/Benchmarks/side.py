"""One side of a race of tiled inference, in a process of its own: `python side.py '{"side": "ours", …}'`.

It prints, as JSON, its seconds and its memory: the highest resident from just before the volume is loaded until the
result is there, less what was resident then (the interpreter, the libraries, the loaded model).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (the highest) of this process, bytes. Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Peak bytes above the loaded model, seconds of wall and processor, and mean and deviation of the output.

    job: side ("ours" or "peer"), volume (.npy, int16), window (a side), overlap, features of a BasicUNet (none: the
    network is the identity, and MONAI is not loaded), outputs, threads.
    """
    import numpy as np
    import torch

    from medgen.tiles import tiled

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    network: Any = torch.nn.Identity()
    if job["features"]:
        from monai.inferers import SlidingWindowInferer
        from monai.networks.nets import BasicUNet

        network = BasicUNet(3, 1, job["outputs"], features=job["features"]).eval()
    window = (job["window"],) * 3
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from now on
    began, spent = time.monotonic(), time.process_time()
    volume = torch.from_numpy(np.load(job["volume"]))

    def scaled(inputs: torch.Tensor) -> torch.Tensor:
        return network(inputs / 1000)

    if job["side"] == "ours":
        result = tiled(scaled, volume[None], window=window, overlap=job["overlap"], channels=job["outputs"])
    else:
        image = volume.to(torch.float32)[None, None]
        del volume
        with torch.inference_mode():
            result = SlidingWindowInferer(window, sw_batch_size=1, overlap=job["overlap"])(image, scaled)[0]
    peak = resident("VmHWM") - before
    wall, processor = time.monotonic() - began, time.process_time() - spent
    part = result[:, ::7, ::7, ::7].double()
    return {
        "peak": peak,
        "wall": wall,
        "processor": processor,
        "mean": float(part.mean()),
        "deviation": float(part.std()),
    }


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    if task["pages"]:  # as a run of MedGen has them; torch reads this at its first allocation
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    print(json.dumps(measure(task)))
