"""Atomic exchange of two folders, and writes that survive a power failure."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths are absolute, or relative to the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE
# The kernel, a sandbox or the file system does not support the exchange
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders atomically: at any time, both names refer to a complete folder.

    Args:
        one: a folder.
        other: another folder on the same disk.

    Returns:
        Whether the folders were exchanged; False if the system does not support it.

    Raises:
        OSError: a folder is missing or must not be renamed.
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
    """Write the files of `folder`, the folders in it and its directory to the disk. Raises OSError."""
    for path in folder.rglob("*"):
        flush_names(path) if path.is_dir() else _sync(path)
    flush_names(folder)


def flush_names(folder: Path) -> None:
    """Write the directory of `folder`, which contains the file names, to the disk. Raises OSError."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system does not support it for folders
            raise


def _sync(path: Path) -> None:
    if os.name != "posix":  # other systems require a file open for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
