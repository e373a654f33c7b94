"""The argument parser of all command lines."""

from __future__ import annotations

import argparse
from typing import NoReturn


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

    def error(self, message: str) -> NoReturn:
        """End the program with status 2."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")
