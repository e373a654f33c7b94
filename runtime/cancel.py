"""Cancellation of running calls from another thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runtime.errors import CancelledError
from runtime.import_ort import ort


class Cancellation:
    """A handle that cancels calls of `run` and `predict`.

    One handle may be passed to any number of calls. After `cancel`, running and later calls raise `CancelledError`. ONNX
    Runtime checks the flag between two nodes, so a call ends within the time of its longest node.
    """

    def __init__(self) -> None:
        """Create a handle that has not been cancelled."""
        self._lock = threading.Lock()
        self._runs: list[Any] = []
        self._waits: list[threading.Condition] = []
        self.cancelled = False

    def cancel(self) -> None:
        """Cancel all calls that use this handle. Thread-safe; repeated calls have no further effect."""
        with self._lock:
            self.cancelled = True
            for options in self._runs:
                options.terminate = True
            waits = list(self._waits)
        for condition in waits:
            with condition:
                condition.notify_all()

    def check(self) -> None:
        """Raise CancelledError after `cancel`, for calls that have not come to their run."""
        if self.cancelled:
            raise CancelledError("the call was cancelled before it ran")

    @contextmanager
    def wakes(self, condition: threading.Condition) -> Iterator[None]:
        """Notify a condition in `cancel` during the context, whose threads then call `check`. Enter it without the lock."""
        with self._lock:
            self._waits.append(condition)
        try:
            yield
        finally:
            with self._lock:
                self._waits.remove(condition)

    @contextmanager
    def run_options(self) -> Iterator[Any]:
        """Yield the ONNX Runtime options of one run that can be cancelled.

        Raises:
            CancelledError: `cancel` was called before or during the run.
        """
        options = ort.RunOptions()
        with self._lock:
            self.check()
            self._runs.append(options)
        try:
            yield options
        except Exception as error:
            if self.cancelled:
                raise CancelledError("the call was cancelled while it ran") from error
            raise
        finally:
            with self._lock:
                self._runs.remove(options)
