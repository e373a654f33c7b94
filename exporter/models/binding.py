"""Which weights belong to which task.

The libraries keep everything of a task in dictionaries of modules or parameters keyed by the name of the adapter, the fusion or
the head. That, and not a search for the name in dotted paths, tells task weights from the trunk's: an adapter may be called
"output" or "layer".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from exporter.errors import ExportError
from exporter.plan import Task

_HEADS = "heads"


def task_weights(model: nn.Module, tasks: Sequence[Task]) -> dict[str, list[torch.Tensor]]:
    """Maps each weight of the first task by its dotted name to the weights in its place of all `tasks`, in their order.

    A weight that is one and the same for all tasks (an adapter under all of them) is none of theirs: it belongs to the trunk.

    Raises:
        ExportError: a task lacks a weight that the first one has, or has one more.
    """
    found: dict[str, list[torch.Tensor]] = {}
    for prefix, container in model.named_modules(remove_duplicate=False):
        if not _is_keyed(container):
            continue
        for names in _keys(prefix, tasks):
            if names[0] in container:
                found.update(_bound(prefix, container, names))
    if len(tasks) == 1:
        return found
    return {name: tensors for name, tensors in found.items() if any(not _same(tensors[0], other) for other in tensors[1:])}


def task_slots(model: nn.Module, task: Task) -> dict[str, str]:
    """Maps each weight of the task by its dotted name to its place: the same with "<0>", "<1>", … where the name of the task's
    first, second, … adapter or fusion or that of its head stands. Equal places of two tasks hold weights of one kind."""
    found: dict[str, str] = {}
    for prefix, container in model.named_modules(remove_duplicate=False):
        if not _is_keyed(container):
            continue
        for role, (name,) in enumerate(_keys(prefix, [task])):
            if name in container:
                for key in _tensors(container[name]):
                    dotted, place = (".".join(p for p in (prefix, middle, key) if p) for middle in (name, f"<{role}>"))
                    found[dotted] = place
    return found


def task_entries(model: nn.Module, task: Task) -> Iterator[tuple[str, str, dict[str, torch.Tensor]]]:
    """The adapters and fusion layers of a task, place by place: (dotted name of the place, adapter or fusion, its tensors)."""
    for prefix, container in model.named_modules():
        if _is_keyed(container) and prefix.rpartition(".")[2] != _HEADS:
            for name in task.names:
                if name in container:
                    yield prefix, name, _tensors(container[name])


def _is_keyed(module: Any) -> bool:
    # PEFT has a class of its own for buffers.
    return isinstance(module, nn.ModuleDict | nn.ParameterDict) or type(module).__name__ == "BufferDict"


def _keys(prefix: str, tasks: Sequence[Task]) -> list[tuple[str, ...]]:
    """The keys to look for: for each adapter or fusion layer of the first task, those in its place of all tasks."""
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
                f"{names[0]!r} and {name!r} were expected to have the same weights in {prefix}, but differ in "
                f"{', '.join(different) or 'all of them'}"
            )
    return {".".join(part for part in (prefix, names[0], key) if part): [tensors[key] for tensors in bound] for key in expected}


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _tensors(entry: nn.Module | torch.Tensor) -> dict[str, torch.Tensor]:
    if isinstance(entry, torch.Tensor):
        return {"": entry.detach()}
    # With duplicates: a module that is registered twice has two names, and the trace may use either.
    parameters = entry.named_parameters(remove_duplicate=False)
    return {name: tensor.detach() for name, tensor in (*parameters, *entry.named_buffers(remove_duplicate=False))}
