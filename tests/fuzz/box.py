"""The box of a case: a folder tree in which it runs, and that is watched for files that it must not make or change."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events that change files -> the positions of the paths among their arguments.
_CHANGES = {
    **dict.fromkeys(
        ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime", "shutil.rmtree"), (0,)
    ),
    **dict.fromkeys(("os.rename", "os.link", "shutil.move"), (0, 1)),
    **dict.fromkeys(("os.symlink", "shutil.copyfile", "shutil.copytree"), (1,)),
}


@dataclass(frozen=True)
class Box:
    """The folders of a case.

    Attributes:
        root: the box; `outside/`, `home/` and everything else in it must stay as it is.
        seeds: the folder of the seeds, outside of the box.
        given: the folder of the seed with the changes of the case.
        output: where an export writes; next to it, the exporter stages its folder.
        current: the working directory.
        temporary: for temporary files, which are not watched.
    """

    root: Path
    seeds: Path

    @property
    def given(self) -> Path:
        return self.root / "given"

    @property
    def output(self) -> Path:
        return self.root / "results" / "output"

    @property
    def current(self) -> Path:
        return self.root / "current"

    @property
    def temporary(self) -> Path:
        return self.root / "temporary"

    def seed(self, name: str) -> Path:
        return self.seeds / name

    def prepare(self, seed: str) -> None:
        """Make the box anew, with a copy of a seed; without a name, with an empty folder."""
        if self.root.exists():
            shutil.rmtree(self.root)
        self.root.mkdir(parents=True)
        self.given.mkdir()
        self.give(seed)
        for name in ("outside", "home", "current", "temporary", "results"):
            (self.root / name).mkdir()
        (self.root / "outside" / "secret.txt").write_text("a file of the user")
        (self.root / "current" / "notes.txt").write_text("a user's file")

    def give(self, seed: str) -> None:
        """Replace only the copy of the seed."""
        shutil.rmtree(self.given)
        if seed:
            shutil.copytree(self.seed(seed), self.given, symlinks=True)
        else:
            self.given.mkdir()

    def is_used(self) -> bool:
        """Whether there are files in the folders that are not watched."""
        return self.output.exists() or any(self.temporary.iterdir())

    def snapshot(self) -> dict[str, tuple[Any, ...]]:
        """Return the state of every file that must stay as it is."""
        return dict(_states(str(self.root), {str(self.temporary), str(self.output)}))


def _states(folder: str, unwatched: set[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.path in unwatched:
                continue
            found = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                yield entry.path, (found.st_mode,)
                yield from _states(entry.path, unwatched)
            else:
                yield entry.path, (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns)


class WriteWatch:
    """An audit hook that collects the paths that Python code changes outside of a box; it cannot be removed again."""

    def __init__(self) -> None:
        self.root = ""
        self.found: list[str] = []
        self._busy = False
        sys.dont_write_bytecode = True  # what Python compiles for an import is not written by a case
        sys.addaudithook(self._on)

    def _on(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.root or self._busy:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(flags, int) and flags & _WRITES) or (isinstance(mode, str) and set(mode) & set("wax+"))
            paths = [path] if writes else []
        else:
            paths = [arguments[position] for position in _CHANGES.get(event, ())]
        self._busy = True
        for path in paths:
            # A folder that is there is not made, although the event is the same.
            made = event != "os.mkdir" or (isinstance(path, str | os.PathLike) and not os.path.isdir(path))  # noqa: PTH112
            if made and isinstance(path, str | bytes | os.PathLike) and not self._is_inside(path):
                self.found.append(f"{event} {os.fsdecode(path)!r}")
        self._busy = False

    def _is_inside(self, path: Any) -> bool:
        real = os.path.realpath(Path(os.fsdecode(path)).parent)
        return f"{real}/".startswith((f"{self.root}/", "/dev/", "/proc/"))
