"""Training of one adapter on the 12-layer base model: a task, a method and a seed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from adapters import SeqBnConfig
from torch import nn
from transformers import AutoTokenizer

from training.batches import collate, encode, labels_of
from training.corpora import READERS, sample
from training.fit import optimize
from training.models import adapter_parameters, tie_layers, untie_layers
from training.quality.methods import METHODS, QUALITY_TASKS, SPECIALISED, TRAIN_LIMIT
from training.quality.mpnet import load_base_model

RESULT = "training.json"


@dataclass(frozen=True)
class Piece:
    """One adapter to train.

    Attributes:
        task: name of the task.
        method: name of the method.
        seed: seed of the weights, batches and drops.
    """

    task: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """The name of the adapter, of its head and of its folder."""
        return f"{self.task}-{self.method}-{self.seed}"


def train(piece: Piece, output: Path, base_model: Path, corpus: Path, checkpoint: Path) -> dict[str, Any]:
    """Train an adapter and its head, and save both.

    The base model is in evaluation mode and in bf16, as the paper's frozen weights never change; adapter and head are in fp32.

    Args:
        piece: what to train.
        output: folder of the adapters; the adapter is saved in a sub-folder of its name.
        base_model: folder of the base model.
        corpus: folder of the corpora.
        checkpoint: file for checkpoints; an existing one is resumed.

    Returns:
        The hyperparameters and the training time, which are also in the adapter's folder.
    """
    start = time.perf_counter()
    task = QUALITY_TASKS[piece.task]
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    splits = READERS[task.name](corpus)
    labels = labels_of(task, splits.train)
    train_examples = encode(task, tokenizer, sample(splits.train, TRAIN_LIMIT), labels)
    model = load_base_model(base_model)
    torch.manual_seed(piece.seed)
    _add(model, piece, labels)
    parameters = adapter_parameters(model, piece.name)
    model.train_adapter(piece.name)
    model.active_head = piece.name
    freeze_in_bf16(model.mpnet)
    model.heads.train()

    def loss_of(batch: list[Any], drop: int) -> Any:
        model.set_active_adapters(piece.name, skip_layers=list(range(drop)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(**collate(task, tokenizer, batch)).loss

    optimize(model, task, loss_of, train_examples, piece.seed, checkpoint, METHODS[piece.method])
    if piece.method == "shared":
        untie_layers(model, piece.name)
    result = {
        "task": piece.task,
        "method": piece.method,
        "seed": piece.seed,
        "labels": labels,
        "steps": task.steps,
        "batch_size": task.batch_size,
        "learning_rate": task.learning_rate,
        "max_length": task.max_length,
        "train_examples": len(train_examples),
        "parameters": parameters,
        "seconds": round(time.perf_counter() - start, 1),
    }
    _save(model, piece, output, result)
    checkpoint.unlink(missing_ok=True)
    return result


def _add(model: Any, piece: Piece, labels: list[str]) -> None:
    """Add an adapter and a head to the model; specialised adapters have no weights in the lowest layers."""
    leave_out = list(range(SPECIALISED)) if piece.method == "specialised" else []
    model.add_adapter(piece.name, config=SeqBnConfig(leave_out=leave_out))
    model.add_classification_head(piece.name, num_labels=len(labels), layers=1, id2label=dict(enumerate(labels)))
    if piece.method == "shared":
        tie_layers(model, piece.name)


def freeze_in_bf16(base_model: nn.Module) -> None:
    """Store the frozen matrices in bf16 once: autocast would round the same weights again in every step."""
    for module in base_model.modules():
        if isinstance(module, nn.Linear) and not any(parameter.requires_grad for parameter in module.parameters()):
            module.to(torch.bfloat16)


def _save(model: Any, piece: Piece, output: Path, result: dict[str, Any]) -> None:
    folder = output / piece.name
    partial = output / f"{piece.name}.partial"
    output.mkdir(parents=True, exist_ok=True)
    model.save_adapter(str(partial), piece.name, use_safetensors=True)
    (partial / RESULT).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    # Renamed at the end: a folder without the suffix is complete.
    partial.rename(folder)
