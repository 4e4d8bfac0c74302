"""MedGen's torch backend: published methods that synthesise, segment and mark medical images. Research use only."""

__version__ = "0.1.0"
