"""Texts, pairs and lists of words: their types, and the checks of what a caller gives."""

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from runtime.errors import InputError

# A text, or a pair as a tuple or list of exactly two strings; with is_split_into_words, the words of a text
Text: TypeAlias = str | Sequence[str]

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Words(tuple[str, ...]):
    """The words of one text, which the tokenizer does not join nor regroup."""

    __slots__ = ()

    @property
    def text(self) -> str:
        """The words with a space between them; offsets count its characters, as in transformers' pipeline."""
        return " ".join(self)

    @property
    def starts(self) -> list[int]:
        """Start of each word in `text`."""
        found, start = [], 0
        for word in self:
            found.append(start)
            start += len(word) + 1
        return found


Checked: TypeAlias = str | tuple[str, str] | Words


def check_texts(texts: Sequence[Text]) -> list[Checked]:
    """Check the types of texts and pairs, and that they have no lone surrogates.

    Returns:
        The texts, with tuples as pairs.

    Raises:
        InputError: `texts` is not a list, it is empty, or one of them is no text and no pair.
    """
    _check_all(texts, _problem)
    return [text if isinstance(text, str) else (text[0], text[1]) for text in texts]


def check_words(texts: Sequence[Text]) -> list[Checked]:
    """Check that each text is a list of words without lone surrogates.

    Raises:
        InputError: `texts` is not a list, it is empty, or one of them is not a list of str.
    """
    _check_all(texts, _problem_of_words)
    return [Words(words) for words in texts]


def characters(text: Checked) -> int:
    """Return the number of characters of a text or pair; of words, with the spaces between them."""
    if isinstance(text, str):
        return len(text)
    return sum(map(len, text)) + (max(0, len(text) - 1) if isinstance(text, Words) else 0)


def _check_all(texts: object, problem: Callable[[object], str | None]) -> None:
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise InputError(f"texts: expected a list of texts, found {type(texts).__name__}; pass [text]")
    if not texts:
        raise InputError("texts: expected at least one text, found an empty list")
    problems = [f"texts[{index}]: {found}" for index, text in enumerate(texts) if (found := problem(text))]
    if problems:
        raise InputError("; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else ""))


def _problem(text: object) -> str | None:
    parts = [text] if isinstance(text, str) else text
    if not (isinstance(parts, tuple | list) and len(parts) == (1 if isinstance(text, str) else 2)):
        are_words = isinstance(parts, tuple | list) and len(parts) > 2 and all(isinstance(part, str) for part in parts)
        hint = "; a list of words needs is_split_into_words=True" if are_words else ""
        return f"expected a str or a pair (str, str), found {_shown(text)}{hint}"
    if not all(isinstance(part, str) for part in parts):
        return f"expected a pair of str, found {_shown(text)}"
    return _surrogate(parts)


def _problem_of_words(words: object) -> str | None:
    if not isinstance(words, tuple | list):
        return f"expected a list of words (is_split_into_words=True), found {_shown(words)}"
    if others := [word for word in words if not isinstance(word, str)]:
        return f"expected a list of words (is_split_into_words=True), found a list that contains {_shown(others[0])}"
    return _surrogate(words)


def _surrogate(parts: Sequence[str]) -> str | None:
    if any(not part.isascii() and _SURROGATE.search(part) for part in parts):
        return "expected text, found a lone surrogate; was it decoded with the right encoding?"
    return None


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: ({', '.join(type(part).__name__ for part in value[:4])})"
    return type(value).__name__
