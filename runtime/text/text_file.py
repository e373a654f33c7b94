"""Files that are read as a whole."""

from typing import IO, Final

from runtime.errors import InputError

LARGEST: Final = 256_000_000  # bytes; as texts they take several times as much memory
STANDARD_INPUT: Final = "-"


def limited(file: IO[bytes], name: str) -> bytes:
    """Return the rest of an open file, which may be a pipe or a device without an end.

    Raises:
        InputError: it has more than LARGEST bytes.
    """
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise InputError(f"{name}: expected at most {LARGEST:,} bytes: split the file")
    return content
