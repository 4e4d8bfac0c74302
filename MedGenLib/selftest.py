"""Assertions that the modules' own self-tests (inside Slicer) and the tests without Slicer share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk

from MedGenLib import annotation, install, sampledata
from MedGenLib.load import provenance_of
from MedGenLib.logic import MedGenLogic
from MedGenLib.plan import roles_of

SHAPE = (24, 28, 32)  # k, j, i
SLICES = (6, 8, 10, 12, 14, 16, 18)  # k of the drawn slices


def ball() -> np.ndarray:
    """Where the structure of the self-test is: (k, j, i) bool."""
    k, j, i = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return np.asarray(((k - 12) / 9) ** 2 + ((j - 14) / 9) ** 2 + ((i - 16) / 10) ** 2 < 1)


def add_volume(name: str = "CT") -> Any:
    """A bright ball in the dark, 2 x 2 x 3 mm, axes along L, P, S as most CT."""
    rng = np.random.default_rng(0)
    array = (ball() * 300 + rng.normal(0, 20, SHAPE)).astype(np.int16)
    matrix = np.diag([-2.0, -2.0, 3.0, 1.0])
    matrix[:3, 3] = 30, 25, -36
    volume = slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name=name)
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    return volume


def add_drawing(volume: Any, slices: tuple[int, ...] = SLICES, name: str = "Drawn") -> Any:
    """A segmentation of the ball, drawn on some slices only."""
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = segmentation.GetSegmentation().AddEmptySegment("ball", "ball", [0.9, 0.5, 0.3])
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[list(slices)] = ball()[list(slices)]
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, segmentation, segment, volume)
    return segmentation


def add_planes(volume: Any, slices: tuple[int, ...] = SLICES) -> list[Any]:
    """Plane nodes of the drawn slices."""
    planes = []
    for k in slices:
        frame = np.diag([-1.0, -1.0, 1.0, 1.0])  # the volume's own axes, right-handed
        frame[:3, 3] = 30 - 2 * 16, 25 - 2 * 14, -36 + 3 * k
        planes.append(annotation.add_plane(frame, annotation.describe(frame)))
    return planes


def labels_of(segmentation: Any, volume: Any) -> np.ndarray:
    """(k, j, i) labels of a segmentation's first segment on a volume's grid."""
    first = segmentation.GetSegmentation().GetNthSegmentID(0)
    return np.asarray(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, first, volume))


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Dice's coefficient of two masks."""
    found, truth = found > 0, truth > 0
    return float(2 * (found & truth).sum() / max(1, found.sum() + truth.sum()))


def check_methods_are_shown(module: str, panel: Any) -> None:
    """Every method of the catalog that a module shows is in its panel with a card; without any, the panel says so."""
    entries = MedGenLogic().methods(module)
    assert list(panel.entries) == [entry["slug"] for entry in entries]
    if not entries:
        assert "no method yet" in panel.empty.text
    else:
        panel.refresh()
        assert panel.entry["sentence"] in panel.method.card.text
        assert panel.entry["url"] in panel.method.card.text


def check_train_and_apply(logic: Any, slug: str, tier: str, at_least: float, in_process: bool = False) -> Any:
    """From a few drawn slices to the whole volume, in processes of their own or in this one; the resulting node.

    Asserts Dice `at_least` against the whole structure, provenance on the node, and inputs that are as before.
    """
    volume = add_volume("Self-test volume")
    drawing = add_drawing(volume)
    before = labels_of(drawing, volume).copy()
    inputs = {"image": volume, "mask": drawing, "planes": add_planes(volume)}
    how = {"wait": True, "in_process": in_process}
    model = logic.process(slug, "train", inputs, tier=tier, name=logic.free_model_name("self-test"), **how)["model"]
    # Some methods start from the drawn slices when they are applied, too.
    taken = {role["name"] for role in logic.operation(slug, "apply")[1]["inputs"]}
    given = {name: value for name, value in inputs.items() if name in taken}
    result = logic.process(slug, "apply", given, model=model, **how)["mask"]
    assert result.IsA("vtkMRMLSegmentationNode")
    overlap = dice(labels_of(result, volume), ball())
    assert overlap >= at_least, f"Dice {overlap:.3f}, {at_least} or more was expected"
    assert provenance_of(result)["method"] == slug
    assert np.array_equal(labels_of(drawing, volume), before)
    return result


