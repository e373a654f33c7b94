"""Streams that cannot be written, over-long names, brackets in names and huge numbers: a clear message, never a traceback."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

from exporter import ExportError, export
from exporter.checkpoints.load import load
from exporter.cli.main import main
from exporter.cli.output import plain_console, printing
from exporter.cli.print_report import print_report
from exporter.cli.progress import shown_progress
from runtime.standard_output import print_error
from tests.helpers.forked import ended, start_forked
from tests.helpers.load_testing import assert_refused, edit
from tests.helpers.tiny_models import tiny_model

ROOT = Path(__file__).parents[3]
LONG = "x" * 300


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from save_pretrained with two complete tasks."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "tag")}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", LONG], "the name of the output has 300 bytes: expected at most 200"),
        (["--output", "ä" * 101], "the name of the output has 202 bytes"),
        (["--output", "o\udcff"], "the path of the output must be UTF-8"),
        (["--output", "."], "the output '.' is the current folder or contains it"),
        (["--output", ".."], "the output '..' is the current folder or contains it"),
        (["--output", f"{LONG}/onnx"], "cannot be written"),
        (["--adapter", LONG], "there is no adapter folder"),
        (["--adapter", f"a/{LONG}"], "there is no adapter folder"),
        (["--evaluation", LONG], LONG),
        (["--drop", "9" * 30], "drop must be from 0 to 2"),
        (["--drop", "9" * 5000], "must be a whole number"),
        (["--opset", "9" * 30], "opset must be from 17 to 24"),
        (["--atol", "1e400"], "atol must be a finite number"),
        (["--atol", "nan"], "atol must be a finite number"),
        (["--max-disagreement", "1e400"], "max_disagreement must be a share from 0 to 1"),
    ],
)
def test_extreme_values_are_refused_before_the_work(
    tmp_path: Path, saved: Path, arguments: list[str], message: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.setattr("exporter.export_tasks.export_variant", None)
    try:
        code = main(["--model", str(saved), "--quiet", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["below"]


@pytest.mark.parametrize("command", [["add", LONG], ["inspect", LONG], ["--model", LONG]])
def test_names_that_are_too_long(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.chdir(tmp_path)  # a checkout may have a folder onnx
    assert main(command) == 2
    error = capsys.readouterr().err
    assert LONG in error
    assert "standard output" not in error


def test_names_of_tasks_are_text(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the name of the task 'a\\udcff' must be UTF-8"):
        export(tiny_model({"a\udcff": ("seq_bn", "2")}), output=tmp_path / "onnx")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_standard_output(tmp_path: Path, saved: Path) -> None:
    arguments = ["--model", str(saved), "--output", str(tmp_path / "onnx")]
    process = start_forked(main, arguments, output=Path("/dev/full"), errors=tmp_path / "errors")
    assert ended(process) == 2
    errors = (tmp_path / "errors").read_text(encoding="utf-8")
    last = errors.splitlines()[-1]
    assert last == f"error: {tmp_path / 'onnx'} is written, but standard output cannot be written: No space left on device"
    assert "Traceback" not in errors
    assert (tmp_path / "onnx" / "model.onnx").exists()


@pytest.mark.usefixtures("fresh_traces")
def test_closed_streams_and_another_order_of_sets(tmp_path: Path, saved: Path) -> None:
    """A new process, in which both are settled, exports without an error and writes the same bytes as this one."""
    command = f'"{sys.executable}" -m exporter --model "{saved}" --output onnx <&- >&- 2>&-'
    seed = str(int(os.environ.get("PYTHONHASHSEED", "0").replace("random", "0")) + 1)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
    found = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert main(["--model", str(saved), "--output", str(tmp_path / "here"), "--quiet"]) == 0
    for name in ("model.onnx", "model.onnx.data", "adapterdrop.json", "config.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "onnx" / name).read_bytes(), name


def test_a_reader_that_stops_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with printing():
        raise BrokenPipeError
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        patch.setattr(sys, "stderr", closed)
        with shown_progress(quiet=False):
            logging.getLogger("exporter").info("a stage")
        with printing():
            plain_console().print("a report")
        print_error("an error")
    with pytest.raises(FileNotFoundError), printing():
        (ROOT / "missing").read_text()


def test_brackets_in_names_are_no_markup(tmp_path: Path) -> None:
    names = ("[/x]", "[red]", "a[/]", ":smile:")
    output = tmp_path / "".join(names).replace("/", "") / "onnx"
    report = export(tiny_model(dict.fromkeys(names, ("seq_bn", "2"))), output=output)
    for verbose in (False, True):
        console = plain_console()
        console.file = io.StringIO()
        print_report(report, [f"python -m runtime {output}"], console, verbose)
        text = console.file.getvalue()
        assert all(name in text for name in names)
        assert str(output) in text
    assert main(["inspect", str(output)]) == 0


def test_a_narrow_terminal_hides_no_name(capsys: Any, monkeypatch: pytest.MonkeyPatch, example_bundle: Path) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert main(["inspect", str(example_bundle)]) == 0
    shown = capsys.readouterr().out
    assert "\u2026" not in shown
    assert "news_topic" in shown
    assert plain_console(stderr=True).width == 30  # a spinner of two lines would leave one behind


def test_names_do_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = plain_console()
    console.file = io.StringIO()
    for shown in ("a\x1b[2J\x07\nb", Text("a\x1b[2J\nb", "bold"), Table("\x9b1mname\u202e", title="\x1b]0;title\x07")):
        console.print(shown)
    found = console.file.getvalue()
    assert {character for character in found if not character.isprintable()} == {"\n"}
    assert "a\ufffd[2J" in found
    assert main(["inspect", "nowhere\x1b[2J"]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere\ufffd[2J: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"adapters": True},
        {"adapters": {"adapters": True}},
        {"adapters": {"adapters": {"a": True}}},
        {"adapters": {"adapters": {"a": "x"}, "config_map": {"x": True}}},
        {"adapters": {"adapters": {"a": "x"}, "config_map": True}},
        {"architectures": True},
        {"model_type": ["bert"]},
        {"prediction_heads": True},
        {"prediction_heads": {"a": True}},
    ],
)
def test_values_of_wrong_types_in_configurations(tmp_path: Path, saved: Path, changes: dict[str, Any]) -> None:
    tiny_model({"a": ("seq_bn", "2")}).save_pretrained(tmp_path / "model")
    edit(tmp_path / "model" / "config.json", **changes)
    assert_refused("model", tmp_path / "model")


@pytest.mark.parametrize("content", [{"config": True, "name": "b"}, {"config": {}, "name": True}, {"peft_type": True}])
def test_values_of_wrong_types_in_adapters(tmp_path: Path, saved: Path, content: Any) -> None:
    model = tiny_model({"b": ("seq_bn", "2")})
    model.save_adapter(str(tmp_path / "b"), "b")
    edit(tmp_path / "b" / "adapter_config.json", **content)
    with pytest.raises(ExportError):
        load(saved, adapters=[str(tmp_path / "b")])


def test_json_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert_refused("cannot be read as JSON", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "x": 1})[:-1] + ',"y":1e400}')
    assert_refused("cannot be loaded", tmp_path)
