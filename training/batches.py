"""Padded batches of similar length from examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from training.corpora import Example
from training.tasks import TaskSpec

IGNORED = -100
# Chunks of this many batches are sorted by length: little padding, and the order still changes every epoch.
BATCHES_PER_CHUNK = 32


@dataclass(frozen=True)
class Encoded:
    """Token ids and label of one example.

    Attributes:
        inputs: inputs of the model, as lists.
        label: label id; a number for regression; one label id per token for tagging, IGNORED for tokens that do not count.
    """

    inputs: dict[str, list[int]]
    label: Any

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.inputs["input_ids"])


def labels_of(task: TaskSpec, examples: list[Example]) -> list[str]:
    """Return the label names in id order; an empty list for regression."""
    if task.kind == "regression":
        return []
    if task.kind == "tagging":
        return sorted({tag for example in examples for tag in example.label})
    return sorted({example.label for example in examples})


def _split_words(tokenizer: PreTrainedTokenizerBase, example: Example) -> tuple[list[str], list[str]]:
    """Return the words of the tokenizer, each with the tag of its corpus word.

    The runtime receives plain text and uses the tokenizer's words ("don't" is three words), so a tagging head must be trained
    on these words.
    """
    pre_tokenize = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    pieces = [(piece, tag) for word, tag in zip(example.text, example.label, strict=True) for piece, _ in pre_tokenize(word)]
    return [piece for piece, _ in pieces], [tag for _, tag in pieces]


def encode(task: TaskSpec, tokenizer: PreTrainedTokenizerBase, examples: list[Example], labels: list[str]) -> list[Encoded]:
    """Tokenize examples.

    Args:
        task: task of the examples.
        tokenizer: tokenizer of the base model.
        examples: labelled examples.
        labels: label names in id order.
    """
    ids = {label: number for number, label in enumerate(labels)}
    encoded = []
    for example in examples:
        if task.kind == "tagging":
            words, tags = _split_words(tokenizer, example)
            inputs = tokenizer(words, is_split_into_words=True, truncation=True, max_length=task.max_length)
            word_ids = inputs.word_ids()
            label: Any = [
                ids[tags[word]] if word is not None and word != previous else IGNORED
                for word, previous in zip(word_ids, [None, *word_ids[:-1]], strict=True)
            ]
        else:
            text = (example.text,) if isinstance(example.text, str) else example.text
            inputs = tokenizer(*text, truncation=True, max_length=task.max_length)
            label = example.label if task.kind == "regression" else ids[example.label]
        encoded.append(Encoded(dict(inputs), label))
    return encoded


def collate(task: TaskSpec, tokenizer: PreTrainedTokenizerBase, batch: list[Encoded]) -> dict[str, torch.Tensor]:
    """Return the padded inputs and the labels of a batch, as arguments of the model."""
    padded = tokenizer.pad([e.inputs for e in batch], return_tensors="pt")
    if task.kind == "tagging":
        width = padded["input_ids"].shape[1]
        labels = torch.tensor([e.label + [IGNORED] * (width - len(e)) for e in batch])
    else:
        labels = torch.tensor([e.label for e in batch], dtype=torch.float32 if task.kind == "regression" else torch.int64)
    return {**padded, "labels": labels}


def training_batches(examples: list[Encoded], size: int, seed: int) -> Iterator[list[Encoded]]:
    """Yield batches endlessly; batch k depends only on the seed and k, so that an interrupted run can be resumed."""
    epoch = 0
    while True:
        generator = np.random.default_rng((seed, epoch))
        order = generator.permutation(len(examples))
        for start in range(0, len(order), size * BATCHES_PER_CHUNK):
            chunk = sorted(order[start : start + size * BATCHES_PER_CHUNK], key=lambda i: len(examples[i]))
            batches = [chunk[i : i + size] for i in range(0, len(chunk), size)]
            for number in generator.permutation(len(batches)):
                yield [examples[i] for i in batches[number]]
        epoch += 1


def test_batches(examples: list[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Yield all examples once, in batches sorted by length."""
    ordered = sorted(examples, key=len)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
