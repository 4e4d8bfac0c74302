"""The real MRML runtime without the Slicer application: scene, application logic and module logics from slicer-core.

Everything here is Slicer's own compiled code; only what the application itself does at start (making the scene,
registering the module logics, publishing them as `slicer.modules.NAME.logic()`) is done by hand. No Qt. The subject
hierarchy has no plugins in this runtime, so items are made by hand (`subject_hierarchy_item`).
"""

from __future__ import annotations

import types
from typing import Any

import slicer
import vtk

LOGIC_CLASSES = {
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Colors": "vtkMRMLColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Data": "vtkSlicerDataModuleLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Units": "vtkSlicerUnitsLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
}


class Runtime:
    """A booted runtime.

    Attributes:
        scene: the vtkMRMLScene, also published as `slicer.mrmlScene`.
        application_logic: vtkSlicerApplicationLogic of the scene.
        logics: module logics by module name ("Segmentations"), also published as
            `slicer.modules.segmentations.logic()`.
    """

    def __init__(self) -> None:
        self.scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = self.scene
        self.application_logic = slicer.vtkSlicerApplicationLogic()
        self.application_logic.SetMRMLScene(self.scene)
        self.application_logic.GetColorLogic().SetMRMLScene(self.scene)
        self.application_logic.GetColorLogic().AddDefaultColorNodes()
        self.application_logic.SetSliceLogics(vtk.vtkCollection())
        self.application_logic.SetViewLogics(vtk.vtkCollection())
        self._prepare_views()
        # The terminologies logic complains six times that it has no share folder with Slicer's own lists.
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
        self.logics = {name: self._register(name, class_name) for name, class_name in LOGIC_CLASSES.items()}
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_WARNING)
        slicer.modules = types.SimpleNamespace(
            **{name.lower(): types.SimpleNamespace(logic=_constant(logic)) for name, logic in self.logics.items()}
        )

    def _prepare_views(self) -> None:
        """What the slice and 3D displayable managers expect to find; harmless where nothing is rendered."""
        for factory in (
            slicer.vtkMRMLThreeDViewDisplayableManagerFactory,
            slicer.vtkMRMLSliceViewDisplayableManagerFactory,
        ):
            factory.GetInstance().SetMRMLApplicationLogic(self.application_logic)
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        self.scene.AddNode(crosshair)

    def _register(self, name: str, class_name: str) -> Any:
        logic = getattr(slicer, class_name)()
        logic.SetMRMLScene(self.scene)
        logic.SetMRMLApplicationLogic(self.application_logic)
        self.application_logic.SetModuleLogic(name, logic)
        return logic


def _constant(value: Any) -> Any:
    return lambda: value


_runtime: Runtime | None = None


def boot() -> Runtime:
    """Start the runtime, once a process; later calls give the same one (the logics hold global factories)."""
    global _runtime
    if _runtime is None:
        _runtime = Runtime()
    return _runtime


def fresh_scene() -> Any:
    """Empty `slicer.mrmlScene` of all but singletons, as File > Close Scene does, and return it."""
    runtime = boot()
    slicer.mrmlScene = runtime.scene
    runtime.scene.Clear(0)
    return runtime.scene


def subject_hierarchy_item(node: Any, parent: int | None = None) -> int:
    """Give `node` its item in the subject hierarchy, as the application's plugins do on NodeAdded.

    Args:
        node: a node of `slicer.mrmlScene`.
        parent: item under which it goes; the scene item when None.
    Returns:
        The item's id.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    return hierarchy.CreateItem(hierarchy.GetSceneItemID() if parent is None else parent, node)
