"""What the exporter asks of a model, whichever library its adapters come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from exporter.models import adapterhub as adapters_models
from exporter.models import peft as peft_models
from exporter.plan import Task


class AdapterLibrary(Protocol):
    """A module of functions over models of one adapter library."""

    def adapters_of(self, model: Any) -> list[str]:
        """The adapters' names."""

    def compositions_of(self, model: Any) -> dict[str, Any]:
        """The compositions that the model knows by a name of their own."""

    def layers_of(self, model: Any) -> int:
        """How many transformer layers can have adapters; an encoder's come before a decoder's."""

    def structure_of(self, model: Any, task: str, setup: Any, drop: int) -> Any:
        """What the graph depends on beside weights; JSON-able. Tasks of equal structure are traced once."""

    def prune(self, model: Any, tasks: Sequence[Task]) -> None:
        """Takes everything out of a copy that `tasks` do not use."""

    def activate(self, model: Any, task: Task) -> None:
        """Makes `model` a single-task model of `task`."""

    def layers_without_adapter(self, model: Any, task: Task) -> tuple[int, ...]:
        """The layers of a pruned model in which `task` has no adapter."""


def library_of(model: Any) -> AdapterLibrary:
    """The adapter library of a live model."""
    if hasattr(model, "peft_config"):
        return cast(AdapterLibrary, peft_models)
    return adapters_models
