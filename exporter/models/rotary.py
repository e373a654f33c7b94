"""The length of a text above which rotary position embeddings have other frequencies."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["LONG_ROPE", "pretrained_length", "rope_types", "switch_length"]

LONG_ROPE = "longrope"


def rope_types(module: nn.Module) -> dict[str | None, str]:
    """Return layer type -> RoPE type of a rotary embedding, with one for all layers under None; empty for other modules."""
    kinds = getattr(module, "rope_type", None)
    found = kinds if isinstance(kinds, dict) else {None: kinds}
    return {layer: kind for layer, kind in found.items() if isinstance(kind, str)}


def pretrained_length(config: Any, layer_type: str | None) -> int:
    """Return the number of tokens above which longrope has other frequencies, as transformers 5 and 4.57 read it."""
    parameters = getattr(config, "rope_parameters", None)
    if parameters is not None:
        parameters = parameters if layer_type is None else parameters[layer_type]
        return int(parameters["original_max_position_embeddings"])
    return int(getattr(config, "original_max_position_embeddings", config.max_position_embeddings))


def switch_length(model: nn.Module) -> int | None:
    """Return the length, padding included, above which longrope has other frequencies for all tokens; None without longrope."""
    lengths = [
        pretrained_length(module.config, layer)
        for module in model.modules()
        for layer, kind in rope_types(module).items()
        if kind == LONG_ROPE
    ]
    return min(lengths, default=None)
