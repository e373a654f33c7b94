"""Texts on which implementations of tokenizers differ: all of Unicode, marks, controls, spaces, special tokens, long words."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

_SEED = 0
_TEXTS = 3000
_PER_SWEEP = 64  # characters of one text of the sweep
_FIXED = (
    "",
    " ",
    "   \t\n\r\v\f ",
    "İstanbul ΑΣ Straße ﬁne ǅ ŉ",
    "cafe\u0301 A\u030a\u0323 e\u0323\u0302 \u0301x",
    "don't we'll I'VE you'RE 'S ' 's  's",
    "a  b   c    d ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪",
    "北京 東京 서울 한국어 ภาษาไทย עברית العربية हिन्दी",
    "\x00a\x00\x01b\x7f\u200b\u200d\ufeff\u00ad\ufffd",
    "http://example.org/a_b?c=d&e=%20 user@host.name #tag $1,234.56",
    "x" * 99 + " " + "x" * 100 + " " + "x" * 101,
)
_SPACES = (" ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u2003", "\u3000", "\u0085")
_KINDS = (
    *4 * ("word",),
    *2 * ("space",),
    *2 * ("block",),
    "mark",
    "control",
    "punctuation",
    "emoji",
    "any",
    "special",
    "repeated",
)


def hard_texts(tokenizer: Any, limit: int) -> list[str]:
    """Return the same few thousand texts for the same tokenizer.

    Args:
        tokenizer: tokenizer of the tokenizers library; words are drawn from its vocabulary.
        limit: most tokens of a text; a few texts are longer.
    """
    return [*_FIXED, *_sweep(), *_random_texts(tokenizer), *_long_texts(tokenizer, limit)]


def hard_pairs(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return pairs of texts, first and second texts apart, of which some are too long together."""
    draw = random.Random(_SEED)  # noqa: S311  # the texts are no secret
    count = len(texts) // 8
    return draw.choices(texts, k=count), draw.choices(texts, k=count)


def _sweep() -> Iterator[str]:
    """Yield every assigned character of Unicode's planes 0 and 1, and samples of the others, next to letters and doubled."""
    drawn = [each for each in map(chr, range(0x20000)) if unicodedata.category(each) not in {"Cn", "Cs", "Co"}]
    # The blocks of Chinese characters and Hangul syllables are uniform
    drawn += map(chr, (*range(0x20000, 0x31350, 977), *range(0xE000, 0xF900, 97), *range(0xE0000, 0x110000, 4099)))
    for number, form in enumerate(("a{0}b ", "{0} ", "{0}{0}a ")):
        chosen = drawn if number == 0 else drawn[:0x3000:number]
        for start in range(0, len(chosen), _PER_SWEEP):
            yield "".join(form.format(each) for each in chosen[start : start + _PER_SWEEP])


def _random_texts(tokenizer: Any) -> Iterator[str]:
    draw = random.Random(_SEED)  # noqa: S311  # the texts are no secret
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=False))
    words = [word for each in draw.sample(vocabulary, min(len(vocabulary), 4000)) if (word := each.strip("#▁Ġ"))]
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()] or [""]
    for _ in range(_TEXTS):
        yield "".join(_piece(draw, words, special) for _ in range(draw.randrange(40)))


def _piece(draw: random.Random, words: Sequence[str], special: Sequence[str]) -> str:
    kind = draw.choice(_KINDS)
    if kind == "word":
        word = draw.choice(words)
        return draw.choice((word, word.upper(), word.title(), f" {word}", f"{word} ", unicodedata.normalize("NFD", word)))
    if kind == "special":
        return draw.choice((draw.choice(special), " " + draw.choice(special), draw.choice(special)[:-1]))
    if kind == "space":
        return draw.choice(_SPACES)
    if kind == "repeated":  # equal sums of scores in another order
        return draw.choice("0123456789ab-._= ") * draw.randrange(2, 9)
    ranges = {
        "mark": (0x300, 0x370),
        "control": (0, 0x20),
        "punctuation": (0x21, 0x40),
        "emoji": (0x1F300, 0x1FAFF),
        "block": (0x80, 0x3000),
        "any": (0, 0x110000),
    }
    character = chr(draw.randrange(*ranges[kind]))
    return "" if unicodedata.category(character) == "Cs" else character


def _long_texts(tokenizer: Any, limit: int) -> Iterator[str]:
    """Yield texts around the limit: of one-letter words, and one of a single word."""
    for length in (limit - 3, limit - 2, limit - 1, limit, limit + 1, 3 * limit):
        yield "a " * max(0, length)
    yield "a" * (2 * limit)
    yield from ("".join(sorted(tokenizer.get_vocab())[:limit]), "\n" * limit)
