"""What a person chose in a panel, kept in the module's parameter node, so that a saved scene restores it. No Qt."""

from __future__ import annotations

import json
from typing import Any


class Parameters:
    """Typed view of a vtkMRMLScriptedModuleNode: parameters for words, one node reference a role for nodes."""

    def __init__(self, node: Any) -> None:
        self.node = node

    def text(self, key: str) -> str:
        """A parameter, empty when it is not there.

        Keys: method, operation, tier, device, model, source ("nodes", "cases" or "file"), cohort, previews ("no"),
        frames ("current" or "all").
        """
        return str(self.node.GetParameter(key) or "")

    def set_text(self, key: str, value: str) -> None:
        """Write a parameter when it changes."""
        if self.text(key) != value:
            self.node.SetParameter(key, value)

    # --- settings

    def settings(self, operation: str) -> dict[str, Any]:
        """Settings of an operation that differ from its tier's."""
        return dict(self._config().get(operation, {}))

    def set_setting(self, operation: str, key: str, value: Any) -> None:
        """Note a changed setting; None forgets it."""
        config = self._config()
        changed = config.setdefault(operation, {})
        if value is None:
            changed.pop(key, None)
        else:
            changed[key] = value
        self.set_text("config", json.dumps(config, sort_keys=True))

    def forget_settings(self) -> None:
        """Back to what the tier says."""
        self.set_text("config", "{}")

    def _config(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self.text("config") or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    # --- nodes

    def nodes(self, role: str) -> list[Any]:
        """The nodes of a role that are in the scene."""
        count = self.node.GetNumberOfNodeReferences(role)
        found = [self.node.GetNthNodeReference(role, index) for index in range(count)]
        return [node for node in found if node is not None]

    def set_nodes(self, role: str, nodes: list[Any]) -> None:
        """Choose the nodes of a role."""
        if [node.GetID() for node in self.nodes(role)] == [node.GetID() for node in nodes]:
            return
        was_modifying = self.node.StartModify()
        self.node.RemoveNodeReferenceIDs(role)
        for node in nodes:
            self.node.AddNodeReferenceID(role, node.GetID())
        self.node.EndModify(was_modifying)
        self.node.Modified()
