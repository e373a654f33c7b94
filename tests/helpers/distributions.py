"""`make dist`: the sdists and wheels of this project, as they are published.

The sdist of adapterdrop-onnx is built from a copy without the folders of the other distributions, so that its metadata name
these by version (hatch_build.py). Each wheel is built from its sdist.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

PARTS = ("exporter", "adapterdrop_example")
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.pyc", "dist")


def stage(target: Path) -> Path:
    """Copy what the sdist of adapterdrop-onnx contains, and its pyproject.toml, to a new folder; return it."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    target.mkdir(parents=True)
    for name in ["pyproject.toml", *document["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]]:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=_NOT_COPIED)
        else:
            shutil.copyfile(source, target / name)
    return target


def build(output: Path) -> list[Path]:
    """Write the sdists and wheels of all distributions into a folder, with hatchling of this environment; return them."""
    output = output.absolute()  # hatchling runs in the folder of the distribution
    output.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    with tempfile.TemporaryDirectory() as folder:
        sources = [stage(Path(folder) / "staged")]
        sources += [Path(shutil.copytree(ROOT / name, Path(folder) / name, ignore=_NOT_COPIED)) for name in PARTS]
        for number, source in enumerate(sources):
            sdist = _hatchling("sdist", source, output)
            unpacked = Path(folder) / f"sdist{number}"
            with tarfile.open(sdist) as archive:
                archive.extractall(unpacked, filter="data")
            (inner,) = unpacked.iterdir()
            found += [sdist, _hatchling("wheel", inner, output)]
    return found


def _hatchling(target: str, source: Path, output: Path) -> Path:
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    # -P: a module of the folder that is built, such as exporter/inspect, must not take the place of one of Python's.
    command = [sys.executable, "-P", "-m", "hatchling", "build", "--target", target, "--directory", str(output)]
    subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL)
    (made,) = [path for path in output.iterdir() if path.stat().st_mtime_ns != before.get(path)]
    return made


if __name__ == "__main__":
    for path in build(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")):
        print(f"{path.stat().st_size / 1e3:>9,.0f} kB  {path}")
