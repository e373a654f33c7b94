"""Interpretation of logits: from the logits of one text to a prediction."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.bundle import HeadType, TaskEntry
from runtime.text.encode import TextEncoder
from runtime.text.entities import find_entities
from runtime.text.predict_options import PredictOptions
from runtime.text.prediction import Prediction, Word
from runtime.text.spans import trimmed, whole
from runtime.text.tokens import Tokens

Array = npt.NDArray[Any]

# Heads with logits for every token; `interpret` expects them without padding
TOKENWISE: Final[tuple[HeadType, ...]] = ("tagging", "question_answering", "masked_lm")

_LONGEST_ANSWER: Final = 30  # tokens; twice the default of transformers' pipeline
_THRESHOLD: Final = 0.5
_DEFAULTS: Final = PredictOptions()


def interpret(
    task: TaskEntry,
    logits: Sequence[Array],
    text: str | Sequence[str],
    tokens: Tokens,
    encoder: TextEncoder,
    options: PredictOptions = _DEFAULTS,
) -> Prediction:
    """Convert the logits of one text into a prediction.

    Args:
        task: manifest entry of the task.
        logits: one array per output of the task, for one row and without padding: [labels or features], [tokens, labels or
            vocabulary], or [tokens] for question answering.
        text: the text or pair; question answering requires a pair.
        tokens: its tokens.
        encoder: encoder of the bundle.
        options: `aggregate`, `threshold` and `top_k`.
    """
    parts = (text,) if isinstance(text, str) else text
    values = logits[0]
    if task.head == "question_answering":
        return _answer(logits[0], logits[1], parts[1], tokens, encoder.cls_id)
    if task.head == "text_embedding":
        return Prediction(task.head, vector=tuple(values.tolist()))
    if task.head == "tagging" and options.aggregate is not None:
        entities = find_entities(task.labels, values, parts[0], tokens, encoder, options.aggregate)
        return Prediction(task.head, entities=entities)
    if task.head == "tagging":
        return Prediction(task.head, words=_words(task, softmax(values), parts, tokens))
    if task.head == "masked_lm":
        return Prediction(task.head, words=_masks(values, parts, tokens, encoder))
    return interpret_row(task, values, options)


def interpret_row(task: TaskEntry, values: Array, options: PredictOptions = _DEFAULTS) -> Prediction:
    """Convert the logits of one row into a prediction, for heads that need nothing but the logits.

    Args:
        task: manifest entry of a classification, multilabel, regression or multiple choice task.
        values: logits, [labels] or [1].
        options: `threshold` and `top_k`.
    """
    if task.head == "regression":
        numbers = tuple(map(float, values))
        return Prediction(task.head, value=numbers[0] if len(numbers) == 1 else None, values=numbers)
    if task.head == "multiple_choice":
        return Prediction(task.head, value=float(values[0]))
    return _labelled(task, values, options)


def _labelled(task: TaskEntry, logits: Array, options: PredictOptions) -> Prediction:
    probabilities = (softmax if task.head == "classification" else sigmoid)(logits)
    scores = dict(zip(task.labels, probabilities.tolist(), strict=True))
    if options.top_k is not None:
        scores = dict(sorted(scores.items(), key=lambda item: -item[1])[: options.top_k])
    if task.head == "multilabel":
        least = _THRESHOLD if options.threshold is None else options.threshold
        return Prediction(task.head, labels=tuple(label for label, score in scores.items() if score >= least), scores=scores)
    label = task.labels[int(logits.argmax())]
    return Prediction(task.head, label=label, score=scores[label], scores=scores)


def softmax(logits: Array) -> npt.NDArray[np.float64]:
    """Compute the softmax over the last axis in float64, shifted by the largest logit to avoid overflow."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: Array) -> npt.NDArray[np.float64]:
    """Compute the sigmoid in float64; the argument of exp is at most 0 to avoid overflow."""
    wide = logits.astype(np.float64)
    power = np.exp(-np.abs(wide))
    return np.asarray(np.where(wide >= 0, 1.0, power) / (1.0 + power))


def _words(task: TaskEntry, probabilities: npt.NDArray[np.float64], parts: Sequence[str], tokens: Tokens) -> tuple[Word, ...]:
    spans: dict[tuple[int, int], tuple[int, int, int]] = {}  # (part, word) -> first token, start, end
    # word ids restart at 0 in the second text; part and word are None for special tokens
    columns = zip(tokens.parts, tokens.words, tokens.offsets, strict=True)
    for token, (part, word, (start, end)) in enumerate(columns):
        if part is not None and word is not None:
            first, begin, _ = spans.get((part, word), (token, start, end))
            spans[part, word] = (first, begin, end)
    words = []
    last = [(0, 0)] * len(parts)  # end of the last word of each part: according to the tokenizer, and of its last character
    for (part, _), (token, start, end) in spans.items():
        _, first, whole_end = whole(parts[part], start, end)
        if last[part][0] <= start < last[part][1]:
            # Some tokenizers start a word at a mark, which belongs to the word before
            first = min(last[part][1], whole_end)
        text, first, whole_end = trimmed(parts[part], first, whole_end)
        if text:
            last[part] = (end, whole_end)
            best = int(probabilities[token].argmax())
            words.append(Word(text, first, whole_end, task.labels[best], float(probabilities[token, best]), part))
    return tuple(words)


def _masks(logits: Array, parts: Sequence[str], tokens: Tokens, encoder: TextEncoder) -> tuple[Word, ...]:
    words = []
    columns = zip(tokens.ids, tokens.parts, tokens.offsets, strict=True)
    for token, (token_id, part, (start, end)) in enumerate(columns):
        if token_id == encoder.mask_id and part is not None:
            best = int(logits[token].argmax())
            score = float(softmax(logits[token])[best])
            words.append(Word(*trimmed(parts[part], start, end), encoder.token_text(best), score, part))
    return tuple(words)


def _answer(starts: Array, ends: Array, context: str, tokens: Tokens, cls_id: int | None) -> Prediction:
    """Return the span with the largest sum of logits, which also has the largest product of probabilities."""
    inside = [position for position, part in enumerate(tokens.parts) if part == 1]  # contiguous
    if not inside:
        return Prediction("question_answering", answer="", start=0, end=0, score=0.0)
    first, count = inside[0], len(inside)
    begin, finish = (logits.astype(np.float64)[first : first + count] for logits in (starts, ends))
    lengths = range(min(count, _LONGEST_ANSWER))  # without the first token
    best = [begin[: count - length] + finish[length:] for length in lengths]
    length = max(lengths, key=lambda index: float(best[index].max()))  # the shortest of equally good spans
    start = first + int(best[length].argmax())
    end = start + length
    kept = [at for at, (part, found) in enumerate(zip(tokens.parts, tokens.ids, strict=True)) if part == 1 or found == cls_id]
    score = float(softmax(starts[kept])[kept.index(start)] * softmax(ends[kept])[kept.index(end)])
    answer, left, right = whole(context, tokens.offsets[start][0], tokens.offsets[end][1])
    return Prediction("question_answering", answer=answer, start=left, end=right, score=score)
