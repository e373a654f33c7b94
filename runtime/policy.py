"""Which drop answers a call that names none."""

import threading
from collections.abc import Sequence
from typing import Protocol

from runtime.errors import InputError


class DropPolicy(Protocol):
    """Asked before every run without a drop, and told how long every run took. Many threads call it at once."""

    def choose(self, drops: Sequence[int]) -> int:
        """One of `drops`, the loaded ones."""

    def done(self, drop: int, seconds: float) -> None:
        """A run of that variant has ended, well or not."""


class LatencyTarget:
    """Drops more adapters while runs take longer than a target, and fewer again when there is room.

    The mean time of the latest runs, waiting for cores included, is compared with `seconds` after every `window` runs: above
    it the next higher drop answers, below `relax` of it the next lower one. Between the two nothing changes, so that the
    drop does not swing to and fro. It starts at the lowest drop.

    Raises:
        InputError: a value out of range.
    """

    def __init__(self, seconds: float, window: int = 16, relax: float = 0.5) -> None:
        if not (seconds > 0 and window >= 1 and 0 < relax < 1):
            raise InputError(
                f"LatencyTarget: expected seconds > 0, window >= 1 and 0 < relax < 1, found {seconds}, {window} and {relax}"
            )
        self._seconds, self._window, self._relax = seconds, window, relax
        self._lock = threading.Lock()
        self._level = 0
        self._times: list[float] = []
        self._steps = 1

    def choose(self, drops: Sequence[int]) -> int:
        with self._lock:
            self._steps = len(drops)
            return sorted(drops)[min(self._level, self._steps - 1)]

    def done(self, drop: int, seconds: float) -> None:  # noqa: ARG002 - another policy may want to know
        with self._lock:
            self._times.append(seconds)
            if len(self._times) < self._window:
                return
            mean = sum(self._times) / len(self._times)
            self._times.clear()
            if mean > self._seconds:
                self._level = min(self._level + 1, self._steps - 1)
            elif mean < self._relax * self._seconds:
                self._level = max(self._level - 1, 0)
