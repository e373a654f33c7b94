"""What `--overwrite` may delete: an earlier export, and nothing else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from exporter.errors import ExportError
from runtime.bundle import MANIFEST

_SHOWN = 10


def check_replaceable(folder: Path, shown: Path | None = None) -> None:
    """Refuse to replace a folder that is no earlier export, of any version, or holds what none wrote.

    Args:
        folder: the folder as it is now.
        shown: its name in messages, where it is another one.

    Raises:
        ExportError: it has no readable manifest, or files that its manifest does not list, which are named.
        OSError: it cannot be read.
    """
    name = str(folder if shown is None else shown)
    if not (folder / MANIFEST).exists():
        raise ExportError(f"the output folder {name!r} was not written by an export (no {MANIFEST}): name another one")
    listed = _listed(folder)
    if listed is None:
        raise ExportError(
            f"the output folder {name!r} was not written by an export ({MANIFEST} does not list its files): name another one"
        )
    surplus = sorted(
        path.name + "/" * _is_folder(path)
        for path in folder.iterdir()
        if path.name not in {*listed, MANIFEST} or _is_folder(path)
    )
    if surplus:
        more = f" and {len(surplus) - _SHOWN} more" if len(surplus) > _SHOWN else ""
        raise ExportError(
            f"the output folder {name!r} holds what no export wrote, and --overwrite would delete it: "
            f"{', '.join(surplus[:_SHOWN])}{more}; move it elsewhere, or name another output"
        )


def check_sources(output: Path, sources: Iterable[object]) -> None:
    """Refuse sources that would be deleted with the folder that is replaced.

    Args:
        output: the folder to write; where there is none yet, nothing can be lost.
        sources: models, adapters, files with texts and the like; what is no path of something on this machine is ignored, and
            NAME=SOURCE is read as both.

    Raises:
        ExportError: a source lies in `output`, links followed.
    """
    if not output.exists():
        return
    inside = output.resolve()
    for source in sources:
        if isinstance(source, Mapping):
            check_sources(output, source.values())
        elif isinstance(source, str | os.PathLike):
            text = os.fspath(source)
            for path in (text, text.partition("=")[2]):
                if _lies_in(path, inside):
                    raise ExportError(
                        f"the source {text!r} lies in the output folder {str(output)!r}, which --overwrite would delete: name "
                        "another output"
                    )


def _listed(folder: Path) -> set[str] | None:
    """The files that the manifest in `folder` lists, whatever its version; None where it is no manifest."""
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


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _lies_in(text: str, folder: Path) -> bool:
    if not text or "\0" in text:
        return False
    try:
        path = Path(text).expanduser()
        return path.exists() and path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # too long a name, a link to itself, no such user
        return False
