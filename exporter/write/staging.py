"""Atomic creation and replacement of the output folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from exporter.errors import ExportError
from exporter.write.exchange import exchange, flush, flush_names
from exporter.write.moving import check_unused, in_use, move
from exporter.write.replaceable import check_replaceable
from runtime.bundle import MANIFEST
from runtime.bundle.scratch import FolderLock, remove_if_left

# Bytes. Configuration, tokenizer, manifest and the graph without its weights take at most a few megabytes.
_SMALL_FILES_BYTES = 32_000_000
_LEFTOVER = re.compile(r"(partial|replaced)-[0-9]+-[0-9a-f]{16}", re.ASCII)
_NAME_BYTES = 200  # of the output; longer names leave too little room for a prefix and a suffix
_TRIES = 100  # to replace the output while other processes change it


def check_destination(output: Path, overwrite: bool) -> None:
    """Check, before any work is done, that the output folder can be written.

    Args:
        output: the folder to create or replace.
        overwrite: whether an earlier export there may be replaced.

    Raises:
        ExportError: `output` is a file, a folder that is not empty and may not be replaced, or in a folder without write
            permission; or, on Windows, a program has one of its files open.
    """
    try:
        if output.is_symlink():
            found = os.path.realpath(output)
            raise ExportError(
                f"the output {str(output)!r} is a link, which is never replaced: name the folder {found!r} itself"
            )
        if output.exists() and not output.is_dir():
            raise ExportError(f"the output {str(output)!r} is not a folder: choose a new or empty folder")
        if output.exists() and any(output.iterdir()):
            if not overwrite:
                raise ExportError(f"the output folder {str(output)!r} is not empty: choose another one, or pass --overwrite")
            # --overwrite replaces the whole folder and must not delete unrelated files.
            check_replaceable(output)
            check_unused(output)
        parent = next(path for path in output.absolute().parents if path.exists())
        if not parent.is_dir():
            raise ExportError(f"the output {str(output)!r} cannot be written: {str(parent)!r} is a file, not a folder")
        if not os.access(parent, os.W_OK | os.X_OK):
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
def staged(output: Path, overwrite: bool, continued: bytes | None = None) -> Iterator[Path]:
    """Yield a temporary folder that becomes `output` when the block succeeds and is removed when it fails.

    The next export to `output` removes the temporary folders of killed exports.

    Args:
        output: the folder to create or replace.
        overwrite: whether an earlier export there may be replaced.
        continued: the manifest of the earlier export whose tasks the new folder has as well; None for other folders.

    Raises:
        ExportError: a file cannot be written, for example because the disk is full, or another process wrote to `output`.
    """
    output = output.absolute()
    created: list[Path] = []
    try:
        _make_parents(output, created)
        _remove_leftovers(output)
        partial, lock = _make_partial(output)
        identity = partial.stat()
        try:
            yield partial
            check_destination(output, overwrite)
            _check_continued(output, output, continued)
            flush(partial)
            _replace(partial, output, overwrite, continued)
            with contextlib.suppress(OSError):  # the output is complete for every process; only a power failure can undo it
                flush_names(output.parent)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, KeyboardInterrupt) and _is_at(output, identity):
                raise KeyboardInterrupt(f"{output} is written") from error
            if isinstance(error, Exception):  # which may come from files of two bundles
                _check_continued(output, output, continued)
            raise
        finally:
            lock.release()
    except BaseException as error:
        for folder in reversed(created):
            with contextlib.suppress(OSError):  # used by another export
                folder.rmdir()
        if isinstance(error, OSError):
            raise ExportError(f"the output {str(output)!r} cannot be written, nothing was kept: {error}") from error
        raise


def _make_parents(output: Path, created: list[Path]) -> None:
    """Create the folders that `output` needs, and append each of them to `created`; a failure may come half-way."""
    for left in reversed(range(_TRIES)):
        try:
            # From the top: whether a path with `..` exists is known only when the folder before it is there
            for folder in reversed(output.parents):
                if not folder.is_dir() and _make(folder):
                    created.append(folder)
        except FileNotFoundError:  # another export that failed has removed what it created
            if not left:
                raise
        else:
            return


def _make(folder: Path) -> bool:
    """Create a folder, and return whether it was not there."""
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():  # otherwise another export has created it
            raise
        return False
    return True


def _is_at(path: Path, identity: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), identity)
    except OSError:
        return False


def _sibling(output: Path, kind: str) -> Path:
    """A hidden, unique path in the parent folder of `output`; it contains the id of this process, for people."""
    return output.parent / f".{_label(output)}.{kind}-{os.getpid()}-{uuid.uuid4().hex[:16]}"


def _label(output: Path) -> str:
    """The name of `output`, or a hash of it if the name is too long."""
    name = output.name
    return name if len(os.fsencode(name)) <= _NAME_BYTES else hashlib.sha256(os.fsencode(name)).hexdigest()


def _make_partial(output: Path) -> tuple[Path, FolderLock]:
    while True:
        partial = _sibling(output, "partial")
        partial.mkdir()
        try:
            lock = FolderLock.take(partial)
        except BaseException:
            with contextlib.suppress(OSError):  # another export has removed it
                partial.rmdir()
            raise
        if lock is not None:  # otherwise another export removed it as a leftover before it was locked
            return partial, lock


def _replace(partial: Path, output: Path, overwrite: bool, continued: bytes | None) -> None:
    for _ in range(_TRIES):
        try:
            move(partial, output)  # succeeds if `output` does not exist or, except on Windows, is empty
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return
        with contextlib.suppress(OSError):
            output.rmdir()  # if it is empty
            continue
        if not overwrite:
            check_destination(output, overwrite)
            continue
        try:
            if not exchange(partial, output):
                _replace_in_two_steps(partial, output, continued)
                return
        except FileNotFoundError:  # another process removed the output
            if not partial.exists():
                raise
            continue
        try:
            # Again: other processes had access to it until the exchange
            check_replaceable(partial, output)
            _check_continued(partial, output, continued)
        except BaseException:
            exchange(partial, output)
            raise
        shutil.rmtree(partial, ignore_errors=True)
        return
    raise ExportError(f"the output folder {str(output)!r} is being changed by another process: choose another one")


def _replace_in_two_steps(partial: Path, output: Path, continued: bytes | None) -> None:
    old, lock = _sibling(output, "replaced"), FolderLock.take(output)
    try:
        try:
            move(output, old)
        except PermissionError as error:
            if sys.platform != "win32":
                raise
            raise in_use(output) from error
        try:
            check_replaceable(old, output)
            _check_continued(old, output, continued)
            move(partial, output)
        except BaseException:
            move(old, output)
            raise
        # On Windows, files that a predictor has mapped stay: the next export removes them
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if lock is not None:
            lock.release()


def _check_continued(old: Path, output: Path, continued: bytes | None) -> None:
    if continued is not None and (old / MANIFEST).read_bytes() != continued:
        raise ExportError(
            f"{str(output)!r} was replaced by another process while tasks were added to it, and is left as that one wrote it: "
            "run the command again"
        )


def _remove_leftovers(output: Path) -> None:
    prefix = f".{_label(output)}."
    try:
        folders = list(output.parent.iterdir())
    except OSError:  # the folder is writable but not readable
        return
    for folder in folders:
        kind = _LEFTOVER.fullmatch(folder.name.removeprefix(prefix)) if folder.name.startswith(prefix) else None
        if kind is None:
            continue
        if kind[1] == "replaced" and not output.exists():
            lock = FolderLock.take(folder, wait=False)
            if lock is not None and lock.held:
                folder.rename(output)  # killed between the two renames: restore the earlier export
            if lock is not None:
                lock.release()
        else:
            # A replaced folder is of no use once the output is there; a partial one may be that of another process
            remove_if_left(folder, without_lock=kind[1] == "replaced")
