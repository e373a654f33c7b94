"""A folder of task files, which a service adds when a request needs them."""

import os
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

from runtime.errors import InputError

SUFFIX: Final = ".safetensors"


class TakesTasks(Protocol):
    """The part of `runtime.Predictor` to which tasks are added."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks."""

    def add_task(self, name: str, file: str | os.PathLike[str]) -> None:
        """Add a task."""

    def replace_task(self, name: str, file: str | os.PathLike[str]) -> None:
        """Replace a task that was added."""


class TaskFolder:
    """Adds the file NAME.safetensors of a folder as the task NAME."""

    def __init__(self, folder: str | os.PathLike[str], predictor: TakesTasks) -> None:
        """Set the folder.

        Raises:
            InputError: there is no such folder.
        """
        self._folder = Path(folder)
        if not self._folder.is_dir():
            raise InputError(f"task_files: expected a folder of files of `python -m exporter task`, found none at {folder}")
        self._predictor = predictor
        self._loaded: dict[str, tuple[int, ...]] = {}
        self._lock = Lock()

    def is_current(self, name: str) -> bool:
        """Return whether a task is loaded, and its file is the same as then."""
        return name in self._loaded and self._loaded[name] == self._version(name)

    def _version(self, name: str) -> tuple[int, ...]:
        try:
            found = (self._folder / f"{name}{SUFFIX}").stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def load(self, name: str) -> None:
        """Add a task; one whose file has changed is replaced by the file as it is now.

        Raises:
            InputError: there is no such file, or it does not fit the bundle.
        """
        # A name comes from a request: it must not lead out of the folder
        is_plain = name == Path(name).name and not name.startswith(".") and name.isprintable()
        path = self._folder / f"{name}{SUFFIX}"
        try:
            is_there = is_plain and path.is_file()
        except OSError:  # a name that is longer than the system allows
            is_there = False
        if not is_there:
            raise InputError(f"tasks: expected a task of the bundle or of the task files, found {name[:100]!r}")
        with self._lock:
            version = self._version(name)
            if name not in self._predictor.tasks:
                self._predictor.add_task(name, path)
            elif not self.is_current(name):
                self._predictor.replace_task(name, path)
            self._loaded[name] = version
