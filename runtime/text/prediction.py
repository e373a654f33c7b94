"""What a prediction says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from runtime.bundle import HeadType

# Heads whose answer to a text is a Prediction, and the fields that it sets; the others have logits only
FIELDS: Final[Mapping[HeadType, tuple[str, ...]]] = {
    "classification": ("label", "score", "scores"),
    "multilabel": ("labels", "scores"),
    "regression": ("value",),
    "tagging": ("words",),
    "question_answering": ("answer", "start", "end", "score"),
    "multiple_choice": ("value",),
    "masked_lm": ("words",),
    "text_embedding": ("vector",),
}


@dataclass(frozen=True)
class Word:
    """A labelled word: `text` is `[start:end]` (characters) of part 0 or 1 of the input (1 = second text of a pair).

    tagging: `label` and its softmax probability `score` are read at the word's first token.
    masked_lm: `text` is the mask token, `label` the most probable token in its place, without the spaces around it.
    """

    text: str
    start: int
    end: int
    label: str
    score: float
    part: int = 0


@dataclass(frozen=True)
class Prediction:
    """One task's answer to one text; which fields are set depends on `head`. `drop`: the variant that answered.

    classification: `label`, its probability `score`, and `scores` of all labels (softmax).
    multilabel: `labels` with probability >= 0.5, and `scores` of all labels (sigmoid).
    regression: `value`, in the units of the training data.
    tagging: `words`, in the order of the text.
    question_answering: `answer` is `[start:end]` (characters) of the context; `score` is the product of the probabilities
        that the answer starts and ends there (softmax over all tokens of question and context). An empty context has the
        answer "" with the score 0.
    multiple_choice: `value`, the logit of this row's choice. A row is one choice: to compare the choices of a question,
        take the largest value, or the softmax over the values of its rows.
    masked_lm: `words`, one for each mask token, in the order of the text; none where the text has no mask token.
    text_embedding: `vector`, the projected text as the model gives it, not normalised.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: `head`, `drop` and the fields that this head sets."""
        document = asdict(self)
        return {name: document[name] for name in ("head", "drop", *FIELDS[self.head])}
