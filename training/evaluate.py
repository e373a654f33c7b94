"""Test metrics of one task at every drop, and the baseline without a model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from training.batches import IGNORED, Encoded, collate, test_batches
from training.tasks import TaskSpec

BATCH_SIZE = 64


def metric_name(task: TaskSpec) -> str:
    """Return the metric of a task: RMSE for regression, otherwise accuracy."""
    return "RMSE" if task.kind == "regression" else "accuracy"


def _score(task: TaskSpec, predicted: np.ndarray, wanted: np.ndarray) -> float:
    if task.kind == "regression":
        return float(np.sqrt(np.mean((predicted - wanted) ** 2)))
    return float(np.mean(predicted == wanted))


def _labels(task: TaskSpec, examples: list[Encoded]) -> np.ndarray:
    if task.kind == "tagging":
        return np.array([label for example in examples for label in example.label if label != IGNORED])
    return np.array([example.label for example in examples])


def baseline(task: TaskSpec, train: list[Encoded], test: list[Encoded]) -> float:
    """Return the score of a constant prediction: the training set's mean (regression) or its most frequent label."""
    seen, wanted = _labels(task, train), _labels(task, test)
    answer = seen.mean() if task.kind == "regression" else Counter(seen.tolist()).most_common(1)[0][0]
    return _score(task, np.full_like(wanted, answer), wanted)


@torch.inference_mode()
def scores_by_drop(model: Any, tokenizer: Any, task: TaskSpec, test: list[Encoded]) -> list[float]:
    """Return the test score at every drop, from 0 to the number of layers."""
    layers = model.config.num_hidden_layers
    batches = [collate(task, tokenizer, batch) for batch in test_batches(test, BATCH_SIZE)]
    scores = []
    with tqdm(total=(layers + 1) * len(batches), desc=f"test {task.name}", unit="batch") as bar:
        for drop in range(layers + 1):
            model.set_active_adapters(task.setup, skip_layers=list(range(drop)))
            predicted, wanted = [], []
            for batch in batches:
                labels = batch["labels"]
                logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
                answer = logits.squeeze(-1) if task.kind == "regression" else logits.argmax(-1)
                counted = labels != IGNORED
                predicted.append(answer[counted].numpy())
                wanted.append(labels[counted].numpy())
                bar.update()
            scores.append(_score(task, np.concatenate(predicted), np.concatenate(wanted)))
    return scores
