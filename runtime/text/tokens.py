"""Tokens of one text or pair, and their truncation."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding


@dataclass(frozen=True)
class Tokens:
    """Tokens of one text or pair, including special tokens, as lists of equal length.

    Attributes:
        ids: token ids.
        type_ids: token type ids.
        parts: 0 or 1 for a token of the first or second text, None for a special token.
        words: index of the token's word in its part, or None.
        offsets: (start, end) of the token in characters of its part.
    """

    ids: list[int]
    type_ids: list[int]
    parts: list[int | None]
    words: list[int | None]
    offsets: list[tuple[int, int]]

    @classmethod
    def of(cls, encoding: Encoding, starts: Sequence[int] | None = None) -> "Tokens":
        """Return the tokens of an encoding of the tokenizers library.

        Args:
            encoding: the encoding.
            starts: start of each word in the text, if words were encoded: their offsets restart at 0 in every word.
        """
        words, offsets = encoding.word_ids, encoding.offsets
        if starts is not None:
            origins = [0 if word is None else starts[word] for word in words]
            offsets = [(origin + start, origin + end) for origin, (start, end) in zip(origins, offsets, strict=True)]
        return cls(encoding.ids, encoding.type_ids, encoding.sequence_ids, words, offsets)

    def __len__(self) -> int:
        """Return the number of tokens, including special tokens."""
        return len(self.ids)

    def cut(self, limit: int, left: bool) -> "Tokens":
        """Truncate to `limit` tokens.

        Tokens are removed from the end (from the start, if `left`) of the longer part first; special tokens are kept.
        """
        if len(self) <= limit:
            return self
        positions = [[position for position, part in enumerate(self.parts) if part == which] for which in (0, 1)]
        special = [position for position, part in enumerate(self.parts) if part is None]
        lengths = _longest_first([len(part) for part in positions], max(0, limit - len(special)))
        kept = [part[len(part) - length :] if left else part[:length] for part, length in zip(positions, lengths, strict=True)]
        return self._at(sorted([*special, *kept[0], *kept[1]]))

    def windows(self, limit: int, stride: int, left: bool) -> list["Tokens"]:
        """Divide the tokens of a long text into windows of at most `limit` tokens, each with the special tokens.

        The windows and their order are those of the tokenizers library for `return_overflowing_tokens`.

        Args:
            limit: maximum number of tokens of a window, including special tokens.
            stride: number of tokens that consecutive windows share.
            left: start with the window at the end of the text.
        """
        special = [position for position, part in enumerate(self.parts) if part is None]
        inside = [position for position, part in enumerate(self.parts) if part is not None]
        room = limit - len(special)
        count = 1 + -((room - len(inside)) // (room - stride))  # the last window ends with the text
        starts = [index * (room - stride) for index in range(count)]
        if left:
            ends = [len(inside) - start for start in starts]
            chosen = [inside[max(0, end - room) : end] for end in ends]
        else:
            chosen = [inside[start : start + room] for start in starts]
        return [self._at(sorted([*special, *window])) for window in chosen]

    def _at(self, order: Sequence[int]) -> "Tokens":
        columns = (self.ids, self.type_ids, self.parts, self.words, self.offsets)
        # mypy gives the columns one common element type
        return Tokens(*([column[position] for position in order] for column in columns))  # type: ignore[arg-type]


def _longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """Return the lengths of two texts after truncation to `room` tokens in total.

    The longer text is truncated first, then both to half of the room, as the strategy "longest_first" of tokenizers does.
    """
    short, long = sorted(lengths)
    if short + long > room:
        long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return [short, long] if lengths[0] <= lengths[1] else [long, short]
