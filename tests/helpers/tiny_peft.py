"""Tiny random models with adapters of PEFT."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import peft
import torch
from transformers import BertForSequenceClassification

from tests.helpers.tiny_models import bert_config

TARGETS = ["query", "value", "dense"]
METHODS: dict[str, Any] = {
    "lora": peft.LoraConfig(r=4, target_modules=TARGETS, modules_to_save=["classifier", "LayerNorm"], lora_dropout=0.5),
    "patterns": peft.LoraConfig(
        task_type="SEQ_CLS",
        use_rslora=True,
        target_modules=[*TARGETS, "word_embeddings"],
        rank_pattern={"query": 2},
        alpha_pattern={"value": 3},
    ),
    "one layer": peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], layers_to_transform=[1], lora_bias=True),
    "dora": peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=[*TARGETS, "word_embeddings"], use_dora=True),
    "ia3": peft.IA3Config(
        task_type="SEQ_CLS", target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"]
    ),
    "vera": peft.VeraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "intermediate.dense"]),
}


def config(**settings: Any) -> Any:
    found = bert_config()
    found.update({"num_hidden_layers": 2, **settings})
    return found


def scramble(model: Any) -> Any:
    """Every adapter and head far from the identity, and from each other."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("lora_", "ia3_", "vera_lambda", "modules_to_save")):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def peft_model(settings: Any, names: Sequence[str] = ("first", "second", "third"), base: Any = None, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    configs = [copy.deepcopy(settings) for _ in names]
    model = peft.get_peft_model(base or BertForSequenceClassification(config()), configs[0], names[0])
    for name, other in zip(names[1:], configs[1:], strict=True):
        model.add_adapter(name, other)
    return scramble(model)


def inject(model: Any, settings: Any, name: str = "default") -> None:
    """As `add_adapter` of transformers does, which requires PEFT 0.22 in transformers 5.24."""
    peft.inject_adapter_in_model(settings, model, name)
    model.peft_config = {**getattr(model, "peft_config", {}), name: settings}
    model._hf_peft_config_loaded = True


def answer(model: Any, feeds: Mapping[str, np.ndarray]) -> Any:
    with torch.no_grad():
        return model(**{name: torch.from_numpy(value) for name, value in feeds.items()})
