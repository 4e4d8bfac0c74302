"""The command line: the same verbs for every method, made from the declarations in catalog.json.

argparse rather than typer, because `methods`, `card`, `models list` and `doctor` must answer before any package is
installed (the panel asks them), and one parser is less than two. Nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen import __version__, batchverb, catalog, models, ranks, upkeep, words
from medgen.errors import CANCELLED, DONE, OUR_FAULT, USER_FAULT, MedGenError, UserError
from medgen.files import printable
from medgen.speak import emitter

if TYPE_CHECKING:
    from medgen.bundle import Model
    from medgen.jobs import Run
    from medgen.method import Config, Method, Operation


CHECKPOINT = "checkpoint.pt"  # as medgen.training writes it; that module imports torch


# Full, over quota, forbidden, read-only: the disk is the user's to mend.
_USERS_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EACCES, errno.EPERM, errno.EROFS)
# Too long, in a circle, a file where a folder should be: names that cannot be.
_USERS_NAMES = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)


class Parser(argparse.ArgumentParser):
    """Usage errors are the user's: one sentence, exit code 2."""

    def error(self, message: str) -> Any:
        raise UserError(f"{message[:1].upper()}{message[1:]}; see medgen {self.prog.partition(' ')[2]} --help.")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be text in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    speak: Callable[[dict[str, Any]], None] = emitter("json" if _wants_json(arguments) else "none")
    try:
        args = parse(arguments)
        if ranks.count() > 1 and args.verb not in (_train, _run):
            raise UserError("Only a training runs in several processes; start this without torchrun.")
        return int(args.verb(args) or DONE)
    except MedGenError as error:
        return _ended(str(error), error.exit_code, speak)
    except KeyboardInterrupt:
        print("medgen: cancelled.", file=sys.stderr)
        return CANCELLED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.errno in _USERS_DISK:
            what = f"{error.filename or 'The disk'} cannot be written ({error.strerror})"
            return _ended(f"{what}; free space or choose another folder.", USER_FAULT, speak)
        if error.errno in _USERS_NAMES:
            return _ended(f"{error.filename} is not a usable name ({error.strerror}); change it.", USER_FAULT, speak)
        return _our_fault(error, speak)
    except Exception as error:
        if isinstance(error, ValueError) and "embedded null" in str(error):
            return _ended("A name among the options holds a NUL character; change it.", USER_FAULT, speak)
        if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # pathlib's, before Python 3.13
            return _ended(f"{error}: the link leads to itself; name another file.", USER_FAULT, speak)
        return _our_fault(error, speak)


def parse(arguments: list[str]) -> argparse.Namespace:
    """A command line, understood; UserError for what is wrong with it. Asked for help it prints it and ends."""
    return _parser().parse_args(arguments)


def _our_fault(error: BaseException, speak: Callable[[dict[str, Any]], None]) -> int:
    import traceback

    message = f"MedGen failed through its own fault ({type(error).__name__}: {error}); please report this with the log."
    return _ended(message, OUR_FAULT, speak, traceback.format_exc())


def _ended(message: str, code: int, speak: Callable[[dict[str, Any]], None], details: str = "") -> int:
    """Say why it ends, to who listens and on one line to who reads, of several processes only once; the exit code."""
    says, code = ranks.first_to_fail(code)
    if says:
        print(details, end="", file=sys.stderr)
        speak({"event": "error", "message": message, "code": code})
        print(f"medgen: {printable(message)}", file=sys.stderr, flush=True)
    return code


def _wants_json(arguments: list[str]) -> bool:
    return "--progress=json" in arguments or ["--progress", "json"] in [
        arguments[i : i + 2] for i in range(len(arguments))
    ]


# --- the parser ---------------------------------------------------------------------------------------------------


