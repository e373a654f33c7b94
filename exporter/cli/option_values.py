"""The syntax of values of options."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from pathlib import Path

from exporter.errors import ExportError


def parse_shape(text: str) -> tuple[int, ...]:
    """Parse BATCHxLENGTH; for images BATCH."""
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be BATCHxLENGTH, for example 1x128, found {text!r}") from None


def parse_output(text: str) -> Path:
    """Parse the path of a folder to write; `..` after a folder that does not exist leaves that folder out."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    path = Path(text)
    if ".." not in path.parts or os.path.exists(path.parent):  # noqa: PTH110  # the method raises without permission
        return path
    real = os.path.realpath(os.path.expanduser(path.parent))  # noqa: PTH111  # the method raises without a home
    return Path(os.path.abspath(os.path.join(real, path.name)))  # noqa: PTH100, PTH118  # the last part may be ".."


def parse_drop(text: str) -> int | list[int] | dict[str, int]:
    """Parse N to a number, N,N to a list, and task=N,task=N to a mapping."""
    if "=" not in text:
        numbers = [parse_layers(part) for part in _fields(text)]
        return numbers if len(numbers) > 1 else numbers[0]
    drops: dict[str, int] = {}
    for part in _fields(text):
        name, equals, number = part.rpartition("=")
        if not equals or not name.strip():
            raise argparse.ArgumentTypeError(f"must be N, N,N or task=N,task=N, found {part.strip()!r}")
        if name.strip() in drops:
            raise argparse.ArgumentTypeError(f"names the task {name.strip()!r} twice")
        drops[name.strip()] = parse_layers(number)
    return drops


def _fields(text: str) -> list[str]:
    """Split at commas, except in double quotes: a fusion is called after its members, such as "a,b"."""
    try:
        return next(csv.reader([text], skipinitialspace=True, strict=True)) or [""]
    except csv.Error as error:
        raise argparse.ArgumentTypeError(f"must have double quotes around whole names only ({error}), found {text!r}") from None


def parse_layers(text: str) -> int:
    """Parse a number of layers."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number of layers, found {text!r}") from None


def parse_tasks(text: str) -> list[str] | dict[str, str]:
    """Parse A,B to a list; with HEAD=ADAPTER in it, a mapping from the names of heads, and so of tasks, to adapters."""
    parts = [part.strip() for part in _fields(text) if part.strip()]
    if not any("=" in part for part in parts):
        return parts
    tasks: dict[str, str] = {}
    for part in parts:
        head, equals, adapter = (each.strip() for each in part.partition("="))
        if not head or (equals and not adapter):
            raise argparse.ArgumentTypeError(f"must be ADAPTER or HEAD=ADAPTER, found {part!r}")
        if head in tasks:
            raise argparse.ArgumentTypeError(f"names the task {head!r} twice")
        tasks[head] = adapter or head
    return tasks


def pooling_of(given: Sequence[str]) -> dict[str, str]:
    """Return adapter -> pooling of the option --pooling.

    Raises:
        ExportError: an adapter is named twice.
    """
    return _pairs(given, "--pooling names the adapter")


def heads_of(given: Sequence[str]) -> dict[str, str]:
    """Return task -> file of the option --head.

    Raises:
        ExportError: a task is named twice.
    """
    return _pairs(given, "--head names the task")


def evaluation_of(given: Sequence[str]) -> dict[str, str]:
    """Return task -> file of the option --evaluation.

    Raises:
        ExportError: a task is missing, or named twice.
    """
    for text in given:
        task, equals, file = text.partition("=")
        if not equals or not task.strip() or not file:
            raise ExportError(f"--evaluation must be TASK=FILE, because labels belong to one task; found {text!r}")
    return _pairs(given, "--evaluation names the task")


def _pairs(given: Sequence[str], what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name.strip() in found:
            raise ExportError(f"{what} {name.strip()!r} twice")
        found[name.strip()] = value
    return found


def parse_head(text: str) -> str:
    """Check NAME=FILE."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=FILE, for example topics=topics.npz, found {text!r}")
    return text


def parse_pooling(text: str) -> str:
    """Check NAME=POOLING, and return it without spaces."""
    name, equals, pooling = (part.strip() for part in text.partition("="))
    if not (name and equals and pooling):
        raise argparse.ArgumentTypeError(f"must be NAME=POOLING, for example topics=mean, found {text!r}")
    return f"{name}={pooling}"
