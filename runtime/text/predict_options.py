"""Options of `Predictor.predict`, which are named after those of transformers' pipelines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

from runtime.bundle import HeadType, TaskEntry
from runtime.errors import InputError
from runtime.text.encode import TextEncoder
from runtime.text.texts import Text

Aggregate: TypeAlias = Literal["simple", "first", "max", "average"]

STRATEGIES: Final[tuple[str, ...]] = get_args(Aggregate)

_LONGEST_SHOWN: Final = 100  # characters of a value in a message

# Option -> heads that read it; one of the tasks must have such a head
_HEADS: Final[dict[str, tuple[HeadType, ...]]] = {
    "aggregate": ("tagging",),
    "threshold": ("multilabel",),
    "top_k": ("classification", "multilabel"),
}


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """How texts are read, and what is made of logits. The attributes are the arguments of `Predictor.predict`.

    Raises:
        InputError: a value is invalid; the message names all such values.
    """

    truncate: bool = False
    batch_size: int | None = None
    aggregate: str | None = None
    stride: int | None = None
    threshold: float | None = None
    top_k: int | None = None
    is_split_into_words: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if problems := list(self._problems()):
            raise InputError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        if self.batch_size is not None and not _is_whole(self.batch_size, 1):
            yield f"batch_size: expected a positive integer or None, found {_shown(self.batch_size)}"
        if self.aggregate is not None and not (isinstance(self.aggregate, str) and self.aggregate in STRATEGIES):
            yield f"aggregate: expected one of {', '.join(STRATEGIES)} or None, found {_shown(self.aggregate)}"
        if self.stride is not None and not _is_whole(self.stride, 0):
            yield f"stride: expected a number of tokens, at least 0, or None, found {_shown(self.stride)}"
        elif self.stride is not None and self.aggregate is None:
            yield f"stride: expected aggregate as well, to merge the windows of a text; pass one of {', '.join(STRATEGIES)}"
        elif self.stride is not None and self.truncate:
            yield "stride: expected truncate=False, because no part of a text is left out; pass one of the two"
        if self.threshold is not None and not _is_share(self.threshold):
            yield f"threshold: expected a number from 0 to 1 or None, found {_shown(self.threshold)}"
        if self.top_k is not None and not _is_whole(self.top_k, 1):
            yield f"top_k: expected a positive integer or None, found {_shown(self.top_k)}"
        if not isinstance(self.is_split_into_words, bool):
            yield f"is_split_into_words: expected True or False, found {_shown(self.is_split_into_words)}"

    def check_tasks(self, entries: Sequence[TaskEntry], encoder: TextEncoder) -> None:
        """Check that the options have a meaning for the selected tasks.

        Args:
            entries: manifest entries of the tasks.
            encoder: encoder of the bundle.

        Raises:
            InputError: an option has none; the message names all such options.
        """
        if problems := list(self._misfits(entries, encoder)):
            raise InputError("; ".join(problems))

    def _misfits(self, entries: Sequence[TaskEntry], encoder: TextEncoder) -> Iterator[str]:
        for name, heads in _HEADS.items():
            if getattr(self, name) is not None and not any(entry.head in heads for entry in entries):
                yield f"{name}: expected a task with {' or '.join(heads)}, found {_named(entries)}"
        if self.is_split_into_words and (pairs := [entry for entry in entries if entry.head == "question_answering"]):
            yield (
                f"is_split_into_words: expected tasks that take a single text, found {_named(pairs)}; pass pairs (question, "
                "context) for it, or select other tasks"
            )
        if self.stride is None:
            return
        if others := [entry for entry in entries if entry.head != "tagging"]:
            yield f"stride: expected only tasks with tagging, found {_named(others)}; select tasks whose windows can be merged"
        special = encoder.tokenizer.num_special_tokens_to_add(False)
        if encoder.limit is not None and self.stride >= (room := encoder.limit - special):
            yield (
                f"stride: expected less than {room} tokens, found {_shown(self.stride)}: a window has {encoder.limit}, "
                f"{special} of them special tokens"
            )

    def check_texts(self, entries: Sequence[TaskEntry], texts: Sequence[Text]) -> None:
        """Check that no text is a pair if entities are requested, whose offsets are those in a single text.

        Raises:
            InputError: a text is a pair; the message names it.
        """
        if self.aggregate is None or self.is_split_into_words:
            return
        if pairs := [index for index, text in enumerate(texts) if not isinstance(text, str)]:
            found = ", ".join(f"texts[{index}]" for index in pairs[:10]) + (", …" if len(pairs) > 10 else "")
            tagging = _named([entry for entry in entries if entry.head == "tagging"])
            raise InputError(
                f"aggregate: expected single texts for {tagging}, found a pair: {found}; pass its texts separately, or lists "
                "of words with is_split_into_words=True"
            )


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_share(value: Any) -> bool:
    # numpy's float32 is no float
    return isinstance(value, int | float | np.floating) and not isinstance(value, bool) and bool(0 <= value <= 1)


def _shown(value: object) -> str:
    """Return a value as Python writes it, abbreviated; integers of more than 4,300 digits cannot be written."""
    try:
        found = repr(value)
    except ValueError:
        return f"a very large {type(value).__name__}"
    return found if len(found) <= _LONGEST_SHOWN else f"{found[:_LONGEST_SHOWN]}…"


def _named(entries: Sequence[TaskEntry]) -> str:
    return ", ".join(f"{entry.name} ({entry.head})" for entry in entries)
