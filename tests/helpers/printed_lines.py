"""Running of the lines that a report prints as the next step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_lines(lines: list[str], folder: Path) -> str:
    """The standard output of a command in a shell, or of lines in Python, with `folder` as the working directory."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    command = ["sh", "-c", lines[0]] if len(lines) == 1 else [sys.executable, "-c", "\n".join(lines)]
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=120
    )
    assert found.returncode == 0, found.stderr
    return found.stdout
