"""Tiny checkpoints on disk, and the answers that they must give once they are loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.composition import Fuse
from transformers import BertConfig, BertModel

from exporter import ExportError
from exporter.checkpoints.load import Checkpoint, load
from tests.helpers.tiny_models import bert_config, inputs, tiny_model

FEEDS = {name: torch.from_numpy(value) for name, value in inputs((3, 7)).items()}


def answer(model: Any, setup: Any, head: str | None = None, feeds: Any = None) -> torch.Tensor:
    """Single-task eager PyTorch by the library's own means."""
    model.eval()
    model.set_active_adapters(setup)
    if hasattr(model, "heads"):
        model.active_head = head or setup
    with torch.no_grad():
        logits: torch.Tensor = model(**(feeds or FEEDS)).logits
    return logits


def assert_equal(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the order of additions, which on some processors depends on where a tensor lies in memory."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def save_base_model(model: Any, folder: Path) -> Path:
    """The plain transformer under an adapter model, as its publisher would have saved it."""
    base_model = BertModel(BertConfig.from_dict(bert_config().to_dict()))
    state = model.bert.state_dict()
    base_model.load_state_dict({key: state[key] for key in base_model.state_dict()})
    base_model.save_pretrained(folder)
    return folder


def randomize(model: Any) -> None:
    """Makes every weight of an adapter, fusion or head count."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            ours = any(word in name for word in ("adapter", "lora", "reft", "prefix", "prompt_tunings", "shared_", "heads."))
            # Embeddings are the base model's, and what an orthogonal matrix is made of has its own rules.
            if ours and "original" not in name and "embeddings" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def fused_model(names: Sequence[str] = ("a", "b"), *fusions: Fuse) -> Any:
    """A model with one task per name and fusion layers that are no identity."""
    model = tiny_model(dict.fromkeys(names, ("seq_bn", "2")))
    for fusion in fusions:
        model.add_adapter_fusion(fusion)
        model.add_classification_head(fusion.name, num_labels=3)
    randomize(model)
    return model


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content.update(changes)
    path.write_text(json.dumps(content), encoding="utf-8")


def load_quietly(model: Any, *arguments: Any, **options: Any) -> Checkpoint:
    """Loads with another seed, so that a weight that is not set cannot be right by chance."""
    torch.manual_seed(12345)
    return load(model, *arguments, **options)


def assert_refused(message: str, model: Any, **options: Any) -> None:
    with pytest.raises(ExportError, match=message):
        load(model, **options)
