"""Which weights belong to which task.

The library keeps everything of a task in ModuleDicts and ParameterDicts keyed by the adapter's name: bottlenecks, invertible
adapters, heads. That, and not a search for the name in dotted paths, tells task weights from the trunk's: an adapter may be
called "output" or "layer".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .errors import ExportError


def task_weights(model: nn.Module, template: str, tasks: Sequence[str]) -> dict[str, list[torch.Tensor]]:
    """Maps each weight of `template` by its dotted name to the weights in its place of all `tasks`, in their order.

    Raises:
        ExportError: a task lacks a weight that the template has, or has one more.
    """
    found: dict[str, list[torch.Tensor]] = {}
    for prefix, container in model.named_modules(remove_duplicate=False):
        if not isinstance(container, nn.ModuleDict | nn.ParameterDict) or template not in container:
            continue
        bound = [_tensors(container[task]) if task in container else {} for task in tasks]
        expected = _tensors(container[template])
        for task, tensors in zip(tasks, bound, strict=True):
            if tensors.keys() != expected.keys():
                different = sorted(tensors.keys() ^ expected.keys())
                raise ExportError(
                    f"the tasks {template!r} and {task!r} were expected to have the same weights in {prefix}, but differ in "
                    f"{', '.join(different) or 'all of them'}"
                )
        for name in expected:
            path = ".".join(part for part in (prefix, template, name) if part)
            found[path] = [tensors[name] for tensors in bound]
    return found


def _tensors(entry: nn.Module | torch.Tensor) -> dict[str, torch.Tensor]:
    if isinstance(entry, torch.Tensor):
        return {"": entry.detach()}
    # With duplicates: a module that is registered twice has two names, and the trace may use either.
    parameters = entry.named_parameters(remove_duplicate=False)
    return {name: tensor.detach() for name, tensor in (*parameters, *entry.named_buffers(remove_duplicate=False))}
