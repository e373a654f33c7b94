"""Patch for PEFT's tuners: plain layers with constant weights in place of tuner layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from exporter.models.peft_folded import (
    Folded,
    FoldedAttention,
    FoldedConv,
    FoldedEmbedding,
    FoldedLinear,
    FoldedLora,
    FoldedTokens,
)
from exporter.models.peft_modules import adapted, is_peft, is_plain_lora, keeps_form
from exporter.models.peft_weights import effective_weights, factorize, is_conv, is_linear, merged_attention

__all__ = ["PEFT_PATCHES"]

_Matrices = dict[str, torch.Tensor]


def patch_tuner_layers(model: nn.Module) -> None:
    """Replace PEFT's tuner layers with plain layers whose weights are constants, in the cheapest exact form.

    All adapters of a layer get one form: the layer's own weight with two factors where every change of the weight has a low
    rank, else a weight per adapter. Biases are per adapter where they differ from the layer's.
    """
    if not is_peft(model):
        return
    done: dict[int, Folded | None] = {}
    folded: list[str] = []
    for path, layer in list(adapted(model)):
        if any(path.startswith(f"{outer}.") for outer in folded):
            continue
        if id(layer) not in done:  # a module that is registered twice stays one
            done[id(layer)] = _folded(layer)
        plain = done[id(layer)]
        if plain is not None:
            model.set_submodule(path, plain)
            folded.append(path)


def _folded(layer: Any) -> Folded | None:
    """Return the plain layer; None for a layer that is traced as it is."""
    # A layer around another tuner layer has the adapters of both.
    adapters = (part._get_available_adapters() for part in layer.modules() if hasattr(part, "_get_available_adapters"))
    names = sorted(set().union(*adapters))
    if is_plain_lora(layer, *names):
        return _lora(layer, names)
    if keeps_form(layer, *names):
        return None
    if isinstance(layer.get_base_layer() if hasattr(layer, "base_layer") else None, nn.MultiheadAttention):
        return FoldedAttention(layer.base_layer, {name: merged_attention(layer, name) for name in names})
    layer = getattr(layer, "token_adapter", layer)
    base = layer.get_base_layer()
    if not (is_linear(base) or is_conv(base) or isinstance(base, nn.Embedding)):
        return None
    found = effective_weights(layer, names)
    if found is None:
        return None
    weights = {name: weight for name, (weight, _) in found.items()}
    own = base.weight.detach().double()
    deltas = {name: weight - (own.t() if type(base).__name__ == "Conv1D" else own) for name, weight in weights.items()}
    if isinstance(base, nn.Embedding):
        return _embedding(base, weights, deltas)
    biases = _biases({name: bias for name, (_, bias) in found.items()}, base.bias)
    if is_conv(base):
        return FoldedConv(base, dense=_single(weights), biases=_single(biases))
    if factors := _low_rank(deltas):
        change = {name: bias - (0 if base.bias is None else base.bias.detach().double()) for name, bias in biases.items()}
        return FoldedLinear(base, biases=_single(change), **factors)
    return FoldedLinear(base, dense=_single(weights), biases=_single(biases))


def _lora(layer: Any, names: Sequence[str]) -> Folded:
    """LoRA with its scale in the second matrix: adapters then differ in nothing but their weights and ranks."""
    ups = {name: layer.lora_B[name] for name in names}
    return FoldedLora(
        layer.base_layer,
        down={name: layer.lora_A[name].weight.detach() for name in names},
        up={name: up.weight.detach() * layer.scaling[name] for name, up in ups.items()},
        biases={name: up.bias.detach() * layer.scaling[name] for name, up in ups.items() if up.bias is not None},
    )


def _biases(biases: dict[str, torch.Tensor | None], own: torch.Tensor | None) -> _Matrices:
    """The biases of all adapters; none where they are those of the layer."""
    if all(bias is None for bias in biases.values()):
        return {}
    size = next(bias for bias in biases.values() if bias is not None)
    whole = {name: torch.zeros_like(size) if bias is None else bias for name, bias in biases.items()}
    plain = torch.zeros_like(size) if own is None else own.detach().double()
    return whole if any(not torch.allclose(bias, plain, rtol=1e-7, atol=1e-9) for bias in whole.values()) else {}


def _low_rank(deltas: _Matrices) -> dict[str, _Matrices] | None:
    """Return the factors of all changes of a weight, if they are smaller than half of the weight; None otherwise.

    The factors of changes that are all zero are left out.
    """
    high, wide = next(iter(deltas.values())).shape
    factors = factorize(list(deltas.values()), high * wide // (2 * (high + wide)))
    if factors is None:
        return None
    if not len(factors[0][0]):
        return {"down": {}}
    downs, ups = zip(*factors, strict=True)
    return {"down": _single(dict(zip(deltas, downs, strict=True))), "up": _single(dict(zip(deltas, ups, strict=True)))}


def _embedding(base: nn.Module, weights: _Matrices, deltas: _Matrices) -> Folded:
    changed = {name: delta.abs().amax(1).nonzero().flatten() for name, delta in deltas.items()}
    most = max(map(len, changed.values()))
    if not most:
        return FoldedEmbedding(base)
    if most <= next(iter(weights.values())).shape[0] // 8:
        tokens = {name: _padded(rows, most, -1) for name, rows in changed.items()}
        rows = {name: _padded(deltas[name][rows], most, 0) for name, rows in changed.items()}
        return FoldedTokens(base, tokens=tokens, rows=_single(rows))
    if factors := _low_rank({name: delta.t() for name, delta in deltas.items()}):
        return FoldedEmbedding(base, down=_turned(factors["up"]), up=_turned(factors["down"]))
    return FoldedEmbedding(base, dense=_single(weights))


def _padded(rows: torch.Tensor, count: int, value: int) -> torch.Tensor:
    return torch.cat([rows, rows.new_full((count - len(rows), *rows.shape[1:]), value)])


def _turned(tensors: _Matrices) -> _Matrices:
    return {name: tensor.t() for name, tensor in tensors.items()}


def _single(tensors: _Matrices) -> _Matrices:
    return {name: tensor.float() for name, tensor in tensors.items()}


PEFT_PATCHES: Sequence[Callable[[nn.Module], None]] = (patch_tuner_layers,)
