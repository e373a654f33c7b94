"""Texts for a terminal: names, labels and texts of others do not move the cursor, change colours or imitate further lines."""

from typing import Final

_SPACES: Final = "\t\n\v\f\r"
_REPLACEMENT: Final = "\ufffd"
# Control characters, and those that let a line appear in another order
_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_TABLE: Final = {code: " " if chr(code) in _SPACES else _REPLACEMENT for code in _CONTROLS}
_KEEPING_LINES: Final = {code: character for code, character in _TABLE.items() if chr(code) != "\n"}


def printable(text: str, lines: bool = False) -> str:
    """Return a text with other characters in place of those that a terminal obeys.

    Args:
        text: any text.
        lines: keep the ends of lines.
    """
    return text.translate(_KEEPING_LINES if lines else _TABLE)
