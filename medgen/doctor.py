"""What this installation is and whether it can work: versions, torch build, GPU, memory, disk, conflicts.

Answers without torch; what needs torch is asked in this process only when it is installed.
"""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from typing import Any

from medgen import __version__, catalog, models

NEEDED = {
    "torch": "2.8",
    "numpy": "1.26",
    "SimpleITK": "2.3",
    "scipy": "1.11",
    "scikit-image": "0.24",
    "pydantic": "2.5",
    "safetensors": "0.4",
    "lightning-fabric": "2.2",
    "matplotlib": "3.8",
    "rich": "13",
}
USEFUL = ("monai", "scikit-learn", "torchvision")


def examine() -> dict[str, Any]:
    """The report as data: "ok", "findings" (sentences on what is wrong) and the facts."""
    findings: list[str] = []
    versions = {name: _version(name) for name in (*NEEDED, *USEFUL)}
    for name, floor in NEEDED.items():
        found = versions[name]
        if found is None:
            findings.append(f"{name} is not installed; install it (at least {floor}).")
        elif _numbers(found) < _numbers(floor):
            findings.append(f"{name} {found} is too old; install at least {floor}.")
    if _version("slicer") is not None:
        findings.append("The unrelated package “slicer” hides Slicer's own; uninstall it.")
    findings += _conflicts()
    home = models.home()
    place = home
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < 2**30:
        findings.append(f"Only {free / 2**30:.1f} GB are free where models are kept ({home}); free some disk space.")
    report: dict[str, Any] = {
        "medgen": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "memory_bytes": _memory(),
        "versions": versions,
        "methods": len(catalog.entries()),
        "home": str(home),
        "disk_free_bytes": free,
        "models": len(models.listed()),
    }
    if versions["torch"] is not None:
        report |= _torch(findings)
    return {"ok": not findings, "findings": findings, **report}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split("+")[0].split(".")[:3]:
        digits = "".join(c for c in part if c.isdigit())
        parts.append(int(digits) if digits else 0)
    return tuple(parts)


def _conflicts() -> list[str]:
    """What the packages MedGen needs require and do not find."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return []
    found = []
    for name in NEEDED:
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for text in requirements:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            installed = _version(requirement.name)
            if installed is None:
                found.append(f"{name} needs {requirement.name}, which is not installed; install it.")
            elif not requirement.specifier.contains(installed, prereleases=True):
                found.append(f"{name} needs {requirement}, but {installed} is installed; reinstall one of them.")
    return found


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _torch(findings: list[str]) -> dict[str, Any]:
    try:
        import torch
    except Exception as error:  # a broken build raises anything from OSError to AttributeError
        findings.append(f"torch is installed but does not import ({error}); reinstall it with the PyTorch extension.")
        return {}
    gpus = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory_bytes": torch.cuda.get_device_properties(index).total_memory,
            "capability": ".".join(map(str, torch.cuda.get_device_capability(index))),
        }
        for index in range(torch.cuda.device_count())
    ]
    if torch.version.cuda and not gpus:
        findings.append("torch is a CUDA build but sees no GPU; check the driver, or go on with the CPU.")
    return {
        "torch_build": f"cuda {torch.version.cuda}" if torch.version.cuda else "cpu",
        "gpus": gpus,
        "threads": torch.get_num_threads(),
    }


def text(report: dict[str, Any]) -> str:
    """The report for a person, ready to be copied into a bug report; no user or host name in it."""
    home = str(report["home"]).replace(os.path.expanduser("~"), "~")
    memory = report["memory_bytes"]
    lines = [
        f"MedGen {report['medgen']} on Python {report['python']}, {report['system']}",
        f"{report['processors']} processors, {memory / 2**30:.0f} GB memory"
        if memory
        else f"{report['processors']} processors",
        f"Models: {report['models']} in {home} ({report['disk_free_bytes'] / 2**30:.0f} GB free)",
        "Packages: " + ", ".join(f"{name} {version or 'missing'}" for name, version in report["versions"].items()),
    ]
    if "torch_build" in report:
        gpus = ", ".join(gpu["name"] for gpu in report["gpus"]) or "none"
        lines.append(f"torch build: {report['torch_build']}; GPUs: {gpus}")
    lines += ["All is well." if report["ok"] else "To mend:", *(f"- {finding}" for finding in report["findings"])]
    return "\n".join(lines)