def _parser() -> Parser:
    parser = Parser(prog="medgen", description="Synthesise, segment and mark medical images. Research use only.")
    parser.add_argument("--version", action="version", version=f"medgen {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=Parser)

    def verb(name: str, function: Callable[[argparse.Namespace], int | None], help: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help)
        sub.set_defaults(verb=function)
        return sub

    sub = verb("methods", _methods, "List the methods.")
    sub.add_argument("--json", action="store_true", help="the whole catalog as JSON")
    sub.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    sub = verb("card", _card, "What a method does, needs and comes from.")
    sub.add_argument("slug")
    sub = verb("phantom", _phantom, "Make synthetic patients to try a method on.")
    sub.add_argument("slug", help="a method, or a phantom's name")
    sub.add_argument("-n", type=int, default=1, help="how many (default 1)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("-o", "--output", required=True, type=Path, metavar="DIR")
    sub = verb("train", _train, "Train a method on a cohort.")
    sub.add_argument("slug")
    sub.add_argument("cohort", type=Path, metavar="COHORT.csv")
    words.add_run_options(sub)
    sub.add_argument("--resume", action="store_true", help="go on where an interrupted training stood")
    sub = verb("apply", _apply, "Apply a trained model (or a method that needs none) to one case.")
    sub.add_argument("model", metavar="MODEL|SLUG")
    words.add_inputs(sub)
    words.add_run_options(sub)
    sub = verb("run", _run, "Run any operation of a method.")
    sub.add_argument("slug")
    sub.add_argument("operation")
    sub.add_argument("--model")
    sub.add_argument("--cohort", type=Path, metavar="COHORT.csv")
    words.add_inputs(sub)
    words.add_run_options(sub)
    sub.add_argument("--resume", action="store_true", help="go on where an interrupted run stood")
    sub = verb("check", _check, "Check inputs and estimate time, memory and disk without running.")
    sub.add_argument("target", metavar="SLUG|MODEL")
    sub.add_argument("cohort", type=Path, nargs="?", metavar="COHORT.csv")
    sub.add_argument("--operation")
    words.add_inputs(sub)
    words.add_run_options(sub, output=False)
    sub = verb("evaluate", _evaluate, "Measure a model on a cohort with references.")
    sub.add_argument("model", metavar="MODEL|SLUG")
    sub.add_argument("cohort", type=Path, metavar="COHORT.csv")
    sub.add_argument("--operation", default="apply")
    sub.add_argument("--json", action="store_true")
    words.add_run_options(sub, output=False)
    batchverb.add_verb(verb)
    sub = verb("demo", _demo, "Try a method on a synthetic patient: train, apply, measure, picture.")
    sub.add_argument("slug", nargs="?", default="multiplanar-unet")
    sub.add_argument("-o", "--output", type=Path, default=Path("medgen-demo"), metavar="DIR")
    words.add_run_options(sub, output=False)
    upkeep.add_verbs(verb)
    return parser


# --- a run ---------------------------------------------------------------------------------------------------------


def _make_run(args: argparse.Namespace, folder: Path) -> Run:
    from medgen.jobs import Run, obey_torchrun

    run = Run(
        folder,
        device=args.device,
        seed=words.seed(args),
        precision=args.precision,
        resume=getattr(args, "resume", False) or ranks.restarted(),
        previews=args.previews,
        emit=emitter(args.progress),
    )
    words.obey(run, args)
    if ranks.count() > 1:
        obey_torchrun(run)
    return run


def _say_done(run: Run, written: list[tuple[str, Path]], args: argparse.Namespace) -> None:
    run.emit({"event": "done", "folder": str(args.output.resolve())})
    if args.progress != "json":
        for role, path in written:
            print(f"{role}: {printable(str(path))}")


# --- what is meant ------------------------------------------------------------------------------------------------


def _target(name: str, operation: str | None, default: str) -> tuple[Method, Operation, Model | None]:
    """A method (by slug) or a trained model (by name or path), and the operation meant."""
    if name in catalog.entries() and not os.path.exists(Path(name) / "medgen.json"):
        method = catalog.load(name)
        return method, method.operation(operation or default), None
    if not os.path.exists(name) and not os.path.exists(models.folder() / name) and os.sep not in name:
        catalog.entry(name)  # says which slug is near
    from medgen import bundle

    model = bundle.load(models.resolve(name))
    method = catalog.load(model.slug)
    return method, method.operation(operation or "apply"), model


def _model(name: str | None, method: Method) -> Model | None:
    from medgen import bundle

    return None if name is None else bundle.load(models.resolve(name), expect=method.slug)


def _config(operation: Operation, args: argparse.Namespace, default_tier: str = "demo") -> Config:
    tier = args.tier or (default_tier if operation.tiers else None)
    return operation.configure(tier, words.settings(args))


# --- verbs --------------------------------------------------------------------------------------------------------


def _methods(args: argparse.Namespace) -> None:
    if args.write:
        catalog.PATH.write_text(catalog.build(), encoding="utf-8")
    entries = catalog.entries()
    if args.json:
        print(json.dumps(list(entries.values()), indent=1, ensure_ascii=False))
        return
    for entry in entries.values():
        print(f"{entry['slug']:<26} {entry['module'].removeprefix('MedGen'):<13} {entry['sentence']}")


def _card(args: argparse.Namespace) -> None:
    entry = catalog.entry(args.slug)
    print(f"{entry['title']} ({entry['slug']})\n{entry['sentence']}\n")
    print(f"Paper:  {entry['citation']}\n        {entry['url']}")
    for key in ("needs", "limits"):
        if entry[key]:
            print(f"{key.capitalize() + ':':<8}{entry[key]}")
    if entry["carries_patient_data"]:
        print("Note:   its models carry a reference image: treat them as patient data.")
    print("Research use only. Not for clinical use.\n")
    for operation in entry["operations"]:
        print(f"{operation['name']}: {operation['help']}")
        for pool in operation["pools"]:
            print(f"  pool {pool['name']}{' (optional)' if pool['optional'] else ''}: {pool['help']}")
            _print_roles(pool["roles"], "    column")
        _print_roles(operation["inputs"], "  in ")
        _print_roles(operation["outputs"], "  out")
        for setting in operation["settings"]:
            paper = f", paper {setting['paper']}" if "paper" in setting else ""
            unit = f" {setting['unit']}" if setting.get("unit") else ""
            print(f"  --set {setting['name']}={setting['default']}{unit}: {setting['help']}{paper}")


def _print_roles(roles: list[dict[str, Any]], before: str) -> None:
    for role in roles:
        words = [role["modality"], role["dims"] if role["kind"] in ("Image", "Mask") else None, role["kind"]]
        notes = [word for word in ("optional", "many") if role[word]]
        print(
            f"{before} {role['name']}: {' '.join(w for w in words if w)}"
            f"{' (' + ', '.join(notes) + ')' if notes else ''}: {role['help']}"
        )


def _phantom(args: argparse.Namespace) -> None:
    from medgen import phantoms

    names = catalog.entry(args.slug)["phantoms"] if args.slug in catalog.entries() else [args.slug]
    if not names or names[0] not in phantoms.PHANTOMS:
        raise UserError(f"There is no phantom for “{args.slug}”; the phantoms are: {', '.join(phantoms.PHANTOMS)}.")
    if args.n < 1:
        raise UserError(f"-n {args.n} is not possible; ask for one patient or more.")
    print(printable(str(phantoms.write(phantoms.PHANTOMS[names[0]], args.n, args.seed, args.output))))


def _train(args: argparse.Namespace) -> None:
    method = catalog.load(args.slug)
    _operate(args, method, method.operation("train"), None, cohort=args.cohort)


def _apply(args: argparse.Namespace) -> None:
    method, operation, model = _target(args.model, None, "apply")
    _operate(args, method, operation, model)


def _run(args: argparse.Namespace) -> None:
    method = catalog.load(args.slug)
    _operate(args, method, method.operation(args.operation), _model(args.model, method), cohort=args.cohort)


def _operate(
    args: argparse.Namespace, method: Method, operation: Operation, model: Model | None, cohort: Path | None = None
) -> None:
    from medgen import execute
    from medgen.method import Kind

    config = _config(operation, args)
    files = words.inputs(args)
    cases = [files] if operation.scope != "set" else _one_case_a_file(files)
    keeps = operation.scope in ("collection", "nothing")
    if ranks.count() > 1 and not any(role.kind is Kind.MODEL for role in operation.outputs):
        raise UserError(f"“{operation.name}” is not a training, and runs in one process; start it without torchrun.")
    with tempfile.TemporaryDirectory(prefix="medgen-", ignore_cleanup_errors=True) as scratch:
        output = args.output.resolve()
        folder = output.with_name(output.name + ".training") if keeps else Path(scratch)
        run = _make_run(args, folder)
        if keeps and ranks.first():
            _remember(run, method, operation, config, cohort, args.overwrite)
        try:
            written = execute.perform(
                method,
                operation,
                config,
                run,
                args.output,
                files=cases,
                collection=cohort,
                model=model,
                overwrite=args.overwrite,
            )
        except BaseException:
            if keeps and ranks.first() and not (folder / CHECKPOINT).exists():  # nothing worth resuming
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if not ranks.first():
            return
        if keeps:
            shutil.rmtree(folder, ignore_errors=True)
        _say_done(run, written, args)


def _one_case_a_file(files: dict[str, list[str]]) -> list[dict[str, list[str]]]:
    count = max((len(paths) for paths in files.values()), default=0)
    for role, paths in files.items():
        if len(paths) != count:
            raise UserError(
                f"Role “{role}” has {len(paths)} files where another has {count}; give every role once a case."
            )
    return [{role: [paths[index]] for role, paths in files.items()} for index in range(count)]


def _remember(
    run: Run, method: Method, operation: Operation, config: Config, cohort: Path | None, overwrite: bool
) -> None:
    """Note in the run's folder what it is a run of; a resume of something else is the user's mistake."""
    job = {
        "method": method.slug,
        "operation": operation.name,
        "config": config.model_dump(mode="json"),
        "seed": run.seed,
        "cohort": None if cohort is None else str(cohort.resolve()),
        "data": None if cohort is None else _fingerprint(cohort, operation),
        "number of processes": ranks.count(),
    }
    file = run.folder / "job.json"
    if run.resume and file.exists():
        try:
            before = {"number of processes": 1, **json.loads(file.read_text("utf-8"))}
        except (OSError, ValueError, TypeError):
            raise UserError(f"{file} is damaged; start anew without --resume.") from None
        changed = [key for key in job if before.get(key) != job[key]]
        if changed:
            raise UserError(
                f"{run.folder} is a run with another {' and '.join(changed)}; "
                "resume with the same, or start anew without --resume."
            )
        return
    if run.folder.exists() and not file.exists() and any(run.folder.iterdir()):
        raise UserError(f"{run.folder} is in the way and not a run of MedGen's; rename it or choose another output.")
    if not run.resume and run.folder.exists():
        if (run.folder / CHECKPOINT).exists() and not overwrite:
            raise UserError(
                f"{run.folder} holds an interrupted run; go on with --resume, or discard it with --overwrite."
            )
        shutil.rmtree(run.folder)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(job), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise UserError(
            f"Output folder {run.folder.parent} cannot be written to ({error.strerror}); choose another."
        ) from None


def _fingerprint(path: Path, operation: Operation) -> str:
    """Which cases a run learns from: a digest of its tables' rows with size and time of every file they name."""
    from medgen import cohort

    digest = hashlib.sha256()
    for name, rows in cohort.read_collection(path, operation).pools.items():
        for row in rows:
            digest.update(repr((name, row.columns(), sorted(row.files.items()))).encode())
            for file in (Path(text) for texts in row.files.values() for text in texts):
                if os.path.isfile(file):  # a class may be any text
                    digest.update(repr((file.stat().st_size, file.stat().st_mtime_ns)).encode())
    return digest.hexdigest()


def _check(args: argparse.Namespace) -> None:
    from medgen import execute, markups
    from medgen.rescue import free_memory

    method, operation, model = _target(args.target, args.operation, "train" if args.cohort else "apply")
    config = _config(operation, args)
    with tempfile.TemporaryDirectory(prefix="medgen-") as scratch:
        run = _make_run(args, Path(scratch))
        result = execute.estimate(
            method, operation, config, run, files=[words.inputs(args)], collection=args.cohort, model=model
        )
        notes = list(result.notes)
        if model is not None and model.patient_data:
            notes.append("This model carries patient data (a reference image); do not pass it on without consent.")
        run.emit(
            {
                "event": "estimate",
                "seconds": round(result.seconds, 1),
                "memory_bytes": result.memory_bytes,
                "memory_free_bytes": free_memory(run.device),
                "disk_bytes": result.disk_bytes,
                "device": str(run.device),
                "notes": notes,
                "suggested": {name: markups.as_json(value) for name, value in result.suggested.items()},
            }
        )
        run.emit({"event": "done", "folder": ""})
    if args.progress != "json":
        print(f"{operation.title}: the inputs are fit for it.")
        print(
            f"Time about {_duration(result.seconds)} on {run.device}, memory about "
            f"{result.memory_bytes / 2**30:.1f} GB, disk about {result.disk_bytes / 2**20:.0f} MB."
        )
        for note in notes:
            print(f"- {note}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _evaluate(args: argparse.Namespace) -> None:
    from medgen import execute

    method, operation, model = _target(args.model, args.operation, args.operation)
    if operation.needs_model and model is None:
        raise UserError(f"“{args.model}” must be trained before it is evaluated; name a model that medgen train wrote.")
    with tempfile.TemporaryDirectory(prefix="medgen-") as scratch:
        run = _make_run(args, Path(scratch))
        results = execute.evaluate(method, model, args.cohort, _config(operation, args), run, operation.name)
    mean = execute.summary(results)
    if args.json:
        print(json.dumps({"model": args.model, "cases": results, "mean": mean}, indent=1))
        return
    for row in results:
        print("  ".join(f"{key} {value:.4f}" if isinstance(value, float) else str(value) for key, value in row.items()))
    print("mean  " + "  ".join(f"{key} {value:.4f}" for key, value in mean.items()))


def _demo(args: argparse.Namespace) -> None:
    from medgen import demo

    began = time.time()
    run = _make_run(args, args.output)
    for line in demo.run(args.slug, args.output, run, args.tier or "demo", words.settings(args)):
        print(line, flush=True)
    print(f"Done in {_duration(time.time() - began)}. Everything is in {args.output}.")
