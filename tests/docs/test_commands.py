"""Every command in the pages is accepted by its program; cheap ones run, exports up to the trace."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from exporter.cli.main import main as exporter_main
from tests.helpers.doc_sources import write_sources
from tests.helpers.lock_files import extras
from tests.helpers.pages import ROOT, blocks, commands, words

# Commands that are not run here, each with the reason; those of this project's programs are parsed all the same.
NOT_RUN = {
    "make export": "installs a virtual environment",
    "source .venv/bin/activate": "enters the environment of make export",
    "make test": "installs a virtual environment and runs this test",
    "make test-all": "installs a virtual environment and runs this test",
    "make test-tensorrt": "installs a virtual environment",
    "make test-webgpu": "installs a virtual environment",
    "make test-peft5": "installs a virtual environment",
    "make gpu": "needs a GPU; tests/benchmarks rehearses its benchmark",
    "make gpu DEVICE=cpu": "runs other tests",
    "make test-torch": "installs a virtual environment",
    "make test-torch TORCH=torch==2.15.0": "installs a virtual environment",
    "make support": "exports every row of the support table, as make test-all does",
    "make TORCH=…": "an option of the targets above",
    "make test LOCKED=no": "an option of the targets above",
    "make docs": "installs a virtual environment; tests/docs/test_site.py has its hooks and its pages",
    "make dist": "tests/test_distributions.py builds the same",
    "make unit": "runs all tests, this one among them",
    "make test-wheels": "installs packages from a registry; tests/test_wheels.py has a part without one",
    "make licences": "tests/test_repository.py runs it",
    "make release-notes TAG=v0.1.0": "there is no release yet; tests/test_repository.py has one",
    "optimum-cli export adapterdrop --drop 5": "tests/test_distributions.py has the command",
    "adapterdrop --help": "tests/test_distributions.py has the command",
    "make lock": "asks a package registry",
    "make lock LOCK_FLAGS=--upgrade": "asks a package registry",
    "make audit": "asks a vulnerability service; tests/test_audit.py has a stand-in",
    "make audit AUDIT_FLAGS='-s osv'": "the same",
    ".ci/run": "runs this test",
    ".venv-test/bin/ruff check . && .venv-test/bin/ruff format .": "a step of make test",
    ".venv-test/bin/mypy": "a step of make test",
    ".venv-test/bin/python -m pytest tests/exporter/compile/passes": "runs other tests",
    ".venv-test/bin/python -m pytest tests/exporter/compile/passes/test_merge_casts.py tests/docs/test_passes_page.py": (
        "runs other tests"
    ),
    "pip install '.[export,adapters,cpu]'": "installs packages",
    "pip install '.[cpu]'": "installs packages",
    "pip install onnxruntime-ep-openvino": "installs packages",
    "pip install '.[gpu]'": "installs packages",
    "pip install '.[tokenizers]'": "installs packages",
    "pip install '.[extensions]'": "installs packages",
    "python -m exporter --drop 5 --with-tokenizer --output onnx-texts": (
        "needs onnxruntime-extensions; tests/exporter/text_graph has it"
    ),
    "pip install '.[export,peft,cpu]'": "installs packages",
    "python -m runtime onnx encode texts.txt --output corpus.states": "needs a split bundle; tests/runtime/states has it",
    "python -m runtime onnx run corpus.states --tasks news_topic": "the same",
    "serve run runtime.serving.ray_app:app folder=onnx replicas=2": "needs Ray; tests/runtime/on_ray tests the app",
    "python -m runtime onnx --file texts --tasks news_topic --skip-errors --output topics --engine ray --actors 4": (
        "needs a folder and Ray; tests/runtime/on_ray/test_engine.py has it"
    ),
    "pip install '.[cpu,fastapi]'": "installs packages",
    "python examples/serving/server.py onnx --port 8000": "tests/examples/test_serving.py starts it",
    """curl http://127.0.0.1:8000/predict -d '{"texts": ["The new phone is fast."], "tasks": ["news_topic"]}'""": (
        "needs a server; tests/examples/test_serving.py sends the same"
    ),
    (
        """curl http://127.0.0.1:8000/v2/models/adapterdrop/infer -d '{"inputs": [{"name": "text", "shape": [1], """
        """"datatype": "BYTES", "data": ["a text"]}], "outputs": [{"name": "news_topic"}]}'"""
    ): "the same",
    "python examples/serving/litserve_app.py onnx --port 8000": "tests/examples/test_serving.py starts it",
    "docker build -f examples/serving/Dockerfile -t adapterdrop .": "builds an image",
    "docker compose -f examples/serving/compose.yaml up": "starts containers",
    "serve run … max_texts=100": "needs Ray; tests/runtime/on_ray tests the app",
    'python -m runtime onnx --text "…" --provider openvino --option openvino.precision=bf16 --cache cache --nodes': (
        "needs OpenVINO, a plug-in of ONNX Runtime"
    ),
    "python -m exporter push onnx my-organisation/my-tasks --private": "needs the hub; tests/exporter/hub has a stand-in",
    "python -m exporter push onnx my-organisation/my-tasks --base-model bert-base-uncased --create-pr": "the same",
    "python -m exporter --model my-organisation/my-base@v2 --adapter sst2=my-organisation/my-adapters@main:sst2": (
        "needs the hub; tests/exporter/checkpoints/test_load_hub.py has its cache"
    ),
    "pip install huggingface_hub": "installs packages",
    "pip install litserve": "installs packages",
    "pip install opentelemetry-sdk": "installs packages",
    "make test-javascript": "installs packages of npm",
    "npm --prefix examples/javascript install --ignore-scripts": "installs packages of npm",
    'node examples/javascript/labels.mjs onnx "The new phone is fast, and the screen is gorgeous."': (
        "needs packages of npm; tests/examples/test_javascript.py runs it"
    ),
    "python -m exporter --tasks news_topic --drop 5 --layout transformersjs --output onnx-js": (
        "tests/exporter/test_layout.py has the layout"
    ),
    'node examples/javascript/pipeline.mjs onnx-js "The new phone is fast, and the screen is gorgeous."': (
        "needs packages of npm; tests/examples/test_javascript.py runs it"
    ),
    "python -m http.server --bind 127.0.0.1 8000": "serves until it is stopped; test_javascript.py does the same",
    "make test-cpp": "gets packages of Debian",
    "ORT=$PWD/onnxruntime-linux-x64-1.31.1": "needs a release of ONNX Runtime; tests/examples/test_cpp.py has its layout",
    "g++ -std=c++17 examples/cpp/labels.cpp -I $ORT/include -L $ORT/lib -Wl,-rpath,$ORT/lib -lonnxruntime -o labels": (
        "tests/examples/test_cpp.py runs it"
    ),
    './labels onnx-texts libortextensions.so "The new phone is fast, and the screen is gorgeous."': "the same",
    "python -m exporter push": "names a command without its folder",
    "python -m exporter advise": "names a command without its texts",
    "python -m exporter advise --model my-model --evaluation sst2=sst2.jsonl --evaluation mnli=mnli.jsonl --max-loss 2% "
    "--shape 1x64": "measures for minutes; tests/exporter/advise runs it",
    "python -m benchmarks suite": "names a command without its folder",
    "python -m runtime triton": "names a command without its folder",
    "python -m runtime compile onnx --provider openvino": "needs OpenVINO; test_find_compiled.py has a stand-in",
    "python -m tests.fuzz --minutes 60": "takes an hour; tests/fuzz runs some seconds",
    "python -m tests.fuzz --replay": "is a part of what tests/fuzz runs",
    "python -m exporter add": "names a command without its folder",
    "python -m exporter task": "names a command without its folder",
    "python -m exporter inspect": "names a command without its folder",
    "python -m exporter": "names a program",
    "python -m runtime": "names a program",
}
_SLOW = ("benchmarks", "training")  # programs that measure for minutes or train; tests/benchmarks runs them on tiny models
_COMMANDS = commands()
_OURS = ("exporter", "runtime", "benchmarks", "training", "tests")
_PROGRAMS = [line for line in _COMMANDS if re.match(rf"python -m ({'|'.join(_OURS)})\b", line)]
_NAMES = [line for line, reason in NOT_RUN.items() if reason.startswith("names a")]
_EXPORTS = [line for line in _PROGRAMS if re.match(r"python -m exporter( --(?!help)|$)", line) and line not in NOT_RUN]


