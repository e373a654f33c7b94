"""Files and standard input with texts."""

import sys
from pathlib import Path
from typing import BinaryIO, Final

from runtime.errors import InputError
from runtime.text.texts import Text

LARGEST: Final = 256_000_000  # bytes; as texts they take several times as much memory
STANDARD_INPUT: Final = "-"


def read_limited(path: Path) -> bytes:
    """Return the content of a file, which may be a pipe or a device without an end.

    Raises:
        OSError: the file cannot be read.
        InputError: it has more than LARGEST bytes.
    """
    with path.open("rb") as file:
        return _limited(file, str(path))


def read_texts(name: str, option: str) -> list[Text]:
    """Return the texts of a file, one a line, or two with a TAB between them. Lines without a text are left out.

    Args:
        name: path of the file; "-" for standard input.
        option: the option that names the file, for messages.

    Raises:
        InputError: the file cannot be read or is too large, or a line is not UTF-8 or has more than one TAB.
    """
    content = b""
    try:
        if name != STANDARD_INPUT:
            content = read_limited(Path(name))
        elif sys.stdin is not None:
            content = _limited(sys.stdin.buffer, option)
        else:  # Python has no standard input where it is closed
            raise InputError(f"{option} {name}: standard input is closed")
        lines = content.decode("utf-8-sig").split("\n")  # not splitlines(), which also breaks at U+2028 and the like
    except OSError as error:
        raise InputError(f"{option} {name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{option} {name}: line {line}: expected UTF-8, found: {error.reason}; convert the file") from error
    texts: list[Text] = []
    for number, line_text in enumerate(lines, 1):
        parts = line_text.rstrip("\r").split("\t")
        if len(parts) > 2:
            raise InputError(f"{option} {name}: line {number}: expected at most one TAB, found {len(parts) - 1}")
        if any(part.strip() for part in parts):
            texts.append((parts[0], parts[1]) if len(parts) == 2 else parts[0])
    return texts


def _limited(file: BinaryIO, name: str) -> bytes:
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise InputError(f"{name}: expected at most {LARGEST:,} bytes: split the file")
    return content
