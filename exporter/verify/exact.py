"""PyTorch in fp64, which decides where PyTorch's own rounding in fp32 is as large as the tolerance.

Trained models can amplify rounding for inputs that no tokenizer makes. With an adapter on all-mpnet-base-v2 and random tokens
that are padded on the left, PyTorch's logits in fp32 were 1.2e-4 from those in fp64, and those of the graph 0.7e-4.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from exporter.models.shared_copy import copy_model
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.targets import TOLERANCES
from exporter.verify.eager import eager
from runtime.bundle import ParityRow

# What exceeds a tolerance by more than this many tolerances of fp32 is no rounding in fp32.
_ROUNDING = 10.0


def may_be_rounding(row: ParityRow, atol: float) -> bool:
    """Return whether a difference exceeds its tolerance by so little that it may be PyTorch's rounding in fp32.

    Args:
        row: the difference.
        atol: the tolerance of the graph relative to max(1, max |logit|), in its precision.
    """
    scale = row.tolerance / atol
    return 0 < row.max_abs_diff - row.tolerance <= _ROUNDING * TOLERANCES["fp32"] * scale


def widened(task_group: TaskGroup) -> TaskGroup:
    """Return the tasks with a copy of their model in fp64."""
    return TaskGroup(task_group.tasks, copy_model(task_group.model, {}).to(torch.float64))


def in_fp64(
    task_group: TaskGroup, plan: Plan, task: Task, inputs: Mapping[str, np.ndarray], activate: bool = True
) -> list[np.ndarray] | None:
    """Run single-task eager PyTorch in fp64.

    Args:
        task_group: the group of `task`, as of `widened`.
        plan: the graph's inputs.
        task: the task to run.
        inputs: input name -> array.
        activate: as of `eager`.

    Returns:
        The fields of the head's output, rounded to fp32; None if the model does not run in fp64.
    """
    wide = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in inputs.items()}
    try:
        found = eager(task_group, plan, task, wide, activate)
    except Exception:  # raised by the model, for example by a table of positions that it makes in fp32
        return None
    return [field.astype(np.float32) for field in found]
