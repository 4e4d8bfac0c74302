"""Dependencies, with pip and the PyTorch extension replaced: what is asked, in what order, under which constraints."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from MedGenLib import install


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed; a test changes it."""
    found = {"numpy": "2.4.6", "scipy": "1.17.1", "SimpleITK": "2.5.7"}
    monkeypatch.setattr(install, "installed", found.get)
    return found


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> list[Any]:
    """Stand-ins for PyTorchUtils and slicer.packaging that note what they are asked for, and install it."""
    asked: list[Any] = []

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation: bool, torchVersionRequirement: str) -> None:
            asked.append(("torch", askConfirmation, torchVersionRequirement))
            versions["torch"] = "2.9.0+cpu"

    def pip_ensure(
        requirements: list[Any],
        constraints: Path,
        prompt_install: bool = True,
        prompt_restart: bool = True,
        requester: str | None = None,
        skip_in_testing: bool = True,
    ) -> None:
        wanted = [one for one in requirements if one.marker is None or one.marker.evaluate()]  # as Slicer reads them
        options = {"prompt_install": prompt_install, "prompt_restart": prompt_restart}
        asked.append(([str(one) for one in wanted], constraints.read_text(), options))
        versions.update({one.name: "99" for one in wanted})

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    monkeypatch.setitem(sys.modules, "slicer.packaging", types.SimpleNamespace(pip_ensure=pip_ensure))
    return asked


def test_what_is_missing_is_read_from_metadata_and_nothing_is_imported(versions: dict[str, str]) -> None:
    before = set(sys.modules)
    assert install.missing()[0] == "torch>=2.8"
    assert not any(requirement.startswith("numpy") for requirement in install.missing())
    versions["torch"] = "2.7.1+cu126"
    assert "torch>=2.8" in install.missing()
    assert not {"torch", "pydantic"} & (set(sys.modules) - before)


def test_one_question_lists_everything_and_says_that_slicer_stands_still(versions: dict[str, str]) -> None:
    text = install.question(install.missing())
    assert all(requirement in text for requirement in install.missing())
    assert "stand still" in text and "3 GB" in text


@pytest.mark.parametrize(("free", "said"), [(5, True), (50, False), (None, False)])
def test_the_question_says_when_the_disk_is_too_small(
    free: int | None, said: bool, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install.resources, "free_disk", lambda path: None if free is None else free << 30)
    assert ("free some disk space" in install.question(install.missing())) is said
    assert "free some disk space" not in install.question(["rich>=13"])


def test_torch_comes_first_and_the_rest_is_pinned_to_it(registry: list[Any]) -> None:
    install.install(install.missing())
    assert registry[0] == ("torch", False, ">=2.8")
    requirements, constraints, options = registry[1]
    assert "pydantic>=2.5" in requirements and not any(item.startswith("torch>") for item in requirements)
    assert {"torch==2.9.0+cpu", "numpy==2.4.6", "scipy==1.17.1", "SimpleITK==2.5.7"} <= set(constraints.split())
    assert options == {"prompt_install": False, "prompt_restart": False}  # the one question has been answered
    assert install.missing() == []


def test_a_slicer_that_never_asks_for_a_restart_is_not_told_not_to(
    registry: list[Any], versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip_ensure(
        requirements: list[Any], constraints: Path, prompt_install: bool, requester: str, skip_in_testing: bool
    ) -> None:
        versions.update({one.name: "99" for one in requirements})

    monkeypatch.setitem(sys.modules, "slicer.packaging", types.SimpleNamespace(pip_ensure=pip_ensure))
    install.install(install.missing())
    assert install.missing() == []


def test_slicer_5_10_installs_through_pip_install(
    registry: list[Any], versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def pip_install(words: list[str]) -> None:
        asked.append(words)
        versions.update({word.split(">=")[0]: "99" for word in words})

    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setitem(sys.modules, "slicer.util", types.SimpleNamespace(pip_install=pip_install))
    install.install(install.missing())
    assert asked[0][0] == "-c" and "pydantic>=2.5" in asked[0]


def test_without_the_pytorch_extension_a_sentence_says_what_to_do(
    versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(install.InstallError, match="Extensions Manager"):
        install.install(["torch>=2.8"])


@pytest.mark.parametrize("outcome", ["raises", "declines", "old"])
def test_a_torch_that_cannot_be_had_is_said_in_a_sentence(
    outcome: str, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class PyTorchUtilsLogic:
        def installTorch(self, **options: Any) -> None:
            if outcome == "raises":
                raise ValueError("no build fits\nlong traceback")
            if outcome == "old":
                versions["torch"] = "2.2.2"

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    with pytest.raises(install.InstallError, match="torch>=2.8 could not be") as caught:
        install.install(["torch>=2.8"])
    assert "\n" not in str(caught.value)


def test_rosetta_python_is_told_so(versions: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")
    with pytest.raises(install.InstallError, match="Rosetta"):
        install.install(["torch>=2.8"])
