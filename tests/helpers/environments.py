"""New environments for tests of installed wheels, and the interpreters that make them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROGRAMS = "Scripts" if os.name == "nt" else "bin"


def interpreter(version: str) -> str | None:
    """Find a Python of a version such as "3.12": this one, on the path, of pyenv, or of uv; None without one."""
    return next((each for each in _candidates(version) if _version(each) == version), None)


def _candidates(version: str) -> Iterator[str]:
    yield sys.executable
    if found := shutil.which(f"python{version}"):
        yield found
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    yield from map(str, sorted(versions.glob(f"{version}.*/bin/python")))
    if uv := shutil.which("uv"):
        yield _output([uv, "python", "find", version])


def _version(program: str) -> str:
    return _output([program, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):  # a shim of pyenv without a version behind it
        return ""
    return done.stdout.strip()


@dataclass(frozen=True)
class Environment:
    """A virtual environment, in which no folder of this project is on the path.

    Attributes:
        folder: the environment.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path, python: str | None = None) -> Environment:
        """Make an environment.

        Args:
            folder: a new folder.
            python: the interpreter; None for this one, in which case packages that the environment lacks are those of this one.
        """
        if python is not None:
            subprocess.run([python, "-m", "venv", str(folder)], check=True)
            return cls(folder)
        venv.create(folder, symlinks=os.name != "nt")  # pip, too, is borrowed
        found = cls(folder)
        packages = found._output("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        paths = [each for each in sys.path if each.endswith("site-packages")]
        # Behind its own packages. The .pth files of a folder that is added so do not run, such as that of an editable install.
        (Path(packages) / "borrowed.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
        return found

    def install(self, *arguments: str) -> None:
        """Install with pip; the files need no name of this project on an index."""
        self._output("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in its folder."""
        path = shutil.which(program, path=str(self.folder / _PROGRAMS))
        assert path is not None, f"{program} is not installed in {self.folder}"
        # PYTHONPATH and the checkout must not stand in for what is installed.
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [path, *arguments], cwd=self.folder, env=variables, capture_output=True, encoding="utf-8", check=False, timeout=600
        )

    def _output(self, *arguments: str) -> str:
        done = self.run("python", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout
