"""Tasks that are given as folders or arrays, for docs/support.md: biases, full fine-tunes, and heads of a base model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch import nn

from tests.helpers.sentence_reference import pooled
from tests.helpers.support_models import CONFIGS, randomize
from tests.helpers.tiny_models import lowest_layers
from tests.helpers.tiny_peft import tuner

_LABELS = 3
_LORA: dict[str, Any] = {"r": 4, "target_modules": ["query", "output.dense"], "modules_to_save": ["classifier"]}


@dataclass(frozen=True, eq=False)
class Folders:
    """A base model with tasks over it.

    Attributes:
        base: a transformers model.
        models: task -> its model, of PEFT or a fine-tune of `base`; None for the head of `base` itself.
        heads: task -> weights and bias of a linear head over the mean of the hidden states.
    """

    base: Any
    models: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the models, and return the arguments of `export` for them."""
        self.base.save_pretrained(folder / "base")
        sources = []
        for name, model in self.models.items():
            sources.append(f"{name}=base" if model is None else f"{name}={folder / name}")
            if model is not None:
                model.save_pretrained(folder / name)
        pooling = dict.fromkeys(self.heads, "mean")
        return {"model": folder / "base", "adapters": sources, "heads": self.heads, "pooling": pooling}

    def references(self, drop: int) -> dict[str, Any]:
        """Return a model of each task, with the base model's weights in the lowest layers."""
        found = {name: self._reference(model, drop) for name, model in self.models.items()}
        return found | {name: _Linear(self.base, *head) for name, head in self.heads.items()}

    def _reference(self, model: Any, drop: int) -> Any:
        if model is None:
            return self.base
        # The embeddings of a fine-tune are below all layers.
        below = [] if hasattr(model, "peft_config") or not drop else ["embeddings."]
        plain = copy.deepcopy(model).merge_and_unload() if hasattr(model, "peft_config") else copy.deepcopy(model)
        below += lowest_layers(self.base.config, drop)
        known = self.base.state_dict()
        plain.load_state_dict({key: known[key] for key in known if any(part in key for part in below)}, strict=False)
        return plain.eval()


class _Linear(nn.Module):
    """A linear head over the mean of the hidden states."""

    def __init__(self, base: Any, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.base, self.weight, self.bias = base, weight, bias
        self.config = base.config

    def forward(self, **given: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits."""
        hidden = self.base(**given).last_hidden_state.numpy()
        vectors = pooled(hidden, given["attention_mask"].numpy(), ("mean",))
        return {"logits": torch.from_numpy((vectors @ self.weight.T + self.bias).astype(np.float32))}


def _base(head: str = "ForSequenceClassification", seed: int = 11) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(**CONFIGS["Bert"])
    config.num_labels = _LABELS
    model = getattr(transformers, f"Bert{head}")(config)
    randomize(model)
    return model.eval()


def _tuned(base: Any, settings: Any, seed: int) -> Any:
    """A PEFT model whose trained weights, also those of biases, are random."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(copy.deepcopy(base), settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def _own_head() -> Folders:
    """The head of the base model next to an adapter."""
    base = _base()
    return Folders(base, {"a": None, "b": _tuned(base, peft.LoraConfig(task_type="SEQ_CLS", **_LORA), 1)})


def _fine_tunes() -> Folders:
    """A merged LoRA, and a model in which everything is different."""
    base = _base()
    return Folders(base, {"a": _tuned(base, peft.LoraConfig(**_LORA), 1).merge_and_unload(), "b": _base(seed=12)})


def _linear_heads() -> Folders:
    base, generator = _base("Model"), np.random.default_rng(0)
    size = base.config.hidden_size
    heads = {name: (generator.normal(size=(_LABELS, size)), generator.normal(size=_LABELS)) for name in ("a", "b")}
    return Folders(base, heads=heads)


def _biases(bias: str) -> Folders:
    base = _base()
    return Folders(base, {name: _tuned(base, tuner("LORA", bias=bias), seed) for seed, name in enumerate(("a", "b"))})


def folder_cases() -> Iterator[tuple[str, str, Callable[[], Folders]]]:
    """Yield method, head, and how the tasks are made."""
    own = "its own (SequenceClassification)"
    yield "PEFT lora, bias all", own, lambda: _biases("all")
    yield "PEFT lora, bias lora_only", own, lambda: _biases("lora_only")
    yield "no adapter (NAME=base) next to PEFT lora", own, _own_head
    yield "no adapter (full fine-tunes)", own, _fine_tunes
    yield "no adapter (linear heads)", "linear over embeddings (mean)", _linear_heads
