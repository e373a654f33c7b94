"""Ending a call from another thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runtime.errors import CancelledError
from runtime.import_ort import ort


class Cancellation:
    """Hand one to any number of calls of `run` and `predict`; `cancel` ends them, now and later, with `CancelledError`.

    ONNX Runtime looks at it between two nodes, so a call ends within the time of its longest node.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: list[Any] = []
        self.cancelled = False

    def cancel(self) -> None:
        """May be called from any thread and more than once."""
        with self._lock:
            self.cancelled = True
            for options in self._runs:
                options.terminate = True

    @contextmanager
    def run_options(self) -> Iterator[Any]:
        """ONNX Runtime's options of one run that can be cancelled. Raises CancelledError if that happened, before or within."""
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
