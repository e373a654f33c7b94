"""Times the stages of an export and shows that something is going on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console


class Stages:
    """`with stages("trace", "2 structures"):` measures a stage; on a terminal a spinner runs meanwhile.

    Attributes:
        seconds: time per stage, in the order in which they began.
    """

    def __init__(self, console: Console | None) -> None:
        self.seconds: dict[str, float] = {}
        self._console = console

    @contextlib.contextmanager
    def __call__(self, name: str, detail: str = "") -> Iterator[None]:
        text = f"{name} {detail}".rstrip()
        start = time.perf_counter()
        with self._shown(text):
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if self._console is not None:
            self._console.print(f"  {text}: {self.seconds[name]:.1f} s", highlight=False)

    def _shown(self, text: str) -> contextlib.AbstractContextManager[object]:
        if self._console is None:
            return contextlib.nullcontext()
        if not self._console.is_terminal:
            # In a log, a line before the work starts is all there is to see until it ends.
            self._console.print(f"  {text} …", highlight=False)
            return contextlib.nullcontext()
        return self._console.status(text)
