"""Biases of the base model that PEFT adapters change: `bias="all"` and the like.

PEFT trains the base model's own biases, and loads them into the base model. Here each adapter has its own: a layer with changed
biases is put into a `Folded` layer, which has them by adapter, as it has those of other changes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from exporter.errors import ExportError
from exporter.models.peft_folded import Folded, FoldedConv, FoldedLinear, FoldedModule
from exporter.models.peft_modules import outside_of_adapters
from exporter.models.peft_weights import is_conv, is_linear

__all__ = ["add_biases", "biased", "remove_biases"]

_Biases = Mapping[str, torch.Tensor]


def add_biases(model: nn.Module, biases: Mapping[str, _Biases]) -> None:
    """Give the adapters of a model their own biases, in place.

    Args:
        model: a PEFT model with all its adapters.
        biases: adapter -> name of a parameter of the base model in `model`, as if no adapter changed its layer -> its value for
            that adapter.

    Raises:
        ExportError: the bias of an adapted convolution is changed.
    """
    owners: dict[str, dict[str, _Biases]] = {}
    for adapter, own in biases.items():
        for owner, tensors in _by_owner(model, own).items() if own else ():
            owners.setdefault(owner, {})[adapter] = tensors
    # The innermost first: a module and one of its parts can both have biases.
    for path in sorted(owners, key=lambda path: -path.count(".")):
        layer = _folded(path, model.get_submodule(path), owners[path])
        layer.is_read = True  # the biases are those of the base model itself
        model.set_submodule(path, layer)


def biased(model: nn.Module, name: str) -> Iterator[tuple[str, Folded]]:
    """Yield the layers with biases of an adapter, with their dotted names."""
    for path, module in outside_of_adapters(model):
        if isinstance(module, Folded) and module.has(name):
            yield path, module


def remove_biases(model: nn.Module, kept: Mapping[str, Folded], names: list[str]) -> None:
    """Remove the biases of all other adapters than `names`, and the layers that are not `kept`, in place."""
    for path, module in [(path, each) for path, each in model.named_modules() if isinstance(each, Folded)]:
        if path in kept:
            module.keep(names)
        else:
            model.set_submodule(path, module.base_layer)


def _by_owner(model: nn.Module, biases: _Biases) -> dict[str, dict[str, torch.Tensor]]:
    """The biases by the module to replace; of a parameter with two names, the one in a layer without parts."""
    own = {name.replace(".base_layer.", "."): name for name, _ in model.named_parameters(remove_duplicate=False)}
    chosen: dict[int, tuple[int, str, str]] = {}
    for key in biases:
        path, _, name = own[key].rpartition(".")
        parts, tensor = sum(1 for _ in model.get_submodule(path).children()), model.get_parameter(own[key])
        entry = (parts, path, name)
        chosen[id(tensor)] = min(entry, chosen.get(id(tensor), entry))
    found: dict[str, dict[str, torch.Tensor]] = {}
    for _, path, name in chosen.values():
        plain = path.removesuffix(".base_layer")
        found.setdefault(plain, {})[name] = biases[f"{plain}.{name}".replace(".base_layer.", ".")]
    return found


def _folded(path: str, layer: Any, biases: Mapping[str, _Biases]) -> Folded:
    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    # The norms of SqueezeBERT have a separate class, and their features on another axis.
    if type(base) is nn.LayerNorm or is_linear(base):
        own = base.bias.detach().double()
        change = {name: (tensors["bias"].double() - own).float() for name, tensors in biases.items()}
        return FoldedLinear(layer, biases=change)
    if layer is not base:
        raise ExportError(
            f"the adapters {', '.join(map(repr, biases))} change the bias of {path}, a {type(base).__name__} that they adapt, "
            "which is not supported: train them with bias='none'"
        )
    if is_conv(base):
        return FoldedConv(base, biases={name: tensors["bias"].float() for name, tensors in biases.items()})
    return FoldedModule(base, {name: _with(base, tensors) for name, tensors in biases.items()})


def _with(module: nn.Module, tensors: _Biases) -> nn.Module:
    """A copy of a module with other parameters, which shares all others."""
    shared = [*module.parameters(), *module.buffers()]
    found = copy.deepcopy(module, {id(tensor): tensor for tensor in shared})
    for name, tensor in tensors.items():
        found.register_parameter(name, nn.Parameter(tensor.float(), requires_grad=False))
    return found
