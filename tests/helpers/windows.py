"""A stand-in for the files of Windows: real open and mapped files of this process keep folders and files where they are.

An open file keeps itself and its folder from being renamed and removed, a mapped one only from being removed, and nothing is
renamed to a name that exists. The state of files comes from /proc, so it is that of ONNX Runtime and numpy as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.write import moving
from runtime.bundle import scratch


def as_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let renames, removals and locks be those of Windows for the rest of a test."""
    rename, unlink = os.rename, os.unlink

    def renamed(source: str | Path, target: str | Path) -> None:
        if _inside(source, _open_files()):
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(source))
        if os.path.lexists(target) and str(source) != str(target):
            raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(target))
        rename(source, target)

    def unlinked(path: str | Path, *, dir_fd: None = None) -> None:
        assert dir_fd is None  # a descriptor of a folder: see _use_fd_functions below
        if _inside(path, _open_files() | _mapped_files()):
            raise PermissionError(errno.EACCES, "Access is denied", str(path))
        unlink(path)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "unlink", unlinked)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(scratch, "fcntl", None)
    monkeypatch.setattr(moving, "_WAITS", (0.0, 0.01))


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Map a file without keeping it open, as ONNX Runtime does on Windows; Python's mmap and numpy's memmap keep it open."""
    library, size = ctypes.CDLL(None, use_errno=True), path.stat().st_size
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    with path.open("rb") as file:
        place = library.mmap(None, size, 1, 2, file.fileno(), 0)  # PROT_READ, MAP_PRIVATE
    assert place not in (None, ctypes.c_void_p(-1).value)
    try:
        yield
    finally:
        library.munmap(place, size)


def _inside(path: str | Path, files: set[str]) -> bool:
    whole = os.fspath(Path(path).absolute())
    return any(file == whole or file.startswith(f"{whole}/") for file in files)


def _open_files() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(link.readlink()))
        except OSError:  # that of the listing itself
            continue
    return found


def _mapped_files() -> set[str]:
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return {parts[5] for parts in (line.split(maxsplit=5) for line in lines) if len(parts) == 6}
