"""What this installation is and whether it can work: versions, torch build, GPU, memory, disk, conflicts, models.

Answers without torch; what needs torch is asked in this process only when it is installed. Asks no network. The report
names nobody: the home folder is written as ~, and models are counted, not named.
"""

from __future__ import annotations

import getpass
import importlib
import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from medgen import __version__, catalog, models, record, resources
from medgen.errors import UserError

NEEDED = {
    "torch": "2.8",
    "numpy": "1.26",
    "SimpleITK": "2.3",
    "pydicom": "2.4",
    "scipy": "1.11",
    "scikit-image": "0.24",
    "pydantic": "2.5",
    "safetensors": "0.4",
    "lightning-fabric": "2.2",
    "matplotlib": "3.8",
    "rich": "13",
}
USEFUL = ("monai", "scikit-learn", "torchvision")
LEAST_DISK = 2**30  # bytes; a model with its checkpoints takes some hundred MB


def examine() -> dict[str, Any]:
    """The report as data: "ok", "findings" (sentences on what is wrong) and the facts."""
    findings: list[str] = []
    versions = {name: _version(name) for name in (*NEEDED, *USEFUL)}
    for name, floor in NEEDED.items():
        found = versions[name]
        if found is None:
            findings.append(f"{name} is not installed; install it (at least {floor}).")
        elif numbers(found) < numbers(floor):
            findings.append(f"{name} {found} is too old; install at least {floor}.")
    if _version("slicer") is not None:
        findings.append("The unrelated package “slicer” hides Slicer's own; uninstall it.")
    findings += _conflicts()
    home = models.home()
    free = resources.free_disk(home)
    if free is not None and free < LEAST_DISK:
        findings.append(f"Only {free / 2**30:.1f} GB are free where models are kept ({home}); free some disk space.")
    if home.exists() and not os.access(home, os.W_OK):
        findings.append(f"{home}, where models are kept, cannot be written to; mend its permissions.")
    memory = resources.memory()
    report: dict[str, Any] = {
        "medgen": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "memory_bytes": memory.total,
        "memory_free_bytes": memory.free,
        "versions": versions,
        "methods": len(catalog.entries()),
        "home": str(home),
        "home_chosen": bool(os.environ.get("MEDGEN_HOME")),
        "disk_free_bytes": free,
        **_models(findings),
        **_drivers(),
    }
    if versions["torch"] is not None:
        report |= _torch(findings)
    _compare_driver(report, findings)
    return {"ok": not findings, "findings": findings, **report}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version ("2.13.0+cpu" -> 2, 13, 0), to compare."""
    parts = []
    for part in version.split("+")[0].split(".")[:3]:
        digits = "".join(c for c in part if c.isdigit())
        parts.append(int(digits) if digits else 0)
    return tuple(parts)


# --- packages that do not go together


def _requirement() -> Any:
    """The class that reads "numpy>=1.26; extra == 'x'": of packaging, or of the copy that pip carries."""
    for place in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        try:
            return importlib.import_module(place).Requirement
        except ImportError:
            continue
    return None


def _conflicts() -> list[str]:
    """What the packages MedGen needs require and do not find, and what others require of these and do not find."""
    parse = _requirement()
    if parse is None:
        return []
    ours = {_plain_name(name) for name in (*NEEDED, *USEFUL)}
    found = []
    for owner, text in _requirements():
        requirement = parse(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        own = _plain_name(owner) in ours
        if not own and _plain_name(requirement.name) not in ours:
            continue
        installed = _version(requirement.name)
        if installed is None:
            if own:
                found.append(f"{owner} needs {requirement.name}, which is not installed; install it.")
        elif not requirement.specifier.contains(installed, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            found.append(f"{owner} needs {wanted}, but {installed} is installed; reinstall one of them.")
    return sorted(set(found))


def _requirements() -> Iterator[tuple[str, str]]:
    """(package, one requirement of it) of everything that is installed."""
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]  # None where an uninstallation left half a package
        for text in (distribution.requires or []) if name else []:
            yield name, text


def _plain_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- models


def _models(findings: list[str]) -> dict[str, Any]:
    """How many there are and how many are whole, by their digests."""
    found, bad = models.surveyed()
    damaged = len(bad)
    for one in found:
        try:
            record.verify(Path(one["folder"]))
        except (UserError, OSError):
            damaged += 1
    if damaged:
        findings.append(
            f"{damaged} of {len(found) + len(bad)} models cannot be used; medgen models verify names them, "
            "and so does the section Models in Slicer."
        )
    return {"models": len(found), "models_damaged": damaged, "models_bytes": sum(one["bytes"] for one in found)}


# --- GPU and torch


def _drivers() -> dict[str, Any]:
    return {
        "driver_gpus": [
            {"name": gpu.name, "driver": gpu.driver, "memory_bytes": gpu.total, "memory_free_bytes": gpu.free,
             "capability": gpu.capability}
            for gpu in resources.gpus()
        ]
    }  # fmt: skip


def _torch(findings: list[str]) -> dict[str, Any]:
    try:
        import torch
    except Exception as error:  # a broken build raises anything from OSError to AttributeError
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        findings.append(f"torch is installed but does not import ({words}); reinstall it with the PyTorch extension.")
        return {}
    gpus = []
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        name = torch.cuda.get_device_name(index)
        gpus.append(
            {
                "name": name,
                "memory_bytes": torch.cuda.get_device_properties(index).total_memory,
                "capability": ".".join(map(str, capability)),
            }
        )
        if not _runs_on(capability, torch.cuda.get_arch_list()):
            findings.append(
                f"This torch build has no code for {name} (compute capability {gpus[-1]['capability']}); install "
                "another build with the PyTorch extension, or choose the CPU."
            )
    return {
        "torch_build": f"cuda {torch.version.cuda}" if torch.version.cuda else "cpu",
        "gpus": gpus,
        "mps": bool(torch.backends.mps.is_available()),
        "threads": torch.get_num_threads(),
        "torchvision": _torchvision(findings),
    }


def _runs_on(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a torch build has code for a GPU: made for the same major capability and no newer minor one, or in a form
    (compute_XY) that the driver translates for newer GPUs. An empty list says nothing."""
    for name in architectures:
        kind, _, digits = name.partition("_")
        digits = re.sub(r"\D", "", digits)
        if not digits:
            continue
        made = int(digits[:-1]), int(digits[-1])
        if (kind == "compute" and made <= capability) or (made[0] == capability[0] and made[1] <= capability[1]):
            return True
    return not architectures


