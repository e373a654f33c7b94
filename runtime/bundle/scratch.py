"""Temporary folders and files that the next process removes if their process was killed.

A lock on the folder or file shows that its process is alive. Process ids do not: containers that share a disk use the same ids.
"""

import contextlib
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

_FLAGS = ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK")  # the last, because a named pipe would wait for a writer
_OPEN = os.O_RDONLY | sum(getattr(os, name, 0) for name in _FLAGS)
_ID = 16  # characters at the end of a name


class FolderLock:
    """A lock on a folder or file, which stays with it when it is renamed, until `release` or the end of the process."""

    def __init__(self, descriptor: int | None) -> None:
        """Wrap the descriptor of a locked folder; None if the system does not support locks."""
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, wait: bool = True) -> "FolderLock | None":
        """Lock a folder or file.

        Args:
            folder: the folder or file.
            wait: wait until other processes have released it.

        Returns:
            The lock; None if another process holds it and `wait` is false, or if nothing is there. On systems without such
            locks, for example on some network drives, `held` of the lock is false.
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
        folder = parent / f"{prefix}{uuid.uuid4().hex[:_ID]}"
        folder.mkdir(mode=mode)
        lock = FolderLock.take(folder)
        if lock is not None:  # otherwise another process removed it as a leftover before it was locked
            return folder, lock


@contextlib.contextmanager
def scratch_file(parent: Path, prefix: str, tidy: bool = True) -> Iterator[Path]:
    """Yield a new empty file, and remove it at the end of the block unless it was renamed.

    Args:
        parent: folder of the file.
        prefix: start of its name.
        tidy: first remove the files of killed processes with the same prefix.

    Raises:
        OSError: `parent` cannot be written.
    """
    if tidy:
        _remove_left_files(parent, prefix)
    lock = None
    while lock is None:
        file = parent / f"{prefix}{uuid.uuid4().hex[:_ID]}"
        try:
            file.open("xb").close()
            lock = FolderLock.take(file)  # None if another process removed it as a leftover before it was locked
        except BaseException:
            _unlink(file)
            raise
    try:
        yield file
    finally:
        _unlink(file)
        lock.release()


def remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove folders of `locked_folder` with this prefix that no process has locked."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):  # noqa: PTH208 - only names are needed
            if name.startswith(prefix) and len(name) == len(prefix) + _ID:
                remove_if_left(parent / name)


def _remove_left_files(parent: Path, prefix: str) -> None:
    """Remove files of `scratch_file` with this prefix that no process has locked."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):  # noqa: PTH208 - only names are needed
            file = parent / name
            if name.startswith(prefix) and len(name) == len(prefix) + _ID and owned(file, stat.S_ISREG):
                lock = FolderLock.take(file, wait=False)
                if lock is not None:
                    if lock.held:
                        _unlink(file)
                    lock.release()


def _unlink(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


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


def owned(path: Path, is_kind: Callable[[int], bool] = stat.S_ISDIR) -> bool:
    """Whether the path is a folder (or of another kind, by its mode) of the current user, and not a link."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return is_kind(found.st_mode) and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())
