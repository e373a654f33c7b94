"""The lengths of tokens in vocabulary files of slow tokenizers, before a library reads the file.

transformers converts a token of BPE in quadratic time, and the tokenizers library overflows the stack for one of a million
characters.
"""

from __future__ import annotations

from collections.abc import Iterator

_LENGTH_DELIMITED = 2  # type of a field of Protocol Buffers: a length, and as many bytes
_FIXED = {1: 8, 5: 4}  # type -> bytes
_PIECES, _TEXT = 1, 1  # fields of SentencePiece's ModelProto and of each of its pieces


def longest_token(content: bytes) -> int:
    """Return the bytes of the longest token in a model of SentencePiece or of tiktoken; 0 if it is neither."""
    try:
        pieces = [piece for number, piece in _fields(content) if number == _PIECES]
        return max((len(text) for piece in pieces for number, text in _fields(piece) if number == _TEXT), default=0)
    except (IndexError, ValueError):
        # tiktoken: a line per token, in base64, with its rank
        return max(map(len, content.split(b"\n"))) * 3 // 4


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the fields of a message that have a length."""
    at = 0
    while at < len(message):
        key, at = _integer(message, at)
        kind = key & 7
        if kind == _LENGTH_DELIMITED:
            size, at = _integer(message, at)
            if at + size > len(message):
                raise ValueError("a field is longer than its message")
            yield key >> 3, message[at : at + size]
            at += size
        elif kind == 0:
            _, at = _integer(message, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise ValueError(f"there is no type {kind}")


def _integer(message: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length and the position after it."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
