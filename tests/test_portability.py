"""Windows and macOS: what only POSIX or Linux has is guarded, text files have an encoding, and the programs run without it."""

from __future__ import annotations

import ast
import functools
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bundle.file_names import is_plain, name_problems
from runtime.bundle.files import BoundFolder
from tests.helpers.forked import run_forked
from tests.helpers.runtime_bundles import write_bundle

ROOT = Path(__file__).parents[1]
PRODUCT = ("runtime", "exporter", "benchmarks", "training")
# Modules and names of os and signal that Windows lacks.
_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "syslog", "posix"}
_OS = "geteuid getuid getgid fork forkpty sched_getaffinity mkfifo fchmod setsid killpg sysconf register_at_fork WNOHANG"
_NAMES = {
    *_OS.split(),
    "getloadavg",
    "O_DIRECTORY",
    "O_NOFOLLOW",
    "O_CLOEXEC",
    "SIGKILL",
    "SIGUSR1",
    "SIGUSR2",
    "SIGHUP",
    "SIGALRM",
}
# Files that name parts of /proc, /sys or /dev -> why other systems are served as well.
LINUX_PATHS = {
    "runtime/bundle/files.py": "only where sys.platform is linux",
    "runtime/ort/cpu.py": "a file that is missing is an unknown processor, and what cannot be read is no limit",
    "runtime/ort/seen_devices.py": "asks whether it exists",
    "benchmarks/machine.py": "a file that is missing is an unknown processor",
    "benchmarks/runtime_memory.py": "is refused elsewhere",
    "benchmarks/serving/memory.py": "what the system itself counts, without these files",
    "training/quality/machine.py": "asks whether it exists",
}


def _files(*folders: str) -> Iterator[tuple[str, ast.Module, str]]:
    return itertools.chain.from_iterable(map(_files_of, folders))


@functools.cache
def _files_of(folder: str) -> list[tuple[str, ast.Module, str]]:
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).rglob("*.py"))}
    return [(path.relative_to(ROOT).as_posix(), ast.parse(text), text) for path, text in texts.items()]


def _docstrings(tree: ast.Module) -> set[int]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = (node.body for node in ast.walk(tree) if isinstance(node, kinds))
    return {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}


def test_modules_of_posix_are_imported_under_a_condition() -> None:
    found = []
    for name, tree, _ in _files(*PRODUCT, "tests"):
        for node in tree.body:  # not those in a branch, or in a function
            imported = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            imported |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
            found += [name] if imported & _MODULES else []
    assert found == ["tests/fuzz/execute.py"]  # tests/fuzz/conftest.py


def test_names_of_posix_are_asked_for() -> None:
    found = []
    for name, tree, text in _files(*PRODUCT):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "signal"):
                guard = rf'(has|get)attr\({node.value.id}, "{node.attr}"'
                if node.attr in _NAMES and not re.search(guard, text):
                    found.append(f"{name}: {node.value.id}.{node.attr}")
    assert not found


def test_files_of_linux_are_optional() -> None:
    found = set()
    for name, tree, _ in _files(*PRODUCT):
        skipped = _docstrings(tree)
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in skipped]
        if any(isinstance(each, str) and re.match(r"/?(proc|sys|dev)/|/(proc|sys|dev)$", each) for each in texts):
            found.add(name)
    assert found == set(LINUX_PATHS)


def test_text_files_have_an_encoding() -> None:
    found = []
    for name, tree, _ in _files(*PRODUCT, "docs"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or any(each.arg in ("encoding", None) for each in node.keywords):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            values = [*node.args, *(each.value for each in node.keywords)]
            modes = [each.value for each in values if isinstance(each, ast.Constant)]
            is_program = called in ("run", "Popen", "check_output") and any(each.arg == "text" for each in node.keywords)
            is_text = called == "open" and modes and not any("b" in str(each) for each in modes)
            # read_text(encoding), write_text(text, encoding)
            lacks_encoding = len(node.args) <= {"read_text": 0, "write_text": 1}.get(called, -1)
            if lacks_encoding or is_program or is_text:
                found.append(f"{name}:{node.lineno}: {called}")
    assert not found


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a\\b", "C:a", "model.onnx:stream", "model.onnx.", "model.onnx ", "a\0", "a\n", 'a"b', "a?", "*"],
)
def test_names_that_leave_the_folder_on_some_system(name: str) -> None:
    assert not is_plain(name)


@pytest.mark.parametrize(
    "name", ["CON", "nul", "Aux.json", "COM1.onnx", "lpt9", "com².txt", "CONOUT$", "nul .txt", "prn.tar.gz"]
)
def test_devices_of_windows_are_no_files(name: str) -> None:
    assert not is_plain(name)


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.onnx.data", ".probe", "console.json", "com10.txt", "nullable", "größe.txt", "a b"]
)
def test_usual_names_are_plain(name: str) -> None:
    assert is_plain(name)


def test_names_that_differ_in_case_are_one_file() -> None:
    assert list(name_problems(["model.onnx", "Model.ONNX"], "adapterdrop.json")) == [
        "files: expected names that differ in more than case, found 'model.onnx' and 'Model.ONNX'"
    ]
    (problem,) = name_problems(["AdapterDrop.json"], "adapterdrop.json")
    assert "'adapterdrop.json' and 'AdapterDrop.json'" in problem


def test_long_paths_of_windows_have_no_slash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ntpath

    folder = BoundFolder.open(tmp_path)
    folder._root = "\\\\?\\C:\\" + "a" * 300
    monkeypatch.setattr(os.path, "join", ntpath.join)
    assert folder._at("model.onnx") == folder._root + "\\model.onnx"


_WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, sys, sysconfig
ours = ("runtime", "exporter", "benchmarks")

def load_all():
    for package in map(importlib.import_module, ours):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not found.name.endswith(("__main__", "ray_app", "optimum_command")) and "adapterhub" not in found.name:
                importlib.import_module(found.name)

# Once as it is, so that the packages of others are loaded, which would look for the Windows versions of themselves.
load_all()
sysconfig.get_config_vars()
for name in [each for each in sys.modules if each.partition(".")[0] in ours]:
    del sys.modules[name]
sys.platform = "win32"
for name in {modules!r}:
    sys.modules[name] = None
for name in {names!r}:
    for module in (os, signal):
        if hasattr(module, name):
            delattr(module, name)
load_all()
"""
_PROGRAMS = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module="(runtime|exporter|benchmarks)")
import runtime
from runtime.__main__ import main
assert main([sys.argv[1], "--text", "a fine film"]) == 0
assert main(["devices"]) == 0
options = runtime.Options(cache=sys.argv[2])
predictor = runtime.load(sys.argv[1], provider="cpu", options=options)
assert predictor.predict(["a fine film"])
print("passed")
"""


def test_the_programs_run_without_what_only_posix_has(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "onnx")
    script = _WITHOUT_POSIX.format(modules=sorted(_MODULES - {"posix"}), names=sorted(_NAMES)) + _PROGRAMS
    command = [sys.executable, "-c", script, str(bundle), str(tmp_path / "cache")]
    done = run_forked(command, cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("passed\n")


def test_the_runtime_names_every_encoding(tmp_path: Path) -> None:
    """In a new process, whose option no fork can have; for the other programs, ruff and a test above look at the source."""
    bundle = write_bundle(tmp_path / "onnx")
    command = [sys.executable, "-X", "warn_default_encoding", "-c", _PROGRAMS, str(bundle), str(tmp_path / "cache")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("passed\n")
