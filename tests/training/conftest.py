"""A tiny base model for the comparison of methods, and a task of a few texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, MPNetConfig, MPNetModel

from exporter.example import base_model_folder as example_folder
from tests.helpers.tiny_models import tokenizer
from tests.helpers.tiny_quality import TASK
from training.corpora import READERS, Example, Splits
from training.quality import __main__ as command
from training.quality import methods


@pytest.fixture
def base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six layers, of which specialised adapters leave out five; a task of two labels and four steps."""
    words = tokenizer()
    config = MPNetConfig(
        num_hidden_layers=6,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=len(words),
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    folder = tmp_path / "base_model"
    MPNetModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(example_folder(), model_input_names=["input_ids", "attention_mask"]).save_pretrained(folder)
    examples = [Example(f"the {'good' if n % 2 else 'bad'} text {n}", "xy"[n % 2], str(n)) for n in range(40)]
    monkeypatch.setitem(READERS, TASK, lambda _: Splits(examples[:32], examples[32:]))
    small = dataclasses.replace(methods.QUALITY_TASKS[TASK], steps=4, batch_size=8)
    monkeypatch.setitem(methods.QUALITY_TASKS, TASK, small)
    monkeypatch.setattr(command, "base_model_folder", lambda _: folder)
    monkeypatch.setattr(command, "corpora", lambda cache: cache)
    return folder
