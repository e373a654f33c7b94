"""Patch for the biases by which Falcon weighs distances (ALiBi)."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import nn

from exporter.models.module_surgery import bind

__all__ = ["patch_alibi"]

_BIASES = "build_alibi_tensor"


def patch_alibi(model: nn.Module) -> None:
    """Compute the biases of Falcon in fp32, and round them to bf16 as the library does.

    The library multiplies them in bf16, for which ONNX Runtime has no product on the CPU.
    """
    module: Any
    for module in model.modules():
        # By name, because importing a transformers class imports its whole architecture.
        if type(module).__name__ == "FalconModel" and getattr(module, "use_alibi", False):
            bind(module, _with_rounded(type(module).forward, module.config.num_attention_heads))


def _with_rounded(forward: Any, heads: int) -> Callable[..., Any]:
    """Return the function with other biases: they are no attribute of the model, but a function of its file."""
    # Biases at the position 1 are the slopes.
    slopes: torch.Tensor = forward.__globals__[_BIASES](torch.ones(1, 2, dtype=torch.int64), heads, torch.float32)[:, :, 1]

    def biases(mask: torch.Tensor, num_heads: int, dtype: torch.dtype) -> torch.Tensor:
        positions = ((mask.cumsum(dim=-1) - 1) * mask)[:, None, :]
        products = slopes * positions.to(torch.bfloat16).to(torch.float32)
        return products.to(torch.bfloat16).to(dtype).reshape(mask.shape[0] * num_heads, 1, mask.shape[1])

    scope = {**forward.__globals__, _BIASES: biases}
    patched = FunctionType(forward.__code__, scope, forward.__name__, forward.__defaults__, forward.__closure__)
    patched.__kwdefaults__ = forward.__kwdefaults__
    return patched
