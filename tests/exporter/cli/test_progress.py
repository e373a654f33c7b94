"""The library logs its stages; the command line shows them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from exporter import export
from exporter.cli.main import main
from exporter.cli.progress import ProgressHandler, shown_progress
from exporter.stages import Stages
from tests.helpers.tiny_models import tiny_model


def test_stages_are_measured_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    stages = Stages()
    with caplog.at_level(logging.INFO, logger="exporter"):
        with stages("trace", "(tasks: 2)"):
            pass
        with stages("save"):
            pass
        with stages("trace"):
            pass
    assert list(stages.seconds) == ["trace", "save"]
    assert {record.name for record in caplog.records} == {"exporter.stages"}
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert [record.getMessage().split(":")[0].removesuffix(" …") for record in caplog.records] == [
        *("trace (tasks", "trace (tasks", "save", "save", "trace", "trace")
    ]
    assert [vars(record)["running"] for record in caplog.records] == ["trace (tasks: 2)", "", "save", "", "trace", ""]


def test_an_export_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="exporter"):
        report = export(tiny_model({"a": ("seq_bn", "2")}), output=tmp_path / "onnx")
    assert capfd.readouterr() == ("", "")
    begun = [vars(record)["running"].split()[0] for record in caplog.records if vars(record)["running"]]
    assert begun == list(report.seconds) == ["load", "prune", "trace", "compile", "save", "verify"]


def test_a_log_file_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("exporter").level
    with shown_progress(quiet=False), Stages()("trace"):
        assert capsys.readouterr().err == "  trace …\n"
    assert capsys.readouterr().err.startswith("  trace: 0.")
    with shown_progress(quiet=True), Stages()("trace"):
        pass
    assert capsys.readouterr() == ("", "")
    assert logging.getLogger("exporter").level == level
    assert not logging.getLogger("exporter").handlers


@pytest.fixture
def terminal() -> Iterator[tuple[io.StringIO, logging.Logger]]:
    """The text that a terminal shows of a logger, and the logger."""
    file = io.StringIO()
    handler, logger = ProgressHandler(Console(file=file, force_terminal=True, width=60)), logging.getLogger("exporter.test")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield file, logger
    logger.removeHandler(handler)
    handler.close()


def test_a_terminal_gets_a_spinner_that_leaves_no_line(terminal: tuple[io.StringIO, logging.Logger]) -> None:
    file, logger = terminal
    logger.info("trace …", extra={"running": "trace [2]"})
    logger.info("trace: 1.0 s", extra={"running": ""})
    assert "trace [2]" in file.getvalue()
    assert "1.0 s" not in file.getvalue()
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back
    logger.warning("a warning [x]")
    assert file.getvalue().endswith("  a warning [x]\n")


def test_a_failed_stage_ends_the_spinner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", str(tmp_path / "nowhere"), "--output", str(tmp_path / "onnx")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  load …"
    assert lines[1].startswith("error: there is no model folder")
    assert not logging.getLogger("exporter").handlers
