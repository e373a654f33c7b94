"""Adapters merged into the trunk's weights."""

from __future__ import annotations

from typing import Any

import torch
from adapters.methods.lora import IA3, LoRALayer, MTLLoRA
from torch import nn

from exporter.errors import ExportError
from exporter.models.module_surgery import constant, modules_of, shared_context

__all__ = ["unmerge"]


def unmerge(model: nn.Module) -> None:
    """Takes a LoRA or VeRA that `merge_adapter` put into the trunk out again; the first thing to do with a copy.

    Activating adapters would do so too, but by writing into the weights, which the copy shares with the user's model. The
    numbers are those of the adapter by itself, to rounding.

    Raises:
        ExportError: an adapter is merged that answers otherwise when it is merged, so that there are two truths.
    """
    for layer in modules_of(model, LoRALayer):
        # A merged adapter that was deleted has become the trunk's.
        lora = dict(layer.loras).get(layer.merged)
        if lora is not None:
            _check_merged(layer, lora)
            layer.weight = constant(layer.weight)
            with shared_context(model), torch.no_grad():
                layer.reset_adapter()
        layer.merged = False


def _check_merged(layer: Any, lora: Any) -> None:
    name = f"the {type(lora).__name__} adapter {layer.merged!r} is merged into the model's weights"
    if isinstance(lora, MTLLoRA):
        raise ExportError(f"{name}, which the library does by a wrong formula: load the model again and do not merge it")
    if lora.use_dora:
        # The library's reset leaves the weights merged.
        raise ExportError(f"{name} by another formula than DoRA's own, for good: load the model again and do not merge it")
    if isinstance(lora, IA3) and layer.bias is not None:
        raise ExportError(f"{name} but not into the biases, so that it answers otherwise: call model.reset_adapter() first")
