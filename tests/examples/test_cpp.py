"""The example in C++ gives the labels, scores and values of the runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import runtime
from exporter import export
from exporter.text_graph.build import make_text_graph
from exporter.text_graph.verify import extensions_library
from runtime.bundle import read_manifest
from tests.helpers.pages import ROOT, commands
from tests.helpers.text_graphs import few_texts, text_plan, with_text_graph
from tests.helpers.tiny_models import MAX_LENGTH, bert_config, tiny_model
from tests.helpers.tiny_tokenizers import LARGEST_VOCABULARY, tiny_tokenizer

TEXTS = ["The new phone is fast, and the screen is gorgeous.", "naïve café 😀 東京", "Don't\t\u200bstop. " * 9, ""]
PAIRS = ["Is it fast?", "", "x " * 30, "a second text"]
_INCLUDE = (ROOT / "build" / "cpp" / "usr" / "include", Path("/usr/include"))


def _headers(name: str) -> Path | None:
    return next((folder for folder in _INCLUDE if (folder / name).exists()), None)


def _python() -> Path | None:
    """The shared library of Python: that of onnxruntime-extensions is a module of Python in its wheel."""
    folder, system, name = map(sysconfig.get_config_var, ("LIBDIR", "MULTIARCH", "INSTSONAME"))
    return next((path for path in (Path(folder) / str(name), Path(folder) / str(system) / str(name)) if path.is_file()), None)


def _ort_library() -> Path | None:
    package = find_spec("onnxruntime")
    assert package is not None
    assert package.origin is not None
    return next(Path(package.origin).parent.glob("capi/libonnxruntime.so.1.*"), None)


def _missing() -> Iterator[str]:
    if sys.platform != "linux" or _ort_library() is None:
        yield "ONNX Runtime's wheel for Linux"
    if shutil.which("g++") is None:
        yield "g++"
    if _headers("onnxruntime/onnxruntime_cxx_api.h") is None or _headers("nlohmann/json.hpp") is None:
        yield "the headers that make test-cpp gets"
    if find_spec("onnxruntime_extensions") is None:
        yield "onnxruntime-extensions"
    if _python() is None:
        yield "the shared library of Python"


pytestmark = pytest.mark.skipif(any(_missing()), reason=f"needs {', '.join(_missing())}")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled by the command of the page with a folder like that of a release of ONNX Runtime."""
    folder = tmp_path_factory.mktemp("cpp")
    (command,) = [line for line in commands() if line.startswith("g++ ")]
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "ort" / "lib").mkdir(parents=True)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / "ort" / "lib" / name).symlink_to(str(_ort_library()))
    (folder / "ort" / "include").symlink_to(f"{_headers('onnxruntime/onnxruntime_cxx_api.h')}/onnxruntime")
    environment = {**os.environ, "ORT": str(folder / "ort"), "CPLUS_INCLUDE_PATH": str(_headers("nlohmann/json.hpp"))}
    strict = command.replace("g++", "g++ -Wall -Wextra -Werror", 1)
    done = subprocess.run(["bash", "-c", strict], cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return folder / "labels"


@pytest.fixture(scope="module")
def example(example_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled example at drop 5 with text.onnx."""
    with pytest.MonkeyPatch.context() as patch:
        few_texts(patch, 400)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(example_bundle)
        graph = make_text_graph(tokenizer, text_plan(max_lengths={"sequence": 512}))
    return with_text_graph(graph, example_bundle, tmp_path_factory.mktemp("example") / "onnx")


def _run(program: Path, *given: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_PRELOAD": str(_python())}
    call = [str(program), *map(str, given)]
    return subprocess.run(call, env=environment, capture_output=True, encoding="utf-8", timeout=120)


def _check(program: Path, bundle: Path, texts: list[str], pairs: list[str] | None = None) -> None:
    """Compare all lines with the runtime."""
    given = texts if pairs is None else ["--pairs", *(each for pair in zip(texts, pairs, strict=True) for each in pair)]
    done = _run(program, bundle, extensions_library(), *given)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    predictor = runtime.load(bundle, provider="cpu")
    manifest = predictor.manifest
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bundle)
    limit = manifest.max_lengths["sequence"]
    encoded = tokenizer(texts, pairs, padding=True, truncation=True, max_length=limit, return_tensors="np")
    results = predictor.run({entry.name: encoded[entry.name] for entry in manifest.inputs})
    outputs = [(task, output) for task in manifest.tasks for output in task.outputs]
    assert len(lines) == len(outputs) * len(texts)
    for (task, output), expected in zip(outputs, results.values(), strict=True):
        found = [lines.pop(0) for _ in texts]
        assert [(line["task"], line["output"], line["text"]) for line in found] == [(task.name, output, text) for text in texts]
        values = np.array([line["values"] for line in found]).reshape(expected.shape)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)
        if task.head == "classification":
            whole = texts if pairs is None else list(zip(texts, pairs, strict=True))
            for line, prediction in zip(
                found, predictor.predict(whole, tasks=[task.name], truncate=True)[task.name], strict=True
            ):
                assert (line["label"], line["score"]) == (prediction.label, pytest.approx(prediction.score, abs=1e-4))
        else:
            assert not [line for line in found if "label" in line]


def test_values_are_those_of_the_runtime(program: Path, example: Path) -> None:
    heads = {task.head for task in read_manifest(example).tasks}
    assert heads == {"classification", "regression", "tagging"}
    _check(program, example, TEXTS)


def test_pairs(program: Path, example: Path) -> None:
    _check(program, example, TEXTS, PAIRS)


def test_a_bundle_with_another_tokenizer(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte-level BPE, texts that are too long, a task with two outputs, and several labels of a text."""
    few_texts(monkeypatch, 400)
    model = tiny_model(
        {"multi": ("seq_bn", "multi"), "nli": ("seq_bn", "3"), "tag": ("lora", "tag")}, bert_config(LARGEST_VOCABULARY)
    )
    model.add_adapter("qa", config="seq_bn")
    model.add_qa_head("qa")
    bundle = tmp_path / "onnx"
    export(model, tiny_tokenizer("bpe", MAX_LENGTH), drop=1, output=bundle, with_tokenizer=True)
    _check(program, bundle, TEXTS)
    _check(program, bundle, TEXTS, PAIRS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["no-folder", "library", "a"], "no adapterdrop.json in no-folder"),
        (["{bundle}", "library", "a"], "export the folder with --with-tokenizer"),
        (["{bundle}"], "expected DIR LIBRARY TEXT"),
        (["{bundle}", "library", "--pairs"], "--pairs TEXT TEXT_PAIR"),
        (["{bundle}", "library", "--pairs", "a", "b", "c"], "--pairs TEXT TEXT_PAIR"),
    ],
)
def test_bad_input_is_named(program: Path, example_bundle: Path, given: list[str], message: str) -> None:
    done = _run(program, *(each.format(bundle=example_bundle) for each in given))
    assert done.returncode == 1
    assert message in done.stderr
