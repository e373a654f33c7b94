"""python -m runtime: output, order, input files and errors."""

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import runtime
from runtime.__main__ import main
from runtime.command_options import MAPPINGS, SETTINGS, read_settings
from runtime.options import CudaOptions, Options
from runtime.program import as_options
from runtime.text import text_file
from tests.helpers.runtime_bundles import write_bundle

ROOT = Path(runtime.__file__).parents[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_bundle(tmp_path_factory.mktemp("cli") / "bundle"))


def test_the_command_answers_and_keeps_the_order(bundle: str) -> None:
    arguments = ["--text", "Anna sings", "--pair", "one", "two", "--text=-dash", "--threads", "1"]
    found = subprocess.run(
        [sys.executable, "-m", "runtime", bundle, *arguments],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        cwd=ROOT,
    )
    assert found.returncode == 0
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert lines[0] == "provider cpu, drop 5"
    assert [line for line in lines[1:] if line and not line.startswith("  ")] == ["Anna sings", "one | two", "-dash"]
    task, label, score = lines[3].split()
    assert (task, label in ("sport", "news", "arts"), 0 < float(score) <= 1) == ("topic", True, True)
    assert lines[5].startswith("  stars  ")
    assert lines[5].split()[1][0] in "+-"
    assert [word.split("/")[0] for word in lines[6].split()[1:]] == ["Anna", "sings"]


def test_settings_name_every_option() -> None:
    groups = {name: fields(type(getattr(Options(), name))) for name in ("cuda", "tensorrt", "openvino")}
    single = {field.name for field in fields(Options)} - {"cache", "progress", *MAPPINGS, *groups}
    assert set(SETTINGS) == single | {f"{group}.{field.name}" for group, found in groups.items() for field in found}
    read = read_settings(["spin=off", "cuda.memory_limit=2G", "cuda.graphs=1x32,8x128", "cuda.tf32=on"], Options(threads=3))
    assert read == Options(threads=3, spin=False, cuda=CudaOptions(memory_limit=2**31, graphs=((1, 32), (8, 128)), tf32=True))


