"""Predictions for texts: windows, batches, logits, predictions. The graph is run by a function that the caller passes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from runtime.bundle import TaskEntry
from runtime.text.check_logits import check_finite, check_token_axis
from runtime.text.encode import Batch, TextEncoder
from runtime.text.entities import merge_windows
from runtime.text.interpret import TOKENWISE, interpret
from runtime.text.predict_options import PredictOptions
from runtime.text.prediction import Prediction
from runtime.text.texts import Text
from runtime.text.tokens import Tokens

# Inputs of the graph -> logits by result name, and the drop that computed them
RunGraph: TypeAlias = Callable[[Mapping[str, npt.NDArray[np.int64]]], tuple[Mapping[str, npt.NDArray[Any]], int]]

# Inputs of the graph, the task and the input row of each result row -> logits of each result row, and the drop
RunRows: TypeAlias = Callable[
    [Mapping[str, npt.NDArray[np.int64]], list[TaskEntry], list[int]], tuple[Sequence[npt.NDArray[Any]], int]
]


@dataclass(frozen=True)
class Window:
    """One row of the graph: a text, or a part of a text that is longer than the model's maximum.

    Attributes:
        index: index of the text in the caller's list.
        text: the text or pair; words are joined by spaces.
        tokens: tokens of the row.
    """

    index: int
    text: Text
    tokens: Tokens


def tokenize(
    encoder: TextEncoder, texts: Sequence[Text], entries: Sequence[TaskEntry], options: PredictOptions
) -> list[Window]:
    """Tokenize texts and, with `options.stride`, divide those that exceed the model's maximum into windows.

    Returns:
        Windows in the order of the texts; without a stride, one for each text.

    Raises:
        InputError: as for `TextEncoder.encode` and `PredictOptions.check_texts`.
    """
    as_words, stride = options.is_split_into_words, options.stride
    remedy = "pass truncate=True to truncate them" + (", or stride=N to read them in windows" if options.aggregate else "")
    rows = encoder.encode(texts, options.truncate, overflow=stride is not None, is_split_into_words=as_words, remedy=remedy)
    options.check_texts(entries, texts)
    windows: list[Window] = []
    for index, (text, row) in enumerate(zip(texts, rows, strict=True)):
        shown = " ".join(text) if as_words else text
        parts = [row] if stride is None else encoder.windows(row, stride, as_words)
        windows += [Window(index, shown, part) for part in parts]
    return windows


def predict(
    windows: Sequence[Window],
    batches: Iterator[Batch],
    run: RunGraph,
    entries: Sequence[TaskEntry],
    encoder: TextEncoder,
    options: PredictOptions,
    where: str,
) -> dict[str, list[Prediction]]:
    """Run inference on windows and interpret the logits.

    Args:
        windows: windows of all texts, in order.
        batches: batches of these windows.
        run: function that runs the graph.
        entries: manifest entries of the tasks.
        encoder: encoder of the bundle.
        options: options of the call.
        where: provider and precision, for messages.

    Returns:
        Task -> one prediction per text.

    Raises:
        AdapterDropError: the logits of a text are NaN or infinite; the message names the task and the text.
    """
    found: dict[str, dict[int, Prediction]] = {entry.name: {} for entry in entries}
    for batch in batches:
        logits, drop = run(batch.feeds)
        width = batch.feeds["input_ids"].shape[1]
        for position, row in enumerate(batch.rows):
            window = windows[row]
            for entry in entries:
                values = [logits[name][position] for name in entry.result_names]
                if entry.head in TOKENWISE:  # remove the padding
                    check_token_axis(entry, values, width)
                    start = encoder.offset(window.tokens, width)
                    values = [array[start : start + len(window.tokens)] for array in values]
                check_finite(entry, values, window.index, window.tokens, encoder, f"drop {drop}, {where}")
                prediction = interpret(entry, values, window.text, window.tokens, encoder, options)
                found[entry.name][row] = replace(prediction, drop=drop)
    return {name: _by_text(windows, predictions) for name, predictions in found.items()}


def predict_routed(
    windows: Sequence[Window],
    batches: Iterator[Batch],
    run: RunRows,
    wanted: Sequence[Sequence[TaskEntry]],
    encoder: TextEncoder,
    options: PredictOptions,
    where: str,
) -> list[dict[str, Prediction]]:
    """Run other tasks for each text and interpret the logits.

    Args:
        windows: one window per text.
        batches: batches of these windows.
        run: function that runs the routed graph.
        wanted: manifest entries of the tasks of each text.
        encoder: encoder of the bundle.
        options: options of the call.
        where: provider and precision, for messages.

    Returns:
        For each text, task -> prediction.

    Raises:
        AdapterDropError: the logits of a text are NaN or infinite; the message names the task and the text.
    """
    found: list[dict[str, Prediction]] = [{} for _ in windows]
    for batch in batches:
        pairs = [(position, row, entry) for position, row in enumerate(batch.rows) for entry in wanted[row]]
        logits, drop = run(batch.feeds, [entry for _, _, entry in pairs], [position for position, _, _ in pairs])
        for (_, row, entry), values in zip(pairs, logits, strict=True):
            window = windows[row]
            check_finite(entry, [values], window.index, window.tokens, encoder, f"drop {drop}, {where}")
            prediction = interpret(entry, [values], window.text, window.tokens, encoder, options)
            found[row][entry.name] = replace(prediction, drop=drop)
    return found


def _by_text(windows: Sequence[Window], predictions: Mapping[int, Prediction]) -> list[Prediction]:
    """Return one prediction per text, with the entities of its windows merged."""
    texts: dict[int, list[Prediction]] = {}
    for row, window in enumerate(windows):
        texts.setdefault(window.index, []).append(predictions[row])
    return [
        parts[0]
        if len(parts) == 1
        else replace(parts[0], entities=merge_windows([entity for part in parts for entity in part.entities or ()]))
        for parts in texts.values()
    ]
