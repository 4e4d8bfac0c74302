"""Slicer's translation of user-facing strings, and the strings themselves where Slicer's application is not there.

`_` is Slicer's own function (it takes the context from the calling file), so it must be called, never wrapped.
"""

from __future__ import annotations

try:
    from slicer.i18n import tr as _
except ImportError:  # slicer-core without the application

    def _(text: str) -> str:
        return text


__all__ = ["_"]
