"""Selectors of what goes into an operation: one row a role, of the node classes that its kind can be taken from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ctk
import qt
import slicer

from MedGenLib.export import NODE_CLASSES
from MedGenLib.i18n import _
from MedGenLib.parameters import Parameters


def role_label(role: dict[str, Any]) -> str:
    """A role's name as a person reads it, marked when it may be left out."""
    words = str(role["name"]).replace("_", " ").replace(".", ": ")
    label = words.upper() if len(words) <= 2 else words[:1].upper() + words[1:]  # CT, MR, US
    return _("{label} (optional)").format(label=label) if role["optional"] else label


def role_help(role: dict[str, Any]) -> str:
    """What it is, and of which modality and units."""
    words = [role["modality"], role["dims"] if role["kind"] in ("Image", "Mask") else None, role["kind"], role["units"]]
    return f"{role['help']}\n{' '.join(str(word) for word in words if word)}"


def shown_as_slices(role: dict[str, Any]) -> bool:
    """Whether a role is filled by marking slices: planes, any number, that may be left out."""
    return bool(role["kind"] == "Plane" and role["many"] and role["optional"])


class RoleSelectors:
    """Rows for roles; what is chosen goes straight into the parameters."""

    def __init__(self, roles: list[dict[str, Any]], parameters: Callable[[], Parameters]) -> None:
        self._parameters = parameters
        self._quiet = False
        self.frozen = False  # while the scene changes under the selectors
        self.roles = {role["name"]: role for role in roles if not shown_as_slices(role)}
        self.widget = qt.QWidget()
        layout = qt.QFormLayout(self.widget)
        layout.setContentsMargins(0, 0, 0, 0)
        self.selectors: dict[str, Any] = {}
        for name, role in self.roles.items():
            selector = self.selectors[name] = self._make(role)
            selector.setToolTip(role_help(role))
            label = qt.QLabel(role_label(role))
            label.setToolTip(role_help(role))
            layout.addRow(label, selector)

    def _make(self, role: dict[str, Any]) -> Any:
        name, kind = role["name"], role["kind"]
        if kind == "Class":
            edit = qt.QLineEdit()
            edit.connect("textChanged(QString)", self._text_writer(name))
            return edit
        if kind not in NODE_CLASSES:
            path = ctk.ctkPathLineEdit()
            path.connect("currentPathChanged(QString)", self._text_writer(name))
            return path
        if role["many"]:
            combo = slicer.qMRMLCheckableNodeComboBox()
            combo.nodeTypes = list(NODE_CLASSES[kind])
            combo.setMRMLScene(slicer.mrmlScene)
            combo.connect("checkedNodesChanged()", self._checked_writer(name, combo))
            return combo
        selector = node_selector(list(NODE_CLASSES[kind]), _("None"))
        selector.connect("currentNodeChanged(vtkMRMLNode*)", self._node_writer(name))
        return selector

    def _text_writer(self, name: str) -> Callable[[str], None]:
        def write(text: str) -> None:
            if not self._quiet and not self.frozen:
                self._parameters().set_text(f"role.{name}", str(text))

        return write

    def _checked_writer(self, name: str, combo: Any) -> Callable[[], None]:
        def write() -> None:
            if not self._quiet and not self.frozen:
                self._parameters().set_nodes(name, list(combo.checkedNodes()))

        return write

    def _node_writer(self, name: str) -> Callable[[Any], None]:
        def write(node: Any) -> None:
            if not self._quiet and not self.frozen:
                self._parameters().set_nodes(name, [] if node is None else [node])

        return write

    def show(self, parameters: Parameters) -> None:
        """Show what the parameters say, without writing it back."""
        self._quiet = True
        for name, selector in self.selectors.items():
            nodes, role = parameters.nodes(name), self.roles[name]
            if role["kind"] in NODE_CLASSES and role["many"]:  # a checkable combo box has a current node too
                for node in selector.checkedNodes():
                    if node not in nodes:
                        selector.setCheckState(node, qt.Qt.Unchecked)
                for node in nodes:
                    selector.setCheckState(node, qt.Qt.Checked)
            elif role["kind"] in NODE_CLASSES:
                selector.setCurrentNode(nodes[0] if nodes else None)
            elif role["kind"] != "Class":
                selector.currentPath = parameters.text(f"role.{name}")
            elif selector.text != parameters.text(f"role.{name}"):
                selector.text = parameters.text(f"role.{name}")
        self._quiet = False

    def choose_only_candidates(self, parameters: Parameters, operations: list[list[dict[str, Any]]]) -> None:
        """Where the scene has exactly one node for a role that must be filled, take it, unless another role of the same
        operation could be meant as well. operations: the roles of each that the selectors serve."""
        for name, selector in self.selectors.items():
            role = self.roles[name]
            if role["optional"] or role["many"] or parameters.nodes(name) or role["kind"] not in NODE_CLASSES:
                continue
            if not any(_alone(role, roles) for roles in operations):
                continue
            if selector.nodeCount() == 1:
                parameters.set_nodes(name, [_first_node(NODE_CLASSES[role["kind"]])])


def _alone(role: dict[str, Any], roles: list[dict[str, Any]]) -> bool:
    """Whether a role is among `roles` and the only one of its kind that must be filled."""
    alike = [other["name"] for other in roles if other["kind"] == role["kind"] and not other["optional"]]
    return alike == [role["name"]]


def _first_node(classes: tuple[str, ...]) -> Any:
    scene = slicer.mrmlScene
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    return next(node for node in nodes if node.GetClassName() in classes and not node.GetHideFromEditors())


def node_selector(classes: list[str], none: str) -> Any:
    """A node combo box for nodes of exactly these classes (a label map is a volume to Slicer, but no image to us)."""
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = classes
    selector.showChildNodeTypes = False
    selector.noneEnabled = True
    selector.noneDisplay = none
    selector.addEnabled = False
    selector.removeEnabled = False
    selector.setMRMLScene(slicer.mrmlScene)
    return selector
