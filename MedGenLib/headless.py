"""What scripts without a window share: following a run on the console, saving results, and every way out of Slicer."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import slicer.util

from MedGenLib.errors import BoundaryError, MedGenLibError, RunError
from MedGenLib.i18n import _

# By kind, the ending of the file that a node is saved as.
ENDINGS = {
    "Image": ".nrrd",
    "Mask": ".seg.nrrd",
    "Points": ".mrk.json",
    "Line": ".mrk.json",
    "Curve": ".mrk.json",
    "Plane": ".mrk.json",
    "Box": ".mrk.json",
    "Sphere": ".mrk.json",
    "Matrix": ".csv",
    "Table": ".csv",
    "Plot": ".csv",
}


def finish(main: Callable[[list[str]], int]) -> None:
    """Call `main` with the script's words and end Slicer with its exit code.

    --python-script does not close Slicer by itself, whatever happens: every way out ends in slicer.util.exit.
    """
    code = 1
    try:
        code = main(sys.argv[1:])
    except MedGenLibError as error:
        print(error, file=sys.stderr)
        code = getattr(error, "exit_code", 2)
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    except Exception:
        traceback.print_exc()
    finally:
        slicer.util.exit(code)


def load(function: Any, path: Path) -> Any:
    """The node that one of slicer.util's load functions makes of a file; BoundaryError when there is none."""
    try:
        return function(str(path))
    except RuntimeError:
        raise BoundaryError(_("{path} cannot be read; check the path and the format.").format(path=path)) from None


def save(node: Any, path: Path) -> Path:
    """Write a node, or several numbered ones into a folder of that name; RunError when it cannot be written."""
    if isinstance(node, list):
        stem, ending = path.name.partition(".")[0], "".join(path.suffixes)
        for number, one in enumerate(node, start=1):
            save(one, path.with_name(stem) / f"{stem}_{number:03d}{ending}")
        return path.with_name(stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not slicer.util.saveNode(node, str(path), {}):
        raise RunError(_("{path} could not be written; choose another output.").format(path=path))
    return path


def say(event: dict[str, Any]) -> None:
    """Follow a run on the console."""
    if event["event"] == "log":
        print(event["message"], flush=True)
    elif event["event"] == "progress" and event["done"] >= event["total"]:
        print(f"{event['stage']}: done", flush=True)
