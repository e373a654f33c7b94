"""A tiny model with labelled texts, whose score is known for every task and drop from PyTorch, without the exporter."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from transformers import BertConfig

from exporter.inspect.flops import node_cost
from exporter.inspect.shapes import concrete_values
from tests.helpers.tiny_models import reference, tiny_model
from tests.helpers.tiny_tokenizers import LARGEST_VOCABULARY, tiny_tokenizer

LAYERS = 2
FUSION = "a,b"
TASKS = ("a", "b", "tags", FUSION)
_WORDS = ("Berlin", "twice", "slow", "founded", "York", "unbelievably", "Merkel", "visited", "is", "not", "example", "today")
# The share of texts whose label is another one than the prediction at drop 0: a metric below 1 at drop 0.
_NOISE = 0.1


def save_model(folder: Path) -> Any:
    """Write a model of four tasks, one of them a fusion, to `folder` and return it."""
    from adapters.composition import Fuse

    config = BertConfig(
        num_hidden_layers=LAYERS,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=LARGEST_VOCABULARY,
        max_position_embeddings=48,
    )
    model = tiny_model({"a": ("seq_bn", "2"), "b": ("seq_bn", "3"), "tags": ("seq_bn", "tag")}, config)
    model.add_adapter_fusion(Fuse("a", "b"))
    model.add_classification_head(FUSION, num_labels=2, layers=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adapter_fusion" in name:
                parameter.normal_(0.0, 0.3)
            # Adapters that change many predictions, more so in the higher layer.
            elif "adapter_up" in name:
                parameter.mul_(6.0 if "layer.1" in name else 1.5)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return model


def texts(count: int, seed: int = 0) -> list[str]:
    """Return different texts of a few words."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(_WORDS, draw.integers(3, 7))) for _ in range(count)]


def write_labels(model: Any, folder: Path, count: int) -> dict[str, Path]:
    """Write labelled texts of each task: the predictions at drop 0, some of them changed."""
    draw = np.random.default_rng(1)
    found = {}
    for number, task in enumerate(TASKS):
        rows = []
        given = texts(count, number)
        for text, logits in zip(given, _logits(model, task, given, 0), strict=True):
            ids = logits.argmax(-1)
            wrong = draw.random(ids.shape) < _NOISE
            labels = np.where(wrong, (ids + 1) % logits.shape[-1], ids).tolist()
            rows.append(json.dumps({"text": text, "label": labels}) + "\n")
        found[task] = folder / f"{number}.jsonl"
        found[task].write_text("".join(rows), encoding="utf-8")
    return found


def accuracy(model: Any, task: str, drop: int, path: Path) -> float:
    """Return the accuracy of PyTorch over texts or over words."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    right = []
    for row, logits in zip(rows, _logits(model, task, [row["text"] for row in rows], drop), strict=True):
        right += np.atleast_1d(logits.argmax(-1) == row["label"]).tolist()
    return float(np.mean(right))


@functools.cache
def _tokenizer() -> Any:
    return tiny_tokenizer("wordpiece", 48)


def _logits(model: Any, task: str, given: Sequence[str], drop: int) -> list[np.ndarray]:
    """Return [labels] for each text, or for tags [words, labels] of the words' first tokens.

    Texts of one length are a batch, in which there is no padding.
    """
    from adapters.composition import Fuse

    setup = Fuse("a", "b") if task == FUSION else task
    encodings = [_tokenizer()(text) for text in given]
    found: dict[int, np.ndarray] = {}
    for length in {len(each["input_ids"]) for each in encodings}:
        rows = [row for row, each in enumerate(encodings) if len(each["input_ids"]) == length]
        names = ("input_ids", "attention_mask", "token_type_ids")
        feeds = {name: np.array([encodings[row][name] for row in rows]) for name in names}
        found |= dict(zip(rows, reference(model, setup, feeds, drop, task), strict=True))
    if task != "tags":
        return [found[row] for row in range(len(given))]
    words = [each.word_ids() for each in encodings]
    return [found[row][[words[row].index(number) for number in range(len(text.split()))]] for row, text in enumerate(given)]


def cost(graph: ir.Graph, shape: tuple[int, int]) -> float:
    """Return seconds of a call as if operations and operators cost the same on every machine."""
    known = concrete_values(graph, {"batch": shape[0], "sequence": shape[1]})
    costs = [node_cost(node, known) for node in graph]
    return 1e-3 + 1e-9 * sum(each.total for each in costs if each is not None) + 1e-6 * len(costs)
