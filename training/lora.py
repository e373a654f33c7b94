"""PEFT LoRA adapters for some tasks of the bundled example, on the same data and splits as the other adapters.

Only the last layer has an adapter. The output of the layers below is the same in every step, so it is computed once per
example, and the head reads one token, so the last layer computes one row. A task trains in less than a minute on one core.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification

from exporter.example import BASE_MODEL, base_model_folder
from training.batches import Encoded, collate, test_batches
from training.evaluate import BATCH_SIZE, metric_name
from training.fit import optimize
from training.tasks import TASKS, TaskSpec

RANK = 8
LAYER = 5  # the last one of the base model
TRAIN_LIMIT, TEST_LIMIT = 1500, 500
WEIGHTS = "adapter_model.safetensors"
STEPS, LEARNING_RATE = 200, 3e-3
_NAMES = ("movie_sentiment", "tweet_sentiment", "news_topic", "reuters_topic")
LORA_TASKS = tuple(replace(task, steps=STEPS, learning_rate=LEARNING_RATE) for task in TASKS if task.name in _NAMES)


@dataclass(frozen=True, eq=False)
class Prepared:
    """An example after the layers without an adapter.

    Attributes:
        hidden: the input of the last layer, [tokens, features].
        label: label id.
    """

    hidden: torch.Tensor
    label: int

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.hidden)


def base(labels: list[str]) -> Any:
    """Return the base model with a new classification head."""
    names = dict(enumerate(labels))
    ids = {label: number for number, label in names.items()}
    return AutoModelForSequenceClassification.from_pretrained(base_model_folder(), id2label=names, label2id=ids)


def add_lora(model: Any, name: str) -> Any:
    """Return a PeftModel with a new adapter in the last layer and a new head."""
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=RANK,
        lora_alpha=2 * RANK,
        lora_dropout=0.1,
        target_modules=["query", "value"],
        layers_to_transform=[LAYER],
    )
    return peft.get_peft_model(model, config, name)


@torch.no_grad()  # in inference mode, the results could not be trained on
def prepare(model: Any, tokenizer: Any, task: TaskSpec, examples: list[Encoded]) -> list[Prepared]:
    """Run the layers without an adapter; the result is in the order of the batches."""
    found = []
    for batch in tqdm(list(test_batches(examples, BATCH_SIZE)), desc=f"prepare {task.name}", unit="batch"):
        inputs = collate(task, tokenizer, batch)
        labels = inputs.pop("labels")
        hidden = model.eval().get_base_model().bert(**inputs, output_hidden_states=True).hidden_states[LAYER]
        for row, mask, label in zip(hidden, inputs["attention_mask"], labels, strict=True):
            found.append(Prepared(row[: int(mask.sum())].clone(), int(label)))
    return found


def logits_of(model: Any, batch: list[Prepared], with_adapter: bool = True) -> torch.Tensor:
    """Run the last layer for the first token, and the head: [batch, labels]."""
    classifier = model.get_base_model()
    layer = classifier.bert.encoder.layer[LAYER]
    attention = layer.attention.self
    for module in (attention.query, attention.value):
        module.enable_adapters(with_adapter)
    hidden = torch.nn.utils.rnn.pad_sequence([example.hidden for example in batch], batch_first=True)
    lengths = torch.tensor([len(example) for example in batch])
    first, visible = hidden[:, :1], torch.arange(hidden.shape[1]) < lengths[:, None]
    query, key, value = (
        projected.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
        for projected in (attention.query(first), attention.key(hidden), attention.value(hidden))
    )
    context = torch.nn.functional.scaled_dot_product_attention(query, key, value, visible[:, None, None, :])
    attended = layer.attention.output(context.transpose(1, 2).flatten(2), first)
    pooled = classifier.bert.pooler(layer.output(layer.intermediate(attended), attended))
    logits: torch.Tensor = classifier.classifier(classifier.dropout(pooled))
    return logits


def fit_lora(model: Any, task: TaskSpec, examples: list[Prepared], seed: int, checkpoint: Path) -> None:
    """Train the adapter and its head in place; a checkpoint is resumed as in `training.fit.fit`."""

    def loss_of(batch: list[Prepared], _drop: int) -> torch.Tensor:
        labels = torch.tensor([example.label for example in batch])
        return torch.nn.functional.cross_entropy(logits_of(model, batch), labels)

    optimize(model.train(), task, loss_of, examples, seed, checkpoint)
    model.eval()


@torch.inference_mode()
def lora_scores(model: Any, examples: list[Prepared]) -> list[float]:
    """Return the accuracy at every drop, from 0 to the number of layers."""
    batches = list(test_batches(examples, BATCH_SIZE))  # type: ignore[arg-type]  # sorts by length, as of Encoded
    with_adapter, without = (
        float(np.mean([int(logits.argmax()) == example.label for logits, example in _answers(model, batches, active)]))
        for active in (True, False)
    )
    # The layers below have no adapter.
    return [with_adapter] * (LAYER + 1) + [without]


def _answers(model: Any, batches: list[Any], with_adapter: bool) -> Iterator[tuple[torch.Tensor, Prepared]]:
    for batch in batches:
        yield from zip(logits_of(model, batch, with_adapter), batch, strict=True)


def save_lora(model: Any, folder: Path) -> None:
    """Save the adapter in PEFT's format, in float16, and the names of its labels in a config.json."""
    # A path would be meaningless elsewhere.
    model.peft_config["default"].base_model_name_or_path = BASE_MODEL
    model.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / WEIGHTS
    save_file({name: tensor.half().contiguous() for name, tensor in load_file(path).items()}, path)
    # PEFT has sets there, whose order differs from run to run.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {key: sorted(config[key]) for key in ("target_modules", "modules_to_save")}
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    labels = {"id2label": model.config.id2label, "label2id": model.config.label2id, "model_type": model.config.model_type}
    (folder / "config.json").write_text(json.dumps(labels, indent=1) + "\n", encoding="utf-8")


def lora_entry(model: Any, task: TaskSpec, train: int, test: int, scores: list[float]) -> dict[str, Any]:
    """Return the adapter's entry in results.json."""
    parameters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    return {
        "steps": task.steps,
        "rank": RANK,
        "layer": LAYER,
        "batch_size": task.batch_size,
        "learning_rate": task.learning_rate,
        "train_examples": train,
        "test_examples": test,
        "metric": metric_name(task),
        "by_drop": scores,
        "parameters": parameters,
    }
