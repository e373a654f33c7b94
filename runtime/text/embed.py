"""Embeddings of texts: prompts, batches, vectors. The graph is run by a function that the caller passes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from runtime.bundle import TaskEntry
from runtime.errors import InputError
from runtime.text.check_logits import check_finite
from runtime.text.encode import Batch, TextEncoder
from runtime.text.prompts import by_prompt, with_prompt
from runtime.text.texts import Text, check_texts
from runtime.text.tokens import Tokens

Feeds: TypeAlias = Mapping[str, npt.NDArray[np.int64]]
# Rows -> batches of them
MakeBatches: TypeAlias = Callable[[Sequence[Tokens]], Iterator[Batch]]


def embed(
    texts: Sequence[Text],
    prompts: dict[str, str],
    batches: MakeBatches,
    run: Callable[[Feeds, list[str]], Mapping[str, npt.NDArray[Any]]],
    entries: Sequence[TaskEntry],
    encoder: TextEncoder,
    truncate: bool,
    where: str,
) -> dict[str, npt.NDArray[Any]]:
    """Compute the embeddings of texts by several tasks.

    Args:
        texts: texts or pairs.
        prompts: task -> prompt.
        batches: function that makes batches.
        run: function from the inputs of the graph and the names of tasks to vectors by task.
        entries: manifest entries of the tasks.
        encoder: encoder of the bundle.
        truncate: truncate texts that exceed the model's maximum.
        where: drop, provider and precision, for messages.

    Returns:
        Task -> embeddings, float32 [texts, width].

    Raises:
        AdapterDropError: an embedding contains NaN or infinity.
        InputError: a text has the wrong type or is too long.
    """
    given = check_texts(texts)
    found: dict[str, list[npt.NDArray[Any]]] = {entry.name: [np.empty(0)] * len(given) for entry in entries}
    for prompt, own in by_prompt(entries, prompts):
        rows = encoder.encode([with_prompt(text, prompt) for text in given], truncate)
        for batch in batches(rows):
            vectors = run(batch.feeds, [entry.name for entry in own])
            for position, index in enumerate(batch.rows):
                for entry in own:
                    vector = vectors[entry.name][position]
                    check_finite(entry, [vector], index, rows[index], encoder, where)
                    found[entry.name][index] = vector
    return {name: np.stack(vectors).astype(np.float32) for name, vectors in found.items()}


def embed_routed(
    texts: Sequence[Text],
    tasks: Sequence[str],
    prompts: dict[str, str],
    batches: MakeBatches,
    run: Callable[[Feeds, list[str]], Sequence[npt.NDArray[Any]]],
    entries: Sequence[TaskEntry],
    encoder: TextEncoder,
    truncate: bool,
    where: str,
) -> list[npt.NDArray[Any]]:
    """Compute the embedding of each text by one task.

    Args:
        texts: texts or pairs.
        tasks: name of the task of each text.
        prompts: task -> prompt.
        batches: function that makes batches.
        run: function from the inputs of the graph and the task of each row to the vector of each row.
        entries: manifest entries of the tasks.
        encoder: encoder of the bundle.
        truncate: truncate texts that exceed the model's maximum.
        where: drop, provider and precision, for messages.

    Returns:
        Embeddings, float32 [width of the task], in the order of the texts.

    Raises:
        AdapterDropError: an embedding contains NaN or infinity.
        InputError: a text has the wrong type or is too long, or the number of tasks differs from the number of texts.
    """
    given, by_name = check_texts(texts), {entry.name: entry for entry in entries}
    if len(tasks) != len(given):
        raise InputError(f"tasks: expected one name for each of {len(given)} text(s), found {len(tasks)}")
    prompted = [with_prompt(text, prompts[task]) for text, task in zip(given, tasks, strict=True)]
    rows = encoder.encode(prompted, truncate)
    found: list[npt.NDArray[Any]] = [np.empty(0)] * len(given)
    for batch in batches(rows):
        names = [tasks[index] for index in batch.rows]
        for index, name, vector in zip(batch.rows, names, run(batch.feeds, names), strict=False):
            check_finite(by_name[name], [vector], index, rows[index], encoder, where)
            found[index] = vector.astype(np.float32)
    return found
