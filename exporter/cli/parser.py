"""The argument parser of all command lines."""

from __future__ import annotations

import argparse
from typing import NoReturn

from runtime.program import as_called


class Parser(argparse.ArgumentParser):
    """A parser that reports wrong use in one line with status 2, as all bad input is reported, and keeps the texts' layout."""

    def __init__(self, prog: str, description: str | None, epilog: str | None = None) -> None:
        """Create a parser without options.

        Args:
            prog: the command, for the usage line.
            description: shown before the options.
            epilog: shown after the options.
        """
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=kind, allow_abbrev=False)

    def format_help(self) -> str:
        """Return the help, with the commands as the user calls them."""
        return as_called(super().format_help())

    def error(self, message: str) -> NoReturn:
        """End the program with status 2."""
        self.exit(2, as_called(f"error: {message}; see {self.prog} --help\n"))
