"""Policies that select the drop of a call without `drop`."""

import threading
from collections.abc import Sequence
from typing import Protocol

from runtime.errors import InputError


class DropPolicy(Protocol):
    """Interface of a policy. Implementations must be thread-safe."""

    def choose(self, drops: Sequence[int]) -> int:
        """Return one of `drops`, the loaded drops. Called before every run without `drop`."""

    def done(self, drop: int, seconds: float) -> None:
        """Record the duration of a run of the variant `drop`. Called after every run, failed runs included."""


class LatencyTarget:
    """Policy that raises the drop while runs take longer than a target, and lowers it again afterwards.

    After every `window` runs, the mean duration of these runs, including the time spent waiting for cores, is compared with
    the target. Above `seconds` the next higher drop is selected, below `relax * seconds` the next lower one. Between the two
    limits the drop stays the same, so that it does not oscillate. The first runs use the lowest drop.
    """

    def __init__(self, seconds: float, window: int = 16, relax: float = 0.5) -> None:
        """Create a policy at the lowest drop.

        Args:
            seconds: target of the mean duration of a run.
            window: number of runs between two decisions.
            relax: fraction of `seconds` below which the drop is lowered, between 0 and 1.

        Raises:
            InputError: a value is out of range.
        """
        if not (seconds > 0 and window >= 1 and 0 < relax < 1):
            raise InputError(
                f"LatencyTarget: expected seconds > 0, window >= 1 and 0 < relax < 1, found {seconds}, {window} and {relax}"
            )
        self._seconds, self._window, self._relax = seconds, window, relax
        self._lock = threading.Lock()
        self._level = 0
        self._times: list[float] = []
        self._steps = 1

    def __reduce__(self) -> tuple[type["LatencyTarget"], tuple[float, int, float]]:
        """Pickle the arguments: another process measures its own runs."""
        return LatencyTarget, (self._seconds, self._window, self._relax)

    def choose(self, drops: Sequence[int]) -> int:
        """Return the current drop, one of `drops`."""
        with self._lock:
            self._steps = len(drops)
            return sorted(drops)[min(self._level, self._steps - 1)]

    def done(self, drop: int, seconds: float) -> None:  # noqa: ARG002 - part of the interface, for other policies
        """Record the duration of a run; at the end of a window, move to a higher or lower drop if needed."""
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
