"""Run any operation of any method without a window: files in, files out, through Slicer's own scene.

    Slicer --no-main-window --python-script Examples/run_method.py -- SLUG OPERATION \
        -i ROLE=FILE … [--cohort cases.csv] [--model NAME] [--name NAME] [--tier demo] [--set KEY=VALUE …] -o OUT

For example, a synthetic CT from an MR with a model that was trained before, and the training itself:

    … -- frequency-mr-to-ct train --cohort pairs.csv --name my-heads
    … -- frequency-mr-to-ct apply --model my-heads -i mr=t1.nii.gz -o ct.nrrd
    … -- one-shot-landmarks train -i reference.image=a.nrrd -i reference.mask=a.seg.nrrd \
        -i reference.landmarks=a.mrk.json -i validation.image=b.nrrd -i validation.mask=b.seg.nrrd --name ear
    … -- one-shot-landmarks apply --model ear -i image=c.nrrd -o c.mrk.json

OUT is the file of the one result, or a folder where an operation gives several. Trained models stay in MedGen's own
folder and are named with --name. The script asks nothing and ends with 0, or with the exit code of what went wrong
(2: the input; 3: memory; 1: MedGen's own fault) and one sentence.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

try:
    import MedGenLib  # noqa: F401
except ImportError:  # Slicer has put only the modules' own folders on the path, or this is a checkout
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from MedGenLib.errors import RunError
from MedGenLib.headless import ENDINGS, finish, save, say
from MedGenLib.logic import MedGenLogic


def main(words: list[str]) -> int:
    """Run and save; the exit code."""
    arguments = parse(words)
    logic = MedGenLogic()
    operation = logic.operation(arguments.method, arguments.operation)[1]
    makes_model = [role["kind"] for role in operation["outputs"]] == ["Model"]
    if not makes_model and arguments.output is None:
        raise RunError("Say with -o where the result goes.")
    if arguments.output is not None and arguments.output.exists() and not arguments.output.is_dir():
        raise RunError(f"{arguments.output} exists already; choose another output.")
    inputs: dict[str, Any] = {}
    for role, path in pairs(arguments.input):
        inputs.setdefault(role, []).append(path)
    results = logic.process(
        arguments.method,
        arguments.operation,
        inputs,
        {key: value(text) for key, text in pairs(arguments.set)},
        cohort=arguments.cohort,
        model=arguments.model,
        name=arguments.name,
        tier=arguments.tier if arguments.tier in operation["tiers"] else None,
        device=arguments.device,
        precision=arguments.precision,
        seed=arguments.seed,
        wait=True,
        on_event=say,
    )
    if makes_model:
        print(f"model {results['model'].name}")
        return 0
    single = len(results) == 1 and arguments.output.suffix != ""
    for role in operation["outputs"]:
        if role["name"] in results:
            target = arguments.output if single else arguments.output / (role["name"] + ENDINGS[role["kind"]])
            print(save(results[role["name"]], target))
    return 0


def pairs(texts: list[str]) -> list[tuple[str, str]]:
    """NAME=VALUE words, split."""
    for text in texts:
        if "=" not in text:
            raise RunError(f"“{text}” is not of the form NAME=VALUE; write for example -i mr=t1.nii.gz.")
    return [(text.partition("=")[0], text.partition("=")[2]) for text in texts]


def value(text: str) -> Any:
    """A setting's value: JSON where it is, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run an operation of a MedGen method.")
    parser.add_argument("method", help="the method's slug")
    parser.add_argument("operation", help="train, apply or another of its operations")
    parser.add_argument("-i", "--input", action="append", default=[], metavar="ROLE=FILE", help="repeat for more")
    parser.add_argument("--cohort", type=Path, help="CSV or collection.json to learn from")
    parser.add_argument("--model", help="a trained model's name")
    parser.add_argument("--name", help="how a trained model is to be called")
    parser.add_argument("--tier", default="demo", help="smoke, demo or paper")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", default="auto", choices=["auto", "32", "bf16"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="file of the result, or a folder for several")
    return parser.parse_args(words)


if __name__ == "__main__":
    finish(main)
