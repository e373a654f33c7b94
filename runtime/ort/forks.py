"""Sessions in forked processes, which have none of the threads of their parent.

A run of a session that was opened before the fork would use one thread, or wait forever for the others, and so would its end,
which joins them. Sessions of the parent are therefore left open in a forked process, and each process opens its own.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, Protocol, TypeVar

T = TypeVar("T")


class Opener(Protocol):
    """Something with open sessions."""

    def opened(self) -> Iterable[Any]:
        """Return the sessions that are open."""


_OPENERS: Final[weakref.WeakSet[Opener]] = weakref.WeakSet()


def keep_open_in_forks(opener: Opener) -> None:
    """Leave the sessions of `opener` open in processes that are forked during its life."""
    _OPENERS.add(opener)


def _keep_open() -> None:
    """Add references that are never released, so that not even the end of the interpreter ends the sessions."""
    for opener in list(_OPENERS):
        for session in opener.opened():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_open)


class PerProcess(Generic[T]):
    """A value that each process makes for itself when it first needs it. Thread-safe, also across a fork."""

    def __init__(self, make: Callable[[], T]) -> None:
        """Prepare the value; `make` makes it."""
        self._make = make
        # A lock for each process: one of the parent may be held by a thread that does not exist after the fork
        self._locks: dict[int, threading.Lock] = {}
        self._made: dict[int, T] = {}

    def get(self) -> T:
        """Return the value of this process. Raises what `make` raises; the next call then tries again."""
        process = os.getpid()
        with self._locks.setdefault(process, threading.Lock()):
            if process not in self._made:
                self._made[process] = self._make()
            return self._made[process]
