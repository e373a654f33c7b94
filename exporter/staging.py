"""Writes a folder as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from runtime.bundle import MANIFEST

from .errors import ExportError

# Config, tokenizer, manifest and the graph without its weights are a few megabytes at most.
_ROOM_FOR_SMALL_FILES = 32_000_000


def check_destination(output: Path, overwrite: bool) -> None:
    """Refuses, before any work is done, a destination that the export could not take in the end.

    Raises:
        ExportError: `output` is a file, a folder with something in it, or in a place that cannot be written.
    """
    try:
        if output.is_symlink() or (output.exists() and not output.is_dir()):
            raise ExportError(f"the output {str(output)!r} is no folder: name a folder that is new or empty")
        if output.exists() and any(output.iterdir()):
            if not overwrite:
                raise ExportError(f"the output folder {str(output)!r} is not empty: name another one, or pass --overwrite")
            if not (output / MANIFEST).exists():
                # --overwrite replaces the folder as a whole; nobody means to lose a folder of other things.
                raise ExportError(
                    f"the output folder {str(output)!r} was not written by an export (no {MANIFEST}): name another one"
                )
        parent = next(path for path in output.absolute().parents if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise ExportError(f"the output {str(output)!r} cannot be written: no permission to write in {str(parent)!r}")
    except OSError as error:
        raise ExportError(f"the output {str(output)!r} cannot be written: {error}") from error


def check_space(output: Path, needed: int) -> None:
    """Refuses an export that will not fit, before a byte is written.

    Raises:
        ExportError: fewer than `needed` bytes, and some for small files, are free where `output` goes.
    """
    parent = next(path for path in output.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    if free < needed + _ROOM_FOR_SMALL_FILES:
        raise ExportError(
            f"no space left for {str(output)!r}: the export needs {(needed + _ROOM_FOR_SMALL_FILES) / 1e6:.0f} MB, "
            f"{free / 1e6:.0f} MB are free; make room or name an output on another disk"
        )


@contextlib.contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A folder beside `output` that becomes `output` when the block ends well and vanishes when it does not.

    What a killed export left behind is removed by the next export to the same place.

    Raises:
        ExportError: the disk is full or refuses.
    """
    partial = output.absolute().parent / f".{output.name}.partial-{os.getpid()}"
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(output)
        partial.mkdir()
        try:
            yield partial
            _replace(partial, output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ExportError(f"the output {str(output)!r} cannot be written, nothing was kept: {error}") from error


def _replace(partial: Path, output: Path) -> None:
    if not output.exists():
        partial.rename(output)
        return
    old = output.absolute().parent / f".{output.name}.replaced-{os.getpid()}"
    output.rename(old)
    try:
        partial.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(output: Path) -> None:
    for folder in output.absolute().parent.glob(f".{output.name}.*-*"):
        kind, _, pid = folder.name.removeprefix(f".{output.name}.").rpartition("-")
        if kind in ("partial", "replaced") and pid.isdigit() and not _alive(int(pid)):
            if kind == "replaced" and not output.exists():
                folder.rename(output)  # killed between the two renames: this is the folder that was to be replaced
            else:
                shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
