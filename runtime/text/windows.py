"""Windows of a stream: texts are computed some at a time and returned in order, and a text that fails is isolated."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from runtime.errors import AdapterDropError, BundleError, CancelledError, ProviderError
from runtime.text.prediction import Prediction
from runtime.text.texts import Text

Row: TypeAlias = dict[str, Prediction]  # task -> prediction, of one text
Compute: TypeAlias = Callable[[Sequence[Text]], Mapping[str, Sequence[Prediction]]]
Check: TypeAlias = Callable[[Sequence[Text]], object]

LARGEST: Final = 4_096  # texts of a window; larger ones are no faster
_FIRST: Final = 256
_SECONDS: Final = (2.0, 8.0)  # a window that takes less or more is followed by one of another size
_CHARACTERS: Final = 4_000_000  # of the texts of a window, so that long texts do not fill the memory
_HELD: Final = 64_000_000  # bytes of the rows of a window
# Errors that every text would have: they end the stream
_OF_ALL: Final = (BundleError, CancelledError, ProviderError)


@dataclass
class _Size:
    """The number of texts of the next window: few of a slow model, so that results come, and progress is kept, in seconds.

    Attributes:
        now: this number.
        adapts: whether it changes with the time of the windows.
    """

    now: int
    adapts: bool

    def after(self, texts: int, seconds: float) -> None:
        """Take note of how long a window took."""
        least, most = _SECONDS
        if not self.adapts or texts < self.now:
            return
        if seconds < least:
            self.now = min(LARGEST, 2 * self.now)
        elif seconds > most:
            self.now = max(1, self.now // 2)


def outcomes(
    items: Iterable[Text | AdapterDropError],
    compute: Compute,
    check: Check,
    window: int | None,
    held: Callable[[], int] = lambda: 0,
) -> Iterator[Row | AdapterDropError]:
    """Compute a stream of texts.

    Args:
        items: the texts; an error stands for a text that could not be read, and is its outcome.
        compute: function that computes a list of texts. It raises if one of them is invalid or fails.
        check: function that raises if one of a list of texts is invalid. It costs less than `compute`.
        window: number of texts that are computed, and held in memory, together. None begins with 256 and goes up to LARGEST, as
            long as a window takes a few seconds.
        held: function that returns the bytes which the caller holds for the items of a window, in addition to their texts.

    Yields:
        For each item in order, the predictions by task, or the error.

    Raises:
        BundleError: as in `compute`.
        CancelledError: as in `compute`.
        ProviderError: as in `compute`.
    """
    size = _Size(_FIRST, adapts=True) if window is None else _Size(window, adapts=False)
    for part in _windows(items, size, held):
        texts = [item for item in part if not isinstance(item, AdapterDropError)]
        started = time.monotonic()
        computed = iter(_isolated(texts, compute, check) if texts else ())
        size.after(len(part), time.monotonic() - started)
        for item in part:
            yield item if isinstance(item, AdapterDropError) else next(computed)


def _windows(
    items: Iterable[Text | AdapterDropError], most: _Size, held: Callable[[], int]
) -> Iterator[list[Text | AdapterDropError]]:
    part: list[Text | AdapterDropError] = []
    size = 0  # characters
    for item in items:
        part.append(item)
        size += _characters(item)
        if len(part) >= most.now or size >= _CHARACTERS or held() >= _HELD:
            yield part
            part, size = [], 0
    if part:
        yield part


def _characters(item: object) -> int:
    """The characters of a text that has not been checked yet."""
    if isinstance(item, str):
        return len(item)
    return sum(map(_characters, item)) if isinstance(item, tuple | list) else 0


def _isolated(texts: Sequence[Text], compute: Compute, check: Check) -> list[Row | AdapterDropError]:
    """Compute a window; if that fails, those texts that are invalid are left out, and the rest is computed in halves."""
    try:
        found = compute(texts)
    except _OF_ALL:
        raise
    except AdapterDropError as error:
        if len(texts) == 1:
            return [error]
    else:
        return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    invalid = dict(_invalid(texts, 0, check))
    if not invalid:  # a failure of the computation itself, such as NaN
        half = len(texts) // 2
        return [*_isolated(texts[:half], compute, check), *_isolated(texts[half:], compute, check)]
    rest = [text for index, text in enumerate(texts) if index not in invalid]
    computed = iter(_isolated(rest, compute, check) if rest else ())
    return [invalid[index] if index in invalid else next(computed) for index in range(len(texts))]


def _invalid(texts: Sequence[Text], first: int, check: Check) -> Iterator[tuple[int, AdapterDropError]]:
    """Yield the index and the error of each invalid text, found in halves."""
    try:
        check(texts)
    except _OF_ALL:
        raise
    except AdapterDropError as error:
        if len(texts) == 1:
            yield first, error
        else:
            half = len(texts) // 2
            yield from _invalid(texts[:half], first, check)
            yield from _invalid(texts[half:], first + half, check)
