"""What goes wrong between the scene, the files and the runs."""

from __future__ import annotations

import errno

from MedGenLib.i18n import _


class MedGenLibError(Exception):
    """One sentence for the user: names the node, file or setting and says what to do about it."""


def plain(error: OSError, where: object) -> str:
    """A sentence for a file or folder that cannot be written."""
    if error.errno == errno.ENOSPC:
        return _("No space is left for {where}; free some disk space and try again.").format(where=where)
    reason = error.strerror or type(error).__name__
    return _("{where} cannot be written ({reason}); check the folder.").format(where=where, reason=reason)


class BoundaryError(MedGenLibError):
    """A node cannot become a file, or a file no node."""


class RunError(MedGenLibError):
    """A run did not end well. `exit_code` is the run's: 2 the user's input, 3 memory, 4 cancelled, 1 our fault."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
