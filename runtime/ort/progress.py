"""Says that work goes on, for work that may take minutes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def announced(what: str, tell: Callable[[str], None], first: float = 3.0, every: float = 10.0) -> Iterator[None]:
    """Tells `what` and the seconds so far after `first` seconds, then after every `every` seconds, and when it is done; nothing
    where the work takes less than `first`. `tell` is called from another thread."""
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
