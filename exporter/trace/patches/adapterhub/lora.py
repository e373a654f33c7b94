"""Patches for LoRA and related methods, most of which fold constants into the form of LoRA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from adapters.methods.lora import (
    IA3,
    LoRA,
    LoRALayer,
    LoRALinear,
    LoRAMergedLinear,
    LoRAState,
    MTLLoRA,
    Vera,
    compute_dora_norm,
)
from torch import nn
from torch.nn.functional import linear

from exporter.models.adapterhub.context import shared_context
from exporter.models.module_surgery import bind, constant, modules_of

__all__ = ["LORA_PATCHES"]


def patch_dora(model: nn.Module) -> None:
    """Fold magnitude / norm of DoRA into a constant vector, `scale`; the library computes the norm in every forward pass.

    This patch runs before `patch_vera`, because DVoRA reads the unpatched weights of VeRA.
    """
    for layer in modules_of(model, LoRALinear):
        for lora in layer.loras.values():
            if lora.use_dora:
                with shared_context(model), torch.no_grad():
                    norm = compute_dora_norm(layer.weight, lora.delta_w)
                    lora.scale = constant(lora.m.weight.view(-1) / norm)
                bind(layer, _dora_forward)


def _dora_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    output = linear(x, layer.weight.t() if layer.fan_in_fan_out else layer.weight, layer.bias)
    setup = None if layer.merged else layer.get_active_setup()
    if setup is None:
        return output
    state = layer.compose(setup, LoRAState(x, None, output, None))
    lora = layer.loras[state.last]
    composed: torch.Tensor = lora.com(state.layer_output, state.hidden_states, scaling=1.0)
    return lora.scale * composed if lora.use_dora else composed


def patch_vera(model: nn.Module) -> None:
    """Fold VeRA into LoRA with the constants (b B) and (d A).

    In every forward pass, the library multiplies the four matrices to one of the size of the layer's weight.
    """
    for layer in modules_of(model, LoRALayer):
        for name, lora in layer.loras.items():
            if isinstance(lora, Vera):
                with shared_context(model) as context, torch.no_grad():
                    shared = context.shared_parameters[name]
                    lora.lora_A = constant(lora.vera_D @ shared["lora_A"])
                    lora.lora_B = constant(lora.vera_B @ shared["lora_B"])
                bind(lora, LoRA.forward)


def patch_mtl_lora(model: nn.Module) -> None:
    """Fold MTL-LoRA into LoRA: its sum of up-projections into B, its task-specific matrix into A.

    In the library, the weights that tasks share have one name; the folded weights are separate for each task.
    """
    for lora in modules_of(model, MTLLoRA):
        if "forward" not in vars(lora):  # otherwise it is folded already
            with torch.no_grad():
                weights = (lora.weights / lora.weights_sharpness).exp()
                lora.lora_A = constant(lora.task_specific().t() @ lora.lora_A)
                lora.lora_B = constant(torch.tensordot(weights / weights.sum(), lora.lora_B, dims=1))
            bind(lora, LoRA.forward)


def patch_ia3(model: nn.Module) -> None:
    """Broadcast the vector of (IA)^3; the library repeats it for every row of a batch."""
    for lora in modules_of(model, IA3):
        bind(lora, _ia3_forward)


def _ia3_forward(
    lora: Any, hidden_states: torch.Tensor | None, layer_input: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    vector = lora.lora_B.view(1, 1, -1)
    scaled = vector if hidden_states is None else hidden_states * vector
    if not lora.use_gating:
        return scaled * lora.scaling, None
    gate = torch.sigmoid(lora.gate(layer_input)).mean(dim=1).unsqueeze(-1)
    return scaled * gate, gate


def patch_lora_scale(model: nn.Module) -> None:
    """Multiply the scale of LoRA into B, so that adapters with different alpha differ in nothing but their weights.

    With a gate, the library does not scale.
    """
    for layer in modules_of(model, LoRALayer):
        for lora in layer.loras.values():
            if type(lora) is LoRA and not lora.use_dora and not lora.use_gating and lora.scaling != 1.0:
                with torch.no_grad():
                    lora.lora_B = constant(lora.lora_B * lora.scaling)
                lora.scaling = 1.0


def patch_merged_lora(model: nn.Module) -> None:
    """Concatenate the results of LoRA on a merged q, k and v projection without a boolean mask (GPT-2, DeBERTa, ModernBERT).

    torch.export cannot determine how many columns the mask selects. The mask consists of three blocks, so that the result is a
    concatenation of blocks in the same order. Each block is two matrix products instead of a grouped convolution; the results
    are equal up to rounding.
    """
    for layer in modules_of(model, LoRAMergedLinear):
        for lora in layer.loras.values():
            if lora.composition_mode == "add" and not hasattr(lora, "blocks"):
                # One weight per block: its rows are the rank, also if further ones are zero.
                lora.blocks = nn.ParameterList(constant(block) for block in lora.lora_A.chunk(sum(lora.enable_lora)))
        bind(layer, _merged_lora_forward)


def _merged_lora_forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    setup = None if layer.merged else layer.get_active_setup()
    if setup is None or len(setup) != 1:
        plain: torch.Tensor = type(layer).forward(layer, x)
        return plain
    lora = layer.loras[setup[0]]
    size = layer.out_features // 3
    result = linear(x, layer.weight.t() if layer.fan_in_fan_out else layer.weight, layer.bias)
    if lora.composition_mode == "scale":
        added = _three_blocks(lora.lora_B.view(1, 1, -1).split(size, -1), lora.enable_lora, 1.0)
    else:
        pairs = zip(lora.blocks, lora.lora_B.split(size), strict=True)
        dropped = lora.lora_dropout(x)
        added = _three_blocks([linear(linear(dropped, a), b) for a, b in pairs], lora.enable_lora, 0.0)
    gate = None
    if lora.use_gating:
        means = torch.sigmoid(lora.gate(x)).mean(dim=1, keepdim=True)
        gate = _three_blocks([one.expand(-1, -1, size) for one in means.split(1, -1)], lora.enable_lora, 1.0)
    composed: torch.Tensor = lora.com(result, added, scaling=gate)
    return composed


def _three_blocks(blocks: Any, enabled: list[bool], fill: float) -> torch.Tensor:
    """Concatenate the blocks for q, k and v, with `fill` for those that are not enabled."""
    given = iter(blocks)
    empty = torch.full_like(blocks[0], fill)
    return torch.cat([next(given) if wanted else empty for wanted in enabled], -1)


# patch_dora reads the weights of VeRA before patch_vera replaces them.
LORA_PATCHES: tuple[Callable[[nn.Module], None], ...] = (
    patch_dora,
    patch_vera,
    patch_mtl_lora,
    patch_ia3,
    patch_lora_scale,
    patch_merged_lora,
)
