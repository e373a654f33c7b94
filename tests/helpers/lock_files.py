"""The lock files in requirements/, read as pip reads them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "requirements"
LOCKS = ("export.txt", "test.txt", "peft5.txt", "tools.txt", "docs.txt", "uv.txt")
# The extras that make export, make test and make test-peft5 install.
EXTRAS = {
    "export.txt": ("export", "adapters", "cpu"),
    "test.txt": ("export", "adapters", "cpu", "benchmark", "training", "test"),
    "peft5.txt": ("export", "peft", "cpu", "tokenizers", "test-peft"),
}


@dataclass(frozen=True)
class Locked:
    """A version in a lock file.

    Attributes:
        requirement: the name, the version and the environments for which it is.
        hashes: the sha256 of its files.
    """

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The normalized name."""
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> Version:
        """The version."""
        (found,) = self.requirement.specifier
        assert found.operator == "=="
        return Version(found.version)


def read_lock(name: str) -> list[Locked]:
    """Return the entries of a file in requirements/."""
    text = re.sub(r"\\\n", " ", (FOLDER / name).read_text(encoding="utf-8"))
    return [_entry(line) for line in text.splitlines() if line and not line.startswith("#")]


def _entry(line: str) -> Locked:
    requirement, *hashes = line.split("--hash=sha256:")
    return Locked(Requirement(requirement.strip()), tuple(each.strip() for each in hashes))


def extras() -> dict[str, list[str]]:
    """Return the extras of pyproject.toml, without the distributions of this project that hatch_build.py adds."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = document["tool"]["hatch"]["metadata"]["hooks"]["custom"]["extras"]
    return found


def wanted(name: str) -> Iterator[Requirement]:
    """Yield what must be in a lock file: the requirements of pyproject.toml, and those in the .in files."""
    if name not in EXTRAS:
        yield from _listed(name.replace(".txt", ".in"))
        return
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    yield from map(Requirement, document["project"]["dependencies"])
    for extra in EXTRAS[name]:
        yield from map(Requirement, extras()[extra])
    yield from _listed("build.in")
    yield from _listed("torch.in")


def _listed(name: str) -> Iterator[Requirement]:
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return (Requirement(line) for line in lines if line and not line.startswith("#"))


def pinned_torch() -> str:
    """Return the requirement that make installs by default."""
    (found,) = re.findall(r"^TORCH \?= (torch==[0-9.]+)#", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return str(found)
