"""Write the lists of files in each CMakeLists.txt from what is there: python Utilities/update_cmake_lists.py [--check].

Slicer's macro fails on a listed file that is missing and says nothing of a file that is not listed; the extension would
then lack it only once installed. Paths are relative: the macro puts absolute ones in a wrong place.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("medgen", "MedGenLib", "MedGenSynthesis", "MedGenSegmentation", "MedGenLandmarks")
FIRST = "# From here on written by Utilities/update_cmake_lists.py"
LAST = "# Up to here written by Utilities/update_cmake_lists.py"
RESOURCE_ENDINGS = {".html", ".json", ".png", ".svg", ".ui"}


def shipped(folder: Path) -> tuple[list[str], list[str]]:
    """Scripts and resources below a folder that the extension installs, as relative paths with forward slashes."""
    files = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith((".", "__pycache__", "Testing")) for part in path.parts[len(folder.parts) :])
    ]
    scripts = [path.as_posix() for path in files if path.suffix == ".py"]
    resources = [path.as_posix() for path in files if path.suffix in RESOURCE_ENDINGS or path.parts[0] == "Resources"]
    return scripts, resources


def strays(folder: Path) -> list[str]:
    """Files below a folder that are neither shipped nor known not to be."""
    scripts, resources = shipped(folder)
    known = {*scripts, *resources, "CMakeLists.txt"}
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.relative_to(folder).as_posix() not in known
    ]


def lists(folder: Path) -> str:
    """The generated part of a folder's CMakeLists.txt."""
    lines = [FIRST]
    for name, entries in zip(("SCRIPTS", "RESOURCES"), shipped(folder), strict=True):
        lines += [f"set(MODULE_{name}", *(f"  {entry}" for entry in entries), "  )"]
    return "\n".join([*lines, LAST])


def updated(folder: Path) -> str:
    """A folder's CMakeLists.txt with its lists as they should be. ValueError where the marks are missing."""
    text = (folder / "CMakeLists.txt").read_text(encoding="utf-8")
    before, first, rest = text.partition(FIRST)
    _, last, after = rest.partition(LAST)
    if not first or not last:
        raise ValueError(f"{folder.name}/CMakeLists.txt lacks the lines “{FIRST}” and “{LAST}”")
    return before + lists(folder) + after


def main(arguments: list[str]) -> int:
    """Rewrite what is stale; with --check only name it, exit code 1."""
    stale = 0
    for name in FOLDERS:
        path = ROOT / name / "CMakeLists.txt"
        wanted = updated(path.parent)
        if wanted == path.read_text(encoding="utf-8"):
            continue
        stale += 1
        print(f"{path.relative_to(ROOT)} {'is stale' if '--check' in arguments else 'updated'}")
        if "--check" not in arguments:
            path.write_text(wanted, encoding="utf-8", newline="\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
