"""Medians of paired ratios with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_SAMPLES = 2000


class Interval(NamedTuple):
    """A median and the 95 % interval of its bootstrap."""

    median: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Return the median of values, such as ratios of single rounds, and its interval: the same for the same values."""
    medians = _medians(values)
    low, high = np.percentile(medians, (2.5, 97.5))
    return Interval(float(np.median(values)), float(low), float(high))


def change(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Return (median of `after`) / (median of `before`) and its interval; both are resampled on their own.

    Args:
        before: values of one run, such as ratios of its rounds.
        after: values of another run; the numbers of rounds may differ.
    """
    found = _medians(after, seed=1) / _medians(before)
    low, high = np.percentile(found, (2.5, 97.5))
    return Interval(float(np.median(after) / np.median(before)), float(low), float(high))


def _medians(values: Sequence[float], seed: int = 0) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    chosen = np.random.default_rng(seed).integers(0, len(array), (_SAMPLES, len(array)))
    found: np.ndarray = np.median(array[chosen], axis=1)
    return found
