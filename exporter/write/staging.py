"""Writes a folder as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from exporter.errors import ExportError
from runtime.bundle import MANIFEST

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
            f"no space left for {str(output)!r}: the export needs at least {(needed + _ROOM_FOR_SMALL_FILES) / 1e6:.0f} MB, "
            f"{free / 1e6:.0f} MB are free; make room or name an output on another disk"
        )


@contextlib.contextmanager
def staged(output: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `output` that becomes `output` when the block ends well and vanishes when it does not.

    What a killed export left behind is removed by the next export to the same place.

    Raises:
        ExportError: the disk is full or refuses, or somebody else wrote to `output` in the meantime.
    """
    partial = _beside(output, "partial")
    created = [parent for parent in partial.parents if not parent.exists()]
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(output)
        partial.mkdir()
        try:
            yield partial
            check_destination(output, overwrite)
            _replace(partial, output)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            for parent in created:
                with contextlib.suppress(OSError):  # another export's by now
                    parent.rmdir()
            raise
    except OSError as error:
        raise ExportError(f"the output {str(output)!r} cannot be written, nothing was kept: {error}") from error


def _beside(output: Path, kind: str) -> Path:
    """A hidden name beside `output` that tells which process made it, and that no other export uses."""
    return output.absolute().parent / f".{output.name}.{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _replace(partial: Path, output: Path) -> None:
    try:
        partial.rename(output)  # onto nothing or an empty folder; never onto one that has something in it
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    else:
        return
    # check_destination has seen an earlier export there, which is to be replaced.
    old = _beside(output, "replaced")
    output.rename(old)
    try:
        partial.rename(output)
    except BaseException:
        old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(output: Path) -> None:
    for folder in output.absolute().parent.glob(f".{glob.escape(output.name)}.*-*-*"):
        kind, pid, _ = folder.name.removeprefix(f".{output.name}.").split("-", 2)
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