def test_nodes_are_counted_on_request(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([bundle, "--text", "a", "--nodes", "--option", "spin=off"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("nodes cpu ")
    assert main([bundle, "--text", "a", "--nodes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"]["cpu"] > 5


def test_json_is_one_object(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([bundle, "--text", "Zoë", "--pair", "a", "b", "--tasks", "stars, topic", "--drop", "5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["provider"] == "cpu"
    assert document["drop"] == 5
    assert [row["text"] for row in document["texts"]] == ["Zoë", ["a", "b"]]
    assert list(document["texts"][0]["predictions"]) == ["stars", "topic"]


def test_files_give_texts_and_pairs(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts").write_bytes("\ufefffirst\r\n\n   \na\tb\nwith\u2028separator".encode())
    assert main([bundle, "--file", str(tmp_path / "texts"), "--text", "before", "--json", "--tasks", "topic"]) == 0
    texts = [row["text"] for row in json.loads(capsys.readouterr().out)["texts"]]
    assert texts == ["before", "first", ["a", "b"], "with\u2028separator"]


def test_a_dash_reads_standard_input(bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n"), encoding="utf-8"))
    assert main([bundle, "--file", "-", "--json"]) == 0
    assert [row["text"] for row in json.loads(capsys.readouterr().out)["texts"]] == ["one", "two"]


def test_a_closed_standard_input_is_an_error(
    bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main([bundle, "--file", "-"]) == 2
    assert capsys.readouterr().err == "error: --file -: standard input is closed\n"


def test_a_file_without_an_end_is_an_error(
    bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_file, "LARGEST", 1000)
    assert main([bundle, "--file", "/dev/zero"]) == 2
    assert capsys.readouterr().err == "error: --file /dev/zero: expected at most 1,000 bytes: split the file\n"


def test_labels_and_texts_do_not_control_the_terminal(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    manifest = json.loads((folder / "adapterdrop.json").read_text())
    evil = "\x1b]0;title\x07\x1b[2J\nstars  5\u202e"
    for task in manifest["tasks"]:
        task["labels"] = [evil + label for label in task["labels"]]
    (folder / "adapterdrop.json").write_text(json.dumps(manifest))
    assert main([str(folder), "--text", f"a{evil}\x9b1m", "--tasks", "topic"]) == 0
    out = capsys.readouterr().out
    assert set(filter(lambda character: not character.isprintable(), out)) == {"\n"}
    assert len(out.splitlines()) == 4
    assert "\ufffd[2J stars  5\ufffd" in out
    assert main([str(folder), "--text", "a", "--tasks", evil]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no text: give some with --text, --pair or --file"),
        (["--file", "EMPTY"], "no text"),
        (["--file", "LATIN1"], "line 2: expected UTF-8"),
        (["--file", "TABS"], "line 1: expected at most one TAB, found 2"),
        (["--file", "nowhere"], "--file nowhere: cannot be read: No such file"),
        (["--text", "a", "--tasks", "mood"], "found 'mood'"),
        (["--text", "a", "--tasks", ","], "an empty list"),
        (["--text", "a", "--drop", "2"], "exported with 5, found 2"),
        (["--text", "a", "--threads", "0"], "threads: expected a positive integer"),
        (["--text", "a", "--option", "threads=0"], "error: --threads: expected a positive integer, found 0\n"),
        (["--text", "a", "--option", "cuda.gpu=1"], "expected NAME=VALUE with one of threads, spin,"),
        (
            ["--text", "a", "--option", "spin=yes", "--option", "cuda.graphs=8"],
            "spin: expected on or off, found 'yes'; cuda.gr",
        ),
        (["--text", "a", "--option", "openvino.precision=int8"], "openvino.precision: expected one of f32, bf16, f16"),
        (["--text", "word " * 30], "texts[0] has 32; pass --truncate to truncate them\n"),
        (["--text", "a" * 100_001], "; split the text, or pass --truncate to truncate it\n"),
        (["--text", "a", "--tasks", ","], ", found an empty list; omit it for all\n"),
        (["--text", "a", "--cache", "EMPTY"], "; give a writable folder\n"),
        (["--text", "a", "--threads", "0"], "error: --threads: expected a positive integer, found 0\n"),
        (["--text", "a", "--option", "provider_options.x=y"], "error: --option provider_options: they belong to one provider:"),
        (["--text", "a", "--option", "provider_options.x=y"], "name it, such as --provider openvino\n"),
        (
            ["--text", "a", "--option", "memory_limit=0", "--option", "tensorrt.workspace=0"],
            "error: --option memory_limit: expected a positive integer, found 0; --option tensorrt.workspace: expected a pos",
        ),
        (["--text", "a", "--stride", "3"], "error: --stride: expected --aggregate as well, to merge the windows of a text; "),
        (["--text", "a", "--stride", "3", "--aggregate", "max", "--truncate"], "error: --stride: expected no --truncate, bec"),
        (["--text", "a", "--aggregate", "x"], "error: --aggregate: expected one of simple, first, max or average, found 'x'\n"),
        (["--text", "a", "--top-k", "0"], "error: --top-k: expected a positive integer, found 0\n"),
        (["--text", "a", "--threshold", "3"], "error: --threshold: expected a number from 0 to 1, found 3.0\n"),
    ],
)
def test_errors_are_one_line_and_status_2(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    for name, content in (("EMPTY", b"\n"), ("LATIN1", b"ok\nZo\xeb\n"), ("TABS", b"a\tb\tc")):
        (tmp_path / name).write_bytes(content)
    known = {name: str(tmp_path / name) for name in ("EMPTY", "LATIN1", "TABS")}
    assert main([bundle, *(known.get(argument, argument) for argument in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_wrong_options_are_one_line_and_status_2(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [
        ([bundle, "--provider", "gpu"], "--provider"),
        ([], "required"),
        ([bundle, "--drop", "x"], "argument --drop: must be a whole number, found 'x'; see"),
        ([bundle, "--threshold", "x"], "argument --threshold: must be a number, found 'x'; see"),
        (["compile", bundle, "--provider", "cpu", "--threads", "1.5"], "--threads: must be a whole number, found '1.5'; see"),
        (["triton", bundle, "r", "--max-batch", "x"], "--max-batch: must be a whole number, found 'x'; see"),
        *(([bundle, "--text", "a", option, ""], f"{option}: must not be empty; see") for option in ("--cache", "--file")),
        ([bundle, "--file", "a", "--output", ""], "argument --output: must not be empty; see"),
        (["", "--text", "a"], "argument DIR: must not be empty; see"),
        (["compile", "", "--provider", "cpu"], "argument DIR: must not be empty; see"),
        (["triton", bundle, ""], "argument REPOSITORY: must not be empty; see"),
        ([bundle, "run", ""], "argument STATES: must not be empty; see"),
        ([bundle, "--pair", "a"], "--pair"),
    ]
    for arguments, message in wrong:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        err = capsys.readouterr().err
        assert caught.value.code == 2
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1


def test_an_empty_text_is_a_text(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([bundle, "--text", "", "--tasks", "names"]) == 0
    assert main(["", "encode", "texts.txt", "--output", "states"]) == 2
    assert capsys.readouterr().err == "error: DIR: must not be empty\n"


def test_a_folder_that_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--text", "a"]) == 2
    assert "python -m exporter --output DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["device"], "devices"),
        (["Devices"], "devices"),
        (["complie", "onnx", "--provider", "openvino"], "compile"),
        (["tritn", "a", "b"], "triton"),
    ],
)
def test_a_mistyped_command_is_no_folder(arguments: list[str], nearest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    message = f"error: {arguments[0]!r} is neither a folder nor a command: the nearest command is {nearest}\n"
    assert capsys.readouterr().err == message
    assert main(["onnx", "encde", "texts.txt", "--output", "states"]) == 2
    assert capsys.readouterr().err == "error: 'encde' is not a command: the nearest command is encode\n"


def test_a_value_of_an_option_is_no_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("Run!", "run"):
        assert main(["--text", text, str(tmp_path / "exports" / "drop=5")]) == 2
        assert f"error: {tmp_path}/exports/drop=5: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "--file data/provider=acme: expected a file, found a folder",
        "--option: spin: expected on or off, found 'x'; threads: expected a whole number, found 'y'",
        "the folder runs/top_k=3.csv: expected a name",
    ],
)
def test_paths_and_options_stay_as_they_are(text: str) -> None:
    assert as_options(text) == text


def test_unknown_names_get_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(runtime.InputError, match=r"^Options: unknown option 'threds'; the nearest is threads$"):
        Options(threds=1)  # type: ignore[call-arg]
    with pytest.raises(runtime.InputError, match=r"^CudaOptions: unknown option 'x'; expected device, memory_limit, "):
        CudaOptions(x=1)  # type: ignore[call-arg]
    with pytest.raises(runtime.InputError, match=r"the nearest is provider_options\.use_tf32$"):
        read_settings(["provider_option.use_tf32=1"], Options())
    with pytest.raises(SystemExit):
        main(["onnx", "--providr", "cpu"])
    assert "unrecognized arguments: --providr cpu; the nearest of --providr is --provider; see" in capsys.readouterr().err


def test_truncate_cuts(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([bundle, "--text", "word " * 30, "--truncate", "--tasks", "names"]) == 0
    assert capsys.readouterr().out.count("word/") == 14


def test_progress_is_logged_and_shown_by_the_command(
    bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(*_: object, options: Options, **__: object) -> None:
        options.progress("packing weights: 3 s")
        raise runtime.InputError("stop here")

    monkeypatch.setattr("runtime.command_line.load", slow)
    assert main([bundle, "--text", "a"]) == 2
    assert capsys.readouterr() == ("", "packing weights: 3 s\nerror: stop here\n")
    Options().progress("packing weights: 3 s")  # the library prints nothing
    assert capsys.readouterr() == ("", "")
    assert not logging.getLogger("runtime").handlers


def test_a_closed_pipe_and_an_interrupt_end_quietly(
    bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "runtime", bundle, "--text", "a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0

    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background processes ignore it
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            monkeypatch.setattr("runtime.command_line.load", lambda *_, number=number, **__: signal.raise_signal(number))
            assert main([bundle, "--text", "a"]) == 130
            assert capsys.readouterr() == ("", "interrupted\n")
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("closed", [True, False])
def test_standard_error_without_a_reader(bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    """An error keeps its status, and a stream goes on after a broken row."""
    (tmp_path / "texts.jsonl").write_text('{"text": 1}\n{"text": "two"}\n', encoding="utf-8")
    reader, writer = os.pipe()
    os.close(reader)
    # Without a buffer, which could not be written when it is closed
    stream = io.TextIOWrapper(io.FileIO(writer, "w"), encoding="utf-8", write_through=True)
    with stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None if closed else stream)
        assert main([str(tmp_path / "nowhere"), "--text", "a"]) == 2
        output = tmp_path / "out.jsonl"
        assert main([bundle, "--file", str(tmp_path / "texts.jsonl"), "--output", str(output), "--skip-errors"]) == 0
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize("arguments", [["encode", "{texts}"], ["--file", "{texts}", "--overwrite"]])
@pytest.mark.parametrize("output", ["{texts}", "{bundle}/model.onnx", "{bundle}/adapterdrop.json"])
def test_outputs_do_not_replace_what_is_read(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], output: str
) -> None:
    (tmp_path / "texts").write_text("a text\n", encoding="utf-8")
    names = {"texts": str(tmp_path / "texts"), "bundle": bundle}
    target = Path(output.format(**names))
    before = target.read_bytes()
    assert main([bundle, *(each.format(**names) for each in arguments), "--output", str(target)]) == 2
    assert f"--output {target}: " in capsys.readouterr().err
    assert target.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", [["{}", "--text", "a"], ["{}", "--verify"], ["devices"], ["triton", "{}", "{}-models"]])
def test_a_full_standard_output(
    bundle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main([each.format(bundle) for each in arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: standard output cannot be written: No space left on device"


@pytest.mark.parametrize(
    "start", ["run_module('exporter', None, '__main__')", "run_module('runtime', None, '__main__')", "main()"]
)
def test_an_interrupt_while_packages_are_imported(start: str) -> None:
    code = f"""
import importlib, signal, sys
from runpy import run_module
from runtime.console import main
signal.signal(signal.SIGINT, signal.default_int_handler)
importlib.import_module = lambda *_: signal.raise_signal(signal.SIGINT)
sys.argv[:] = ["adapterdrop", "export"]
{start}
"""
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=60, cwd=ROOT)
    assert (found.returncode, found.stdout, found.stderr) == (-signal.SIGINT, b"", b"interrupted\n")
