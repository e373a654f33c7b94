"""A context in which transformers, adapters and torch log only errors."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

_LOGGERS = ("adapters", "onnxscript", "torch", "torch.export", "torch.onnx", "transformers")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let the libraries log only errors, and ignore warnings; the exporter checks what they warn of."""
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
