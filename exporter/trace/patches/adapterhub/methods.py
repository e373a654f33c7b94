"""Patches for adapter methods that torch.export cannot trace, or that compute constants in every forward pass.

Each patch changes a copy of the user's model in place and has no effect without a matching module. Patched modules compute the
same results up to rounding. Parameters are read, never written: a folded weight is a new parameter in the module of the same
adapter, so that it is bound to its task by name like any other weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from adapters.context import ForwardContext
from adapters.methods.modeling import GLOWCouplingBlock, PHMLayer
from adapters.methods.prefix_tuning import FlatPrefixTuning, PrefixTuning, PrefixTuningGroup
from adapters.methods.prompt_tuning import PromptTuning
from adapters.methods.reft import ReftModule, ReftUnit
from torch import nn
from torch.nn.utils import parametrize

from exporter.errors import ExportError
from exporter.models.adapterhub.context import shared_context
from exporter.models.module_surgery import bind, constant, linear, modules_of
from exporter.trace.patches.adapterhub.lora import LORA_PATCHES

__all__ = ["METHOD_PATCHES"]


def patch_compacter(model: nn.Module) -> None:
    """Replace PHM layers with linear layers.

    A PHM layer multiplies with a sum of Kronecker products, whose size torch.export cannot follow through `torch.Size`. The sum
    is a constant matrix; applying the layer to the identity gives that matrix.
    """
    common: dict[tuple[str, str], nn.Parameter] = {}
    for parent in modules_of(model, nn.Module):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, PHMLayer):
                setattr(parent, name, _dense(model, layer, common))


def _dense(model: nn.Module, layer: Any, common: dict[tuple[str, str], nn.Parameter]) -> nn.Linear:
    bias, layer.b = layer.b, None
    with shared_context(model), torch.no_grad():
        weight = constant(layer(torch.eye(layer.in_features)).t())
    if layer.shared_W_phm and layer.shared_phm_rule:  # one matrix for all layers stays one
        weight = common.setdefault((layer.name, layer.position), weight)
    return linear(weight, bias)


def patch_reft_rotations(model: nn.Module) -> None:
    """Replace the orthogonal parametrization of LoReFT, for which ONNX has no operators, with its result."""
    for unit in modules_of(model, ReftUnit):
        if parametrize.is_parametrized(unit.projection, "weight"):
            unit.projection = linear(constant(unit.projection.weight), None)
            unit.orthogonal = False


def patch_reft_positions(model: nn.Module) -> None:
    """Select the positions of ReFT by comparison with each token's position.

    The library caches positions between layers and checks whether they fit, which is a data-dependent guard with suffix
    positions. Tokens are adapted independently of each other, so that the patch adapts all tokens and selects the results.
    """
    for module in modules_of(model, ReftModule):
        bind(module, _reft_forward)


def _reft_forward(reft: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    position = torch.arange(hidden_states.shape[1], device=hidden_states.device)
    first, last = _text(hidden_states)
    in_prefix = (position >= first) & (position < first + reft.prefix_positions)
    in_suffix = (position >= last - reft.suffix_positions) & (position < last)
    front = reft.units[0](hidden_states)
    back = front if reft.tied_weights else reft.units[1](hidden_states)
    if reft.prefix_positions > 0 and reft.suffix_positions > 0:
        back = _as_cut(reft, position, front, back)
    adapted = hidden_states
    if reft.prefix_positions > 0:
        adapted = torch.where(in_prefix.unsqueeze(-1), front.to(adapted.dtype), adapted)
    if reft.suffix_positions > 0:
        adapted = torch.where(in_suffix.unsqueeze(-1), back.to(adapted.dtype), adapted)
    return adapted


def _text(hidden_states: torch.Tensor) -> tuple[Any, Any]:
    """The start and end of each row's text, as [batch, 1]; without a mask, of all rows."""
    context = ForwardContext.get_context()
    if not hasattr(context, "seqlens"):
        return 0, hidden_states.shape[1]
    first = context.offsets.view(-1, 1)
    return first, first + context.seqlens.view(-1, 1)


def _as_cut(reft: Any, position: torch.Tensor, front: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """Reproduce the adapted suffix of the library for texts that are shorter than the suffix.

    For these texts the library takes the last `suffix_positions` rows of prefix and suffix together, some of them from the
    prefix.
    """
    length = position[-1] + 1
    short = length < reft.suffix_positions
    rows = length.clamp(max=reft.prefix_positions)
    row = (rows + length - reft.suffix_positions).clamp(min=0) + position
    source = torch.where(short, torch.where(row < rows, row, row - rows), position)
    from_prefix = (short & (row < rows)).unsqueeze(-1)
    return torch.where(from_prefix, front.index_select(1, source), back.index_select(1, source))


def patch_prefix_tuning(model: nn.Module) -> None:
    """Replace the computation of prefixes with constants for each layer.

    The library computes keys and values for every row of a batch and for all layers together. They are constants, computed here
    by the library's code with a batch of one.
    """
    for group in modules_of(model, PrefixTuningGroup):
        for name, prefix in list(group.items()):
            if isinstance(prefix, PrefixTuning | FlatPrefixTuning):
                with torch.no_grad():
                    group[name] = _ConstantPrefix(prefix.eval()(1))


class _ConstantPrefix(nn.Module):
    def __init__(self, states: Sequence[torch.Tensor]) -> None:
        """Store the constants.

        Args:
            states: one per layer, keys and values as [2, 1, heads, prefix length, features].
        """
        super().__init__()
        self.keys = nn.ParameterList(constant(state[0]) for state in states)
        self.values = nn.ParameterList(constant(state[1]) for state in states)

    def forward(self, batch_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        shape = (batch_size, -1, -1, -1)
        return [(key.expand(shape), value.expand(shape)) for key, value in zip(self.keys, self.values, strict=True)]


def patch_prompt_tuning(model: nn.Module) -> None:
    """Use the prompt embedding directly; the library looks it up with constant token ids."""
    for prompt in modules_of(model, PromptTuning):
        bind(prompt, _prompt_forward)


def _prompt_forward(prompt: Any, embedded: torch.Tensor) -> tuple[torch.Tensor, int]:
    tokens = prompt.prompt_embedding.weight.unsqueeze(0).expand(embedded.shape[0], -1, -1)
    return prompt.combination_fn(tokens, embedded), prompt.prompt_tuning_config.prompt_length


def patch_glow(model: nn.Module) -> None:
    """Refuse GLOW blocks: the library splits the sequence axis in place of the features and fails in PyTorch."""
    for path, block in model.named_modules():
        if isinstance(block, GLOWCouplingBlock):
            bind(block, partial(_glow_forward, name=path.rpartition(".")[2]))


def _glow_forward(block: Any, *_: Any, name: str, **__: Any) -> Any:
    raise ExportError(
        f"the adapters library cannot run the {type(block).__name__} of the adapter {name!r}: expected an invertible adapter "
        "of type nice"
    )


METHOD_PATCHES: tuple[Callable[[nn.Module], None], ...] = (
    patch_compacter,
    patch_reft_rotations,
    patch_reft_positions,
    patch_prefix_tuning,
    patch_prompt_tuning,
    patch_glow,
    *LORA_PATCHES,
)
