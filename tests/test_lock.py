"""The lock files have what pyproject.toml requires, with a hash for each file, and nothing of CUDA."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.lock_files import FOLDER, LOCKS, ROOT, Locked, pinned_torch, read_lock, wanted

PYTHONS = ("3.11", "3.12", "3.13")


def _environment(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": ""}


def _applies(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(_environment(python))


def _missing(requirements: Iterable[Requirement], lock: Iterable[Locked], python: str) -> list[str]:
    """The requirements that a lock does not satisfy; torch is not in it."""
    versions = {entry.name: entry.version for entry in lock if _applies(entry.requirement, python)}
    found = []
    for each in requirements:
        name = canonicalize_name(each.name)
        if name != "torch" and _applies(each, python) and (name not in versions or versions[name] not in each.specifier):
            found.append(f"{each}: {versions.get(name)}")
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_has_what_is_required(name: str, python: str) -> None:
    assert not _missing(wanted(name), read_lock(name), python)


def test_a_lock_that_is_too_old_is_seen() -> None:
    lock = read_lock("export.txt")
    wishes = [Requirement("transformers>=99"), Requirement("absent"), Requirement("absent; sys_platform == 'win32'")]
    (locked,) = [entry.version for entry in lock if entry.name == "transformers"]
    assert _missing(wishes, lock, "3.11") == [f"transformers>=99: {locked}", "absent: None"]


def test_the_requirements_of_the_locked_packages_are_locked() -> None:
    lock = read_lock("test.txt")
    installed: dict[str, Any] = {canonicalize_name(each.name): each for each in importlib.metadata.distributions()}
    # An environment of other versions cannot tell; make test installs these.
    same = [entry for entry in lock if entry.name in installed and installed[entry.name].version == str(entry.version)]
    assert len(same) > 100
    # Those of an extra are for packages that ask for it.
    assert not _missing((Requirement(text) for entry in same for text in installed[entry.name].requires or ()), lock, "3.11")


def test_torch_is_not_locked_but_what_it_requires() -> None:
    of_torch = [Requirement(text) for text in importlib.metadata.requires("torch") or ()]
    plain = [each for each in of_torch if not re.match("nvidia-|cuda-|triton", each.name) and _applies(each, "3.11")]
    for name in ("export.txt", "test.txt", "peft5.txt"):
        lock = read_lock(name)
        assert not [entry.name for entry in lock if re.match("torch$|nvidia|cuda|triton$", entry.name)]
        assert plain
        assert not _missing(plain, lock, "3.11")
    project = next(each for each in wanted("export.txt") if each.name == "torch")
    (pinned,) = Requirement(pinned_torch()).specifier
    assert pinned.version in project.specifier


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_has_hashes_and_no_address(name: str) -> None:
    lock = read_lock(name)
    assert lock
    for entry in lock:
        assert entry.hashes
        assert all(re.fullmatch("[0-9a-f]{64}", each) for each in entry.hashes), entry.name
    assert not re.search("://|index-url|find-links", (FOLDER / name).read_text())


def test_both_commands_install_the_same_versions() -> None:
    export, test = (dict.fromkeys((str(entry.requirement), entry.hashes) for entry in read_lock(name)) for name in LOCKS[:2])
    assert export.keys() <= test.keys()


def test_make_lock_writes_with_the_version_that_installs() -> None:
    versions = [entry.version for name in ("tools.txt", "uv.txt") for entry in read_lock(name) if entry.name == "uv"]
    assert len(versions) == 2
    assert len(set(versions)) == 1


def test_one_family_is_locked() -> None:
    locked = {name: {entry.name: entry.version for entry in read_lock(name)} for name in ("export.txt", "peft5.txt")}
    assert "adapters" in locked["export.txt"]
    assert "peft" not in locked["export.txt"]
    assert "peft" in locked["peft5.txt"]
    assert "adapters" not in locked["peft5.txt"]
    assert locked["peft5.txt"]["transformers"].major == 5


def _recipes(*arguments: str) -> str:
    """The commands that make would run with its defaults, also if make runs these tests."""
    ours = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "LOCKED", "PYTHON", "TORCH")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=True).stdout


_INSTALLED = [
    ("export", "export"),
    ("test", "test"),
    ("test-peft5", "peft5"),
    ("audit", "tools"),
    ("lock", "tools"),
    ("docs", "docs"),
]


@pytest.mark.parametrize(("target", "lock"), _INSTALLED)
def test_make_installs_from_the_lock(target: str, lock: str) -> None:
    shown = _recipes(target)
    wheels = "--require-hashes --no-deps --only-binary :all: -r requirements"
    for command in (r"-m pip install --no-compile", r"-m uv pip install --python \S+/python --link-mode copy"):
        assert re.search(f"{command} --quiet {re.escape(wheels)}/{lock}.txt", shown)
    assert f"-m pip install --no-compile --quiet {wheels}/uv.txt" in shown
    # Only torch is installed without a hash, and this project without its requirements.
    others = [line for line in shown.splitlines() if "pip install" in line and "--require-hashes" not in line]
    assert all(line.endswith((f" {pinned_torch()}", " --no-deps --no-build-isolation -e .")) for line in others), others


def test_another_torch_is_installed_without_the_lock() -> None:
    shown = _recipes("test-torch", "TORCH=torch==2.15.0")
    assert "'torch==2.15.0' -e '.[export,adapters,cpu,test]'" in shown
    assert "--require-hashes" not in shown


def test_without_the_lock() -> None:
    shown = _recipes("test", "LOCKED=no")
    assert f"{pinned_torch()} -e '.[export,adapters,cpu,benchmark,training,test]'" in shown
    # `export` names the same folders, and pip refuses to install one both as a copy and in place.
    assert "-e ./" not in shown
    assert "--require-hashes" not in shown
