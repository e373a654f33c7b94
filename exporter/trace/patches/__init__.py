"""Patches that make a copy of the model traceable by torch.export without changing its results."""

from __future__ import annotations

from torch import nn

from exporter.families import adapterhub_module, is_adapterhub
from exporter.trace.patches.architectures import ARCHITECTURE_PATCHES

__all__ = ["patch_for_tracing"]


def patch_for_tracing(model: nn.Module) -> None:
    """Apply all patches to a copy of the user's model, in place; patches without a matching module have no effect."""
    if is_adapterhub(model):
        for patch in adapterhub_module("trace.patches", "all_patches", f"the {type(model).__name__}").PATCHES:
            patch(model)
    for patch in ARCHITECTURE_PATCHES:
        patch(model)
