"""Silences what libraries say about their own insides."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

_LOGGERS = ("adapters", "onnxscript", "torch", "torch.export", "torch.onnx", "transformers")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block, the libraries log errors alone. What matters of their warnings is checked and raised by us."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
