"""The reference outputs: single-task eager PyTorch of the pruned model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from exporter.models.inputs import used_inputs
from exporter.models.peft_prompts import prompt_positions
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from runtime.bundle import OUTPUTS


def eager(
    task_group: TaskGroup, plan: Plan, task: Task, inputs: Mapping[str, np.ndarray], activate: bool = True
) -> list[np.ndarray]:
    """Run single-task eager PyTorch.

    Args:
        task_group: the group of `task`.
        plan: the graph's inputs.
        task: the task to run.
        inputs: input name -> array.
        activate: activate the task first; False to run the model as it is.

    Returns:
        The fields of the head's output, in the order of `runtime.bundle.OUTPUTS`.
    """
    used = {name: inputs[name] for name in used_inputs(plan.inputs, task.head.kind)}
    rows = len(next(iter(used.values())))
    if task.head.choices > 1:
        # In the graph one row is one choice; the library requires all choices of a question.
        filled = -(-rows // task.head.choices) * task.head.choices
        used = {name: np.resize(value, (filled, *value.shape[1:])) for name, value in used.items()}
    elif task.head.kind == "multiple_choice":
        # A model with a single head reads [questions, choices, sequence]: pass questions with one choice each.
        used = {name: value[:, None] for name, value in used.items()}
    model = task_group.activate(task) if activate else task_group.model
    with torch.inference_mode():
        output = model(**{name: torch.from_numpy(value) for name, value in used.items()})
    fields = [output[field].numpy() for field in OUTPUTS[task.head.kind]]
    if start := prompt_positions(model, task.head.kind):
        fields = [field[:, start:] for field in fields]
    if task.head.kind == "dependency_parsing":
        # The library squeezes axes of length one of the arc scores, the graph does not.
        fields[1] = fields[1].reshape(fields[0].shape[:3])
    return [field.reshape(-1, 1)[:rows] for field in fields] if task.head.choices > 1 else fields
