"""Checks that `--overwrite` deletes only an earlier export."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from exporter.errors import ExportError
from runtime.bundle import MANIFEST
from runtime.bundle.compiled_entry import COMPILED, RECORD, CompiledEntry
from runtime.bundle.file_names import GRAPHS
from runtime.bundle.files import BoundFolder
from runtime.errors import BundleError

_SHOWN = 10


def check_replaceable(folder: Path, shown: Path | None = None) -> None:
    """Check that a folder contains an export, of any version, and nothing else.

    Args:
        folder: the folder.
        shown: its path in messages, if that is not the current one.

    Raises:
        ExportError: the manifest is missing or invalid, or there are files that it does not list; the message names them.
        OSError: the folder cannot be read.
    """
    name = str(folder if shown is None else shown)
    if not (folder / MANIFEST).exists():
        raise ExportError(f"the output folder {name!r} was not written by an export (no {MANIFEST}): choose another one")
    listed = _listed(folder)
    if listed is None:
        raise ExportError(
            f"the output folder {name!r} was not written by an export ({MANIFEST} does not list its files): choose another one"
        )
    surplus = sorted(
        found + "/" * _is_folder(path)
        for found, path in _contents(folder, listed)
        if (found not in {*listed, MANIFEST} or _is_folder(path))
        and not (found == COMPILED and _is_compiled_folder(path))  # made from the export, and useless without it
    )
    if surplus:
        more = f" and {len(surplus) - _SHOWN} more" if len(surplus) > _SHOWN else ""
        raise ExportError(
            f"the output folder {name!r} contains files that no export wrote, and --overwrite would delete them: "
            f"{', '.join(surplus[:_SHOWN])}{more}; move them, or choose another output"
        )


def check_sources(output: Path, sources: Iterable[object]) -> None:
    """Check that no source would be deleted with the output folder that is replaced.

    Args:
        output: the folder to write.
        sources: models, adapters, calibration files and so on, also in lists and mappings, and also as NAME=SOURCE or
            SOURCE:SUBFOLDER; a source that is not an existing path is ignored.

    Raises:
        ExportError: a source is in `output`, after links are resolved.
    """
    if not output.exists():
        return
    inside = output.resolve()
    for source in sources:
        if isinstance(source, Mapping):
            check_sources(output, source.values())
        elif isinstance(source, str | os.PathLike):
            text = os.fspath(source)
            named = (text, text.partition("=")[2])
            for path in (*named, *(each.rpartition(":")[0] for each in named)):  # SOURCE:SUBFOLDER
                if _lies_in(path, inside):
                    raise ExportError(
                        f"the source {text!r} is in the output folder {str(output)!r}, which --overwrite would delete: choose "
                        "another output"
                    )
        elif isinstance(source, Sequence):
            check_sources(output, source)


def _listed(folder: Path) -> set[str] | None:
    """Return the files that the manifest in `folder` lists, for any version; None if it is not a manifest."""
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
    except (ValueError, RecursionError):
        return None
    version, files = (document.get(key) if isinstance(document, dict) else None for key in ("format_version", "files"))
    if not isinstance(version, int) or not isinstance(files, dict):
        return None
    return (
        set(files)
        if all(isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in files.values())
        else None
    )


def _contents(folder: Path, listed: set[str]) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of what is in a folder, and in its folder of graphs in place of that folder itself."""
    for path in folder.iterdir():
        if f"{path.name}/" == GRAPHS and _is_folder(path) and any(name.startswith(GRAPHS) for name in listed):
            yield from ((GRAPHS + each.name, each) for each in path.iterdir())
        else:
            yield path.name, path


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_compiled_folder(folder: Path) -> bool:
    """Whether a folder `compiled` contains only compiled graphs that their records list."""
    try:
        return not folder.is_symlink() and all(_is_complete(each) for each in folder.iterdir())
    except OSError:
        return False


def _is_complete(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        entry = CompiledEntry.read(BoundFolder.open(folder))
    except (BundleError, OSError):
        return False
    return {path.name for path in folder.iterdir()} <= {*entry.files, RECORD}


def _lies_in(text: str, folder: Path) -> bool:
    if not text or "\0" in text:
        return False
    try:
        path = Path(text).expanduser()
        return path.exists() and path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # the name is too long, the link refers to itself, or there is no such user
        return False
