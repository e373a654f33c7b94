"""Atomic creation and replacement of the output folder."""

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

# Bytes. Configuration, tokenizer, manifest and the graph without its weights take at most a few megabytes.
_SMALL_FILES_BYTES = 32_000_000


def check_destination(output: Path, overwrite: bool) -> None:
    """Check, before any work is done, that the output folder can be written.

    Args:
        output: the folder to create or replace.
        overwrite: whether an earlier export there may be replaced.

    Raises:
        ExportError: `output` is a file, a folder that is not empty, or in a folder without write permission.
    """
    try:
        if output.is_symlink() or (output.exists() and not output.is_dir()):
            raise ExportError(f"the output {str(output)!r} is not a folder: choose a new or empty folder")
        if output.exists() and any(output.iterdir()):
            if not overwrite:
                raise ExportError(f"the output folder {str(output)!r} is not empty: choose another one, or pass --overwrite")
            if not (output / MANIFEST).exists():
                # --overwrite replaces the whole folder and must not delete unrelated files.
                raise ExportError(
                    f"the output folder {str(output)!r} was not written by an export (no {MANIFEST}): choose another one"
                )
        parent = next(path for path in output.absolute().parents if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise ExportError(f"the output {str(output)!r} cannot be written: no permission to write in {str(parent)!r}")
    except OSError as error:
        raise ExportError(f"the output {str(output)!r} cannot be written: {error}") from error


def check_space(output: Path, needed: int) -> None:
    """Check, before writing, that there is enough disk space for the export.

    Args:
        output: the folder to write.
        needed: bytes, without small files.

    Raises:
        ExportError: less space is free.
    """
    parent = next(path for path in output.absolute().parents if path.exists())
    free = shutil.disk_usage(parent).free
    if free < needed + _SMALL_FILES_BYTES:
        raise ExportError(
            f"no space left for {str(output)!r}: the export needs at least {(needed + _SMALL_FILES_BYTES) / 1e6:.0f} MB, "
            f"{free / 1e6:.0f} MB are free; free disk space or choose an output on another disk"
        )


@contextlib.contextmanager
def staged(output: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder that becomes `output` when the block succeeds and is removed when it fails.

    The next export to `output` removes the temporary folders of killed exports.

    Args:
        output: the folder to create or replace.
        overwrite: whether an earlier export there may be replaced.

    Raises:
        ExportError: a file cannot be written, for example because the disk is full, or another process wrote to `output`.
    """
    partial = _sibling(output, "partial")
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
                with contextlib.suppress(OSError):  # used by another export
                    parent.rmdir()
            raise
    except OSError as error:
        raise ExportError(f"the output {str(output)!r} cannot be written, nothing was kept: {error}") from error


def _sibling(output: Path, kind: str) -> Path:
    """A hidden, unique path in the parent folder of `output`; it contains the id of this process."""
    return output.absolute().parent / f".{output.name}.{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _replace(partial: Path, output: Path) -> None:
    try:
        partial.rename(output)  # succeeds if `output` does not exist or is empty
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
    else:
        return
    # `output` is an earlier export, as checked by check_destination.
    old = _sibling(output, "replaced")
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
                folder.rename(output)  # killed between the two renames: restore the earlier export
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
