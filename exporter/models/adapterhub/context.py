"""The forward context of the adapters library, which some modules read outside of a forward pass."""

from __future__ import annotations

from typing import Any

from adapters.context import ForwardContext


def shared_context(model: Any) -> Any:
    """Return a forward context with the adapters' shared parameters, as the library creates for a forward pass."""
    context = ForwardContext(None)
    context.shared_parameters = model.base_model.shared_parameters
    return context
