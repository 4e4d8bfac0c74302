"""A run whose results are put into a folder that a person chose, and not into the scene."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from MedGenLib.errors import RunError, plain
from MedGenLib.i18n import _
from MedGenLib.plan import Plan
from MedGenLib.runs import Event, MedGenRun


def hidden_beside(output: Path) -> Path:
    """A hidden folder on the disk that the results go to, so that they need only be renamed; RunError when there is
    something at `output` already, or no folder for it."""
    if not output.parent.is_dir():
        raise RunError(_("Folder {folder} does not exist; choose another.").format(folder=output.parent))
    _refuse_existing(output)
    try:
        return Path(tempfile.mkdtemp(prefix=".medgen-", dir=output.parent.resolve()))
    except OSError as error:
        raise RunError(plain(error, output.parent)) from None


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise RunError(_("{path} exists already; choose another folder or move it away.").format(path=output))


class FilesRun(MedGenRun):
    """One run; `results` holds by role the file or folder inside `output`, which appears whole or not at all."""

    def __init__(
        self, plan: Plan, folder: Path, output: Path, *, on_event: Callable[[Event], None] | None = None
    ) -> None:
        super().__init__(plan, folder, on_event=on_event)
        self.output = output.resolve()

    @property
    def makes_nodes(self) -> bool:
        return False

    def _load(self, outputs: list[Event]) -> dict[str, Any]:
        _refuse_existing(self.output)
        os.rename(self.plan.out, self.output)
        return {event["role"]: self.output / Path(event["path"]).name for event in outputs}
