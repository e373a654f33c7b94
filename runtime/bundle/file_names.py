"""Names of the files in a bundle, which may be written on one system and read on another."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

GRAPHS: Final = "onnx/"  # the only folder in a bundle: transformers.js, Optimum and sentence-transformers look for graphs there

# What Windows takes for a separator, a drive or a stream of a file, or refuses; POSIX separates with the slash only
_UNSAFE: Final = re.compile(r'[\x00-\x1f/\\:*?"<>|]')
# Devices in every folder of Windows, with any extension: reading CON waits for the keyboard
_DEVICE: Final = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE | re.DOTALL
)


def is_plain(name: str) -> bool:
    """Whether a name is that of a file in the folder itself, on every system.

    Args:
        name: a name in a manifest. Windows leaves out dots and spaces at the end, so that such a name is that of another file.
    """
    return bool(name) and name[-1] not in ". " and not _UNSAFE.search(name) and not _DEVICE.fullmatch(name)


def flat_name(name: str) -> str:
    """Return a plain name for a file of a bundle that may be in its folder of graphs."""
    return name.replace("/", "_")


def name_problems(names: Iterable[str], own: str, folder: str = "") -> Iterator[str]:
    """Yield a message for each name that is not plain, is that of the list itself, or differs from another one only in case.

    Args:
        names: the names of the listed files.
        own: the name of the file that lists them.
        folder: a folder in which files may be, such as "onnx/".
    """
    seen = {own.casefold(): own}
    for name in names:
        if not is_plain(name.removeprefix(folder)) or name == own or name == folder.removesuffix("/"):
            yield f"files: expected plain names of other files in the folder, found {name!r}"
        elif (other := seen.setdefault(name.casefold(), name)) != name:
            yield f"files: expected names that differ in more than case, found {other!r} and {name!r}"
