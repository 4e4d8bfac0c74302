"""The verbs that look after what there is: `models`, `doctor` and `report`. They answer before torch is installed."""

from __future__ import annotations

import _thread
import argparse
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medgen import doctor, models, record
from medgen.errors import UserError
from medgen.files import printable
from medgen.speak import emitter


def add_verbs(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add them to the command line's parser."""
    sub = verb("models", _models, "The trained models of this user.")
    sub.add_argument("action", choices=["list", "import", "verify", "remove", "card"])
    sub.add_argument("model", nargs="?", help="a model's name or path; all of them where verify gets none")
    sub.add_argument("--name", help="the name to import under")
    sub.add_argument("--json", action="store_true")
    _add_parent(sub)
    sub = verb("doctor", _doctor, "Examine the installation.")
    sub.add_argument("--json", action="store_true")
    _add_parent(sub)
    sub = verb("report", _report, "Make the page and the tables of a batch anew from its records.")
    sub.add_argument("out", type=Path, metavar="OUT", help="the folder of the batch")
    _add_parent(sub)


def _add_parent(sub: argparse.ArgumentParser) -> None:
    """What a process that starts this one says (`medgen.jobs.Job`)."""
    sub.add_argument("--progress", choices=["json", "none"], default="none", help=argparse.SUPPRESS)
    sub.add_argument("--parent", action="store_true", help=argparse.SUPPRESS)


def _begin(args: argparse.Namespace) -> Callable[[dict[str, Any]], None]:
    """How to speak; from now on the parent's "cancel", or its end, interrupts the work as Ctrl-C does."""

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "cancel":
                break
        _thread.interrupt_main()

    if args.parent:
        threading.Thread(target=listen, daemon=True, name="medgen-parent").start()
    return emitter(args.progress)


def _models(args: argparse.Namespace) -> None:
    emit = _begin(args)
    if args.action == "list":
        _list(args.json)
    elif args.action == "verify":
        _verify(args, emit)
    elif not args.model:
        raise UserError(f"medgen models {args.action} needs a model; name it.")
    elif args.action == "import":
        folder = models.import_model(Path(args.model), args.name)
        emit({"event": "report", "folder": str(folder)})
        _print(args, str(folder))
    elif args.action == "remove":
        _print(args, f"removed {models.remove(args.model)}")
    else:
        from medgen import bundle

        _print(args, bundle.card(record.read(models.resolve(args.model))))


def _list(as_json: bool) -> None:
    found, bad = models.surveyed()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for one in found:
        print(
            f"{Path(one['folder']).name:<24} {one['slug']:<24} {one['bytes'] / 2**20:7.1f} MB  "
            f"{one.get('created', '')}  {one['digest'][:12]}"
        )
    for _, why in bad:
        print(f"! {printable(why)}")
    if not found and not bad:
        print(f"No models yet in {models.folder()}.")


def _verify(args: argparse.Namespace, emit: Callable[[dict[str, Any]], None]) -> None:
    """One model, or all of them; UserError names what is damaged."""
    wrong = []
    for folder in [models.resolve(args.model)] if args.model else [Path(one["folder"]) for one in models.listed()]:
        try:
            found = record.verify(folder)
        except UserError as error:
            wrong.append(str(error))
            continue
        emit({"event": "report", "folder": str(folder), "digest": found["digest"]})
        _print(args, f"{folder} is whole: {found['slug']}, digest {found['digest']}")
    wrong += [] if args.model else [why for _, why in models.unreadable()]
    if wrong:
        raise UserError(" ".join(wrong))


def _doctor(args: argparse.Namespace) -> None:
    emit = _begin(args)
    report = doctor.examine()
    text = doctor.text(report)
    emit({"event": "report", "ok": report["ok"], "text": text})
    _print(args, json.dumps(report, indent=1) if args.json else text)


def _report(args: argparse.Namespace) -> None:
    from medgen import casereport

    emit = _begin(args)
    path = casereport.renew(args.out)
    emit({"event": "report", "path": str(path.resolve())})
    _print(args, str(path))


def _print(args: argparse.Namespace, words: str) -> None:
    if args.progress != "json":
        print("\n".join(printable(line) for line in words.split("\n")))
