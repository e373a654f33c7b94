"""Streams of texts and calls from asyncio: the part of a predictor that is built on `predict` and `encode_texts`."""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy.typing as npt

from runtime.bundle import Manifest, TaskEntry
from runtime.cancel import Cancellation
from runtime.checks.requests import check_drop, check_pairs, require_encoder, require_texts
from runtime.errors import AdapterDropError, InputError
from runtime.slots.hot_entry import pinned
from runtime.text.encode import TextEncoder
from runtime.text.predict import tokenize
from runtime.text.predict_options import Aggregate, PredictOptions
from runtime.text.prediction import Prediction
from runtime.text.prompts import prompts_of
from runtime.text.texts import Text
from runtime.text.windows import Row, outcomes


class Streamable(Protocol):
    """The part of a predictor that streams use."""

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle."""

    @property
    def drops(self) -> tuple[int, ...]:
        """Loaded drops."""

    @property
    def _encoder(self) -> TextEncoder | None: ...

    def entries(self, tasks: Sequence[str | TaskEntry] | None = None) -> tuple[TaskEntry, ...]:
        """Return the entries of tasks; as in `Predictor`."""

    @property
    def predict(self) -> Callable[..., dict[str, list[Prediction]]]:
        """Predict tasks for texts; as in `Predictor`."""

    @property
    def encode_texts(self) -> Callable[..., dict[str, npt.NDArray[Any]]]:
        """Compute embeddings; as in `Predictor`."""


class TextStreams:
    """The methods of a predictor for streams and for asyncio."""

    def predict_iter(
        self: Streamable,
        texts: Iterable[Text],
        tasks: Sequence[str] | None = None,
        drop: int | None = None,
        truncate: bool = False,
        *,
        aggregate: Aggregate | None = None,
        stride: int | None = None,
        threshold: float | None = None,
        top_k: int | None = None,
        is_split_into_words: bool = False,
        prompt_name: str | None = None,
        window: int | None = None,
        on_error: Callable[[int, AdapterDropError], object] | None = None,
    ) -> Iterator[Row]:
        """Predict a stream of texts in bounded memory. Texts of a window are batched by length.

        Args:
            texts: any iterable of texts and pairs, such as a generator, a column or an open file. It is read a window at a
                time.
            tasks: names of the tasks; None for all tasks of the bundle. A task with sentence embeddings is computed as by
                `encode_texts`, and its prediction has the `vector`.
            drop: as for `predict`.
            truncate: as for `predict`.
            aggregate: as for `predict`.
            stride: as for `predict`.
            threshold: as for `predict`.
            top_k: as for `predict`.
            is_split_into_words: as for `predict`.
            prompt_name: as for `encode_texts`.
            window: number of texts that are in memory at a time. None begins with 256 and goes up to 4,096, as long as a window
                takes a few seconds. Long texts make a window shorter.
            on_error: called with the index and the error of each text that is invalid or whose logits are NaN; the stream goes
                on. None ends the stream with the error, after the results of the texts before.

        Returns:
            Iterator with a dictionary from task to prediction for each text, in the order of the texts; empty for a text that
            `on_error` got.

        Raises:
            AdapterDropError: while iterating, the logits of a text are NaN or infinite; the message names the text.
            InputError: as for `predict`; errors of a text are raised while iterating, with the number of the text.
        """
        if isinstance(texts, str | bytes):
            raise InputError(f"texts: expected an iterable of texts, found {type(texts).__name__}; pass [text]")
        options = PredictOptions(
            truncate=truncate,
            aggregate=aggregate,
            stride=stride,
            threshold=threshold,
            top_k=top_k,
            is_split_into_words=is_split_into_words,
        )
        return _or_raise(stream(self, texts, tasks, drop, options, prompt_name, window), on_error)

    async def apredict(
        self: Streamable,
        texts: Sequence[Text],
        tasks: Sequence[str] | None = None,
        drop: int | None = None,
        truncate: bool = False,
        batch_size: int | None = None,
        **options: Any,
    ) -> dict[str, list[Prediction]]:
        """Predict without blocking the event loop: `predict` in a thread, which ends early if the awaiting task is cancelled.

        Args:
            texts: as for `predict`.
            tasks: as for `predict`.
            drop: as for `predict`.
            truncate: as for `predict`.
            batch_size: as for `predict`.
            options: the keyword arguments of `predict`, such as `aggregate` or `top_k`; not `cancel`.

        Returns:
            As `predict`.

        Raises:
            AdapterDropError: as for `predict`.
            InputError: as for `predict`.
        """
        cancel = Cancellation()
        try:
            return await asyncio.to_thread(self.predict, texts, tasks, drop, truncate, batch_size, cancel, **options)
        except asyncio.CancelledError:
            cancel.cancel()  # the thread would compute the rest for no one
            raise


def stream(
    predictor: Streamable,
    items: Iterable[Text | AdapterDropError],
    tasks: Sequence[str] | None,
    drop: int | None,
    options: PredictOptions,
    prompt_name: str | None = None,
    window: int | None = None,
    held: Callable[[], int] = lambda: 0,
) -> Iterator[Row | AdapterDropError]:
    """Compute a stream of texts; the arguments are checked before the first text is read.

    Args:
        predictor: the predictor.
        items: the texts; an error stands for a text that could not be read.
        tasks: as for `TextStreams.predict_iter`.
        drop: as for `predict`.
        options: options of the predictions.
        prompt_name: as for `encode_texts`.
        window: as for `TextStreams.predict_iter`.
        held: as for `outcomes`.

    Returns:
        Iterator with the predictions of each item, or its error.

    Raises:
        InputError: as for `predict`, but for errors of a text.
    """
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise InputError(f"window: expected a positive number of texts or None, found {window!r}")
    entries = predictor.entries(tasks)
    check_drop(drop, predictor.drops, "loaded")
    embedded = tuple(entry for entry in entries if entry.head == "sentence_embedding")
    others = tuple(entry for entry in entries if entry.head != "sentence_embedding")
    if prompt_name is not None and not embedded:
        raise InputError(f"prompt_name: none of the tasks is a sentence embedding, found {prompt_name!r}")
    if others:
        encoder = require_encoder(predictor.manifest, predictor._encoder, others)
        options.check_tasks(others, encoder)
    if embedded:
        encoder = require_texts(predictor.manifest, predictor._encoder, embedded, "encode_texts()")
        prompts_of(embedded, None, prompt_name)

    def check(texts: Sequence[Text]) -> None:
        tokenize(encoder, texts, others, options)
        check_pairs(others, texts)

    def compute(texts: Sequence[Text]) -> dict[str, Sequence[Prediction]]:
        return predict_any(predictor, texts, entries, drop, options, prompt_name)

    return outcomes(items, compute, check, window, held)


def predict_any(
    predictor: Streamable,
    texts: Sequence[Text],
    entries: Sequence[TaskEntry],
    drop: int | None,
    options: PredictOptions,
    prompt_name: str | None = None,
) -> dict[str, Sequence[Prediction]]:
    """Predict tasks of every kind; the predictions of sentence embeddings are their vectors.

    Args:
        predictor: the predictor.
        texts: texts and pairs.
        entries: manifest entries of the tasks.
        drop: as for `predict`.
        options: options of the predictions.
        prompt_name: as for `encode_texts`.

    Returns:
        Task -> one prediction per text, in the order of the entries.

    Raises:
        AdapterDropError: as for `predict`.
        InputError: as for `predict` and `encode_texts`.
    """
    embedded = pinned(entry for entry in entries if entry.head == "sentence_embedding")
    others = pinned(entry for entry in entries if entry.head != "sentence_embedding")
    found: dict[str, Sequence[Prediction]] = {}
    if others:
        found |= predictor.predict(texts, others, drop, **vars(options))
    if embedded:
        vectors = predictor.encode_texts(texts, embedded, drop, truncate=options.truncate, prompt_name=prompt_name)
        # Without a drop, encode_texts takes the policy's, of which it returns nothing
        shown = predictor.drops[0] if drop is None else drop
        for name, rows in vectors.items():
            found[name] = [Prediction("sentence_embedding", vector=tuple(row.tolist()), drop=shown) for row in rows]
    return {entry.name: found[entry.name] for entry in entries}


def at_text(error: AdapterDropError, name: str) -> str:
    """Return the message of an error of a single text with another name for it than texts[0]."""
    return re.sub(r"\btexts\[0\]", name, str(error))


def _or_raise(
    found: Iterator[Row | AdapterDropError], on_error: Callable[[int, AdapterDropError], object] | None
) -> Iterator[Row]:
    for index, outcome in enumerate(found):
        if not isinstance(outcome, AdapterDropError):
            yield outcome
            continue
        error = type(outcome)(at_text(outcome, f"texts[{index}]"))
        if on_error is None:
            raise error from outcome
        on_error(index, error)
        yield {}
