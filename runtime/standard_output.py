"""Standard output, which may be closed, full, or without a reader."""

import contextlib
import os
import sys
from collections.abc import Iterator

from runtime.errors import InputError


def print_text(text: str) -> None:
    """Print a text, if there is one.

    Raises:
        InputError: standard output cannot be written.
        BrokenPipeError: its reader has closed it.
    """
    if not text:  # standard output has what a stream wrote
        return
    if hasattr(sys.stdout, "reconfigure"):  # a terminal without a character shows its code, there is no traceback
        sys.stdout.reconfigure(errors="backslashreplace")
    with written():
        print(text)


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Write what the block prints. Raises InputError if standard output cannot be written, BrokenPipeError without a reader."""
    try:
        yield
        if sys.stdout is not None:  # closed by the shell
            sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename is not None:  # a file that the block reads or writes
            raise
        discard_output()
        raise InputError(f"standard output cannot be written: {error.strerror or error}") from error


def discard_output() -> None:
    """Let Python's own flush at the end of the process write to nowhere."""
    with contextlib.suppress(OSError, ValueError):
        target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, sys.stdout.fileno())
        os.close(target)
