"""Single files that are written as a whole, and the check of what they replace."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from runtime.bundle.manifest import MANIFEST, read_manifest
from runtime.bundle.scratch import scratch_file
from runtime.errors import BundleError

_OTHER: Final = "not a regular file"


def write_whole(path: Path, parts: Iterable[bytes | memoryview], tidy: bool = True) -> None:
    """Write a file so that it is always complete: readers find the earlier one, or all of the new one.

    A process that is killed leaves a hidden file, which the next one that writes the same file removes.

    Args:
        path: the file, or a link to it; an existing one is replaced. Its permissions are those of any new file.
        parts: the content.
        tidy: remove what killed processes left; not needed each time for a file that is written every second.

    Raises:
        OSError: it cannot be written, or is a folder, a device or a pipe; nothing is left.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
        raise OSError(errno.EINVAL, _OTHER)
    # Of the name only a part, so that this one is not too long where that one is not
    with scratch_file(path.parent, f".{path.name[:50]}.partial-", tidy) as scratch:
        with scratch.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)


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
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return ""
    if not path.is_file():
        return f"is {_OTHER}; name another one"
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
