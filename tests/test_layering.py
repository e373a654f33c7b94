"""Imports point one way: benchmarks and training -> exporter -> runtime, and the runtime needs next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "runtime": {"exporter", "benchmarks", "training", "torch", "transformers", "adapters", "onnx", "onnx_ir", "onnxscript"},
    "exporter": {"benchmarks", "training"},
    "training": {"benchmarks"},
    "benchmarks": {"training"},
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): sorted(_imports(path) & FORBIDDEN[package]) for path in files}
    assert not {path: names for path, names in wrong.items() if names}


def test_the_running_runtime_loads_nothing_heavy() -> None:
    code = "import runtime, runtime.__main__, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(result.stdout.split()) & FORBIDDEN["runtime"]


def test_public_names() -> None:
    import exporter
    import exporter.passes
    import runtime

    for package in (exporter, exporter.passes, runtime):
        # Constants before classes before functions, as ruff sorts them.
        order = sorted(package.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
        assert order == list(package.__all__)
        assert all(hasattr(package, name) for name in package.__all__)
    assert exporter.__all__ == ["ExportError", "Report", "VerificationError", "add", "export"]


def test_one_pass_a_file() -> None:
    folder = ROOT / "exporter" / "passes"
    for path in folder.glob("_*.py"):
        classes = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
        assert len([name for name in classes if name.endswith("Pass")]) <= 1, path.name
