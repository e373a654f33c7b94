"""The base model that a package brings is compared with its hashes before it is used."""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path

import pytest

from exporter import ExportError
from exporter.checkpoints.load import load
from exporter.cli.main import main
from exporter.example import base_model_folder
from exporter.example.base_model import BASE_MODEL_FILES, BASE_MODEL_PACKAGE, BASE_MODEL_VERSION, check_base_model
from tests.helpers.lock_files import extras

ROOT = Path(__file__).parents[3]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a copy of the base model, which is what find_spec finds. Weights are linked: the copy takes no time."""
    folder, original = tmp_path / "model", base_model_folder()
    for name in BASE_MODEL_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(original / name)
    spec = importlib.machinery.ModuleSpec("base_model", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    return folder


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_the_hashes_are_those_of_the_pinned_version(package: Path) -> None:
    assert importlib.metadata.version(BASE_MODEL_PACKAGE) == BASE_MODEL_VERSION
    project = tomllib.loads((ROOT / "adapterdrop_example" / "pyproject.toml").read_text())["project"]
    assert f"{BASE_MODEL_PACKAGE}=={BASE_MODEL_VERSION}" in project["dependencies"]
    assert set(project["dependencies"]) <= set(extras()["export"])  # which the lock files follow
    assert base_model_folder() == package


@pytest.mark.parametrize("name", BASE_MODEL_FILES)
def test_one_byte_more_in_any_file(package: Path, name: str) -> None:
    _replace(package / name, (b"" if name == "model.safetensors" else (package / name).read_bytes()) + b"\n")
    with pytest.raises(ExportError, match=rf"found: {name} has another sha256\. Install it again: pip install"):
        load(None)


def test_missing_and_unknown_files(package: Path) -> None:
    (package / "vocab.txt").unlink()
    (package / "pytorch_model.bin").write_bytes(b"")
    (package / "1_Pooling" / "more.json").symlink_to("nowhere")
    expected = r"found: vocab\.txt is missing; 1_Pooling/more\.json is not a file of it; pytorch_model\.bin is not a file of it"
    with pytest.raises(ExportError, match=expected):
        check_base_model(package)


def test_a_change_after_the_first_use(package: Path) -> None:
    content = (package / "config.json").read_bytes()
    _replace(package / "config.json", content)
    check_base_model(package)
    (package / "config.json").write_bytes(content.replace(b"12", b"13"))
    with pytest.raises(ExportError, match=r"config\.json has another sha256"):
        check_base_model(package)


def test_a_folder_in_place_of_a_file(package: Path) -> None:
    (package / "config.json").unlink()
    (package / "config.json").mkdir()
    with pytest.raises(ExportError, match=r"config\.json is missing"):
        check_base_model(package)


def test_the_command_line_refuses_it(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _replace(package / "config.json", b"{}")
    assert main(["--drop", "5", "--output", str(tmp_path / "onnx")]) == 2
    printed = capsys.readouterr().err
    assert "config.json has another sha256" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "onnx").exists()
