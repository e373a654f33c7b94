"""Tiny random models with PEFT adapters."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import peft
import torch
import transformers
from transformers import BertForSequenceClassification

from exporter.models.quiet_libraries import quiet
from tests.helpers.tiny_models import bert_config

TRANSFORMERS_5 = int(transformers.__version__.split(".")[0]) >= 5
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

# PEFT type -> the settings of an adapter, without the targets. Every type is here or in `exporter.models.peft_types.REFUSED`.
TUNERS: dict[str, dict[str, Any]] = {
    "ADALORA": {"init_r": 4, "target_r": 2, "total_step": 10},
    "ADAMSS": {"r": 8},
    "BEFT": {},
    "BOFT": {"boft_block_size": 4, "boft_n_butterfly_factor": 2},
    "C3A": {"block_size": 16},
    "CARTRIDGE": {"num_virtual_tokens": 3},
    "DEFT": {"r": 4},
    "DELORA": {"r": 4},
    "FOURIERFT": {"n_frequency": 20, "scaling": 50.0},
    "FROD": {},
    "GLORA": {"r": 4},
    "GRALORA": {"r": 4},
    "HIRA": {"r": 4},
    "HRA": {"r": 4},
    "IA3": {"feedforward_modules": ["output.dense"]},
    "LN_TUNING": {"target_modules": ["LayerNorm"]},
    "LOHA": {"r": 4},
    "LOKR": {"r": 4},
    "LORA": {"r": 4},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 8},
    "OSF": {},
    "PEANUT": {"r": 4},
    "PREFIX_TUNING": {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 16},
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "PSOFT": {"r": 4},
    "PVERA": {"r": 4},
    "P_TUNING": {"num_virtual_tokens": 3, "encoder_hidden_size": 16},
    "RANDLORA": {"r": 4, "randlora_alpha": 8},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 2},
    "SUPERTUNING": {},
    "TINYLORA": {},
    "TRAINABLE_TOKENS": {"target_modules": ["word_embeddings"], "token_indices": [1, 5, 7]},
    "UNILORA": {},
    "VBLORA": {"r": 2, "topk": 2, "vector_length": 8, "num_vectors": 16},
    "VERA": {"r": 4},
    "WAVEFT": {"n_frequency": 32},
}


def tuner(kind: str, **settings: Any) -> Any:
    """The configuration of an adapter of a PEFT type."""
    of_kind: Any = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
    targets = {} if "num_virtual_tokens" in TUNERS[kind] else {"target_modules": ["query", "value", "output.dense"]}
    return of_kind(**{"task_type": "SEQ_CLS", **targets, **TUNERS[kind], **settings})


def tuned_model(kind: str, base: Any = None, names: Sequence[str] = ("first", "second"), **settings: Any) -> Any:
    """A model with adapters of a PEFT type, every weight far from its start."""
    torch.manual_seed(0)
    base = base or BertForSequenceClassification(config(num_hidden_layers=3))
    with quiet():
        model = peft.get_peft_model(base, tuner(kind, **settings), names[0])
        for name in names[1:]:  # of AdaLoRA, only one adapter can be trained
            model.add_adapter(name, tuner(kind, **settings, inference_mode=kind == "ADALORA"))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if set(names) & set(key.split(".")) and parameter.is_floating_point():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def config(**settings: Any) -> Any:
    found = bert_config()
    found.update({"num_hidden_layers": 2, **settings})
    return found


def scramble(model: Any, *parts: str) -> Any:
    """Every adapter and head far from the identity, and from each other; their weights' names have one of the parts."""
    parts = (*parts, "lora_", "ia3_", "vera_lambda", "modules_to_save", "trainable_tokens_delta")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in parts):
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