def _torchvision(findings: list[str]) -> str:
    """ "absent", "present", or "broken"; MedGen works in each case, but a broken one breaks others that import it."""
    if _version("torchvision") is None:
        return "absent"
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        findings.append(
            f"torchvision is installed but does not import beside this torch ({words}); MedGen does without it, but "
            "uninstall it or install the one that fits."
        )
        return "broken"
    return "present"


def _compare_driver(report: dict[str, Any], findings: list[str]) -> None:
    """What driver and torch say of each other."""
    build, seen = report.get("torch_build"), report["driver_gpus"]
    if build == "cpu" and seen:
        findings.append(
            f"There is a GPU ({seen[0]['name']}), but torch is a CPU build; install the one for GPUs with the PyTorch "
            "extension, or go on with the CPU."
        )
    elif build and build != "cpu" and not report["gpus"]:
        where = f" (driver {seen[0]['driver']})" if seen else ""
        findings.append(f"torch is a CUDA build but sees no GPU{where}; update the driver, or go on with the CPU.")


# --- for a person


def text(report: dict[str, Any]) -> str:
    """The report for a person, ready to be copied into a bug report; no user, host or model name in it."""
    memory, free = report["memory_bytes"], report["memory_free_bytes"]
    words = f"{report['processors']} processors"
    if memory:
        words += f", {memory / 2**30:.0f} GB memory"
    if free is not None:
        words += f" ({free / 2**30:.1f} GB free)"
    disk = report["disk_free_bytes"]
    chosen = "MEDGEN_HOME" if report["home_chosen"] else "the default folder"
    damaged = f", {report['models_damaged']} damaged" if report["models_damaged"] else ""
    lines = [
        f"MedGen {report['medgen']} on Python {report['python']}, {report['system']}",
        words,
        f"Models: {report['models']} ({report['models_bytes'] / 2**20:.0f} MB{damaged}) in {report['home']}, {chosen}"
        + ("" if disk is None else f"; {disk / 2**30:.0f} GB free"),
        "Packages: " + ", ".join(f"{name} {version or 'missing'}" for name, version in report["versions"].items()),
    ]
    if "torch_build" in report:
        gpus = ", ".join(f"{gpu['name']} (capability {gpu['capability']})" for gpu in report["gpus"]) or "none"
        gpus = "Apple's" if report["mps"] else gpus
        lines.append(f"torch build: {report['torch_build']}; GPUs: {gpus}; torchvision: {report['torchvision']}")
    for gpu in report["driver_gpus"]:
        lines.append(
            f"Driver {gpu['driver']}: {gpu['name']}, {gpu['memory_free_bytes'] / 2**30:.1f} of "
            f"{gpu['memory_bytes'] / 2**30:.1f} GB free"
        )
    lines += ["All is well." if report["ok"] else "To mend:", *(f"- {finding}" for finding in report["findings"])]
    return anonymous("\n".join(lines))


def anonymous(words: str) -> str:
    """Text without the home folder and without the user's name in paths."""
    home = os.path.expanduser("~")
    if len(home) > 1:
        words = words.replace(home, "~")
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in the system's lists
        return words
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?=[/\\\s,;:)]|$)", "USER", words)
