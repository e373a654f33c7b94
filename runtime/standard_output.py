"""Standard output and standard error, which may be closed, full, or without a reader."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

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


def flushed(run: Callable[[], int]) -> int:
    """Run a program, and write what is left of standard output; a reader that has read enough, such as `head`, is no error.

    Args:
        run: returns the exit status, or raises SystemExit.

    Returns:
        The exit status; 2 if standard output cannot be written.
    """
    try:
        status = run()
    except SystemExit as stop:  # --help and mistyped options
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else failed(str(stop.code))
    except BrokenPipeError:
        status = 0
        discard_output()
    try:
        if sys.stdout is not None:  # closed by the shell
            sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        discard_output()
        status = status or failed(f"standard output cannot be written: {error.strerror}")
    return status


def failed(message: str) -> int:
    """Print an error, and return its exit status."""
    print_error(f"error: {message}")
    return 2


def print_error(text: str, end: str = "\n") -> None:
    """Write to standard error, where there is one: work goes on where it has no reader."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(text, end=end, file=sys.stderr, flush=True)


def discard_output() -> None:
    """Let Python's own flush at the end of the process write to nowhere."""
    with contextlib.suppress(OSError, ValueError):
        target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, sys.stdout.fileno())
        os.close(target)
