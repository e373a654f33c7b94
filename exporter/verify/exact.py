"""PyTorch in fp64, which decides where PyTorch's own rounding in fp32 is as large as the tolerance.

Trained models can amplify rounding for inputs that no tokenizer makes. With adapters on all-mpnet-base-v2 and random tokens
that are padded on the left, PyTorch's logits in fp32 were 1.2e-4 from those in fp64 and those of the graph 0.7e-4, with another
adapter 4.6e-4 and 2.8e-4. A graph need not be more exact than PyTorch in fp32 is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from exporter.models.shared_copy import copy_model
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.targets import TOLERANCES
from exporter.verify.eager import eager
from runtime.bundle import ParityRow

# What exceeds a tolerance by more than this many tolerances of fp32 is not rounding in fp32.
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
    task_group: TaskGroup, wide: TaskGroup, plan: Plan, task: Task, inputs: Mapping[str, np.ndarray], activate: bool = True
) -> tuple[list[np.ndarray], float] | None:
    """Run single-task eager PyTorch in fp64.

    Args:
        task_group: the group of `task`.
        wide: the same in fp64, as in `widened`.
        plan: the graph's inputs.
        task: the task to run.
        inputs: input name -> array.
        activate: as in `eager`.

    Returns:
        The fields of the head's output, rounded to fp32; and by how much PyTorch in fp32 differs from them at most. None if the
        model does not run in fp64.
    """
    given = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in inputs.items()}
    try:
        found = [field.astype(np.float32) for field in eager(wide, plan, task, given, activate)]
    except Exception:  # raised by the model, for example by a table of positions that it makes in fp32
        return None
    rounded = eager(task_group, plan, task, inputs, activate)
    return found, max(float(np.abs(one - other).max(initial=0.0)) for one, other in zip(found, rounded, strict=True))


def with_rounding(row: ParityRow, rounding: float) -> ParityRow:
    """Return the row with PyTorch's own rounding as its tolerance, where that is larger."""
    return replace(row, tolerance=max(row.tolerance, rounding))
