"""The panel of the three modules, made from the catalog's declarations; it says what a person can do and why not.

Everything chosen lives in the module's parameter node. The panel writes it there, and shows what is there: whoever
changes the node (a loaded scene, a script) changes the panel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import qt
import slicer
import slicer.util
import vtk

from medgen import models
from MedGenLib import cards, install, jobqueue, rooms, trainingcases
from MedGenLib.attendant import PanelJobs, attend, in_line_tip, in_line_title
from MedGenLib.errors import MedGenLibError
from MedGenLib.estimate import Estimator
from MedGenLib.i18n import _
from MedGenLib.logic import MedGenLogic, missing_inputs
from MedGenLib.panelruns import PanelRuns
from MedGenLib.parameters import Parameters
from MedGenLib.plan import reference_role, roles_of
from MedGenLib.sections import ApplySection, MethodSection, RunSection, TrainSection, fill, section
from MedGenLib.sections import text_label as label
from MedGenLib.selectors import RoleSelectors, shown_as_slices
from MedGenLib.settingspanel import SettingsPanel
from MedGenLib.slices import AnnotatedSlices


class MedGenPanel(PanelRuns, slicer.util.VTKObservationMixin):
    """Widgets of one module. `module`: whose methods are shown; `parameter_node()` gives the module's node."""

    def __init__(self, layout: Any, module: str, logic: MedGenLogic, parameter_node: Callable[[], Any]) -> None:
        slicer.util.VTKObservationMixin.__init__(self)
        PanelRuns.__init__(self, logic.methods(module), parameter_node)
        self.logic = logic
        attend()
        told = (self._on_run_begin, self._on_run_events, self._on_run_end, self._say_failed, self._say_cancelled)
        self.poller = PanelJobs(*told)
        self.estimator = Estimator(logic, self._on_estimate)
        self._built_for: tuple[str, str] | None = None
        self._missing_packages = install.missing()
        self._shown: Any = None  # the run whose progress is shown
        self._entered = False
        self._frozen = False
        self._closed = False
        self._on_disk: dict[tuple[str, int], tuple[list[dict[str, Any]], list[str]]] = {}
        self.selectors: RoleSelectors | None = None
        self.slices: AnnotatedSlices | None = None
        self.rooms: list[rooms.Room] = []
        self.empty = label(
            _("This module has no method yet. MedGen grows paper by paper; this room waits for its first.")
        )
        self.body = qt.QWidget()
        layout.addWidget(self.empty)
        layout.addWidget(self.body)
        self.empty.setVisible(not self.entries)
        self.body.setVisible(bool(self.entries))
        self._build(qt.QVBoxLayout(self.body))
        layout.addStretch(1)
        scene = slicer.mrmlScene
        for event in (scene.StartCloseEvent, scene.StartImportEvent):
            self.addObserver(scene, event, self._on_scene_about_to_change)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self._on_scene_changed)
        self.addObserver(scene, scene.NodeRemovedEvent, self._on_parameters)
        self._observe_parameters()
        self.poller.adopt(self.entries)
        self.refresh()

    def _build(self, layout: Any) -> None:
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        self.method = MethodSection(layout, list(self.entries.values()), self._on_method)
        self.packages = qt.QWidget()
        row = qt.QHBoxLayout(self.packages)
        row.setContentsMargins(0, 0, 0, 0)
        self.packages_text = label()
        self.install_button = qt.QPushButton(_("Install…"))
        self.install_button.connect("clicked(bool)", self._on_install)
        row.addWidget(self.packages_text, 1)
        row.addWidget(self.install_button)
        layout.addWidget(self.packages)
        self.inputs_button, self._inputs = section(_("Inputs"), layout)
        self.settings = SettingsPanel(layout, self._on_tier, self._on_device, self._on_setting)
        self.train = TrainSection(layout)
        self.train.source.connect("currentIndexChanged(int)", self._on_source)
        self.train.cohort.connect("currentPathChanged(QString)", self._text_writer("cohort"))
        self.train.name.connect("textChanged(QString)", self._text_writer("name"))
        self.train.train.connect("clicked(bool)", self._on_train)
        self.train.resume.connect("clicked(bool)", self._on_resume)
        self.train.discard.connect("clicked(bool)", self._on_discard)
        self.rooms += rooms.before_apply(self, layout)
        self.apply = ApplySection(layout)
        self.apply.operation.connect("currentIndexChanged(int)", self._on_operation)
        self.apply.frames.connect("currentIndexChanged(int)", self._on_frames)
        self.apply.model.connect("currentIndexChanged(int)", self._on_model)
        self.apply.delete.connect("clicked(bool)", self._on_delete)
        self.apply.cohort.connect("currentPathChanged(QString)", self._text_writer("apply cohort"))
        self.apply.output.connect("currentNodeChanged(vtkMRMLNode*)", self._on_output)
        self.apply.apply.connect("clicked(bool)", self._on_apply)
        self.run = RunSection(layout)
        self.run.cancel.connect("clicked(bool)", self._on_cancel)
        self.rooms += rooms.below(self, layout)

    # --- showing it

    def _observe_parameters(self) -> None:
        node = self._parameter_node()
        if not self.hasObserver(node, vtk.vtkCommand.ModifiedEvent, self._on_parameters):
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._on_parameters)

    def _on_parameters(self, caller: Any = None, event: Any = None) -> None:
        self.refresh_if_settled()

    def refresh_if_settled(self) -> None:
        """Refresh, but not while a scene is being closed or read: that is done when it is over."""
        if not self._frozen and not slicer.mrmlScene.IsBatchProcessing():
            self.refresh()

    def _on_scene_about_to_change(self, caller: Any = None, event: Any = None) -> None:
        self._freeze(True)

    def _on_scene_changed(self, caller: Any = None, event: Any = None) -> None:
        # Later, when the node selectors have also heard of it: what they lose meanwhile is not the person's choice.
        qt.QTimer.singleShot(0, self._thaw)

    @property
    def frozen(self) -> bool:
        """Whether the scene changes under the selectors: what they lose meanwhile is not the person's choice."""
        return self._frozen

    def _freeze(self, frozen: bool) -> None:
        self._frozen = frozen
        if self.selectors is not None:
            self.selectors.frozen = frozen

    def _thaw(self) -> None:
        if self._closed:
            return
        self._freeze(False)
        self._observe_parameters()
        self.estimator.drop()
        self.refresh()

    def refresh(self) -> None:
        """Show the parameter node, and what can be done with it."""
        if not self.entries:
            return
        operation = self.operation
        names = ",".join(role["name"] for role in self.roles())
        wanted = (self.entry["slug"], f"{operation['name'] if operation else ''}:{names}")
        if self._built_for != wanted:
            self._built_for = wanted
            self._rebuild()
        parameters = self.parameters()
        assert self.selectors is not None
        self.selectors.show(parameters)
        if self.slices is not None:
            self.slices.show()
        self.settings.show(self.tier, parameters)
        self._show_training(parameters)
        self._show_operation(parameters)
        self.packages.setVisible(bool(self._missing_packages))
        self.packages_text.text = _("Not installed yet: {names}.").format(names=", ".join(self._missing_packages))
        self._estimate()
        for room in self.rooms:
            try:
                room.refresh()
            except Exception:  # what one room does wrong is reported and keeps no other from showing what is so
                sys.excepthook(*sys.exc_info())
        self.show_what_is_possible()

    def _rebuild(self) -> None:
        """New selectors for another method or operation."""
        self.method.show(self.entry)
        for old in (self.selectors, self.slices):
            if old is not None:
                self._inputs.removeWidget(old.widget)
                old.widget.hide()
                old.widget.deleteLater()
        self.inputs_button.setVisible(bool(self.roles()))
        self.selectors = RoleSelectors(self.roles(), self.parameters)
        self._inputs.addWidget(self.selectors.widget)
        marked = next((role for role in self.roles() if shown_as_slices(role)), None)
        self.slices = None if marked is None else AnnotatedSlices(marked, self.parameters, self._reference)
        if self.slices is not None:
            self._inputs.addWidget(self.slices.widget)
        self.settings.build(self.entry, [one for one in (self.training, self.operation) if one is not None])
        titles = [str(one["title"]) for one in self.others]
        fill(self.apply.operation, titles, self.others.index(self.operation) if self.operation else -1)

    def _reference(self) -> Any:
        return next(iter(self.parameters().nodes(reference_role(self.roles()) or "")), None)

    @property
    def lacks_packages(self) -> bool:
        """Whether no run can start before packages are installed."""
        return bool(self._missing_packages)

    def models(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Models of the method and its interrupted trainings, as they were found on disk when that last changed."""
        slug, folder = self.entry["slug"], models.folder()
        key = slug, folder.stat().st_mtime_ns if folder.is_dir() else 0  # a script may train beside the panel
        if key not in self._on_disk:
            self._on_disk = {key: (self.logic.models(slug), self.logic.interrupted(slug))}
        return self._on_disk[key]

    def forget_models(self) -> None:
        """Models have come or gone: read them again."""
        self._on_disk.clear()

    def _show_training(self, parameters: Parameters) -> None:
        self.train.button.setVisible(self.training is not None)
        if self.training is None:
            return
        self.train.show_source(self.source, self.sources())
        _show_text(self.train.cohort, "currentPath", parameters.text("cohort"))
        _show_text(self.train.name, "text", parameters.text("name"))
        self.train.name.placeholderText = self.logic.free_model_name(self.entry["slug"])
        self.train.train.text = self.training["title"]
        names = [name for name in self.models()[1] if not jobqueue.line().holds(models.home() / "runs" / name)]
        self.train.interrupted.setVisible(bool(names))
        self.train.interrupted_text.text = (
            _("The training of “{name}” was interrupted.").format(name=names[-1]) if names else ""
        )

    def _show_operation(self, parameters: Parameters) -> None:
        operation = self.operation
        self.apply.button.setVisible(operation is not None)
        if operation is None:
            return
        records = self.models()[0]
        self.apply.show_operation(operation, len(self.others) == 1, bool(records), self.frames())
        _show_text(self.apply.cohort, "currentPath", parameters.text("apply cohort"))
        nodes = parameters.nodes("output")
        self.apply.output.setCurrentNode(nodes[0] if nodes else None)
        texts = [cards.model_name(record) for record in records] or [_("No model yet: train first")]
        chosen = texts.index(parameters.text("model")) if parameters.text("model") in texts else 0
        fill(self.apply.model, texts, chosen)
        self.apply.model.enabled = self.apply.delete.enabled = bool(records)
        self.apply.card.text = cards.model_card(records[chosen]) if records else ""

    def show_what_is_possible(self) -> None:
        idle = "" if self.poller.busy else _("Nothing is running.")
        for button, reason, ready in (
            (self.train.train, self.why_not_train(), self.training["help"] if self.training else ""),
            (self.apply.apply, self.why_not_apply(), self.operation["help"] if self.operation else ""),
            (self.train.resume, "", _("Go on with the settings and cases it was started with")),
        ):
            button.enabled = not reason
            button.setToolTip(reason or in_line_tip(ready))
        self.run.cancel.enabled = not idle
        self.run.cancel.setToolTip(idle or _("End the run"))
        for button, declared in ((self.train.train, self.training), (self.apply.apply, self.operation)):
            if declared is not None:
                button.text = in_line_title(declared["title"])

    def why_not_train(self) -> str:
        """Why training cannot start now, for the tooltip; empty when it can."""
        if self.training is None:
            return _("This method is not trained.")
        from_nodes, cases = self.trains_from_nodes(), self.training_cases()
        if self.source == "file" and not self.parameters().text("cohort"):
            return _("Choose a table of cases.")
        if cases is not None and (reason := trainingcases.why_not(self.training, cases)):
            return reason
        missing = missing_inputs(self.training, self.inputs(self.training)) if from_nodes else []
        if missing:
            return _("Choose: {roles}.").format(roles=", ".join(missing))
        if self.estimator.refused:
            return self.estimator.refused
        if from_nodes and self.slices is not None and not self.slices.planes():
            if self.slices.suggested:
                return _("Confirm the slices that look annotated, or mark them yourself.")
            if not self.estimator.done and not jobqueue.line().busy:
                return _("Mark the slices that are annotated, or wait until they are suggested.")
        # Without packages, Train asks for them; beside a job that runs, nothing is estimated.
        if not self.estimator.done and not self._missing_packages and not jobqueue.line().busy:
            return _("Estimating the time…")
        return self._objection(self.training)

    def why_not_apply(self) -> str:
        """Why the operation of the section Apply cannot start now; empty when it can."""
        operation = self.operation
        if operation is None:
            return _("This method has no other operation.")
        if operation["needs_model"] and not self.models()[0]:
            return _("There is no model yet: train one first.")
        if operation["scope"] == "collection":
            if not self.parameters().text("apply cohort"):
                return _("Choose a table of cases.")
        elif missing := missing_inputs(operation, self.inputs(operation)):
            return _("Choose: {roles}.").format(roles=", ".join(missing))
        return self._objection(operation)

    def _objection(self, operation: dict[str, Any]) -> str:
        return next((words for room in self.rooms if (words := room.objection(operation))), "")

    # --- what a person chooses

    def _text_writer(self, key: str) -> Callable[[str], None]:
        def write(text: str) -> None:
            self.parameters().set_text(key, str(text))

        return write

    def _on_method(self, slug: str) -> None:
        parameters = self.parameters()
        was_modifying = parameters.node.StartModify()
        parameters.set_text("method", slug)
        for key in ("operation", "model", "config", "name"):
            parameters.set_text(key, "")
        parameters.node.EndModify(was_modifying)

    def _on_operation(self, index: int) -> None:
        if 0 <= index < len(self.others):
            self.parameters().set_text("operation", self.others[index]["name"])

    def _on_frames(self, index: int) -> None:
        self.parameters().set_text("frames", "all" if index == 1 else "current")

    def _on_model(self, index: int) -> None:
        if self.apply.model.enabled and index >= 0:
            self.parameters().set_text("model", str(self.apply.model.currentText))

    def _on_delete(self, checked: bool = False) -> None:
        if why_not := self.delete_model(str(self.apply.model.currentText)):
            slicer.util.errorDisplay(why_not, windowTitle="MedGen")

    def delete_model(self, name: str) -> str | None:
        """Delete a model after a question; why it cannot be deleted, "" when it is, None when it is to stay."""
        question = _("Delete the model “{name}” from this computer?").format(name=name)
        if not slicer.util.confirmYesNoDisplay(question, windowTitle="MedGen"):
            return None
        why_not = ""
        try:
            self.logic.remove_model(name)
        except MedGenLibError as error:
            why_not = str(error)
        self.forget_models()
        self.refresh()
        return why_not

    def _on_output(self, node: Any) -> None:
        if not self._frozen:
            self.parameters().set_nodes("output", [] if node is None else [node])

    def _on_source(self, index: int) -> None:
        if 0 <= index < len(self.train.sources):
            self.parameters().set_text("source", self.train.sources[index])

    def _on_tier(self, tier: str) -> None:
        parameters = self.parameters()
        parameters.forget_settings()
        parameters.set_text("tier", tier)

    def _on_device(self, device: str) -> None:
        self.parameters().set_text("device", device)

    def _on_setting(self, operation: str, key: str, value: Any) -> None:
        self.parameters().set_setting(operation, key, value)

    # --- the time it will take

    def _estimate(self) -> None:
        """Ask for an estimate when what it depends on has changed; beside a job, only let an old answer go."""
        training, busy = self.training, jobqueue.line().busy
        if training is None or not self._entered:
            return
        if self._missing_packages:
            self.estimator.forget()
            self._say_time(_("The time is estimated once MedGen's packages are installed."))
            return
        cohort = self.parameters().text("cohort") if self.source == "file" else None
        given, cases = self.inputs(training) if self.trains_from_nodes() else {}, self.training_cases()
        unready = trainingcases.why_not(training, cases) if cases is not None else cohort == ""
        if unready or (self.trains_from_nodes() and missing_inputs(training, given)):
            self.estimator.forget()
            self._say_time("")
        elif self.estimator.ask(self.entry["slug"], given, cohort, self.run_options(training), cases=cases, later=busy):
            if self.slices is not None:
                self.slices.suggest(None)
            self._say_time("" if busy else _("Estimating the time…"))

    def _say_time(self, text: str) -> None:
        self.train.estimate.text = text
        self.train.estimate.setVisible(bool(text))

    def _on_estimate(self) -> None:
        found = self.estimator.found
        self._say_time(self.estimator.text())
        if self.slices is not None:
            suggested = (found or {}).get("suggested", {}).get(self.slices.role["name"])
            marked = self.slices.planes()
            self.slices.suggest(suggested if suggested and suggested["markups"] and not marked else None)
        self.refresh()  # the checks look at it, too

    # --- coming and going

    def enter(self) -> None:
        """The module is shown: look again at packages, models and what was drawn meanwhile."""
        self._entered = True
        if not self.entries:
            return
        self._missing_packages = install.missing()
        self._observe_parameters()
        self._on_disk.clear()
        if self.estimator.found is None:
            self.estimator.forget()
        if self.selectors is not None:
            operations = [self.training if self.trains_from_nodes() else None, self.operation]
            self.selectors.choose_only_candidates(self.parameters(), [roles_of(one) for one in operations if one])
        for room in self.rooms:
            room.enter()
        self.refresh()

    def exit(self) -> None:
        """Another module is shown: a run goes on, an estimate that nobody sees does not."""
        self._entered = False
        self.estimator.pause()
        for room in self.rooms:
            room.exit()

    def cleanup(self) -> None:
        """The module is unloaded: its jobs go on, in the hands of the session."""
        self._closed = True
        self._freeze(True)
        self.poller.leave()
        self.estimator.drop()
        for room in self.rooms:
            room.cleanup()
        self.removeObservers()


def _show_text(widget: Any, attribute: str, text: str) -> None:
    """Write a text only when it differs, so that the cursor stays where it is."""
    if getattr(widget, attribute) != text:
        setattr(widget, attribute, text)
