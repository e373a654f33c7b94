"""The page about hot tasks: its commands and its program, one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import runtime
from exporter.cli.main import main as export
from runtime.__main__ import main as run
from tests.helpers.doc_sources import write_sources
from tests.helpers.pages import blocks, text_of, words


def test_tasks_come_and_go_as_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (commands,) = [block for block in blocks("sh") if "python -m exporter task onnx" in block.text]
    (program,) = [block for block in blocks("python") if "add_task" in block.text]
    monkeypatch.chdir(tmp_path)
    for line in commands.text.splitlines():
        arguments = words(line)[3:]
        write_sources(tmp_path, arguments, layers=6)
        assert export([*arguments, "--quiet"]) == 0
    shown = 'python -m runtime onnx --task rte=rte.safetensors --text "…"'
    assert f"`{shown}`" in text_of("docs/hot_tasks.md")
    assert run([*words(shown)[3:], "--provider", "cpu"]) == 0
    shutil.copy("rte.safetensors", "rte-2.safetensors")
    predictor = runtime.load("onnx", provider="cpu")
    exec(program.text, {"predictor": predictor})  # noqa: S102 - the project's own page
    assert predictor.tasks == ("sst2", "mnli")
