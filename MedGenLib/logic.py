"""Logic of the three modules: runs started from nodes, without a panel. No Qt; standard library, Slicer and medgen's
light part only, so that it loads before torch is installed.

    logic = MedGenLogic()
    drawn = {"image": ct, "mask": segmentation, "planes": planes}
    model = logic.process("multiplanar-unet", "train", drawn, wait=True)["model"]
    result = logic.process("multiplanar-unet", "apply", drawn, model=model, wait=True)["mask"]
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from medgen import catalog, models
from medgen.cli import CHECKPOINT
from medgen.errors import UserError
from MedGenLib import cases, frameruns, install, jobqueue, provenance, trainingcases
from MedGenLib.errors import MedGenLibError, RunError, plain
from MedGenLib.fileruns import FilesRun, hidden_beside
from MedGenLib.i18n import _
from MedGenLib.plan import Plan, as_list, export_inputs, node_pools, reference_role, roles_of, write_collection
from MedGenLib.runs import Event, MedGenRun, can_resume, free_name, said


class MedGenLogic:
    """Starts runs of any method of the catalog from nodes of the scene."""

    # --- what there is

    def methods(self, module: str) -> list[dict[str, Any]]:
        """Declarations of the methods that one module shows."""
        return [entry for entry in catalog.entries().values() if entry["module"] == module]

    def operation(self, slug: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """A method's and an operation's declarations; RunError names what there is."""
        try:
            return catalog.entry(slug), catalog.operation_entry(slug, name)
        except UserError as error:
            raise RunError(str(error)) from None

    def models(self, slug: str) -> list[dict[str, Any]]:
        """Records of the trained models of a method, newest first."""
        return [record for record in models.listed() if record["slug"] == slug]

    def remove_model(self, name: str) -> None:
        """Delete a trained model from the computer; RunError when there is none, or a job is to work with it."""
        place = _model_folder(name)
        for job in jobqueue.line().unfinished:
            if job.run is not None and job.run.plan.model == place:
                words = _("The model “{name}” is needed by a job that waits or runs ({title}); cancel that job first.")
                raise RunError(words.format(name=name, title=job.title))
        try:
            models.remove(name)
        except UserError as error:
            raise RunError(str(error)) from None
        except OSError as error:
            raise RunError(plain(error, error.filename or place)) from None

    # --- runs

    def process(
        self,
        slug: str,
        operation: str,
        inputs: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        *,
        tier: str | None = None,
        model: str | Path | None = None,
        name: str | None = None,
        cohort: str | Path | None = None,
        cases: list[Any] | None = None,
        frames: str = "current",
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
        previews: float | None = None,
        output: str | Path | None = None,
        start: bool = True,
        wait: bool = False,
        in_process: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> Any:
        """Run an operation.

        Args:
            slug, operation: a method of the catalog and what it is to do.
            inputs: role -> node, list of nodes, path of a file, or text (roles of kind Class). An operation that learns
                from several pools of one case each names them `pool.role`.
            settings: single settings that differ from the tier's.
            tier: "smoke", "demo" or "paper".
            model: name or folder of a trained model.
            name: how the resulting node, or the trained model, is called.
            cohort: CSV or collection.json, in place of inputs, for operations on a collection.
            cases: several cases of the scene, in place of inputs, for operations on a collection: dictionaries of
                role -> node or path beside "subject", "split" and, where there are several pools, "pool"; or
                `TrainingCase`s.
            frames: "current", or "all" for every frame of an image that a sequence browser plays, for operations on one
                case: the results are sequences that join that browser. What is no sequence serves every frame.
            precision: "auto", "32" or "bf16".
            previews: seconds between "preview" events of a training; none where it is left out.
            output: a folder that is not there yet, in one that is: the results are put there, and not into the scene.
            start: False prepares the run and writes its inputs, for somebody to start it later (`MedGenLib.jobqueue`).
            wait: block until it is done (no dialog); otherwise the run goes on in its own process.
            in_process: run inside this Python, with the same results; implies `wait`.
            on_event: called with every event of the run ("progress", "log", "metric", …).
        Returns:
            role -> node, list of nodes, or path (models, cohorts); the MedGenRun when not waited for.
        Raises:
            MedGenLibError: one sentence for the user; the scene is as before.
        """
        given, begin, remarks = inputs or {}, time.monotonic(), list[str]()
        log = _logger(on_event, remarks)
        if frames == "all":
            frameruns.check(self.operation(slug, operation)[1], given)
        elif frames != "current":
            raise RunError(_("“{frames}” is no choice of frames; say current or all.").format(frames=frames))
        plan, folder, keep = self._plan(slug, operation, given, name, cohort, log, cases=cases, output=output)
        options = {"name": name or "", "reference": _reference_node(plan.operation, given), "on_event": on_event}
        try:
            plan.settings, plan.tier, plan.device, plan.seed = dict(settings or {}), tier, device, seed
            plan.precision, plan.previews = precision, previews
            plan.model = _model_folder(model)
            if frames == "all":
                run: MedGenRun = frameruns.prepare(plan, folder, given, log=log, **options)
            elif output is not None:
                run = FilesRun(plan, folder, Path(output), on_event=on_event)
            else:
                run = MedGenRun(plan, folder, keep=keep, **options)
            if run.makes_nodes:
                chosen = {"tier": tier, "settings": plan.settings}
                run.context = provenance.context(plan.operation, given, frames, **chosen)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        log(_("Inputs written in {seconds:.2f} s.").format(seconds=time.monotonic() - begin))
        run.log += remarks
        if not start:
            return run
        if in_process:
            return run.perform_here()
        run.start()
        return run.wait() if wait else run

    def check(
        self,
        slug: str,
        operation: str,
        inputs: dict[str, Any],
        settings: dict[str, Any] | None = None,
        *,
        tier: str | None = None,
        model: str | Path | None = None,
        cohort: str | Path | None = None,
        device: str = "auto",
    ) -> MedGenRun:
        """Start a run that checks the inputs and estimates the time; its `estimate` is there once it is done."""
        plan, folder, _keep = self._plan(slug, operation, inputs, None, cohort, _logger(None, []), check=True)
        plan.settings, plan.tier, plan.device = dict(settings or {}), tier, device
        try:
            plan.model = _model_folder(model)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return MedGenRun(plan, folder, check=True).start()

    def _plan(
        self,
        slug: str,
        operation_name: str,
        inputs: dict[str, Any],
        name: str | None,
        cohort: str | Path | None,
        log: Callable[[str], None],
        check: bool = False,
        cases: list[Any] | None = None,
        output: str | Path | None = None,
    ) -> tuple[Plan, Path, bool]:
        """The plan, the folder of its files, and whether that folder outlives a run that did not end well."""
        entry, operation = self.operation(slug, operation_name)
        install.require()
        makes_model = [role["kind"] for role in operation["outputs"]] == ["Model"]
        resumable = makes_model and not check
        model_name = _model_name(name, slug) if resumable else ""
        if resumable:
            folder = models.home() / "runs" / model_name
        else:
            folder = _temporary_folder() if output is None else hidden_beside(Path(output))
        out = models.folder() / model_name if resumable else folder / "results"
        plan = Plan(entry, operation, out)
        if cohort is not None:
            plan.cohort = Path(cohort).resolve()
            return plan, folder, False
        shutil.rmtree(folder / "inputs", ignore_errors=True)
        try:
            if cases is not None:
                given = trainingcases.as_cases(operation, cases)
                plan.cohort = trainingcases.export_cases(operation, given, folder / "inputs", log)
                return plan, folder, resumable
            files = export_inputs(operation, inputs, folder / "inputs", log)
            if operation["scope"] == "collection":
                if not node_pools(operation):
                    raise RunError(
                        _("“{title}” needs several tables of cases; give it a collection.json.").format(
                            title=operation["title"]
                        )
                    )
                plan.cohort = write_collection(operation, files, folder / "inputs")
                trainingcases.write_origins(folder / "inputs", trainingcases.origins_of(files, inputs))
            else:
                plan.files = files
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return plan, folder, resumable

    # --- interrupted trainings

    def interrupted(self, slug: str) -> list[str]:
        """Names of the models whose training was interrupted and can go on; the one that went on last is the last."""
        found = []
        for file in models.folder().glob("*.training/job.json"):
            name = file.parent.name.removesuffix(".training")
            try:
                job = json.loads(file.read_text("utf-8"))
                ready = job["method"] == slug and job["operation"] == "train" and Path(job["cohort"]).is_file()
                when = (file.parent / CHECKPOINT).stat().st_mtime_ns  # none: nothing to go on from
            except (OSError, ValueError, KeyError, TypeError):
                continue
            in_line = jobqueue.line().holds(models.home() / "runs" / name)
            if ready and not in_line and not (models.folder() / name).exists():
                found.append((when, name))
        return [name for _when, name in sorted(found)]

    def resume(
        self,
        name: str,
        *,
        previews: float | None = None,
        start: bool = True,
        on_event: Callable[[Event], None] | None = None,
    ) -> MedGenRun:
        """Let an interrupted training go on, with the settings and cases it was started with; `start` as for
        `process`."""
        file = models.folder() / f"{name}.training" / "job.json"
        try:
            job = json.loads(file.read_text("utf-8"))
            entry, operation = self.operation(job["method"], job["operation"])
            plan = Plan(entry, operation, models.folder() / name, resume=True, previews=previews)
            plan.cohort, plan.settings, plan.seed = Path(job["cohort"]), job["config"], job["seed"]
        except (OSError, ValueError, KeyError, TypeError):
            raise RunError(_("There is no interrupted training “{name}”; train anew.").format(name=name)) from None
        run = MedGenRun(plan, models.home() / "runs" / name, name=name, keep=True, on_event=on_event)
        return run.start() if start else run

    def discard(self, name: str) -> None:
        """Delete what an interrupted training left."""
        shutil.rmtree(models.folder() / f"{name}.training", ignore_errors=True)
        shutil.rmtree(models.home() / "runs" / name, ignore_errors=True)

    def free_model_name(self, slug: str) -> str:
        """A name that no model and no training has."""
        return _free_model_name(slug)

    # --- many cases

    def process_cases(
        self,
        slug: str,
        operation: str,
        given: list[cases.Case],
        settings: dict[str, Any] | None = None,
        *,
        output: str | Path | None = None,
        wait: bool = False,
        **options: Any,
    ) -> cases.CaseBatch:
        """Run an operation on many cases, one job of the line a case; a case that fails stops no other.

        Args:
            slug, operation, settings: as for `process`.
            given: the cases, as `MedGenLib.cases` finds them in a folder, a table or the subject hierarchy.
            output: a folder for the results, one folder a case; None loads them into the scene.
            wait: until all are through; otherwise somebody calls `jobqueue.line().tick()`, as an open panel does.
            options: tier, model, device, seed, as for `process`.
        Returns:
            The batch: its `rows()` say how each case went, `retry_failed()`, `save(path)`.
        Raises:
            RunError: there is no case, or the operation does not work case by case.
        """
        _entry, declared = self.operation(slug, operation)

        def prepare(case: cases.Case, name: str, target: Path | None) -> MedGenRun:
            inputs = case.inputs
            return self.process(slug, operation, inputs, settings, name=name, output=target, start=False, **options)

        batch = cases.CaseBatch(slug, declared, given, prepare, None if output is None else Path(output))
        batch.enter(jobqueue.line())
        if wait:
            batch.wait()
        return batch


def missing_inputs(operation: dict[str, Any], inputs: dict[str, Any]) -> list[str]:
    """Names of the roles that must be filled and are not."""
    return [
        role["name"] for role in roles_of(operation) if not role["optional"] and not as_list(inputs.get(role["name"]))
    ]


def _model_name(name: str | None, slug: str) -> str:
    if not name:
        return _free_model_name(slug)
    if not all(character.isascii() and (character.isalnum() or character in "-_") for character in name):
        raise RunError(_("“{name}” is not a usable model name; use letters, digits, - and _.").format(name=name))
    if (models.folder() / name).exists():
        raise RunError(_("A model “{name}” exists already; choose another name.").format(name=name))
    if jobqueue.line().holds(models.home() / "runs" / name):
        raise RunError(_("A model “{name}” is being trained already; choose another name.").format(name=name))
    if can_resume(models.folder() / name):  # before anything is written where its cases lie
        words = _("A training “{name}” was interrupted; press Resume or Discard, or choose another name.")
        raise RunError(words.format(name=name))
    return name


def _free_model_name(slug: str) -> str:
    """A name that no model, no training and no job in the line has."""
    line = jobqueue.line()
    return free_name(slug, models.folder(), lambda name: line.holds(models.home() / "runs" / name))


def _model_folder(model: str | Path | None) -> Path | None:
    if model is None:
        return None
    try:
        return models.resolve(str(model)).resolve()
    except UserError as error:
        raise RunError(str(error)) from None


def _reference_node(operation: dict[str, Any], inputs: dict[str, Any]) -> Any:
    name = reference_role(roles_of(operation))
    values = as_list(inputs.get(name)) if name else []
    return values[0] if values and not isinstance(values[0], (str, Path)) else None


def _temporary_folder() -> Path:
    base = getattr(getattr(slicer, "app", None), "temporaryPath", None)
    try:
        return Path(tempfile.mkdtemp(prefix="medgen-", dir=base or None))
    except OSError as error:
        raise MedGenLibError(
            _("No temporary folder can be made ({error}); free some disk space.").format(error=error.strerror)
        ) from None


def _logger(on_event: Callable[[Event], None] | None, kept: list[str]) -> Callable[[str], None]:
    """Says a sentence to whoever listens, and keeps it for the run's log."""

    def log(message: str) -> None:
        kept.append(message)
        if on_event is not None:
            on_event(said(message))

    return log
