"""Separate processes that have imported exporter already: a fork server imports it once, which takes seconds each time.

A test whose process must begin with nothing imported, with closed streams or with another hash seed runs the interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # Windows has no fork server
    from multiprocessing.context import ForkServerContext, ForkServerProcess

_SERVER = "exporter.export_tasks"  # imports torch and the libraries of the models


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_SERVER, "exporter.cli.main", "exporter.verify.saved"])
    return context


def start_forked(function: Callable[..., int | None], *arguments: Any, output: Path, errors: Path) -> ForkServerProcess:
    """Call a function in a separate process, with its streams in files; its value is the exit status.

    Args:
        function: a function of a module, which is found there by its name.
        *arguments: what it takes; pickled.
        output: file of the standard output.
        errors: file of the standard error.
    """
    process = _context().Process(target=_in_child, args=(function, arguments, output, errors))
    process.start()
    return process


def _in_child(function: Callable[..., int | None], arguments: tuple[Any, ...], output: Path, errors: Path) -> None:
    for path, number in ((output, 1), (errors, 2)):
        descriptor = os.open(path, os.O_WRONLY | (0 if path.is_char_device() else os.O_CREAT), 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    raise SystemExit(function(*arguments))


def ended(process: ForkServerProcess, seconds: float = 120) -> int:
    """Wait for the process and return its exit status; a test fails that would wait longer."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        pytest.fail(f"the process did not end within {seconds} seconds")
    return process.exitcode
