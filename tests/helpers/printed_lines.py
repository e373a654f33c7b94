"""Running of the lines that a report prints as the next step."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

from runtime.__main__ import main

ROOT = Path(__file__).parents[2]


def run_in_shell(command: str, folder: Path) -> str:
    """The standard output of a command in a shell, with `folder` as the working directory."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=120
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def run_lines(lines: list[str], folder: Path) -> str:
    """The standard output of one command of the runtime, or of lines in Python, without a new process.

    Args:
        lines: the command, or the lines.
        folder: the working directory.
    """
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        if len(lines) == 1:
            start, arguments = (words := shlex.split(lines[0]))[:3], words[3:]
            assert start == ["python", "-m", "runtime"]
            assert main(arguments) == 0, errors.getvalue()
        else:
            exec("\n".join(lines), {"__name__": "__main__"})  # noqa: S102 - the report's own lines
    return output.getvalue()
