"""The verb `batch`. Standard library only, until it is given."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from medgen import words
from medgen.errors import DONE, UserError
from medgen.speak import emitter


def add_verb(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add it to the command line's parser."""
    sub = verb(
        "batch", _batch, "Apply a model or a method to every case of a cohort; a second start does what is missing."
    )
    sub.add_argument("model", metavar="MODEL|SLUG")
    sub.add_argument("cohort", type=Path, metavar="COHORT", help="a CSV, or a folder of images and DICOM")
    sub.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="folder of the batch")
    sub.add_argument("--operation", help="default: apply")
    sub.add_argument("--workers", type=int, help="processes on this machine (default: one a processor, or one a GPU)")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="the Dask cluster to use, as tcp://host:8786")
    sub.add_argument("--retry", type=int, default=0, metavar="K", help="tries again for a case whose worker failed")
    sub.add_argument("--limit-memory", metavar="SIZE", help="end a worker that takes more, as 8GiB")
    sub.add_argument("--redo", choices=["changed", "all"], help="do finished cases anew: changed ones, or all")
    sub.add_argument("--patient-names", action="store_true", help="let names and records tell whose DICOM it is")
    words.add_run_options(sub, output=False, previews=False)


def _batch(args: argparse.Namespace) -> int:
    from medgen import batch, engine

    if (args.workers is not None and args.workers < 1) or args.retry < 0:
        raise UserError("--workers takes 1 or more, --retry 0 or more; mend them.")
    if args.scheduler and (args.workers or args.limit_memory):
        raise UserError(
            "--workers and --limit-memory are for this machine, --scheduler for a cluster; give one of them."
        )
    limit = None if args.limit_memory is None else engine.parse_size(args.limit_memory)
    one = batch.Batch(
        target=args.model,
        cohort=args.cohort,
        out=args.output,
        operation=args.operation,
        tier=args.tier,
        settings=words.settings(args),
        device=args.device,
        precision=args.precision,
        seed=words.seed(args),
        redo=args.redo,
        patient_names=args.patient_names,
        request=engine.Request(args.workers, args.scheduler, args.retry, limit, args.device),
        emit=emitter(args.progress),
    )
    words.obey(one, args)
    page = one.run()
    one.emit({"event": "done", "folder": str(args.output.resolve())})
    if args.progress != "json":
        print(f"report: {page}")
    return DONE
