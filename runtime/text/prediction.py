"""Predictions: the result of `Predictor.predict` for one text and one task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.bundle import HeadType

# Heads with predictions for texts -> fields that they set; other heads have only logits
FIELDS: Final[Mapping[HeadType, tuple[str, ...]]] = {
    "classification": ("label", "score", "scores"),
    "multilabel": ("labels", "scores"),
    "regression": ("value",),
    "tagging": ("words",),
    "question_answering": ("answer", "start", "end", "score"),
    "multiple_choice": ("value",),
    "masked_lm": ("words",),
    "text_embedding": ("vector",),
    "sentence_embedding": ("vector",),
}

# Heads whose results are arrays: `Predictor.encode_texts` computes them, not `predict`
EMBEDDINGS: Final[tuple[HeadType, ...]] = ("text_embedding", "sentence_embedding")


@dataclass(frozen=True)
class Word:
    """A labelled word.

    Attributes:
        text: text of the word; the mask token for masked_lm.
        start: start of the word in characters of its part.
        end: end of the word in characters of its part.
        label: label at the word's first token for tagging; the most probable token, without surrounding spaces, for masked_lm.
        score: softmax probability of `label`.
        part: 0 for the first text, 1 for the second text of a pair.
    """

    text: str
    start: int
    end: int
    label: str
    score: float
    part: int = 0


@dataclass(frozen=True)
class Entity:
    """An entity in a text, with the names and values of transformers' token-classification pipeline.

    Attributes:
        entity_group: label without the prefix "B-" or "I-".
        score: mean probability of the entity's tokens or words, depending on the strategy.
        word: decoded tokens, which may differ from the text in case and spaces.
        start: start of the entity in characters of the text; of words, in the words joined by spaces.
        end: end of the entity in characters of the text.
    """

    entity_group: str
    score: float
    word: str
    start: int
    end: int


@dataclass(frozen=True)
class Prediction:
    """Prediction of one task for one text. The head determines which fields are set, see `FIELDS`.

    Attributes:
        head: type of the head.
        label: most probable label (classification).
        score: probability of `label` (classification), or the product of the probabilities that the answer starts and ends
            there, each a softmax over the tokens of the context and the classification token (question_answering).
        scores: label -> probability: softmax (classification) or sigmoid (multilabel). With `top_k`, the most probable labels
            in descending order, else all labels in the order of the task.
        labels: labels of `scores` with a probability of at least `threshold`, by default 0.5 (multilabel).
        value: number in the units of the training data (regression with one output), or logit of this row's choice
            (multiple_choice). To compare the choices of a question, take the largest value, or the softmax over the values of
            its rows.
        values: all numbers of a regression, in the order of the task's outputs.
        words: labelled words in text order (tagging), or one per mask token, possibly none (masked_lm).
        answer: characters `[start:end]` of the context; "" with score 0 for an empty context (question_answering).
        start: start of `answer` in characters of the context.
        end: end of `answer` in characters of the context.
        drop: drop of the variant that was used.
        vector: projected embedding, not normalized (text_embedding); on the command line also a sentence embedding.
        entities: entities in text order, possibly none, instead of `words` (tagging with `aggregate`); None without it.
    """

    head: HeadType
    label: str | None = None
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    value: float | None = None
    words: tuple[Word, ...] = ()
    answer: str | None = None
    start: int | None = None
    end: int | None = None
    drop: int | None = None
    vector: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    entities: tuple[Entity, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary with `head`, `drop` and the fields that this head sets.

        A regression with several outputs has `values` instead of `value`, tagging with `aggregate` has `entities` instead of
        `words`.
        """
        fields = ("values",) if len(self.values) > 1 else FIELDS[self.head] if self.entities is None else ("entities",)
        return {name: _plain(getattr(self, name)) for name in ("head", "drop", *fields)}


def _plain(value: Any) -> Any:
    # Not dataclasses.asdict, whose copies of every number take longer than the JSON of a stream
    if isinstance(value, tuple):
        return tuple(dict(vars(item)) if isinstance(item, Word | Entity) else item for item in value)
    return dict(value) if isinstance(value, Mapping) else value
