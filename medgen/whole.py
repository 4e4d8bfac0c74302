"""Files and folders that appear whole or not at all. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from medgen.errors import UserError


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; renamed to `path` when the block ends well, removed when it does not."""
    # The name's end tells writers the form; all of a long name, with more before it, the system would refuse.
    partial = path.with_name(f".partial-{uuid.uuid4().hex[:8]}-{path.name[-40:]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if (path / "medgen.json").exists():  # a model of ours; any other folder in the way is not touched
            shutil.rmtree(path)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        if (isinstance(error, OSError) and error.errno == 28) or "no space" in str(error).lower():
            raise UserError(f"There is no space left to write {path}; free some disk space and start again.") from None
        if isinstance(error, OSError):
            raise UserError(f"{path} cannot be written ({error.strerror}); choose another output folder.") from None
        if partial.parent.is_dir() and "rite" in str(error):  # SimpleITK reports every failed write as a RuntimeError
            raise UserError(
                f"{path} could not be written; check the free space and that its folder can be written to."
            ) from None
        raise
    finally:
        with contextlib.suppress(OSError):  # the folder itself may not be one
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)
