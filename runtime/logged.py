"""Display of what a package logs, for the time of a command."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def shown(package: str, handler: logging.Handler) -> Iterator[None]:
    """Show what a package logs from the level INFO on.

    Args:
        package: the name of its logger.
        handler: shows the records; closed at the end.
    """
    logger = logging.getLogger(package)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()