class _Reached(Exception):  # noqa: N818 - not an error: the point to which a command runs
    """The command has come as far as it shall."""


def _program(module: str) -> Callable[[Sequence[str]], object]:
    """The main function of a module, called with arguments."""
    if module == "exporter":
        return exporter_main
    name = {
        "runtime": "runtime.__main__",
        "benchmarks": "benchmarks.cli",
        "benchmarks.serving": "benchmarks.serving.__main__",
        "training": "training.__main__",
        "training.quality": "training.quality.__main__",
        "tests.fuzz": "tests.fuzz.__main__",
    }.get(module, module)
    main = importlib.import_module(name).main
    if not name.startswith("training"):
        return main  # type: ignore[no-any-return] # of any module

    def with_argv(arguments: Sequence[str]) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [module, *arguments])
            return main()

    return with_argv


def _module(line: str) -> tuple[str, list[str]]:
    """The module of `python -m MODULE …`, and its arguments."""
    _, _, module, *arguments = words(line)
    return module, arguments


def test_every_command_is_known_or_listed() -> None:
    unknown = [line for line in _COMMANDS if line not in _PROGRAMS and line not in NOT_RUN]
    assert not unknown
    assert not [line for line in NOT_RUN if line not in _COMMANDS]


@pytest.mark.parametrize("line", [line for line in _PROGRAMS if line not in _NAMES])
def test_arguments_are_accepted(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser: Any, args: Any = None, namespace: Any = None) -> Any:
        parse(parser, args, namespace)
        raise _Reached

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    module, arguments = _module(line)
    with pytest.raises(SystemExit if "--help" in arguments else _Reached) as stop:
        _program(module)(arguments)
    assert not getattr(stop.value, "code", None)


