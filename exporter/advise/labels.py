"""The labels of evaluation texts as numbers, and the logits that belong to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from exporter.advise.metrics import METRICS, Array
from exporter.errors import ExportError
from exporter.plan import Task
from exporter.texts.batches import Calibration, whole_texts
from exporter.texts.drift import label_id, label_values
from runtime.text.tokens import Tokens


class Labels:
    """The labels of one task's texts.

    Attributes:
        expected: one row per text, as `text_sums` takes it.
        centre: the mean of a regression's labels, [outputs]; 0 for other heads.
    """

    def __init__(self, task: Task, texts: Calibration, tokenizer: Any, max_length: int) -> None:
        """Read the labels.

        Args:
            task: the task.
            texts: its texts with labels.
            tokenizer: the fast tokenizer that encoded them.
            max_length: the number of tokens to which they were truncated.

        Raises:
            ExportError: the head has no metric, the file has no labels, or a label is not one of the head's.
        """
        kind = task.head.kind
        if kind not in METRICS:
            raise ExportError(
                f"the task {task.name!r} has a head of type {kind}, expected one of {', '.join(METRICS)}: leave it out"
            )
        if texts.labels is None:
            raise ExportError(f"{texts.source}: the texts of the task {task.name!r} have no labels: add a label to each line")
        self._positions: list[list[int | None]] = []
        if kind == "tagging":
            self.expected = self._tags(task, texts, tokenizer, max_length)
        else:
            values = label_values(texts, kind, task.head.labels)
            assert values is not None  # the file has labels, and the head is one of METRICS
            self.expected = values
        self.centre: Array | float = self.expected.reshape(len(texts.texts), -1).mean(0) if kind == "regression" else 0.0
        _check_different(task, texts, self.expected)

    def _tags(self, task: Task, texts: Calibration, tokenizer: Any, max_length: int) -> Array:
        """Tags of words, separated by white space; a word is predicted by its first token, if truncation leaves it."""
        rows: list[list[int]] = []
        left = tokenizer.truncation_side == "left"
        encoded = whole_texts(texts.texts, tokenizer)
        for line, text, tokens, tags in zip(texts.lines, texts.texts, encoded, texts.labels or (), strict=True):
            where = f"{texts.source}, line {line}"
            if not isinstance(text, str):
                raise ExportError(f"{where}: expected a text with a label for each word, found a pair of texts")
            words = text.split()
            if not isinstance(tags, list) or len(tags) != len(words):
                raise ExportError(
                    f"{where}: expected a list of {len(words)} labels, one per word between white space, found {str(tags)[:60]}"
                )
            rows.append([label_id(tag, task.head.labels, where) for tag in tags])
            self._positions.append(_kept(_first_tokens(text, words, tokens), tokens, max_length, left))
        expected = np.full((len(rows), max(map(len, rows))), -1)
        for row, positions, ids in zip(expected, self._positions, rows, strict=True):
            row[: len(ids)] = [-1 if place is None else each for each, place in zip(ids, positions, strict=True)]
        return expected

    def rows(self, number: int, logits: Array, mask: Array) -> Array:
        """Return the logits of one text that belong to its labels: [labels], or [words, labels] for tagging.

        Args:
            number: number of the text.
            logits: [labels], or [sequence, labels] for tagging.
            mask: 1 for the text's tokens, [sequence].
        """
        if not self._positions:
            return logits
        own = logits[mask.astype(bool)]
        found = np.zeros((self.expected.shape[1], logits.shape[-1]), logits.dtype)
        places = self._positions[number]
        found[: len(places)] = own[[place or 0 for place in places]]
        return found


def _check_different(task: Task, texts: Calibration, expected: Array) -> None:
    """Refuse equal labels, as of the first lines of a file that is sorted by label: a score on them says nothing."""
    found = expected[expected >= 0] if task.head.kind == "tagging" else expected
    if texts.labels is not None and len(np.unique(found, axis=0)) < 2:
        raise ExportError(
            f"{texts.source}: expected labels of several kinds for the task {task.name!r}, found {texts.labels[0]!r} only "
            f"(texts: {len(texts.texts)}): add texts with other labels"
        )


def _first_tokens(text: str, words: list[str], tokens: Tokens) -> list[int | None]:
    """Return the position of each word's first token; a word without a token gets that of the next one, the last one None."""
    spans = [(place, *span) for place, span in enumerate(tokens.offsets) if tokens.parts[place] is not None]
    found: list[int | None] = []
    start = 0
    for word in words:
        start = text.index(word, start)
        inside = [place for place, low, high in spans if high > start and low < start + len(word)]
        after = [place for place, low, _ in spans if low >= start]
        found.append(next(iter(inside or after), None))
        start += len(word)
    return found


def _kept(places: list[int | None], tokens: Tokens, max_length: int, left: bool) -> list[int | None]:
    """Return the positions of tokens after truncation; None for those that it removes."""
    kept = replace(tokens, ids=list(range(len(tokens)))).cut(max_length, left).ids
    moved = {place: number for number, place in enumerate(kept)}
    return [None if place is None else moved.get(place) for place in places]
