"""`medgen batch` without a window, with Slicer's scenes as cohorts besides tables, folders of images, and DICOM.

    Slicer --no-splash --no-main-window --python-script …/MedGenLib/MedGenBatch.py -- MODEL COHORT -o OUT [options]
    xvfb-run -a Slicer …        on a Linux node without a display

COHORT is a CSV, a folder of image files and DICOM, a scene (.mrb, .mrml), or a folder of scenes. All options are those
of `medgen batch`: see `-- --help` and docs/headless.md. Slicer ends with the exit code of `medgen batch`.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import slicer.util

if __name__ == "__main__":
    try:
        try:
            import MedGenLib  # noqa: F401
        except ImportError:  # Slicer has put only the modules' own folders on the path, or this is a checkout
            sys.path.append(str(Path(__file__).resolve().parent.parent))
        from MedGenLib.headless import finish
        from MedGenLib.scenebatch import main
    except BaseException:  # an error that a script does not catch would leave Slicer open for ever
        traceback.print_exc()
        slicer.util.exit(1)
    else:
        finish(main)
