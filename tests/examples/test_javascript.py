"""The examples in JavaScript give the labels and logits of the runtime."""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch

import runtime
from exporter import export
from exporter.write.pipelines import MODEL_TYPES, VERSION
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.tiny_models import MAX_LENGTH, bert_config, tiny_model, tokenizer
from tests.helpers.tiny_tokenizers import LARGEST_VOCABULARY, tiny_tokenizer

FOLDER = Path(__file__).parents[2] / "examples" / "javascript"
TEXTS = ["The new phone is fast, and the screen is gorgeous.", "naïve café 😀 東京", "Don't\t\u200bstop. " * 80]


def _modules() -> Path | None:
    """The folder in which npm has installed the packages of the examples."""
    folders = [str(FOLDER / "node_modules"), *os.environ.get("NODE_PATH", "").split(os.pathsep)]
    found = (Path(folder) for folder in folders if folder and (Path(folder) / "@huggingface" / "transformers").is_dir())
    return next(found, None)


needs_node = pytest.mark.skipif(
    shutil.which("node") is None or _modules() is None,
    reason="needs node, and `npm --prefix examples/javascript install --ignore-scripts` (make test-javascript)",
)


_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    _CHROMIUM is None or not (_modules() or FOLDER).joinpath("playwright-core").is_dir(),
    reason="needs Chromium (Debian's package chromium), and playwright-core, which make test-javascript installs",
)


