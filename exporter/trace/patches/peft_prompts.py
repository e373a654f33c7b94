"""Patch for PEFT's prompts: constants in place of the modules that compute them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import nn

from exporter.models.module_surgery import constant
from exporter.models.peft_modules import is_peft

__all__ = ["PROMPT_PATCHES"]


def patch_prompts(model: Any) -> None:
    """Replace the encoders of PEFT's prompts with constants, computed by the library for a batch of one.

    The library runs a network on constant numbers in every forward pass (P-tuning, prefix tuning with a projection).
    """
    encoders = getattr(model, "prompt_encoder", None)
    if encoders is None or not is_peft(model):
        return
    active = model.active_adapter
    for name in list(encoders):
        model.active_adapter = name
        with torch.no_grad():
            encoders[name] = _Constant(model.get_prompt(batch_size=1))
    model.active_adapter = active
    model.get_prompt = MethodType(_get_prompt, model)


def _get_prompt(model: Any, batch_size: int, **_: Any) -> Any:
    return model.prompt_encoder[model.active_adapter](batch_size)


class _Constant(nn.Module):
    def __init__(self, prompt: Any) -> None:
        """Store a prompt [1, tokens, features], or a cache with keys and values per layer, [1, heads, tokens, features]."""
        super().__init__()
        self.kind = None if isinstance(prompt, torch.Tensor) else type(prompt)
        if self.kind is None:
            self.prompt = constant(prompt)
        else:
            self.keys = nn.ParameterList(constant(layer.keys) for layer in prompt.layers)
            self.values = nn.ParameterList(constant(layer.values) for layer in prompt.layers)

    def forward(self, batch_size: int) -> Any:
        if self.kind is None:
            return self.prompt.expand(batch_size, -1, -1)
        shape = (batch_size, -1, -1, -1)
        return self.kind([(key.expand(shape), value.expand(shape)) for key, value in zip(self.keys, self.values, strict=True)])


PROMPT_PATCHES: Sequence[Callable[[nn.Module], None]] = (patch_prompts,)
