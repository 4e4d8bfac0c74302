"""What the module files import, what works without torch, and the headless example, each in a fresh Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from panel_tools import ROOT, SLUG, home, stub_catalog  # noqa: F401

from MedGenLib.selftest import add_drawing, add_planes, add_volume, ball, dice

STANDIN = ROOT / "Testing" / "StandIn"
MODULES = ("MedGenSynthesis", "MedGenSegmentation", "MedGenLandmarks")
BLOCKER = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "monai", "pydantic", "SimpleITK", "scipy", "safetensors"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Blocker())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh Python, with only the stand-in on its path."""
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(STANDIN)!r})\n{code}"]
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd="/", env=environment)


def test_loading_the_module_files_imports_nothing_beyond_slicer_and_the_standard_library() -> None:
    files = [str(ROOT / name / f"{name}.py") for name in MODULES]
    done = python(
        "import slicer_standin\n"
        "slicer_standin.start()\n"
        "before = set(sys.modules)\n"
        "from pathlib import Path\n"
        f"for file in {files!r}:\n"
        "    slicer_standin.load_module(Path(file))\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "allowed = set(sys.stdlib_module_names) | {'slicer', 'vtk', 'vtkmodules', 'numpy', 'qt', 'ctk'}\n"
        "allowed |= {'medgen', 'MedGenLib', 'MedGenSynthesis', 'MedGenSegmentation', 'MedGenLandmarks'}\n"
        "print(sorted(new - allowed))\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_panel_shows_methods_and_cards_where_torch_is_not_installed(home: Path) -> None:  # noqa: F811
    module = ROOT / "MedGenSegmentation" / "MedGenSegmentation.py"
    done = python(
        BLOCKER + "import slicer_standin\n"
        "slicer_standin.start()\n"
        "from pathlib import Path\n"
        "from importlib import metadata\n"
        "known = metadata.version\n"
        "def version(name):\n"
        "    if name in ('torch', 'pydantic'):\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "metadata.version = version\n"
        f"outer = slicer_standin.load_module(Path({str(module)!r})).widgetRepresentation()\n"
        "outer.show()\n"
        "outer.self().enter()\n"
        "panel = outer.self().panel\n"
        f"panel.method.combo.currentIndex = panel.method.slugs.index({SLUG!r})\n"
        "print(panel.method.combo.currentText)\n"
        "print(panel.method.card.text)\n"
        "print(panel.packages.visible, panel.packages_text.text)\n"
        "print('torch' in sys.modules)\n"
    )
    assert done.returncode == 0, done.stderr
    assert "Segment: Threshold from a few slices" in done.stdout and "A threshold for everything" in done.stdout
    assert "True Not installed yet: torch>=2.8, pydantic" in done.stdout
    assert done.stdout.strip().endswith("False")


@pytest.fixture
def files(scene: Any, tmp_path: Path) -> dict[str, Path]:
    """A volume, its drawing and a plane as files."""
    volume = add_volume()
    nodes = {
        "image.nrrd": volume,
        "drawn.seg.nrrd": add_drawing(volume),
        "plane.mrk.json": add_planes(volume, (12,))[0],
    }
    for name, node in nodes.items():
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / name))
        assert node.GetStorageNode().WriteData(node)
    return {name: tmp_path / name for name in nodes}


def example(*words: object, script: str = "segment_from_slices.py") -> subprocess.CompletedProcess[str]:
    """An example as `Slicer --no-main-window --python-script` runs it."""
    command = [sys.executable, STANDIN / "headless.py", ROOT / "Examples" / script, "--", *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd="/")


def test_the_headless_example_segments_a_volume_and_ends(files: dict[str, Path], home: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "results" / "whole.seg.nrrd"
    image, drawn, plane = files.values()
    done = example(
        "--image", image, "--mask", drawn, "--planes", plane, "--output", out, "--tier", "smoke", "--method", SLUG
    )
    assert done.returncode == 0, done.stderr
    assert "Learned from 1 slices." in done.stdout
    found = sitk.GetArrayFromImage(
        sitk.Resample(sitk.ReadImage(str(out)), sitk.ReadImage(str(image)), sitk.Transform(), sitk.sitkNearestNeighbor)
    )
    assert dice(np.asarray(found), ball()) > 0.95


def test_the_headless_example_ends_with_a_sentence_when_the_input_is_at_fault(
    files: dict[str, Path], tmp_path: Path
) -> None:
    done = example(
        "--image", tmp_path / "nowhere.nrrd", "--mask", files["drawn.seg.nrrd"], "--output", tmp_path / "x.seg.nrrd"
    )
    assert done.returncode == 2
    assert "nowhere.nrrd cannot be read" in done.stderr and "Traceback" not in done.stderr
    assert example("--image", "only").returncode == 2


def test_the_general_example_trains_applies_and_overwrites_nothing(
    files: dict[str, Path],
    home: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return example(SLUG, *words, script="run_method.py")

    given = [
        f"-iimage={files['image.nrrd']}",
        f"-imask={files['drawn.seg.nrrd']}",
        f"-iplanes={files['plane.mrk.json']}",
    ]
    done = run("train", *given, "--name", "mine", "--tier", "smoke", "--set", "smooth=true")
    assert done.returncode == 0 and "model mine" in done.stdout, done.stderr
    out = tmp_path / "results" / "whole.seg.nrrd"
    done = run("apply", "--model", "mine", given[0], "-o", out)
    assert done.returncode == 0 and str(out) in done.stdout, done.stderr
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(out)))
    assert found.any()
    again = run("apply", "--model", "mine", given[0], "-o", out)
    assert again.returncode == 2 and "exists already" in again.stderr and "Traceback" not in again.stderr
    assert run("apply", "--model", "mine", given[0]).returncode == 2  # says where the result goes
    assert run("apply", "--model", "yours", given[0], "-o", tmp_path / "x.seg.nrrd").returncode == 2
    assert run("apply", "-i", "image", "-o", tmp_path / "x.seg.nrrd").returncode == 2
