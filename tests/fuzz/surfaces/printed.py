"""The printed texts of a case."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """The texts on standard output and standard error."""

    output: str
    error: str


class WrongOutputError(Exception):
    """A command line printed or returned what it must not."""
