"""Removal of LoRA adapters that are merged into the trunk's weights."""

from __future__ import annotations

from typing import Any

import torch
from adapters.methods.lora import IA3, LoRALayer, MTLLoRA
from torch import nn

from exporter.errors import ExportError
from exporter.models.adapterhub.context import shared_context
from exporter.models.module_surgery import constant, modules_of

__all__ = ["unmerge"]


def unmerge(model: nn.Module) -> None:
    """Undo `merge_adapter` for LoRA and VeRA in a copy of the user's model, in place.

    Call this before activating adapters: activation also unmerges, but it writes to the weights, which the copy shares with the
    user's model. The results equal those of the unmerged adapter up to rounding.

    Raises:
        ExportError: the predictions of the merged adapter differ from those of the unmerged one, so that there is no single
            reference.
    """
    for layer in modules_of(model, LoRALayer):
        # A merged adapter that was deleted is part of the trunk.
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
        raise ExportError(f"{name}, for which the library uses a wrong formula: load the model again without merging")
    if lora.use_dora:
        # The library's reset_adapter leaves the weights merged.
        raise ExportError(
            f"{name} with a formula that differs from DoRA's and cannot be undone: load the model again without merging"
        )
    if isinstance(lora, IA3) and layer.bias is not None:
        raise ExportError(f"{name} but not into the biases, so that its predictions differ: call model.reset_adapter() first")
