"""Spans of characters: without surrounding spaces, and never through the middle of a character of several code points."""

import unicodedata
from typing import Final

# Conjoining jamo by Hangul_Syllable_Type: leading consonants, vowels and trailing consonants
_LEADING: Final = ((0x1100, 0x115F), (0xA960, 0xA97C))
_VOWELS: Final = ((0x1160, 0x11A7), (0xD7B0, 0xD7C6))
_TRAILING: Final = ((0x11A8, 0x11FF), (0xD7CB, 0xD7FB))
_SYLLABLES: Final = ((0xAC00, 0xD7A3),)
# Zero-width non-joiner and joiner, the sound marks of halfwidth katakana, the skin tones of emoji, and the tags of flags, which
# are no marks
_EXTENDING: Final = ((0x200C, 0x200D), (0xFF9E, 0xFF9F), (0x1F3FB, 0x1F3FF), (0xE0020, 0xE007F))


def trimmed(text: str, start: int, end: int) -> tuple[str, int, int]:
    """Remove surrounding spaces from a span; SentencePiece and byte-level tokenizers include them in a word.

    Returns:
        The text of the span, its start and its end.
    """
    found = text[start:end].strip()
    start = text.index(found, start)
    return found, start, start + len(found)


def whole(text: str, start: int, end: int) -> tuple[str, int, int]:
    """Remove surrounding spaces from a span, and extend it to whole characters on both sides.

    A tokenizer may have removed or composed the marks and jamo that follow a letter: its offsets then end before them.

    Returns:
        The text of the span, its start and its end; empty if the span has only spaces.
    """
    found, start, end = trimmed(text, start, end)
    if not found or text.isascii():
        return found, start, end
    while start > 0 and _joined(text, start):
        start -= 1
    while end < len(text) and _joined(text, end):
        end += 1
    return text[start:end], start, end


def _joined(text: str, index: int) -> bool:
    """Whether the code points before and at `index` belong to one character (Unicode Standard Annex 29, rules GB6 to GB9a)."""
    before, after = ord(text[index - 1]), ord(text[index])
    if after < 0x300:  # the first combining mark
        return False
    if unicodedata.category(chr(after))[0] == "M" or _in(after, _EXTENDING):
        return not chr(before).isspace()
    if _in(after, _TRAILING):
        return _in(before, _VOWELS) or _in(before, _TRAILING) or _in(before, _SYLLABLES)
    if _in(after, _VOWELS):
        return _in(before, _LEADING) or _in(before, _VOWELS) or (_in(before, _SYLLABLES) and (before - 0xAC00) % 28 == 0)
    # A precomposed syllable after leading consonants is archaic
    return (_in(after, _LEADING) or _in(after, _SYLLABLES)) and _in(before, _LEADING)


def _in(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)
