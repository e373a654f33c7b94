"""A copy of the model for each structure, in which only that structure's tasks are left."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import torch

from exporter.errors import ExportError
from exporter.models.library import library_of
from exporter.plan import Plan, Task


@dataclass(frozen=True)
class TaskGroup:
    """The tasks of one structure and the model that holds them alone.

    Copies share their weights with each other, which is how the trunk is recognised as common.
    """

    tasks: tuple[Task, ...]
    model: Any

    def activate(self, task: Task) -> Any:
        """The model with `task` active."""
        library_of(self.model).activate(self.model, task)
        return self.model

    def layers_without_adapter(self, task: Task) -> tuple[int, ...]:
        """The layers in which `task` has no adapter: dropped, or left out by the adapter's own configuration."""
        return library_of(self.model).layers_without_adapter(self.model, task)


def prune(model: Any, plan: Plan) -> tuple[TaskGroup, ...]:
    """One branch per structure, from copies of `model` in evaluation mode, fp32, on the CPU."""
    model = _plain(model)
    return tuple(_branch(model, tasks) for tasks in plan.groups)


def _branch(model: Any, tasks: tuple[Task, ...]) -> TaskGroup:
    pruned = shared_copy(model)
    library_of(pruned).prune(pruned, tasks)
    return TaskGroup(tasks, pruned.eval())


def shared_copy(model: Any) -> Any:
    """A copy of the module tree with the same weights: it costs no memory.

    Raises:
        ExportError: the model holds something that cannot be copied.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    return _copy(model, {id(tensor): tensor for tensor in tensors})


def _copy(model: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        raise ExportError(
            f"the model cannot be copied ({error}): remove its hooks and re-parametrizations first, with "
            "torch.nn.utils.prune.remove for instance"
        ) from error


def _plain(model: Any) -> Any:
    """The model itself where its weights are fp32 on the CPU already, else a copy that is.

    Module.to would write converted weights into shared parameters, so that copy shares nothing.
    """
    tensors = list(itertools.chain(model.parameters(), model.buffers()))
    if any(t.device.type == "meta" for t in tensors):
        raise ExportError("the model's weights are not loaded (they are on the meta device): load it with its weights")
    if all(t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors):
        return model
    return _copy(model, {}).to("cpu", torch.float32)


def shared_part(task_groups: tuple[TaskGroup, ...], plan: Plan) -> str:
    """What of the pruned model no task weight reaches, in words."""
    modules = [module for task_group in task_groups for module in task_group.model.modules()]
    if any(len(module.invertible_adapters) > 0 for module in modules if hasattr(module, "invertible_adapters")):
        return "the embeddings (an invertible adapter follows them)"
    first = min(_first_adapted(task_group, task, plan) for task_group in task_groups for task in task_group.tasks)
    if first == plan.layers:
        return "the whole trunk: no layer has an adapter"
    before = f"layers 0 to {first - 1}" if first > 1 else "layer 0" if first == 1 else ""
    return ", ".join(part for part in ("embeddings", before, f"layer {first} up to its first adapter") if part)


def _first_adapted(task_group: TaskGroup, task: Task, plan: Plan) -> int:
    without = task_group.layers_without_adapter(task)
    return next((layer for layer in range(plan.layers) if layer not in without), plan.layers)
