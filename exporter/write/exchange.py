"""Puts one folder in the place of another, at once and for good."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths are absolute, or relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE
# The kernel, the C library's sandbox or the file system cannot do it.
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step, so that each name leads to a whole folder at any time.

    Returns:
        Whether it was done: False where the system cannot.

    Raises:
        OSError: a folder is missing, or it may not be renamed.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False
    if call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(one))


def flush(folder: Path) -> None:
    """Write the files of `folder`, and its list of names, to the disk. Raises OSError where the disk refuses."""
    for path in folder.iterdir():
        _sync(path)
    flush_names(folder)


def flush_names(folder: Path) -> None:
    """Write the list of names in `folder` to the disk. Raises OSError where the disk refuses."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot do that with a folder
            raise


def _sync(path: Path) -> None:
    if os.name != "posix":  # needs a file that is open for writing, and knows no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
