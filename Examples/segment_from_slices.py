"""Segment a whole volume from a few drawn slices, without a window.

    Slicer --no-main-window --python-script Examples/segment_from_slices.py -- \
        --image ct.nrrd --mask drawn.seg.nrrd [--planes slice1.mrk.json …] --output whole.seg.nrrd [--tier demo]

MedGen's modules must be known to Slicer (installed, or their folders under Additional module paths); MedGen's Python
packages must be installed (the module's panel offers that). Nothing is asked: the script ends with 0, or with the exit
code of what went wrong (2: the input; 3: memory; 1: MedGen's own fault) and one sentence.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import slicer.util

try:
    import MedGenLib  # noqa: F401
except ImportError:  # Slicer has put only the modules' own folders on the path, or this is a checkout
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from MedGenLib.headless import finish, load, save, say
from MedGenLib.load import load_results
from MedGenLib.logic import MedGenLogic


def main(words: list[str]) -> int:
    """Load, train, apply, save; the exit code."""
    arguments = parse(words)
    inputs: dict[str, Any] = {
        "image": load(slicer.util.loadVolume, arguments.image),
        "mask": load(slicer.util.loadSegmentation, arguments.mask),
    }
    if arguments.planes:
        inputs["planes"] = [plane for path in arguments.planes for plane in load_results(path, "Plane", path.name)]
    logic = MedGenLogic()
    name = arguments.model or logic.free_model_name(arguments.method)
    model = logic.process(arguments.method, "train", inputs, tier=arguments.tier, name=name, wait=True, on_event=say)[
        "model"
    ]
    known = {role["name"] for role in logic.operation(arguments.method, "apply")[1]["inputs"]}
    given = {role: value for role, value in inputs.items() if role in known}
    result = logic.process(arguments.method, "apply", given, model=model, wait=True, on_event=say)["mask"]
    print(f"{save(result, arguments.output)} (model {name})")
    return 0


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Segment a whole volume from a few drawn slices.")
    parser.add_argument("--image", type=Path, required=True, help="the volume")
    parser.add_argument("--mask", type=Path, required=True, help="the structure, drawn on a few slices")
    parser.add_argument(
        "--planes", type=Path, nargs="+", help=".mrk.json files of the slices that are drawn completely"
    )
    parser.add_argument("--output", type=Path, required=True, help="the .seg.nrrd to write")
    parser.add_argument("--tier", default="demo", help="smoke, demo or paper")
    parser.add_argument("--method", default="multiplanar-unet", help="the method's slug")
    parser.add_argument("--model", help="how the trained model is called")
    return parser.parse_args(words)


if __name__ == "__main__":
    finish(main)
