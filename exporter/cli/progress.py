"""Shows the stages that the library logs on standard error."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from rich.console import Console
from rich.status import Status
from rich.text import Text

from exporter.cli.output import plain_console
from runtime.logged import shown


@contextlib.contextmanager
def shown_progress(quiet: bool) -> Iterator[None]:
    """Show the log of the package `exporter` on standard error: a spinner on a terminal, a line per record elsewhere.

    Args:
        quiet: show nothing.
    """
    if quiet:
        yield
        return
    with shown("exporter", ProgressHandler(plain_console(stderr=True))):
        yield


class ProgressHandler(logging.Handler):
    """Shows log records on a console.

    On a terminal, a record with the attribute `running` starts or ends a spinner and leaves no line behind. Elsewhere every
    record is a line, also those at the beginning of a stage, because a stage can take minutes.
    """

    def __init__(self, console: Console) -> None:
        """Show records on `console`."""
        super().__init__(logging.INFO)
        self._console = console
        self._spinner: Status | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record; an export does not fail because standard error cannot be written."""
        with contextlib.suppress(OSError):
            self._show(record)

    def _show(self, record: logging.LogRecord) -> None:
        running = getattr(record, "running", None)
        if running is None or not self._console.is_terminal:
            self._console.print(f"  {record.getMessage()}", highlight=False, markup=False, soft_wrap=True)
            return
        self._stop()
        if running:
            self._spinner = self._console.status(Text(running))
            self._spinner.start()

    def close(self) -> None:
        """Remove the spinner of a stage that failed."""
        self._stop()
        super().close()

    def _stop(self) -> None:
        spinner, self._spinner = self._spinner, None
        if spinner is not None:
            with contextlib.suppress(OSError):
                spinner.stop()
