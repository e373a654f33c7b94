"""The tasks whose adapter has no effect, which is a sign that it was not trained, or not loaded as it was trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from exporter.models.inputs import SEQUENCE
from exporter.models.library import library_of
from exporter.models.own_tasks import OwnModel
from exporter.models.quiet_libraries import quiet
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.verify.eager import eager
from exporter.verify.random_inputs import Arrays, make_inputs

# Far below what an adapter of few training steps changes, and above what the order of sums changes.
_EQUAL = 1e-5
_TOKENS = 8
_Outputs = list[np.ndarray]


def tasks_without_effect(
    task_groups: Sequence[TaskGroup], plan: Plan, probed: tuple[Arrays, Arrays] | None = None
) -> tuple[str, ...]:
    """Return the tasks whose logits for random inputs are those without adapters; with PEFT, also those of the base's head.

    Tasks whose layers are all dropped are not among them.

    Args:
        task_groups: the pruned models.
        plan: their plan.
        probed: inputs, and the outputs of their graph in fp32, which computes all tasks at once; None to run PyTorch.
    """
    inputs, computed = probed or (make_inputs(plan, 1, min(_TOKENS, plan.max_lengths.get(SEQUENCE, _TOKENS)), masks="none"), {})
    found = set()
    for task_group in task_groups:
        own = {task.name: [computed[name] for name in plan.outputs[task.name]] for task in task_group.tasks if computed}
        found |= set(_without_effect(task_group, plan, inputs, own))
    return tuple(task.name for task in plan.tasks if task.name in found)


def _without_effect(
    task_group: TaskGroup, plan: Plan, inputs: Mapping[str, np.ndarray], own: Mapping[str, _Outputs]
) -> Iterator[str]:
    if isinstance(task_group.model, OwnModel):  # without an adapter
        return
    plain: _Outputs | None = None
    for task in task_group.tasks:
        if task.drop == plan.layers:
            continue
        try:
            with quiet():
                if plain is None or task.head.name is not None:  # the heads of PEFT are off, too
                    plain = _plain(task_group, plan, task, inputs)
                found = own[task.name] if own else eager(task_group, plan, task, inputs)
        except Exception:  # raised by the model, for example by ReFT for a short text; verification reports it
            return
        if all(map(_equal, found, plain)):
            yield task.name


def _plain(task_group: TaskGroup, plan: Plan, task: Task, inputs: Mapping[str, np.ndarray]) -> _Outputs:
    """The outputs without adapters."""
    model = task_group.activate(task)
    with library_of(model).without_adapters(model, task):
        return eager(task_group, plan, task, inputs, activate=False)


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    scale = max(1.0, float(np.abs(one).max(initial=0.0)))
    return one.shape == other.shape and float(np.abs(one - other).max(initial=0.0)) <= _EQUAL * scale
