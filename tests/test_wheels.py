"""The built wheels, installed in new environments, run a bundle and export one."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.helpers.distributions import ROOT, build
from tests.helpers.environments import Environment, interpreter
from tests.helpers.lock_files import pinned_torch

_CLASSIFIERS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
PYTHONS = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(_CLASSIFIERS))
_TEXT = "The new phone is fast, and the screen is gorgeous."


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    assert len(build(folder)) == 6
    return folder


@pytest.fixture
def python(request: pytest.FixtureRequest) -> str:
    """The interpreter of a version, if new environments are wanted: they take minutes and a package registry."""
    if not request.config.getoption("--fresh-environments"):
        pytest.skip("installs packages from a registry: make test-wheels")
    found = interpreter(request.param)
    if found is None:
        pytest.skip(f"no Python {request.param} found: install it, for example with `uv python install {request.param}`")
    return found


def _answers(environment: Environment, bundle: Path) -> None:
    done = environment.run("adapterdrop", "run", str(bundle), "--text", _TEXT, "--tasks", "news_topic", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["texts"][0]["predictions"]["news_topic"]["label"] == "tech"
    where = environment.run("python", "-c", "import runtime; print(runtime.__file__)").stdout
    assert where.startswith(str(environment.folder))


def test_the_wheel_of_the_runtime_runs(wheels: Path, example_bundle: Path, tmp_path: Path) -> None:
    """Without a registry: what it requires is that of this environment."""
    environment = Environment.make(tmp_path / "environment")
    environment.install("--no-deps", "--no-index", str(next(wheels.glob("adapterdrop_onnx-*.whl"))))
    _answers(environment, example_bundle)
    version = environment.run("adapterdrop", "--version").stdout.split()[1]
    assert version == next(wheels.glob("adapterdrop_onnx-*.whl")).name.split("-")[1]


@pytest.mark.parametrize("python", PYTHONS, indirect=True)
def test_a_service_installs_what_it_runs(python: str, wheels: Path, example_bundle: Path, tmp_path: Path) -> None:
    environment = Environment.make(tmp_path / "environment", python)
    environment.install("--find-links", str(wheels), "adapterdrop-onnx[cpu]")
    _answers(environment, example_bundle)
    heavy = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'onnx', 'exporter') if u.find_spec(n)])"
    assert environment.run("python", "-c", heavy).stdout.strip() == "[]"
    done = environment.run("adapterdrop", "export", "--drop", "5")
    assert done.returncode == 2
    assert "pip install 'adapterdrop-onnx[export," in done.stderr


@pytest.mark.parametrize("family", ["adapters", "peft"])
@pytest.mark.parametrize("python", PYTHONS, indirect=True)
def test_two_commands_to_the_first_answer(python: str, family: str, wheels: Path, tmp_path: Path) -> None:
    environment = Environment.make(tmp_path / "environment", python)
    # torch first: of its builds, the one that this project is tested with
    environment.install(pinned_torch())
    environment.install("--find-links", str(wheels), f"adapterdrop-onnx[export,{family},cpu]")
    done = environment.run("adapterdrop", "export", "--drop", "5", "--output", "onnx")
    assert done.returncode == 0, done.stderr
    (command,) = (line for line in done.stdout.splitlines() if line.strip().startswith("adapterdrop run "))
    assert "python -m" not in done.stdout
    assert "onnx" in command
    _answers(environment, environment.folder / "onnx")