def check_synthetic_volume(logic: Any, slug: str, tier: str, in_process: bool = False) -> Any:
    """From the synthetic head of Sample Data: train on its pair of volumes, apply to the first; the resulting volume.

    Asserts that it lies on the first volume's grid and has the second's kind of values, and inputs that are as before.
    """
    first, second = sampledata.load_sample(_sample("MedGenSynthesis"))
    roles = [role["name"] for role in roles_of(logic.operation(slug, "train")[1])]
    inputs = dict(zip(roles, (first, second), strict=True))
    before = slicer.util.arrayFromVolume(first).copy()
    how = {"wait": True, "in_process": in_process}
    model = logic.process(slug, "train", inputs, tier=tier, name=logic.free_model_name("self-test"), **how)["model"]
    found = logic.process(slug, "apply", {roles[0]: first}, model=model, **how)
    (result,) = found.values()
    values = slicer.util.arrayFromVolume(result)
    assert values.shape == before.shape
    for one, other in zip(_matrix(result), _matrix(first), strict=True):
        assert abs(one - other) < 1e-3
    assert values.min() >= -1024 and -1024 < values.mean() < 2252
    assert provenance_of(result)["method"] == slug
    assert np.array_equal(slicer.util.arrayFromVolume(first), before)
    return result


def check_landmarks(logic: Any, slug: str, tier: str, within: float, in_process: bool = False) -> Any:
    """From the synthetic ears of Sample Data: train on the marked one, find the points in the third; the new points.

    Asserts a median distance to the truth `within` mm, and the names and provenance of the result.
    """
    sample = _sample("MedGenLandmarks")
    marked = replace(sample, patients=(*sample.patients[:2], {"image": "Ear to mark", "landmarks": "Truth"}))
    image, mask, points, other_image, other_mask, target, truth = sampledata.load_sample(marked)
    inputs = {"reference.image": image, "reference.mask": mask, "reference.landmarks": points}
    inputs |= {"validation.image": other_image, "validation.mask": other_mask}
    how = {"wait": True, "in_process": in_process}
    model = logic.process(slug, "train", inputs, tier=tier, name=logic.free_model_name("self-test"), **how)["model"]
    result = logic.process(slug, "apply", {"image": target}, model=model, tier=tier, **how)["landmarks"]
    count = truth.GetNumberOfControlPoints()
    names = [result.GetNthControlPointLabel(index) for index in range(result.GetNumberOfControlPoints())]
    assert names == [truth.GetNthControlPointLabel(index) for index in range(count)]
    places = [[node.GetNthControlPointPositionWorld(index) for index in range(count)] for node in (result, truth)]
    distance = float(np.median(np.linalg.norm(np.array(places[0]) - np.array(places[1]), axis=1)))
    assert distance <= within, f"median {distance:.2f} mm, {within} or less was expected"
    assert provenance_of(result)["method"] == slug
    return result


def _sample(module: str) -> Any:
    return next(sample for sample in sampledata.SAMPLES if sample.module == module)


def _matrix(volume: Any) -> list[float]:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return [matrix.GetElement(row, column) for row in range(4) for column in range(4)]


def check_marking_slices() -> None:
    """What a slice view shows becomes a plane node in the same place; marking it again adds nothing."""
    for view in annotation.slice_nodes():
        frame = annotation.frame_of_slice(view)
        plane = annotation.mark(view, [])
        assert np.allclose(annotation.frame_of_plane(plane), frame, atol=1e-4)
        assert annotation.mark(view, [plane]) is plane
        annotation.forget(plane)


def ready() -> bool:
    """Whether the packages a run needs are installed."""
    return not install.missing()
