"""The packages a run needs, seen from Slicer's own process: read from their metadata, never imported here. No Qt.

Only the Widget asks and installs (`question`, `install`), on the main thread; Logic runs what is there. torch comes
from Slicer's PyTorch extension, which finds the build that fits the GPU; the rest from the package registry, under
constraints that keep pip from exchanging torch, numpy, scipy or SimpleITK for others.
"""

from __future__ import annotations

import importlib
import inspect
import platform
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from medgen import resources
from medgen.doctor import NEEDED, numbers
from MedGenLib.errors import MedGenLibError, RunError
from MedGenLib.i18n import _

TORCH = "2.8"
ROOM = {
    True: 8 * 2**30,
    False: 2**30,
}  # bytes of disk that are enough with torch (its GPU builds unpack to 6 GB), without
PINNED = ("torch", "torchvision", "numpy", "scipy", "SimpleITK")


class InstallError(MedGenLibError):
    """The packages could not be had; one sentence."""


def installed(name: str) -> str | None:
    """A package's version, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def missing() -> list[str]:
    """Requirements ("torch>=2.8") that this Python does not fulfil, torch first."""
    return [
        f"{name}>={floor}"
        for name, floor in NEEDED.items()
        if (version := installed(name)) is None or numbers(version) < numbers(floor)
    ]


def require() -> None:
    """RunError, naming what is missing, where a run could not work."""
    names = missing()
    if names:
        raise RunError(
            _(
                "These Python packages are missing: {names}; open a MedGen module and press Install, or install them "
                "in Slicer's Python."
            ).format(names=", ".join(names))
        )


def question(requirements: list[str]) -> str:
    """The one question, with everything that would be installed."""
    listed = "\n".join(f"    {requirement}" for requirement in requirements)
    torch = any(requirement.startswith("torch>=") for requirement in requirements)
    size = _("This downloads up to 3 GB.") if torch else _("This downloads some 100 MB.")
    free = resources.free_disk(Path(sysconfig.get_paths()["purelib"]))
    if free is not None and free < ROOM[torch]:
        size += " " + _("Only {free:.1f} GB are free where they go; free some disk space first.").format(
            free=free / 2**30
        )
    return _(
        "MedGen needs Python packages that are not installed yet:\n\n{listed}\n\n{size} Slicer will stand still for "
        "minutes meanwhile. Install them now?"
    ).format(listed=listed, size=size)


def install(requirements: list[str]) -> None:
    """Install what `missing` named; call on the main thread, after the user agreed.

    Raises:
        InstallError: a sentence on what could not be had and what to do.
    """
    if any(requirement.startswith("torch>=") for requirement in requirements):
        _install_torch()
    rest = [requirement for requirement in requirements if not requirement.startswith("torch>=")]
    if rest:
        _install_rest(rest)
    importlib.invalidate_caches()
    still = missing()
    if still:
        raise InstallError(
            _("These packages are still missing: {names}; see the Python console for pip's words.").format(
                names=", ".join(still)
            )
        )


def _install_torch() -> None:
    if platform.system() == "Darwin" and platform.machine() == "x86_64":
        raise InstallError(
            _(
                "torch {version} or newer is not made for Intel or Rosetta Python on macOS; MedGen cannot run here."
            ).format(version=TORCH)
        )
    try:
        torch_utils: Any = importlib.import_module("PyTorchUtils")
    except ImportError:
        raise InstallError(
            _("MedGen needs the PyTorch extension; install it in the Extensions Manager and restart Slicer.")
        ) from None
    requirement = f">={TORCH}"
    try:
        torch_utils.PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=requirement)
    except Exception as error:  # whatever pip and the extension raise, the user needs a sentence
        raise InstallError(
            _("torch{requirement} could not be installed ({error}); try it in the PyTorch Utils module.").format(
                requirement=requirement, error=str(error).splitlines()[0] if str(error) else type(error).__name__
            )
        ) from None
    importlib.invalidate_caches()
    found = installed("torch")
    if found is None or numbers(found) < numbers(TORCH):
        raise InstallError(
            _("torch{requirement} could not be had for this computer (found: {found}); MedGen cannot run here.").format(
                requirement=requirement, found=found or _("none")
            )
        )


def _install_rest(requirements: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="medgen-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(pins(), encoding="utf-8")
        try:
            try:
                slicer_packaging: Any = importlib.import_module("slicer.packaging")
            except ImportError:  # Slicer 5.10
                util: Any = importlib.import_module("slicer.util")
                util.pip_install(["-c", str(constraints), *requirements])
            else:
                _ensure(slicer_packaging.pip_ensure, requirements, constraints)
        except Exception as error:  # CalledProcessError, RuntimeError, OSError: the user needs a sentence
            raise InstallError(
                _("The packages could not be installed ({error}); check the network and try again.").format(
                    error=str(error).splitlines()[0] if str(error) else type(error).__name__
                )
            ) from None


def _ensure(pip_ensure: Any, requirements: list[str], constraints: Path) -> None:
    """Slicer 5.12's installer: it takes parsed requirements, and asks nothing more, as the user has agreed already."""
    from packaging.requirements import Requirement

    options: dict[str, Any] = {"prompt_install": False, "requester": "MedGen", "skip_in_testing": True}
    if "prompt_restart" in inspect.signature(pip_ensure).parameters:  # not in every 5.11 and 5.12
        options["prompt_restart"] = False
    pip_ensure([Requirement(one) for one in requirements], constraints=constraints, **options)


def pins() -> str:
    """Constraints that keep what is installed: pip must not exchange one torch (or numpy) for another."""
    versions = {name: installed(name) for name in PINNED}
    return "".join(f"{name}=={version}\n" for name, version in versions.items() if version)
