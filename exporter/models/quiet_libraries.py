"""A context in which transformers, adapters, PEFT and torch log only errors and show no progress."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers.utils import logging as transformers_logging

_LOGGERS = ("adapters", "onnxscript", "peft", "torch", "torch.export", "torch.onnx", "transformers")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let the libraries log only errors, and ignore warnings; the exporter checks what they warn of."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    # transformers 5 shows a bar while it loads a model; it has one switch for itself and the hub.
    bars, without_hub = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    _set_levels(loggers, [logging.ERROR] * len(loggers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if bars:
            transformers_logging.disable_progress_bar()
        try:
            yield
        finally:
            _set_levels(loggers, levels)
            if bars:
                transformers_logging.enable_progress_bar()
            if bars and without_hub:
                disable_progress_bars()


def _set_levels(loggers: Sequence[logging.Logger], levels: Sequence[int]) -> None:
    for logger, level in zip(loggers, levels, strict=True):
        if logger.level != level:  # a change clears the caches of all loggers of the process
            logger.setLevel(level)
