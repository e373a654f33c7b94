"""Several PEFT models, and models of tasks without adapters, over one trunk as one model; its `AdapterLibrary` functions.

A PeftModel has one head class, one task type and one type of adapters. Adapters of several types are in several models, which
share the weights of the trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from exporter.errors import ExportError
from exporter.models import own_tasks, peft
from exporter.models.own_tasks import OwnModel
from exporter.models.peft_modules import base_of
from exporter.models.peft_types import type_of
from exporter.plan import Task

# Settings of a configuration in which models of one trunk cannot differ.
_TRUNK = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


class MixedModel(nn.Module):
    """PEFT models, and models of tasks without adapters, over one trunk.

    Attributes:
        parts: the models.
        owner: adapter name -> the number of the model that has it, in the order of the tasks.
    """

    def __init__(self, parts: Sequence[Any], order: Sequence[str] = ()) -> None:
        """Set the models.

        Args:
            parts: PEFT models, of one trunk.
            order: the adapter names in the order of the tasks; by default that of the models.

        Raises:
            ExportError: two models have an adapter of one name, or their trunks differ in size.
        """
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)
        found: dict[str, int] = {}
        for number, part in enumerate(parts):
            for name in _library(part).adapters_of(part):
                if name in found:
                    raise ExportError(
                        f"two models have an adapter {name!r}: load each under another name, with "
                        "PeftModel.from_pretrained(base, folder, adapter_name=name)"
                    )
                found[name] = number
        self.owner = {name: found[name] for name in order or found}
        for part in parts[1:]:
            _check_trunk(parts[0], part)

    @property
    def config(self) -> Any:
        """The configuration of the first model."""
        return self.parts[0].config

    @property
    def main_input_name(self) -> str:
        """The name of the input that is encoded."""
        return str(base_of(self.parts[0]).main_input_name)

    def part(self, adapter: str) -> Any:
        """Return the model that has an adapter."""
        return self.parts[self.owner[adapter]]

    def is_repeated(self, adapter: str) -> bool:
        """Return whether an earlier model has the same head class and a type of adapters, so that structures can be equal."""
        number = self.owner[adapter]
        own, types = type(base_of(self.parts[number])), _types(self.parts[number])
        return any(type(base_of(part)) is own and types & _types(part) for part in self.parts[:number])


def _library(part: Any) -> Any:
    """The `AdapterLibrary` functions of a part."""
    return own_tasks if isinstance(part, OwnModel) else peft


def _types(part: Any) -> set[str]:
    if isinstance(part, OwnModel):
        return {"own"}
    return {type_of(config) for config in part.peft_config.values()}


def _check_trunk(one: Any, other: Any) -> None:
    for key in _TRUNK:
        left, right = getattr(one.config, key, None), getattr(other.config, key, None)
        if left != right:
            raise ExportError(
                f"the models have different trunks: {key} is {left} in {type(base_of(one)).__name__} and {right} in "
                f"{type(base_of(other)).__name__}; export them separately"
            )


def adapters_of(model: MixedModel) -> list[str]:
    """Return the adapter names in the order of the tasks."""
    return list(model.owner)


def compositions_of(model: MixedModel) -> dict[str, Any]:  # noqa: ARG001  # the interface has the argument
    """Return no compositions: with PEFT, a task is one adapter."""
    return {}


def layers_of(model: MixedModel) -> int:
    """Return the number of transformer layers.

    Raises:
        ExportError: the model is an encoder-decoder.
    """
    return int(_library(model.parts[0]).layers_of(model.parts[0]))


def structure_of(model: MixedModel, task: str, setup: Any, drop: int) -> dict[str, Any]:
    """Return the structure of an adapter, as `exporter.models.peft.structure_of`.

    Raises:
        ExportError: as that function.
    """
    if not isinstance(setup, str):
        return peft.structure_of(model.parts[0], task, setup, drop)  # which raises
    part = model.part(setup)
    found: dict[str, Any] = _library(part).structure_of(part, task, setup, drop)
    # Tasks of two models are never one group, even if their structures are equal.
    return {**found, "part": model.owner[setup]} if model.is_repeated(setup) else found


def prune(model: MixedModel, tasks: Sequence[Task]) -> None:
    """Remove everything that `tasks` do not use from their part of a copy, in place."""
    part = model.part(tasks[0].setup)
    _library(part).prune(part, tasks)


def activate(model: MixedModel, task: Task) -> None:
    """Activate the adapter of `task`."""
    part = model.part(task.setup)
    _library(part).activate(part, task)


def without_adapters(model: MixedModel, task: Task) -> AbstractContextManager[None]:
    """Compute the base model, with its own head."""
    part = model.part(task.setup)
    context: AbstractContextManager[None] = _library(part).without_adapters(part, task)
    return context


def layers_without_adapter(model: MixedModel, task: Task) -> tuple[int, ...]:
    """Return the layers that are dropped or not targeted by the adapter."""
    part = model.part(task.setup)
    layers: tuple[int, ...] = _library(part).layers_without_adapter(part, task)
    return layers
