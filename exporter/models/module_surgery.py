"""What the cures have in common."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from adapters.context import ForwardContext
from torch import nn

__all__ = ["bind", "constant", "linear", "modules_of", "shared_context"]


def modules_of(model: nn.Module, kind: type) -> list[Any]:
    """The modules of a kind, as they are before the caller changes any."""
    return [module for module in model.modules() if isinstance(module, kind)]


def shared_context(model: Any) -> Any:
    """A forward context with what an adapter's layers share, as the library makes for a run."""
    context = ForwardContext(None)
    context.shared_parameters = model.base_model.shared_parameters
    return context


def constant(tensor: torch.Tensor) -> nn.Parameter:
    """A new parameter with storage of its own, which is exported by name like any weight."""
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)


def linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    """A layer of the given parameters themselves."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer.eval()


def bind(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Makes `forward` the module's own, by which deepcopy and hooks still work."""
    module.forward = MethodType(forward, module)
