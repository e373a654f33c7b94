"""Tiny models, adapters and texts under the names that commands in the pages use."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
from adapters.composition import Fuse
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from tests.helpers.sentence_folders import new_layout
from tests.helpers.small_vocabulary import VOCABULARY
from tests.helpers.tiny_models import tiny_model, tokenizer
from tests.helpers.tiny_peft import peft_model

_ADAPTERS = ("sst2", "mnli", "rte", "qnli")
_TEXTS = ("a fast phone", "a slow film", "nothing new", "the screen is gorgeous")


def deep_config(layers: int) -> BertConfig:
    """A BERT of that many layers, as small as it can be, for the vocabulary of `tokenizer()`."""
    return BertConfig(
        num_hidden_layers=layers, hidden_size=16, num_attention_heads=2, intermediate_size=16, vocab_size=VOCABULARY
    )


def _model(layers: int) -> Any:
    return tiny_model(dict.fromkeys(_ADAPTERS, ("seq_bn", "2")), deep_config(layers))


def _write_model(folder: Path, layers: int) -> None:
    _model(layers).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def _write_fusion(folder: Path, layers: int) -> None:
    model = _model(layers)
    model.add_adapter_fusion(Fuse("sst2", "mnli", "rte"))
    model.add_classification_head("sst2,mnli,rte", num_labels=2)
    model.set_active_adapters(Fuse("sst2", "mnli", "rte"))
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def _write_base(folder: Path, layers: int) -> None:
    BertModel(deep_config(layers)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def _write_classifier(folder: Path, layers: int) -> None:
    BertForSequenceClassification(deep_config(layers)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def _write_tuned(folder: Path, layers: int) -> None:
    _write_classifier(folder / "spam", layers)


def _write_setfit(folder: Path, layers: int) -> None:
    _write_base(folder, layers)
    new_layout(folder, deep_config(layers).hidden_size, "mean", 128, {}, None)


def _write_adapters(folder: Path, layers: int) -> None:
    model = _model(layers)
    folder.mkdir()
    for name in _ADAPTERS:
        model.save_adapter(str(folder / name), name)


def _write_peft(folder: Path, layers: int) -> None:
    base = BertForSequenceClassification(deep_config(layers))
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    peft_model(settings, ("sst2", "rte"), base).save_pretrained(folder)


def _write_mixed(folder: Path, layers: int) -> None:
    lora: dict[str, Any] = {"r": 2, "target_modules": ["query"]}
    ia3 = peft.IA3Config(task_type="TOKEN_CLS", target_modules=["key"], feedforward_modules=[])
    for name, kind, settings in (
        ("topic", BertForSequenceClassification, peft.LoraConfig(task_type="SEQ_CLS", **lora)),
        ("entities", BertForTokenClassification, ia3),
        ("qa", BertForQuestionAnswering, peft.LoraConfig(task_type="QUESTION_ANS", **lora)),
    ):
        peft_model(settings, (name,), kind(deep_config(layers))).save_pretrained(folder)


def _write_features(folder: Path, layers: int) -> None:
    settings = peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=2, target_modules=["query"])
    for name in ("search", "topics"):
        peft_model(settings, (name,), BertModel(deep_config(layers))).save_pretrained(folder)


def _write_embeddings(folder: Path, layers: int) -> None:
    _write_features(folder, layers)
    for name in ("search", "topics"):
        new_layout(folder / name, deep_config(layers).hidden_size, "mean", 128, {}, None)


def _write_lines(path: Path) -> None:
    row = {"label": 0}
    lines = {".txt": _TEXTS, ".jsonl": [json.dumps({"text": text, **row}) for text in _TEXTS]}[path.suffix]
    path.write_text("\n".join(lines), encoding="utf-8")


_WRITERS: dict[str, Callable[[Path, int], None]] = {
    "my-model": _write_model,
    "my-fusion": _write_fusion,
    "my-base": _write_base,
    "adapters": _write_adapters,
    "peft": _write_peft,
    "mixed": _write_mixed,
    "features": _write_features,
    "embeddings": _write_embeddings,
    "my-classifier": _write_classifier,
    "tuned": _write_tuned,
    "setfit-model": _write_setfit,
}


def write_sources(folder: Path, arguments: Sequence[str], layers: int | None = None) -> None:
    """Write what the arguments of a command name: models with one layer more than the largest drop, adapters and texts."""
    text = " ".join(arguments)
    drops = [
        int(number) for found in re.findall(r"--drop (\S+)", text) for number in re.findall(r"\d+", found.replace("sst2", ""))
    ]
    for name, write in _WRITERS.items():
        if re.search(rf"(^|[ =]){name}\b", text) and not (folder / name).exists():
            write(folder / name, layers or max(drops, default=0) + 1)
    for name in re.findall(r"[\w-]+\.(?:txt|jsonl)\b", text):
        _write_lines(folder / name)
    for name in re.findall(r"[\w-]+\.npz\b", text):
        np.savez(folder / name, coef=np.ones((2, deep_config(1).hidden_size)), classes=np.array(["no", "yes"]))
