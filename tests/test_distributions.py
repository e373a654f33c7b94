"""The distributions: what each contains and requires, how large it is, and the console script."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from email.parser import HeaderParser
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from benchmarks.cli import main as benchmarks_main
from exporter.cli.main import main as exporter_main
from runtime import console
from runtime.__main__ import main as runtime_main
from runtime.program import INSTALL
from tests.helpers.distributions import ROOT, build, stage


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    pytest.importorskip("hatchling")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("built"))
        found = [path for path in build(Path("dist")) if path.suffix == ".whl"]  # as make dist names it
    return {path.name.partition("-")[0]: zipfile.ZipFile(path) for path in found}


def _requires(wheel: zipfile.ZipFile) -> list[str]:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return HeaderParser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist") or []


def test_the_runtime_is_small_and_has_no_weights(wheels: dict[str, zipfile.ZipFile]) -> None:
    wheel = wheels["adapterdrop_onnx"]
    assert wheel.filename
    assert Path(wheel.filename).stat().st_size < 300_000
    folders = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"runtime"}
    assert "runtime/py.typed" in wheel.namelist()
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


def test_each_wheel_has_the_files_of_its_folder(wheels: dict[str, zipfile.ZipFile]) -> None:
    for wheel, folder in {"adapterdrop_onnx_exporter": "exporter", "adapterdrop_onnx_example": "adapterdrop_example"}.items():
        names = set(wheels[wheel].namelist())
        wanted = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".safetensors")}
        assert wanted <= names
        assert any(name.endswith("/licenses/LICENSE") for name in names)
    register = wheels["adapterdrop_onnx_exporter"].read("optimum/commands/register/register_adapterdrop.py")
    assert register == (ROOT / "exporter" / "cli" / "optimum_command.py").read_bytes()
    assert not [name for name in names if name.startswith("optimum/") and name.endswith("__init__.py")]


def test_published_metadata_name_versions(wheels: dict[str, zipfile.ZipFile]) -> None:
    lines = _requires(wheels["adapterdrop_onnx"])
    assert "adapterdrop-onnx-exporter==0.1.0; extra == 'export'" in lines
    assert "adapterdrop-onnx-example==0.1.0; extra == 'export'" in lines
    assert not [line for line in lines if "@" in line]  # an index accepts none
    assert _requires(wheels["adapterdrop_onnx_exporter"]) == ["adapterdrop-onnx==0.1.0"]


def test_a_checkout_takes_its_own_folders(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    for name, folder in hook.PARTS.items():
        assert hook.requirement(ROOT, name, "0.1.0") == f"{name} @ {(ROOT / folder).as_uri()}"
        assert hook.requirement(stage(tmp_path / name), name, "0.1.0") == f"{name}==0.1.0"


def test_all_distributions_have_one_version() -> None:
    files = [ROOT / "pyproject.toml", *(ROOT / name / "pyproject.toml" for name in ("exporter", "adapterdrop_example"))]
    assert {tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"] for path in files} == {"0.1.0"}


def test_help_lists_every_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in console.COMMANDS:
        assert re.search(rf"^  {command.name} +{re.escape(command.purpose)}$", shown, flags=re.MULTILINE)
    assert console.main([]) == 2


@pytest.mark.parametrize("command", [each for each in console.COMMANDS if each.name != "bench"])
def test_each_command_has_its_own_help(command: console.Command, capsys: pytest.CaptureFixture[str]) -> None:
    # As the script: its name decides what the texts of help say.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/bin/adapterdrop", command.name])
        assert console.main([command.name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: adapterdrop {command.name}")
    assert "python -m" not in shown


def test_a_command_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "exporter" else find(name))
    assert console.main(["export", "--drop", "5"]) == 2
    assert "adapterdrop export is not installed here: pip install 'adapterdrop-onnx[export," in capsys.readouterr().err
    assert console.main(["nothing"]) == 2
    assert "'nothing' is not a command: expected export, add," in capsys.readouterr().err
    assert console.main(["inspct"]) == 2
    assert (
        capsys.readouterr().err == "error: 'inspct' is not a command: the nearest command is inspect; see adapterdrop --help\n"
    )


@pytest.mark.parametrize(
    ("run", "arguments", "remedy"),
    [
        (runtime_main, ["devices"], INSTALL),
        (console.main, ["devices"], INSTALL),
        (exporter_main, ["--drop", "5"], "install adapterdrop-onnx[export,adapters,cpu] or [export,peft,cpu]"),
        (benchmarks_main, ["--quick"], "install adapterdrop-onnx[export,adapters,cpu,benchmark]"),
    ],
)
def test_a_missing_package_has_one_remedy(
    run: Callable[[Sequence[str]], int],
    arguments: Sequence[str],
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, shown in (("tokenizers", f"; {remedy}"), ("onnxruntime", "")):  # the message of runtime.import_ort has it
        monkeypatch.setattr(importlib, "import_module", Mock(side_effect=ImportError("no\npackage", name=name)))
        assert run(arguments) == 2
        assert capsys.readouterr().err.endswith(f": no package{shown}\n")


def test_an_example_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # a checkout may have a folder onnx
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "adapterdrop_example" else find(name))
    assert exporter_main(["--drop", "5", "--quiet"]) == 2
    assert "pip install adapterdrop-onnx-example, in a checkout pip install ./adapterdrop_example" in capsys.readouterr().err


def test_the_script_runs_a_bundle(example_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["run", str(example_bundle), "--text", "a fine film", "--tasks", "movie_sentiment"]) == 0
    assert "movie_sentiment  positive" in capsys.readouterr().out
    assert console.main(["encode", str(example_bundle)]) == 2
    assert "FILE" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from runtime.console import main; main(['--help']); print({'numpy', 'onnxruntime'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.endswith("set()\n")


def test_optimum_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("optimum.commands.optimum_cli")
    from optimum.commands.base import RootOptimumCLICommand

    from exporter.cli.optimum_command import REGISTER_COMMANDS

    root = RootOptimumCLICommand("Optimum CLI tool", usage="optimum-cli")
    cli.register_optimum_cli_subcommand(cli.ExportCommand, parent_command=root)
    ((command, parent),) = REGISTER_COMMANDS
    parents = cli.resolve_command_to_command_instance(root, [parent])
    cli.register_optimum_cli_subcommand(command, parent_command=parents[parent])
    options = root.parser.parse_args(["export", "adapterdrop", "--drop", "3", "--output", "there"])
    seen = []
    monkeypatch.setattr("importlib.import_module", lambda name: SimpleNamespace(run=lambda given: seen.append((name, given))))
    with pytest.raises(SystemExit, match="0"):
        options.func(options).run()
    ((name, given),) = seen
    assert (name, given.drop, given.output) == ("exporter.cli.export", 3, Path("there"))


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["--version"]) == 0
    assert capsys.readouterr().out == f"adapterdrop {importlib.metadata.version('adapterdrop-onnx')}\n"
