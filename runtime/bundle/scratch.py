"""Temporary folders that the next process removes if their process was killed.

A lock on the folder shows that its process is alive. Process ids do not: containers that share a disk use the same ids.
"""

import contextlib
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

_OPEN = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class FolderLock:
    """A lock on a folder, which stays with the folder when it is renamed, until `release` or the end of the process."""

    def __init__(self, descriptor: int | None) -> None:
        """Wrap the descriptor of a locked folder; None if the system does not support locks."""
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, wait: bool = True) -> "FolderLock | None":
        """Lock a folder.

        Args:
            folder: the folder.
            wait: wait until other processes have released it.

        Returns:
            The lock; None if another process holds it and `wait` is false, or if the folder does not exist. On systems without
            such locks, for example on some network drives, `held` of the lock is false.
        """
        if fcntl is None:
            return cls(None)
        try:
            descriptor = os.open(folder, _OPEN)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            return cls(None)
        lock = cls(descriptor)
        if not lock._is_at(folder):
            lock.release()
            return None
        return lock

    @property
    def held(self) -> bool:
        """Whether the system supports the lock."""
        return self._descriptor is not None

    def release(self) -> None:
        """Unlock the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _is_at(self, folder: Path) -> bool:
        assert self._descriptor is not None  # noqa: S101 - for the type checker
        try:
            here, there = os.fstat(self._descriptor), folder.lstat()
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


@contextlib.contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new private folder, and remove it at the end of the block.

    Folders of killed processes with the same prefix are removed first.

    Args:
        parent: parent of the folder.
        prefix: start of its name.

    Raises:
        OSError: `parent` cannot be written.
    """
    remove_leftovers(parent, prefix)
    folder, lock = locked_folder(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def locked_folder(parent: Path, prefix: str, mode: int = 0o700) -> tuple[Path, FolderLock]:
    """Create a folder with a lock that protects it from `remove_leftovers`. Raises OSError."""
    while True:
        folder = parent / f"{prefix}{uuid.uuid4().hex[:16]}"
        folder.mkdir(mode=mode)
        lock = FolderLock.take(folder)
        if lock is not None:  # otherwise another process removed it as a leftover before it was locked
            return folder, lock


def remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove folders of `locked_folder` with this prefix that no process has locked."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):  # noqa: PTH208 - only names are needed
            if name.startswith(prefix) and len(name) == len(prefix) + 16:
                remove_if_left(parent / name)


def remove_if_left(folder: Path, without_lock: bool = False) -> None:
    """Remove a folder of this user that no process has locked; links are ignored.

    Args:
        folder: the folder.
        without_lock: also where the system has no such locks, and it is not known whether a process uses the folder.
    """
    if not owned(folder):
        return
    lock = FolderLock.take(folder, wait=False)
    if lock is None:
        return
    if lock.held or without_lock:
        shutil.rmtree(folder, ignore_errors=True)
    lock.release()


def owned(folder: Path) -> bool:
    """Whether the path is a folder of the current user, and not a link."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())
