"""The stages of an export: measured, and logged as they begin and end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

_LOGGER = logging.getLogger(__name__)


class Stages:
    """Measures stages and logs them at level INFO: `with stages("trace", "2 structures"): …`.

    Each record has the attribute `running`: the stage's text when it begins, empty when it has ended.

    Attributes:
        seconds: total time per stage, in the order in which they first began.
    """

    def __init__(self) -> None:
        """Start with no stage."""
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str, detail: str = "") -> Iterator[None]:
        """Measure one stage; a stage that occurs several times, once per variant, adds up.

        Args:
            name: key in `seconds`.
            detail: what the stage works on, for the log.
        """
        text = f"{name} {detail}".rstrip()
        _LOGGER.info("%s …", text, extra={"running": text})
        start = time.perf_counter()
        yield
        elapsed = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed
        _LOGGER.info("%s: %.1f s", text, elapsed, extra={"running": ""})
