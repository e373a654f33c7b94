"""Helpers to find, create and replace modules of a model copy."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

__all__ = ["bind", "constant", "linear", "modules_of", "replace_module"]


def modules_of(model: nn.Module, kind: type) -> list[Any]:
    """Return a list of the modules of type `kind`; the caller may change the model while iterating."""
    return [module for module in model.modules() if isinstance(module, kind)]


def replace_module(model: nn.Module, path: str, new: nn.Module) -> None:
    """Replace the module of that name in a model, in place, under all of its names: T5 has two for its embeddings."""
    old = model.get_submodule(path)
    for each in [name for name, module in model.named_modules(remove_duplicate=False) if module is old]:
        model.set_submodule(each, new)


def constant(tensor: torch.Tensor) -> nn.Parameter:
    """Return a parameter with a copy of `tensor`; it is exported by name like any weight."""
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)


def linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """Return a linear layer with the given parameters, without copying them."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer.eval()


def bind(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Replace the forward method of `module`; deepcopy and hooks still work."""
    module.forward = MethodType(forward, module)
