"""The interface between the exporter and the adapter libraries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from exporter.families import adapterhub_module
from exporter.models import mixed as mixed_models
from exporter.models import own_tasks
from exporter.models import peft as peft_models
from exporter.models.mixed import MixedModel
from exporter.models.own_tasks import OwnModel
from exporter.plan import Task


class AdapterLibrary(Protocol):
    """The functions that a module for one adapter library defines."""

    def adapters_of(self, model: Any) -> list[str]:
        """Return the adapter names in the order in which they were added."""

    def compositions_of(self, model: Any) -> dict[str, Any]:
        """Return the compositions that the model stores by name."""

    def layers_of(self, model: Any) -> int:
        """Return the number of transformer layers that can have adapters; encoder layers come before decoder layers."""

    def structure_of(self, model: Any, task: str, setup: Any, drop: int) -> Any:
        """Return everything but weights that the graph depends on, as JSON types; equal structures are traced once."""

    def prune(self, model: Any, tasks: Sequence[Task]) -> None:
        """Remove everything that `tasks` do not use from a copy of the user's model, in place."""

    def activate(self, model: Any, task: Task) -> None:
        """Make `model` a single-task model of `task`, in place."""

    def without_adapters(self, model: Any, task: Task) -> AbstractContextManager[None]:
        """Return a context in which `model`, with `task` active, computes no adapter."""

    def layers_without_adapter(self, model: Any, task: Task) -> tuple[int, ...]:
        """Return the layers of a pruned model in which `task` has no adapter."""


def library_of(model: Any) -> AdapterLibrary:
    """Return the adapter library of a live model."""
    if isinstance(model, MixedModel):
        return cast(AdapterLibrary, mixed_models)
    if isinstance(model, OwnModel):
        return cast(AdapterLibrary, own_tasks)
    if hasattr(model, "peft_config"):
        return cast(AdapterLibrary, peft_models)
    return cast(AdapterLibrary, adapterhub_module("models", "library", f"the {type(model).__name__}"))


def owner_of(model: Any, setup: Any) -> Any:
    """Return the model that has the adapter `setup`: a part of a model of several, otherwise the model itself."""
    return model.part(setup) if isinstance(model, MixedModel) and setup in model.owner else model
