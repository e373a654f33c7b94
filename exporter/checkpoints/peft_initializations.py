"""Adapters of LoRA that were trained on changed base weights: PiSSA and OLoRA, saved without conversion.

These initializations subtract the product of the first factors from the weight of the base model, which all tasks of a graph
share. As PEFT's conversion does, the first factors are therefore subtracted from the trained ones, which doubles the rank.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from exporter.models.peft_modules import adapted
from exporter.models.quiet_libraries import quiet
from exporter.models.shared_copy import shared_copy

__all__ = ["REPEATABLE", "over_plain_weights"]

# Values of init_lora_weights whose first factors are the same whenever PEFT computes them from the base model's weights.
REPEATABLE = ("pissa", "olora")
# Dictionary of factors, sign, axis of the rank.
_FACTORS = (("lora_A", 1, 0), ("lora_B", -1, 1), ("lora_embedding_A", 1, 0), ("lora_embedding_B", -1, 1))


def over_plain_weights(
    config: Any, weights: dict[str, torch.Tensor], base: Any, initialization: str
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return an adapter's configuration and weights over the base model's own weights.

    Args:
        config: the `peft.LoraConfig`, without the initialization.
        weights: the weights in the adapter's file.
        base: the base model, which is not changed.
        initialization: one of `REPEATABLE`.
    """
    from peft import PeftModel

    initialized = copy.deepcopy(config)
    initialized.init_lora_weights, initialized.inference_mode = initialization, False
    probe = shared_copy(base)
    _own_parameters(probe)
    with quiet():
        first = PeftModel(probe, initialized, "first")
    found = dict(weights)
    for path, layer in adapted(first, "first"):
        for key, sign, axis in _FACTORS:
            # Those of embeddings, whose product is zero at the start, are parameters and not layers.
            name = f"{path}.{key}" if "embedding" in key else f"{path}.{key}.weight"
            if name in found:
                factor = getattr(layer, key)["first"]
                factor = getattr(factor, "weight", factor).detach()
                found[name] = torch.cat([found[name].to(factor.dtype), sign * factor], axis)
    return _doubled(config), found


def _own_parameters(model: nn.Module) -> None:
    """Replace the parameters of a copy, whose data the initialization changes."""
    for module in model.modules():
        for key, tensor in list(module.named_parameters(recurse=False)):
            module.register_parameter(key, nn.Parameter(tensor.detach().clone(), requires_grad=False))


def _doubled(config: Any) -> Any:
    """The configuration with twice the rank and the same scales."""
    found = copy.deepcopy(config)
    scale = math.sqrt(2) if config.use_rslora else 2
    found.r *= 2
    found.lora_alpha *= scale
    found.rank_pattern = {key: 2 * rank for key, rank in (config.rank_pattern or {}).items()}
    found.alpha_pattern = {key: scale * alpha for key, alpha in (config.alpha_pattern or {}).items()}
    return found
