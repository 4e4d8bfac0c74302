"""What can go wrong, and the exit code that says so (DESIGN section 5).

0 done, 1 our fault, 2 the user's input is at fault or the disk is full, 3 out of memory, 4 cancelled,
5 some cases of a batch failed. Standard library only: the panel reads these too.
"""

from __future__ import annotations

DONE, OUR_FAULT, USER_FAULT, OUT_OF_MEMORY, CANCELLED, SOME_FAILED = range(6)


class MedGenError(Exception):
    """An ending that has an exit code of its own."""

    exit_code = OUR_FAULT


class UserError(MedGenError):
    """One sentence that names the file, node or setting at fault and the remedy."""

    exit_code = USER_FAULT


class OutOfMemory(MedGenError):
    """The machine's or the GPU's memory did not suffice."""

    exit_code = OUT_OF_MEMORY


class Cancelled(MedGenError):
    """The user asked the run to stop."""

    exit_code = CANCELLED


class SomeFailed(MedGenError):
    """A batch has gone over its cases and not all of them are done."""

    exit_code = SOME_FAILED
