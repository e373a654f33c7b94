"""Tasks without adapters over the trunk of a base model: its own head, and full fine-tunes; the `AdapterLibrary` functions.

What a task changes is in plain layers (`exporter.models.peft_folded`), whose weights are in dictionaries with the names of the
tasks as keys, as those of adapters. No adapter library is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from exporter.errors import ExportError
from exporter.models.embeddings import activate_embedder, keep_embedders
from exporter.models.module_surgery import replace_module
from exporter.models.peft_folded import Folded, activate_folded
from exporter.models.peft_modules import layer_of, layers_are_recognized, layers_in
from exporter.models.peft_structure import output_layer
from exporter.plan import Task

__all__ = ["OwnModel", "OwnTask", "Sharing"]


@dataclass(frozen=True)
class Sharing:
    """How many weights of a fine-tune's trunk are those of the base model.

    Attributes:
        equal: weights that are bit-equal.
        ranks: the distinct ranks of the matrices by which others differ, in order.
        low: how many differ by a matrix of low rank.
        whole: how many differ in another way.
    """

    equal: int
    ranks: tuple[int, ...] = ()
    low: int = 0
    whole: int = 0


@dataclass(frozen=True)
class OwnTask:
    """A task without an adapter.

    Attributes:
        config: the configuration of its model, with its labels.
        sharing: what it shares with the base model; None for the head of the base model itself.
    """

    config: Any
    sharing: Sharing | None = None


class OwnModel(nn.Module):
    """A transformers model with the weights of one or more tasks.

    Attributes:
        model: the model, in which the layers that differ between tasks are `Folded`.
        tasks: task name -> the task.
    """

    def __init__(self, model: Any, tasks: Mapping[str, OwnTask]) -> None:
        """Set the attributes."""
        super().__init__()
        self.model = model
        self.tasks = dict(tasks)

    @property
    def config(self) -> Any:
        """The configuration of the model."""
        return self.model.config

    @property
    def main_input_name(self) -> str:
        """The name of the input that is encoded."""
        return str(self.model.main_input_name)

    def get_base_model(self) -> Any:
        """Return the transformers model."""
        return self.model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        return self.model(*args, **kwargs)

    def folded(self, task: str) -> Iterator[tuple[str, Folded]]:
        """Yield the layers that a task changes, with their names in the transformers model."""
        for path, module in self.model.named_modules():
            if isinstance(module, Folded) and module.has(task):
                yield path, module


def adapters_of(model: OwnModel) -> list[str]:
    """Return the task names, which take the place of adapter names."""
    return list(model.tasks)


def compositions_of(model: OwnModel) -> dict[str, Any]:  # noqa: ARG001  # the interface has the argument
    """Return no compositions."""
    return {}


def layers_of(model: OwnModel) -> int:
    """Return the number of transformer layers."""
    return layers_in(model) or 1


def structure_of(model: OwnModel, task: str, setup: Any, drop: int) -> dict[str, Any]:
    """Return the structure of a task: the layers that it changes, and the shapes of the changes.

    Raises:
        ExportError: the setup is a composition, or layers are dropped and not recognized.
    """
    if not isinstance(setup, str):
        raise ExportError(f"the setup of the task {task!r} is a composition: a task without adapters is the name of one model")
    if drop and not layers_are_recognized(model):
        raise ExportError(
            f"the layers of {type(model.model).__name__} are not recognized by their module names: only drop 0 can be exported"
        )
    kept = {path: layer for path, layer in model.folded(setup) if not _is_dropped(path, layer, drop)}
    return {"own": {path: _described(path, layer, setup) for path, layer in kept.items()}}


def _described(path: str, layer: Folded, task: str) -> list[Any]:
    found: list[Any] = [type(layer).__name__]
    for key, container in layer.named_children():
        if key == "base_layer" or task not in container:  # type: ignore[operator]  # dictionaries of modules or parameters
            continue
        entry = container[task]  # type: ignore[index]
        if isinstance(entry, torch.Tensor):
            found.append([key, list(entry.shape)])
            continue
        output = output_layer(path, entry)
        for inner, child in entry.named_modules():
            # Numbers of labels may differ.
            shapes = {
                name: list(tensor.shape)[1 if child is output else 0 :]
                for name, tensor in child.named_parameters(recurse=False)
            }
            found.append([key, inner, type(child).__qualname__, shapes])
    return found


def _is_dropped(path: str, changed: Folded, drop: int) -> bool:
    """Whether a change is in the lowest layers; those of the embeddings, below all layers, are dropped with them."""
    layer = layer_of(path)
    if layer is not None:
        return layer < drop
    return drop > 0 and ("embed" in path or isinstance(changed.base_layer, nn.Embedding))


def prune(model: OwnModel, tasks: Sequence[Task]) -> None:
    """Remove everything that `tasks` do not use from a copy, in place; dropped layers are those of the base model."""
    names, drop = [task.setup for task in tasks], tasks[0].drop
    for path, layer in [(path, each) for path, each in model.model.named_modules() if isinstance(each, Folded)]:
        if layer.has(names[0]) and not _is_dropped(path, layer, drop):
            layer.keep(names)
        else:
            replace_module(model.model, path, layer.base_layer)
    model.tasks = {name: model.tasks[name] for name in names}
    keep_embedders(model, names)
    activate(model, tasks[0])


def activate(model: OwnModel, task: Task) -> None:
    """Select the weights of `task`."""
    activate_folded(model.modules(), task.setup)
    activate_embedder(model, task.setup)
    model.eval()


@contextmanager
def without_adapters(model: OwnModel, task: Task) -> Iterator[None]:
    """Compute the base model, with its own head."""
    activate_folded(model.modules(), "")
    try:
        yield
    finally:
        activate_folded(model.modules(), task.setup)


def layers_without_adapter(model: OwnModel, task: Task) -> tuple[int, ...]:
    """Return the layers that are those of the base model."""
    if not layers_are_recognized(model):
        return ()
    used = {layer_of(path) for path, _ in model.folded(task.setup)}
    return tuple(layer for layer in range(layers_of(model)) if layer not in used)
