"""Files of measurements, which are replaced as a whole: an interrupted run leaves the last complete one."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from exporter.advise.metrics import Array
from exporter.errors import ExportError
from runtime.bundle.scratch import FolderLock
from runtime.bundle.whole_file import write_whole


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder of measurements: they would remove each other's graphs and disturb the times.

    Args:
        folder: the folder, which is created.

    Raises:
        ExportError: another run measures there, or the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"the output {folder} cannot be written: {error.strerror or error}") from error
    lock = FolderLock.take(folder, wait=False)
    if lock is None:
        raise ExportError(f"another run of the same request measures in {folder}: wait for it, or choose another --output")
    try:
        yield
    finally:
        lock.release()


def replace_text(path: Path, text: str) -> None:
    """Write a text to `path`. Raises ExportError."""
    replace_bytes(path, text.encode())


def replace_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays to `path`, as numpy.savez. Raises ExportError."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    replace_bytes(path, content.getvalue())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write bytes to `path`. Raises ExportError."""
    with writing(path):
        write_whole(path, [content])


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path` or files in it, into an ExportError that names it."""
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written: {error.strerror or error}; after that is mended, the same command continues"
        ) from error
