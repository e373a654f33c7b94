"""Python in the pages runs as it stands there, and excerpts of source files are in those files."""

from __future__ import annotations

import ast
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertForSequenceClassification, BertForTokenClassification

import runtime
from exporter import export
from runtime.bundle import TaskEntry, read_manifest
from tests.helpers.doc_sources import deep_config
from tests.helpers.pages import ROOT, Block, blocks
from tests.helpers.runtime_bundles import ROUTED, TASKS, keep_tasks, rewrite, write_bundle, write_routed
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.tiny_models import tiny_model, tokenizer
from tests.helpers.tiny_peft import METHODS, config, peft_model

_EXCERPT = re.compile(r"# (\S+\.py)\n")
_BLOCKS = list(blocks("python"))
_EXCERPTS = [block for block in _BLOCKS if _EXCERPT.match(block.text)]
# A program about tasks that come and go needs their files: tests/docs/test_hot_tasks_page.py runs it.
# So does one with an id of the hub: tests/runtime/test_hub.py has an endpoint.
# A graph with a tokenizer needs onnxruntime-extensions: tests/exporter/text_graph runs it.
_ELSEWHERE = ("add_task", "my-organisation/", "onnxruntime_extensions")
_PROGRAMS = {
    block.text: block for block in _BLOCKS if block not in _EXCERPTS and not any(part in block.text for part in _ELSEWHERE)
}


def _identifier(block: Block) -> str:
    return f"{block.page}:{block.text.splitlines()[0]}"


@pytest.fixture(scope="module")
def routed_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks on one layer and one of the bundled example, with a routed graph."""
    folder = tmp_path_factory.mktemp("routed") / "onnx"
    model = tiny_model({"sst2": ("seq_bn", "2"), "mnli": ("seq_bn", "3"), "news_topic": ("seq_bn", "5")}, deep_config(1))
    export(model, tokenizer(), output=folder, routed=True)
    return folder


@pytest.fixture(scope="module")
def split_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One task at the drops that the page about states names, with graphs of the trunk, which has fewer layers."""
    folder, named = tmp_path_factory.mktemp("split") / "onnx", {2: 8, 1: 5, 0: 0}
    model = tiny_model({"sst2": ("seq_bn", "2")}, deep_config(3))
    export(model, tokenizer(), drop=list(named), output=folder, split=True)
    variants = []
    for variant in read_manifest(folder).variants:
        drop = named[variant.drop]
        tasks = {name: replace(each, drop=drop, dropped=tuple(range(drop))) for name, each in variant.tasks.items()}
        variants.append(replace(variant, drop=drop, tasks=tasks))
    rewrite(folder, layers=9, variants=tuple(variants))
    return folder


@pytest.fixture(scope="module")
def labelled_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task with labels of words, and one with several labels of a text."""
    folder = write_bundle(tmp_path_factory.mktemp("labelled") / "onnx")
    tagging, multilabel = replace(TASKS[3], name="ner"), replace(TASKS[1], name="toxic")
    keep_tasks(folder, tagging, multilabel)
    rewrite(folder, max_lengths={"sequence": 48})
    return folder


@pytest.fixture(scope="module")
def embedding_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny routed bundle of the runtime's tests, whose tasks are embeddings with a prompt."""
    folder = write_routed(tmp_path_factory.mktemp("embeddings") / "onnx")
    names = {"topic": ("search", 3), "flags": ("query", 2), "stars": ("passage", 1)}
    tasks = tuple(
        TaskEntry(name, "sentence_embedding", (), (output,), name, width, {"query": "find "})
        for output, (name, width) in names.items()
    )
    keep_tasks(folder, *tasks)
    rewrite(folder, variants=(replace(read_manifest(folder).variants[0], routed=ROUTED),))
    return folder


def _models(text: str) -> dict[str, Any]:
    """The models that a block about exports names, with one layer more than it drops."""
    layers = 1 + max((int(number) for number in re.findall(r"drop=(\d+)", text)), default=0)
    names = ("sst2", "mnli", "en", "qnli", "rte")
    found: dict[str, Any] = {"tokenizer": tokenizer()}
    if "peft_model" in text:
        shape = config(num_hidden_layers=layers, vocab_size=VOCABULARY)
        base = BertForSequenceClassification(shape)
        found["peft_model"] = peft_model(METHODS["lora"], ("sst2", "rte"), base)
        if "entities_model" in text:
            found["entities_model"] = peft_model(METHODS["lora"], ("entities",), BertForTokenClassification(shape))
        return found
    model = tiny_model(dict.fromkeys(names, ("seq_bn", "2")), deep_config(layers))
    if "Fuse(" in text:
        model.add_adapter_fusion(["sst2", "mnli"])
    return {**found, "model": model}


@pytest.mark.parametrize("block", _PROGRAMS.values(), ids=_identifier)
def test_a_block_runs(
    block: Block,
    routed_bundle: Path,
    labelled_bundle: Path,
    embedding_bundle: Path,
    split_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in re.findall(r"^(?:from|import) (datasets|opentelemetry\.sdk|pandas)\b", block.text, flags=re.MULTILINE):
        pytest.importorskip(package, reason=f"needs {package}, which the extra `test` installs")
    monkeypatch.chdir(tmp_path)
    if "export" in block.text.replace("opentelemetry.sdk.trace.export", ""):
        names = _models(block.text)
    elif block.page == "docs/trunk_states.md":
        shutil.copytree(split_bundle, tmp_path / "onnx")
        names = {"runtime": runtime, "predictor": runtime.load("onnx", provider="cpu"), "texts": ["a text", "another"]}
    elif '"ner"' in block.text:
        texts = ["a text", "another"]
        names = {"predictor": runtime.load(labelled_bundle, provider="cpu"), "texts": texts, "book": "word " * 300}
    else:
        for folder in ("onnx", "onnx-cuda", "onnx-tensorrt"):
            shutil.copytree(embedding_bundle if "encode_texts" in block.text else routed_bundle, tmp_path / folder)
        rows = 3 if "feeds" in block.text else 2
        ids, mask = np.full((rows, 5), 7), np.ones((rows, 5), np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        names = {"ids": ids, "mask": mask, "feeds": feeds, "predictor": runtime.load("onnx", provider="cpu"), "texts": ["a"]}
    for statement in ast.parse(block.text).body:
        code = compile(ast.Module([statement], []), block.page, "exec")
        provider = re.search(r'provider="(\w+)"', ast.get_source_segment(block.text, statement) or "")
        if provider is None:
            exec(code, names)  # noqa: S102 - the project's own pages
        else:  # options are checked before the provider is found missing
            with pytest.raises(runtime.ProviderError, match=f"provider {provider[1]}: the installed ONNX Runtime has only"):
                exec(code, names)  # noqa: S102 - as above


@pytest.mark.parametrize("block", _EXCERPTS, ids=_identifier)
def test_an_excerpt_is_in_its_file(block: Block) -> None:
    path, _, text = block.text[2:].partition("\n")
    assert text in (ROOT / path).read_text(encoding="utf-8")
