"""Renames of folders on Windows, where a file that a program has open keeps its folder from being renamed.

A file that is only mapped, such as the weights of a predictor, does not: the folder gets another name, and only its removal
waits until the predictor is closed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from exporter.errors import ExportError

# Seconds. Virus scanners and indexers open a new file for moments.
_WAITS = (0.05, 0.2, 0.8, 2.0)


def move(folder: Path, target: Path) -> None:
    """Rename a folder; on Windows, wait for programs that have one of its files open for a moment. Raises OSError."""
    for seconds in (*_WAITS, None):
        try:
            folder.rename(target)
        except PermissionError:
            if sys.platform != "win32" or seconds is None:
                raise
            time.sleep(seconds)
        else:
            return


def check_unused(folder: Path) -> None:
    """Check, before any work is done, that Windows will let a folder be replaced; other systems always do.

    Raises:
        ExportError: a program has a file of the folder open.
        OSError: the folder cannot be read.
    """
    if sys.platform != "win32":
        return
    for path in sorted(folder.rglob("*")):
        try:
            path.rename(path)  # changes nothing, and is refused if the file is open
        except PermissionError as error:
            raise in_use(folder, path.relative_to(folder).as_posix()) from error


def in_use(folder: Path, file: str = "one of its files") -> ExportError:
    """Return the error for a folder that cannot be replaced because a program has a file open."""
    return ExportError(
        f"the output folder {str(folder)!r} cannot be replaced: a program has {file} open, which Windows does not let others "
        "rename; close that program, such as a service that runs the folder, or choose another output"
    )
