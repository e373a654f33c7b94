"""A cache of trunk states: the second call with a text skips the trunk."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from runtime.ort.forks import PerProcess
from runtime.states.trunk_states import Row

# Bytes of an entry in addition to its arrays: the key, the mapping and the headers of the arrays, roughly.
OVERHEAD = 512


@dataclass(frozen=True)
class CacheStatistics:
    """Contents of a cache, and how often it was of use.

    Attributes:
        hits: texts whose states were in the cache.
        misses: texts whose states were computed.
        entries: texts in the cache.
        nbytes: bytes of their arrays.
        capacity: largest number of bytes.
    """

    hits: int
    misses: int
    entries: int
    nbytes: int
    capacity: int

    @property
    def hit_rate(self) -> float:
        """Share of texts whose states were in the cache; 0 before the first text."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else 0.0


class StateCache:
    """Thread-safe mapping from the inputs of a text to its states; the least recently used leave first."""

    def __init__(self, capacity: int) -> None:
        """Create an empty cache.

        Args:
            capacity: bytes of all arrays and keys.
        """
        self.capacity = capacity
        self._rows: OrderedDict[bytes, tuple[Row, int]] = OrderedDict()
        self._locks = PerProcess(threading.Lock)
        self._nbytes = self._hits = self._misses = 0

    def get(self, keys: Sequence[bytes]) -> list[Row | None]:
        """Return the states of each key; None where there are none."""
        with self._lock:
            found: list[Row | None] = []
            for key in keys:
                entry = self._rows.get(key)
                if entry is not None:
                    self._rows.move_to_end(key)
                found.append(None if entry is None else entry[0])
            hits = sum(row is not None for row in found)
            self._hits += hits
            self._misses += len(found) - hits
        return found

    def put(self, rows: Mapping[bytes, Row]) -> None:
        """Store states. A text whose states exceed the capacity is not stored."""
        sized = {key: sum(array.nbytes for array in row.values()) + OVERHEAD for key, row in rows.items()}
        with self._lock:
            for key, row in rows.items():
                if sized[key] > self.capacity:
                    continue
                _, before = self._rows.pop(key, (row, 0))
                self._rows[key] = (row, sized[key])
                self._nbytes += sized[key] - before
            while self._nbytes > self.capacity:
                _, (_, size) = self._rows.popitem(last=False)
                self._nbytes -= size

    @property
    def _lock(self) -> threading.Lock:
        """The lock of this process: in a fork, a lock that another thread of the parent held would never be released."""
        return self._locks.get()

    @property
    def statistics(self) -> CacheStatistics:
        """The present state of the cache."""
        with self._lock:
            return CacheStatistics(self._hits, self._misses, len(self._rows), self._nbytes, self.capacity)


def key_of(arrays: Mapping[str, npt.NDArray[Any]], prefix: bytes) -> bytes:
    """Return the key of a text: a digest of its inputs without padding.

    Args:
        arrays: name -> array of one text.
        prefix: what else distinguishes the states, such as the drop.
    """
    found = hashlib.blake2b(prefix, digest_size=16)
    for name, array in arrays.items():
        found.update(f"{name}{array.shape}".encode())
        found.update(array.tobytes())
    return found.digest()
