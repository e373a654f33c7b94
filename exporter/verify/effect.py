"""The tasks whose adapter has no effect, which is a sign that it was not trained, or not loaded as it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from exporter.models.inputs import SEQUENCE
from exporter.models.library import library_of
from exporter.models.quiet_libraries import quiet
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.verify.eager import eager
from exporter.verify.random_inputs import make_inputs

# Far below what an adapter of few training steps changes, and above what the order of sums changes.
_EQUAL = 1e-6
_TOKENS = 8


def tasks_without_effect(task_groups: Sequence[TaskGroup], plan: Plan) -> tuple[str, ...]:
    """Return the tasks whose logits for random inputs are those without adapters; with PEFT, also those of the base's head.

    Tasks whose layers are all dropped are not among them.

    Args:
        task_groups: the pruned models.
        plan: their plan.
    """
    inputs = make_inputs(plan, 1, min(_TOKENS, plan.max_lengths.get(SEQUENCE, _TOKENS)), masks="none")
    found = {task.name for group in task_groups for task in group.tasks if _has_no_effect(group, plan, task, inputs)}
    return tuple(task.name for task in plan.tasks if task.name in found)


def _has_no_effect(task_group: TaskGroup, plan: Plan, task: Task, inputs: Mapping[str, np.ndarray]) -> bool:
    if len(task_group.layers_without_adapter(task)) == plan.layers:
        return False
    library = library_of(task_group.model)
    try:
        with quiet():
            own = eager(task_group, plan, task, inputs)
            with library.without_adapters(task_group.model, task):
                plain = eager(task_group, plan, task, inputs, activate=False)
    except Exception:  # raised by the model, for example by ReFT for a short text; verification reports it
        return False
    return all(map(_equal, own, plain))


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    scale = max(1.0, float(np.abs(one).max(initial=0.0)))
    return one.shape == other.shape and float(np.abs(one - other).max(initial=0.0)) <= _EQUAL * scale
