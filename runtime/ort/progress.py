"""Reports that work continues, for work that may take minutes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def announced(what: str, tell: Callable[[str], None], first: float = 3.0, every: float = 10.0) -> Iterator[None]:
    """Report work that takes longer than `first` seconds: after these, at regular intervals, and when it ends.

    Args:
        what: the work, as the messages begin.
        tell: receives the messages, also from another thread; `Options.progress`, which logs them unless the caller sets it.
        first: seconds before the first message.
        every: seconds between further messages.
    """
    done = threading.Event()
    started = time.monotonic()

    def report() -> None:
        wait = first
        while not done.wait(wait):
            tell(f"{what}: {time.monotonic() - started:.0f} s")
            wait = every

    thread = threading.Thread(target=report, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if (seconds := time.monotonic() - started) >= first:
            tell(f"{what}: ended after {seconds:.0f} s")
