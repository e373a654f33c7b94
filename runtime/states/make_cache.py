"""The cache of trunk states that `load` was asked for."""

import math
from collections.abc import Sequence

import numpy as np

from runtime.bundle import Manifest, SplitEntry
from runtime.errors import InputError
from runtime.states.state_cache import OVERHEAD, StateCache

_ASSUMED = 512  # length of an axis for which the manifest has no maximum


def make_cache(capacity: object, splits: Sequence[SplitEntry], manifest: Manifest) -> StateCache:
    """Create a cache of at least one text.

    Args:
        capacity: bytes, as the user gave them.
        splits: split graphs of the loaded drops.
        manifest: manifest of the bundle.

    Raises:
        InputError: the capacity is no number of bytes or too small, or there are no split graphs.
    """
    if not splits:
        raise InputError(
            "state_cache: expected a bundle with graphs of the trunk; export it again with `python -m exporter --split`"
        )
    if isinstance(capacity, bool) or not isinstance(capacity, int):
        raise InputError(f"state_cache: expected a number of bytes or None, found {capacity!r}")
    kept = sum(_nbytes(entry.shape, entry.dtype, manifest) for entry in manifest.inputs if entry.dtype == "int64")
    states = max(sum(_nbytes(state.shape, state.dtype, manifest) for state in entry.states) for entry in splits)
    least = states + kept + OVERHEAD
    if capacity < least:
        raise InputError(
            f"state_cache: expected at least the {least:,} bytes of the longest text's states, found {capacity:,}; give more, "
            "or None for no cache"
        )
    return StateCache(capacity)


def _nbytes(shape: Sequence[str], dtype: str, manifest: Manifest) -> int:
    lengths = (int(axis) if axis.isdecimal() else manifest.max_lengths.get(axis, _ASSUMED) for axis in shape[1:])
    return math.prod(lengths) * np.dtype(dtype).itemsize
