"""Switching between the adapters of a PEFT model, in time that does not grow with their number.

PEFT's own `set_adapter` and `enable_adapter_layers` visit every weight of every adapter, because they also say which weights
are trained. In a model of 64 adapters that takes longer than a forward pass. Here only the layers that compute are switched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from exporter.models.peft_modules import adapted
from exporter.models.quiet_libraries import quiet

__all__ = ["same_flags", "switch_to"]


@contextmanager
def same_flags(module: nn.Module) -> Iterator[None]:
    """Restore requires_grad: PEFT sets it when it activates or deletes an adapter, also on the user's parameters."""
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def switch_to(model: Any, name: str, is_prompt: bool) -> None:
    """Compute one adapter of a model, without changing weights or requires_grad.

    Args:
        model: a PEFT model, or an `InjectedModel`.
        name: the adapter.
        is_prompt: whether it is a prompt or a prefix, which a PEFT model has outside of the layers.
    """
    if not isinstance(
        getattr(type(model), "active_adapter", None), property
    ):  # of a PeftMixedModel it is that of its base model
        model.active_adapter = name
    if not is_prompt:  # otherwise the base model is a plain transformers model
        model.base_model.active_adapter = name
    with quiet():
        for _, layer in list(adapted(model)):
            _switch(layer, [name] if name in layer._get_available_adapters() else [])


def _switch(layer: Any, names: list[str]) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    kind: Any = type(layer)
    # A type with other methods may have more to switch.
    if (
        issubclass(kind, BaseTunerLayer)
        and kind.set_adapter is BaseTunerLayer.set_adapter
        and kind.enable_adapters is BaseTunerLayer.enable_adapters
    ):
        layer._active_adapter = names
        layer._disable_adapters = False
        return
    with same_flags(layer):
        layer.set_adapter(names)
        layer.enable_adapters(True)
