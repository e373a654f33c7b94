"""Progress of a stream on standard error: one line that changes in a terminal, a line now and then in a log."""

import sys
import time
from typing import Final

from runtime.printable import printable
from runtime.standard_output import print_error
from runtime.streams.lines import Input
from runtime.streams.sinks import Done
from runtime.streams.work import Broken, Speed

_IN_TERMINAL, _IN_LOG = 0.2, 10.0  # seconds between two lines
_NAMED: Final = 20  # broken rows; the output has all of them


class Progress:
    """Shows rows, rows per second, the share of the input and broken rows."""

    def __init__(self, where: str, source: Input, before: int, quiet: bool) -> None:
        """Start the clock.

        Args:
            where: name of the input.
            source: the open input.
            before: rows that an earlier run has done.
            quiet: show only broken rows.
        """
        self._where, self._source, self._quiet = where, source, quiet
        self.speed = Speed(before)
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._next = time.monotonic() + (_IN_TERMINAL if self._terminal else _IN_LOG)
        self._named = 0

    def __call__(self, done: Done, broken: Broken | None) -> None:
        """Show a broken row, and the progress if it is time."""
        if broken is not None:
            self._named += 1
            if self._named <= _NAMED:
                self._show(f"{self._where}: line {broken.line}: {broken.reason}")
            elif self._named == _NAMED + 1:
                self._show("further broken lines are in the output only")
        if self._quiet or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (_IN_TERMINAL if self._terminal else _IN_LOG)
        share = self._source.share()
        parts = [f"{done.rows:,} rows", f"{self.speed.of(done.rows):,.0f} per second"]
        parts += [f"{100 * share:.0f} % read"] if share is not None else []
        parts += [f"{done.errors:,} broken"] if done.errors else []
        if self._terminal:
            print_error(f"\r\x1b[K{', '.join(parts)}", "")
        else:
            self._show(", ".join(parts))

    def end(self) -> None:
        """Clear the line in a terminal."""
        if self._terminal and not self._quiet:
            print_error("\r\x1b[K", "")

    def _show(self, text: str) -> None:
        self.end()
        print_error(printable(text))
