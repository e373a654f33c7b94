"""Standard output and standard error of the command lines: texts without markup, and streams that cannot be written."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from exporter.errors import ExportError
from runtime.printable import printable
from runtime.standard_output import discard_output

# A narrower terminal wraps the lines; rich would cut names and numbers.
_NARROWEST = 80


class _PlainConsole(Console):
    """A console without control characters, except for those that style its output."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, lines=True))

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError, where rich would end the process with status 1."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def plain_console(stderr: bool = False) -> Console:
    """A console on which "[/x]", ":x:" and control characters in names and paths have no effect.

    Args:
        stderr: write to standard error.
    """
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):  # a terminal without a character shows its code, as in the messages of errors
        stream.reconfigure(errors="backslashreplace")
    console = _PlainConsole(stderr=stderr, markup=False, emoji=False)
    if not stderr:
        console.width = max(console.width, _NARROWEST)
    return console


@contextlib.contextmanager
def printing(done: str = "") -> Iterator[None]:
    """Write what the block prints, and let a stream that cannot be written be an ExportError.

    Args:
        done: what is done although it cannot be reported, for the message; also that of an interrupt.

    Raises:
        ExportError: standard output cannot be written, for example because the disk is full. A reader that has closed its end
            of a pipe has read enough: that is no error.
    """
    try:
        yield
        if sys.stdout is not None:  # closed by the shell
            sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(done.removesuffix(", but ")) from interrupt
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        if error.filename is not None:  # a file that the block reads or writes
            raise
        discard_output()
        raise ExportError(f"{done}standard output cannot be written: {error.strerror or error}") from error
