"""The binding of weights to tasks.

The libraries store the weights of a task in dictionaries of modules or parameters whose keys are the names of adapters, fusions
and heads. Task weights are found by these keys, not by searching dotted paths for a name: an adapter may be called "output" or
"layer".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from exporter.errors import ExportError
from exporter.plan import Task

_HEADS = "heads"


def task_weights(model: nn.Module, tasks: Sequence[Task]) -> dict[str, list[torch.Tensor]]:
    """Return the corresponding weights of all tasks for each weight of the first task.

    A weight that all tasks share, such as that of a common adapter at the bottom of their stacks, belongs to the trunk and is
    not included.

    Args:
        model: the pruned model.
        tasks: tasks with equal structure.

    Returns:
        Dotted name of the first task's weight -> one tensor per task, in the order of `tasks`.

    Raises:
        ExportError: two tasks differ in their weights' names.
    """
    found: dict[str, list[torch.Tensor]] = {}
    for prefix, container in model.named_modules(remove_duplicate=False):
        if not is_keyed(container):
            continue
        for names in _keys(prefix, tasks):
            if names[0] in container:
                found.update(_bound(prefix, container, names))
    if len(tasks) == 1:
        return found
    return {name: tensors for name, tensors in found.items() if any(not _same(tensors[0], other) for other in tensors[1:])}


def remove_others(model: nn.Module, tasks: Sequence[Task]) -> None:
    """Remove the weights of all tasks but the first from a model, in place: pass a copy in which the first one is active."""
    for prefix, container in list(model.named_modules(remove_duplicate=False)):
        if is_keyed(container):
            keys = _keys(prefix, tasks)
            for name in {name for names in keys for name in names} - {names[0] for names in keys}:
                if name in container:
                    del container[name]


def generic_names(model: nn.Module, task: Task) -> dict[str, str]:
    """Return the generic name of each weight of the task by its dotted name.

    A generic name is the dotted name with "<0>", "<1>", … in place of the name of the task's first, second, … adapter or
    fusion, or of its head. Two weights with the same generic name correspond to each other, whatever their tasks are called.
    """
    found: dict[str, str] = {}
    for prefix, container in model.named_modules(remove_duplicate=False):
        if not is_keyed(container):
            continue
        for number, (name,) in enumerate(_keys(prefix, [task])):
            if name in container:
                for key in _tensors(container[name]):
                    dotted, generic = (".".join(p for p in (prefix, middle, key) if p) for middle in (name, f"<{number}>"))
                    found[dotted] = generic
    return found


def task_entries(model: nn.Module, task: Task) -> Iterator[tuple[str, str, dict[str, torch.Tensor]]]:
    """Yield the adapters and fusion layers of a task: dotted name of the container, name of the adapter or fusion, tensors."""
    for prefix, container in model.named_modules():
        if is_keyed(container) and prefix.rpartition(".")[2] != _HEADS:
            for name in task.names:
                if name in container:
                    yield prefix, name, _tensors(container[name])


def check_names(names: Iterable[str]) -> None:
    """Check that dictionaries of modules and parameters can have the names as keys, which are their attributes in PyTorch.

    Raises:
        ExportError: a name is that of another attribute of theirs, such as "type".
    """
    for name in names:
        if any(hasattr(kind(), name) for kind in (nn.ModuleDict, nn.ParameterDict)):
            raise ExportError(
                f"the name {name!r} of an adapter, head or task is that of an attribute of PyTorch's modules, which therefore "
                "cannot have weights of that name: choose another one (--adapter NAME=SOURCE)"
            )


def is_keyed(module: Any) -> bool:
    """Return whether a module is a dictionary of weights."""
    # PEFT stores buffers in its class BufferDict.
    return isinstance(module, nn.ModuleDict | nn.ParameterDict) or type(module).__name__ == "BufferDict"


def _keys(prefix: str, tasks: Sequence[Task]) -> list[tuple[str, ...]]:
    """Return the keys of all tasks for each adapter or fusion layer of the first task."""
    if prefix.rpartition(".")[2] == _HEADS:
        return [tuple(task.head.name or "" for task in tasks)]
    return list(zip(*(task.names for task in tasks), strict=True))


def _bound(prefix: str, container: Any, names: Sequence[str]) -> dict[str, list[torch.Tensor]]:
    bound = [_tensors(container[name]) if name in container else {} for name in names]
    expected = bound[0]
    for name, tensors in zip(names, bound, strict=True):
        if tensors.keys() != expected.keys():
            different = sorted(tensors.keys() ^ expected.keys())
            raise ExportError(
                f"expected the same weights for {names[0]!r} and {name!r} in {prefix}, found differences in "
                f"{', '.join(different) or 'all of them'}: train both with one configuration, or export them separately"
            )
    return {".".join(part for part in (prefix, names[0], key) if part): [tensors[key] for tensors in bound] for key in expected}


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _tensors(entry: nn.Module | torch.Tensor) -> dict[str, torch.Tensor]:
    if isinstance(entry, torch.Tensor):
        return {"": entry.detach()}
    # With duplicates: a module registered twice has two names, and the trace may use either.
    parameters = entry.named_parameters(remove_duplicate=False)
    return {name: tensor.detach() for name, tensor in (*parameters, *entry.named_buffers(remove_duplicate=False))}
