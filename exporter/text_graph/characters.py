"""A table of what a tokenizer makes of each character, measured on the tokenizer itself.

The normalizers and pre-tokenizers of `CONTEXT_FREE` treat each character independently of its neighbours: it disappears,
becomes a space, becomes a word, or is replaced by other characters. A table of all characters is therefore the same function
of a text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from exporter.text_graph.refusals import refused

CONTEXT_FREE = {
    "normalizer": {"BertNormalizer", "Lowercase", "NFD", "NFKD", "StripAccents", "Sequence"},
    "pre_tokenizer": {"BertPreTokenizer", "WhitespaceSplit", "Sequence"},
}
_SURROGATES = range(0xD800, 0xE000)
_BLOCKS = (4096, 256, 16, 1)  # numbers of characters that are measured at once, where they are treated alike
# Operators compile their regular expression at each call, which is fast for few ranges; other characters are in a table
_LONG = 128


@dataclass(frozen=True)
class CharacterMap:
    """The characters that a tokenizer changes; all others stay as they are.

    Attributes:
        forms: character -> what replaces it, in which spaces separate words; without the characters of the ranges.
        removed: long ranges of characters that disappear, such as the private use areas, as pairs of the first and the last.
        isolated: long ranges of characters that are words, such as those of Chinese characters.
    """

    forms: Mapping[str, str]
    removed: tuple[tuple[int, int], ...]
    isolated: tuple[tuple[int, int], ...]

    def apply(self, text: str) -> str:
        """Return the text with all characters replaced. Spaces separate its words."""
        return "".join(map(self._form, text))

    def _form(self, character: str) -> str:
        if any(first <= ord(character) <= last for first, last in self.removed):
            return ""
        isolated = any(first <= ord(character) <= last for first, last in self.isolated)
        return f" {character} " if isolated else self.forms.get(character, character)


def measure_characters(tokenizer: Any, alphabet: set[str]) -> CharacterMap:
    """Measure what a tokenizer makes of every character of Unicode.

    Replacements of characters that only occur in unknown words, before and after, are left out.

    Args:
        tokenizer: tokenizer of the tokenizers library.
        alphabet: characters of its vocabulary.

    Raises:
        ExportError: two marks are treated differently where they follow each other.
    """
    forms = dict(_forms(tokenizer))
    # The order of marks is normalised as well. It matters where both marks can be in a word that is known.
    marks = [each for each in alphabet if unicodedata.combining(each)]
    for first, second in product(marks, marks):
        expected = forms.get(first, first) + forms.get(second, second)
        if (found := _form(tokenizer, first + second)) != expected:
            raise refused(
                f"the tokenizer normalises {first + second!a} to {found!a}, and its characters one by one to {expected!a}, "
                "which cannot be written as a graph"
            )
    removed = _long_ranges([each for each, form in forms.items() if not form])
    isolated = _long_ranges([each for each, form in forms.items() if form == f" {each} "])
    ranges = [range(first, last + 1) for first, last in (*removed, *isolated)]
    kept = {
        each: form
        for each, form in forms.items()
        if (each in alphabet or " " in form or alphabet.issuperset(form)) and not any(ord(each) in codes for codes in ranges)
    }
    return CharacterMap(kept, removed, isolated)


def ranges_of(codes: Iterable[int], gap: int = 0) -> list[tuple[int, int]]:
    """Return ascending ranges (first, last) of the numbers; up to `gap` others between two of them are included."""
    ranges: list[tuple[int, int]] = []
    for code in sorted(codes):
        if ranges and code - ranges[-1][1] <= gap + 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return ranges


def _long_ranges(characters: Iterable[str]) -> tuple[tuple[int, int], ...]:
    return tuple(each for each in ranges_of(map(ord, characters)) if each[1] - each[0] >= _LONG)


def character_class(ranges: Iterable[tuple[int, int]]) -> str:
    """Return a class of a regular expression of RE2 for ranges (first, last) of characters."""
    return "[" + "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in ranges) + "]"


def quoted(text: str) -> str:
    """Return a regular expression of RE2 that matches the text."""
    return "".join(f"\\x{{{ord(each):X}}}" for each in text)


def _form(tokenizer: Any, text: str) -> str:
    """Return what becomes of a text in the middle of a word. A space begins another word."""
    return " ".join(_words(tokenizer, f"a{text}a"))[1:-1]


def _words(tokenizer: Any, text: str) -> list[str]:
    normalized = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized)]


def _forms(tokenizer: Any) -> Iterator[tuple[str, str]]:
    """Yield each character that is changed, and its form."""
    for block in uniform_blocks(lambda text: _block_form(tokenizer, text) is not None):
        form = str(_block_form(tokenizer, block) if len(block) > 1 else _form(tokenizer, block))
        yield from ((each, form.replace("?", each) if len(block) > 1 else form) for each in block if form not in {"?", each})


def _block_form(tokenizer: Any, text: str) -> str | None:
    """Return what becomes of each character of a text, with ? for itself; None if they are treated differently."""
    words = _words(tokenizer, f"a{text}a")
    if words == [f"a{text}a"]:
        return "?"
    if words == ["aa"]:
        return ""
    # With letters in between: any character between two of these would be a word
    apart = ["a", *(word for each in text for word in (each, "a"))]
    return " ? " if _words(tokenizer, "".join(apart)) == apart else None


def uniform_blocks(is_uniform: Callable[[str], bool]) -> Iterator[str]:
    """Divide all characters of Unicode into blocks of characters that are treated alike, and single characters.

    Args:
        is_uniform: whether all characters of a text are treated alike.
    """
    stack: list[tuple[int, tuple[int, ...]]] = [(code, _BLOCKS) for code in range(0, 0x110000, _BLOCKS[0])]
    while stack:
        start, sizes = stack.pop()
        text = "".join(chr(code) for code in range(start, start + sizes[0]) if code not in _SURROGATES)
        if not text:
            continue
        if len(sizes) == 1 or is_uniform(text):
            yield text
        else:
            stack += [(first, sizes[1:]) for first in range(start, start + sizes[0], sizes[1])]
