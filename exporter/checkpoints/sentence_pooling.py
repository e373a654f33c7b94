"""Poolings: by the configuration of sentence-transformers, and by the option of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporter.checkpoints.files import read_json
from exporter.errors import ExportError
from exporter.models.embeddings import POOLINGS

__all__ = ["parse_pooling", "pooling_modes"]

# The key of a version before 5.4 -> the mode, in the order of the concatenation.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ALIASES = {"mean_sqrt_len": "mean_sqrt_len_tokens"}


def parse_pooling(name: str, text: Any) -> tuple[str, ...]:
    """Return the modes of "mean" or "cls+mean".

    Args:
        name: the adapter, for the message.
        text: one mode, or several with a plus sign between them.

    Raises:
        ExportError: a mode is unknown or given twice.
    """
    modes = [_ALIASES.get(mode.strip(), mode.strip()) for mode in text.split("+")] if isinstance(text, str) else []
    if not modes or not set(modes) <= set(POOLINGS) or len(set(modes)) < len(modes):
        raise ExportError(
            f"the pooling of {name!r} must be one of {', '.join(POOLINGS)}, or several of them such as cls+mean, found {text!r}"
        )
    return tuple(modes)


def pooling_modes(path: Path, hidden_size: int, has_prompts: bool) -> tuple[str, ...]:
    """Return the modes of a Pooling module, in the order of the concatenation.

    Args:
        path: its configuration file.
        hidden_size: the features of the encoder's hidden states.
        has_prompts: whether the folder has a prompt that is not empty.

    Raises:
        ExportError: a mode is unknown, the size is another one, or the pooling leaves out prompts.
    """
    config = read_json(path)
    size = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if size != hidden_size:
        raise ExportError(
            f"{str(path)!r} pools vectors of {size!r} numbers, but the base model has {hidden_size}: choose the base model "
            "that it was saved with"
        )
    if has_prompts and config.get("include_prompt") is False:
        raise ExportError(
            f"{str(path)!r} sets include_prompt to False, which is not supported: a graph does not know the prompt; remove the "
            "prompts from config_sentence_transformers.json if texts have none"
        )
    given = config.get("pooling_mode")
    if given is None:
        unknown = [key for key in config if key.startswith("pooling_mode_") and config[key] and key not in _FLAGS]
        if unknown:
            raise ExportError(f"{str(path)!r} sets {unknown[0]}, which is not supported: expected {', '.join(_FLAGS)}")
        return tuple(mode for key, mode in _FLAGS.items() if config.get(key)) or ("mean",)
    modes = [given] if isinstance(given, str) else given
    if not isinstance(modes, list) or not modes or not all(isinstance(mode, str) and mode in POOLINGS for mode in modes):
        raise ExportError(f"{str(path)!r} has the pooling_mode {given!r}: expected {', '.join(POOLINGS)}, or a list of them")
    return tuple(modes)
