"""The lock that keeps other work off the GPUs while a CUDA graph is captured."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

T = TypeVar("T")


class SharedLock:
    """A lock that many threads hold at the same time, or one thread exclusively.

    A thread that waits for exclusive use goes before threads that come later, so no thread may take the lock twice.
    """

    def __init__(self) -> None:
        """Create a lock that is not held."""
        self._changed = threading.Condition()
        self._holders = 0
        self._exclusive = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._exclusive)
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                self._changed.notify_all()

    def during(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function that holds the lock together with others while it calls `function`."""

        def call(*arguments: Any) -> T:
            with self.shared():
                return function(*arguments)

        return call

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock exclusively."""
        with self._changed:
            self._changed.wait_for(lambda: not self._exclusive)
            self._exclusive = True
            self._changed.wait_for(lambda: not self._holders)
        try:
            yield
        finally:
            with self._changed:
                self._exclusive = False
                self._changed.notify_all()


# While a stream is captured, CUDA refuses allocations and copies of all threads of the process, in any session.
DEVICE_LOCK: Final = SharedLock()
