"""All patches for models of the adapters library."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from exporter.trace.patches.adapterhub.architectures import ARCHITECTURE_PATCHES
from exporter.trace.patches.adapterhub.heads import HEAD_PATCHES
from exporter.trace.patches.adapterhub.methods import METHOD_PATCHES

# The order of the groups does not matter: no two patches change the same method of the same module.
PATCHES: tuple[Callable[[nn.Module], None], ...] = (*METHOD_PATCHES, *ARCHITECTURE_PATCHES, *HEAD_PATCHES)
