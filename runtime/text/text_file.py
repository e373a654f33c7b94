"""Texts from a file or standard input."""

import sys
from pathlib import Path

from runtime.errors import InputError
from runtime.text.texts import Text


def read_texts(name: str) -> list[Text]:
    """Read the texts of a file: one per line, a TAB between the texts of a pair, empty lines ignored.

    Args:
        name: path of the file; "-" for standard input.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or has a line with more than one TAB; the message names the line.
    """
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        lines = content.decode("utf-8-sig").split("\n")  # not splitlines(), which also breaks at U+2028 and the like
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}: line {line}: expected UTF-8, found: {error.reason}; convert the file") from error
    texts: list[Text] = []
    for number, line_text in enumerate(lines, 1):
        parts = line_text.rstrip("\r").split("\t")
        if len(parts) > 2:
            raise InputError(f"{name}: line {number}: expected at most one TAB, found {len(parts) - 1}")
        if any(part.strip() for part in parts):
            texts.append(tuple(parts) if len(parts) == 2 else parts[0])
    return texts
