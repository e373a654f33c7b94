"""Runs the command line: python -m exporter."""

import importlib
import os
import sys

from runtime.program import shorten_interrupts

shorten_interrupts()  # before what takes longer to import
try:
    status: object = importlib.import_module("exporter.cli.main").main()
except SystemExit as stop:  # --help and mistyped options
    status = stop.code
try:
    if sys.stdout is not None:  # closed by the shell
        sys.stdout.flush()
except OSError as error:
    # Python's flush at exit must not fail either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):  # the reader, such as `head`, has read enough
        print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        status = status or 2
sys.exit(status)  # type: ignore[arg-type]  # the codes of SystemExit are untyped
