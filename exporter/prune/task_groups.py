"""Task groups: the tasks of one structure with a model copy pruned to them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch

from exporter.errors import ExportError
from exporter.models.library import library_of, owner_of
from exporter.models.neutral_state import use_neutral_settings
from exporter.models.peft_modules import has_adapted_embeddings
from exporter.models.peft_prompts import prompt_tokens
from exporter.models.shared_copy import copy_model, shared_copy
from exporter.plan import Plan, Task


@dataclass(frozen=True)
class TaskGroup:
    """The tasks of one structure and a model that contains only them.

    The models of all groups share the weights of the trunk; equal storage identifies a weight as shared.

    Attributes:
        tasks: tasks with equal structure, in the order of the plan.
        model: the pruned model in evaluation mode.
    """

    tasks: tuple[Task, ...]
    model: Any

    def activate(self, task: Task) -> Any:
        """Activate `task` and return the model."""
        library_of(self.model).activate(self.model, task)
        return self.model

    def layers_without_adapter(self, task: Task) -> tuple[int, ...]:
        """Return the layers without an adapter of `task`: dropped, or excluded by the adapter's configuration."""
        return library_of(self.model).layers_without_adapter(self.model, task)


def prune(model: Any, plan: Plan) -> tuple[TaskGroup, ...]:
    """Return a task group for each group of the plan; their models are in evaluation mode, in fp32 and on the CPU.

    Args:
        model: the user's model, which is not changed.
        plan: the tasks to keep and the layers to drop.

    Raises:
        ExportError: the model cannot be copied, or its weights are not loaded.
    """
    model = in_fp32(model)
    return tuple(_task_group(model, tasks) for tasks in plan.groups)


def _task_group(model: Any, tasks: tuple[Task, ...]) -> TaskGroup:
    pruned = shared_copy(owner_of(model, tasks[0].setup))
    library_of(pruned).prune(pruned, tasks)
    use_neutral_settings(pruned)
    return TaskGroup(tasks, pruned.eval())


def in_fp32(model: Any) -> Any:
    """Return the model if its weights are in fp32 on the CPU, otherwise a converted copy.

    The copy shares no weights: Module.to would write the converted weights into the user's parameters.
    """
    tensors = list(itertools.chain(model.parameters(), model.buffers()))
    if any(t.device.type == "meta" for t in tensors):
        raise ExportError("the model's weights are not loaded (they are on the meta device): load it with its weights")
    if all(t.device.type == "cpu" and (t.dtype == torch.float32 or not t.is_floating_point()) for t in tensors):
        return model
    return copy_model(model, {}).to("cpu", torch.float32)


def shared_part(task_groups: tuple[TaskGroup, ...], plan: Plan) -> str:
    """Describe the part of the pruned model that does not depend on a task."""
    modules = [module for task_group in task_groups for module in task_group.model.modules()]
    if any(len(module.invertible_adapters) > 0 for module in modules if hasattr(module, "invertible_adapters")):
        return "the embeddings (an invertible adapter follows them)"
    if any(prompt_tokens(task_group.model) for task_group in task_groups):
        return "the embeddings of the text (a prompt comes before them)"
    if any(has_adapted_embeddings(task_group.model) for task_group in task_groups):
        return "the part of the embeddings that no adapter changes"
    first = min(_first_adapted(task_group, task, plan) for task_group in task_groups for task in task_group.tasks)
    if first == plan.layers:
        return "the whole trunk: no layer has an adapter"
    before = f"layers 0 to {first - 1}" if first > 1 else "layer 0" if first == 1 else ""
    return ", ".join(part for part in ("embeddings", before, f"layer {first} up to its first adapter") if part)


def _first_adapted(task_group: TaskGroup, task: Task, plan: Plan) -> int:
    without = task_group.layers_without_adapter(task)
    return next((layer for layer in range(plan.layers) if layer not in without), plan.layers)
