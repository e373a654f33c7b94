"""Bad input on the command line: one clear message, the right status, nothing written."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter import export
from exporter.cli.main import main, run
from exporter.cli.options import export_parser
from exporter.cli.output import printing
from exporter.verify import saved as saved_graphs
from exporter.verify import verify as verify_module
from exporter.verify.eager import eager
from exporter.write.staging import staged
from exporter.write.weights_file import WeightsFile
from tests.helpers.forked import ended, start_forked
from tests.helpers.sweep import swept
from tests.helpers.tiny_models import assert_parity, inputs, reference, run_graph, tiny_model

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from save_pretrained with two complete tasks."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "tag")}).save_pretrained(folder)
    return folder


def _refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: str, status: int = 2) -> str:
    """The message of a command that must fail and write nothing."""
    before = sorted(tmp_path.rglob("*"))
    with_output = [*arguments] if "--output" in arguments else [*arguments, "--output", str(tmp_path / "onnx")]
    try:
        code = main([*with_output, "--quiet"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    assert code == status
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err
    assert sorted(tmp_path.rglob("*")) == before
    return output.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--drop", "-1"], "drop must be from 0 to 2"),
        (["--drop", "3"], "drop must be from 0 to 2, the model's number of layers; found 3"),
        (["--drop", "five"], "must be a whole number of layers, found 'five'"),
        (["--drop", "1.5"], "must be a whole number of layers, found '1.5'"),
        (["--tasks", "a,c"], "unknown adapter 'c'; adapters: a, b"),
        (["--tasks", "a,a"], "tasks contains 'a' twice"),
        (["--tasks", ","], "tasks is empty"),
        (["--tasks", "a=b,a"], "names the task 'a' twice"),
        (["--tasks", "a="], "must be ADAPTER or HEAD=ADAPTER, found 'a='"),
        (["--tasks", "=a"], "must be ADAPTER or HEAD=ADAPTER, found '=a'"),
        (["--tasks", "a=c"], "unknown adapter 'c'; adapters: a, b"),
        (["--routed"], "found b (tagging): select the others with --tasks a, or omit --routed"),
        (["--split", "--slots", "2"], "found b (tagging): select the others with --tasks a, or omit --slots"),
        (["--routed", "--slots", "2"], "select the others with --tasks a, or omit --routed and --slots"),
        (["--opset", "9"], "opset must be from 17 to 24, found 9"),
        (["--atol", "0"], "atol must be a finite number above 0"),
        (["--evaluation", "a=x.txt", "--evaluation", "a=y.txt"], "--evaluation names the task 'a' twice"),
        (["--precision", "fp4"], "precision must be one of fp32, fp16"),
        (["--target", "toaster"], "target must be one of portable"),
        (["--drop", "1,1"], "drop contains 1 twice: give each variant a different drop"),
        (["--frobnicate"], "unrecognized arguments"),
        (["--slots", "x"], "argument --slots: must be a whole number, found 'x'"),
        (["--atol", "x"], "argument --atol: must be a number, found 'x'"),
        (["--output", ""], "argument --output: must not be empty"),
        (["--calibration", ""], "argument --calibration: must not be empty"),
        (["--ouput", "x"], "unrecognized arguments: --ouput x; the nearest of --ouput is --output"),
    ],
)
def test_wrong_arguments(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, saved: Path, arguments: list[str], message: str
) -> None:
    assert message in _refused(capsys, tmp_path, "--model", str(saved), *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspct", "o1"], "error: 'inspct' is not a command: the nearest command is inspect; see python -m exporter --help\n"),
        (["Inspect", "o1"], "'Inspect' is not a command: the nearest command is inspect;"),
        (["help"], "'help' is not a command: expected add, task, inspect, advise, push or the options of an export;"),
        (["inspect", "o1", "--drop", "x"], "argument --drop: must be a whole number of layers, found 'x'"),
        (["task", "o1", "--output", "x", "--drop", "x"], "argument --drop: must be a whole number of layers, found 'x'"),
        (["advise", "--max-drop", "1.5"], "argument --max-drop: must be a whole number of layers, found '1.5'"),
        (["advise", "--limit", "x"], "argument --limit: must be a whole number, found 'x'"),
        (["advise", "--output", ""], "argument --output: must not be empty"),
        (["inspect", ""], "argument DIR: must not be empty"),
        (["inspect", "o1", "--picture", ""], "argument --picture: must not be empty"),
        (["task", "o1", "--output", ""], "argument --output: must not be empty"),
    ],
)
def test_wrong_arguments_of_commands(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_task_file_in_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mk.py").touch()
    assert main(["task", "o1", "--output", str(tmp_path / "mk.py" / "x"), "--quiet"]) == 2
    assert f"cannot be written: {str(tmp_path / 'mk.py')!r} is a file, not a folder" in capsys.readouterr().err


def test_an_output_above_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "there" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "there" / "deep", target_is_directory=True)

    def parsed(path: str) -> Path:
        return Path(export_parser().parse_args(["--output", f"{tmp_path}/{path}"]).output)

    for path, found in {
        "new/deep/../x2": "new/x2",
        "new/../../x": "../x",
        "link/new/../x": "there/deep/x",
        "link/new/../../x": "there/x",
        "new/..": "",
    }.items():
        assert parsed(path) == Path(os.path.realpath(tmp_path / found)), path
    assert parsed("link/../x") == tmp_path / "link" / ".." / "x"  # the system follows the link
    with staged(parsed("new/deep/../x2"), overwrite=False):
        pass
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x2"]


def _edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def _truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _edit_weights(folder: Path, drop: str = "", poison: str = "") -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    if drop:
        weights = {name: tensor for name, tensor in weights.items() if drop not in name}
    for name, tensor in weights.items():
        if poison and poison in name:
            tensor.view(-1)[0] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})


def _remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no model folder"),
        (lambda folder: _remove(folder, "config.json"), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "cannot be read as JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "has no model_type"),
        (lambda folder: _edit_config(folder, model_type="frobnicator"), "cannot be loaded"),
        (lambda folder: _remove(folder, "model.safetensors"), "cannot be loaded"),
        (_truncate_weights, "cannot be loaded"),
        (lambda folder: _edit_weights(folder, drop="adapters.a.adapter_up"), "lacks 4 weights"),
        (lambda folder: _edit_weights(folder, drop="layer.1.intermediate"), "lacks 2 weights"),
        (lambda folder: _edit_weights(folder, poison="heads.a"), "the weight 'heads.a.1.weight' contains NaN"),
        (lambda folder: _edit_config(folder, hidden_size=64), "weights of another shape than its config.json describes"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "the tokenizer in"),
    ],
)
def test_damaged_models(capsys: pytest.CaptureFixture[str], tmp_path: Path, saved: Path, damage: Any, message: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved, model)
    damage(model)
    assert message in _refused(capsys, tmp_path, "--model", str(model))


@pytest.mark.parametrize(
    ("adapters", "heads", "message"),
    [
        ([], [], "the model has no adapters"),
        (["a", "b"], ["a"], "the adapter 'b' has no prediction head of the same name"),
        (["a"], ["a", "b"], "the head 'b' has no adapter of the same name"),
        (["a", "input_ids"], ["a", "input_ids"], "the task 'input_ids' has the name of a graph input"),
    ],
)
def test_adapters_and_heads_that_do_not_match(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, adapters: list[str], heads: list[str], message: str
) -> None:
    model = tiny_model({})
    for name in adapters:
        model.add_adapter(name, config="seq_bn")
    for name in heads:
        model.add_classification_head(name)
    model.save_pretrained(tmp_path / "model")
    assert message in _refused(capsys, tmp_path, "--model", str(tmp_path / "model"))


def test_mismatched_adapters_and_heads_are_refused_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "2")})
    model.add_adapter("c", config="seq_bn")
    model.save_pretrained(tmp_path / "model")
    message = _refused(capsys, tmp_path, "--model", str(tmp_path / "model"))
    assert "the adapter 'c' has no prediction head of the same name" in message
    message = _refused(capsys, tmp_path, "--model", str(tmp_path / "model"), "--tasks", "b,c")
    assert "the task 'c' has no prediction head 'c'; heads: a, b" in message
    message = _refused(capsys, tmp_path, "--model", str(tmp_path / "model"), "--tasks", "a", "--drop", "b=1")
    assert "unknown task 'b' in drop; tasks: a" in message


def test_a_head_is_paired_with_an_adapter_of_another_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = tiny_model({"b": ("seq_bn", "2")})
    model.add_adapter("french", config="seq_bn")
    for head in ("sentiment", "topic"):
        model.add_classification_head(head, num_labels=3)
    model.save_pretrained(tmp_path / "model")
    message = _refused(capsys, tmp_path, "--model", str(tmp_path / "model"))
    assert "(--tasks sentiment=french; in Python tasks={head: adapter})" in message
    message = _refused(capsys, tmp_path, "--model", str(tmp_path / "model"), "--tasks", "french")
    assert "use --tasks HEAD=french (in Python tasks={head: adapter})" in message
    tasks = "sentiment=french, topic=french, b"
    assert main(["--model", str(tmp_path / "model"), "--tasks", tasks, "--output", str(tmp_path / "onnx"), "--quiet"]) == 0
    feeds = inputs((2, 5))
    found = run_graph(tmp_path / "onnx", feeds)
    for head, adapter in (("sentiment", "french"), ("topic", "french"), ("b", "b")):
        assert_parity(found[head], reference(model, adapter, feeds, head=head))
    export(model, tasks={"sentiment": "french"}, output=tmp_path / "live")
    assert_parity(run_graph(tmp_path / "live", feeds)["logits"], found["sentiment"])


def test_an_output_that_is_in_use_is_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path, saved: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("text")
    for name, message in (("full", "is not empty"), ("file", "is not a folder"), ("file/below", "cannot be written")):
        assert message in _refused(capsys, tmp_path, "--model", str(saved), "--output", str(tmp_path / name))
    message = _refused(capsys, tmp_path, "--model", str(saved), "--output", str(tmp_path / "full"), "--overwrite")
    assert "was not written by an export" in message


def test_a_full_disk_is_noticed_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(NamedTuple):
        total: int = 10**9
        used: int = 10**9
        free: int = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Full())
    assert "no space left" in _refused(capsys, tmp_path, "--model", str(saved))


def test_a_disk_that_fills_up_while_writing_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: WeightsFile, model: Any) -> None:
        self._file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WeightsFile, "externalize", full)
    assert "No space left on device" in _refused(capsys, tmp_path, "--model", str(saved), "--tasks", "a")


def test_a_failed_verification_has_a_separate_status(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_module, "eager", lambda *given, **more: [field + 1 for field in eager(*given, **more)])
    message = _refused(capsys, tmp_path, "--model", str(saved), "--tasks", "a", status=1)
    assert "a at 1x1: max |onnx - torch| 1.00e+00, over" in message


def test_a_folder_is_exported_with_a_json_report(capsys: pytest.CaptureFixture[str], tmp_path: Path, saved: Path) -> None:
    thresholds = gc.get_threshold()
    assert main(["--model", str(saved), "--drop", "1", "--output", str(tmp_path / "onnx"), "--quiet", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [task["name"] for task in report["tasks"]] == ["a", "b"]
    assert report["drop"] == 1
    assert gc.get_threshold() == thresholds
    assert (tmp_path / "onnx" / "model.onnx").exists()


def _export_until_it_verifies(verifying: Connection, arguments: list[str]) -> int:
    def wait(*_: object) -> None:
        verifying.send(None)
        time.sleep(60)

    saved_graphs.verify = wait  # type: ignore[assignment, attr-defined]
    return main(arguments)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a signal, and has no locks of folders")
@pytest.mark.parametrize("kind", ["SIGKILL", *swept("SIGTERM")])
def test_a_killed_export_leaves_nothing_half_written(tmp_path: Path, saved: Path, kind: str) -> None:
    """Killed while it verifies, when all files are written; what SIGKILL leaves behind, the next export removes."""
    folder = tmp_path / "export"
    folder.mkdir()
    arguments = ["--model", str(saved), "--tasks", "a", "--output", str(folder / "onnx"), "--quiet"]
    here, there = multiprocessing.Pipe()
    process = start_forked(_export_until_it_verifies, there, arguments, output=tmp_path / "output", errors=tmp_path / "errors")
    assert here.poll(120)
    assert process.pid is not None
    os.kill(process.pid, getattr(signal, kind))
    status = ended(process)
    left = sorted(path.name for path in folder.iterdir())
    if kind == "SIGKILL":
        assert len(left) == 1
        assert left[0].startswith(f".onnx.partial-{process.pid}-")
        assert main(arguments) == 0
        assert [path.name for path in folder.iterdir()] == ["onnx"]
    else:
        assert status == 130
        assert (tmp_path / "errors").read_text(encoding="utf-8") == "interrupted: nothing was written\n"
        assert left == []


@pytest.mark.parametrize(
    ("module", "text", "shown"),
    [
        ("export", "", "nothing was written"),
        ("add", "onnx is written", "onnx is written"),
        ("advise", "", "the same command continues"),
        ("push", "", "the repository may have been created, and may have the files: push again"),
    ],
)
def test_an_interrupt_says_what_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str, text: str, shown: str
) -> None:
    def interrupted(_: object) -> None:
        with printing(f"{text}, but " if text else ""):
            raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"exporter.cli.{module}"), "run", interrupted)
    assert run(f"exporter.cli.{module}", argparse.Namespace()) == 130
    assert capsys.readouterr() == ("", f"interrupted: {shown}\n")


def test_help_names_the_options_and_the_exit_statuses() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "exporter", "--help"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    assert "--drop N" in result.stdout
    assert "exit status" in result.stdout
