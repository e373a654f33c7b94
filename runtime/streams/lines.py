"""Lines of files that may be larger than memory, compressed, or come from a pipe."""

import csv
import gzip
import os
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from runtime.errors import InputError
from runtime.text.text_file import STANDARD_INPUT

LONGEST: Final = 64_000_000  # bytes of a line; a text has at most 16 million characters
ROW_LINES: Final = 100_000  # of a table, in quotes
_BOM: Final = b"\xef\xbb\xbf"


class Input:
    """An open file, and the share of it that has been read."""

    def __init__(self, file: IO[bytes], raw: IO[bytes], size: int | None) -> None:
        """Wrap an open file.

        Args:
            file: gives the uncompressed bytes.
            raw: the file itself.
            size: its bytes; None if unknown.
        """
        self.file, self._raw, self._size = file, raw, size

    def share(self) -> float | None:
        """Return the share of the file that has been read, from 0 to 1; None if unknown."""
        if not self._size:
            return None
        try:
            return min(1.0, self._raw.tell() / self._size)
        except (OSError, ValueError):  # closed
            return None


@contextmanager
def opened(name: str, option: str = "--file") -> Iterator[Input]:
    """Open a file, a compressed file (.gz) or, for "-", standard input.

    Args:
        name: path of the file.
        option: the option that names it, for messages.

    Raises:
        InputError: it cannot be opened or read, standard input is closed, or the compressed data are damaged.
    """
    if name == STANDARD_INPUT:
        if sys.stdin is None:
            raise InputError(f"{option} {name}: standard input is closed")
        yield Input(sys.stdin.buffer, sys.stdin.buffer, None)
        return
    with unpacked(name, lambda: Path(name).open("rb"), option) as source:
        yield source


@contextmanager
def unpacked(name: str, open_raw: Callable[[], IO[bytes]], option: str = "--file") -> Iterator[Input]:
    """Open a file by a function, and uncompress it if its name ends with .gz.

    Raises:
        InputError: it cannot be opened or read, or the compressed data are damaged.
    """
    try:
        with open_raw() as raw:
            size = raw.seek(0, os.SEEK_END) if raw.seekable() else None
            if size is not None:
                raw.seek(0)
            if name.lower().endswith(".gz"):
                with gzip.open(raw) as file:
                    yield Input(file, raw, size)  # type: ignore[arg-type]  # GzipFile is no IO[bytes], but reads as one
            else:
                yield Input(raw, raw, size)
    except BrokenPipeError:  # of standard output
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{option} {name}: the compressed data are damaged: {error}") from error
    except OSError as error:
        raise InputError(f"{option} {name}: cannot be read: {error.strerror or error}") from error


def lines(file: IO[bytes], where: str = "") -> Iterator[tuple[int, bytes | None]]:
    """Yield the number and the bytes of each line, without its end; None for a line longer than LONGEST, which is discarded.

    Args:
        file: an open file.
        where: its name, for a message about lines that end with CR only; empty if such a file is one line.

    Raises:
        InputError: the lines end with CR only.
    """
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        if number == 1 and where:
            _check_ends(line, where)
        if len(line) > LONGEST:
            _discard(file, line)
            yield number, None
            continue
        if number == 1 and line.startswith(_BOM):  # spreadsheets write one
            line = line[len(_BOM) :]
        yield number, line.rstrip(b"\r\n")


class TextLines:
    """The lines of a file with their ends, for `csv`, which gets those of a broken row again.

    A byte that is not UTF-8 becomes half of a surrogate pair. A line longer than LONGEST is a `csv.Error`, and so is a row of
    more than ROW_LINES lines.

    Attributes:
        number: number of the line that was read last.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        """Read a file from its start; `where` is its name, for messages."""
        self.number = 0
        self._file, self._where = file, where
        self._row: list[str | None] = []  # None for a line that was discarded
        self._again: deque[str | None] = deque()

    def __iter__(self) -> "TextLines":
        """Return the lines."""
        return self

    def __next__(self) -> str:
        """Return the next line. Raises InputError if the lines end with CR only."""
        line = self._again.popleft() if self._again else self._read()
        self.number += 1
        self._row.append(line)
        if line is None:
            raise csv.Error(f"more than {LONGEST:,} bytes in a line")
        if len(self._row) > ROW_LINES:
            raise csv.Error(f"more than {ROW_LINES:,} lines in a row, as after a quote that is not closed")
        return line

    def begin_row(self) -> int:
        """Begin a row, and return the number of its first line."""
        self._row.clear()
        return self.number + 1

    def end_broken_row(self) -> str:
        """Take the first line of the row for the broken one, and return it; the others are read again."""
        first, *rest = self._row
        self._again.extendleft(reversed(rest))
        self.number -= len(rest)
        return first or ""

    def _read(self) -> str | None:
        line = self._file.readline(LONGEST + 1)
        if not line:
            raise StopIteration
        if self.number == 0:
            _check_ends(line, self._where)
        if len(line) > LONGEST:
            _discard(self._file, line)
            return None
        return (line.removeprefix(_BOM) if self.number == 0 else line).decode("utf-8", "surrogateescape")


def _check_ends(first: bytes, where: str) -> None:
    """Raise InputError if the first line is the whole file, and has a CR for each line."""
    if len(first) <= LONGEST and not first.endswith(b"\n") and b"\r" in first[:-1]:
        raise InputError(
            f"{where}: expected lines that end with LF or CRLF, found CR only: convert the file, such as with `tr '\\r' '\\n'`"
        )


def _discard(file: IO[bytes], line: bytes) -> None:
    """Read to the end of a line."""
    while line and not line.endswith(b"\n"):
        line = file.readline(LONGEST)


def too_long() -> dict[str, Any]:
    """Return the fields of a row whose line was discarded."""
    return {"content": b"", "columns": {}, "problem": f"expected at most {LONGEST:,} bytes in a line, found more"}
