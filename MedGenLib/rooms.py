"""Rooms: sections of the panel that look after themselves, each in a file of its own. Here stands where each goes."""

from __future__ import annotations

from typing import Any


class Room:
    """A section of the panel. `panel` tells what is chosen (`MedGenLib.choices`) and starts runs; what a room does not
    say more about, does nothing."""

    def __init__(self, panel: Any) -> None:
        self.panel = panel

    def refresh(self) -> None:
        """Show what is chosen: called whenever the parameter node has changed or a run has ended."""

    def objection(self, operation: dict[str, Any]) -> str:
        """Why the operation cannot start now, for the tooltip of its button; empty when it can."""
        return ""

    def run_started(self, run: Any) -> None:
        """A run that the panel started."""

    def run_events(self, run: Any, events: list[dict[str, Any]]) -> None:
        """What a run that is going on has said (`medgen.jobs`); several may go on at once."""

    def run_ended(self, run: Any) -> None:
        """A run is over, well or not; its results are in the scene."""

    def enter(self) -> None:
        """The module is shown."""

    def exit(self) -> None:
        """Another module is shown."""

    def cleanup(self) -> None:
        """The module is unloaded."""


def before_apply(panel: Any, layout: Any) -> list[Room]:
    """Rooms between Train and Apply."""
    from MedGenLib import traincases, trainwatch  # here, as every room stands on this file
    from MedGenLib.preflightroom import PreflightRoom
    from MedGenLib.untrainedroom import UntrainedRoom

    learnt: list[Room] = [traincases.TrainCases(panel, panel.train.cases), trainwatch.TrainWatch(panel, layout)]
    return [*learnt, UntrainedRoom(panel, layout), PreflightRoom(panel, layout)]


def below(panel: Any, layout: Any) -> list[Room]:
    """Rooms below the progress of a run."""
    from MedGenLib.caseroom import CaseRoom
    from MedGenLib.compareroom import CompareRoom
    from MedGenLib.doctorroom import DoctorRoom
    from MedGenLib.mergeroom import MergeRoom
    from MedGenLib.modelsroom import ModelsRoom
    from MedGenLib.queueroom import QueueRoom
    from MedGenLib.resultsroom import ResultsRoom

    seen: list[Room] = [MergeRoom(panel), ResultsRoom(panel, layout), CompareRoom(panel, layout)]
    many: list[Room] = [CaseRoom(panel, layout), QueueRoom(panel, layout)]
    models = ModelsRoom(panel, layout)
    return [*seen, *many, models, DoctorRoom(panel, layout, models)]
