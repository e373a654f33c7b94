"""Changes to a model's copy without which torch.export cannot trace it; none changes a number."""

from __future__ import annotations

from torch import nn

from .architectures import ARCHITECTURE_CURES
from .methods import METHOD_CURES

__all__ = ["cure"]


def cure(model: nn.Module) -> None:
    """Applies every cure that finds something to do to a copy of the user's model, in place."""
    for step in (*METHOD_CURES, *ARCHITECTURE_CURES):
        step(model)
