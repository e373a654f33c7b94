"""Patch for rotary position embeddings whose frequencies depend on the length of the text.

The library decides by the value of a tensor and stores the frequencies in the module, neither of which a graph can do.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from exporter.models.module_surgery import bind
from exporter.models.rotary import LONG_ROPE, pretrained_length, rope_types

__all__ = ["patch_rotary"]


def patch_rotary(model: nn.Module) -> None:
    """Compute the frequencies of the RoPE types "dynamic" and "longrope" without branches and without state.

    "longrope" has two sets of frequencies, for batches up to the length of pretraining and for longer ones. "dynamic" changes
    them beyond `max_position_embeddings`, the limit of the graph, so that they are constants.
    """
    for module in model.modules():
        if any(map(_varies, rope_types(module).values())):
            bind(module, _rotary_forward)


def _varies(kind: str) -> bool:
    return "dynamic" in kind or kind == LONG_ROPE


class _WithFrequencies:
    """A rotary embedding with other frequencies; all other attributes are those of the module."""

    def __init__(self, module: nn.Module, name: str, frequencies: torch.Tensor) -> None:
        self._module = module
        setattr(self, name, frequencies)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _rotary_forward(module: Any, x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Any:
    # Without the decorator of transformers that updates the frequencies.
    forward = inspect.unwrap(type(module).forward)
    options = {} if layer_type is None else {"layer_type": layer_type}
    kind = module.rope_type if layer_type is None else module.rope_type[layer_type]
    if not _varies(kind):
        return forward(module, x, position_ids, **options)
    prefix = "" if layer_type is None else f"{layer_type}_"
    frequencies = getattr(module, f"{prefix}original_inv_freq")
    if kind == LONG_ROPE:
        limit = pretrained_length(module.config, layer_type)
        long, _ = ROPE_INIT_FUNCTIONS[kind](module.config, x.device, seq_len=limit + 1, **options)
        frequencies = torch.where(position_ids.ge(limit).any(), long, frequencies)
    return forward(_WithFrequencies(module, f"{prefix}inv_freq", frequencies), x, position_ids, **options)