@pytest.mark.parametrize("line", _EXPORTS)
def test_exports_load_and_plan(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The sources load, the options fit together, and the model is pruned; what a trace adds, tests/exporter has."""

    def reached(*_: object) -> None:
        raise _Reached

    monkeypatch.setattr("exporter.variant.trace_group", reached)
    # Runs PyTorch for every task, with texts padded on both sides; tests/exporter/test_padding.py has it
    monkeypatch.setattr("exporter.export_tasks.with_padding_side", lambda tokenizer, *_: (tokenizer, False))
    monkeypatch.chdir(tmp_path)
    _, arguments = _module(line)
    write_sources(tmp_path, arguments)
    with pytest.raises(_Reached):
        exporter_main([*arguments, "--quiet"])
    assert not (tmp_path / "onnx").exists()


def test_tasks_are_added_as_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (block,) = [block for block in blocks("sh") if "python -m exporter add onnx" in block.text]
    monkeypatch.chdir(tmp_path)
    for line in block.text.splitlines():
        _, arguments = _module(line)
        write_sources(tmp_path, arguments, layers=6)
        assert exporter_main([*arguments, "--quiet"]) == 0
    manifest = json.loads((tmp_path / "onnx" / "adapterdrop.json").read_text(encoding="utf-8"))
    assert [task["name"] for task in manifest["tasks"]] == ["sst2", "mnli", "rte"]


_READERS = [
    line
    for line in _PROGRAMS
    if line not in NOT_RUN
    and line not in _EXPORTS
    and not line.startswith(("python -m exporter add", "python -m exporter task"))
    and " --task " not in line  # tests/docs/test_hot_tasks_page.py
    and ("markdown_tables" in line or not line.split()[2].startswith(_SLOW))
]


@pytest.mark.parametrize("line", _READERS)
def test_a_command_runs(
    example_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (tmp_path / "docs").mkdir()
    if "triton" in line:  # it links the weights, which would then have two names in the other tests' bundle
        shutil.copytree(example_bundle, tmp_path / "onnx")
    else:
        for name in ("onnx", "onnx-drop3"):
            (tmp_path / name).symlink_to(example_bundle)
    (tmp_path / "texts.jsonl").write_text('{"id": 17, "text": "a fast phone"}\n{"id": 18}\n', encoding="utf-8")
    results = next((ROOT / "benchmarks" / "results").glob("bert-base-*.jsonl"))
    placeholders = {"DIR": "onnx", "FILE": str(results), "REPOSITORY": "models"}
    module, arguments = _module(line)
    arguments = [placeholders.get(word, word) for word in arguments]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            _program(module)(arguments)
    else:
        assert _program(module)(arguments) == 0
    printed = capsys.readouterr().out
    assert printed
    for shown in (block.output for block in blocks("sh") if block.output and line in block.text):
        assert_shows(shown, printed)


def test_the_picture_is_that_of_its_command(example_bundle: Path, tmp_path: Path) -> None:
    (line,) = [line for line in _COMMANDS if "--picture docs/inspect.svg" in line]
    assert exporter_main(["inspect", str(example_bundle), *words(line)[5:-1], str(tmp_path / "inspect.svg")]) == 0
    drawn, committed = ((folder / "inspect.svg").read_text(encoding="utf-8") for folder in (tmp_path, ROOT / "docs"))
    tasks = json.loads((example_bundle / "adapterdrop.json").read_text(encoding="utf-8"))["tasks"]
    names = (*(task["name"] for task in tasks), "trunk", "layer 5")
    assert all(f">{name}<" in drawn and f">{name}<" in committed for name in names)


def test_the_export_prints_what_the_readme_shows(example_bundle: Path) -> None:
    (block,) = [block for block in blocks("sh") if block.output and block.text.strip() == "python -m exporter --drop 5"]
    assert block.output is not None
    assert_shows(block.output, (example_bundle.parent / "export.txt").read_text(encoding="utf-8"))


def assert_shows(shown: str, printed: str) -> None:
    """The lines that a page shows are printed, in this order; numbers, which differ between machines, and spaces do not count.

    A line of "…" stands for any number of lines.
    """
    lines, start = [_plain(line) for line in printed.splitlines()], 0
    for line in map(_plain, shown.splitlines()):
        if line and line != "…":
            assert line in lines[start:], f"not printed: {line}"
            start = lines.index(line, start) + 1


def _plain(line: str) -> str:
    return re.sub(r"[+-]?\d[\d.,]*(e[+-]\d+)?", "#", " ".join(line.split()))


def test_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {words(line)[1] for line in _COMMANDS if line.startswith("make ")} - {"TORCH=…"}
    assert {"export", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    assert re.search(r"^TORCH \?=", makefile, flags=re.MULTILINE)


def test_extras_are_there() -> None:
    named = [match for page in _COMMANDS for match in re.findall(r"\.\[([a-z,-]+)\]", page)]
    assert named
    assert {extra for each in named for extra in each.split(",")} <= set(extras())


def test_the_example_commands_are_there() -> None:
    assert "README.md" in _COMMANDS["python -m exporter --drop 5"]
    assert "docs/export.md" in _COMMANDS["python -m exporter inspect onnx-drop3 --picture docs/inspect.svg"]
