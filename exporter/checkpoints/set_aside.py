"""Adapters that are taken out of a PEFT model while further ones are added."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["SetAside"]


class SetAside:
    """Weights of adapters that are taken out of a model.

    PEFT looks at each module of a model to add one adapter, also at those of the adapters that it has: the time to add all of
    them would grow with the square of their number.
    """

    def __init__(self, model: nn.Module) -> None:
        """Start with no adapter taken out of `model`."""
        self._model = model
        self._entries: list[tuple[Any, str, Any]] = []

    def take(self, name: str) -> None:
        """Take out the parameters of one adapter. Its configuration stays, and buffers, which adapters can share."""
        # Entries can contain dictionaries: the outer one is taken out first, and those in it stay as they are.
        for container in list(self._model.modules()):
            keyed: Any = container
            if isinstance(keyed, nn.ModuleDict | nn.ParameterDict) and name in keyed:
                self._entries.append((keyed, name, keyed[name]))
                del keyed[name]

    def put_back(self) -> None:
        """Put back all adapters, in the order in which they were taken."""
        for container, name, entry in self._entries:
            container[name] = entry
        self._entries.clear()
