"""The bound on the time of a pattern: published tokenizers are below it, slow patterns are not, and Oniguruma keeps it."""

import time
from random import Random
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers

from runtime.text.pattern_cost import UnknownPatternError, cost
from runtime.text.tokenizer_bounds import _MOST_STEPS

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PUBLISHED = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",
    "Qwen 2": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",
    "GPT-4o": (
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_CONTRACTIONS}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST}"
    ),
    "Kimi": rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}&&[^\p{{Han}}]]*[{_LOWER}&&[^\p{{Han}}]]+|{_REST}",
    "OLMo": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "DeepSeek 3": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|\s*[\r\n]+|\s+",
    "DeepSeek": r"\s+$",
    "BLOOM": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "CLIP": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "SuperBPE": r"(?=(\d{3})+(?!\d))",
    "SentencePiece": " {2,}",
    "SMILES": r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])",
}
_SLOW = (
    *(r"(x+x+)+y", r"(?:a|a)*$", r"(a|ab)*c", r"(a+)+$", r"\s*\s*x", r".*a.*b", r"^(\w+\s?)*$", r"(?=(a+)+b)", r"(?<!(a+)+b)c"),
    *(r"(?:a{1,50}){1,50}b", r"(?:(?:a?){30}a{30})", r"(?:[^^]+]+)+x", r"(?i)(a+)+|(b+)+c", "|".join(["a*b"] * 40)),
    r"\p{N}{1,3}+x",  # not possessive in Oniguruma
)
_UNKNOWN = {
    r"(a*)*b": "repeats a part that may be empty",
    r"(a)\1": r"unknown \\1",
    r"(?<x>a\g<x>?b)": r"unknown \\g",
    r"(?x) a # (": r"unknown group \(\?x",
    r"(?~ab)": r"unknown group \(\?~",
    r"(*FAIL)": "calls a function",
    r"\X+": r"unknown \\X",
    "a{9999999}": "more than 999,999 times",
    "(" * 200 + ")" * 200: "more than 32 groups",
    "a" * 5000: "5,000 characters, expected at most 4,096",
    "[a": "ends too early",
    "a)": r"a \) without a \(",
    "(a": r"a \( without a \)",
    "+a": "repeats nothing",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_patterns_of_published_tokenizers_are_fast(name: str) -> None:
    Regex(PUBLISHED[name])  # a pattern of Oniguruma
    assert cost(PUBLISHED[name]).first <= _MOST_STEPS // 2


@pytest.mark.parametrize("pattern", _SLOW, ids=lambda pattern: pattern[:20])
def test_patterns_that_backtrack_are_slow(pattern: str) -> None:
    assert cost(pattern).first > _MOST_STEPS


@pytest.mark.parametrize("pattern", _UNKNOWN, ids=lambda pattern: pattern[:20])
def test_what_is_not_known_is_refused(pattern: str) -> None:
    with pytest.raises(UnknownPatternError, match=_UNKNOWN[pattern]):
        cost(pattern)


def test_the_number_of_characters() -> None:
    assert [
        cost(pattern).least for pattern in ("", "a|bc", " {2,}", "(?=a)b?", r"[]a]\x{41}{3}(?<n>\p{L}+)", "a{,3}|a{3,2}")
    ] == [
        *(0, 1, 2, 0, 5, 0),
    ]


_ATOMS = ("a", "b", ".", r"\w", r"\s", "[ab]", "[^a]", "[a[b]]", "[^]a]", "[^^]", r"\p{L}", "(?i:a)", r"\b", "$", "^", r"\z")
_QUANTIFIERS = (*[""] * 12, "*", "+", "?", "*?", "+?", "*+", "++", "{2}", "{1,3}", "{2,}", "{,4}", "{3}?", "{1,30}", "{1,3}+")
_GROUPS = ("({})", "(?:{})", "(?={})", "(?!{})", "(?>{})", "(?<n>{})", "(?i){}")
_TEXTS = ("a" * 1500, "ab" * 750, "a" * 1499 + "b", " " * 1499 + "x", "a" * 750 + "b" * 750, "ba" * 700 + "^]")


def _pattern(random: Random, depth: int = 0) -> str:
    def part() -> str:
        atom = random.choice(_ATOMS)
        if depth < 4 and random.random() < 0.35:
            atom = random.choice(_GROUPS).format(_pattern(random, depth + 1))
            atom = f"({atom})" if "(?i)" in atom else atom
        return atom + random.choice(_QUANTIFIERS)

    return "|".join("".join(part() for _ in range(random.randint(1, 4))) for _ in range(random.choice((1, 1, 1, 2, 3))))


def _accepted(pattern: str) -> Any:
    """The pattern for the library; None if its time is above the bound or not known, or Oniguruma does not read it."""
    try:
        return pre_tokenizers.Split(Regex(pattern), "isolated") if cost(pattern).first <= _MOST_STEPS else None
    except UnknownPatternError:
        return None
    except Exception:  # the library's
        return None


@pytest.mark.parametrize("patterns", [1_400, pytest.param(10_000, marks=pytest.mark.sweep)])
def test_oniguruma_keeps_the_bound(patterns: int) -> None:
    """Random patterns below the bound: Oniguruma gives up at 10 million steps, which it may never reach."""
    random, accepted = Random(0), 0  # noqa: S311 - not for cryptography
    for _ in range(patterns):
        pattern = _pattern(random)
        if (split := _accepted(pattern)) is None:
            continue
        accepted += 1
        for text in _TEXTS:
            start = time.process_time()
            split.pre_tokenize_str(text)  # raises if Oniguruma gives up
            assert time.process_time() - start < 5, pattern
    assert accepted > 0.1 * patterns
