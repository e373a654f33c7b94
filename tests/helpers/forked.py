"""Separate processes that have imported exporter already: a fork server imports it once, which takes seconds each time.

A test whose process must begin with nothing imported, with closed streams or with another hash seed runs the interpreter. Files
that use the server share a worker: tests/helpers/groups.py.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


def run_forked(
    command: Sequence[str],
    *,
    timeout: float = 120,
    capture_output: bool = False,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    forget: str = "",
    **_: object,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE …` or `python -c CODE …` as subprocess.run does; on Windows, which has no fork, with it.

    Args:
        command: the interpreter, "-m" or "-c", the module or code, and its arguments.
        timeout: seconds after which the test fails.
        capture_output: return what is printed; otherwise standard error goes where this process's goes.
        cwd: folder of the process.
        env: its environment; None for that of the server.
        forget: a package that is imported again, because it reads the environment at import.
    """
    interpreter, option, program, *arguments = command
    assert interpreter == sys.executable, command
    assert option in ("-m", "-c"), command
    if sys.platform == "win32":
        return subprocess.run(
            command, timeout=timeout, capture_output=capture_output, cwd=cwd, env=env, encoding="utf-8", check=False
        )
    start = _Start(option == "-m", program, arguments, cwd, env, forget)
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("output", "errors")]
        process = start_forked(_run, start, output=streams[0], errors=streams[1])
        status = ended(process, timeout)
        output, errors = (stream.read_text(encoding="utf-8") for stream in streams)
    if not capture_output:
        sys.stderr.write(errors)
    return subprocess.CompletedProcess(list(command), status, output, errors)


@dataclass(frozen=True)
class _Start:
    """The program of a process, and its surroundings."""

    is_module: bool
    program: str
    arguments: Sequence[str]
    folder: Path | None
    environment: Mapping[str, str] | None
    forget: str


def _run(start: _Start) -> None:
    if start.folder is not None:
        os.chdir(start.folder)
    if start.environment is not None:
        os.environ.clear()
        os.environ.update(start.environment)
    for name in [name for name in sys.modules if start.forget and name.partition(".")[0] == start.forget]:
        del sys.modules[name]
    if start.is_module:
        sys.argv = [start.program, *start.arguments]
        runpy.run_module(start.program, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *start.arguments]
        exec(start.program, {"__name__": "__main__"})  # noqa: S102 - a program of a test


@pytest.fixture
def forked_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs that start `python -m MODULE …` fork it."""
    original = subprocess.run

    def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        found: Any = (run_forked if command[:2] == [sys.executable, "-m"] else original)(command, **options)
        assert isinstance(found, subprocess.CompletedProcess)
        return found

    if sys.platform != "win32":
        monkeypatch.setattr(subprocess, "run", run)
