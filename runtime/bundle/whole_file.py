"""Single files that are written as a whole, and the check of what they replace."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from runtime.bundle.manifest import MANIFEST, read_manifest
from runtime.errors import BundleError


def write_whole(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file so that it is always complete: readers find the earlier one, or all of the new one.

    Args:
        path: the file; an existing one is replaced. Its permissions are those of any new file.
        parts: the content.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    # Of the name only a part, so that this one is not too long where that one is not
    scratch = path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex[:16]}")
    try:
        with scratch.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise


def unreplaceable(path: Path, folder: str | os.PathLike[str], is_own: Callable[[Path], bool]) -> str:
    """Return why an output must not replace the file at its path: such a file is one that the command reads, or a stranger's.

    Args:
        path: the output.
        folder: folder of the bundle that the command reads.
        is_own: whether an existing file is an earlier output of the same kind.

    Returns:
        A message; empty if there is nothing, an empty file or an earlier output.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.is_file() or not path.stat().st_size:  # a folder, a device and a pipe have errors of their own
        return ""
    if belongs_to_bundle(path, folder):
        return f"is a file of the bundle {os.fspath(folder)}; name another file"
    return "" if is_own(path) else "exists, and is not an earlier output of this command; name another file, or remove it"


def belongs_to_bundle(path: Path, folder: str | os.PathLike[str]) -> bool:
    """Whether a path refers to the manifest of a bundle or to a file that it lists, also through links."""
    try:
        names = [MANIFEST, *read_manifest(folder).files]
        found = path.stat()
    except (OSError, BundleError):
        return False
    for name in names:
        with contextlib.suppress(OSError):
            if os.path.samestat(found, (Path(folder) / name).stat()):
                return True
    return False
