"""Changes to a model's copy without which torch.export cannot trace it; none changes a number."""

from __future__ import annotations

from torch import nn

from exporter.trace.patches.architectures import ARCHITECTURE_PATCHES
from exporter.trace.patches.methods import METHOD_PATCHES

__all__ = ["cure"]


def patch_for_tracing(model: nn.Module) -> None:
    """Applies every cure that finds something to do to a copy of the user's model, in place."""
    for step in (*METHOD_PATCHES, *ARCHITECTURE_PATCHES):
        step(model)
