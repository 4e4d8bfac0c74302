"""What a person has chosen in a panel, read from the parameter node and the methods' declarations. No Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from MedGenLib import sampledata, trainingcases
from MedGenLib.export import NODE_CLASSES
from MedGenLib.frameruns import leading_image
from MedGenLib.parameters import Parameters
from MedGenLib.plan import node_pools, roles_of

PREVIEW_SECONDS = 5.0  # a preview takes the training's time
TIER = "demo"  # what the command line takes when no tier is named


class Choices:
    """Method, operation, inputs and settings as they stand. `parameter_node()` gives the module's node."""

    def __init__(self, entries: list[dict[str, Any]], parameter_node: Callable[[], Any]) -> None:
        self.entries = {entry["slug"]: entry for entry in entries}
        self._at_first = sampledata.shown_by(entries)
        self._parameter_node = parameter_node

    def parameters(self) -> Parameters:
        """What is chosen, as it stands in the module's parameter node."""
        return Parameters(self._parameter_node())

    @property
    def entry(self) -> dict[str, Any]:
        """The chosen method's declarations; when none is chosen, those of the one that Sample Data is for."""
        return self.entries.get(self.parameters().text("method")) or self._at_first

    @property
    def training(self) -> dict[str, Any] | None:
        """The chosen method's operation `train`, where it has one."""
        return next((one for one in self.entry["operations"] if one["name"] == "train"), None)

    @property
    def others(self) -> list[dict[str, Any]]:
        """Its other operations."""
        return [one for one in self.entry["operations"] if one["name"] != "train"]

    @property
    def operation(self) -> dict[str, Any] | None:
        """The operation of the section Apply: the chosen one, else `apply`, else the first."""
        by_name = {one["name"]: one for one in self.others}
        return (
            by_name.get(self.parameters().text("operation"))
            or by_name.get("apply")
            or next(iter(by_name.values()), None)
        )

    @property
    def tier(self) -> str:
        """The chosen tier."""
        return self.parameters().text("tier") or TIER

    def sources(self) -> list[str]:
        """What training can learn from: "nodes" (the inputs chosen), "cases" (several, from the scene), "file"."""
        if self.training is None:
            return []
        nodes, cases = node_pools(self.training), trainingcases.case_pools(self.training)
        return [*(["nodes"] if nodes else []), *(["cases"] if cases else []), "file"]

    @property
    def source(self) -> str:
        """What training learns from: the chosen one, else the first there is; empty without a training."""
        chosen, offered = self.parameters().text("source"), self.sources()
        return chosen if chosen in offered else next(iter(offered), "")

    def trains_from_nodes(self) -> bool:
        """Whether training takes the chosen nodes (or else several cases, or a table of them)."""
        return self.source == "nodes"

    def training_cases(self) -> list[trainingcases.TrainingCase] | None:
        """The cases of the scene that training learns from; None where it learns from something else."""
        return trainingcases.read(self.parameters()) if self.source == "cases" else None

    def roles(self) -> list[dict[str, Any]]:
        """The roles to be filled with nodes, each name once."""
        found: dict[str, dict[str, Any]] = {}
        of_nodes = self.operation if self.operation and self.operation["scope"] != "collection" else None
        for operation in (self.training if self.trains_from_nodes() else None, of_nodes):
            for role in roles_of(operation) if operation else []:
                known = found.setdefault(role["name"], role)
                if known["optional"] and not role["optional"]:
                    found[role["name"]] = role
        return [role for role in found.values() if role["kind"] != "Model"]

    def inputs(self, operation: dict[str, Any]) -> dict[str, Any]:
        """What is chosen for an operation."""
        return values_of(roles_of(operation), self.parameters())

    def frames(self) -> str | None:
        """Which frames the operation of the section Apply takes, "current" or "all"; None where there is no choice."""
        operation = self.operation
        if (
            operation is None
            or operation["scope"] != "case"
            or leading_image(operation, self.inputs(operation)) is None
        ):
            return None
        return "all" if self.parameters().text("frames") == "all" else "current"

    def previews(self) -> float | None:
        """Seconds between previews of a training; None where the person wants none."""
        return None if self.parameters().text("previews") == "no" else PREVIEW_SECONDS

    def run_options(self, operation: dict[str, Any]) -> dict[str, Any]:
        """Settings, tier and device of a run, as `MedGenLogic.process` takes them."""
        parameters = self.parameters()
        return {
            "settings": parameters.settings(operation["name"]),
            "tier": self.tier if self.tier in operation["tiers"] else None,
            "device": parameters.text("device") or "auto",
        }


def values_of(roles: list[dict[str, Any]], parameters: Parameters) -> dict[str, Any]:
    """What is chosen for roles, as `MedGenLogic.process` takes it."""
    values: dict[str, Any] = {}
    for role in roles:
        if role["kind"] in NODE_CLASSES:
            nodes = parameters.nodes(role["name"])
            if nodes:
                values[role["name"]] = nodes if role["many"] else nodes[0]
        elif parameters.text(f"role.{role['name']}"):
            values[role["name"]] = parameters.text(f"role.{role['name']}")
    return values
