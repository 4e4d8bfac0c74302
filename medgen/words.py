"""The words of the command line that several verbs share, and what they say. Standard library only."""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen.errors import UserError

if TYPE_CHECKING:
    from medgen.batch import Batch
    from medgen.jobs import Run


def add_inputs(sub: argparse.ArgumentParser) -> None:
    """The files of one case."""
    sub.add_argument(
        "-i", "--input", action="append", default=[], metavar="ROLE=PATH", help="an input; repeat for more"
    )


def add_run_options(sub: argparse.ArgumentParser, output: bool = True, previews: bool = True) -> None:
    """How a run is to be done. output: whether there is one file or folder to write; previews: a training to watch."""
    if output:
        sub.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder or file to write")
        sub.add_argument("--overwrite", action="store_true", help="allow an existing output to be replaced")
    sub.add_argument("--tier", help="preset: smoke, demo or paper")
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting; repeat for more"
    )
    sub.add_argument("--device", default="auto", help="auto, cpu or cuda")
    sub.add_argument("--precision", default="auto", choices=["auto", "32", "bf16"])
    sub.add_argument("--seed", type=int, default=0)
    if previews:
        sub.add_argument(
            "--previews",
            type=float,
            nargs="?",
            const=5.0,
            metavar="SECONDS",
            help="while it trains, write what the network gives for a validation case, SECONDS apart (default 5)",
        )
    sub.add_argument("--progress", choices=["auto", "json", "none"], default="auto")
    sub.add_argument("--parent", action="store_true", help=argparse.SUPPRESS)


def _pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(
                f"“{text}” after {option} is not of the form NAME=VALUE; write for example {option} image=scan.nii.gz."
            )
        pairs.append((key.strip(), value))
    return pairs


def inputs(args: argparse.Namespace) -> dict[str, list[str]]:
    """The paths given with -i, by role."""
    found: dict[str, list[str]] = {}
    for role, path in _pairs(getattr(args, "input", []), "-i"):
        found.setdefault(role, []).append(path)
    return found


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What was given with --set; a value is JSON where it can be read so, else the text."""
    found: dict[str, Any] = {}
    for key, text in _pairs(args.set, "--set"):
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def seed(args: argparse.Namespace) -> int:
    """--seed; UserError where it is negative."""
    if args.seed < 0:
        raise UserError(f"--seed {args.seed} is not possible; give 0 or more.")
    return int(args.seed)


def obey(run: Run | Batch, args: argparse.Namespace) -> None:
    """Stop when the terminal, the system or the parent says so."""
    from medgen.jobs import obey_parent

    if args.parent:
        obey_parent(run)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: run.cancel())
