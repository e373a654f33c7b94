"""Live models and arguments that cannot be exported: an ExportError that names the thing, before any long work."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import adapters
import numpy as np
import pytest
import torch.nn.utils.prune
from adapters.composition import BatchSplit, Fuse, Parallel, Split, Stack
from transformers import (
    BertForPreTraining,
    BertModel,
    CLIPConfig,
    CLIPModel,
    DistilBertConfig,
    T5Config,
    T5Model,
)

from exporter import ExportError, export
from exporter.write.staging import staged
from tests.helpers.tiny_models import add_task, bert_config, inputs, reference, run_graph, tiny_model, tokenizer


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "2")})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": [Stack("a", "b")]}, "give compositions as a mapping"),
        ({"tasks": {"b": Stack("a", "c")}}, "unknown adapter 'c'; adapters: a, b"),
        ({"tasks": {"c": Stack("a", Fuse("a", "b"))}}, "the task 'c' has no prediction head 'a,b'; heads: a, b"),
        ({"tasks": {"a": Fuse("a", "b")}}, "the task 'a' needs the fusion layer 'a,b'; fusions: none"),
        ({"tasks": {"a": Parallel("a", "b")}}, "Parallel runs several tasks"),
        ({"tasks": {"a": Split("a", "b", splits=3)}}, "Split splits a batch or a text into parts of fixed size"),
        ({"tasks": {"a": BatchSplit("a", "b", batch_sizes=1)}}, "BatchSplit splits a batch"),
        ({"tasks": {"a": Fuse("a", Fuse("a", "b"))}}, "the setup of the task 'a' is not a composition of adapters"),
        ({"tasks": {"a": ""}}, "the setup of the task 'a' is empty"),
        ({"tasks": {}}, "tasks is empty"),
        ({"tasks": {"x": "a", "x.y": "b", "a": "z"}}, "unknown adapter 'z'"),
        ({"keep_fused": 1}, "keep_fused was given, but no task is a fusion"),
        ({"drop": {"c": 1}}, "unknown task 'c' in drop; tasks: a, b"),
        ({"drop": {"a": -1}}, "drop must be from 0 to 2"),
        ({"adapters": ["x"]}, "adapters and fusions require a model folder or hub id"),
        ({"adapters": None}, "adapters must be a list of folders or hub ids, found None$"),
        ({"tasks": "a"}, "found 'a': write \\['a'\\]"),
        ({"tasks": 5}, "found 5"),
        ({"drop": 1.0}, "drop must be an integer"),
        ({"drop": True}, "drop must be an integer"),
        ({"drop": None}, "drop must be an integer"),
        ({"atol": float("inf")}, "atol must be a finite number"),
        ({"atol": "x"}, "atol must be a finite number"),
        ({"opset": 20.0}, "opset must be from 17"),
        ({"output": None}, "the output must be the path of a folder"),
        ({"output": "a\0b"}, "the output must be the path of a folder"),
        ({"tokenizer": "bert"}, "expected a fast tokenizer, found str"),
        ({"routed": "no"}, "routed must be True or False, found 'no'"),
        ({"overwrite": None}, "overwrite must be True or False, found None"),
        ({"calibration": 3}, "calibration must be the path of a file, found 3"),
        ({"evaluation": 3}, "evaluation must be the path of a file, or a mapping from task to path, found 3"),
        ({"evaluation": {"a": 3}}, "evaluation must be the path of a file, .* found {'a': 3}"),
    ],
)
def test_arguments(model: Any, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(model, **{"output": tmp_path / "onnx", **arguments})
    assert list(tmp_path.iterdir()) == []


def _hooked() -> Any:
    model = tiny_model({"a": ("seq_bn", "2")})
    model.bert.lock = threading.Lock()
    return model


def _pruned() -> Any:
    model = tiny_model({"a": ("seq_bn", "2")})
    torch.nn.utils.prune.l1_unstructured(model.bert.encoder.layer[0].output.dense, "weight", 0.3)
    return model


def _labels(label2id: Any) -> Any:
    model = tiny_model({"a": ("seq_bn", "2")})
    model.heads["a"].config["label2id"] = label2id
    return model


def _decoder_with_prefix() -> Any:
    config = bert_config()
    config.is_decoder = True
    return tiny_model({"a": ("prefix_tuning", "2")}, config)


def _short() -> Any:
    config = bert_config()
    config.max_position_embeddings = 1
    return tiny_model({"a": ("seq_bn", "2")}, config)


def _static(model: Any) -> Any:
    adapters.init(model)
    model.add_adapter("a", config="seq_bn")
    return model


def _headless_decoder() -> Any:
    return _static(T5Model(T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, vocab_size=60)))


def _both_sides() -> Any:
    small = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 1}
    image = {**small, "image_size": 12, "patch_size": 4}
    return _static(CLIPModel(CLIPConfig(text_config=small, vision_config=image, projection_dim=16)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BertModel(bert_config()), "expected a model with adapters, found BertModel"),
        (lambda: torch.nn.Linear(2, 2), "expected a model with adapters, found Linear"),
        (lambda: _static(BertForPreTraining(bert_config())), "BertForPreTraining has no supported prediction head"),
        (_headless_decoder, "T5Model has no prediction head, and only encoders of texts or of images are exported without one"),
        (_both_sides, "CLIPModel compares texts with images, .* TextModelWithProjection or VisionModelWithProjection"),
        (_hooked, "the model cannot be copied"),
        (_pruned, "the model cannot be copied"),
        (_decoder_with_prefix, 'has a prefix in the decoder of .* with sdpa .*attn_implementation="eager"'),
        (_short, "takes at most one token"),
        (lambda: tiny_model({"a": ("seq_bn", "2")}).to("meta"), "on the meta device"),
        (lambda: _labels({"x": None}), "the labels of the head 'a'"),
        (lambda: _labels(["x", "y"]), "the labels of the head 'a'"),
        (lambda: _labels({"x": 0, "y": 0}), "the labels of the head 'a'"),
        (lambda: _labels({"x": 0, "y": 7}), "the labels of the head 'a'"),
        (lambda: _labels({"x": -1, "y": 1}), "the labels of the head 'a'"),
    ],
)
def test_models(tmp_path: Path, build: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(build(), output=tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_model(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the tokenizer has 5,000 tokens, the model's vocabulary 101"):
        export(model, tokenizer(), output=tmp_path / "onnx")


def test_numpy_numbers_and_a_tokenizer_with_extra_inputs_work(tmp_path: Path) -> None:
    words = tokenizer()
    config = DistilBertConfig(n_layers=1, dim=32, n_heads=4, hidden_dim=64, vocab_size=len(words), max_position_embeddings=20)
    model = tiny_model({}, config)
    add_task(model, "a", "seq_bn", "2")
    export(model, words, drop=np.int64(0), output=tmp_path / "onnx")  # type: ignore[arg-type]
    feeds = inputs((2, 5), len(words), segments=False)
    assert np.allclose(run_graph(tmp_path / "onnx", feeds)["logits"], reference(model, "a", feeds), atol=1e-5)


def test_what_appears_in_the_output_during_an_export_is_kept(tmp_path: Path) -> None:
    def meet() -> None:
        with staged(tmp_path / "onnx", overwrite=False):
            (tmp_path / "onnx").mkdir()
            (tmp_path / "onnx" / "precious").write_text("x")

    with pytest.raises(ExportError, match="is not empty"):
        meet()
    assert [path.name for path in tmp_path.rglob("*")] == ["onnx", "precious"]


def test_an_export_that_fails_takes_new_parents_with_it(tmp_path: Path) -> None:
    def fail() -> None:
        with staged(tmp_path / "a" / "b" / "onnx", overwrite=False):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_when_the_output_is_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("exporter.write.staging.flush_names", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"onnx is written$"), staged(tmp_path / "onnx", overwrite=False) as folder:
        (folder / "file").write_text("x")
    assert [path.name for path in tmp_path.rglob("*")] == ["onnx", "file"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    with staged(tmp_path / "onnx", overwrite=False) as folder:
        (folder / "file").write_text("x")
    assert [path.name for path in tmp_path.rglob("*")] == ["onnx", "file"]
