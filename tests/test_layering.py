"""Imports point one way: benchmarks and training -> exporter -> runtime, and inside each from later to earlier packages."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter
import exporter.compile.passes
import exporter.compile.vmap
import runtime

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "runtime": {"exporter", "benchmarks", "training", "torch", "transformers", "adapters", "onnx", "onnx_ir", "onnxscript"},
    "exporter": {"benchmarks", "training"},
    "training": {"benchmarks"},
    "benchmarks": {"training"},
}
FIRST_PARTY = set(FORBIDDEN) | {"tests"}
# A package or module imports what comes before it, and a package imports within itself.
ORDER = {
    "exporter": (
        *(
            "errors",
            "targets",
            "plan",
            "families",
            "group_names",
            "traced_group",
            "stages",
            "models",
            "example",
            "checkpoints",
            "texts",
            "prune",
            "planning",
        ),
        *("write", "trace", "verify", "compile", "report", "inspect", "split", "text_graph", "notes", "slots", "variant"),
        *("export_tasks", "stored_tasks", "local_bundle", "add_tasks", "task_files", "hub", "advise", "cli"),
    ),
    "exporter.compile": (
        "rewrite",
        "pair_sums",
        "passes",
        "vmap",
        "target_passes",
        "pipeline",
        "ranges",
        "finish",
        "build",
        "slots",
    ),
    "runtime": (
        *(
            "errors",
            "standard_output",
            "program",
            "printable",
            "logged",
            "import_ort",
            "bundle",
            "hub",
            "options",
            "command_options",
            "policy",
            "hooks",
            "cancel",
        ),
        *(
            "text",
            "checks",
            "ort",
            "slots",
            "states",
            "base_predictor",
            "array_predictor",
            "state_predictor",
            "encoding_predictor",
            "text_streams",
            "predictor",
            "predictions_text",
            "load_bundle",
            "compile_ahead",
            "streams",
            "states_commands",
            "serving",
            "command_line",
            "console",
        ),
    ),
}
# The subpackages of exporter whose modules import the adapters library (exporter/families.py).
FAMILY = "adapterhub"
# What a package shows to the outside, and what starts its command line.
_OPEN = {"__init__", "__main__"}


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """The dotted names that a file imports, and whether it does so inside a function."""
    return tuple(_find_imports(path))


def _find_imports(path: Path) -> Iterator[tuple[str, bool]]:
    tree = _tree(path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {id(child) for function in functions for child in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports"
            # `from package import module` imports the module.
            yield from ((f"{node.module}.{alias.name}", id(node) in inner) for alias in node.names)


def _files(package: str) -> list[Path]:
    files = sorted((ROOT / package.replace(".", "/")).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    found = {str(path): {name.split(".")[0] for name, _ in _imports(path)} & FORBIDDEN[package] for path in _files(package)}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("package", ORDER)
def test_each_room_imports_only_earlier_ones(package: str) -> None:
    order, depth, wrong = ORDER[package], package.count(".") + 1, []
    for path in _files(package):
        here = path.relative_to(ROOT).with_suffix("").parts[depth]
        if here in _OPEN:
            continue
        assert here in order, f"{here} has no place in the order of {package}"
        for name, _ in _imports(path):
            there = name.split(".")[depth] if name.startswith(f"{package}.") else here
            if there in order and order.index(there) > order.index(here):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


@pytest.mark.parametrize("package", FORBIDDEN)
def test_only_optional_packages_are_imported_in_functions(package: str) -> None:
    inner = [(str(path), name) for path in _files(package) for name, is_inner in _imports(path) if is_inner]
    assert not [(path, name) for path, name in inner if name.split(".")[0] in FIRST_PARTY]


def test_each_family_imports_only_its_library() -> None:
    wrong = []
    for path in _files("exporter"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        is_adapterhub = FAMILY in module.split(".")
        for name, is_inner in _imports(path):
            library = name.split(".")[0]
            for_adapterhub = library == "adapters" or (name.startswith("exporter.") and FAMILY in name.split("."))
            # PEFT's modules are imported by all, and import their library inside functions.
            for_peft = library == "peft" or (is_adapterhub and ".peft" in name)
            if for_adapterhub > is_adapterhub or (for_peft and (is_adapterhub or not is_inner)):
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_modules_that_are_imported_by_name_exist() -> None:
    found = 0
    for path in _files("exporter"):
        for call in ast.walk(_tree(path)):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "adapterhub_module":
                room, name = (ast.literal_eval(argument) for argument in call.args[:2])
                assert (ROOT / "exporter" / room.replace(".", "/") / FAMILY / f"{name}.py").is_file(), (path, room, name)
                found += 1
    assert found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_there_is_no_import_cycle(package: str) -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in _files(package)}
    edges = {
        name: {each for module, _ in _imports(path) for each in (module, module.rpartition(".")[0]) if each in names}
        for name, path in names.items()
    }
    while leaves := {name for name, found in edges.items() if not found}:
        edges = {name: found - leaves for name, found in edges.items() if name not in leaves}
    assert not edges


def test_the_running_runtime_loads_nothing_heavy() -> None:
    code = "import runtime, runtime.command_line, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert not set(result.stdout.split()) & FORBIDDEN["runtime"]


def test_public_names() -> None:
    for package in (exporter, exporter.compile.passes, exporter.compile.vmap, runtime):
        # Constants before classes before functions, as ruff sorts them.
        order = sorted(package.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
        assert order == list(package.__all__)
        assert all(hasattr(package, name) for name in package.__all__)
    assert exporter.__all__ == [
        *("ExportError", "Pushed", "Report", "TaskReport", "VerificationError", "add", "export", "push", "task"),
    ]


def _exported(path: Path) -> set[str] | None:
    """The names in `__all__` of a file; None without it."""
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def test_a_module_lists_what_others_import_from_it() -> None:
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for each in FORBIDDEN for path in _files(each)}
    exported = {name.removesuffix(".__init__"): names for name, path in files.items() if (names := _exported(path)) is not None}
    assert exported
    wrong = set()
    for path in files.values():
        for name, _ in _imports(path):
            module, _, last = name.rpartition(".")
            if last not in exported.get(module, {last}) and not {name, f"{name}.__init__"} & files.keys():
                wrong.add(f"{name}, imported by {path.relative_to(ROOT)}")
    assert not wrong


def test_one_pass_a_file() -> None:
    for path in (ROOT / "exporter" / "compile").rglob("*.py"):
        classes = [node.name for node in _tree(path).body if isinstance(node, ast.ClassDef)]
        assert len([name for name in classes if name.endswith("Pass")]) <= 1, path.name
