"""What a prediction says, and how logits become one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runtime.batch import Tokens
from runtime.bundle import HeadType, TaskEntry

_FIELDS: Final[Mapping[HeadType, tuple[str, ...]]] = {
    "classification": ("label", "score", "scores"),
    "multilabel": ("labels", "scores"),
    "regression": ("value",),
    "tagging": ("words",),
}


@dataclass(frozen=True)
class Word:
    """A tagged word: `text` is `[start:end]` (characters) of part 0 or 1 of the input (1 = second text of a pair), `score`
    the softmax probability of `label`, read at the word's first token."""

    text: str
    start: int
    end: int
    label: str
    score: float
    part: int = 0


@dataclass(frozen=True)
class Prediction:
    """One task's answer to one text; which fields are set depends on `head`.

    classification: `label`, its probability `score`, and `scores` of all labels (softmax).
    multilabel: `labels` with probability >= 0.5, and `scores` of all labels (sigmoid).
    regression: `value`, in the units of the training data.
    tagging: `words`, in the order of the text.
    """

    head: HeadType
    label: str | None = None
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    value: float | None = None
    words: tuple[Word, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: `head` and the fields that this head sets."""
        document = asdict(self)
        return {name: document[name] for name in ("head", *_FIELDS[self.head])}


def interpret(task: TaskEntry, logits: npt.NDArray[Any], text: str | Sequence[str], tokens: Tokens) -> Prediction:
    """The prediction for one text. `logits`: [labels], or [tokens, labels] for tagging."""
    if task.head == "regression":
        return Prediction(task.head, value=float(logits[0]))
    if task.head == "tagging":
        return Prediction(task.head, words=_words(task, softmax(logits), text, tokens))
    probabilities = (softmax if task.head == "classification" else sigmoid)(logits)
    scores = dict(zip(task.labels, probabilities.tolist(), strict=True))
    if task.head == "multilabel":
        return Prediction(task.head, labels=tuple(label for label, score in scores.items() if score >= 0.5), scores=scores)
    label = task.labels[int(logits.argmax())]
    return Prediction(task.head, label=label, score=scores[label], scores=scores)


def softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Over the last axis, in float64; the largest logit is taken off first, so that nothing overflows."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """In float64; exp sees only numbers <= 0, so that nothing overflows."""
    wide = logits.astype(np.float64)
    power = np.exp(-np.abs(wide))
    return np.asarray(np.where(wide >= 0, 1.0, power) / (1.0 + power))


def _words(
    task: TaskEntry, probabilities: npt.NDArray[np.float64], text: str | Sequence[str], tokens: Tokens
) -> tuple[Word, ...]:
    parts = (text,) if isinstance(text, str) else text
    spans: dict[tuple[int, int], tuple[int, int, int]] = {}  # (part, word) -> first token, start, end
    # word ids begin again at 0 in the second text; both are None at special tokens
    places = zip(tokens.parts, tokens.words, tokens.offsets, strict=True)
    for token, (part, word, (start, end)) in enumerate(places):
        if part is not None and word is not None:
            first, begin, _ = spans.get((part, word), (token, start, end))
            spans[part, word] = (first, begin, end)
    words = []
    for (part, _), (token, start, end) in spans.items():
        # SentencePiece and byte-level tokenizers count the space before a word as part of it
        word_text = parts[part][start:end].strip()
        if word_text:
            start = parts[part].index(word_text, start)
            best = int(probabilities[token].argmax())
            words.append(
                Word(word_text, start, start + len(word_text), task.labels[best], float(probabilities[token, best]), part)
            )
    return tuple(words)
