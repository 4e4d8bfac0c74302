"""What stands for an input wherever people read: logs, records, tables, pages, provenance.

A file is called by its own name, never by the folders it lies in; DICOM by a name made from modality, description and
a digest (medgen.dicom.name), for its files and folders are often called after the patient. With `patient_names` nothing
is hidden, and DICOM names begin with the patient's.

    say = privacy.Discreet(["/archive/DOE^JOHN/series 3"])
    say("/archive/DOE^JOHN/series 3 holds no image.")  # "CT_Thorax_3fa2c1d0 holds no image."
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from medgen import dicom
from medgen.dicomheader import Header
from medgen.errors import UserError

HIDDEN = "…"


def stand_in(text: str | Path, patient_names: bool = False) -> str:
    """What an input is called: a path, a DICOM series (`FOLDER#SERIES_UID`), or the text of a class as it is."""
    headers = _headers(text)
    return _stand_in(text, headers, patient_names)


def _headers(text: str | Path) -> list[Header]:
    try:
        return dicom.named(text)
    except (OSError, UserError):
        return []


def _stand_in(text: str | Path, headers: list[Header], patient_names: bool) -> str:
    if headers:
        return dicom.name(headers, patient_names)
    path, uid = dicom.split(text)
    if uid is not None:
        return f"DICOM_{_digits(uid)}"
    if os.sep not in str(text) or (path.suffix and not os.path.isdir(path)) or patient_names:
        return path.name or str(text)
    return f"folder_{_digits(str(path))}"  # its name may be the patient's


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]


def _real(path: Path) -> Path:
    """The path without links; as it is where they lead round in a circle, or it can be no path."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path.absolute()


class Discreet:
    """Repeats sentences without paths and, where DICOM is among the inputs, without whose images they are.

    texts: the inputs of a case. patient_names: repeat everything as it is.
    """

    def __init__(self, texts: Iterable[str | Path], patient_names: bool = False) -> None:
        self._exact: dict[str, str] = {}
        self._words: dict[str, str] = {}
        if patient_names:
            return
        for text in texts:
            self._add(text)

    def _add(self, text: str | Path) -> None:
        headers = _headers(text)
        name = _stand_in(text, headers, False)
        path, _uid = dicom.split(text)
        if os.sep not in str(text) and not dicom.exists(text):
            return  # the text of a class
        own = {str(text), str(path), *(str(one.path) for one in headers)}
        if headers or os.path.isdir(path):
            self._words |= {path.name: name, **{one.path.name: name for one in headers}}
        self._words |= dict.fromkeys(dicom.personal(headers), HIDDEN)
        for place in (path, path.absolute(), _real(path)):
            own.add(str(place))
            for parent in (place.parent, *place.parent.parents):
                if len(parent.parts) > 1:
                    self._exact.setdefault(str(parent) + os.sep, "")
                    self._exact.setdefault(str(parent), HIDDEN)
        for one in [*own, *(str(_real(Path(other))) for other in own)]:
            if os.sep in one:
                self._exact[one] = name

    def __call__(self, sentence: str) -> str:
        """The sentence as anybody may read it."""
        for text in sorted(self._exact, key=len, reverse=True):
            sentence = sentence.replace(text, self._exact[text])
        for word in sorted(filter(None, self._words), key=len, reverse=True):
            # Between anything but letters and digits, so that “Ann” is not found in “cannot”.
            pattern = rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
            to = self._words[word].replace("\\", r"\\")
            sentence = re.sub(pattern, to, sentence, flags=re.IGNORECASE)
        return sentence
