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
from exporter.verify.eager import eager
from runtime.bundle import ParityRow

# Differences of more than this many tolerances are no rounding.
_ROUNDING = 10.0


def may_be_rounding(row: ParityRow) -> bool:
    """Return whether a difference exceeds its tolerance by so little that it may be PyTorch's rounding."""
    return row.tolerance < row.max_abs_diff <= _ROUNDING * row.tolerance


def in_fp64(
    task_group: TaskGroup, plan: Plan, task: Task, inputs: Mapping[str, np.ndarray], activate: bool = True
) -> list[np.ndarray] | None:
    """Run single-task eager PyTorch in fp64.

    Args:
        task_group: the group of `task`; its model is not changed.
        plan: the graph's inputs.
        task: the task to run.
        inputs: input name -> array.
        activate: as of `eager`.

    Returns:
        The fields of the head's output, rounded to fp32; None if the model does not run in fp64.
    """
    exact = TaskGroup(task_group.tasks, copy_model(task_group.model, {}).to(torch.float64))
    wide = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in inputs.items()}
    try:
        found = eager(exact, plan, task, wide, activate)
    except Exception:  # raised by the model, for example by a table of positions that it makes in fp32
        return None
    return [field.astype(np.float32) for field in found]
