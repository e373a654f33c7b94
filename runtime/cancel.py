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
        self.cancelled = False

    def cancel(self) -> None:
        """Cancel all calls that use this handle. Thread-safe; repeated calls have no further effect."""
        with self._lock:
            self.cancelled = True
            for options in self._runs:
                options.terminate = True

    @contextmanager
    def run_options(self) -> Iterator[Any]:
        """Yield the ONNX Runtime options of one run that can be cancelled.

        Raises:
            CancelledError: `cancel` was called before or during the run.
        """
        options = ort.RunOptions()
        with self._lock:
            if self.cancelled:
                raise CancelledError("the call was cancelled before it ran")
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
