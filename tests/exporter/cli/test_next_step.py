"""The lines printed as the next step run as they are printed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.cli.main import main
from exporter.cli.next_step import next_step
from runtime.bundle import read_manifest
from tests.helpers import runtime_bundles as bundles
from tests.helpers.printed_lines import run_in_shell, run_lines


def test_the_example(example_bundle: Path) -> None:
    (command,) = next_step(example_bundle)
    output = run_in_shell(command, example_bundle.parent)
    assert '--text "The phone is fast, and the screen is gorgeous."' in command
    assert all(task in output for task in ("movie_sentiment", "part_of_speech", "review_sentiment"))


@pytest.mark.parametrize("name", ["with space", "it's $HOME", 'a "quoted" name', "plain"])
def test_paths_are_quoted(tmp_path: Path, name: str) -> None:
    bundles.write_bundle(tmp_path / name)
    (command,) = next_step(tmp_path / name)
    assert command.endswith(" --truncate")  # of 16 tokens at most
    assert "names" in run_in_shell(command, tmp_path)
    assert ('"' in command.split(" --text")[0] or "'" in command.split(" --text")[0]) == (name != "plain")


def test_heads_get_texts_that_suit_them(tmp_path: Path) -> None:
    folder = bundles.write_heads(tmp_path / "bundle")
    (command,) = next_step(folder)
    assert command.endswith('--pair "Who wrote the letter?" "Anna wrote the letter in [MASK]." --tasks topic,reader,chooser')
    assert "reader" in run_lines([command], tmp_path)
    bundles.keep_tasks(folder, bundles.HEAD_TASKS[3])
    (command,) = next_step(folder)
    assert '--text "Anna flew to [MASK] on Monday."' in command
    assert "Anna flew to [MASK] on Monday." in run_lines([command], tmp_path)


def test_tasks_that_texts_do_not_answer_are_left_out(tmp_path: Path) -> None:
    folder = bundles.write_decoder(tmp_path / "bundle")
    (command,) = next_step(folder)
    assert command.endswith(" --tasks topic")
    assert "topic" in run_lines([command], tmp_path)


def test_the_only_task_needs_no_name(tmp_path: Path) -> None:
    """An AdapterFusion is called a,b by default, which --tasks would divide."""
    folder = bundles.write_bundle(tmp_path / "bundle")
    only = dataclasses.replace(read_manifest(folder).tasks[0], name="a,b")
    bundles.keep_tasks(folder, only)
    (command,) = next_step(folder)
    assert " --text " in command
    assert "--tasks" not in command


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(bundles.write_vision, id="images"),
        pytest.param(lambda folder: bundles.write_bundle(folder, tokenizer=False), id="no tokenizer"),
        pytest.param(lambda folder: _without_tokenizer(bundles.write_decoder(folder)), id="decoder, no tokenizer"),
        pytest.param(lambda folder: _broken_tokenizer(bundles.write_bundle(folder)), id="tokenizer of another library"),
    ],
)
def test_other_bundles_get_lines_of_python(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    folder = write(tmp_path / "a bundle")
    lines = next_step(folder)
    assert lines[:2] == ["import numpy, runtime", f"predictor = runtime.load({str(folder)!r})"]
    assert len(lines) <= 8
    if "tokenizer.json" not in {path.name for path in folder.iterdir()} or (folder / "tokenizer.json").stat().st_size > 2:
        assert "array" in run_lines(lines, tmp_path)


def _without_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").unlink()
    bundles.rewrite(folder, tokenizer=False)
    return folder


def _broken_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text("{}")
    bundles.rewrite(folder)
    return folder


def test_the_console_script_names_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A folder of that name is no command.
    folder = bundles.write_bundle(tmp_path / "python -m exporter")
    monkeypatch.setattr("sys.argv", ["/bin/adapterdrop", "export"])
    (command,) = next_step(folder)
    assert command.startswith(f'adapterdrop run "{folder}" --text ')
    assert main(["inspect", str(tmp_path / "missing")]) == 2
    assert "make one with `adapterdrop export --output DIR`" in capsys.readouterr().err


def test_a_copied_bundle_names_its_own_folder(tmp_path: Path) -> None:
    folder = bundles.write_bundle(tmp_path / "one")
    shutil.copytree(folder, tmp_path / "two")
    assert str(tmp_path / "two") in next_step(tmp_path / "two")[0]
