"""Folders that exist while something is made in them, and that the next process removes where one was killed.

A lock tells whether its maker is alive. Process numbers do not: two containers that share a disk have the same ones.
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
    """A lock on a folder: of the folder itself, wherever it is moved, until `release` or the end of the process."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, wait: bool = True) -> "FolderLock | None":
        """Lock `folder`. None where another process holds it and `wait` is false, and where it is no folder any more.

        Where the system has no such locks, as on some network drives, nothing is locked; `held` is then false.
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
        """Whether there is really a lock."""
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
    """A new folder in `parent` whose name begins with `prefix`, private to this user, and removed at the end of the block.

    What killed processes left behind under that prefix is removed first.

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
    """A new folder in `parent`, and the lock that keeps `remove_leftovers` away from it. Raises OSError."""
    while True:
        folder = parent / f"{prefix}{uuid.uuid4().hex[:16]}"
        folder.mkdir(mode=mode)
        lock = FolderLock.take(folder)
        if lock is not None:  # or else it was taken for a leftover before it was locked
            return folder, lock


def remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove the folders that `locked_folder` made in `parent` under `prefix` and that no living process holds."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):  # noqa: PTH208 - names with odd characters need no pattern
            if name.startswith(prefix) and len(name) == len(prefix) + 16:
                remove_if_left(parent / name)


def remove_if_left(folder: Path) -> None:
    """Remove `folder` where it is a folder of this user that no living process holds. A link is left alone."""
    if not owned(folder):
        return
    lock = FolderLock.take(folder, wait=False)
    if lock is None:
        return
    if lock.held:
        shutil.rmtree(folder, ignore_errors=True)
    lock.release()


def owned(folder: Path) -> bool:
    """Whether that is a folder, no link, and this user's."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())
