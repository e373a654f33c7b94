"""Limits on the length of texts in characters, so that a long text is refused before the tokenizer spends memory on it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from runtime.errors import InputError
from runtime.text.texts import Checked, characters

# The tokenizer takes about 170 bytes per character until a text is truncated.
LONGEST: Final = 100_000
LONGEST_TRUNCATED: Final = 1_000_000
CHARACTERS_PER_TOKEN: Final = 16  # for models that take more tokens than the limits above allow for
_HIGHEST: Final = 16_000_000  # whatever the maximum of the model
_NORMALIZED: Final = 4  # characters of the normalized text per character of the limit; accents of a script may take three
_COUNTED: Final = 10_000  # characters that are normalized at once to be counted
_TOGETHER: Final = 1_000_000  # characters of all texts that are tokenized in one call


def longest_text(tokens: int | None, truncate: bool) -> int:
    """Return the largest number of characters of a text or pair.

    Args:
        tokens: maximum number of tokens; None without a maximum.
        truncate: whether longer texts are truncated to `tokens`. Characters are not cut before tokenizing: a normalizer or a
            model such as Unigram may read the whole text, so the tokens at its start can depend on its end.
    """
    base = LONGEST if tokens is not None and not truncate else LONGEST_TRUNCATED
    return max(base, min((tokens or 0) * CHARACTERS_PER_TOKEN, _HIGHEST))


def check_characters(pairs: Sequence[Checked], tokens: int | None, truncate: bool) -> None:
    """Check the length of texts in characters.

    Raises:
        InputError: a text is too long; the message names every such text.
    """
    most = longest_text(tokens, truncate)
    if not (long := [(index, size) for index, pair in enumerate(pairs) if (size := characters(pair)) > most]):
        return
    found = ", ".join(f"texts[{index}] has {size:,}" for index, size in long[:10])
    more = f" and {len(long) - 10} more" if len(long) > 10 else ""
    remedy = "split the text" if truncate or tokens is None else "split the text, or pass truncate=True to truncate it"
    if tokens is not None and not truncate and max(size for _, size in long) > longest_text(tokens, truncate=True):
        remedy = "split the text or shorten it"
    raise InputError(f"expected at most {most:,} characters in a text, found: {found}{more}; {remedy}")


def check_normalized(
    pairs: Sequence[Checked], tokens: int | None, truncate: bool, growth: float, normalize: Callable[[str], str]
) -> None:
    """Check the length of texts after normalization, which makes 18 characters of some: the tokenizer spends memory on these.

    Args:
        pairs: the texts.
        tokens: maximum number of tokens; None without a maximum.
        truncate: whether longer texts are truncated.
        growth: the most characters that the normalizer makes of one; texts that stay below the limit with it are not counted.
        normalize: the normalizer; not called if `growth` is 1.

    Raises:
        InputError: a text is too long; the message names the first one.
    """
    most = longest_text(tokens, truncate) * _NORMALIZED
    for index, pair in enumerate(pairs):
        if characters(pair) * growth <= most:
            continue
        size = 0
        for part in [pair] if isinstance(pair, str) else pair:
            for start in range(0, len(part), _COUNTED):
                size += len(normalize(part[start : start + _COUNTED]))
                if size > most:
                    raise InputError(
                        f"expected at most {most:,} characters in a text after the tokenizer's normalization, found more in "
                        f"texts[{index}], which has {characters(pair):,} before it; split the text"
                    )


def portions(pairs: Sequence[Checked], growth: float = 1.0) -> Iterator[Sequence[Checked]]:
    """Yield the texts in consecutive portions of limited size, so that the memory of their encodings is limited too.

    Args:
        pairs: the texts.
        growth: the most characters that the normalizer makes of one.
    """
    start = size = 0
    most = _TOGETHER / max(1.0, growth / _NORMALIZED)
    for index, pair in enumerate(pairs):
        size += characters(pair)
        if size > most and index > start:
            yield pairs[start:index]
            start, size = index, characters(pair)
    yield pairs[start:]
