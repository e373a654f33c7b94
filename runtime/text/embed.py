"""Embeddings of texts: prompts, batches, vectors. The graph is run by a function that the caller passes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class EmbeddingCall:
    """One call that computes embeddings: what all of its batches have in common.

    Attributes:
        prompts: task -> prompt.
        batches: function from rows to batches of them.
        encoder: encoder of the bundle.
        truncate: truncate texts that exceed the model's maximum.
        drop: drop of the variant: embeddings of two drops are not comparable.
        where: drop, provider and precision, for messages.
    """

    prompts: dict[str, str]
    batches: Callable[[Sequence[Tokens]], Iterator[Batch]]
    encoder: TextEncoder
    truncate: bool
    drop: int
    where: str

    def embed(
        self,
        texts: Sequence[Text],
        entries: Sequence[TaskEntry],
        run: Callable[[Feeds, tuple[TaskEntry, ...]], Mapping[str, npt.NDArray[Any]]],
    ) -> dict[str, npt.NDArray[Any]]:
        """Compute the embeddings of texts by several tasks.

        Args:
            texts: texts or pairs.
            entries: manifest entries of the tasks.
            run: function from the inputs of the graph and tasks to vectors by task.

        Returns:
            Task -> embeddings, float32 [texts, width].

        Raises:
            AdapterDropError: an embedding contains NaN or infinity.
            InputError: a text has the wrong type or is too long.
        """
        given = check_texts(texts)
        found: dict[str, list[npt.NDArray[Any]]] = {entry.name: [np.empty(0)] * len(given) for entry in entries}
        for prompt, own in by_prompt(entries, self.prompts):
            rows = self.encoder.encode([with_prompt(text, prompt) for text in given], self.truncate)
            for batch in self.batches(rows):
                vectors = run(batch.feeds, own)
                for position, index in enumerate(batch.rows):
                    for entry in own:
                        vector = vectors[entry.name][position]
                        check_finite(entry, [vector], index, rows[index], self.encoder, self.where)
                        found[entry.name][index] = vector
        return {name: np.stack(vectors).astype(np.float32) for name, vectors in found.items()}

    def embed_routed(
        self,
        texts: Sequence[Text],
        entries: Sequence[TaskEntry],
        run: Callable[[Feeds, Sequence[TaskEntry]], Sequence[npt.NDArray[Any]]],
    ) -> list[npt.NDArray[Any]]:
        """Compute the embedding of each text by one task.

        Args:
            texts: texts or pairs.
            entries: manifest entry of the task of each text.
            run: function from the inputs of the graph and the task of each row to the vector of each row.

        Returns:
            Embeddings, float32 [width of the task], in the order of the texts.

        Raises:
            AdapterDropError: an embedding contains NaN or infinity.
            InputError: a text has the wrong type or is too long, or the number of tasks differs from the number of texts.
        """
        given = check_texts(texts)
        if len(entries) != len(given):
            raise InputError(f"tasks: expected one name for each of {len(given)} text(s), found {len(entries)}")
        prompted = [with_prompt(text, self.prompts[entry.name]) for text, entry in zip(given, entries, strict=True)]
        rows = self.encoder.encode(prompted, self.truncate)
        found: list[npt.NDArray[Any]] = [np.empty(0)] * len(given)
        for batch in self.batches(rows):
            own = [entries[index] for index in batch.rows]
            for index, entry, vector in zip(batch.rows, own, run(batch.feeds, own), strict=False):
                check_finite(entry, [vector], index, rows[index], self.encoder, self.where)
                found[index] = vector.astype(np.float32)
        return found
