"""The transformers model inside of a live model, without its adapters."""

from __future__ import annotations

from typing import Any

from exporter.errors import ExportError
from exporter.models.peft_modules import adapted, base_of, is_peft
from exporter.models.shared_copy import shared_copy

__all__ = ["plain_model"]


def plain_model(model: Any) -> Any:
    """Return a copy of the model without adapters, which shares its weights.

    Args:
        model: a transformers or PEFT model, which is not changed.

    Raises:
        ExportError: adapters are merged into its weights.
    """
    plain = shared_copy(base_of(model))
    if not is_peft(plain):
        return plain
    for path, module in list(adapted(plain)):
        if getattr(module, "merged", False):
            raise ExportError("adapters are merged into the base model's weights: call model.unmerge_adapter() first")
        parent, _, child = path.rpartition(".")
        try:
            owner = plain.get_submodule(parent)
        except AttributeError:  # inside of a module that was replaced
            continue
        setattr(owner, child, module.get_base_layer() if hasattr(module, "base_layer") else module.original_module)
    return plain
