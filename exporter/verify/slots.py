"""Comparison of a graph with slots with single-task eager PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exporter.errors import VerificationError
from exporter.plan import Plan, Task
from exporter.prune.task_groups import TaskGroup
from exporter.verify.eager import eager
from exporter.verify.exact import in_fp64, may_be_rounding, widened, with_rounding
from exporter.verify.parity import NOTHING_WRITTEN, parity_row
from exporter.verify.random_inputs import make_inputs
from exporter.verify.routes import width
from exporter.verify.shapes import shapes_of
from runtime.bundle import ROUTE_INPUTS, ParityRow
from runtime.slots.layout import SlotLayout


def verify_slots(
    session: Any,
    layout: SlotLayout,
    plan: Plan,
    task_groups: Sequence[TaskGroup],
    rows: Mapping[str, Mapping[str, np.ndarray]],
    group_of: Mapping[str, int],
) -> tuple[list[ParityRow], dict[str, float]]:
    """Run each task of some pruned models in a slot, and compare its logits with PyTorch.

    The weights are in the last slot of their group; all other slots hold NaN, which must not reach the task's logits.

    Args:
        session: the ONNX Runtime session of the graph.
        layout: the layout of the graph.
        plan: the inputs and the tolerance.
        task_groups: the pruned models of the tasks.
        rows: task -> input -> its weights.
        group_of: task -> number of its group.

    Returns:
        A row for each task and shape; and the tasks that were compared with PyTorch in fp64 -> the largest difference from
        PyTorch in fp32 there.

    Raises:
        VerificationError: the graph fails or exceeds its tolerance.
    """
    exact: dict[str, float] = {}
    found = [
        _compare(session, layout, plan, task_group, task, (rows[task.name], group_of[task.name]), shape, exact)
        for task_group in task_groups
        for task in task_group.tasks
        for shape in shapes_of(plan, of_structure=task is task_group.tasks[0])
    ]
    if failed := [row for row in found if not row.max_abs_diff <= row.tolerance]:
        lines = [
            f"  {row.task} in a slot at {row.batch}x{row.sequence}: max |onnx - torch| {row.max_abs_diff:.2e}, "
            f"over {row.tolerance:.2e}"
            for row in failed
        ]
        raise VerificationError(NOTHING_WRITTEN + "\n".join(lines))
    return found, exact


def _compare(
    session: Any,
    layout: SlotLayout,
    plan: Plan,
    task_group: TaskGroup,
    task: Task,
    placed: tuple[Mapping[str, np.ndarray], int],
    shape: tuple[int, int],
    exact: dict[str, float],
) -> ParityRow:
    rows, group = placed
    slot = group * layout.slots + layout.slots - 1
    inputs = make_inputs(plan, *shape)
    (expected,) = eager(task_group, plan, task, inputs)
    row_ids = np.arange(shape[0])[::-1].astype(np.int64)
    route = dict(zip(ROUTE_INPUTS, (row_ids, np.full(shape[0], slot, np.int64)), strict=True))
    try:
        (logits,) = session.run(None, {**inputs, **route, **_stacks(layout, rows)})
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        where = f"the graph with slots fails at {shape[0]}x{shape[1]}"
        raise VerificationError(f"{where}; nothing was written: {error}") from error
    count = width(task)
    if not np.isneginf(logits[:, count:]).all():
        raise VerificationError(f"{NOTHING_WRITTEN}  {task.name} in a slot has logits beyond its {count} column(s)")
    row = parity_row(task, expected[row_ids], logits[:, :count], shape, plan.atol)
    if not may_be_rounding(row, plan.atol) or (wide := in_fp64(task_group, widened(task_group), plan, task, inputs)) is None:
        return row
    (expected,), rounding = wide
    exact[task.name] = max(row.max_abs_diff, exact.get(task.name, 0.0))
    return with_rounding(parity_row(task, expected[row_ids], logits[:, :count], shape, plan.atol), rounding)


def _stacks(layout: SlotLayout, rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    stacks = {}
    for weight in layout.weights:
        fill = np.nan if np.issubdtype(np.dtype(weight.dtype), np.floating) else 0
        stacks[weight.name] = np.full((layout.slots, *weight.shape), fill, weight.dtype)
        if weight.name in rows:
            stacks[weight.name][-1] = rows[weight.name]
    return stacks