def _node(script: Path, folder: Path, *given: str) -> str:
    """Run a script in a folder, and return what it prints."""
    shutil.copyfile(script, folder / script.name)
    (folder / "node_modules").symlink_to(str(_modules()))  # node looks for packages next to the script
    done = subprocess.run(["node", script.name, *given], cwd=folder, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _check(printed: str, bundle: Path, texts: Sequence[str] = TEXTS) -> None:
    """Compare the lines with the labels and scores of the runtime."""
    rows = [row for row in map(json.loads, printed.splitlines()) if "label" in row]
    predictor = runtime.load(bundle, provider="cpu")
    expected = predictor.predict(texts, truncate=True)
    entries = [task for task in predictor.manifest.tasks if task.head == "classification"]
    assert len(rows) == len(texts) * len(entries) > 0
    for row in rows:
        prediction = expected[row["task"]][texts.index(row["text"])]
        shifted = np.exp(np.array(row["logits"]) - max(row["logits"]))
        labels = next(task.labels for task in entries if task.name == row["task"])
        scores = [prediction.scores[label] for label in labels]
        np.testing.assert_allclose(shifted / shifted.sum(), scores, atol=1e-4)
        assert row["label"] == prediction.label


class _Files(SimpleHTTPRequestHandler):
    """The files of a folder, without a log."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=folder))
    threading.Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@needs_node
@pytest.mark.parametrize("script", ["labels.mjs", "labels_web.mjs"])
def test_labels_and_logits_are_those_of_the_runtime(example_bundle: Path, tmp_path: Path, script: str) -> None:
    _check(_node(FOLDER / script, tmp_path, str(example_bundle), *TEXTS), example_bundle)


@pytest.fixture(scope="module")
def one_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classification whose logits depend on every token."""
    bundle = tmp_path_factory.mktemp("one") / "onnx"
    export(tiny_model({"sst2": ("seq_bn", "3")}, bert_config(VOCABULARY)), tokenizer(), output=bundle)
    return bundle


@needs_node
@pytest.mark.parametrize("script", ["labels.mjs", "labels_web.mjs"])
def test_long_texts_end_with_the_special_token(one_task: Path, tmp_path: Path, script: str) -> None:
    texts = ["word " * 900, "a short text", "another text " * 400]
    _check(_node(FOLDER / script, tmp_path, str(one_task), *texts), one_task, texts)


@needs_node
@pytest.mark.parametrize("script", ["labels.mjs", "labels_web.mjs"])
def test_other_heads_and_texts_without_padding(tmp_path: Path, script: str) -> None:
    """A gate reads the mean over all tokens, those of the padding included."""
    config = pytest.importorskip("adapters").LoRAConfig(r=4, use_gating=True)
    model = tiny_model({"a": (config, "3"), "b": ("seq_bn", "tag"), "c": ("seq_bn", "reg")}, bert_config(VOCABULARY))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "gate" in name or "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    bundle = tmp_path / "onnx"
    export(model, tokenizer(), output=bundle)
    predictor = runtime.load(bundle, provider="cpu", threads=1)
    assert predictor.manifest.padding_counts
    texts = ["one", "a text that is longer than the first", "a brief word"]
    lines = [json.loads(line) for line in _node(FOLDER / script, tmp_path, str(bundle), *texts).splitlines()]
    assert [(line["text"], line["task"], line["output"]) for line in lines] == [
        (t, name, name) for t in texts for name in "abc"
    ]
    for line in lines:
        encoded = tokenizer()(line["text"], return_tensors="np")
        (expected,) = predictor.run(
            {entry.name: encoded[entry.name] for entry in predictor.manifest.inputs}, [line["task"]]
        ).values()
        np.testing.assert_allclose(line["logits"], expected.ravel(), atol=1e-4)
        assert ("label" in line) == (line["task"] == "a")


@pytest.fixture(scope="module", params=["</s>", None])
def other_tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer whose class has no token types by itself, with and without a name for its last token; the other layout."""
    bundle = tmp_path_factory.mktemp("other") / "onnx"
    made = tiny_tokenizer("wordpiece", MAX_LENGTH)
    made.sep_token = request.param
    export(tiny_model({"sst2": ("seq_bn", "3")}, bert_config(LARGEST_VOCABULARY)), made, output=bundle, layout="transformersjs")
    return bundle


@needs_node
@pytest.mark.parametrize("script", ["labels.mjs", "labels_web.mjs"])
def test_other_tokenizers_and_the_other_layout(other_tokenizer: Path, tmp_path: Path, script: str) -> None:
    texts = ["in berlin " * 40, "a short text"]
    _check(_node(FOLDER / script, tmp_path, str(other_tokenizer), *texts), other_tokenizer, texts)


@needs_node
def test_models_of_pipelines_are_those_of_the_library() -> None:
    modules = _modules()
    assert modules is not None
    package = modules / "@huggingface" / "transformers"
    assert json.loads((package / "package.json").read_text())["version"] == VERSION
    registry = (package / "src" / "models" / "registry.js").read_text()
    names = {"text-classification": "SEQUENCE_CLASSIFICATION", "fill-mask": "MASKED_LM"}
    for pipeline, types in MODEL_TYPES.items():
        name = names.get(pipeline, pipeline.replace("-", "_").upper())
        found = registry.split(f"const MODEL_FOR_{name}_MAPPING_NAMES = new Map([")[1].split("]);")[0]
        assert types == set(re.findall(r"\['([^']+)',", found)), pipeline


def _shown(bundle: Path, folder: Path, page: str, texts: Sequence[str]) -> str:
    """Show a page of the examples in Chromium, and return its text."""
    assert _CHROMIUM is not None
    for script in FOLDER.glob(f"{page}.*"):
        shutil.copyfile(script, folder / script.name)
    (folder / "onnx").symlink_to(bundle)
    with _served(folder) as address:
        query = urlencode([("folder", "/onnx"), *(("text", text) for text in texts)])
        given = (_CHROMIUM, str(folder / "profile"), f"{address}/{page}.html?{query}")
        return _node(Path(__file__).with_name("browser.mjs"), folder, *given)


@needs_node
@needs_chromium
def test_labels_in_a_browser_are_those_of_the_runtime(example_bundle: Path, tmp_path: Path) -> None:
    _check(_shown(example_bundle, tmp_path, "page", TEXTS), example_bundle)


def _check_pipeline(printed: str, bundle: Path) -> None:
    found = json.loads(printed)
    (expected,) = runtime.load(bundle, provider="cpu").predict(TEXTS[:2]).values()
    for row, prediction in zip(found, expected, strict=True):
        assert row["label"] == prediction.label
        np.testing.assert_allclose(row["score"], prediction.scores[str(prediction.label)], atol=1e-4)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def pipeline_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("pipeline") / "onnx"
    model = tiny_model({"sst2": ("seq_bn", "3")}, bert_config(VOCABULARY))
    export(model, tokenizer(), output=bundle, layout="transformersjs", precision=request.param)
    return bundle


@needs_node
def test_a_pipeline_loads_a_folder_with_one_task(pipeline_folder: Path, tmp_path: Path) -> None:
    _check_pipeline(_node(FOLDER / "pipeline.mjs", tmp_path, str(pipeline_folder), *TEXTS[:2]), pipeline_folder)


@needs_node
@pytest.mark.parametrize("head", ["tag", "multi", "question", "reg"])
def test_pipelines_of_other_heads(tmp_path: Path, head: str) -> None:
    model = tiny_model({} if head == "question" else {"a": ("seq_bn", head)}, bert_config(VOCABULARY))
    if head == "question":
        model.add_adapter("a", config="seq_bn")
        model.add_qa_head("a")
    bundle = tmp_path / "onnx"
    export(model, tokenizer(), output=bundle, layout="transformersjs")
    given = ["who sings", "Anna sings", "what", "a brief word"]
    if head == "reg":
        with pytest.raises(AssertionError, match="a is a task of the type regression, which this example does not show"):
            _node(FOLDER / "pipeline.mjs", tmp_path, str(bundle), *given)
        return
    found = json.loads(_node(FOLDER / "pipeline.mjs", tmp_path, str(bundle), *given))
    texts: list[Any] = [tuple(given[:2]), tuple(given[2:])] if head == "question" else given
    for row, prediction in zip(found, runtime.load(bundle, provider="cpu").predict(texts)["a"], strict=True):
        if head == "question":
            assert (row["answer"], row["score"]) == (
                str(prediction.answer).lower(),
                pytest.approx(prediction.score, abs=1e-4),
            )
        elif head == "multi":
            assert {each["label"]: each["score"] for each in row} == pytest.approx(dict(prediction.scores), abs=1e-4)
        else:
            assert [(each["word"], each["entity"]) for each in row] == [
                (word.text.lower(), word.label) for word in prediction.words
            ]
            assert [each["score"] for each in row] == pytest.approx([word.score for word in prediction.words], abs=1e-4)


@needs_node
@needs_chromium
def test_a_pipeline_in_a_browser_loads_it(pipeline_folder: Path, tmp_path: Path) -> None:
    _check_pipeline(_shown(pipeline_folder, tmp_path, "pipeline_page", TEXTS[:2]), pipeline_folder)
