"""An upper bound on the time of a regular expression of a tokenizer, from its text.

The tokenizers library matches with Oniguruma, which backtracks: a pattern such as (a+a+)+b takes exponential time, and no call
to the library can be interrupted. Trying a pattern on texts shows nothing, because its author chooses the text that is slow.
So its repetitions are counted instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final

LENGTH: Final = 10_000  # characters of the text for which the time is bounded
HIGHEST: Final = 10**12  # for "too many"
_DEPTH: Final = 32
_LONGEST: Final = 4_096  # characters of a pattern
_CHARACTERS: Final = "dDwWsShHntrfvae0NO"  # after a backslash: one character
_POSITIONS: Final = "bBAzZG"  # after a backslash: a position
_OPTIONS: Final = frozenset("imWDSP-")


class UnknownPatternError(ValueError):
    """A pattern whose time is not known; the message says why."""


@dataclass(frozen=True)
class Cost:
    """Upper bounds for a part of a pattern at one position of a text.

    Attributes:
        least: minimum number of characters that it matches.
        ways: number of different matches.
        steps: steps until all matches are found.
        first: steps until the first match is found or none is possible, without those that are made once per matched character.
        fails: whether there may be no match.
    """

    least: int
    ways: int
    steps: int
    first: int
    fails: bool


_CHARACTER: Final = Cost(1, 1, 1, 1, fails=True)
_POSITION: Final = Cost(0, 1, 1, 1, fails=True)


def cost(pattern: str, length: int = LENGTH) -> Cost:
    """Return upper bounds for a pattern.

    Args:
        pattern: the pattern.
        length: characters of the text.

    Raises:
        UnknownPatternError: the pattern is too long, has a part whose time is not known, or is not a pattern.
    """
    if len(pattern) > _LONGEST:
        raise UnknownPatternError(f"has {len(pattern):,} characters, expected at most {_LONGEST:,}")
    parser = _Parser(pattern, length)
    found = parser.alternatives()
    if parser.at < len(pattern):
        raise UnknownPatternError("has a ) without a (")
    return found


def _sequence(parts: Sequence[Cost]) -> Cost:
    """Bounds for parts one after another: those before the last part that may fail are tried in all ways."""
    last = max((index for index, part in enumerate(parts) if part.fails), default=-1)
    least, ways, steps, first = 0, 1, 0, 0
    for index, part in enumerate(parts):
        if index == last:
            first = _capped(steps + ways * part.first)
        elif index > last:
            first = _capped(first + part.first)
        least, ways, steps = least + part.least, _capped(ways * part.ways), _capped(steps + ways * part.steps)
    return Cost(least, ways, steps, first, fails=last >= 0)


def _either(left: Cost, right: Cost) -> Cost:
    return Cost(
        min(left.least, right.least),
        _capped(left.ways + right.ways),
        _capped(left.steps + right.steps),
        _capped(left.first + right.first),
        left.fails and right.fails,
    )


def _repeated(part: Cost, least: int, most: int | None, length: int) -> Cost:
    """Bounds for `least` to `most` times a part in a text of `length` characters; None is without a maximum."""
    if most is None:
        if part.least == 0:
            raise UnknownPatternError("repeats a part that may be empty")
        most = max(least, length // part.least)
    needed = _sequence([part] * min(least, 50)) if part.ways > 1 else _times(part, least)
    ways, steps = (most - least + 1, _capped(most * part.steps)) if part.ways == 1 else _all(part, least, most)
    # A part that matches a character is repeated at most once per character.
    further = 0 if most == least else part.first if part.least else _capped((most - least) * part.first)
    return Cost(least * part.least, ways, steps, _capped(needed.first + further), fails=bool(least) and part.fails)


def _times(part: Cost, count: int) -> Cost:
    first = (count - 1) * part.steps + part.first if count else 0
    return Cost(count * part.least, 1, _capped(count * part.steps), _capped(first), fails=bool(count) and part.fails)


def _all(part: Cost, least: int, most: int) -> tuple[int, int]:
    """The ways and steps of a part with several ways that is repeated."""
    ways, steps, power = int(least == 0), 0, 1
    for count in range(1, most + 1):
        steps = _capped(steps + power * part.steps)
        power = _capped(power * part.ways)
        ways = _capped(ways + power * (count >= least))
        if HIGHEST in (ways, steps):
            return HIGHEST, HIGHEST
    return ways, steps


def _capped(number: int) -> int:
    return min(number, HIGHEST)


class _Parser:
    """Reads a pattern in the syntax of Oniguruma from left to right. What it does not know is refused."""

    def __init__(self, pattern: str, length: int) -> None:
        self.pattern = pattern
        self.length = length
        self.at = 0
        self.depth = 0

    def alternatives(self) -> Cost:
        """Read until the end of the pattern or the ) of the group."""
        self.depth += 1
        if self.depth > _DEPTH:
            raise UnknownPatternError(f"nests more than {_DEPTH} groups")
        found = [self._one_alternative()]
        while self._take("|"):
            found.append(self._one_alternative())
        self.depth -= 1
        return reduce(_either, found)

    def _one_alternative(self) -> Cost:
        parts = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            parts.append(self._quantified(self._atom()))
        return _sequence(parts)

    def _atom(self) -> Cost:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            self._skip_class()
        elif character == "\\":
            return self._escape()
        elif character in "*+?":
            raise UnknownPatternError(f"has a {character} that repeats nothing")
        return _POSITION if character in "^$" else _CHARACTER

    def _group(self) -> Cost:
        if self._take("*"):
            raise UnknownPatternError("calls a function")
        if not self._take("?"):
            return self._closed(self.alternatives())
        for start in ("=", "!", "<=", "<!"):
            if self._take(start):
                body = self._closed(self.alternatives())
                return Cost(0, 1, body.steps, body.steps, fails=True)
        if self._take(">"):
            return replace(self._closed(self.alternatives()), ways=1)
        if self._take("<"):
            while self._next() != ">":
                pass
            return self._closed(self.alternatives())
        while not self._take(":"):
            option = self._next()
            if option == ")":  # the options hold until the end of the group around it
                return self.alternatives()
            if option not in _OPTIONS:
                raise UnknownPatternError(f"has an unknown group (?{option}")
        return self._closed(self.alternatives())

    def _closed(self, body: Cost) -> Cost:
        if not self._take(")"):
            raise UnknownPatternError("has a ( without a )")
        return body

    def _escape(self) -> Cost:
        character = self._next()
        if character in "pPxu":
            if self._take("{"):
                while self._next() != "}":
                    pass
            return _CHARACTER
        if character == "R":  # \r\n or one character
            return replace(_CHARACTER, steps=2, first=2)
        if character in _POSITIONS:
            return _POSITION
        if character in _CHARACTERS or not (character.isascii() and character.isalnum()):
            return _CHARACTER
        raise UnknownPatternError(f"has an unknown \\{character}")

    def _skip_class(self) -> None:
        """Skip a class of characters after its [, with classes in it."""
        depth, is_first = 1, True
        while depth:
            if is_first:
                self._take("^")
            character = self._next()
            if character == "[":
                depth += 1
            elif character == "]" and not is_first:
                depth -= 1
            elif character == "\\" and self._next() in "cCM":
                raise UnknownPatternError("has control characters")
            is_first = character == "["

    def _quantified(self, part: Cost) -> Cost:
        while (found := self._quantifier()) is not None:
            least, most, is_interval = found
            repeated = _repeated(part, least, most, self.length)
            if self._take("?"):
                repeated = replace(repeated, ways=_capped(repeated.ways + 1))  # {n}? may also match nothing
            elif not is_interval and self._take("+"):
                steps = _capped((self.length if most is None else most) * part.steps)
                repeated = replace(repeated, ways=1, steps=steps)
            part = repeated
        return part

    def _quantifier(self) -> tuple[int, int | None, bool] | None:
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return *bounds, False
        if not self.pattern.startswith("{", self.at):
            return None
        end = self.pattern.find("}", self.at)
        first, comma, second = self.pattern[self.at + 1 : max(end, self.at + 1)].partition(",")
        if not (first or second) or not all(part.isascii() and part.isdecimal() for part in (first, second) if part):
            return None  # a literal {
        self.at = end + 1
        if max(len(first), len(second)) > 6:
            raise UnknownPatternError("repeats more than 999,999 times")
        least = int(first or 0)
        most = least if not comma else int(second) if second else None
        return (least, most, True) if most is None else (min(least, most), max(least, most), True)

    def _take(self, text: str) -> bool:
        taken = self.pattern.startswith(text, self.at)
        self.at += len(text) * taken
        return taken

    def _next(self) -> str:
        if self.at >= len(self.pattern):
            raise UnknownPatternError("ends too early")
        self.at += 1
        return self.pattern[self.at - 1]
